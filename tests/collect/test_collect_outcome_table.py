"""Outcome tables of both shapes, and the trees made of them, by loops over what was written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hierrouter_jax.collect.outcome_table import outcome_table, read_outcome_table
from hierrouter_jax.collect.outcome_tree import SplitShares, outcome_tree_file, read_model_cards
from hierrouter_jax.collect.tree_file import load_tree, save_tree
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.routing.route_tree import path_of_node

ENCODER = HashingEncoder(dim=13)
MODELS = ("small", "large", "coder")


def wide_lines(count=23, *, with_tokens=True):
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        asked = [model for model in MODELS if model == "small" or rng.random() < 0.8]
        line = {
            "id": f"q{number}",
            "query": f"question number {number}",
            "task": ("sums", "words")[number % 2],
            "scores": {model: float(rng.integers(0, 5)) / 4 for model in asked},
        }
        if with_tokens:
            line["tokens"] = {model: [int(rng.integers(1, 50)), int(rng.integers(0, 9))] for model in asked}
        lines.append(line)
    return lines


def long_lines(wide):
    return [
        {
            "id": line["id"],
            "query": line["query"],
            "task": line["task"],
            "model": model,
            "score": score,
            "num_prompt_tokens": line["tokens"][model][0],
            "num_new_tokens": line["tokens"][model][1],
        }
        for line in wide
        for model, score in line["scores"].items()
    ]


def cards(tmp_path, figures=None):
    path = tmp_path / "models.json"
    path.write_text(json.dumps(figures or {model: {"price_usd_per_mtok": 1.0 + n} for n, model in enumerate(MODELS)}))
    return read_model_cards(path, MODELS)


@pytest.mark.parametrize("num_stages", [1, 2])
def test_a_tree_holds_what_the_table_says(tmp_path, num_stages):
    lines = wide_lines()
    by_id = {line["id"]: line for line in lines}
    pool = cards(tmp_path)
    queries = outcome_table(lines)
    file = outcome_tree_file(queries, pool, encoder=ENCODER, num_stages=num_stages, cost_model="price", is_quiet=True)
    save_tree(tmp_path / "tree.npz", file)
    file = load_tree(tmp_path / "tree.npz", cost_model="price")
    assert sum(tree.num_queries for tree in (file.train, file.validation, file.test)) == 23
    names = {hash_: name for name, hash_ in ids_of(queries)}
    raw = {}
    for split, outcomes in file.outcomes.items():
        tree = getattr(file, split)
        for query, hash_ in enumerate(outcomes.row_id_hash):
            line = by_id[names[int(hash_)]]
            assert tree.task_names[int(tree.task[query])] == line["task"]
            seen = np.asarray(tree.context)[np.asarray(tree.context_row)[query]]
            np.testing.assert_array_equal(seen, np.tile(ENCODER.encode([line["query"]]), (tree.num_nodes, 1)))
            for node in range(1, tree.num_nodes):
                path = [MODELS[model] for model in path_of_node(3, node)]
                is_there = all(model in line["scores"] for model in path)
                assert bool(tree.valid[query, node]) == is_there
                if is_there:
                    assert float(tree.quality[query, node]) == line["scores"][path[-1]]
                    price = 1.0 + MODELS.index(path[-1])
                    raw[split, query, node] = price * sum(line["tokens"][path[-1]])
    means = [
        np.mean(
            [
                raw["train", query, 1 + model]
                for query in range(file.train.num_queries)
                if ("train", query, 1 + model) in raw
            ]
        )
        for model in range(3)
    ]
    for (split, query, node), cost in raw.items():
        assert float(getattr(file, split).step_cost[query, node]) == pytest.approx(cost / max(means), rel=1e-5)


def ids_of(queries):
    from hierrouter_jax.collect.outcomes import row_id_hash

    return [(query.id, row_id_hash(query.id)) for query in queries]


def test_both_shapes_say_the_same(tmp_path):
    lines = wide_lines()
    assert outcome_table(lines) == outcome_table(long_lines(lines))
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in long_lines(lines)) + "\n\n")
    assert read_outcome_table(path) == outcome_table(lines)


def test_a_saved_dataset_is_a_table(tmp_path):
    import datasets

    lines = [{"query": f"q {n}", "model": "small", "score": n / 7} for n in range(7)]
    datasets.Dataset.from_list(lines).save_to_disk(tmp_path / "flat")
    assert read_outcome_table(tmp_path / "flat") == outcome_table(lines)
    parts = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(lines[:5]), "test": datasets.Dataset.from_list(lines[5:])}
    )
    parts.save_to_disk(tmp_path / "parts")
    found = read_outcome_table(tmp_path / "parts")
    assert [query.split for query in found] == ["train"] * 5 + ["test"] * 2


def test_responses_are_scored_against_the_answer():
    line = {"query": "What is 2 + 3?", "answer": "5", "model": "small"}
    right, wrong = outcome_table([{**line, "response": "so it is 5"}])[0], outcome_table([{**line, "response": "6"}])[0]
    assert (right.answers["small"].score, wrong.answers["small"].score) == (1.0, 0.0)
    both = [{**line, "id": "q", "response": "it is 5"}, {**line, "id": "q", "model": "large", "response": "5.0"}]
    test = [{"query": "Another?", "scores": {"small": 1, "large": 0}, "split": "test"}]
    queries = outcome_table([*[{**one, "split": "train"} for one in both], *test])
    file = outcome_tree_file(queries, read_model_cards(None, MODELS[:2]), encoder=ENCODER, num_stages=2, is_quiet=True)
    assert file.outcomes["train"].answer_id[0].tolist() == [0, 1, 1, 1, 1, 1, 1]  # equal numbers agree
    assert file.outcomes["train"].is_parsed[0].tolist() == [False] + [True] * 6
    assert file.outcomes["test"].answer_id[0].tolist() == [0] * 7


def test_questions_stay_on_their_side_and_shares_hold():
    queries = outcome_table([{"query": f"q {n}", "scores": {"small": 1.0}} for n in range(997)])
    pool = read_model_cards(None, MODELS[:1])
    shares = SplitShares(validation_share=0.2, test_share=0.3, seed=1)
    file = outcome_tree_file(queries, pool, encoder=ENCODER, shares=shares, is_quiet=True)
    sizes = [tree.num_queries / 997 for tree in (file.train, file.validation, file.test)]
    np.testing.assert_allclose(sizes, [0.5, 0.2, 0.3], atol=0.05)
    fewer = outcome_tree_file(queries[::-1][:500], pool, encoder=ENCODER, shares=shares, is_quiet=True)
    assert set(fewer.outcomes["test"].row_id_hash) <= set(file.outcomes["test"].row_id_hash)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        ([{"query": " ", "scores": {"a": 1}}], "line 1: query must be text"),
        ([{"query": "q", "scores": {"a": 1.5}}], r"the score of a must be a number in \[0, 1\], but is 1.5"),
        ([{"query": "q", "scores": {"a": "1"}}], "the score of a must be a number"),
        ([{"query": "q", "scores": [1]}], "must be objects by model"),
        ([{"query": "q", "scores": {"a": 1}, "tokens": {"a": [1]}}], r"must be \[prompt, new\]"),
        ([{"query": "q", "scores": {"a": 1}, "tokens": {"a": [1, -1]}}], "whole number >= 0"),
        ([{"query": "q", "scores": {"a": 1}, "split": "dev"}], "split must be one of train, validation, test"),
        ([{"query": "q"}], "but has neither"),
        ([{"query": "q", "model": "a", "response": "5"}], "needs a score, or a response and the answer"),
        (
            [{"query": "q", "scores": {"a": 1}}, {"query": "q", "scores": {"a": 0}}],
            "line 2: id 'q' has an answer of a already",
        ),
        (
            [{"id": 1, "query": "q", "scores": {"a": 1}}, {"id": 1, "query": "p", "scores": {"b": 0}}],
            "stands for another",
        ),
        ([{"query": "q", "scores": {"a": 2}}, {"query": "", "scores": {"a": 1}}], "(?s)line 1.*line 2"),
        ([["q"]], "must be an object, but is list"),
    ],
)
def test_bad_lines_are_named(lines, message):
    with pytest.raises(DataError, match=message):
        outcome_table(lines)


def test_bad_files_models_and_shares_are_refused(tmp_path):
    with pytest.raises(DataError, match="There is no outcome table"):
        read_outcome_table(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"query": "q", "scores": {"a": 1}}\n{"query"\n')
    with pytest.raises(DataError, match="line 2 is none"):
        read_outcome_table(tmp_path / "bad.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="must be a folder that `datasets` saved"):
        read_outcome_table(tmp_path / "folder")
    with pytest.raises(DataError, match=r"(?s)large: it is not in.*coder: base_rate must be a number"):
        cards(tmp_path, {"small": {}, "coder": {"base_rate": "1"}})
    with pytest.raises(ConfigError, match="together below 1"):
        SplitShares(validation_share=0.5, test_share=0.5)
    pool = read_model_cards(None, ["a"])
    with pytest.raises(DataError, match=r"has none for:\n.*test"):
        outcome_tree_file(outcome_table([{"query": "q", "scores": {"a": 1}, "split": "train"}]), pool, encoder=ENCODER)
    with pytest.raises(DataError, match="but these have none"):
        outcome_tree_file(outcome_table([{"query": "q", "scores": {"b": 1}}]), pool, encoder=ENCODER)
