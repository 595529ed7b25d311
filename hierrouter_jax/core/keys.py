"""PRNG keys: typed, split once, and folded with a name or a row, so that results depend on neither order nor batch."""

from __future__ import annotations

import zlib

import jax
from jaxtyping import Array, Int, Key

MAX_SEED = 2**32 - 1  # JAX makes a key of the lowest 32 bits: beyond them, two seeds would be one


def stream_key(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """Return the key of the stream `name`; streams of different names are independent."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def row_keys(key: Key[Array, ""], row_ids: Int[Array, " row"]) -> Key[Array, " row"]:
    """Return one key a row, each a function of `key` and the row's own id alone."""
    return jax.vmap(lambda row_id: jax.random.fold_in(key, row_id))(row_ids)
