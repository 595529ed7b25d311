"""Nearest neighbours against loops over queries, one distance at a time."""

from __future__ import annotations

import numpy as np
import pytest
from reference_mdp import outcomes_of
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.baselines.nearest import NUM_NEIGHBOURS, knn_multi_hop_routes, knn_routes
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.routing.route_tree import node_of_path
from hierrouter_jax.routing.scores import score_routes

TRAIN, TEST, OTHER = (random_tree(seed, num_queries=size, dim=3) for seed, size in ((2, 29), (3, 13), (5, 17)))
COST_WEIGHT = 0.3


def context(tree, query, path):
    return np.asarray(tree.context[tree.context_row[query, node_of_path(tree.num_models, path)]], np.float64)


def neighbours(train, tree, query, path, number, *, left_out=None):
    """The train queries nearest to a query at a node, nearest first."""
    there = [other for other in range(train.num_queries) if path in outcomes_of(train, other) or path == ()]
    there = [other for other in there if other != left_out]
    return sorted(there, key=lambda other: -context(tree, query, path) @ context(train, other, path))[:number]


def loop_action(train, tree, query, path, number, earned, *, left_out=None):
    """The legal action with the highest mean of `earned(train query, action)` over the neighbours that know it."""
    known = outcomes_of(tree, query)
    legal = [model for model in range(3) if (*path, model) in known]
    if path:
        legal.append(3)
    means = {}
    for action in legal:
        near = neighbours(train, tree, query, path, number, left_out=left_out)
        values = [earned(other, action) for other in near]
        values = [value for value in values if value is not None]
        if not values:
            everyone = [earned(other, action) for other in range(train.num_queries)]
            values = [value for value in everyone if value is not None] or [0.0]
        means[action] = sum(values) / len(values)
    return max(means, key=means.__getitem__)


def one_hop_earned(train):
    def earned(query, action):
        known = outcomes_of(train, query)
        return known[(action,)][1] - COST_WEIGHT * known[(action,)][0] if (action,) in known else None

    return earned


@pytest.mark.parametrize("number", [1, 2, 8, 100])
def test_one_hop_by_loops(number):
    routes = knn_routes(TRAIN, TEST, cost_weight=COST_WEIGHT, num_neighbours=number)
    earned = one_hop_earned(TRAIN)
    expected = [loop_action(TRAIN, TEST, query, (), number, earned) for query in range(TEST.num_queries)]
    assert routes.actions.tolist() == [[action, 3] for action in expected]


@pytest.mark.parametrize("share_missing", [0.0, 0.3])
@pytest.mark.parametrize("number", [2, 5])
def test_multi_hop_by_loops(number, share_missing):
    train = random_tree(2, num_queries=23, dim=3, share_missing=share_missing)
    test = random_tree(3, num_queries=11, dim=3, share_missing=share_missing)

    def second_earned(first):
        def earned(query, action):
            known = outcomes_of(train, query)
            if (first,) not in known:
                return None
            if action == 3:
                return known[(first,)][1]
            path = (first, action)
            return known[path][1] - COST_WEIGHT * known[path][0] if path in known else None

        return earned

    def first_earned(query, action):
        """What a train query earns by a first hop, going on as it would if it were not among its own neighbours."""
        known = outcomes_of(train, query)
        if (action,) not in known:
            return None
        earned = second_earned(action)
        after = loop_action(train, train, query, (action,), number, earned, left_out=query)
        return earned(query, after) - COST_WEIGHT * known[(action,)][0]

    routes = knn_multi_hop_routes(train, test, cost_weight=COST_WEIGHT, num_neighbours=number)
    for query in range(test.num_queries):
        first = loop_action(train, test, query, (), number, first_earned)
        second = loop_action(train, test, query, (first,), number, second_earned(first))
        assert routes.actions[query].tolist() == [first, second], query


@pytest.mark.parametrize("baseline", [knn_routes, knn_multi_hop_routes])
def test_the_number_is_that_of_the_highest_utility_on_validation(baseline):
    earned = {}
    for number in (number for number in NUM_NEIGHBOURS if number < TRAIN.num_queries):
        routes = baseline(TRAIN, OTHER, cost_weight=COST_WEIGHT, num_neighbours=number)
        earned[number] = float(score_routes(OTHER, routes, cost_weight=COST_WEIGHT).utility.mean())
    best = max(earned, key=lambda number: (round(earned[number], 6), number))
    chosen = baseline(TRAIN, TEST, cost_weight=COST_WEIGHT, validation=OTHER).actions
    np.testing.assert_array_equal(chosen, baseline(TRAIN, TEST, cost_weight=COST_WEIGHT, num_neighbours=best).actions)
    kinds = {
        str(baseline(TRAIN, TEST, cost_weight=COST_WEIGHT, num_neighbours=number).actions.tolist()) for number in earned
    }
    assert len(kinds) > 2  # the number matters


def test_where_neighbours_tell_the_route_it_is_found():
    train, test = context_dependent_tree(1, num_queries=127, noise=0.05), context_dependent_tree(2, noise=0.05)
    scores = score_routes(test, knn_multi_hop_routes(train, test, cost_weight=0.1), cost_weight=0.1)
    assert float(scores.quality.mean()) > 0.95
    one_hop = score_routes(test, knn_routes(train, test, cost_weight=0.1), cost_weight=0.1)
    assert 0.4 < float(one_hop.quality.mean()) < 0.65  # half of the kinds need two hops


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="num_neighbours must be >= 1"):
        knn_routes(TRAIN, TEST, cost_weight=0.1, num_neighbours=0)
    with pytest.raises(DataError, match="share models"):
        knn_routes(random_tree(2, num_models=2), TEST, cost_weight=0.1)
    with pytest.raises(DataError, match="share models"):
        knn_routes(TRAIN, TEST, cost_weight=0.1, validation=random_tree(2, num_models=2))
