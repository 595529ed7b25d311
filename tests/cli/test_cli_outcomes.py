"""`hierrouter outcomes`: a table becomes a tree to train on and evaluate; bad tables are told and write nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hierrouter_jax.cli import main
from hierrouter_jax.cli import outcomes as outcomes_command
from hierrouter_jax.collect.tree_file import load_tree
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.evaluate.results import load_comparison

MODELS = {"small": {"price_usd_per_mtok": 0.2}, "large": {"price_usd_per_mtok": 0.9}}


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(outcomes_command, "open_encoder", lambda source: HashingEncoder(13))


def lines(count, *, start=0):
    """Questions about rivers are for the small model, those about roads for the large one."""
    return [
        {
            "query": f"{'river' if number % 2 else 'road'} number {number}",
            "scores": {"small": float(number % 2), "large": float(number % 3 > 0)},
        }
        for number in range(start, start + count)
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_from_a_table_to_a_comparison(tmp_path, capsys):
    table, models = write(tmp_path / "table.jsonl", lines(97)), tmp_path / "models.json"
    models.write_text(json.dumps(MODELS))
    tree, report = tmp_path / "mine.npz", tmp_path / "mine.json"
    command = ["outcomes", "--rows", table, "--models", models, "--out", tree, "--json", report]
    assert main.main([str(part) for part in command]) == 0
    assert "models: small, large" in capsys.readouterr().out
    file = load_tree(tree, cost_model="price")
    assert json.loads(report.read_text())["split_sizes"]["train"] == {"queries": file.train.num_queries}
    np.testing.assert_allclose(np.asarray(file.train.step_cost)[0], [0, 0.2 / 0.9, 1], rtol=1e-6)
    run = tmp_path / "run"
    train = ["train", "--run-dir", run, "--tree", tree, "--cost-model", "price", "--num-updates", "3"]
    assert main.main([str(part) for part in [*train, "--num-envs", "16", "--learner", "exact"]]) == 0
    assert main.main(["evaluate", "--run-dir", str(run), "--tree", str(tree), "--cost-model", "price"]) == 0
    comparison = load_comparison(run / "results.json")
    assert {"router", "knn", "one_shot", "oracle"} <= set(comparison.systems)
    assert comparison.num_queries == file.test.num_queries


def test_a_test_table_of_its_own(tmp_path):
    tables = [write(tmp_path / f"{name}.jsonl", lines(11, start=first)) for name, first in (("a", 0), ("b", 20))]
    command = ["outcomes", "--rows", tables[0], "--test", tables[1], "--out", tmp_path / "tree.npz"]
    assert main.main([str(part) for part in command]) == 0
    file = load_tree(tmp_path / "tree.npz")
    assert (file.train.num_queries, file.validation, file.test.num_queries) == (11, None, 11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "none.jsonl"], "There is no outcome table at none.jsonl"),
        (["--rows", "table.jsonl", "--test", "table.jsonl"], "must be in one table only"),
        (["--rows", "table.jsonl", "--models", "few.json"], "large: it is not in few.json"),
        (["--rows", "table.jsonl", "--num-stages", "0"], "num_stages must be >= 1"),
        (["--rows", "table.jsonl", "--test-share", "1.0"], "together below 1"),
        (["--rows", "broken.jsonl"], "line 2"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "table.jsonl", lines(31))
    write(tmp_path / "broken.jsonl", [*lines(1), {"query": "q", "scores": {"small": 7}}])
    (tmp_path / "few.json").write_text(json.dumps({"small": {}}))
    assert main.main(["outcomes", "--out", "tree.npz", *options]) == main.BAD_INPUT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "tree.npz").exists()
