"""A tree deepened by a partial, deeper one against the tree that is collected at once with the same nodes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scripted_collection import last_word_score, make_engine, make_rows

from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.deepened_tree import deepened_tree
from hierrouter_jax.collect.outcomes import field_dims, field_names
from hierrouter_jax.collect.tree_file import load_tree, make_tree_file, save_tree
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.routing.route_tree import count_nodes, node_parents
from hierrouter_jax.store.response_store import ResponseStore

M = 3
SPLITS = {
    "train": make_rows(5, 2, prefix="train"),
    "validation": make_rows(1, 1, prefix="validation"),
    "test": make_rows(3, 2, prefix="test"),
}
SHALLOW, DEEP = count_nodes(M, 2), count_nodes(M, 3)


def collect(path, splits, **options):
    with ResponseStore(path) as store:
        return collect_tree(
            make_engine(M),
            splits,
            store,
            encoder=HashingEncoder(dim=13),
            scorer=last_word_score,
            scorer_version="last-word",
            is_quiet=True,
            **options,
        )


@pytest.fixture
def wanted():
    """Some nodes of the third stage, of some queries; none of the validation split."""
    rng = np.random.default_rng(11)
    masks = {split: np.zeros((len(rows), DEEP), bool) for split, rows in SPLITS.items()}
    for split in ("train", "test"):
        masks[split][:, SHALLOW:] = rng.random((len(SPLITS[split]), DEEP - SHALLOW)) < 0.1
        masks[split][0] = False
        masks[split][1, SHALLOW] = True
    return masks


def some_queries(wanted, order):
    """The rows that something is wanted of, in another order, with their masks; every first hop of one of them."""
    rows, masks = {}, {}
    for split, own in SPLITS.items():
        some = np.flatnonzero(wanted[split].any(axis=1))[::order]
        rows[split], masks[split] = [own[query] for query in some], wanted[split][some].copy()
    masks["train"][0, 1 : 1 + M] = True
    return rows, masks


def test_it_is_the_tree_that_is_collected_at_once(tmp_path, wanted):
    rows, masks = some_queries(wanted, order=-1)
    shallow = collect(tmp_path / "shallow", SPLITS, num_stages=2)
    deeper = collect(tmp_path / "deeper", rows, num_stages=3, nodes=masks)
    found, num_left_out = deepened_tree(shallow, deeper)
    everything = {split: mask.copy() for split, mask in wanted.items()}
    for mask in everything.values():
        mask[:, :SHALLOW] = True
    expected = collect(tmp_path / "at_once", SPLITS, num_stages=3, nodes=everything)
    assert num_left_out == 0
    assert expected.train.valid[:, SHALLOW:].sum() == wanted["train"][:, SHALLOW:].sum() > 20
    assert found.manifest == expected.manifest
    parents = node_parents(M, 3)
    for split, arrays in expected.outcomes.items():
        for name in field_names():
            if name not in ("context", "context_row"):
                np.testing.assert_array_equal(getattr(found.outcomes[split], name), getattr(arrays, name), err_msg=name)
        # Contexts where something is decided; a node of the second stage without a child has the root's.
        child_there = np.zeros(arrays.valid.shape, bool)
        for node in range(1, DEEP):
            child_there[:, parents[node]] |= arrays.valid[:, node]
        texts = [one.context[one.context_row] for one in (found.outcomes[split], arrays)]
        np.testing.assert_array_equal(texts[0][child_there], texts[1][child_there])
        leaves = arrays.valid & ~child_there
        roots = np.broadcast_to(texts[0][:, :1], texts[0].shape)
        np.testing.assert_array_equal(texts[0][leaves], roots[leaves])
        assert child_there[:, SHALLOW - M**2 : SHALLOW].any() == (split != "validation")
        assert sorted(set(found.outcomes[split].context_row.ravel())) == list(range(len(found.outcomes[split].context)))
    save_tree(tmp_path / "tree.npz", found)
    np.testing.assert_array_equal(load_tree(tmp_path / "tree.npz").test.signals, expected.test.signals)


@pytest.mark.parametrize("name", ["num_new_tokens", "quality"])
def test_queries_that_were_answered_otherwise_keep_their_own_stages(tmp_path, wanted, name):
    rows, masks = some_queries(wanted, order=1)
    deeper = collect(tmp_path / "deeper", rows, num_stages=3, nodes=masks)
    shallow = collect(tmp_path / "shallow", SPLITS, num_stages=2)
    arrays = shallow.outcomes["test"]
    changed = getattr(arrays, name).copy()
    first_hop = next(node for node in range(1, 1 + M) if deeper.outcomes["test"].valid[0, node])
    changed[1, first_hop] = changed[1, first_hop] + 1 if name == "num_new_tokens" else 1 - changed[1, first_hop]
    other = make_tree_file(
        shallow.manifest, {**shallow.outcomes, "test": dataclasses.replace(arrays, **{name: changed})}
    )
    found, num_left_out = deepened_tree(other, deeper)
    assert num_left_out == 1
    deep = found.outcomes["test"].valid[:, SHALLOW:]
    assert not deep[1].any()
    np.testing.assert_array_equal(deep[2:], wanted["test"][2:, SHALLOW:])


def test_trees_that_do_not_go_together_are_refused(tmp_path, wanted):
    rows, masks = some_queries(wanted, order=1)
    shallow = collect(tmp_path / "shallow", SPLITS, num_stages=2)
    deeper = collect(tmp_path / "deeper", rows, num_stages=3, nodes=masks)
    with pytest.raises(DataError, match="stages: 3, and no more: 2"):
        deepened_tree(deeper, shallow)
    other = dataclasses.replace(deeper, manifest=dataclasses.replace(deeper.manifest, prompt_version="v7"))
    with pytest.raises(DataError, match="prompt_version: v2 and v7"):
        deepened_tree(shallow, other)
    strange = collect(tmp_path / "strange", {**rows, "test": make_rows(2, 2, prefix="strange")}, num_stages=3)
    with pytest.raises(DataError, match="4 of 4 of split test are not among them"):
        deepened_tree(shallow, strange)


def test_fields_are_taken_over_by_their_axes():
    """A field with other axes than (query, node) would need a rule of its own."""
    assert {name for name in field_names() if field_dims(name) != ("query", "node")} == {
        "context",
        "task",
        "row_id_hash",
    }
