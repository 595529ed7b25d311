"""Tensors of safetensors files: one file, or the shards of one checkpoint.

A sharded checkpoint's index file says which shard should hold which tensor; it is held against the shards' own
headers, so that a shard that is missing or from another checkpoint is noticed before anything is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from hierrouter_jax.core.errors import WeightsError, raise_all


class SafetensorsReader:
    """Reads tensors of one or several safetensors files; bfloat16 and the other floats come as float32."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the headers. Raises `WeightsError` when a file is damaged or two files hold the same tensor."""
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        problems = []
        for path in files:
            try:
                with safe_open(path, framework="numpy") as file:
                    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                problems.append(f"{path} is not a whole safetensors file: {error}")
                continue
            problems += [
                f"tensor {name} is in {path.name} and in {self._files[name].name}"
                for name in shapes
                if name in self._files
            ]
            self._files.update(dict.fromkeys(shapes, path))
            self._shapes.update(shapes)
        raise_all(WeightsError, "Safetensors files must be whole and disjoint; pull the model again:", problems)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by name."""
        return self._shapes

    def read(self, name: str) -> np.ndarray:
        """Return the tensor as float32. Raises `WeightsError` when its type is not supported."""
        path = self._files[name]
        try:
            with safe_open(path, framework="numpy") as file:
                return np.asarray(file.get_tensor(name)).astype(np.float32, copy=False)
        except (SafetensorError, OSError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"Reading tensor {name} of {path} failed: {error}. Use a checkpoint in float32, float16 or bfloat16."
            ) from error


def safetensors_files(folder: Path) -> tuple[Path, ...]:
    """Return the weight files of a checkpoint folder: the shards its index names, or its only safetensors file.

    Raises `WeightsError` when there are none, when a shard is missing, or when it is unclear which files belong.
    """
    index_path = folder / "model.safetensors.index.json"
    if index_path.is_file():
        return _indexed_files(index_path)
    files = tuple(sorted(folder.glob("*.safetensors")))
    preferred = folder / "model.safetensors"
    if preferred in files:
        return (preferred,)
    if len(files) == 1:
        return files
    others = ", ".join(
        sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".gguf"))
    )
    received = f"{len(files)} without an index" if files else f"none (other weight files there: {others or 'none'})"
    raise WeightsError(
        f"{folder} must hold model.safetensors or model.safetensors.index.json, but its safetensors "
        f"files are {received}. Give a folder of safetensors, or the path of one .gguf file."
    )


def _indexed_files(index_path: Path) -> tuple[Path, ...]:
    try:
        weight_map = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index_path} must map tensors to shards, but reading it failed: {error!r}. Pull the model again."
        ) from error
    files = tuple(index_path.parent / name for name in names)
    missing = [path.name for path in files if not path.is_file()]
    raise_all(WeightsError, f"Shards named by {index_path} are missing; pull the model again:", missing)
    reader = SafetensorsReader(files)
    absent = [f"tensor {name} should be in {shard}" for name, shard in weight_map.items() if name not in reader.shapes]
    raise_all(WeightsError, f"{index_path} names tensors that its shards do not hold; pull the model again:", absent)
    return files
