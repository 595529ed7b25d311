"""Oracles: NumPy loops; properties that must hold for any lengths."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hierrouter_jax.encoder.segments import batch_segments, bucket_of, cut_segments, unit_vectors


@given(num_tokens=st.integers(0, 211), window_tokens=st.integers(3, 37))
def test_segments_hold_every_token_once_and_fill_the_window(num_tokens, window_tokens):
    token_ids = list(range(100, 100 + num_tokens))
    segments = cut_segments(token_ids, window_tokens=window_tokens, start_id=1, end_id=2)
    assert [token for segment in segments for token in segment[1:-1]] == token_ids
    assert all(segment[0] == 1 and segment[-1] == 2 for segment in segments)
    assert all(len(segment) == window_tokens for segment in segments[:-1])
    assert 2 <= len(segments[-1]) <= window_tokens
    assert len(segments) == 1 or len(segments[-1]) > 2


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 41), max_size=29), tokens_per_batch=st.integers(1, 157))
def test_batches_hold_every_segment_once_in_few_shapes(lengths, tokens_per_batch):
    segments = [tuple(range(1, length + 1)) for length in lengths]
    seen = {}
    shapes = {}
    for batch in batch_segments(segments, window_tokens=41, tokens_per_batch=tokens_per_batch):
        num_rows, bucket = batch.token_ids.shape
        assert shapes.setdefault(bucket, num_rows) == num_rows
        assert (batch.num_tokens >= 1).all()
        for row, index in enumerate(batch.segment_index):
            assert bucket == bucket_of(lengths[index], 41)
            assert batch.num_tokens[row] == lengths[index]
            assert tuple(batch.token_ids[row, : lengths[index]]) == segments[index]
            assert not batch.token_ids[row, lengths[index] :].any()
            seen[int(index)] = seen.get(int(index), 0) + 1
    assert seen == dict.fromkeys(range(len(lengths)), 1)
    assert set(shapes) <= {16, 32, 41}


def test_unit_vectors_are_means_over_all_tokens():
    rng = np.random.default_rng(0)
    lengths, text_index = (5, 3, 7, 2, 11), np.array([0, 0, 1, 2, 2])
    tokens = [rng.normal(size=(length, 13)).astype(np.float32) for length in lengths]
    sums = np.stack([rows.sum(axis=0) for rows in tokens])
    received = unit_vectors(sums, text_index, 3)
    for text in range(3):
        mean = np.concatenate([rows for rows, owner in zip(tokens, text_index, strict=True) if owner == text]).mean(0)
        np.testing.assert_allclose(received[text], mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)


def test_a_vanishing_mean_is_no_nan():
    assert np.isfinite(unit_vectors(np.zeros((1, 5), np.float32), np.array([0]), 1)).all()
