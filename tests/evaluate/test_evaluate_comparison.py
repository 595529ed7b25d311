"""The comparison against plain loops over the tree's arrays, and its JSON against the documented format."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_trees import random_tree

from hierrouter_jax.baselines.chance import random_routes
from hierrouter_jax.baselines.registry import baseline_routes
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval, mean_intervals
from hierrouter_jax.evaluate.comparison import compare
from hierrouter_jax.evaluate.results import load_comparison, save_comparison
from hierrouter_jax.evaluate.routes import ROUTE_ARROW, route_models, route_shares
from hierrouter_jax.routing.scores import RouteBatch

CONFIG = BootstrapConfig(num_resamples=211)


@pytest.fixture(scope="module")
def trees():
    sizes = {"num_models": 3, "num_stages": 2, "num_tasks": 2}
    return random_tree(0, num_queries=29, **sizes), random_tree(1, num_queries=23, **sizes)


@pytest.fixture(scope="module")
def comparison(trees):
    train, test = trees
    systems = baseline_routes(train, test, cost_weight=0.1, key=jax.random.key(0))
    return compare(test, systems, cost_weight=0.1, bootstrap=CONFIG)


def walked(tree, actions):
    """Quality, cost and hops of each query by following the tree node by node."""
    rows = []
    for query, route in enumerate(np.asarray(actions)):
        node, cost, hops = 0, 0.0, 0
        for action in route:
            if action == tree.num_models:
                break
            node = node * tree.num_models + 1 + int(action)
            cost += float(tree.step_cost[query, node])
            hops += 1
        rows.append((float(tree.quality[query, node]), cost, hops))
    return np.array(rows)


def test_every_number_of_a_system_equals_the_walked_tree(trees, comparison):
    train, tree = trees
    routes = baseline_routes(train, tree, cost_weight=0.1, key=jax.random.key(0))
    for name, batch in routes.items():
        quality, cost, hops = walked(tree, batch.actions).T
        found = comparison.systems[name]
        assert found.quality == pytest.approx(quality.mean(), abs=1e-6)
        assert found.cost == pytest.approx(cost.mean(), abs=1e-6)
        assert found.hops == pytest.approx(hops.mean(), abs=1e-6)
        assert found.utility == pytest.approx((quality - 0.1 * cost).mean(), abs=1e-6)
        assert found.quality_ci[0] <= found.quality <= found.quality_ci[1]
        for index, task in enumerate(tree.task_names):
            rows = np.asarray(tree.task) == index
            assert found.tasks[task].num_queries == rows.sum()
            assert found.tasks[task].quality == pytest.approx(quality[rows].mean(), abs=1e-6)
            assert found.tasks[task].cost == pytest.approx(cost[rows].mean(), abs=1e-6)


def test_a_tasks_intervals_are_those_of_its_own_queries(trees, comparison):
    train, tree = trees
    routes = baseline_routes(train, tree, cost_weight=0.1, key=jax.random.key(0))
    for name, batch in routes.items():
        quality, cost, _ = walked(tree, batch.actions).T
        for index, task in enumerate(tree.task_names):
            rows = np.asarray(tree.task) == index
            found = comparison.systems[name].tasks[task]
            expected = mean_intervals(np.stack([quality[rows], cost[rows]]), CONFIG)
            np.testing.assert_allclose([found.quality_ci, found.cost_ci], expected, atol=1e-6)


def test_differences_are_paired_with_the_best_single_model(trees, comparison):
    train, tree = trees
    routes = baseline_routes(train, tree, cost_weight=0.1, key=jax.random.key(0))
    oracle, reference = (walked(tree, routes[name].actions) for name in ("oracle", "best_single"))
    expected = difference_interval(oracle[:, 0], reference[:, 0], CONFIG)
    found = comparison.systems["oracle"].versus_best_single
    assert found.quality == pytest.approx(float((oracle - reference)[:, 0].mean()), abs=1e-6)
    assert found.quality_ci == pytest.approx(expected, abs=1e-6)
    assert comparison.systems["best_single"].versus_best_single is None


def test_the_share_of_the_gap_is_of_the_way_from_the_best_single_model_to_the_oracle(trees, comparison):
    train, tree = trees
    routes = baseline_routes(train, tree, cost_weight=0.1, key=jax.random.key(0))
    utility = {name: walked(tree, batch.actions) @ [1.0, -0.1, 0.0] for name, batch in routes.items()}
    best, bound = utility["best_single"], utility["oracle"]
    for name, own in utility.items():
        expected = (own - best).mean() / (bound - best).mean()
        assert comparison.systems[name].gap_closed == pytest.approx(expected, abs=1e-6)
    rng = np.random.default_rng(CONFIG.seed)
    counts = rng.multinomial(23, np.full(23, 1 / 23), size=CONFIG.num_resamples)
    drawn = (counts @ (utility["knn"] - best)) / (counts @ (bound - best))
    found = comparison.systems["knn"].gap_closed_ci
    np.testing.assert_allclose(found, np.quantile(drawn, [0.025, 0.975]), atol=1e-6)
    alone = compare(tree, {"best_single": routes["best_single"]}, cost_weight=0.1, bootstrap=CONFIG)
    assert alone.systems["best_single"].gap_closed is None


def test_of_several_seeds_a_query_counts_with_its_mean(trees):
    tree = trees[1]
    batches = [random_routes(tree, key=jax.random.key(seed)) for seed in (1, 2, 3)]
    found = compare(tree, {"seeds": batches}, cost_weight=0.1, bootstrap=CONFIG).systems["seeds"]
    each = np.stack([walked(tree, batch.actions) for batch in batches])
    assert found.quality == pytest.approx(each[..., 0].mean(), abs=1e-6)
    assert found.hops == pytest.approx(each[..., 2].mean(), abs=1e-6)
    expected = mean_intervals(each.mean(axis=0)[:, 1][None], CONFIG)[0]
    np.testing.assert_allclose(found.cost_ci, expected, atol=1e-6)
    every = np.concatenate([np.asarray(batch.actions) for batch in batches])
    assert found.routes == pytest.approx(route_shares(every, tree.model_names))
    rows = np.asarray(tree.task) == 1
    assert found.tasks["task_1"].quality == pytest.approx(each[:, rows, 0].mean(), abs=1e-6)
    of_task = np.concatenate([np.asarray(batch.actions)[rows] for batch in batches])
    assert found.tasks["task_1"].routes == pytest.approx(route_shares(of_task, tree.model_names))


def test_balanced_means_are_means_of_the_means_of_tasks(trees):
    train, tree = trees
    routes = baseline_routes(train, tree, cost_weight=0.1, key=jax.random.key(0))
    found = compare(tree, routes, cost_weight=0.1, bootstrap=CONFIG, is_balanced=True)
    task = np.asarray(tree.task)
    assert len(set(np.bincount(task))) == 2
    for name, batch in routes.items():
        rows = walked(tree, batch.actions)
        means = np.mean([rows[task == index].mean(axis=0) for index in (0, 1)], axis=0)
        own = found.systems[name]
        assert (own.quality, own.cost, own.hops) == pytest.approx(tuple(means), abs=1e-6)
        assert own.utility == pytest.approx(means[0] - 0.1 * means[1], abs=1e-6)
    counts = np.random.default_rng(CONFIG.seed).multinomial(23, np.full(23, 1 / 23), size=CONFIG.num_resamples)
    weights = np.where(task == 0, 1 / np.sum(task == 0), 1 / np.sum(task == 1))
    gain = (walked(tree, routes["oracle"].actions) - walked(tree, routes["best_single"].actions))[:, 0]
    drawn = (counts * weights @ gain) / (counts @ weights)
    versus = found.systems["oracle"].versus_best_single
    np.testing.assert_allclose(versus.quality_ci, np.quantile(drawn, [0.025, 0.975]), atol=1e-6)
    gaps = [found.systems[name].gap_closed for name in ("best_single", "oracle")]
    assert gaps == pytest.approx([0.0, 1.0])


def test_the_single_model_that_is_the_best_one_does_not_differ_from_it(comparison):
    (name,) = comparison.systems["best_single"].routes
    same = comparison.systems[f"single/{name}"].versus_best_single
    assert (same.quality_ci, same.cost_ci, same.utility_ci) == ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))


def test_json_has_the_documented_form(comparison, tmp_path):
    save_comparison(tmp_path / "results.json", comparison)
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["num_queries"] == 23
    assert data["cost_weight"] == 0.1
    assert {"random", "oracle", "best_single", "single/model_0", "single/model_1", "single/model_2"} <= set(
        data["systems"]
    )
    for system in data["systems"].values():
        assert {"quality", "quality_ci", "cost", "cost_ci", "utility", "hops", "tasks"} <= set(system)
        assert len(system["quality_ci"]) == len(system["cost_ci"]) == 2
        assert set(system["tasks"]) == {"task_0", "task_1"}
        for task in system["tasks"].values():
            assert {"quality", "quality_ci", "cost", "cost_ci"} <= set(task)
            assert task["quality_ci"][0] <= task["quality"] <= task["quality_ci"][1]
            assert task["cost_ci"][0] <= task["cost"] <= task["cost_ci"][1]
    assert load_comparison(tmp_path / "results.json") == comparison


def test_a_results_file_of_another_form_is_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"num_queries": 3, "speed": 1}')
    with pytest.raises(ConfigError, match="speed"):
        load_comparison(tmp_path / "results.json")
    with pytest.raises(DataError, match="folder"):
        load_comparison(tmp_path)


def test_no_system_and_routes_of_another_tree_are_refused(trees):
    with pytest.raises(DataError, match="at least one system"):
        compare(trees[1], {}, cost_weight=0.1)
    other = RouteBatch(actions=jnp.zeros((5, 2), jnp.int32))
    with pytest.raises(DataError, match="shape"):
        compare(trees[1], {"router": other}, cost_weight=0.1)


def test_routes_are_named_up_to_their_stop_and_shares_sum_to_one():
    names = ("a", "b")
    assert route_models([1, 0, 2], names) == ("b", "a")
    assert route_models([0, 2, 2], names) == ("a",)
    shares = route_shares(np.array([[1, 0], [0, 2], [0, 2], [1, 1]]), names)
    assert shares == {"a": 0.5, f"b{ROUTE_ARROW}a": 0.25, f"b{ROUTE_ARROW}b": 0.25}
    assert next(iter(shares)) == "a"
