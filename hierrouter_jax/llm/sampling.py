"""Drawing the next token: greedy, temperature, top-k, top-p, each row by its own settings and its own key.

The key of a row's n-th new token is a function of the row's seed and n alone, so a row's samples depend neither on
its batch nor on its place there. Filters apply in the order temperature, top-k, top-p; tokens that tie with the last
one kept are kept as well. Log-probabilities are natural and of the unfiltered distribution at temperature 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.core.text import Sampling

SMALLEST_BLOCK, LARGEST_BLOCK = 16, 256  # tokens of a vocabulary that are compared by their largest value

# What a batch needs, least first: sorting a vocabulary is dear, so it is compiled in only where a row filters.
SamplingMode = Literal["greedy", "sampled", "filtered"]


@array_struct
class SamplingRows:
    """The settings of every row; no top-k is 0, no top-p is 1."""

    temperature: Float[Array, " batch"]
    top_k: Int[Array, " batch"]
    top_p: Float[Array, " batch"]
    seed: UInt32[Array, " batch"]


def stack_samplings(samplings: Sequence[Sampling]) -> SamplingRows:
    """Return the settings as arrays, one entry a row, handed to the device together."""
    temperature, top_k, top_p, seed = jax.device_put(
        (
            np.array([sampling.temperature for sampling in samplings], np.float32),
            np.array([sampling.top_k or 0 for sampling in samplings], np.int32),
            np.array([1.0 if sampling.top_p is None else sampling.top_p for sampling in samplings], np.float32),
            np.array([sampling.seed % 2**32 for sampling in samplings], np.uint32),
        )
    )
    return SamplingRows(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)


def sampling_mode(samplings: Sequence[Sampling]) -> SamplingMode:
    """Return the least mode that serves every row."""
    drawn = [sampling for sampling in samplings if sampling.temperature > 0]
    if not drawn:
        return "greedy"
    is_filtered = any(s.top_k is not None or (s.top_p is not None and s.top_p < 1) for s in drawn)
    return "filtered" if is_filtered else "sampled"


def draw_tokens(
    logits: Float[Array, "batch vocab"], rows: SamplingRows, num_drawn: Int[Array, " batch"], *, mode: SamplingMode
) -> Int[Array, " batch"]:
    """Return each row's next token, given how many it has drawn; a row of temperature 0 takes the likeliest."""
    likeliest = likeliest_tokens(logits)
    if mode == "greedy":
        return likeliest
    is_drawn = rows.temperature > 0
    scaled = logits / jnp.where(is_drawn, rows.temperature, 1.0)[:, None]
    if mode == "filtered":
        scaled = jnp.where(keep_mask(scaled, rows.top_k, rows.top_p), scaled, -jnp.inf)
    keys = jax.vmap(lambda seed, count: jax.random.fold_in(jax.random.key(seed), count))(rows.seed, num_drawn)
    drawn = jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)
    return jnp.where(is_drawn, drawn, likeliest)


def likeliest_tokens(logits: Float[Array, "*batch vocab"]) -> Int[Array, "*batch"]:
    """Return the likeliest token of each distribution, the first of equals.

    An argmax over a whole vocabulary carries an index through every comparison, which XLA does number by number on CPU:
    a sixth of a step. Largest values of blocks are found 20 times as fast, and then one block is searched.
    """
    vocab_size = logits.shape[-1]
    block_size = math.gcd(vocab_size, LARGEST_BLOCK)
    if block_size < SMALLEST_BLOCK:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    blocks = logits.reshape(*logits.shape[:-1], vocab_size // block_size, block_size)
    best = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    chosen = jnp.take_along_axis(blocks, best[..., None, None], axis=-2)[..., 0, :]
    return (best * block_size + jnp.argmax(chosen, axis=-1)).astype(jnp.int32)


def keep_mask(
    logits: Float[Array, "batch vocab"], top_k: Int[Array, " batch"], top_p: Float[Array, " batch"]
) -> Bool[Array, "batch vocab"]:
    """Return which tokens the filters keep.

    Top-k keeps the k likeliest. Top-p keeps, of those and renormalised, the smallest set of likeliest tokens whose
    probability reaches p (Holtzman et al. 2020, eq. 2).
    """
    vocab_size = logits.shape[-1]
    descending = -jnp.sort(-logits, axis=-1)
    is_in_k = jnp.arange(vocab_size)[None, :] < jnp.where(top_k > 0, top_k, vocab_size)[:, None]
    probabilities = jax.nn.softmax(jnp.where(is_in_k, descending, -jnp.inf), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    is_in_p = (before < top_p[:, None]) | (top_p >= 1)[:, None]
    last_kept = jnp.min(jnp.where(is_in_k & is_in_p, descending, jnp.inf), axis=-1, keepdims=True)
    return logits >= last_kept


def token_logprobs(logits: Float[Array, "*batch vocab"], tokens: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return the natural log-probability of one token for every distribution."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
