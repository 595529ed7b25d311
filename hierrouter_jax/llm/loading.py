"""From the files of a checkpoint to a decoder: family, config, identity, parameters.

Family, config and identity need headers and digests only; parameters are read when `load_decoder` is called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import numpy as np
from jaxtyping import ArrayLike

from hierrouter_jax.core.configs import digest, read_json
from hierrouter_jax.core.errors import DataError, WeightsError
from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.llm.decoder import DecoderModel, abstract_leaves, decoder_from_leaves, int8_leaves
from hierrouter_jax.llm.families.family import Family
from hierrouter_jax.llm.families.registry import family_for_gguf, family_for_hf
from hierrouter_jax.llm.int8 import float_type
from hierrouter_jax.llm.placement import Layout, default_devices, device_bytes, is_sharded, leaf_placer
from hierrouter_jax.weights.gguf_reader import GGUFReader
from hierrouter_jax.weights.plan import HeadCounts, load_leaves, make_plan
from hierrouter_jax.weights.readers import open_reader
from hierrouter_jax.weights.rules import WeightRule
from hierrouter_jax.weights.sources import ResolvedFiles

# Part of every model's identity: raise it when the same files would load to other numbers.
LOADER_VERSION = 1

WeightsDtype = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose headers were read: everything about the model but its numbers."""

    files: ResolvedFiles
    family: Family
    config: DecoderConfig
    dtype: WeightsDtype
    shapes: Mapping[str, tuple[int, ...]]  # of the tensors in the files

    @property
    def weights_digest(self) -> str:
        """Identity of the loaded numbers, known without loading them."""
        return digest({"files": self.files.sha256, "dtype": self.dtype, "loader": LOADER_VERSION})

    @cached_property
    def leaves(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every leaf."""
        return abstract_leaves(self.config, dtype=self.dtype)

    @cached_property
    def file_leaves(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every leaf as it is read: int8 is made of floats."""
        return abstract_leaves(self.config, dtype=float_type(self.dtype)) if self.dtype == "int8" else self.leaves

    @property
    def size_bytes(self) -> int:
        """Memory the parameters take once loaded."""
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in self.leaves.values())

    @property
    def num_active_parameters(self) -> int:
        """Parameters that take part in computing one token.

        An embedding table counts where it also makes the logits; otherwise one row of it is read, and a file that
        stores tied weights twice does not make a model larger.
        """
        table = 0 if self.config.has_tied_output else self.config.vocab_size * self.config.embed_dim
        return sum(math.prod(leaf.shape) for leaf in self.file_leaves.values()) - table


def open_checkpoint(files: ResolvedFiles, *, dtype: WeightsDtype = "float32") -> Checkpoint:
    """Read a checkpoint's headers. Raises `WeightsError` when the files are not whole or the architecture unknown."""
    if files.is_gguf:
        reader = GGUFReader(files.weights[0])
        shapes = reader.shapes
        family = family_for_gguf(reader.metadata)
        config = family.config_from_gguf(reader.metadata, tuple(shapes))
    else:
        try:
            stated = read_json(files.folder / "config.json")
        except DataError as error:
            raise WeightsError(f"A checkpoint of safetensors must come with its config: {error}") from error
        family = family_for_hf(stated)
        config = family.config_from_hf(stated)
        shapes = open_reader(files.weights).shapes
    return Checkpoint(files=files, family=family, config=config, dtype=dtype, shapes=shapes)


def check_tensors(checkpoint: Checkpoint) -> None:
    """Raise a `WeightsError` listing every tensor that is missing, surplus or of another shape; no file is read."""
    make_plan(
        _rules(checkpoint),
        checkpoint.config.num_layers,
        checkpoint.shapes,
        checkpoint.file_leaves,
        heads=_heads(checkpoint),
        ignorable=checkpoint.family.ignorable_tensors,
    )


def default_dtype() -> WeightsDtype:
    """Return the type of parameters where none is stated: half the bytes where the hardware multiplies them as fast."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def load_decoder(
    checkpoint: Checkpoint,
    *,
    devices: Sequence[jax.Device] | None = None,
    layout: Layout = "auto",
    is_quiet: bool = False,
) -> DecoderModel:
    """Read the parameters onto the first of the devices or, where they do not fit it, cut over all, leaf by leaf.

    Raises `WeightsError` that lists every tensor that is missing, surplus or of another shape, before reading any.
    """
    reader = open_reader(checkpoint.files.weights)
    devices = default_devices() if devices is None else devices
    limit_bytes = device_bytes(devices[0])
    is_cut = is_sharded(layout, checkpoint.size_bytes, num_devices=len(devices), limit_bytes=limit_bytes)
    place = leaf_placer(devices, is_sharded=is_cut)

    def hold(name: str, values: np.ndarray) -> dict[str, jax.Array]:
        parts: dict[str, ArrayLike]
        parts = int8_leaves(name, values) if checkpoint.dtype == "int8" else {name: values}
        return {own: place(own, part) for own, part in parts.items()}

    held = load_leaves(
        _rules(checkpoint),
        checkpoint.config.num_layers,
        reader,
        checkpoint.file_leaves,
        heads=_heads(checkpoint),
        ignorable=checkpoint.family.ignorable_tensors,
        place=hold,
        description=f"loading {checkpoint.files.folder.name}",
        is_quiet=is_quiet,
    )
    leaves = {name: leaf for parts in held.values() for name, leaf in parts.items()}
    return decoder_from_leaves(checkpoint.config, leaves, dtype=checkpoint.dtype)


def _rules(checkpoint: Checkpoint) -> Sequence[WeightRule]:
    return checkpoint.family.gguf_rules if checkpoint.files.is_gguf else checkpoint.family.hf_rules


def _heads(checkpoint: Checkpoint) -> HeadCounts:
    return HeadCounts(num_heads=checkpoint.config.num_heads, num_kv_heads=checkpoint.config.num_kv_heads)
