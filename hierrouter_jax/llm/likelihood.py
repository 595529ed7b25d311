"""How likely given continuations are: sums of natural log-probabilities of their tokens after a prompt.

Continuations of one token need a distribution after the prompt only, so each distinct prompt is read once for all of
its options. Longer ones are read behind their prompt, and logits are made at their own positions only.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.llm.batching import BatchLimits, batch_bucket, check_prompts, pad_tokens, plan_reads, prompt_bucket
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.sampling import token_logprobs


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
    singles: dict[tuple[int, ...], list[int]] = {}
    longer = []
    for index, (prompt, continuation) in enumerate(zip(befores, afters, strict=True)):
        if len(continuation) == 1:
            singles.setdefault(prompt, []).append(index)
        else:
            longer.append(index)
    distinct = list(singles)
    for group in plan_reads([len(prompt) for prompt in distinct], limits):
        _score_singles(model, [distinct[g] for g in group], [singles[distinct[g]] for g in group], afters, scores)
    for group in plan_reads([len(befores[i]) + len(afters[i]) for i in longer], limits):
        _score_longer(model, [longer[g] for g in group], befores, afters, scores)
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


def _score_longer(
    model: DecoderModel,
    indices: list[int],
    prompts: list[tuple[int, ...]],
    continuations: list[tuple[int, ...]],
    scores: list[float],
) -> None:
    """Score continuations of several tokens, one row a pair. The last token is asked for but need not be read."""
    rows = [(*prompts[index], *continuations[index][:-1]) for index in indices]
    num_rows = batch_bucket(len(rows))
    tokens, _ = pad_tokens(rows, num_rows, prompt_bucket(max(map(len, rows))))
    shape = (num_rows, batch_bucket(max(len(continuations[index]) for index in indices)))
    positions, wanted, is_wanted = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
    for row, index in enumerate(indices):
        size = len(continuations[index])
        positions[row, :size] = len(prompts[index]) - 1 + np.arange(size)
        wanted[row, :size] = continuations[index]
        is_wanted[row, :size] = True
    sums = np.asarray(span_logprobs(model, tokens, positions, wanted, is_wanted))
    for row, index in enumerate(indices):
        scores[index] = float(sums[row])


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


@jax.jit
def span_logprobs(
    model: DecoderModel,
    tokens: Int[Array, "batch time"],
    positions: Int[Array, "batch span"],
    wanted: Int[Array, "batch span"],
    is_wanted: Bool[Array, "batch span"],
) -> Float[Array, " batch"]:
    """Return each row's sum of log-probabilities of the wanted tokens, read after the tokens at `positions`."""
    decoder = model.module()
    hidden, _ = decoder.hidden_states(tokens)
    states = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)

    # One position of all rows at a time: a large vocabulary's logits of a whole span would fill the memory.
    def add(total: Float[Array, " batch"], entry: tuple[Array, Array, Array]) -> tuple[Float[Array, " batch"], None]:
        state, token, is_used = entry
        return total + jnp.where(is_used, token_logprobs(decoder.logits(state), token), 0.0), None

    entries = (states.swapaxes(0, 1), wanted.T, is_wanted.T)
    return jax.lax.scan(add, jnp.zeros(tokens.shape[0]), entries)[0]
