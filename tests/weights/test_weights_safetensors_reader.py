"""Safetensors files written in the test: single, sharded, in several types, and damaged."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.weights.readers import open_reader
from hierrouter_jax.weights.safetensors_reader import SafetensorsReader, safetensors_files


def make_shards(folder):
    """Two shards and their index, as a hub has them."""
    rng = np.random.default_rng(0)
    tensors = [{"a": rng.normal(size=(3, 5)).astype(np.float32)}, {"b": rng.normal(size=(7,)).astype(np.float32)}]
    weight_map = {}
    for number, shard in enumerate(tensors, start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tensors[0] | tensors[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_every_float_reads_as_float32(tmp_path, dtype):
    values = np.random.default_rng(1).normal(size=(3, 5, 7)).astype(dtype)
    save_file({"w": values}, tmp_path / "model.safetensors")
    reader = SafetensorsReader([tmp_path / "model.safetensors"])
    assert reader.shapes == {"w": (3, 5, 7)}
    received = reader.read("w")
    assert received.dtype == np.float32
    np.testing.assert_array_equal(received, values.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, 1e-30, 3e38], np.float32)
    save_file({"w": values.astype(ml_dtypes.bfloat16)}, tmp_path / "model.safetensors")
    received = SafetensorsReader([tmp_path / "model.safetensors"]).read("w")
    assert (received.view(np.uint32) & 0xFFFF == 0).all()
    np.testing.assert_allclose(received, values, rtol=2**-8)


def test_shards_read_as_one_checkpoint(tmp_path):
    tensors = make_shards(tmp_path)
    reader = open_reader(safetensors_files(tmp_path))
    assert reader.shapes == {name: values.shape for name, values in tensors.items()}
    for name, values in tensors.items():
        np.testing.assert_array_equal(reader.read(name), values)


def test_a_missing_shard_is_named(tmp_path):
    make_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"missing.*\n  - model-00002-of-00002"):
        safetensors_files(tmp_path)


def test_an_index_that_promises_what_shards_do_not_hold_is_refused(tmp_path):
    make_shards(tmp_path)
    shutil.copy(tmp_path / "model-00001-of-00002.safetensors", tmp_path / "other.safetensors")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["c"] = "model-00001-of-00002.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"tensor c should be in model-00001"):
        safetensors_files(tmp_path)


def test_an_index_that_is_no_index_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("[1, 2")
    with pytest.raises(WeightsError, match="must map tensors to shards"):
        safetensors_files(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    for name in ("a", "b"):
        save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"tensor w is in b.safetensors and in a.safetensors"):
        SafetensorsReader([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones((11, 13), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        SafetensorsReader([path])


def test_which_file_of_a_folder_is_the_checkpoint(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"none \(other weight files there: pytorch_model.bin\)"):
        safetensors_files(tmp_path)
    save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "encoder.safetensors")
    assert safetensors_files(tmp_path) == (tmp_path / "encoder.safetensors",)
    save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "extra.safetensors")
    with pytest.raises(WeightsError, match="2 without an index"):
        safetensors_files(tmp_path)
    save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "model.safetensors")
    assert safetensors_files(tmp_path) == (tmp_path / "model.safetensors",)


def test_open_reader_refuses_nothing_and_names_what_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="at least one"):
        open_reader([])
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        open_reader([tmp_path / "gone.safetensors"])
