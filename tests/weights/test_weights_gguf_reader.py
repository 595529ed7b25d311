"""GGUF files written in the test, read back and held against the gguf package and against loops over the format."""

import struct

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.weights import gguf_reader
from hierrouter_jax.weights.gguf_reader import GGUFReader, is_gguf

QUANTISED = (Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.BF16)
RAW_BLOCKS = (Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_NL, Kind.IQ4_XS)
NUM_ROWS = 37


def write_gguf(path, tensors, *, metadata=()):
    """`tensors` maps a name to float32 values, or to (bytes as uint8 rows, kind)."""
    writer = gguf.GGUFWriter(path, "llama")
    for add, key, value in metadata:
        getattr(writer, add)(key, value)
    for name, tensor in tensors.items():
        values, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantised(kind, *, num_blocks, seed=0):
    """Random rows of a type: quantised where the gguf package can, else random bytes with sane scales."""
    rng = np.random.default_rng(seed)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if kind in QUANTISED:
        values = rng.normal(size=(NUM_ROWS, num_blocks * block_size)).astype(np.float32)
        return gguf.quants.quantize(values, kind)
    rows = rng.integers(0, 256, size=(NUM_ROWS, num_blocks, block_bytes), dtype=np.uint8)
    half = np.frombuffer(np.float16(0.013).tobytes(), np.uint8)
    # Where each format keeps its half-precision scales: anything finite will do.
    places = {Kind.Q2_K: (80, 82), Kind.Q3_K: (108,), Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}
    for start in places.get(kind, (0,)):
        rows[:, :, start : start + 2] = half
    return rows.reshape(NUM_ROWS, -1)


def loop_q8_0(block):
    scale = float(np.frombuffer(block[:2].tobytes(), "<f2")[0])
    return [scale * value for value in np.frombuffer(block[2:].tobytes(), "<i1").tolist()]


def loop_q4_0(block):
    scale = float(np.frombuffer(block[:2].tobytes(), "<f2")[0])
    values = [0.0] * 32
    for i in range(16):
        values[i] = scale * ((int(block[2 + i]) & 15) - 8)
        values[i + 16] = scale * ((int(block[2 + i]) >> 4) - 8)
    return values


def loop_q5_0(block):
    scale = float(np.frombuffer(block[:2].tobytes(), "<f2")[0])
    (high,) = struct.unpack("<I", block[2:6].tobytes())
    values = [0.0] * 32
    for i in range(16):
        byte = int(block[6 + i])
        values[i] = scale * (((byte & 15) | ((high >> i) & 1) << 4) - 16)
        values[i + 16] = scale * (((byte >> 4) | ((high >> (i + 16)) & 1) << 4) - 16)
    return values


