"""Hand-computed figures for every cost model, and the properties that make them costs."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.text import ModelCard
from hierrouter_jax.costs import hop_cost, normalised_costs, normaliser

SMALL = ModelCard(
    name="small", weights_digest="a", prompt_style="chat", num_parameters=1000, base_rate=3.0, context_window=512,
    max_new_tokens=64, price_in_usd_per_mtok=0.5, price_out_usd_per_mtok=2.0, prefill_s_per_token=0.01,
    decode_s_per_token=0.2, attention_width=70,
)  # fmt: skip
LARGE = dataclasses.replace(SMALL, name="large", num_parameters=7000, base_rate=11.0, decode_s_per_token=0.9,
                            price_out_usd_per_mtok=13.0, attention_width=None)  # fmt: skip
CARDS = (SMALL, LARGE)
COST_MODELS = ("base_rate", "flops", "latency", "price")
COUNTS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("cost_model", "expected"),
    [
        ("base_rate", 3.0 * (5 + 2)),
        # Attention: token i sees i tokens, 4 * 70 operations each: 280 * (1 + 2 + ... + 7) = 280 * 28.
        ("flops", 2 * 1000 * 7 + 280 * 28),
        ("latency", 0.01 * 5 + 0.2 * 2),
        ("price", (0.5 * 5 + 2.0 * 2) / 1e6),
    ],
)
def test_hand_computed(cost_model, expected):
    assert hop_cost(SMALL, 5, 2, cost_model=cost_model) == pytest.approx(expected, rel=1e-12)


def test_flops_without_known_attention_are_those_of_the_parameters():
    assert hop_cost(LARGE, 5, 2, cost_model="flops") == 2 * 7000 * 7


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=11), st.sampled_from(COST_MODELS))
def test_arrays_equal_single_hops(counts, cost_model):
    prompt, new = np.array(counts).T
    received = hop_cost(SMALL, prompt, new, cost_model=cost_model)
    expected = [hop_cost(SMALL, int(p), int(n), cost_model=cost_model) for p, n in counts]
    np.testing.assert_array_equal(received, expected)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from(["base_rate", "latency", "price"]))
def test_linear_in_tokens(prompt, new, more_prompt, more_new, cost_model):
    whole = hop_cost(SMALL, prompt + more_prompt, new + more_new, cost_model=cost_model)
    parts = hop_cost(SMALL, prompt, new, cost_model=cost_model)
    parts += hop_cost(SMALL, more_prompt, more_new, cost_model=cost_model)
    assert whole == pytest.approx(parts, rel=1e-9)


@given(COUNTS, COUNTS, st.sampled_from(COST_MODELS))
def test_a_token_more_costs_more(prompt, new, cost_model):
    cost = hop_cost(SMALL, prompt, new, cost_model=cost_model)
    assert hop_cost(SMALL, prompt + 1, new, cost_model=cost_model) > cost >= 0
    assert hop_cost(SMALL, prompt, new + 1, cost_model=cost_model) > cost


@pytest.mark.parametrize("cost_model", COST_MODELS)
def test_the_dearest_model_answering_the_mean_query_once_costs_one(cost_model):
    rng = np.random.default_rng(0)
    prompt, new = rng.integers(1, 400, (13, 2)), rng.integers(1, 90, (13, 2))
    unit = normaliser(CARDS, prompt, new, cost_model=cost_model)
    index = np.broadcast_to(np.arange(2), (13, 2))
    costs = normalised_costs(CARDS, index, prompt, new, cost_model=cost_model, raw_cost_of_one=unit)
    means = costs.mean(axis=0)
    assert means.max() == pytest.approx(1.0, rel=1e-12)
    assert means.min() < 1.0
    order = rng.permutation(13)
    assert normaliser(CARDS, prompt[order], new[order], cost_model=cost_model) == pytest.approx(unit, rel=1e-12)
    swapped = normaliser(CARDS[::-1], prompt[:, ::-1], new[:, ::-1], cost_model=cost_model)
    assert swapped == pytest.approx(unit, rel=1e-12)


def test_normaliser_by_hand_and_without_unknown_hops():
    prompt, new = np.array([[2, 4], [6, 900]]), np.array([[1, 1], [1, 900]])
    is_known = np.array([[True, True], [True, False]])
    # small: 3 * (3 + 7) / 2 = 15; large: 11 * 5 = 55, its second hop unknown.
    assert normaliser(CARDS, prompt, new, cost_model="base_rate", is_known=is_known) == pytest.approx(55.0)
    with pytest.raises(DataError, match="large"):
        normaliser(CARDS, prompt, new, cost_model="base_rate", is_known=np.array([[True, False], [True, False]]))


def test_normalised_costs_of_nodes_and_a_root_that_costs_nothing():
    received = normalised_costs(
        CARDS, np.array([[-1, 0, 1]]), np.array([[99, 5, 5]]), np.array([[99, 2, 2]]),
        cost_model="base_rate", raw_cost_of_one=7.0,
    )  # fmt: skip
    np.testing.assert_allclose(received, [[0.0, 3.0, 11.0]], rtol=1e-12)


@pytest.mark.parametrize(
    ("field", "cost_model"),
    [
        ("price_in_usd_per_mtok", "price"),
        ("price_out_usd_per_mtok", "price"),
        ("prefill_s_per_token", "latency"),
        ("decode_s_per_token", "latency"),
    ],
)
def test_a_figure_missing_on_the_card_is_named(field, cost_model):
    card = dataclasses.replace(SMALL, **{field: None})
    with pytest.raises(ConfigError, match=rf"{field}.*small"):
        hop_cost(card, 5, 2, cost_model=cost_model)


def test_figures_and_counts_that_are_no_costs_are_refused():
    with pytest.raises(ConfigError, match=r"base_rate.*small.*-1"):
        hop_cost(dataclasses.replace(SMALL, base_rate=-1.0), 5, 2, cost_model="base_rate")
    with pytest.raises(ConfigError, match="nan"):
        hop_cost(dataclasses.replace(SMALL, base_rate=float("nan")), 5, 2, cost_model="base_rate")
    with pytest.raises(DataError, match=r"new tokens.*-2"):
        hop_cost(SMALL, 5, -2, cost_model="base_rate")
    with pytest.raises(DataError, match="every first hop costs 0"):
        normaliser(CARDS, np.zeros((3, 2), int), np.zeros((3, 2), int), cost_model="base_rate")
