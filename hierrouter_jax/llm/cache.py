"""The key-value cache: one array a layer, and a length per row.

Slot s of a row holds the key and value of the token at position s, so causality alone hides what lies behind a row's
last token: padding and leftovers there are never seen before they are overwritten. Layers are separate arrays
because a stacked array is copied whole at every step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.llm.config import DecoderConfig


@array_struct
class KVCache:
    """Keys and values of all layers, and how many tokens each row holds."""

    keys: tuple[Float[Array, "batch kv_head slot head_dim"], ...]
    values: tuple[Float[Array, "batch kv_head slot head_dim"], ...]
    lengths: Int[Array, " batch"]

    @property
    def num_slots(self) -> int:
        """How many tokens a row can hold."""
        return self.keys[0].shape[2]


def empty_cache(config: DecoderConfig, batch_size: int, num_slots: int, *, dtype: DTypeLike = jnp.float32) -> KVCache:
    """Return a cache without tokens."""
    shape = (batch_size, config.num_kv_heads, num_slots, config.head_dim)
    return KVCache(
        keys=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
        values=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
        lengths=jnp.zeros((batch_size,), jnp.int32),
    )


def slot_bytes(config: DecoderConfig, *, dtype: DTypeLike = jnp.float32) -> int:
    """Return the bytes that one token of one row takes in the cache."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * jnp.dtype(dtype).itemsize


def write_slots(
    slots: Float[Array, "batch kv_head slot head_dim"],
    new: Float[Array, "batch kv_head time head_dim"],
    starts: Int[Array, " batch"],
) -> Float[Array, "batch kv_head slot head_dim"]:
    """Write each row's `new` entries from its own start on. A row must have `start + time <= slot`."""

    def write_row(row_slots: Array, row_new: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(row_slots, row_new.astype(row_slots.dtype), (0, start, 0))

    return jax.vmap(write_row)(slots, new, starts)


def resize_cache(cache: KVCache, num_slots: int) -> KVCache:
    """Return the cache with empty slots added behind. Raises `ValueError` when it would shrink."""
    extra = num_slots - cache.num_slots
    if extra < 0:
        raise ValueError(f"A cache of {cache.num_slots} slots cannot shrink to {num_slots}; ask for at least as many.")
    padding = ((0, 0), (0, 0), (0, extra), (0, 0))
    return jax.tree.map(lambda x: jnp.pad(x, padding) if x.ndim == 4 else x, cache)


def take_rows(cache: KVCache, rows: Int[Array, " row"]) -> KVCache:
    """Return the cache of the chosen rows."""
    return jax.tree.map(lambda x: x[rows], cache)