def loop_q4_k(block):
    scale, least = np.frombuffer(block[:4].tobytes(), "<f2").astype(float)
    packed, quants = [int(byte) for byte in block[4:16]], [int(byte) for byte in block[16:]]
    values = []
    for group in range(8):
        if group < 4:
            factor, offset = packed[group] & 63, packed[group + 4] & 63
        else:
            factor = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4
            offset = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4
        for i in range(32):
            byte = quants[32 * (group // 2) + i]
            quant = byte >> 4 if group % 2 else byte & 15
            values.append(scale * factor * quant - least * offset)
    return values


@pytest.mark.parametrize("kind", [*QUANTISED, *RAW_BLOCKS])
def test_every_block_type_reads_as_the_gguf_package_dequantises_it(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(gguf_reader, "BYTES_AT_ONCE", 5000)  # several pieces a tensor, the last one smaller
    rows = quantised(kind, num_blocks=3)
    expected = gguf.quants.dequantize(rows, kind)
    reader = GGUFReader(write_gguf(tmp_path / "a.gguf", {"w": (rows, kind)}))
    assert reader.shapes == {"w": expected.shape}
    assert reader.type_name("w") == kind.name
    np.testing.assert_array_equal(reader.read("w"), expected)
    assert reader.read("w").dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "loop"),
    [(Kind.Q8_0, loop_q8_0), (Kind.Q4_0, loop_q4_0), (Kind.Q5_0, loop_q5_0), (Kind.Q4_K, loop_q4_k)],
)
def test_values_follow_the_published_block_format(tmp_path, kind, loop):
    rows = quantised(kind, num_blocks=2, seed=1)[:5]
    block_bytes = gguf.GGML_QUANT_SIZES[kind][1]
    expected = [[value for block in row.reshape(-1, block_bytes) for value in loop(block)] for row in rows]
    reader = GGUFReader(write_gguf(tmp_path / "a.gguf", {"w": (rows, kind)}))
    np.testing.assert_allclose(reader.read("w"), np.array(expected), rtol=1e-6, atol=1e-6)


def test_shapes_come_in_numpy_order_and_plain_types_as_float32(tmp_path):
    rng = np.random.default_rng(2)
    tensors = {
        "single": rng.normal(size=(3, 5, 7)).astype(np.float32),
        "half": rng.normal(size=(11, 13)).astype(np.float16),
        "double": rng.normal(size=(17,)).astype(np.float64),
    }
    reader = GGUFReader(write_gguf(tmp_path / "a.gguf", tensors))
    assert reader.shapes == {name: values.shape for name, values in tensors.items()}
    for name, values in tensors.items():
        np.testing.assert_array_equal(reader.read(name), values.astype(np.float32))
        assert reader.read(name).dtype == np.float32


def test_metadata_comes_as_the_gguf_package_reads_it(tmp_path):
    path = write_gguf(
        tmp_path / "a.gguf",
        {"w": np.ones((2, 3), np.float32)},
        metadata=[
            ("add_uint32", "llama.block_count", 7),
            ("add_float32", "llama.rope.freq_base", 1e5),
            ("add_bool", "tokenizer.ggml.add_bos_token", True),
            ("add_int8", "small", -5),
            ("add_uint64", "large", 2**40),
            ("add_float64", "double", 0.1),
            ("add_string", "general.name", "naïve ☃"),
            ("add_array", "tokenizer.ggml.tokens", ["a", "", "日本"]),
            ("add_array", "tokenizer.ggml.scores", [0.5, -1.0]),
            ("add_array", "tokenizer.ggml.token_type", [1, 3, 6]),
        ],
    )
    theirs = gguf.GGUFReader(path)
    expected = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert GGUFReader(path).metadata == expected
    assert "日本" in expected["tokenizer.ggml.tokens"]


def test_alignment_of_the_file_is_obeyed(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_custom_alignment(256)
    writer.add_tensor("v", values)
    writer.add_tensor("w", -values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.testing.assert_array_equal(GGUFReader(tmp_path / "a.gguf").read("w"), -values)


def with_type_number(path, number):
    """Rewrite the type of the only tensor, `w`, of two axes."""
    data = bytearray(path.read_bytes())
    place = data.index(b"\x01\x00\x00\x00\x00\x00\x00\x00w") + 9 + 4 + 2 * 8
    data[place : place + 4] = struct.pack("<I", number)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("number", "named"), [(Kind.Q8_K, "Q8_K"), (Kind.I32, "I32"), (250, "number 250")])
def test_a_type_nobody_dequantises_is_named_on_opening(tmp_path, number, named):
    path = write_gguf(tmp_path / "a.gguf", {"w": np.ones((5, 256), np.float32)})
    with pytest.raises(WeightsError, match=rf"the type {named}.*such as w"):
        GGUFReader(with_type_number(path, int(number)))


def test_rows_that_are_no_whole_blocks_are_refused(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", {"w": np.ones((5, 37), np.float32)})
    with pytest.raises(WeightsError, match=r"w \(5, 37\) does not consist of whole blocks of Q8_0"):
        GGUFReader(with_type_number(path, int(Kind.Q8_0)))


def test_a_file_cut_anywhere_is_refused_with_advice(tmp_path):
    whole = write_gguf(
        tmp_path / "a.gguf",
        {"v": np.ones((3, 5), np.float32), "w": (quantised(Kind.Q8_0, num_blocks=1), Kind.Q8_0)},
        metadata=[("add_string", "general.name", "x" * 40), ("add_array", "scores", [1.0] * 11)],
    ).read_bytes()
    cut = tmp_path / "cut.gguf"
    payload_bytes = NUM_ROWS * gguf.GGML_QUANT_SIZES[Kind.Q8_0][1]
    end = whole.rindex(quantised(Kind.Q8_0, num_blocks=1).tobytes()) + payload_bytes
    for size in [0, 3, 4, 11, 23, 24, 60, 100, 150, 200, 250, end - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"(?i)pull the model again"):
            GGUFReader(cut)
    cut.write_bytes(whole[:end])
    assert GGUFReader(cut).shapes["w"] == (NUM_ROWS, 32)


def test_other_files_and_versions_are_told_apart(tmp_path):
    other = tmp_path / "a.safetensors"
    other.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    assert not is_gguf(other)
    with pytest.raises(WeightsError, match="instead of b'GGUF'"):
        GGUFReader(other)
    future = write_gguf(tmp_path / "b.gguf", {"w": np.ones((2, 3), np.float32)})
    assert is_gguf(future)
    future.write_bytes(b"GGUF" + struct.pack("<I", 9) + future.read_bytes()[8:])
    with pytest.raises(WeightsError, match="version is 9"):
        GGUFReader(future)
