"""Prompt-lookup speculation: what a row may say next, copied from what its text has said before.

A later hop repeats much of the answers it was shown. Where the newest tokens of a row occurred before, the tokens that
followed them there are proposed, and one step of the model checks them all: greedy decoding is unchanged, and takes as
many steps less as proposals are right (Saxena 2023, "Prompt lookup decoding"; verification as in Leviathan et al. 2023,
section 2, with a proposer that costs nothing). It pays where a step of several tokens costs little more than one of
one token: for few rows, whose step is bound by reading the weights.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hierrouter_jax.llm.decode_loop import NO_TOKEN, DecodeState
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.sampling import likeliest_tokens, token_logprobs

SHORTEST_MATCH, LONGEST_MATCH = 3, 6


def propose(text: Int[np.ndarray, " time"], *, match_length: int, num_tokens: int) -> list[int]:
    """Return the `num_tokens` tokens that followed the last `match_length` tokens where they last occurred before.

    Where the text ends before so many followed, it runs in a circle, and the circle is gone round again. Without an
    earlier occurrence nothing is proposed.
    """
    num_starts = len(text) - match_length
    if num_starts <= 0:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(text[:-1], match_length)
    found = np.flatnonzero((windows == text[-match_length:]).all(axis=1))
    if len(found) == 0:
        return []
    start = int(found[-1]) + match_length
    return np.resize(text[start:], num_tokens).tolist()


def next_match_length(match_length: int, num_accepted: int) -> int:
    """Return how long a match must be the next time: longer after a proposal that was wrong from the start."""
    return SHORTEST_MATCH if num_accepted > 0 else min(match_length + 1, LONGEST_MATCH)


@partial(jax.jit, donate_argnames=("state",))
def verify_proposals(
    model: DecoderModel, state: DecodeState, proposals: Int[Array, "batch proposal"]
) -> tuple[DecodeState, Int[Array, "batch time"], Float[Array, "batch time"]]:
    """Read the last tokens and the proposals; return the greedy tokens as far as they are what decoding would draw.

    Proposals are padded with `NO_TOKEN`. A row gets one token more than proposals it accepts, then `NO_TOKEN`, and the
    tokens' log-probabilities. The cache must have room for all of them; the state's other fields stay as they are.
    """
    decoder = model.module()
    tokens = jnp.concatenate((state.last_tokens[:, None], jnp.maximum(proposals, 0)), axis=1)
    positions = state.cache.lengths[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    hidden, cache = decoder.hidden_states(tokens, positions, state.cache)
    logits = decoder.logits(hidden)
    greedy = likeliest_tokens(logits)
    is_right = jnp.cumprod(greedy[:, :-1] == proposals, axis=1) == 1
    is_drawn = jnp.concatenate((jnp.ones_like(is_right[:, :1]), is_right), axis=1)
    state = replace(state, cache=replace(cache, lengths=state.cache.lengths))
    return state, jnp.where(is_drawn, greedy, NO_TOKEN), token_logprobs(logits, greedy)
