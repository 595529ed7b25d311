"""Rows in flight: the rows of a batch that decode together, where one that ends makes room for one that waits.

A step costs what its batch costs, and answers differ in length several times over; so no row waits for the longest of
its batch. Those that fit are read (`reading_queue`) and put into the batch's cache; all decode for a few steps; the
host takes the new tokens, lets go of the rows that ended, and admits others. All that a row is besides its cache is
kept on the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import jax
import numpy as np
from jaxtyping import Float, Int

from hierrouter_jax.core.text import FinishReason, Sampling
from hierrouter_jax.llm.batching import BatchLimits, decode_bucket, fits_memory, slot_bucket
from hierrouter_jax.llm.cache import KVCache, empty_cache, insert_rows, resize_cache, take_rows
from hierrouter_jax.llm.decode_loop import NO_TOKEN, DecodeState, decode_chunk
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.prefix_cache import PrefixCache
from hierrouter_jax.llm.prompt_lookup import SHORTEST_MATCH, next_match_length, propose, verify_proposals
from hierrouter_jax.llm.reading import draw_first
from hierrouter_jax.llm.reading_queue import ReadGroup, ReadingQueue
from hierrouter_jax.llm.sampling import sampling_mode, stack_samplings
from hierrouter_jax.llm.stop_strings import IsComplete
from hierrouter_jax.llm.token_counts import TokenCounts


@dataclass(kw_only=True)
class Row:
    """One prompt on its way."""

    index: int  # in the caller's order
    prompt: Sequence[int]
    budget: int
    sampling: Sampling
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    match_length: int = SHORTEST_MATCH  # of the newest tokens with earlier ones, for the tokens there to be proposed

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer so far, the last of which is not in the cache yet."""
        return len(self.prompt) + len(self.token_ids)

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.prompt) + self.budget


