"""Prompts that wait to be read, in an order in which neighbours share much, read in groups.

The prompts of a group begin with the same tokens of one prompt that was kept (`prefix_cache`), or with nothing known,
and would gain nothing by waiting for each other; what is left of them is read together, as many as fill the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Array, Float

from hierrouter_jax.llm.batching import BatchLimits, batch_bucket, reading_bucket
from hierrouter_jax.llm.cache import KVCache, empty_cache
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.prefix_cache import (
    SMALLEST_SHARED,
    PrefixCache,
    PrefixEntry,
    admission_order,
    rows_from_prefix,
    shared_length,
)
from hierrouter_jax.llm.reading import PromptReader, padded_length

FEW_PROMPTS = 8  # so few are somebody waiting for answers: they are kept for what is asked next


@runtime_checkable
class HasPrompt(Protocol):
    """What is read: a prompt, and how many tokens it may come to hold."""

    @property
    def prompt(self) -> Sequence[int]:
        """The tokens."""
        ...

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and of all that may follow it."""
        ...


T = TypeVar("T", bound=HasPrompt)


@dataclass(frozen=True, kw_only=True)
class ReadGroup(Generic[T]):
    """Prompts that were read together: the normalised state after each, and a cache with a row of each."""

    items: list[T]
    hidden: Float[Array, "batch embed"]
    cache: KVCache
    num_computed: int  # tokens, padding included


@dataclass(frozen=True, kw_only=True)
class _Waiting(Generic[T]):
    item: T
    ids: np.ndarray
    num_shared_with_next: int


class ReadingQueue(Generic[T]):
    """The prompts that wait, of one model."""

    def __init__(self, model: DecoderModel, items: Sequence[T], *, limits: BatchLimits, prefixes: PrefixCache) -> None:
        self._model, self._limits, self._prefixes = model, limits, prefixes
        self._reader = PromptReader(model)
        order = admission_order([item.prompt for item in items], [item.most_tokens for item in items])
        ids = [np.asarray(items[index].prompt, np.int32) for index in order]
        shared = [shared_length(*pair) for pair in pairwise(ids)]
        self._waiting = deque(
            _Waiting(item=items[index], ids=own, num_shared_with_next=num_shared)
            for index, own, num_shared in zip(order, ids, [*shared, 0][: len(ids)], strict=True)
        )
        self._keeps_all = len(items) <= FEW_PROMPTS

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        """Return those that wait, first the next to be read."""
        return (waiting.item for waiting in self._waiting)

    def read_next(self, max_rows: int) -> ReadGroup[T]:
        """Take the next prompts off the queue, at least one and at most `max_rows`, and read them."""
        num_shared, entry = self._prefixes.longest(self._waiting[0].ids)
        group = self._take_group(max_rows, num_shared, entry)
        texts = [waiting.ids[num_shared:].tolist() for waiting in group]
        width = padded_length(max(map(len, texts)))
        num_slots = reading_bucket(num_shared + width)
        if entry is None:
            cache = empty_cache(self._model.config, len(group), num_slots, dtype=self._model.dtype)
        else:
            cache = rows_from_prefix(entry, num_shared, num_rows=len(group), num_slots=num_slots)
        hidden, cache = self._reader.read(cache, texts)
        for row, waiting in enumerate(group):
            if self._keeps_all or waiting.num_shared_with_next >= num_shared + SMALLEST_SHARED:
                self._prefixes.add(waiting.ids, cache, row)
        return ReadGroup(
            items=[waiting.item for waiting in group], hidden=hidden, cache=cache, num_computed=len(group) * width
        )

    def _take_group(self, max_rows: int, num_shared: int, entry: PrefixEntry | None) -> list[_Waiting[T]]:
        """Take those off the queue that share a beginning with the entry and gain nothing by waiting."""
        size, width = 0, 0
        for waiting in self._waiting:
            width = max(width, padded_length(max(1, len(waiting.ids) - num_shared)))
            if size and not (
                size < max_rows
                and (size + 1) * width <= self._limits.max_read_tokens
                and self._waiting[size - 1].num_shared_with_next < num_shared + SMALLEST_SHARED
                and _begins_with(waiting.ids, num_shared, entry)
            ):
                break
            size += 1
        size = (batch_bucket(size + 1) + 1) // 2  # a power of two: few sizes, few programs
        return [self._waiting.popleft() for _ in range(size)]


def _begins_with(ids: np.ndarray, num_shared: int, entry: PrefixEntry | None) -> bool:
    """Return whether a prompt begins with the first tokens of an entry, and has others to be read."""
    if entry is None:
        return True
    return len(ids) > num_shared and shared_length(ids[:num_shared], entry.token_ids) == num_shared
