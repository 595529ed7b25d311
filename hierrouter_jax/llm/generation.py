"""Batched generation: prompts in, new tokens out, each row as if it were alone.

Prompts are sorted by length and split into batches, so one call may hold any number of them. A batch is filled by a
prefill program and continued by a decode program, one `while_loop` of at most `chunk` steps with the cache donated;
between chunks the host looks for stop strings, lengthens the cache, and lets a batch shrink to the rows that still
run: a step costs what its batch costs, and answers of one batch differ in length several times over. All sizes are
rounded up to a few buckets, so few programs are compiled. Lengths count tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.text import FinishReason, Sampling
from hierrouter_jax.llm.batching import (
    SMALLEST_PROMPT,
    BatchLimits,
    batch_bucket,
    check_prompts,
    pad_tokens,
    plan_batches,
    prefill_rows,
    prompt_bucket,
    slot_bucket,
)
from hierrouter_jax.llm.cache import resize_cache
from hierrouter_jax.llm.decode_loop import NO_TOKEN, DecodeState, decode_chunk, prefill, take_state_rows
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.likelihood import option_logprobs, score_continuations
from hierrouter_jax.llm.sampling import SamplingMode, sampling_mode, stack_samplings

__all__ = [
    "BatchLimits",
    "DecoderModel",
    "GeneratedTokens",
    "generate_tokens",
    "option_logprobs",
    "score_continuations",
]

IsComplete = Callable[[int, Sequence[int]], bool]


@dataclass(frozen=True, kw_only=True)
class GeneratedTokens:
    """What one row produced: a stop token that ended it is its last token. `logprobs` are at temperature 1."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(kw_only=True)
class _Row:
    """One prompt on its way."""

    index: int  # in the caller's order
    prompt: Sequence[int]
    budget: int
    sampling: Sampling
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None = None


