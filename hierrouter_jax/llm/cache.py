"""The key-value cache: one array a layer, and a length per row.

Slot s of a row holds the key and value of the token at position s, so causality alone hides what lies behind a row's
last token: padding and leftovers there are never seen before they are overwritten. Layers are separate arrays
because a stacked array is copied whole at every step. Keys have slots as their last axis and values have them before
head_dim: both products of attention then read their operand row by row, which on CPU is worth a third to a half of
attention's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int

from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.llm.config import DecoderConfig

Keys = Float[Array, "batch kv_head head_dim slot"]
Values = Float[Array, "batch kv_head slot head_dim"]
OtherKeys = Float[Array, "other_batch kv_head head_dim other_slot"]
OtherValues = Float[Array, "other_batch kv_head other_slot head_dim"]


@array_struct
class KVCache:
    """Keys and values of all layers, and how many tokens each row holds."""

    keys: tuple[Keys, ...]
    values: tuple[Values, ...]
    lengths: Int[Array, " batch"]

    @property
    def num_slots(self) -> int:
        """How many tokens a row can hold."""
        return self.values[0].shape[2]


def empty_cache(config: DecoderConfig, batch_size: int, num_slots: int, *, dtype: DTypeLike = jnp.float32) -> KVCache:
    """Return a cache without tokens."""
    key_shape = (batch_size, config.num_kv_heads, config.head_dim, num_slots)
    value_shape = (batch_size, config.num_kv_heads, num_slots, config.head_dim)
    return _zeros(key_shape, value_shape, config.num_layers, jnp.dtype(dtype))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _zeros(key_shape: tuple[int, ...], value_shape: tuple[int, ...], num_layers: int, dtype: np.dtype) -> KVCache:
    """Return a cache of zeros by one program: an array for itself costs an accelerator's host as much as a step."""
    return KVCache(
        keys=tuple(jnp.zeros(key_shape, dtype) for _ in range(num_layers)),
        values=tuple(jnp.zeros(value_shape, dtype) for _ in range(num_layers)),
        lengths=jnp.zeros((key_shape[0],), jnp.int32),
    )


def slot_bytes(config: DecoderConfig, *, dtype: DTypeLike = jnp.float32) -> int:
    """Return the bytes that one token of one row takes in the cache."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * jnp.dtype(dtype).itemsize


def write_keys(slots: Keys, new: OtherKeys, starts: Int[Array, " batch"]) -> Keys:
    """Write each row's `new` keys from its own start on. A row must have room for them."""
    return _write(slots, new, starts, slot_axis=2)


def write_values(slots: Values, new: OtherValues, starts: Int[Array, " batch"]) -> Values:
    """Write each row's `new` values from its own start on. A row must have room for them."""
    return _write(slots, new, starts, slot_axis=1)


def _write(slots: Array, new: Array, starts: Int[Array, " batch"], *, slot_axis: int) -> Array:
    """Write each row's entries; `slot_axis` is that of a row."""

    def write_row(row_slots: Array, row_new: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(row_slots, row_new.astype(row_slots.dtype), start, slot_axis)

    return jax.vmap(write_row)(slots, new, starts)


def resize_cache(cache: KVCache, num_slots: int, *, gives_up: bool = False) -> KVCache:
    """Return the cache with empty slots added behind, or with the slots from `num_slots` on cut off.

    Where the old one is given up, its layers are freed one after the other, so that never both are there whole.
    """
    if num_slots == cache.num_slots:
        return cache
    keys, values = _map_layers(cache, partial(resize_layer, num_slots=num_slots), gives_up=gives_up)
    return KVCache(keys=keys, values=values, lengths=cache.lengths)


@partial(jax.jit, static_argnames=("num_slots",))
def resize_layer(keys: Keys, values: Values, *, num_slots: int) -> tuple[OtherKeys, OtherValues]:
    """Return one layer's keys and values with slots added behind or cut off."""
    extra = max(0, num_slots - values.shape[2])
    keys = jnp.pad(keys, ((0, 0), (0, 0), (0, 0), (0, extra)))[..., :num_slots]
    return keys, jnp.pad(values, ((0, 0), (0, 0), (0, extra), (0, 0)))[:, :, :num_slots]


def take_rows(cache: KVCache, rows: Int[ArrayLike, " row"], *, gives_up: bool = False) -> KVCache:
    """Return the cache of the chosen rows; the old one is freed layer by layer where it is given up."""
    rows = jnp.asarray(rows)
    keys, values = _map_layers(cache, partial(take_layer_rows, rows=rows), gives_up=gives_up)
    return KVCache(keys=keys, values=values, lengths=cache.lengths[rows])


@jax.jit
def take_layer_rows(keys: Keys, values: Values, rows: Int[Array, " row"]) -> tuple[OtherKeys, OtherValues]:
    """Return the chosen rows of one layer's keys and values."""
    return keys[rows], values[rows]


def _map_layers(
    cache: KVCache, change: Callable[[Keys, Values], tuple[OtherKeys, OtherValues]], *, gives_up: bool
) -> tuple[tuple[OtherKeys, ...], tuple[OtherValues, ...]]:
    """Change the layers one by one."""
    keys, values = [], []
    for old_keys, old_values in zip(cache.keys, cache.values, strict=True):
        new_keys, new_values = change(old_keys, old_values)
        keys.append(new_keys)
        values.append(new_values)
        if gives_up:
            old_keys.delete()
            old_values.delete()
    return tuple(keys), tuple(values)


def insert_rows(cache: KVCache, new: KVCache, sources: Sequence[int], targets: Sequence[int]) -> KVCache:
    """Return the cache with rows `sources` of `new` in the place of its own rows `targets`; `cache` is given up.

    `new` must have at most as many slots. Slots behind those of `new` keep what they held, which nobody sees.
    """
    num_rows, num_new_rows = len(cache.lengths), len(new.lengths)
    places = np.full(num_new_rows, num_rows, np.int32)  # behind the last row: such a row is dropped
    places[list(sources)] = targets
    pairs = [
        insert_layer_rows(*own, places) for own in zip(cache.keys, cache.values, new.keys, new.values, strict=True)
    ]
    lengths = cache.lengths.at[np.asarray(targets)].set(new.lengths[np.asarray(sources)])
    return KVCache(keys=tuple(keys for keys, _ in pairs), values=tuple(values for _, values in pairs), lengths=lengths)


@partial(jax.jit, donate_argnames=("keys", "values"))
def insert_layer_rows(
    keys: Keys, values: Values, new_keys: OtherKeys, new_values: OtherValues, places: Int[Array, " other_batch"]
) -> tuple[Keys, Values]:
    """Return one layer's keys and values with each row of the new ones at its place, or dropped where it has none."""
    num_slots = new_values.shape[2]
    keys = keys.at[places, :, :, :num_slots].set(new_keys, mode="drop")
    return keys, values.at[places, :, :num_slots].set(new_values, mode="drop")