class InFlightBatch:
    """Answers rows with one model; `finished` hands them over as they end."""

    def __init__(
        self,
        model: DecoderModel,
        rows: Sequence[Row],
        *,
        stop_ids: np.ndarray,
        is_complete: IsComplete | None,
        limits: BatchLimits,
        prefixes: PrefixCache,
        counts: TokenCounts,
    ) -> None:
        self._model, self._limits, self._counts = model, limits, counts
        self._stop_ids, self._stops, self._is_complete = stop_ids, frozenset(stop_ids.tolist()), is_complete
        self._mode = sampling_mode([row.sampling for row in rows])
        self._waiting = ReadingQueue(model, rows, limits=limits, prefixes=prefixes)
        self._places: list[Row | None] = []  # the batch's rows; None is free
        self._cache: KVCache | None = None

    def finished(self) -> Iterator[list[Row]]:
        """Yield the rows that ended since the last time, until none is left; work goes on when more are asked for."""
        while self._waiting or self._running():
            num_free = self._num_free()
            self._arrange(decode_bucket(max(self._limits.min_places, len(self._running()) + num_free)))
            ended = self._admit(num_free)
            if self._running():
                ended += self._decode()
            if ended:
                yield ended

    def _running(self) -> list[Row]:
        return [row for row in self._places if row is not None]

    def _num_free(self) -> int:
        """Return how many of the rows that wait first fit beside those that run."""
        num_running = len(self._running())
        longest = max((row.most_tokens for row in self._running()), default=0)
        for num_free, row in enumerate(self._waiting):
            num_rows, longest = num_running + num_free + 1, max(longest, row.most_tokens)
            if num_rows > self._limits.max_batch or not fits_memory(self._model, num_rows, longest, self._limits):
                return num_free
        return len(self._waiting)

    def _arrange(self, num_places: int) -> None:
        """Give the batch that many places, the running rows first."""
        if num_places == len(self._places):
            return
        kept = [place for place, row in enumerate(self._places) if row is not None]
        if self._cache is not None:
            spare = [0] * (num_places - len(kept))  # what is in a free place is never seen
            self._cache = take_rows(self._cache, np.array(kept + spare, np.int32), gives_up=True)
        self._places = [self._places[place] for place in kept] + [None] * (num_places - len(kept))

    def _admit(self, num_free: int) -> list[Row]:
        """Read as many of the waiting rows; return those that ended with their first token."""
        ended: list[Row] = []
        while num_free > 0:
            read = self._waiting.read_next(num_free)
            num_free -= len(read.items)
            self._draw_first(read)
            going = [source for source, row in enumerate(read.items) if row.finish_reason is None]
            ended += [row for row in read.items if row.finish_reason is not None]
            if going:
                self._place(read.items, read.cache, going)
        return ended

    def _draw_first(self, read: ReadGroup[Row]) -> None:
        """Give every row of a group its first token."""
        sampling = stack_samplings([row.sampling for row in read.items])
        tokens, logprobs = draw_first(self._model.ends, read.hidden, sampling, mode=self._mode)
        self._counts.computed_prompt += read.num_computed
        for row, token, logprob in zip(read.items, tokens.tolist(), logprobs.tolist(), strict=True):
            self._counts.billed_prompt += len(row.prompt)
            self._take(row, [token], [logprob])

    def _place(self, group: Sequence[Row], cache: KVCache, sources: Sequence[int]) -> None:
        """Put the rows of a group that go on into free places of the batch."""
        num_slots = slot_bucket(max(group[source].num_tokens for source in sources), len(self._places))
        if num_slots < cache.num_slots:
            cache = resize_cache(cache, num_slots)
        batch = self._make_slots(cache.num_slots)
        free = [place for place, row in enumerate(self._places) if row is None][: len(sources)]
        self._cache = insert_rows(batch, cache, sources, free)
        for place, source in zip(free, sources, strict=True):
            self._places[place] = group[source]

    def _make_slots(self, needed: int) -> KVCache:
        """Return the batch's cache with at least as many slots as are needed."""
        num_slots = slot_bucket(needed, len(self._places))
        if self._cache is None:
            self._cache = empty_cache(self._model.config, len(self._places), num_slots, dtype=self._model.dtype)
        elif num_slots > self._cache.num_slots:
            self._cache = resize_cache(self._cache, num_slots, gives_up=True)
        return self._cache

    def _decode(self) -> list[Row]:
        """Decode a few steps, or check what rows may repeat in one; return the rows that ended."""
        proposals = self._propose()
        state = _state_of(self._places, self._make_slots(self._num_slots_for(proposals.shape[1])))
        if proposals.size:
            state, *outcome = verify_proposals(self._model, state, proposals)
            drawn, logprobs = jax.device_get(outcome)
            num_computed = drawn.size
        else:
            num_ending = max(1, len(self._places) // 16) if self._waiting else len(self._places)
            state, *outcome = decode_chunk(
                self._model, state, self._stop_ids, num_ending, num_steps=self._limits.chunk, mode=self._mode
            )
            drawn, logprobs = jax.device_get(outcome)
            num_computed = len(self._places) * int((drawn != NO_TOKEN).any(axis=0).sum())
        self._cache = state.cache
        self._counts.computed_new += num_computed
        return self._take_all(drawn, logprobs, proposals)

    def _num_slots_for(self, num_proposed: int) -> int:
        """Return the slots that the next steps write to; proposals are written before it is known how many hold."""
        if num_proposed:
            return max(row.num_tokens for row in self._running()) + num_proposed
        return max(min(row.num_tokens + self._limits.chunk, row.most_tokens) for row in self._running())

    def _propose(self) -> Int[np.ndarray, "batch proposal"]:
        """Return what each row may say next, padded; without columns where nothing is to be proposed."""
        nothing = np.empty((len(self._places), 0), np.int32)
        if self._mode != "greedy" or len(self._places) > self._limits.max_lookup_batch:
            return nothing
        proposals = np.full((len(self._places), self._limits.lookup_length), NO_TOKEN, np.int32)
        for place, row in enumerate(self._places):
            if row is not None:
                text = np.array([*row.prompt, *row.token_ids], np.int32)
                own = propose(text, match_length=row.match_length, num_tokens=self._limits.lookup_length)
                proposals[place, : len(own)] = own
        return proposals if (proposals != NO_TOKEN).any() else nothing

    def _take_all(
        self,
        drawn: Int[np.ndarray, "batch time"],
        logprobs: Float[np.ndarray, "batch time"],
        proposals: Int[np.ndarray, "batch proposal"],
    ) -> list[Row]:
        """Give every row its new tokens; return the rows that ended, whose places are free now."""
        ended = []
        for place, (ids, values) in enumerate(zip(drawn.tolist(), logprobs.tolist(), strict=True)):
            row = self._places[place]
            if row is None:
                continue
            self._take(row, ids, values)
            if (proposals[place] != NO_TOKEN).any():
                num_accepted = int((drawn[place] != NO_TOKEN).sum()) - 1
                row.match_length = next_match_length(row.match_length, num_accepted)
            if row.finish_reason is not None:
                self._places[place] = None
                ended.append(row)
        return ended

    def _take(self, row: Row, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Append new tokens to a row up to the one that ends it, whether by stop token, completeness or budget."""
        for token, logprob in zip(ids, logprobs, strict=True):
            if token == NO_TOKEN:
                return
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            self._counts.billed_new += 1
            is_complete = self._is_complete is not None and self._is_complete(row.index, row.token_ids)
            if token in self._stops or is_complete:
                row.finish_reason = "stop"
            elif len(row.token_ids) >= row.budget:
                row.finish_reason = "length"
            if row.finish_reason is not None:
                return


def _state_of(places: Sequence[Row | None], cache: KVCache) -> DecodeState:
    """Return what the device needs to know of the rows; a free place is done."""
    rows = [row if row is not None else _NOBODY for row in places]
    lengths, last_tokens, num_new, budgets, is_done = jax.device_put(  # together: each by itself takes as long as all
        (
            np.array([row.num_tokens - 1 for row in rows], np.int32),
            np.array([row.token_ids[-1] for row in rows], np.int32),
            np.array([len(row.token_ids) for row in rows], np.int32),
            np.array([row.budget for row in rows], np.int32),
            np.array([row is None for row in places]),
        )
    )
    return DecodeState(
        cache=replace(cache, lengths=lengths),
        last_tokens=last_tokens,
        num_new=num_new,
        budgets=budgets,
        is_done=is_done,
        sampling=stack_samplings([row.sampling for row in rows]),
    )


_NOBODY = Row(index=-1, prompt=(), budget=1, sampling=Sampling(), token_ids=[0], logprobs=[0.0])
