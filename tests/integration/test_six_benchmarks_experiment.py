"""`experiments/six_benchmarks.py` on rows of the packaged tree: real outcomes, few of them, and short trainings."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
import router_candidates
import six_benchmarks
import six_limits
import six_systems

from hierrouter_jax.baselines.fixed import single_routes
from hierrouter_jax.collect.tree_file import load_tree
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.route_tree import check_tree, node_of_path, path_of_node, rows_of_tree
from hierrouter_jax.routing.scores import score_routes

SMALL = six_benchmarks.TREE.parent / "small.npz"
SHORT = dataclasses.replace(router_candidates.PPO, num_updates=5)
NAMES = ("router", "router, one for all cost weights")


@pytest.fixture(scope="module")
def tree_file():
    whole = load_tree(SMALL)
    rows = np.arange(whole.train.num_queries)
    learned, judged = rows[rows % 3 != 0], rows[rows % 3 == 0]
    answers = dataclasses.replace(whole.outcomes["train"], answer_id=whole.outcomes["train"].answer_id[learned])
    return dataclasses.replace(
        whole,
        train=rows_of_tree(whole.train, learned),
        validation=rows_of_tree(whole.train, judged),
        outcomes={**whole.outcomes, "train": answers},
    )


@pytest.fixture(scope="module")
def found(tree_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("six")
    known = router_candidates.candidates()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(six_benchmarks, "load_tree", lambda path: tree_file)
        patch.setitem(six_systems.LEARNED, "ppo", SHORT)
        patch.setattr(six_systems, "FITTED_WEIGHTS", (0.0, 0.1))
        patch.setattr(six_benchmarks, "TRAIN_SIZES", (47,))
        patch.setattr(six_benchmarks, "candidates", lambda: {name: known[name] for name in NAMES})
        six_benchmarks.main(["--out", str(out), "--seeds", "2", "--cost-weights", "0.3"])
    return out, json.loads((out / "results.json").read_text())


def test_every_part_leaves_its_numbers_tables_and_pictures(found, tree_file):
    out, results = found
    assert set(results) == set(six_benchmarks.PARTS)
    assert set(results["comparisons"]) == {"0", "0.1", "0.3"}
    assert "knn" in results["comparisons"]["0"]["systems"]
    assert "knn" not in results["comparisons"]["0.3"]["systems"]
    tables = {path.stem for path in out.glob("*.md")}
    assert {"systems_0", "systems_0.1", "equal_cost", "ratios", "limits"} <= tables
    assert {"ablation", "leave_one_out", "train_sizes"} <= tables
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
    found = router_candidates.cross_validated(router_candidates.candidates()["router"], tree)
    assert found.shape == (tree.num_queries // 5 * 5,)
    order = np.random.default_rng(0).permutation(tree.num_queries)
    held = order[: len(found) // 5]
    config = router_candidates.ROUTER
    params = router_candidates.train_seeds(config, rows_of_tree(tree, np.sort(order[len(held) : len(found)])), 1)
    routes = router_candidates.routes_of_seeds(config, params, rows_of_tree(tree, held))[0]
    alone = score_routes(rows_of_tree(tree, held), routes, cost_weight=config.cost_weight).utility
    places = np.searchsorted(np.sort(order[: len(found)]), held)
    assert np.mean(found[places] == np.asarray(alone, np.float64)) > 0.8  # another seed, nearly the same routes


def test_the_question_stands_beside_the_context(tree_file):
    tree = rows_of_tree(tree_file.train, np.arange(5))
    found = router_candidates.with_question_apart(tree)
    for query, node in ((0, 0), (3, 2), (4, 12)):
        own, question = (np.asarray(tree.context)[int(tree.context_row[query, at])] for at in (node, 0))
        both = np.asarray(found.context)[int(found.context_row[query, node])]
        np.testing.assert_allclose(both, np.concatenate([question, own]) / np.sqrt(2), rtol=1e-6)
    check_tree(found)


def test_solved_apart_a_second_answer_is_the_model_s_first(tree_file):
    tree = tree_file.train
    found = router_candidates.solved_apart(tree)
    for node in range(1, tree.num_nodes):
        first = node_of_path(3, path_of_node(3, node)[-1:])
        np.testing.assert_array_equal(found.quality[:, node], tree.quality[:, first])
        np.testing.assert_array_equal(found.step_cost[:, node], tree.step_cost[:, first])
    np.testing.assert_array_equal(found.quality[:, 0], tree.quality[:, 0])
    check_tree(found)


def test_dropout_hides_a_share_of_every_context_and_nothing_else(tree_file):
    tree = rows_of_tree(tree_file.train, np.arange(7))
    found = router_candidates.with_dropout(tree, jax.random.key(0), 0.3)
    copies = router_candidates.NUM_COPIES
    assert found.num_queries == 7 * copies
    context = np.asarray(found.context).reshape(copies, *tree.context.shape)
    assert np.mean(context == 0) == pytest.approx(0.3, abs=0.01)
    whole = np.broadcast_to(tree.context, context.shape)
    np.testing.assert_allclose(context[context != 0], (whole / 0.7)[context != 0], rtol=1e-6)
    assert not np.array_equal(context[0] == 0, context[1] == 0)
    np.testing.assert_array_equal(found.quality, np.tile(tree.quality, (copies, 1)))
    np.testing.assert_array_equal(found.context_row[7:14], tree.context_row + len(tree.context))


def test_a_candidate_goes_on_from_what_it_was_trained_by_first(tree_file):
    still = dataclasses.replace(
        router_candidates.ROUTER, num_updates=1, ppo=dataclasses.replace(router_candidates.FIT, learning_rate=1e-12)
    )
    first = router_candidates.priced(router_candidates.ROUTER, 0.1)
    known = router_candidates.Candidate(config=first)
    found = router_candidates.Candidate(config=still, before=first)
    utilities = [router_candidates.cross_validated(one, tree_file.train) for one in (known, found)]
    np.testing.assert_array_equal(*utilities)
    alone = router_candidates.cross_validated(router_candidates.Candidate(config=still), tree_file.train)
    assert np.mean(alone == utilities[0]) < 0.9


def test_an_independent_oracle_is_what_products_say():
    rng = np.random.default_rng(0)
    quality = (rng.random((1009, 3)) < [0.2, 0.5, 0.4]).astype(float)
    expected = 1 - np.prod(1 - quality.mean(axis=0))
    assert six_limits.independent_oracle(quality) == pytest.approx(expected, abs=0.005)
    alike = np.repeat(quality[:, :1], 3, axis=1)
    assert alike.max(axis=1).mean() < six_limits.independent_oracle(alike) - 0.2


def test_told_all_answers_finds_what_a_signal_shows_and_reads_no_test_outcome():
    rng = np.random.default_rng(1)
    signals = {"train": rng.normal(size=(503, 5)), "test": rng.normal(size=(211, 5))}
    quality = {name: np.stack([own[:, 2] > 0, own[:, 2] <= 0], axis=1).astype(float) for name, own in signals.items()}
    learn, judge = np.arange(503) % 2 == 0, np.arange(211) % 3 > 0
    told = six_limits.told_all_answers(signals, quality["train"], quality["test"], learn, judge)
    assert told.shape == (judge.sum(),)
    assert told.mean() > 0.9
    wrong = six_limits.told_all_answers(signals, quality["train"], 1 - quality["test"], learn, judge)
    np.testing.assert_array_equal(wrong, 1 - told)  # the same choices


def test_first_signals_say_who_agrees(tree_file):
    found = six_limits.first_signals(tree_file, "test")
    answers = tree_file.outcomes["test"].answer_id
    for query in range(0, 96, 7):
        pairs = [(1, 2), (1, 3), (2, 3)]
        expected = [answers[query, one] == answers[query, other] != 0 for one, other in pairs]
        assert found[query, -3:].tolist() == expected
    assert 0.1 < found[:, -3:].mean() < 0.9


def test_what_cannot_be_done_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="was asked for"):
        six_benchmarks.main(["--out", str(tmp_path), "--parts", "magic"])
    with pytest.raises(ConfigError, match="--seeds must be >= 1"):
        six_benchmarks.main(["--out", str(tmp_path), "--seeds", "0"])
    with pytest.raises(ConfigError, match="validation rows"):
        six_benchmarks.main(["--out", str(tmp_path), "--tree", str(SMALL)])
