"""Batched generation: prompts in, new tokens out, each row as if it were alone.

One call may hold any number of prompts: as many as fit decode together, and the others take the places of those that
end (`in_flight`). What prompts share is computed once (`prefix_cache`). All sizes are rounded up to a few buckets,
so few programs are compiled. Lengths count tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.text import FinishReason, Sampling
from hierrouter_jax.llm.batching import BatchLimits, batch_bucket, check_prompts
from hierrouter_jax.llm.decode_loop import NO_TOKEN
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.in_flight import InFlightBatch, Row
from hierrouter_jax.llm.likelihood import option_logprobs, score_continuations
from hierrouter_jax.llm.prefix_cache import PrefixCache
from hierrouter_jax.llm.stop_strings import IsComplete
from hierrouter_jax.llm.token_counts import TokenCounts

__all__ = [
    "BatchLimits",
    "DecoderModel",
    "GeneratedTokens",
    "TokenCounts",
    "generate_tokens",
    "option_logprobs",
    "score_continuations",
    "stream_tokens",
]


@dataclass(frozen=True, kw_only=True)
class GeneratedTokens:
    """What one row produced: a stop token that ended it is its last token. `logprobs` are at temperature 1."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


def generate_tokens(
    model: DecoderModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    samplings: Sequence[Sampling],
    stop_token_ids: Collection[int] = (),
    is_complete: IsComplete | None = None,
    limits: BatchLimits | None = None,
) -> list[GeneratedTokens]:
    """Continue every prompt until a stop token, its own `max_new_tokens`, or `is_complete(row, new_ids)`.

    A row ends at the first token for which `is_complete` holds; it is asked after every token, so it may look at the
    newest ones only. Raises `PromptTooLongError` when a prompt with its budget does not fit the context window,
    `DataError` for empty prompts and unknown tokens.
    """
    batches = stream_tokens(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        samplings=samplings,
        stop_token_ids=stop_token_ids,
        is_complete=is_complete,
        limits=limits,
    )
    answers = dict(pair for batch in batches for pair in batch)
    return [answers[index] for index in range(len(prompts))]


def stream_tokens(
    model: DecoderModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    samplings: Sequence[Sampling],
    stop_token_ids: Collection[int] = (),
    is_complete: IsComplete | None = None,
    limits: BatchLimits | None = None,
    prefixes: PrefixCache | None = None,
    counts: TokenCounts | None = None,
) -> Iterator[list[tuple[int, GeneratedTokens]]]:
    """Do what `generate_tokens` does, and yield (row, what it produced) as rows end, those that end together at once.

    `prefixes` keeps prompts from one call to the next, of this very model; `counts` is added to.
    """
    check_prompts(model, prompts, max_new_tokens)
    if len(samplings) != len(prompts):
        raise ConfigError(f"samplings must be one a prompt ({len(prompts)}), but are {len(samplings)}.")
    limits = BatchLimits() if limits is None else limits
    everything = zip(range(len(prompts)), prompts, max_new_tokens, samplings, strict=True)
    batch = InFlightBatch(
        model,
        [Row(index=index, prompt=prompt, budget=budget, sampling=own) for index, prompt, budget, own in everything],
        stop_ids=_stop_array(stop_token_ids),
        is_complete=is_complete,
        limits=limits,
        prefixes=PrefixCache(limits.max_prefix_bytes) if prefixes is None else prefixes,
        counts=TokenCounts() if counts is None else counts,
    )
    for ended in batch.finished():
        yield [(row.index, _produced(row)) for row in ended]


def _produced(row: Row) -> GeneratedTokens:
    return GeneratedTokens(
        token_ids=tuple(row.token_ids), logprobs=tuple(row.logprobs), finish_reason=row.finish_reason or "length"
    )


def _stop_array(stop_token_ids: Collection[int]) -> np.ndarray:
    """Return the ids padded to a power of two, so that their number compiles nothing anew."""
    ids = sorted(set(stop_token_ids))
    return np.array(ids + [NO_TOKEN] * (max(8, batch_bucket(len(ids) or 1)) - len(ids)), np.int32)
