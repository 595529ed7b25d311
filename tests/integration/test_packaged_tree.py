"""The packaged tree: real outcomes of the packaged pool, whole, numbers alone, and of the pool as its file stands."""

import io
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import hierrouter_jax as hr
from hierrouter_jax.cli.packaged import SMALL_POOL, SMALL_TREE, packaged_file
from hierrouter_jax.collect.tree_file import report_path
from hierrouter_jax.core.configs import read_json
from hierrouter_jax.llm.pool import load_pool, read_pool_spec
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_routes, optimal_values
from hierrouter_jax.tasks.prompt_texts import LATEST_PROMPT_VERSION

TASKS = {"arc_challenge", "commonsenseqa", "gsm8k", "humaneval", "mbpp", "mmlu"}


@pytest.fixture(scope="module")
def tree_file():
    return hr.load_tree(packaged_file(SMALL_TREE))


def test_it_holds_two_stages_of_six_benchmarks(tree_file):
    manifest = tree_file.manifest
    assert manifest.num_stages == 2
    assert manifest.prompt_version == LATEST_PROMPT_VERSION
    assert set(manifest.split_sizes["train"]) == set(manifest.split_sizes["test"]) == TASKS
    assert min(manifest.split_sizes["train"].values()) >= 24
    assert min(manifest.split_sizes["test"].values()) >= 16
    for tree in (tree_file.train, tree_file.test):
        assert tree.num_nodes == 1 + 3 + 9
        assert np.asarray(tree.valid).all()


def test_no_question_is_in_two_splits(tree_file):
    hashes = [set(tree_file.outcomes[split].row_id_hash.tolist()) for split in ("train", "test")]
    assert not hashes[0] & hashes[1]


def test_its_models_are_those_of_the_packaged_pool_file(tree_file):
    spec = read_pool_spec(packaged_file(SMALL_POOL))
    stated = [(model.name, model.prompt_style, model.max_new_tokens) for model in spec.models]
    cards = tree_file.manifest.cards
    assert [(card.name, card.prompt_style, card.max_new_tokens) for card in cards] == stated
    windows = [model.context_window for model in spec.models]
    assert all(window in (None, card.context_window) for window, card in zip(windows, cards, strict=True))


@pytest.mark.real_weights
def test_the_real_pool_is_the_one_it_was_collected_with(tree_file):
    pool = load_pool(packaged_file(SMALL_POOL), is_quiet=True)
    assert pool.digest == tree_file.manifest.pool_digest


def test_the_file_holds_numbers_and_a_manifest_and_no_text_of_a_benchmark(benchmarks_dir):
    with zipfile.ZipFile(packaged_file(SMALL_TREE)) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    arrays = {name: np.load(io.BytesIO(raw), allow_pickle=False) for name, raw in content.items() if "/" in name}
    assert arrays
    assert {array.dtype.kind for array in arrays.values()} <= set("fiub")
    whole = b"".join(content.values())
    questions = [row.question for task in TASKS for row in hr.load_rows(benchmarks_dir / f"{task}.jsonl")]
    assert not [question for question in questions if question[:40].encode() in whole]


def test_the_report_beside_it_counts_every_node(tree_file):
    report = read_json(report_path(packaged_file(SMALL_TREE)))
    num_queries = sum(report["num_queries"].values())
    assert report["num_nodes"] == num_queries * 12
    for task, models in report["answers"].items():
        assert task in TASKS
        assert {counts["num_nodes"] for counts in models.values()} == {(24 + 16) * 4}


def test_a_router_learns_from_it_beyond_chance(tree_file):
    config = hr.TrainConfig(cost_weight=0.1, num_updates=60)
    out = jax.jit(hr.make_train(config, tree_file.train))(jax.random.key(0))
    learned = hr.score_routes(tree_file.train, hr.greedy_routes(out.params, tree_file.train), cost_weight=0.1)
    best = hr.score_routes(tree_file.train, hr.optimal_routes(tree_file.train, cost_weight=0.1), cost_weight=0.1)
    chance = np.asarray(tree_file.train.quality)[:, 1:].mean()
    assert chance < float(learned.quality.mean()) <= 1
    assert float(learned.utility.mean()) <= float(best.utility.mean())


@pytest.mark.parametrize("cost_weight", [0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
def test_the_optimal_routes_of_the_six_benchmarks_are_routes(cost_weight):
    tree = hr.load_tree(Path(__file__).parents[2] / "experiments" / "trees" / "six_benchmarks.npz").test
    routes = optimal_routes(tree, cost_weight=cost_weight)
    assert np.all(np.asarray(routes.actions)[:, 0] < tree.stop)
    scores = score_routes(tree, routes, cost_weight=cost_weight)
    best = optimal_values(tree, cost_weight=cost_weight)[:, 0]
    np.testing.assert_allclose(scores.utility, best, atol=1e-6)
