"""The device program of generation: decode continues prompts that were read, one token of every row a step.

Decode is one `while_loop` over steps with the cache donated, so the cache is updated in place. Parameters are
arguments, never constants: another model of the same architecture compiles nothing anew.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.llm.cache import KVCache
from hierrouter_jax.llm.decoder import Decoder, DecoderModel
from hierrouter_jax.llm.sampling import SamplingMode, SamplingRows, draw_tokens, token_logprobs

NO_TOKEN = -1


@array_struct
class DecodeState:
    """All that a batch carries from one step to the next; every array has a row's entry at that row."""

    cache: KVCache
    last_tokens: Int[Array, " batch"]  # drawn, not yet in the cache
    num_new: Int[Array, " batch"]
    budgets: Int[Array, " batch"]
    is_done: Bool[Array, " batch"]
    sampling: SamplingRows


@partial(jax.jit, static_argnames=("num_steps", "mode"), donate_argnames=("state",))
def decode_chunk(
    model: DecoderModel,
    state: DecodeState,
    stops: Int[Array, " stop"],
    num_ending: Int[ArrayLike, ""],
    *,
    num_steps: int,
    mode: SamplingMode,
) -> tuple[DecodeState, Int[Array, "batch time"], Float[Array, "batch time"]]:
    """Decode until `num_steps` steps are made, `num_ending` rows have ended, or all rows are done.

    Returns the tokens each row drew, `NO_TOKEN` once it is done, and their log-probabilities. The cache must have room
    for the steps of every row that is not done.
    """
    decoder = model.module()
    batch_size = state.last_tokens.shape[0]
    drawn = jnp.full((batch_size, num_steps), NO_TOKEN, jnp.int32)
    logprobs = jnp.zeros((batch_size, num_steps), jnp.float32)
    enough_done = jnp.sum(state.is_done) + num_ending

    def is_running(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        step, state, _, _ = carry
        return (step < num_steps) & (jnp.sum(state.is_done) < enough_done) & ~jnp.all(state.is_done)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, state, drawn, logprobs = carry
        was_done = state.is_done
        state, token, logprob = _decode_step(decoder, state, stops, mode)
        drawn = drawn.at[:, step].set(jnp.where(was_done, NO_TOKEN, token))
        return step + 1, state, drawn, logprobs.at[:, step].set(logprob)

    _, state, drawn, logprobs = jax.lax.while_loop(is_running, advance, (jnp.int32(0), state, drawn, logprobs))
    return state, drawn, logprobs


def _decode_step(
    decoder: Decoder, state: DecodeState, stops: Int[Array, " stop"], mode: SamplingMode
) -> tuple[DecodeState, Int[Array, " batch"], Float[Array, " batch"]]:
    """Put the last tokens into the cache and draw the next ones; a row that is done stays as it is."""
    lengths, was_done = state.cache.lengths, state.is_done
    hidden, cache = decoder.hidden_states(state.last_tokens[:, None], lengths[:, None], state.cache)
    logits = decoder.logits(hidden[:, 0])
    token = draw_tokens(logits, state.sampling, state.num_new, mode=mode)
    num_new = jnp.where(was_done, state.num_new, state.num_new + 1)
    state = replace(
        state,
        cache=replace(cache, lengths=jnp.where(was_done, lengths, cache.lengths)),
        last_tokens=token,
        num_new=num_new,
        is_done=was_done | _is_stop(token, stops) | (num_new >= state.budgets),
    )
    return state, token, token_logprobs(logits, token)


def _is_stop(tokens: Int[Array, " batch"], stops: Int[Array, " stop"]) -> Bool[Array, " batch"]:
    return jnp.any(tokens[:, None] == stops[None, :], axis=1)
