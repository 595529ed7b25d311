"""How likely given continuations are: sums of natural log-probabilities of their tokens after a prompt.

Each distinct prompt is read once, whatever the number of its continuations. Continuations of one token need the
distribution after the prompt only; longer ones branch off the prompt's cache, which is repeated a row a continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.llm.batching import BatchLimits, batch_bucket, check_prompts, pad_tokens, reading_bucket
from hierrouter_jax.llm.cache import resize_cache, take_rows
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.prefix_cache import PrefixCache
from hierrouter_jax.llm.reading import PromptReader, padded_length
from hierrouter_jax.llm.reading_queue import ReadGroup, ReadingQueue
from hierrouter_jax.llm.sampling import token_logprobs
from hierrouter_jax.llm.token_counts import TokenCounts


def option_logprobs(
    model: DecoderModel,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    limits: BatchLimits | None = None,
    prefixes: PrefixCache | None = None,
    counts: TokenCounts | None = None,
) -> list[list[float]]:
    """Return the log-probability of every option (a sequence of tokens) of every prompt.

    Arguments and errors are those of `score_continuations`.
    """
    if len(options) != len(prompts):
        raise ConfigError(f"options must be one list a prompt ({len(prompts)}), but are {len(options)}.")
    pairs = [(prompt, option) for prompt, row in zip(prompts, options, strict=True) for option in row]
    befores, afters = [prompt for prompt, _ in pairs], [option for _, option in pairs]
    scores = iter(score_continuations(model, befores, afters, limits=limits, prefixes=prefixes, counts=counts))
    return [[next(scores) for _ in row] for row in options]


def score_continuations(
    model: DecoderModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    limits: BatchLimits | None = None,
    prefixes: PrefixCache | None = None,
    counts: TokenCounts | None = None,
) -> list[float]:
    """Return the log-probability of each continuation after its prompt; positions computed are added to `counts`.

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
    scored = [
        _Scored(prompt=prompt, indices=own, continuations=[afters[index] for index in own])
        for prompt, own in users.items()
    ]
    prefixes = PrefixCache(limits.max_prefix_bytes) if prefixes is None else prefixes
    queue = ReadingQueue(model, scored, limits=limits, prefixes=prefixes)
    reader = PromptReader(model)
    counts = TokenCounts() if counts is None else counts
    while queue:
        group = queue.read_next(limits.max_batch)
        counts.computed_prompt += group.num_computed
        pairs = [(row, branch) for row, item in enumerate(group.items) for branch in range(len(item.indices))]
        for start in range(0, len(pairs), limits.max_batch):
            part = pairs[start : start + limits.max_batch]
            wanted = [group.items[row].continuations[branch] for row, branch in part]
            sums, num_computed = _score_branches(reader, group, [row for row, _ in part], wanted)
            counts.computed_new += num_computed
            for (row, branch), score in zip(part, sums, strict=True):
                scores[group.items[row].indices[branch]] = score
    return scores


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A distinct prompt, its continuations, and the places of their scores."""

    prompt: tuple[int, ...]
    indices: list[int]
    continuations: list[tuple[int, ...]]

    @property
    def most_tokens(self) -> int:
        return len(self.prompt) + max(map(len, self.continuations))


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


def _score_branches(
    reader: PromptReader, group: ReadGroup[_Scored], rows: Sequence[int], wanted: Sequence[tuple[int, ...]]
) -> tuple[list[float], int]:
    """Return the scores of continuations of a group's prompts, given the row of each one's prompt.

    Also how many positions were computed, padding included.
    """
    num_branches = batch_bucket(len(rows))
    padded_rows = np.array([*rows, *[0] * (num_branches - len(rows))], np.int32)
    padded = [*wanted, *[(0,)] * (num_branches - len(wanted))]
    states = group.hidden[padded_rows][:, None]  # each token is foretold by the one before
    longest, width = max(map(len, padded)), 0
    if longest > 1:
        texts = [tokens[:-1] for tokens in padded]
        cache = take_rows(group.cache, padded_rows)
        width = padded_length(longest - 1)
        cache = resize_cache(cache, max(cache.num_slots, reading_bucket(int(np.asarray(cache.lengths).max()) + width)))
        states = join_states(reader.model.ends, states, reader.read_states(cache, texts))
    tokens, lengths = pad_tokens(padded, num_branches, states.shape[1])
    sums = sum_logprobs(reader.model.ends, states, tokens, lengths)
    return np.asarray(sums)[: len(rows)].tolist(), num_branches * width


@jax.jit
def join_states(
    ends: DecoderModel, last: Float[Array, "batch one embed"], following: Float[Array, "batch time embed"]
) -> Float[Array, "batch longer embed"]:
    """Return the normalised states after a prompt and after the tokens read on from there."""
    return jnp.concatenate((last, ends.module().final_norm(following)), axis=1)


@jax.jit
def sum_logprobs(
    ends: DecoderModel,
    states: Float[Array, "batch time embed"],
    wanted: Int[Array, "batch time"],
    lengths: Int[Array, " batch"],
) -> Float[Array, " batch"]:
    """Return each row's sum of log-probabilities of its first `lengths` wanted tokens, given the states before them."""
    decoder = ends.module()

    # One position of all rows at a time: a large vocabulary's logits of a whole span would fill the memory.
    def add(total: Float[Array, " batch"], entry: tuple[Array, Array, Array]) -> tuple[Float[Array, " batch"], None]:
        state, token, is_used = entry
        return total + jnp.where(is_used, token_logprobs(decoder.logits(state), token), 0.0), None

    is_wanted = jnp.arange(wanted.shape[1])[None, :] < lengths[:, None]
    entries = (states.swapaxes(0, 1), wanted.T, is_wanted.T)
    return jax.lax.scan(add, jnp.zeros(wanted.shape[0]), entries)[0]
