"""Keys and values of prompts read before, so that what a prompt shares with one of them is not computed again.

Prompts of one task share their instructions and examples, later hops of one query share the question, and a key or
value depends on the tokens up to its own alone. So any prompt that was kept serves any other up to the first token in
which they differ. Entries are found by their token ids; the least recently used leave when there are too many bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from hierrouter_jax.llm.cache import KVCache, resize_cache, take_rows

SMALLEST_SHARED = 16  # tokens; below that, looking it up and copying it gains nothing


@dataclass(frozen=True, kw_only=True)
class PrefixEntry:
    """A prompt's tokens, and a cache of one row that holds them."""

    token_ids: np.ndarray
    cache: KVCache

    @property
    def size_bytes(self) -> int:
        """Memory of the entry's keys and values."""
        return sum(array.nbytes for array in (*self.cache.keys, *self.cache.values))


class PrefixCache:
    """The prompts of one model that were kept, at most `max_bytes` of them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, PrefixEntry] = OrderedDict()  # least recently used first

    @property
    def num_entries(self) -> int:
        """How many prompts are kept."""
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Memory of all that is kept."""
        return sum(entry.size_bytes for entry in self._entries.values())

    def longest(self, token_ids: Sequence[int] | np.ndarray) -> tuple[int, PrefixEntry | None]:
        """Return how many first tokens a kept prompt shares, and that prompt; (0, None) below `SMALLEST_SHARED`.

        The last token is never counted: what follows it is yet to be computed.
        """
        wanted = np.asarray(token_ids, np.int32)[:-1]
        best, found = 0, None
        for key, entry in self._entries.items():
            shared = shared_length(wanted, entry.token_ids)
            if shared > best:
                best, found = shared, key
        if found is None or best < SMALLEST_SHARED:
            return 0, None
        self._entries.move_to_end(found)
        return best, self._entries[found]

    def add(self, token_ids: Sequence[int] | np.ndarray, cache: KVCache, row: int) -> None:
        """Keep a copy of one row of a cache, which holds the prompt and may hold more."""
        ids = np.asarray(token_ids, np.int32)
        self._entries.pop(ids.tobytes(), None)
        self._entries[ids.tobytes()] = PrefixEntry(token_ids=ids, cache=take_rows(cache, np.array([row], np.int32)))
        while self._entries and self.size_bytes > self._max_bytes:
            self._entries.popitem(last=False)


def shared_length(first: np.ndarray, second: np.ndarray) -> int:
    """Return the number of tokens before the first in which two texts differ."""
    size = min(len(first), len(second))
    differing = np.flatnonzero(first[:size] != second[:size])
    return int(differing[0]) if len(differing) else size


def rows_from_prefix(entry: PrefixEntry, num_shared: int, *, num_rows: int, num_slots: int) -> KVCache:
    """Return a cache of `num_rows` rows that each hold the first tokens of an entry."""
    cache = resize_cache(entry.cache, num_slots)
    repeated = take_rows(cache, np.zeros(num_rows, np.int32))
    return replace(repeated, lengths=jnp.full(num_rows, num_shared, jnp.int32))


def admission_order(prompts: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[int]:
    """Return the order in which prompts are best read: those that share much together, the largest of those first.

    Prompts that agree in their first 16 tokens stand together, within them those that agree in the first 32, and so
    on; groups come in the order of their largest size, and so do prompts within the smallest group.
    """
    texts = [tuple(prompt) for prompt in prompts]
    keys: list[list[object]] = [[] for _ in texts]
    depth = SMALLEST_SHARED
    while depth <= max(map(len, texts), default=0):
        largest: dict[tuple[int, ...], int] = {}
        for text, size in zip(texts, sizes, strict=True):
            largest[text[:depth]] = max(size, largest.get(text[:depth], 0))
        for key, text in zip(keys, texts, strict=True):
            key.extend((-largest[text[:depth]], text[:depth]))
        depth *= 2
    return sorted(range(len(texts)), key=lambda index: (*keys[index], -sizes[index]))
