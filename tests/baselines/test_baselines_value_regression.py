"""Value regression against loops, identities, and trees whose best actions are planted."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.baselines import value_regression
from hierrouter_jax.baselines.decision_tables import decision_table
from hierrouter_jax.baselines.value_regression import WIDTHS, _Kernels, _Seen, _values, value_regression_routes
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_routes

RIDGE = 0.9


def kernel(x, y):
    return np.mean([np.exp(-width * np.sum((x - y) ** 2)) for width in WIDTHS])


def ridge_regression():
    return KernelRidge(kernel=kernel, alpha=RIDGE)


def seen_of(tree, cost_weight=0.3):
    return _Seen(tree, decision_table(tree, cost_weight=cost_weight))


def known_at(seen, node):
    return seen.table.action_utilities(node, seen.table.quality[:, seen.table.children(node)])


def test_values_are_task_means_and_the_kernel_ridge_regression_of_what_is_left():
    train, seen = (seen_of(random_tree(seed, num_queries=size, num_signals=4)) for seed, size in ((2, 29), (3, 13)))
    chances = np.random.default_rng(0).dirichlet(np.ones(2), size=13)
    for node in (0, 2):
        known = known_at(train, node)
        values, _ = _values(train, known, chances, _Kernels(train, seen, node), RIDGE)
        is_known = np.isfinite(known)
        for action in range(4):
            if not is_known[:, action].any():
                continue
            means = [known[train.task == task, action].mean() for task in (0, 1)]
            left = known[:, action] - np.array(means)[train.task]
            model = ridge_regression().fit(train.inputs[:, node], left)
            expected = chances @ means + model.predict(seen.inputs[:, node])
            np.testing.assert_allclose(values[:, action], expected, atol=1e-6)


def test_a_train_query_s_own_values_are_those_by_all_others():
    train = seen_of(random_tree(5, num_queries=17, share_missing=0.2))
    known = known_at(train, 1)
    there = np.flatnonzero(train.is_there[:, 1])
    assert 3 < len(there) < 17
    _, own = _values(train, known, np.ones((17, 2)) / 2, _Kernels(train, train, 1), RIDGE)
    means = np.where(np.isfinite(known), known, np.nan)
    means = np.stack([np.nanmean(means[train.task == task], axis=0) for task in (0, 1)])
    overall = np.nanmean(np.where(np.isfinite(known), known, np.nan), axis=0)
    means = np.where(np.isnan(means), overall, means)[train.task]
    left = np.where(np.isfinite(known), known - means, 0.0)
    for query in there:
        others = there[there != query]
        model = ridge_regression()
        model.fit(train.inputs[others, 1], left[others])
        np.testing.assert_allclose(own[query], means[query] + model.predict(train.inputs[query : query + 1, 1])[0])


@pytest.mark.parametrize("with_validation", [False, True])
def test_planted_routes_of_two_hops_are_found_and_tasks_of_others_are_not_read(with_validation):
    train, validation, test = (context_dependent_tree(seed, num_queries=size) for seed, size in
                               ((0, 192), (1, 61), (2, 67)))  # fmt: skip
    test = dataclasses.replace(test, task=jnp.zeros_like(test.task))
    routes = value_regression_routes(train, test, cost_weight=0.1, validation=validation if with_validation else None)
    earned = float(score_routes(test, routes, cost_weight=0.1).utility.mean())
    best = float(score_routes(test, optimal_routes(test, cost_weight=0.1), cost_weight=0.1).utility.mean())
    assert earned > best - 0.02
    assert len(np.unique(np.asarray(routes.actions), axis=0)) == 6


def test_differences_within_a_task_are_learned():
    train, test = (context_dependent_tree(seed, num_queries=size) for seed, size in ((0, 192), (2, 67)))
    alone = [dataclasses.replace(tree, task=jnp.zeros_like(tree.task)) for tree in (train, test)]
    routes = value_regression_routes(*alone, cost_weight=0.1)
    best = float(score_routes(test, optimal_routes(test, cost_weight=0.1), cost_weight=0.1).utility.mean())
    assert float(score_routes(test, routes, cost_weight=0.1).utility.mean()) > best - 0.05


def test_only_legal_actions_are_taken_and_missing_nodes_are_no_obstacle():
    train, test = (random_tree(seed, num_queries=31, share_missing=0.4) for seed in (7, 11))
    routes = value_regression_routes(train, test, cost_weight=0.2)
    score_routes(test, routes, cost_weight=0.2)  # refuses routes that are not the tree's
    few = random_tree(13, num_queries=2)
    assert value_regression_routes(few, test, cost_weight=0.2).actions.shape == (31, 2)
    with pytest.raises(DataError, match="model"):
        value_regression_routes(random_tree(2, num_models=2), test, cost_weight=0.2)


def test_a_large_train_tree_is_compared_with_a_share_of_itself(monkeypatch):
    monkeypatch.setattr(value_regression, "MAX_ROWS", 7)
    train, test = (random_tree(seed, num_queries=31) for seed in (7, 11))
    whole = seen_of(train)
    known = known_at(whole, 2)
    values, own = _values(whole, known, np.ones((31, 2)) / 2, _Kernels(whole, seen_of(test), 2), RIDGE)
    means = np.stack([known[whole.task == task].mean(axis=0) for task in (0, 1)])
    changed = np.flatnonzero((np.abs(own - means[whole.task]) > 1e-9).any(axis=1))
    assert changed.tolist() == list(range(0, 31, 5))  # every fifth: 7 of 31
    assert np.isfinite(values).all()
