import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from reference_mdp import outcomes_of
from synthetic_trees import random_tree

from hierrouter_jax.baselines.fixed import (
    best_fixed_path,
    best_fixed_routes,
    best_single_model,
    best_single_routes,
    best_task_routes,
    fixed_routes,
    single_routes,
)
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.routing.route_tree import rows_of_tree
from hierrouter_jax.routing.scores import score_routes

TRAIN, TEST = random_tree(2, num_queries=11), random_tree(3, num_queries=7)
PATHS = [path for stage in (1, 2) for path in itertools.product(range(3), repeat=stage)]


def mean_utility(tree, path, cost_weight):
    total = 0.0
    for query in range(tree.num_queries):
        outcomes = outcomes_of(tree, query)
        total += outcomes[path][1] - cost_weight * sum(outcomes[path[: i + 1]][0] for i in range(len(path)))
    return total / tree.num_queries


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_fixed_routes_score_what_their_path_earns(path):
    routes = fixed_routes(TEST, path)
    assert routes.actions.tolist() == [[*path, 3][:2]] * 7
    scores = score_routes(TEST, routes, cost_weight=0.3)
    np.testing.assert_allclose(scores.utility.mean(), mean_utility(TEST, path, 0.3), rtol=1e-5)


@pytest.mark.parametrize("cost_weight", [0.0, 0.2, 1.0, 5.0])
def test_best_on_the_train_tree_whatever_the_scored_tree_says(cost_weight):
    means = {path: mean_utility(TRAIN, path, cost_weight) for path in PATHS}
    best_path = max(PATHS, key=means.__getitem__)
    best_model = max(range(3), key=lambda model: means[(model,)])
    flipped = TEST.replace(quality=1 - TEST.quality)
    for tree in (TEST, flipped):
        assert best_single_model(TRAIN, tree, cost_weight=cost_weight) == best_model
        assert best_fixed_path(TRAIN, tree, cost_weight=cost_weight) == best_path
        np.testing.assert_array_equal(
            best_single_routes(TRAIN, tree, cost_weight=cost_weight).actions, single_routes(tree, best_model).actions
        )
        np.testing.assert_array_equal(
            best_fixed_routes(TRAIN, tree, cost_weight=cost_weight).actions, fixed_routes(tree, best_path).actions
        )


@pytest.mark.parametrize("num_hops", [1, 2, None])
def test_the_best_route_of_a_length_and_of_a_task(num_hops):
    lengths = [path for path in PATHS if num_hops in (None, len(path))]
    means = {path: mean_utility(TRAIN, path, 0.2) for path in lengths}
    best = max(lengths, key=means.__getitem__)
    assert best_fixed_path(TRAIN, TEST, cost_weight=0.2, num_hops=num_hops) == best
    routes = best_task_routes(TRAIN, TEST, cost_weight=0.2, num_hops=num_hops).actions
    for task in range(2):
        own = rows_of_tree(TRAIN, np.flatnonzero(np.asarray(TRAIN.task) == task))
        best_of_task = max(lengths, key=lambda path: mean_utility(own, path, 0.2))
        for query in np.flatnonzero(np.asarray(TEST.task) == task):
            assert routes[query].tolist() == [*best_of_task, 3][:2]


def test_a_task_without_train_queries_gets_the_best_route_of_all():
    alone = TRAIN.replace(task=jnp.zeros_like(TRAIN.task))
    routes = best_task_routes(alone, TEST, cost_weight=0.2).actions
    assert len({tuple(route) for route in routes.tolist()}) == 1
    with pytest.raises(DataError, match="same tasks"):
        best_task_routes(TRAIN.replace(task_names=("a", "b")), TEST, cost_weight=0.2)
    with pytest.raises(DataError, match="3 are wanted"):
        best_fixed_path(TRAIN, TEST, cost_weight=0.2, num_hops=3)


def test_equals_go_to_the_first_model_and_the_shortest_path():
    flat = TRAIN.replace(quality=jnp.full_like(TRAIN.quality, 0.5).at[:, 0].set(0))
    assert best_single_model(flat, TEST, cost_weight=0.0) == 0
    assert best_fixed_path(flat, TEST, cost_weight=0.0) == (0,)


def test_models_not_collected_in_full_are_left_out():
    best = best_single_model(TRAIN, TEST, cost_weight=0.1)
    without = TEST.replace(valid=TEST.valid.at[4, 1 + best].set(False))
    rest = [model for model in range(3) if model != best]
    assert best_single_model(TRAIN, without, cost_weight=0.1) == max(
        rest, key=lambda model: mean_utility(TRAIN, (model,), 0.1)
    )
    with pytest.raises(DataError, match="was not collected for 1 of 7 queries"):
        single_routes(without, best)
    nothing = TEST.replace(valid=TEST.valid.at[4, 1:4].set(False))
    with pytest.raises(DataError, match="No model was collected for every query"):
        best_single_model(TRAIN, nothing, cost_weight=0.1)


@pytest.mark.parametrize(("path", "message"), [((), "asks 0"), ((0, 1, 2), "asks 3"), ((3,), "holds 3")])
def test_paths_outside_the_tree_are_refused(path, message):
    with pytest.raises(DataError, match=message):
        fixed_routes(TEST, path)


def test_an_impossible_cost_weight_is_refused():
    with pytest.raises(ConfigError, match="cost_weight"):
        best_single_model(TRAIN, TEST, cost_weight=-1.0)
