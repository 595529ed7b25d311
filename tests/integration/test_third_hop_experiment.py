"""The third hop: which nodes are filled, and the comparison of routers of two lengths, on the packaged tree."""

from __future__ import annotations

import dataclasses
import json

import collect_third_hop
import jax.numpy as jnp
import numpy as np
import pytest
import third_hop
from later_answers import changes
from synthetic_trees import random_tree

from hierrouter_jax.collect.outcomes import field_dims, field_names
from hierrouter_jax.collect.tree_file import load_tree, make_tree_file, save_tree
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.route_tree import node_of_path, path_of_node
from hierrouter_jax.routing.scores import RouteBatch, score_routes

SMALL = third_hop.TREES / "small.npz"


def test_the_nodes_below_long_routes_are_wanted_and_no_others():
    tree = random_tree(3, num_queries=3)
    stop = tree.stop
    routes = [
        RouteBatch(actions=jnp.asarray([[0, 2], [1, stop], [2, 2]])),
        RouteBatch(actions=jnp.asarray([[0, 2], [1, 0], [0, stop]])),
    ]
    found = collect_third_hop.wanted_nodes(tree, routes)
    ends = [{(0, 2)}, {(1, 0)}, {(2, 2)}]
    for query, paths in enumerate(ends):
        below = {node_of_path(3, (*path, model)) for path in paths for model in range(3)}
        assert set(np.flatnonzero(found[query]).tolist()) == below
        assert {len(path_of_node(3, node)) for node in below} == {3}


def test_only_rows_with_something_wanted_are_asked_and_one_for_every_first_hop():
    rows = {"train": ["a", "b", "c"], "validation": ["d"], "test": ["e", "f"]}
    wanted = {split: np.zeros((len(own), 40), bool) for split, own in rows.items()}
    wanted["train"][[1, 2], [13, 39]] = True
    wanted["test"][1, 20] = True
    asked, nodes = collect_third_hop.asked_rows(rows, wanted, 3)
    assert asked == {"train": ["b", "c"], "validation": [], "test": ["f"]}
    found = {split: [np.flatnonzero(mask).tolist() for mask in masks] for split, masks in nodes.items()}
    assert found == {"train": [[1, 2, 3, 13], [39]], "validation": [], "test": [[20]]}
    wanted["test"][:] = False
    with pytest.raises(DataError, match="these do not; lower --cost-weights"):
        collect_third_hop.asked_rows(rows, wanted, 3)


def test_a_tree_of_other_rows_is_refused():
    class Row:
        id = "another"

    with pytest.raises(DataError, match=r"must hold the 1 train rows.*others \(144\)"):
        collect_third_hop.check_rows(load_tree(SMALL), {"train": [Row()]})


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """The packaged tree as the deeper one, and its first stage."""
    folder, whole = tmp_path_factory.mktemp("third"), load_tree(SMALL)
    num_nodes = 1 + whole.train.num_models
    of_nodes = [name for name in field_names() if field_dims(name) == ("query", "node")]
    shallow = {}
    for split, own in whole.outcomes.items():
        arrays = {name: getattr(own, name)[:, :num_nodes] for name in of_nodes}
        arrays["context_row"] = np.repeat(own.context_row[:, :1], num_nodes, axis=1)
        shallow[split] = dataclasses.replace(own, **arrays)
    manifest = dataclasses.replace(whole.manifest, num_stages=1)
    save_tree(folder / "shallow.npz", make_tree_file(manifest, shallow))
    return ["--tree", str(folder / "shallow.npz"), "--deeper", str(SMALL)]


def test_routers_of_two_lengths_are_compared_on_one_tree(trees, tmp_path, capsys):
    third_hop.main([*trees, "--out", str(tmp_path), "--seeds", "2", "--cost-weights", "0.1"])
    found = json.loads((tmp_path / "third_hop.json").read_text())["0.1"]
    assert set(found["systems"]) == {"router/1", "router/2", "oracle/1", "oracle/2"}
    gain = found["systems"]["router/2"]["utility"] - found["systems"]["router/1"]["utility"]
    assert found["gain"]["utility"] == pytest.approx(gain)
    assert found["systems"]["oracle/2"]["utility"] >= found["systems"]["oracle/1"]["utility"]
    tree = load_tree(SMALL).test
    best = third_hop.optimal_routes(tree, cost_weight=0.1)
    per_query = np.asarray(score_routes(tree, best, cost_weight=0.1).utility)
    balanced = np.mean([per_query[np.asarray(tree.task) == task].mean() for task in range(6)])
    assert found["systems"]["oracle/2"]["utility"] == pytest.approx(balanced, abs=1e-6)
    assert "hops" in capsys.readouterr().out


def test_later_answers_are_counted_against_those_before_them():
    own = load_tree(SMALL).outcomes["train"]  # some of its questions only a second answer gets right
    count, repeat, mend, spoil, better = 0, 0, 0, 0, set()
    for query in range(144):
        for node in range(4, 13):
            parent = (node - 1) // 3
            if not own.valid[query, node]:
                continue
            count += 1
            repeat += own.answer_id[query, node] == own.answer_id[query, parent]
            mend += own.quality[query, node] > own.quality[query, parent]
            spoil += own.quality[query, node] < own.quality[query, parent]
            if own.quality[query, node] > max(own.quality[query, :4]):
                better.add(query)
    found = list(changes(own, 3, 2).values())
    assert found == [count, pytest.approx(100 * repeat / count), mend, spoil, len(better)]
    assert 0 < len(better) <= mend
