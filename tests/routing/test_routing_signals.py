"""Signals by hand and by loops: what one response gives, what a route sees, when answers agree."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hierrouter_jax.routing.route_tree import node_of_path
from hierrouter_jax.routing.signals import (
    SIGNAL_NAMES,
    num_signals,
    response_signals,
    route_signals,
    signal_names,
    tree_agreement,
    tree_signals,
)


def test_one_response_by_hand():
    signals = response_signals(
        mean_logprob=np.array([np.log(0.25), -0.0, 1e-9]),
        is_parsed=np.array([True, False, True]),
        is_truncated=np.array([False, True, False]),
        num_new_tokens=np.array([1, 1024, 0]),
        agreement=np.array([0.5, 0.0, 1.0]),
        passes_examples=np.array([1, -1, 0], np.int8),
        model_index=np.array([1, 0, 1]),
        num_models=2,
    )
    np.testing.assert_allclose(
        signals,
        [
            [0.25, 1, 0, np.log(2) / np.log(1025), 0.5, 1, 0, 0, 1],
            [1, 0, 1, 1, 0, 0, 1, 1, 0],
            [1, 1, 0, 0, 1, 0, 0, 0, 1],
        ],
        rtol=1e-6,
    )
    assert len(signal_names(["a", "b"])) == signals.shape[1] == len(SIGNAL_NAMES) + 2


@pytest.mark.parametrize(("num_models", "num_stages"), [(3, 2), (2, 4), (1, 3), (5, 1)])
def test_a_tree_shows_at_each_node_what_the_route_there_has_measured(num_models, num_stages):
    rng = np.random.default_rng(0)
    width = len(SIGNAL_NAMES) + num_models
    paths = [path for t in range(num_stages + 1) for path in itertools.product(range(num_models), repeat=t)]
    own = rng.random((7, len(paths), width)).astype(np.float32)
    seen = tree_signals(own, num_models=num_models, num_stages=num_stages)
    assert seen.shape == (7, len(paths), num_signals(num_models, num_stages))
    for query, (node, path) in itertools.product(range(7), enumerate(paths)):
        way = [node_of_path(num_models, path[:length]) for length in range(len(path), 0, -1)]
        expected = route_signals([own[query, at] for at in way], num_models=num_models, num_stages=num_stages)
        np.testing.assert_array_equal(seen[query, node], expected)
        by_place = expected.reshape(num_stages - 1, width)
        assert not by_place[len(path) :].any()
        for place, at in enumerate(way[: num_stages - 1]):
            np.testing.assert_array_equal(by_place[place], own[query, at])


@pytest.mark.parametrize(("num_models", "num_stages"), [(3, 2), (2, 4)])
def test_agreement_by_loop(num_models, num_stages):
    rng = np.random.default_rng(1)
    paths = [path for t in range(num_stages + 1) for path in itertools.product(range(num_models), repeat=t)]
    answers = rng.integers(0, 3, (11, len(paths)))
    answers[:, 0] = 0
    found = tree_agreement(answers, num_models=num_models, num_stages=num_stages)
    for query, (node, path) in itertools.product(range(11), enumerate(paths)):
        earlier = [answers[query, node_of_path(num_models, path[:length])] for length in range(1, len(path))]
        own = answers[query, node]
        equal = [own != 0 and own == other for other in earlier]
        assert found[query, node] == (sum(equal) / len(equal) if equal else 0.0), (query, path)
