"""`experiments/outcomes.py` on a small table whose best models are planted."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest

from hierrouter_jax.collect.tree_file import save_tree
from hierrouter_jax.core.errors import HierRouterError
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.encoder.joint import JointEncoder
from hierrouter_jax.encoder.ngrams import NgramEncoder

SCRIPT = Path(__file__).parents[2] / "experiments" / "outcomes.py"
WORDS = {"algebra": ("sum", "root", "prime"), "history": ("king", "war", "treaty")}


@pytest.fixture(scope="module")
def outcomes():
    spec = importlib.util.spec_from_file_location("outcomes_experiment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.open_encoder = lambda source: JointEncoder(parts=(HashingEncoder(31), NgramEncoder(64)))
    module.NUM_SEEDS = {"router": 2, "ppo": 1}
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each of two tasks has a model of its own that answers it; the dear one answers everything almost as well."""
    place, rng = tmp_path_factory.mktemp("outcomes"), random.Random(0)
    lines = []
    for number in range(131):
        task = ("algebra", "history")[number % 2]
        query = f"{' '.join(rng.choices(WORDS[task], k=5))} {number}"
        scores = {"sums": float(task == "algebra"), "dates": float(task == "history"), "dear": 0.9}
        lines.append(json.dumps({"id": str(number), "task": task, "query": query, "scores": scores}))
    (place / "train.jsonl").write_text("\n".join(lines[:97]))
    (place / "test.jsonl").write_text("\n".join(lines[97:]))
    (place / "all.jsonl").write_text("\n".join(lines))
    prices = {"sums": 0.1, "dates": 0.1, "dear": 1.0}
    (place / "models.json").write_text(json.dumps({name: {"price_usd_per_mtok": own} for name, own in prices.items()}))
    return place


def test_the_router_finds_each_task_s_model(outcomes, folder, capsys):
    paths = [str(folder / name) for name in ("train.jsonl", "test.jsonl", "models.json", "out.json")]
    outcomes.main(["--train", paths[0], "--test", paths[1], "--models", paths[2], "--json", paths[3]])
    found = json.loads(Path(paths[3]).read_text())
    assert list(found["results"]) == ["0.0", "0.1"]
    for weight, [comparison] in found["results"].items():
        systems = comparison["systems"]
        assert comparison["num_queries"] == 34
        assert {"router", "ppo", "value_regression", "knn", "task_best_single", "oracle"} <= set(systems)
        assert systems["router"]["quality"] == 1
        assert systems["router"]["cost"] == pytest.approx(0.1)
        assert systems["single/dear"]["cost"] == pytest.approx(1)
        assert found["means"][weight]["router"]["utility"] == pytest.approx(systems["router"]["utility"])
    assert "router" in capsys.readouterr().out


def test_random_splits_hold_out_other_quarters(outcomes, folder):
    options = ["--table", str(folder / "all.jsonl"), "--models", str(folder / "models.json"), "--splits", "2"]
    written = ["--json", str(folder / "splits.json"), "--out", str(folder / "tables")]
    outcomes.main([*options, "--cost-weights", "0.1", *written])
    found = json.loads((folder / "splits.json").read_text())
    first, second = found["results"]["0.1"]
    assert first["num_queries"] == second["num_queries"] == 33
    mean = found["means"]["0.1"]["router"]
    earned = [one["systems"]["router"]["utility"] for one in (first, second)]
    assert mean["utility"] == pytest.approx(sum(earned) / 2)
    knn = found["means"]["0.1"]["knn"]
    leads = [one["systems"]["router"]["utility"] - one["systems"]["knn"]["utility"] for one in (first, second)]
    assert knn["router_ahead_in_utility"] == pytest.approx([sum(leads) / 2, min(leads), max(leads)])
    lines = (folder / "tables" / "outcomes.md").read_text().splitlines()
    assert len(lines) == 2 + len(found["means"]["0.1"])
    (line,) = [line for line in lines if line.startswith("| kNN |")]
    assert f"{100 * knn['utility']:.2f}" in line
    assert f"{100 * min(leads):+.2f}, {100 * max(leads):+.2f}" in line

    line = (folder / "tables" / "outcomes_tasks.md").read_text().splitlines()[2]
    shares = [one["found"] for one in found["tasks"]["0.1"]]
    assert line.startswith(f"| 0.1 | {100 * sum(shares) / 2:.2f} |")


