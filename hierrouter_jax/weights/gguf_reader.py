"""Tensors and metadata of a GGUF file.

The header is read here, because a vocabulary of 262,144 strings takes the `gguf` package's reader some twelve
seconds and this one a fraction of a second; block formats are dequantised by the `gguf` package. GGUF writes the
fastest axis first; shapes and values come in NumPy order. Little-endian files of version 2 and 3 are understood.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from hierrouter_jax.core.errors import WeightsError, raise_all

MAGIC = b"GGUF"
SUPPORTED_VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
BYTES_AT_ONCE = 16 * 2**20  # of quantised rows: bounds what dequantising needs besides its result

_PLAIN_TYPES = {GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F16: "<f2", GGMLQuantizationType.F64: "<f8"}
_SCALAR_FORMATS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


def is_gguf(path: Path) -> bool:
    """Return whether the file begins as a GGUF does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies: `offset_bytes` counts from the beginning of the file, `shape` is in NumPy order."""

    shape: tuple[int, ...]
    type_id: int
    offset_bytes: int


class GGUFReader:
    """Reads one GGUF file: `metadata` as Python values, tensors as float32."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises `WeightsError` when the file is not whole or has types nobody dequantises."""
        self.path = path
        try:
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
            self.metadata, self._entries = _read_header(memoryview(self._bytes))  # type: ignore[arg-type]
        except (OSError, ValueError, struct.error, IndexError) as error:
            raise WeightsError(
                f"{path} must be a whole GGUF file, but reading its header failed: {error}. Pull the model again."
            ) from error
        raise_all(WeightsError, f"{path} cannot be read:", self._problems())

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by name, in NumPy order."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def type_name(self, name: str) -> str:
        """Return the name of a tensor's type, such as Q4_K."""
        return _type_name(self._entries[name].type_id)

    def read(self, name: str) -> np.ndarray:
        """Return the tensor as float32."""
        entry = self._entries[name]
        kind = GGMLQuantizationType(entry.type_id)
        raw = self._bytes[entry.offset_bytes : entry.offset_bytes + _size_bytes(entry)]
        if kind in _PLAIN_TYPES:
            return raw.view(_PLAIN_TYPES[kind]).reshape(entry.shape).astype(np.float32)
        return _dequantised(raw, entry, kind)

    def _problems(self) -> list[str]:
        problems = []
        for type_id in sorted({entry.type_id for entry in self._entries.values()}):
            if not _is_readable(type_id):
                names = [name for name, entry in self._entries.items() if entry.type_id == type_id]
                problems.append(
                    f"{len(names)} tensors have the type {_type_name(type_id)}, which the gguf package "
                    f"cannot dequantise, such as {names[0]}; use another file, such as Q4_K_M or Q8_0"
                )
        problems += [
            f"tensor {name} {entry.shape} does not consist of whole blocks of {_type_name(entry.type_id)}"
            for name, entry in self._entries.items()
            if _is_readable(entry.type_id) and not _has_whole_blocks(entry)
        ]
        if problems:
            return problems
        end_bytes = max((entry.offset_bytes + _size_bytes(entry) for entry in self._entries.values()), default=0)
        if end_bytes > len(self._bytes):
            problems.append(
                f"it should hold {end_bytes} bytes, but holds {len(self._bytes)}: it is truncated; pull the model again"
            )
        return problems


def _type_name(type_id: int) -> str:
    try:
        return GGMLQuantizationType(type_id).name
    except ValueError:
        return f"number {type_id}"


@cache
def _is_readable(type_id: int) -> bool:
    try:
        kind = GGMLQuantizationType(type_id)
        if kind not in _PLAIN_TYPES:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        return False
    return True


def _has_whole_blocks(entry: TensorEntry) -> bool:
    block_size, _ = GGML_QUANT_SIZES[GGMLQuantizationType(entry.type_id)]
    return bool(entry.shape) and entry.shape[-1] % block_size == 0


def _size_bytes(entry: TensorEntry) -> int:
    block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(entry.type_id)]
    return int(np.prod(entry.shape, dtype=np.int64)) // block_size * block_bytes


def _dequantised(raw: np.ndarray, entry: TensorEntry, kind: GGMLQuantizationType) -> np.ndarray:
    num_columns = entry.shape[-1]
    values = np.empty((int(np.prod(entry.shape[:-1], dtype=np.int64)), num_columns), dtype=np.float32)
    if not len(values):
        return values.reshape(entry.shape)
    rows = raw.reshape(len(values), -1)
    rows_at_once = max(1, BYTES_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), rows_at_once):
        values[start : start + rows_at_once] = dequantize(
            np.ascontiguousarray(rows[start : start + rows_at_once]), kind
        )
    return values.reshape(entry.shape)


def _read_header(buffer: memoryview) -> tuple[dict[str, Any], dict[str, TensorEntry]]:
    cursor = _Cursor(buffer)
    if bytes(buffer[: len(MAGIC)]) != MAGIC:
        raise ValueError(f"it begins with {bytes(buffer[: len(MAGIC)])!r} instead of {MAGIC!r}")
    cursor.position = len(MAGIC)
    version = cursor.scalar("I")
    if version not in SUPPORTED_VERSIONS:
        raise ValueError(f"its version is {version}, supported are {SUPPORTED_VERSIONS}")
    num_tensors, num_keys = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = {}
    for _ in range(num_keys):
        key = cursor.string()
        metadata[key] = cursor.value(GGUFValueType(cursor.scalar("I")))
    infos = []
    for _ in range(num_tensors):
        name, num_axes = cursor.string(), cursor.scalar("I")
        shape = tuple(reversed([cursor.scalar("Q") for _ in range(num_axes)]))
        infos.append((name, shape, cursor.scalar("I"), cursor.scalar("Q")))
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its alignment is {alignment!r}")
    data_start = -(-cursor.position // alignment) * alignment
    entries = {
        name: TensorEntry(shape=shape, type_id=type_id, offset_bytes=data_start + offset)
        for name, shape, type_id, offset in infos
    }
    if len(entries) != num_tensors:
        raise ValueError("two tensors have the same name")
    return metadata, entries


class _Cursor:
    """A position in the header that moves on with every value read."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.position = 0

    def scalar(self, letter: str) -> Any:
        (value,) = struct.unpack_from(f"<{letter}", self.buffer, self.position)
        self.position += struct.calcsize(f"<{letter}")
        return value

    def string(self) -> str:
        start = self.position + 8
        (length,) = struct.unpack_from("<Q", self.buffer, self.position)
        if start + length > len(self.buffer):
            raise ValueError(f"a string of {length} bytes goes beyond the end")
        self.position = start + length
        return str(self.buffer[start : self.position], "utf-8", errors="replace")

    def value(self, kind: GGUFValueType) -> Any:
        if kind is GGUFValueType.STRING:
            return self.string()
        if kind is not GGUFValueType.ARRAY:
            return self.scalar(_SCALAR_FORMATS[kind])
        item_kind, length = GGUFValueType(self.scalar("I")), self.scalar("Q")
        if item_kind in (GGUFValueType.STRING, GGUFValueType.ARRAY):
            return [self.value(item_kind) for _ in range(length)]
        values = np.frombuffer(self.buffer, dtype=f"<{_numpy_letter(item_kind)}", count=length, offset=self.position)
        self.position += values.nbytes
        return values.tolist()


def _numpy_letter(kind: GGUFValueType) -> str:
    # NumPy's letters are struct's, with its own names for eight bytes.
    return _SCALAR_FORMATS[kind]
