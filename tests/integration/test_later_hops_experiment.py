"""Other prompts at the second hop: rows chosen, files matched row by row, what is left out and refused."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import collect_later_hops
import later_hops
import numpy as np
import pytest
from later_answers import changes, changes_table

from hierrouter_jax.collect.outcomes import row_ids_digest
from hierrouter_jax.collect.tree_file import load_tree, make_tree_file, save_tree
from hierrouter_jax.core.errors import DataError

SMALL = later_hops.TREES / "small.npz"
TRAIN_ROWS, TEST_ROWS = np.arange(2, 103, 2), np.arange(1, 103, 4)  # of the packaged train split
SECOND = slice(4, 13)


def test_the_first_rows_of_every_task_are_asked():
    rows = [
        SimpleNamespace(task=task, form=form) for task, form in (("a", "choice"), ("b", "number")) for _ in range(7)
    ]
    chosen = collect_later_hops.some_rows(rows, 5, 3)
    assert chosen == rows[:5] + rows[7:10]


def other_file(whole, *, quality=None, name="v2-other"):
    """A file about some train rows of `whole` in another order, with other second answers."""
    train = whole.outcomes["train"]
    parts = {"train": later_hops.rows_of(train, TRAIN_ROWS[::-1]), "test": later_hops.rows_of(train, TEST_ROWS)}
    if quality is not None:
        changed = {split: np.array(own.quality) for split, own in parts.items()}
        for own in changed.values():
            own[:, SECOND] = quality
        parts = {split: dataclasses.replace(own, quality=changed[split]) for split, own in parts.items()}
    names = whole.manifest.task_names
    sizes = {
        split: {task: int(np.sum(own.task == index)) for index, task in enumerate(names)}
        for split, own in parts.items()
    }
    manifest = dataclasses.replace(
        whole.manifest,
        prompt_version=name,
        split_sizes=sizes,
        row_ids_digests={split: row_ids_digest(own.row_id_hash) for split, own in parts.items()},
    )
    return make_tree_file(manifest, parts)


def test_both_versions_are_about_the_same_rows_in_the_same_order():
    whole = load_tree(SMALL)
    right = other_file(whole, quality=1.0)
    ours, theirs = later_hops.versions(whole, [("right", right)])
    assert (ours.name, theirs.name) == (whole.manifest.prompt_version, "v2-other")
    np.testing.assert_array_equal(ours.outcomes.row_id_hash, theirs.outcomes.row_id_hash)
    rows = sorted({*TRAIN_ROWS.tolist(), *TEST_ROWS.tolist()})
    assert set(ours.outcomes.row_id_hash.tolist()) == set(whole.outcomes["train"].row_id_hash[rows].tolist())
    places = {value: place for place, value in enumerate(whole.outcomes["train"].row_id_hash.tolist())}
    for place, value in enumerate(ours.outcomes.row_id_hash.tolist()):
        np.testing.assert_array_equal(ours.outcomes.quality[place], whole.outcomes["train"].quality[places[value]])
        np.testing.assert_array_equal(ours.tree.step_cost[place], whole.train.step_cost[places[value]])
        context = np.asarray(theirs.tree.context)[np.asarray(theirs.tree.context_row)[place, 2]]
        expected = np.asarray(whole.train.context)[np.asarray(whole.train.context_row)[places[value], 2]]
        np.testing.assert_array_equal(context, expected)
    first_wrong = int(np.sum(theirs.outcomes.quality[:, 1:4] == 0))
    counts = changes(theirs.outcomes, 3, 2)
    assert (counts["mend it"], counts["spoil it"]) == (3 * first_wrong, 0)
    assert later_hops.oracle_quality(theirs) == 1.0 > later_hops.oracle_quality(ours)


def test_rows_whose_first_answers_differ_are_left_out():
    whole = load_tree(SMALL)
    other = other_file(whole)
    train = other.outcomes["train"]
    tokens = np.array(train.num_new_tokens)
    tokens[[3, 7], 2] += 1
    changed = make_tree_file(
        other.manifest, {**other.outcomes, "train": dataclasses.replace(train, num_new_tokens=tokens)}
    )
    ours, theirs = later_hops.same_rows(whole, changed, what="changed")
    assert len(theirs.task) == len(TRAIN_ROWS) + len(TEST_ROWS) - 2
    assert not set(train.row_id_hash[[3, 7]].tolist()) & set(ours.row_id_hash.tolist())


def test_files_that_cannot_be_compared_are_refused():
    whole = load_tree(SMALL)
    other = other_file(whole)
    pool = dataclasses.replace(other, manifest=dataclasses.replace(other.manifest, encoder_digest="another"))
    with pytest.raises(DataError, match=r"must be made like the tree.*\['encoder_digest'\]"):
        later_hops.same_rows(whole, pool, what="x")
    swapped = dataclasses.replace(whole, outcomes={"train": whole.outcomes["test"], "test": whole.outcomes["train"]})
    with pytest.raises(DataError, match="rows are none; collect it with"):
        later_hops.same_rows(swapped, other, what="x")


def test_the_command_writes_table_and_numbers(tmp_path, capsys):
    whole = load_tree(SMALL)
    save_tree(tmp_path / "other.npz", other_file(whole, quality=1.0))
    arguments = ["--tree", str(SMALL), "--others", str(tmp_path / "other.npz"), "--out", str(tmp_path / "out")]
    later_hops.main(arguments)
    found = json.loads((tmp_path / "out" / "later_hops.json").read_text())
    own, other = found.values()
    assert own["router at 0.01"]["gain"] == 0
    assert other["router at 0.01"]["gain"] > 0.1  # a second answer that is always right
    assert other["oracle"] == 1.0
    table = (tmp_path / "out" / "later_hops.md").read_text()
    assert "v2-other" in table
    assert "v2-other" in capsys.readouterr().out


def test_counts_are_a_table():
    table = changes_table({"2": {"answers": 7, "share, %": 1 / 3}}, title="t", name="hop")
    assert table.header == ("hop", "answers", "share, %")
    assert table.rows == (("2", "7", "0.3"),)