def test_what_the_router_lacks_to_the_policy_that_is_told_the_task(outcomes, folder):
    options = outcomes.argparse.Namespace(
        train=None, table=folder / "all.jsonl", models=folder / "models.json", encoder="any", splits=1
    )
    (tree_file,) = outcomes.tree_files_of(options)
    wrong = dataclasses.replace(tree_file.test, task=1 - tree_file.test.task)  # every task is found, and called wrong
    params = outcomes.train_seeds(outcomes.ROUTER, tree_file.train, 2)
    routes = outcomes.routes_of_seeds(outcomes.ROUTER, params, tree_file.test)
    right = outcomes.recognition(tree_file, params, routes, 0.1)
    assert right == {"found": 1.0, "behind_told_where_found": pytest.approx(0, abs=1e-6), "behind_told_elsewhere": 0.0}
    found = outcomes.recognition(dataclasses.replace(tree_file, test=wrong), params, routes, 0.1)
    assert found["found"] == 0
    assert found["behind_told_elsewhere"] == pytest.approx(-1.0, abs=1e-6)  # told wrongly, it asks the other model


def test_splits_hold_out_other_quarters_in_the_table_s_order(outcomes, folder):
    options = outcomes.argparse.Namespace(
        train=None, table=folder / "all.jsonl", models=folder / "models.json", encoder="any", splits=3
    )
    found = outcomes.tree_files_of(options)
    qualities = [json.loads(line)["scores"] for line in (folder / "all.jsonl").read_text().splitlines()]
    held = []
    for seed, tree_file in enumerate(found):
        rows = np.sort(np.random.default_rng(seed).permutation(131)[:33])
        expected = [[qualities[row][name] for name in tree_file.test.model_names] for row in rows]
        np.testing.assert_allclose(tree_file.test.quality[:, 1:], expected)
        assert (tree_file.train.num_queries, tree_file.test.num_queries) == (98, 33)
        held.append(tuple(rows))
    assert len(set(held)) == 3


def test_a_tree_is_divided_as_its_table_is(outcomes, folder, tmp_path):
    queries = [
        dataclasses.replace(query, split="test" if index == 130 else "train")
        for index, query in enumerate(outcomes.read_outcome_table(folder / "all.jsonl"))
    ]
    options = outcomes.argparse.Namespace(models=folder / "models.json", encoder="any")
    save_tree(tmp_path / "tree.npz", outcomes.tree_file_of(queries, options))
    words = ["--tree", str(tmp_path / "tree.npz"), "--splits", "1", "--cost-weights", "0.1"]
    outcomes.main([*words, "--json", str(tmp_path / "of_tree.json")])
    words = ["--table", str(folder / "all.jsonl"), "--models", str(folder / "models.json"), *words[2:]]
    outcomes.main([*words, "--json", str(tmp_path / "of_table.json")])
    of_tree, of_table = (json.loads((tmp_path / f"of_{name}.json").read_text()) for name in ("tree", "table"))
    for name in ("router", "knn", "oracle"):
        found, expected = (one["results"]["0.1"][0]["systems"][name]["tasks"] for one in (of_tree, of_table))
        for task in ("algebra", "history"):
            assert found[task]["utility"] == pytest.approx(expected[task]["utility"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "x"], "Give --train and --test together"),
        (["--train", "x", "--test", "y", "--table", "z"], "or --table alone"),
        (["--table", "x"], "need --models"),
        (["--splits", "0"], "--splits must be >= 1"),
        (["--meaning-dim", "0"], "--meaning-dim must be >= 1"),
        (["--tree", "nowhere.npz"], "no tree file at nowhere.npz"),
    ],
)
def test_what_cannot_be_done_is_refused(outcomes, folder, words, message):
    with pytest.raises(HierRouterError, match=message):
        outcomes.main(words)
