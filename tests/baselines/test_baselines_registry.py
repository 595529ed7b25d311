import jax
import numpy as np
import pytest
from reference_mdp import Walker
from synthetic_trees import random_tree

from hierrouter_jax.baselines.chance import random_routes
from hierrouter_jax.baselines.registry import baseline_routes
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_values

TRAIN, TEST = random_tree(2, num_queries=11, num_signals=10), random_tree(3, num_queries=53, num_signals=10)
KEY = jax.random.key(5)


@pytest.mark.parametrize("allow_stop", [True, False])
def test_random_routes_take_each_legal_action_equally_often(allow_stop):
    tree = random_tree(7, num_queries=2)
    tree = tree.replace(valid=tree.valid.at[1, 2].set(False).at[1, 7:10].set(False).at[1, 4].set(False))
    keys = jax.random.split(KEY, 6000)
    drawn = np.asarray(jax.vmap(lambda key: random_routes(tree, key=key, allow_stop=allow_stop).actions)(keys))
    for query in range(2):
        routes, counts = np.unique(drawn[:, query], axis=0, return_counts=True)
        expected = {}
        walker = Walker(tree, query, cost_weight=0.0, allow_stop=allow_stop)
        first = walker.legal()
        for action in first:
            walker = Walker(tree, query, cost_weight=0.0, allow_stop=allow_stop)
            walker.step(action)
            second = walker.legal()
            expected |= {(action, after): 1 / len(first) / len(second) for after in second}
        assert set(map(tuple, routes.tolist())) == set(expected)
        for route, count in zip(routes.tolist(), counts, strict=True):
            share = expected[tuple(route)]
            assert abs(count - 6000 * share) < 5 * np.sqrt(6000 * share * (1 - share))


def test_random_queries_draw_apart_and_do_not_depend_on_their_neighbours():
    routes = random_routes(TEST, key=KEY).actions
    assert len(np.unique(routes, axis=0)) > 5
    half = jax.tree.map(lambda field: field[:20] if field.shape[0] == 53 else field, TEST)
    np.testing.assert_array_equal(random_routes(half, key=KEY).actions, routes[:20])


@pytest.mark.parametrize("allow_stop", [True, False])
def test_all_baselines_under_the_names_of_result_files(allow_stop):
    routes = baseline_routes(TRAIN, TEST, cost_weight=0.2, key=KEY, allow_stop=allow_stop)
    singles = [f"single/model_{index}" for index in range(3)]
    assert list(routes) == [
        *singles,
        *("best_single", "best_fixed_route", "task_best_single", "task_best_route", "random"),
        *("knn", "knn_multi_hop", "one_shot", "value_regression", "cascade", "scorer_cascade", "oracle/1", "oracle"),
    ]
    utility = {name: score_routes(TEST, batch, cost_weight=0.2).utility for name, batch in routes.items()}
    for index, name in enumerate(singles):
        assert routes[name].actions.tolist() == [[index, 3]] * 53
    assert any((routes["best_single"].actions == routes[name].actions).all() for name in singles)
    np.testing.assert_allclose(
        utility["oracle"], optimal_values(TEST, cost_weight=0.2, allow_stop=allow_stop)[:, 0], atol=1e-6
    )
    first_hops = np.asarray(TEST.quality)[:, 1:4] - 0.2 * np.asarray(TEST.step_cost)[:, 1:4]
    np.testing.assert_allclose(utility["oracle/1"], first_hops.max(axis=1), atol=1e-6)
    deaf = [tree.replace(signals=tree.signals[..., :0]) for tree in (TRAIN, TEST)]
    without = baseline_routes(*deaf, cost_weight=0.2, key=KEY)
    assert set(routes) - set(without) == {"cascade", "scorer_cascade"}
    if allow_stop:
        assert all((utility["oracle"] >= earned - 1e-6).all() for earned in utility.values())
    else:
        assert (routes["oracle"].actions < 3).all()
        assert (routes["random"].actions < 3).all()


def test_the_key_decides_chance_alone():
    first, again, other = (
        baseline_routes(TRAIN, TEST, cost_weight=0.2, key=key) for key in (KEY, KEY, jax.random.key(6))
    )
    same = {name: bool((first[name].actions == other[name].actions).all()) for name in first}
    assert [name for name, is_same in same.items() if not is_same] == ["random"]
    assert (first["random"].actions == again["random"].actions).all()


def test_a_model_not_collected_for_every_query_has_no_row():
    partial = TEST.replace(valid=TEST.valid.at[4, 2].set(False).at[4, 7:10].set(False))
    assert "single/model_1" not in baseline_routes(TRAIN, partial, cost_weight=0.2, key=KEY)


def test_trees_of_other_pools_and_impossible_weights_are_refused():
    with pytest.raises(DataError, match="share models"):
        baseline_routes(random_tree(2, num_models=2), TEST, cost_weight=0.2, key=KEY)
    with pytest.raises(ConfigError, match="cost_weight"):
        baseline_routes(TRAIN, TEST, cost_weight=float("nan"), key=KEY)
