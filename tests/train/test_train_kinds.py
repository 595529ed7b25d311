"""Kinds of question found by clustering, on questions whose kinds are planted."""

import jax
import numpy as np
import pytest
from synthetic_trees import context_dependent_tree

from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_values
from hierrouter_jax.train.kinds import with_kinds
from hierrouter_jax.train.make_train import make_train
from hierrouter_jax.train.presets import PRESETS, preset

TREE = context_dependent_tree(1, num_queries=127, num_stages=1)


def test_clusters_are_the_planted_kinds_and_equal_each_time():
    found = with_kinds(TREE, 6)
    assert found.task_names == tuple(f"kind_{index}" for index in range(6))
    pairs = set(zip(np.asarray(found.task).tolist(), np.asarray(TREE.task).tolist(), strict=True))
    assert len(pairs) == 6  # each cluster is one kind
    np.testing.assert_array_equal(with_kinds(TREE, 6).task, found.task)


def test_a_mixture_learns_from_kinds_what_it_learns_from_names():
    test = context_dependent_tree(2, num_stages=1)
    best = float(optimal_values(test, cost_weight=0.1)[:, 0].mean())
    params = jax.jit(make_train(PRESETS["task-mixture"], with_kinds(TREE, 6)))(jax.random.key(0)).params
    earned = float(score_routes(test, greedy_routes(params, test), cost_weight=0.1).utility.mean())
    alone = jax.jit(make_train(PRESETS["task-mixture"], with_kinds(TREE, 1)))(jax.random.key(0)).params
    blind = float(score_routes(test, greedy_routes(alone, test), cost_weight=0.1).utility.mean())
    assert earned > 0.95 * best
    assert blind < 0.7 * best


@pytest.mark.parametrize("num_kinds", [0, -1, 128])
def test_impossible_numbers_of_kinds_are_refused(num_kinds):
    with pytest.raises(ConfigError, match="1 to 127"):
        with_kinds(TREE, num_kinds)


def test_a_preset_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="task-mixture, ppo"):
        preset("magic")
