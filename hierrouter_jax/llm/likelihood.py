"""How likely given continuations are: sums of natural log-probabilities of their tokens after a prompt.

Each distinct prompt is read once, whatever the number of its continuations. Continuations of one token need the
distribution after the prompt only; longer ones branch off the prompt's cache, which is repeated a row a continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.llm.batching import (
    BatchLimits,
    batch_bucket,
    check_prompts,
    pad_tokens,
    plan_branches,
    plan_reads,
    prompt_bucket,
    slot_bucket,
)
from hierrouter_jax.llm.cache import KVCache, resize_cache, take_rows
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.sampling import token_logprobs

SMALLEST_SPAN = 4  # continuations are padded to this many tokens at least: fewer sizes, fewer programs


def option_logprobs(
    model: DecoderModel,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    limits: BatchLimits | None = None,
) -> list[list[float]]:
    """Return the log-probability of every option (a sequence of tokens) of every prompt."""
    if len(options) != len(prompts):
        raise ConfigError(f"options must be one list a prompt ({len(prompts)}), but are {len(options)}.")
    pairs = [(prompt, option) for prompt, row in zip(prompts, options, strict=True) for option in row]
    scores = iter(score_continuations(model, [p for p, _ in pairs], [o for _, o in pairs], limits=limits))
    return [[next(scores) for _ in row] for row in options]


def score_continuations(
    model: DecoderModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    limits: BatchLimits | None = None,
) -> list[float]:
    """Return the log-probability of each continuation after its prompt.

    Raises `PromptTooLongError` when both together do not fit the context window, `DataError` for empty prompts or
    continuations and for unknown tokens.
    """
    limits = BatchLimits() if limits is None else limits
    befores, afters = [tuple(prompt) for prompt in prompts], [tuple(continuation) for continuation in continuations]
    _check(model, befores, afters)
    scores = [0.0] * len(befores)
    users: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(befores):
        users.setdefault(prompt, []).append(index)
    branching = {prompt for prompt, own in users.items() if any(len(afters[index]) > 1 for index in own)}
    single = [prompt for prompt in users if prompt not in branching]
    for group in plan_reads([len(prompt) for prompt in single], limits):
        _score_singles(model, [single[g] for g in group], [users[single[g]] for g in group], afters, scores)
    longer = [prompt for prompt in users if prompt in branching]
    sizes = [len(prompt) + max(len(afters[index]) for index in users[prompt]) for prompt in longer]
    for group in plan_branches(model, sizes, [len(users[prompt]) for prompt in longer], limits):
        _score_branches(model, [longer[g] for g in group], [users[longer[g]] for g in group], afters, scores)
    return scores


def _check(model: DecoderModel, prompts: Sequence[tuple[int, ...]], continuations: Sequence[tuple[int, ...]]) -> None:
    if len(continuations) != len(prompts):
        raise ConfigError(f"continuations must be one a prompt ({len(prompts)}), but are {len(continuations)}.")
    empty = [index for index, continuation in enumerate(continuations) if not continuation]
    if empty:
        raise DataError(f"A continuation must have at least one token, but continuation {empty[0]} has none.")
    check_prompts(model, prompts, [len(continuation) for continuation in continuations])
    vocab_size = model.config.vocab_size
    for index, continuation in enumerate(continuations):
        if min(continuation) < 0 or max(continuation) >= vocab_size:
            raise DataError(f"Tokens must be in [0, {vocab_size}), but continuation {index} is {continuation}.")


def _score_singles(
    model: DecoderModel,
    prompts: list[tuple[int, ...]],
    users: list[list[int]],
    continuations: list[tuple[int, ...]],
    scores: list[float],
) -> None:
    """Score the one-token continuations of distinct prompts; `users` are the pairs that share each prompt."""
    num_rows = batch_bucket(len(prompts))
    tokens, lengths = pad_tokens(prompts, num_rows, prompt_bucket(max(map(len, prompts))))
    wanted = np.zeros((num_rows, batch_bucket(max(map(len, users)))), np.int32)
    for row, indices in enumerate(users):
        wanted[row, : len(indices)] = [continuations[index][0] for index in indices]
    logprobs = np.asarray(last_logprobs(model, tokens, lengths, wanted))
    for row, indices in enumerate(users):
        for column, index in enumerate(indices):
            scores[index] = float(logprobs[row, column])


def _score_branches(
    model: DecoderModel,
    prompts: list[tuple[int, ...]],
    users: list[list[int]],
    continuations: list[tuple[int, ...]],
    scores: list[float],
) -> None:
    """Score the continuations of distinct prompts; `users` are the pairs that share each prompt."""
    tokens, lengths = pad_tokens(prompts, batch_bucket(len(prompts)), prompt_bucket(max(map(len, prompts))))
    spans = [max(SMALLEST_SPAN, batch_bucket(len(continuations[index]))) for own in users for index in own]
    last, cache = read_prompts(model, tokens, lengths, num_slots=slot_bucket(tokens.shape[1] + max(spans)))
    pairs = [(row, index) for row, own in enumerate(users) for index in own]
    for span in sorted(set(spans)):  # one long continuation does not make the others long
        branches = [pair for pair, own_span in zip(pairs, spans, strict=True) if own_span == span]
        rows, wanted, is_wanted = _pad_branches(branches, continuations, span)
        sums = np.asarray(branch_logprobs(model, last, cache, rows, wanted, is_wanted))
        for (_, index), score in zip(branches, sums[: len(branches)], strict=True):
            scores[index] = float(score)


def _pad_branches(
    branches: Sequence[tuple[int, int]], continuations: Sequence[tuple[int, ...]], span: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each branch's row of the cache, its tokens padded to `span`, and which of them count."""
    shape = (batch_bucket(len(branches)), span)
    rows, wanted, is_wanted = np.zeros(shape[0], np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
    for branch, (row, index) in enumerate(branches):
        size = len(continuations[index])
        rows[branch] = row
        wanted[branch, :size] = continuations[index]
        is_wanted[branch, :size] = True
    return rows, wanted, is_wanted


@jax.jit
def last_logprobs(
    model: DecoderModel,
    tokens: Int[Array, "batch time"],
    lengths: Int[Array, " batch"],
    wanted: Int[Array, "batch option"],
) -> Float[Array, "batch option"]:
    """Return log-probabilities of the wanted tokens right after right-padded prompts."""
    decoder = model.module()
    hidden, _ = decoder.hidden_states(tokens)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return jnp.take_along_axis(jax.nn.log_softmax(decoder.logits(last), axis=-1), wanted, axis=1)


@partial(jax.jit, static_argnames=("num_slots",))
def read_prompts(
    model: DecoderModel, tokens: Int[Array, "batch time"], lengths: Int[Array, " batch"], *, num_slots: int
) -> tuple[Float[Array, "batch embed"], KVCache]:
    """Return the state after each right-padded prompt, and a cache of `num_slots` slots that holds the prompts."""
    hidden, cache = model.module().hidden_states(tokens)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return last, resize_cache(replace(cache, lengths=lengths), num_slots)


@jax.jit
def branch_logprobs(
    model: DecoderModel,
    last: Float[Array, "batch embed"],
    cache: KVCache,
    rows: Int[Array, " branch"],
    wanted: Int[Array, "branch span"],
    is_wanted: Bool[Array, "branch span"],
) -> Float[Array, " branch"]:
    """Return each branch's sum of log-probabilities of its wanted tokens, read on from the prompt of its row."""
    decoder = model.module()
    branched = take_rows(cache, rows)
    positions = branched.lengths[:, None] + jnp.arange(wanted.shape[1], dtype=jnp.int32)[None, :]
    hidden, _ = decoder.hidden_states(wanted, positions, branched)
    states = jnp.concatenate((last[rows][:, None], hidden[:, :-1]), axis=1)  # each token is foretold by the one before

    # One position of all branches at a time: a large vocabulary's logits of a whole span would fill the memory.
    def add(total: Float[Array, " branch"], entry: tuple[Array, Array, Array]) -> tuple[Float[Array, " branch"], None]:
        state, token, is_used = entry
        return total + jnp.where(is_used, token_logprobs(decoder.logits(state), token), 0.0), None

    entries = (states.swapaxes(0, 1), wanted.T, is_wanted.T)
    return jax.lax.scan(add, jnp.zeros(wanted.shape[0]), entries)[0]
