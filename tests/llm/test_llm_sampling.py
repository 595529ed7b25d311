"""Sampling: filters against NumPy loops, drawn frequencies against the distribution, keys against batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hierrouter_jax.core.text import GREEDY, Sampling
from hierrouter_jax.llm.sampling import (
    draw_tokens,
    keep_mask,
    likeliest_tokens,
    sampling_mode,
    stack_samplings,
    token_logprobs,
)

VOCAB_SIZE = 23


def random_logits(num_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_rows, VOCAB_SIZE)).astype(np.float32) * 2


@pytest.mark.parametrize("shape", [(7, 23), (5, 3, 16), (3, 48), (11, 7 * 256), (2, 3, 37 * 64)])
def test_the_likeliest_token_is_the_first_of_equals(shape):
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 5, shape).astype(np.float32)  # the highest comes many times, in a block and in several
    fine = rng.standard_normal(shape, np.float32)
    late = np.full(shape, -np.inf, np.float32)
    late[..., -1] = -5
    for logits in (coarse, fine, late, np.zeros(shape, np.float32), -np.abs(fine)):
        found = jax.jit(likeliest_tokens)(logits)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, logits.argmax(axis=-1))


def expected_keep(logits: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Add tokens from the likeliest on, until k are kept or those kept reach p of the top k's probability."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    in_k = order[: top_k or len(order)]
    total = sum(np.exp(float(logits[token])) for token in in_k)
    kept, reached = np.zeros(len(logits), bool), 0.0
    for token in in_k:
        if top_p < 1 and reached >= top_p:
            break
        kept[token] = True
        reached += np.exp(float(logits[token])) / total
    return kept


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.7), (7, 0.9), (3, 0.05), (99, 0.999)])
def test_filters_keep_what_a_loop_keeps(top_k, top_p):
    logits = random_logits(11)
    kept = keep_mask(jnp.asarray(logits), jnp.full(11, top_k), jnp.full(11, top_p))
    np.testing.assert_array_equal(kept, [expected_keep(row, top_k, top_p) for row in logits])


def test_rows_filter_by_their_own_settings():
    logits = random_logits(3)
    kept = keep_mask(jnp.asarray(logits), jnp.array([2, 0, 5]), jnp.array([1.0, 0.5, 0.8]))
    expected = [expected_keep(*row) for row in zip(logits, (2, 0, 5), (1.0, 0.5, 0.8), strict=True)]
    np.testing.assert_array_equal(kept, expected)


def test_ties_with_the_last_token_kept_are_kept():
    kept = keep_mask(jnp.array([[3.0, 1.0, 1.0, 0.0]]), jnp.array([2]), jnp.array([1.0]))
    np.testing.assert_array_equal(kept, [[True, True, True, False]])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.7),
        Sampling(temperature=1.3, top_k=5),
        Sampling(temperature=0.9, top_p=0.6),
    ],
)
def test_tokens_come_as_often_as_they_are_probable(sampling):
    num_draws = 20_011
    logits = random_logits(1, seed=5)[0]
    scaled = logits.astype(np.float64) / sampling.temperature
    kept = expected_keep(scaled, sampling.top_k or 0, 1.0 if sampling.top_p is None else sampling.top_p)
    probabilities = np.where(kept, np.exp(scaled), 0)
    probabilities /= probabilities.sum()
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_draws,)), stack_samplings([sampling]))
    tokens = draw_tokens(
        jnp.broadcast_to(logits, (num_draws, VOCAB_SIZE)), rows, jnp.arange(num_draws), mode=sampling_mode([sampling])
    )
    counts = np.bincount(tokens, minlength=VOCAB_SIZE)
    assert counts[~kept].sum() == 0
    # Five standard deviations of a binomial count, and one draw more for tokens that hardly ever come.
    deviation = np.sqrt(num_draws * probabilities * (1 - probabilities))
    np.testing.assert_array_less(np.abs(counts - num_draws * probabilities), 5 * deviation + 1)


def test_a_draw_depends_on_seed_and_count_alone():
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in (3, 5, 3)]
    logits = jnp.broadcast_to(random_logits(1)[0], (3, VOCAB_SIZE))
    together = [draw_tokens(logits, stack_samplings(samplings), jnp.full(3, n), mode="sampled") for n in range(29)]
    alone = [
        [draw_tokens(logits[:1], stack_samplings([s]), jnp.full(1, n), mode="sampled")[0] for s in samplings]
        for n in range(29)
    ]
    np.testing.assert_array_equal(together, alone)
    together = np.array(together)
    np.testing.assert_array_equal(together[:, 0], together[:, 2])
    assert (together[:, 0] != together[:, 1]).any()
    assert len(set(together[:, 0].tolist())) > 3


def test_seeds_of_any_size_are_legal_and_differ():
    rows = stack_samplings([Sampling(temperature=1.0, seed=seed) for seed in (-1, 2**31, 2**40 + 7)])
    assert rows.seed.tolist() == [2**32 - 1, 2**31, 7]


def test_temperature_zero_takes_the_likeliest_in_every_mode():
    logits = jnp.asarray(random_logits(7))
    rows = stack_samplings([GREEDY] * 7)
    for mode in ("greedy", "sampled", "filtered"):
        tokens = draw_tokens(logits, rows, jnp.zeros(7, jnp.int32), mode=mode)
        np.testing.assert_array_equal(tokens, np.argmax(logits, axis=-1))


def test_a_batch_is_compiled_for_the_least_that_serves_all():
    warm = Sampling(temperature=0.5)
    assert sampling_mode([GREEDY, Sampling(top_k=3)]) == "greedy"
    assert sampling_mode([GREEDY, warm, Sampling(temperature=1.0, top_p=1.0)]) == "sampled"
    assert sampling_mode([GREEDY, warm, Sampling(temperature=1.0, top_p=0.9)]) == "filtered"
    assert sampling_mode([warm, Sampling(temperature=1.0, top_k=1)]) == "filtered"


def test_log_probabilities_are_those_of_the_softmax():
    logits = random_logits(5)
    tokens = np.array([0, 22, 3, 7, 11])
    wide = logits.astype(np.float64)
    expected = [row[token] - np.log(np.exp(row).sum()) for row, token in zip(wide, tokens, strict=True)]
    np.testing.assert_allclose(token_logprobs(jnp.asarray(logits), jnp.asarray(tokens)), expected, rtol=1e-5)