def generate_tokens(
    model: DecoderModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    samplings: Sequence[Sampling],
    stop_token_ids: Collection[int] = (),
    is_complete: IsComplete | None = None,
    limits: BatchLimits | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[GeneratedTokens]:
    """Continue every prompt until a stop token, its own `max_new_tokens`, or `is_complete(row, new_ids)`.

    A row ends at the first token for which `is_complete` holds; it is asked after every token, so it may look at the
    newest ones only.
    `on_progress` receives how many rows are done. Raises `PromptTooLongError` when a prompt with its budget does not
    fit the context window, `DataError` for empty prompts and unknown tokens.
    """
    check_prompts(model, prompts, max_new_tokens)
    if len(samplings) != len(prompts):
        raise ConfigError(f"samplings must be one a prompt ({len(prompts)}), but are {len(samplings)}.")
    limits = BatchLimits() if limits is None else limits
    everything = zip(range(len(prompts)), prompts, max_new_tokens, samplings, strict=True)
    rows = [
        _Row(index=index, prompt=prompt, budget=budget, sampling=sampling, token_ids=[], logprobs=[])
        for index, prompt, budget, sampling in everything
    ]
    stops = frozenset(stop_token_ids)
    num_done = 0
    for batch in plan_batches(model, [len(row.prompt) + row.budget for row in rows], limits):
        _generate_batch(model, [rows[index] for index in batch], stops, is_complete, limits)
        num_done += len(batch)
        if on_progress is not None:
            on_progress(num_done)
    return [
        GeneratedTokens(
            token_ids=tuple(row.token_ids), logprobs=tuple(row.logprobs), finish_reason=row.finish_reason or "length"
        )
        for row in rows
    ]


def _generate_batch(
    model: DecoderModel, rows: list[_Row], stops: frozenset[int], is_complete: IsComplete | None, limits: BatchLimits
) -> None:
    """Fill in what the rows produce."""
    mode = sampling_mode([row.sampling for row in rows])
    stop_ids = _stop_array(stops)
    state, drawn, logprobs = _prefill_rows(model, rows, stop_ids, mode, limits)
    while True:
        for row, ids, values in zip(rows, np.asarray(drawn).tolist(), np.asarray(logprobs).tolist(), strict=False):
            _take(row, ids, values, stops, is_complete)
        running = [row for row in rows if row.finish_reason is None]
        if not running:
            return
        if batch_bucket(len(running)) < batch_bucket(len(rows)):
            state, rows = _keep_running(state, rows), running
        is_over = np.ones(state.is_done.shape, bool)
        is_over[: len(rows)] = [row.finish_reason is not None for row in rows]
        needed = max(len(row.prompt) + min(len(row.token_ids) + limits.chunk, row.budget) for row in running)
        cache = resize_cache(state.cache, max(state.cache.num_slots, slot_bucket(needed)))
        state = replace(state, cache=cache, is_done=jnp.asarray(is_over))
        state, drawn, logprobs = decode_chunk(model, state, stop_ids, num_steps=limits.chunk, mode=mode)


def _keep_running(state: DecodeState, rows: Sequence[_Row]) -> DecodeState:
    """Return the state of the rows that go on, in the fewest rows: one that is done costs as much as one that runs."""
    kept = [index for index, row in enumerate(rows) if row.finish_reason is None]
    padding = [kept[0]] * (batch_bucket(len(kept)) - len(kept))
    return take_state_rows(state, np.array(kept + padding, np.int32))


def _take(
    row: _Row, ids: Sequence[int], logprobs: Sequence[float], stops: frozenset[int], is_complete: IsComplete | None
) -> None:
    """Append a chunk's tokens to a row up to the one that ends it, whether by stop token, completeness or budget."""
    for token, logprob in zip(ids, logprobs, strict=True):
        if row.finish_reason is not None or token == NO_TOKEN:
            return
        row.token_ids.append(token)
        row.logprobs.append(logprob)
        if token in stops or (is_complete is not None and is_complete(row.index, row.token_ids)):
            row.finish_reason = "stop"
        elif len(row.token_ids) >= row.budget:
            row.finish_reason = "length"


def _prefill_rows(
    model: DecoderModel, rows: Sequence[_Row], stop_ids: np.ndarray, mode: SamplingMode, limits: BatchLimits
) -> tuple[DecodeState, np.ndarray, np.ndarray]:
    """Read the prompts, few enough at a time; return the state and each row's first token and its log-probability."""
    num_rows, num_tokens = batch_bucket(len(rows)), prompt_bucket(max(len(row.prompt) for row in rows))
    group_size = min(num_rows, prefill_rows(num_tokens, limits))
    tokens, lengths = pad_tokens([row.prompt for row in rows], num_rows, num_tokens)
    budgets = np.array([row.budget for row in rows] + [0] * (num_rows - len(rows)), np.int32)
    sampling = stack_samplings([row.sampling for row in rows] + [Sampling()] * (num_rows - len(rows)))
    num_slots = slot_bucket(num_tokens + limits.chunk)
    parts = []
    for start in range(0, num_rows, group_size):
        group = slice(start, start + group_size)
        part_sampling = jax.tree.map(lambda x, group=group: x[group], sampling)
        width = _halved(num_tokens, int(lengths[group].max()))  # one long prompt does not make the others long
        parts.append(prefill(model, tokens[group, :width], lengths[group], budgets[group], part_sampling, stop_ids,
                             num_slots=num_slots, mode=mode))  # fmt: skip
    state, logprobs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts) if len(parts) > 1 else parts[0]
    return state, np.asarray(state.last_tokens)[:, None], np.asarray(logprobs)[:, None]


def _halved(num_tokens: int, needed: int) -> int:
    """Return the padded length halved as often as it still holds `needed` tokens: few lengths, so few programs."""
    while num_tokens % 2 == 0 and num_tokens // 2 >= max(needed, SMALLEST_PROMPT):
        num_tokens //= 2
    return num_tokens


def _stop_array(stop_token_ids: Collection[int]) -> np.ndarray:
    """Return the ids padded to a power of two, so that their number compiles nothing anew."""
    ids = sorted(set(stop_token_ids))
    return np.array(ids + [NO_TOKEN] * (max(8, batch_bucket(len(ids) or 1)) - len(ids)), np.int32)
