"""The one face every container of tensors shows: names and shapes at once, values when asked for.

Shapes are in NumPy order whatever the container's own order is. Values come as float32 whatever they are stored as;
the plan casts them to the leaf's type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from hierrouter_jax.core.errors import WeightsError


@runtime_checkable
class TensorReader(Protocol):
    """Tensors of one checkpoint, read lazily."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by name, known without reading any value."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Return the tensor as float32. Raises `WeightsError` when its type is not supported."""
        ...


def open_reader(files: Sequence[Path]) -> TensorReader:
    """Open weight files: one `.gguf`, or one or several `.safetensors`.

    The container is told by the first bytes, not by the name. Raises `WeightsError` for anything else.
    """
    # The containers import this module's neighbours; a program that reads only one kind loads only that one.
    from hierrouter_jax.weights.gguf_reader import GGUFReader, is_gguf
    from hierrouter_jax.weights.safetensors_reader import SafetensorsReader

    if not files:
        raise WeightsError("A checkpoint must have at least one weight file, but none was given.")
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise WeightsError(f"Weight files do not exist: {', '.join(map(str, missing))}. Pull the model again.")
    if is_gguf(files[0]):
        if len(files) > 1:
            raise WeightsError(
                f"A GGUF checkpoint must be one file, but {len(files)} were given; merge its splits first."
            )
        return GGUFReader(files[0])
    return SafetensorsReader(files)
