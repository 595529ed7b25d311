"""Cascades against a walk of every plan, and on trees where trust is planted."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from reference_mdp import outcomes_of
from synthetic_trees import random_tree

from hierrouter_jax.baselines.cascade import (
    NUM_THRESHOLDS,
    CascadePlan,
    cascade_routes,
    plan_routes,
    scorer_cascade_routes,
)
from hierrouter_jax.baselines.decision_tables import decision_table
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.signals import SIGNAL_NAMES, num_signals

WIDTH = len(SIGNAL_NAMES) + 3
TRAIN, TEST, OTHER = (
    random_tree(seed, num_queries=size, num_signals=num_signals(3, 2)) for seed, size in ((2, 29), (3, 13), (5, 17))
)


def loop_utility(tree, path, threshold, cost_weight):
    """The mean utility of asking path[0], then path[1] unless the first answer's confidence reaches the threshold."""
    total = 0.0
    for query in range(tree.num_queries):
        known = outcomes_of(tree, query)
        confidence = float(tree.signals[query, 1 + path[0], 0])
        taken = path[:1] if len(path) == 1 or confidence >= threshold else path
        total += known[taken][1] - cost_weight * sum(known[taken[: hop + 1]][0] for hop in range(len(taken)))
    return total / tree.num_queries


@pytest.mark.parametrize("cost_weight", [0.0, 0.2])
def test_the_plan_is_the_best_of_all_on_the_validation_tree(cost_weight):
    best, best_plan = -np.inf, None
    for path in [*itertools.product(range(3), repeat=1), *itertools.product(range(3), repeat=2)]:
        seen = np.asarray(TRAIN.signals)[:, 1 + path[0], 0].astype(np.float64)
        grid = [*np.quantile(seen, np.linspace(0, 1, NUM_THRESHOLDS)), np.inf] if len(path) == 2 else [0.0]
        for threshold in grid:
            earned = loop_utility(OTHER, path, threshold, cost_weight)
            if earned > best + 1e-9:
                best, best_plan = earned, (path, threshold)
    routes = cascade_routes(TRAIN, TEST, cost_weight=cost_weight, validation=OTHER)
    found = float(score_routes(TEST, routes, cost_weight=cost_weight).utility.mean())
    assert found == pytest.approx(loop_utility(TEST, *best_plan, cost_weight), rel=1e-5)


def trusted_tree(seed, num_queries=61):
    """Model 0 is cheap and right half of the time, and knows when; model 1 after it is right, and dear."""
    tree = random_tree(seed, num_queries=num_queries, num_models=2, num_signals=num_signals(2, 2))
    rng = np.random.default_rng(seed)
    knows = rng.random(num_queries) < 0.5
    quality, cost = np.zeros((num_queries, 7)), np.tile([0, 0.1, 1.0, 0.1, 1.0, 0.1, 1.0], (num_queries, 1))
    quality[:, 1] = quality[:, 3] = knows
    quality[:, 2] = quality[:, 4] = quality[:, 5] = quality[:, 6] = 1
    signals = np.array(tree.signals)
    signals[:, 1, 0] = np.where(knows, 0.9, 0.2) + 0.05 * rng.random(num_queries)
    return tree.replace(
        quality=jnp.asarray(quality, jnp.float32),
        step_cost=jnp.asarray(cost, jnp.float32),
        signals=jnp.asarray(signals, jnp.float32),
    )


@pytest.mark.parametrize("baseline", [cascade_routes, scorer_cascade_routes])
def test_planted_trust_is_found(baseline):
    train, test = trusted_tree(1, 127), trusted_tree(2)
    scores = score_routes(test, baseline(train, test, cost_weight=0.3), cost_weight=0.3)
    knows = np.asarray(test.quality[:, 1]) > 0
    agree = np.mean((np.asarray(scores.num_hops) == 1) == knows)
    assert agree > 0.9
    assert float(scores.quality.mean()) > 0.9


def test_agreement_ends_a_route_of_three():
    tree = random_tree(7, num_queries=11, num_stages=3, num_signals=num_signals(3, 3))
    signals = np.array(tree.signals)
    agreement = SIGNAL_NAMES.index("agreement")
    node = 1 * 3 + 1 + 1  # models 0, 1
    signals[:, node, agreement] = np.arange(11) % 2
    table = decision_table(tree.replace(signals=jnp.asarray(signals)), cost_weight=0.0)
    plan = CascadePlan(path=(0, 1, 2), thresholds=(np.inf, np.inf), stops_on_agreement=True)
    actions = plan_routes(table, plan, np.zeros(table.legal.shape[:2])).actions
    assert actions.tolist() == [[0, 1, 3 if query % 2 else 2] for query in range(11)]


def test_a_query_that_the_first_model_cannot_be_asked_begins_with_another():
    valid = np.array(TEST.valid)
    valid[4, 1] = valid[4, 4:7] = False
    tree = TEST.replace(valid=jnp.asarray(valid))
    table = decision_table(tree, cost_weight=0.0)
    plan = CascadePlan(path=(0, 1), thresholds=(np.inf,))
    actions = plan_routes(table, plan, np.zeros(table.legal.shape[:2])).actions
    assert actions[4].tolist() == [1, 3]
    assert actions[3].tolist() == [0, 1]
    score_routes(tree, plan_routes(table, plan, np.zeros(table.legal.shape[:2])), cost_weight=0.0)


def test_a_tree_without_signals_is_refused():
    with pytest.raises(DataError, match="has none; collect it again"):
        cascade_routes(random_tree(2), random_tree(3), cost_weight=0.1)
