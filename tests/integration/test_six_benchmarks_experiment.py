"""`experiments/six_benchmarks.py` on rows of the packaged tree: real outcomes, few of them, and short trainings."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import router_candidates
import six_benchmarks

from hierrouter_jax.baselines.fixed import single_routes
from hierrouter_jax.collect.tree_file import load_tree
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.route_tree import rows_of_tree
from hierrouter_jax.routing.scores import score_routes

SMALL = six_benchmarks.TREE.parent / "small.npz"
SHORT = dataclasses.replace(router_candidates.PPO, num_updates=5)
NAMES = ("router", "router, one for all cost weights")


@pytest.fixture(scope="module")
def tree_file():
    whole = load_tree(SMALL)
    rows = np.arange(whole.train.num_queries)
    return dataclasses.replace(
        whole,
        train=rows_of_tree(whole.train, rows[rows % 3 != 0]),
        validation=rows_of_tree(whole.train, rows[rows % 3 == 0]),
    )


@pytest.fixture(scope="module")
def found(tree_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("six")
    known = router_candidates.candidates()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(six_benchmarks, "load_tree", lambda path: tree_file)
        patch.setattr(six_benchmarks, "PPO", SHORT)
        patch.setattr(six_benchmarks, "LEARNED", {"router": router_candidates.ROUTER, "ppo": SHORT})
        patch.setattr(six_benchmarks, "TRAIN_SIZES", (47,))
        patch.setattr(six_benchmarks, "candidates", lambda: {name: known[name] for name in NAMES})
        six_benchmarks.main(["--out", str(out), "--seeds", "2", "--cost-weights", "0.5"])
    return out, json.loads((out / "results.json").read_text())


def test_every_part_leaves_its_numbers_tables_and_pictures(found, tree_file):
    out, results = found
    assert set(results) == set(six_benchmarks.PARTS)
    assert set(results["comparisons"]) == {"0", "0.1", "0.5"}
    tables = {path.stem for path in out.glob("*.md")}
    assert {"systems_0", "systems_0.1", "equal_cost", "ratios", "ablation", "leave_one_out", "train_sizes"} <= tables
    pictures = {path.stem for path in out.glob("*.png")}
    wanted = {"quality_cost", "fronts", "route_mix_by_task", "route_mix_by_weight", "learning_curves"}
    assert pictures == wanted
    assert set(results["train_sizes"]) == {"47", str(tree_file.train.num_queries)}
    assert set(results["leave_one_out"]) == set(tree_file.test.task_names)


def test_ratios_are_to_the_mean_of_the_models(found, tree_file):
    _, results = found
    test = tree_file.test
    task = test.task_names.index("mbpp")
    rows = np.asarray(test.task) == task
    scores = [score_routes(test, single_routes(test, model), cost_weight=0.0) for model in range(3)]
    quality = np.mean([np.asarray(one.quality)[rows].mean() for one in scores])
    own = results["comparisons"]["0.1"]["systems"]["router"]["tasks"]["mbpp"]["quality"]
    assert results["ratios"]["mbpp @ 0.1"]["quality"] == pytest.approx(own / quality, rel=1e-5)


def test_a_benchmark_left_out_is_scored_alone_by_systems_that_never_saw_it(found, tree_file):
    _, results = found
    counts = np.bincount(np.asarray(tree_file.test.task))
    for index, name in enumerate(tree_file.test.task_names):
        comparison = results["leave_one_out"][name]
        assert comparison["num_queries"] == counts[index]
        assert list(comparison["systems"]["router"]["tasks"]) == [name]
    kept = router_candidates.without_task(tree_file.train, 2)
    assert 2 not in set(np.asarray(kept.task))
    assert kept.num_queries == np.sum(np.asarray(tree_file.train.task) != 2)


def test_cross_validation_scores_each_query_by_a_router_that_did_not_see_it(tree_file):
    tree = tree_file.train
    found = router_candidates.cross_validated(router_candidates.ROUTER, tree)
    assert found.shape == (tree.num_queries // 5 * 5,)
    order = np.random.default_rng(0).permutation(tree.num_queries)
    held = order[: len(found) // 5]
    config = router_candidates.ROUTER
    params = router_candidates.train_seeds(config, rows_of_tree(tree, np.sort(order[len(held) : len(found)])), 1)
    routes = router_candidates.routes_of_seeds(config, params, rows_of_tree(tree, held))[0]
    alone = score_routes(rows_of_tree(tree, held), routes, cost_weight=config.cost_weight).utility
    places = np.searchsorted(np.sort(order[: len(found)]), held)
    assert np.mean(found[places] == np.asarray(alone, np.float64)) > 0.8  # another seed, nearly the same routes


def test_what_cannot_be_done_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="was asked for"):
        six_benchmarks.main(["--out", str(tmp_path), "--parts", "magic"])
    with pytest.raises(ConfigError, match="--seeds must be >= 1"):
        six_benchmarks.main(["--out", str(tmp_path), "--seeds", "0"])
    with pytest.raises(ConfigError, match="validation rows"):
        six_benchmarks.main(["--out", str(tmp_path), "--tree", str(SMALL)])
