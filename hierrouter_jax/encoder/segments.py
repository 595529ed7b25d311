"""Long texts as segments of one window each, and segments as batches of few shapes.

A text of more tokens than the window is cut into segments that fill it (the last holds the rest), each between the
model's own start and end tokens. The vector of a text is the mean over all tokens of all its segments, start and end
tokens included, divided by its norm: for a text of one segment that is what sentence-transformers computes.

A segment is padded to the next bucket of its own length, and batches of a bucket always have the same number of rows,
so a segment meets the same compiled program whatever else is encoded with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from hierrouter_jax.core.structs import array_struct

SEGMENTING_VERSION = 1  # raised when a text's segments or their mean change

_SMALLEST_BUCKET = 16


@array_struct
class SegmentBatch:
    """Segments padded to one length. Rows beyond `len(segment_index)` are filler with one token."""

    segment_index: Int[np.ndarray, " segment"]
    token_ids: Int[np.ndarray, "batch time"]
    num_tokens: Int[np.ndarray, " batch"]


def cut_segments(token_ids: Sequence[int], *, window_tokens: int, start_id: int, end_id: int) -> list[tuple[int, ...]]:
    """Return the segments of one text, each at most `window_tokens` long with its start and end token.

    A text without tokens has one segment of start and end alone.
    """
    capacity = window_tokens - 2
    cuts = range(0, max(len(token_ids), 1), capacity)
    return [(start_id, *token_ids[cut : cut + capacity], end_id) for cut in cuts]


def batch_segments(
    segments: Sequence[Sequence[int]], *, window_tokens: int, tokens_per_batch: int
) -> Iterator[SegmentBatch]:
    """Yield every segment once, in batches of one bucket each, short buckets first."""
    buckets = np.array([bucket_of(len(segment), window_tokens) for segment in segments], np.int64)
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        num_rows = max(1, tokens_per_batch // int(bucket))
        for first in range(0, len(members), num_rows):
            chosen = members[first : first + num_rows]
            yield _padded([segments[index] for index in chosen], chosen, (num_rows, int(bucket)))


def bucket_of(num_tokens: int, window_tokens: int) -> int:
    """Return the padded length of a segment: the next power of two from 16 on, at most the window."""
    return min(max(_SMALLEST_BUCKET, 1 << (num_tokens - 1).bit_length()), window_tokens)


def unit_vectors(
    segment_sums: Float[np.ndarray, "segment dim"], text_index: Int[np.ndarray, " segment"], num_texts: int
) -> Float[np.ndarray, "text dim"]:
    """Return the unit vector of every text from its segments' sums of token vectors.

    The mean over a text's tokens has the direction of the sum, so the number of tokens is not needed.
    """
    sums = np.zeros((num_texts, segment_sums.shape[1]), np.float64)
    np.add.at(sums, text_index, segment_sums)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)


def _padded(rows: Sequence[Sequence[int]], segment_index: np.ndarray, shape: tuple[int, int]) -> SegmentBatch:
    """Return a batch of `shape`; filler rows have one token, so that attention has something to look at."""
    token_ids = np.zeros(shape, np.int32)
    num_tokens = np.ones(shape[0], np.int32)
    for row_index, row in enumerate(rows):
        token_ids[row_index, : len(row)] = row
        num_tokens[row_index] = len(row)
    return SegmentBatch(segment_index=segment_index, token_ids=token_ids, num_tokens=num_tokens)
