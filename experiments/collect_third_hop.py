"""A third hop where policies go: the six-benchmark tree with three stages, filled on the nodes that routers visit.

    HIERROUTER_BENCHMARKS=path/to/benchmarks python experiments/collect_third_hop.py --store six.sqlite \
        --tree experiments/trees/six_benchmarks.npz --out third_hop.npz

Routers are trained on the two-stage tree at some cost weights. Where one of them, on a query of any split, has asked
two models, every model is asked a third time. What was asked on the way comes from the store, or is asked again where
the store lacks it. The file holds these questions and nodes alone; `experiments/third_hop.py` joins it to the
two-stage tree, and says whether a third hop pays.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from collect_six_benchmarks import CONFIG
from command import run
from jaxtyping import Bool
from router_candidates import ROUTER, priced, routes_of_seeds, train_seeds

from hierrouter_jax.collect.collect_config import load_collect_rows
from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.collection_report import summary_lines
from hierrouter_jax.collect.deepened_tree import deepened_tree
from hierrouter_jax.collect.outcomes import row_id_hash
from hierrouter_jax.collect.tree_file import TreeFile, load_tree, save_tree
from hierrouter_jax.core.atomic_files import require_writable
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.encoder.joint import open_encoder
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.routing.route_tree import RouteTree, count_nodes, node_of_path
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.task_row import TaskRow

COST_WEIGHTS = (0.01,)  # low enough that a second model is asked on most questions of three benchmarks


def wanted_nodes(tree: RouteTree, routes: Sequence[RouteBatch]) -> Bool[np.ndarray, "query node"]:
    """Return which nodes of a tree of one stage more are wanted: those below the ends of routes.

    Only routes that ask as many models as the tree has stages have anything below.
    """
    num_models, deeper = tree.num_models, count_nodes(tree.num_models, tree.num_stages + 1)
    wanted = np.zeros((tree.num_queries, deeper), bool)
    for batch in routes:
        for query, route in enumerate(np.asarray(batch.actions).tolist()):
            if tree.stop not in route:
                below = node_of_path(num_models, route) * num_models + 1
                wanted[query, below : below + num_models] = True
    return wanted


def visited(tree_file: TreeFile, cost_weights: Sequence[float], num_seeds: int) -> dict[str, Bool[np.ndarray, ...]]:
    """Return the wanted nodes of every split, by routers trained at the cost weights."""
    splits = {"train": tree_file.train, "validation": tree_file.validation, "test": tree_file.test}
    present = {name: tree for name, tree in splits.items() if tree is not None}
    routes: dict[str, list[RouteBatch]] = {name: [] for name in present}
    for weight in cost_weights:
        config = priced(ROUTER, weight)
        params = train_seeds(config, tree_file.train, num_seeds)
        for name, tree in present.items():
            routes[name] += routes_of_seeds(config, params, tree)
    return {name: wanted_nodes(tree, routes[name]) for name, tree in present.items()}


def asked_rows(
    rows: Mapping[str, Sequence[TaskRow]], wanted: Mapping[str, Bool[np.ndarray, "query node"]], num_models: int
) -> tuple[dict[str, list[TaskRow]], dict[str, Bool[np.ndarray, ...]]]:
    """Return the rows that something is wanted of, and what; of the first one also every first hop: the unit of cost.

    Raises `DataError` when nothing is wanted of the train rows or of the test rows.
    """
    asked, nodes = {}, {}
    for split, own in rows.items():
        some = np.flatnonzero(wanted[split].any(axis=1))
        asked[split] = [own[query] for query in some.tolist()]
        nodes[split] = wanted[split][some]
    if not asked["train"] or not asked["test"]:
        raise DataError("A third hop needs routers that ask two models, but these do not; lower --cost-weights.")
    nodes["train"][0, 1 : 1 + num_models] = True
    return asked, nodes


def check_rows(tree_file: TreeFile, rows: Mapping[str, Sequence[TaskRow]]) -> None:
    """Raise `DataError` unless the tree was made of exactly these rows, in their order."""
    for name, own in rows.items():
        held = tree_file.outcomes[name].row_id_hash.tolist() if name in tree_file.outcomes else []
        if held != [row_id_hash(row.id) for row in own]:
            raise DataError(
                f"The tree must hold the {len(own)} {name} rows of collect_six_benchmarks.py in their order, but holds "
                f"others ({len(held)}); collect it anew with that config."
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, walk, ask, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="response store that the two-stage tree came from")
    parser.add_argument("--tree", type=Path, required=True, help="the two-stage tree")
    parser.add_argument("--out", type=Path, required=True, help="the partial tree of three stages")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cost-weights", type=float, nargs="+", default=list(COST_WEIGHTS))
    options = parser.parse_args(arguments)
    require_writable(options.out)
    rows, tree_file = load_collect_rows(CONFIG), load_tree(options.tree)
    check_rows(tree_file, rows)
    wanted = visited(tree_file, options.cost_weights, options.seeds)
    asked, nodes = asked_rows(rows, wanted, tree_file.train.num_models)
    engine, encoder = FlaxEngine(load_pool(CONFIG.pool)), open_encoder(CONFIG.encoder)
    with ResponseStore(options.store) as store:
        found = collect_tree(
            engine,
            asked,
            store,
            num_stages=CONFIG.num_stages + 1,
            encoder=encoder,
            prompt_version=CONFIG.prompt_version,
            chunk_size=CONFIG.chunk_size,
            seed=CONFIG.splits.seed,
            nodes=nodes,
        )
    save_tree(options.out, found)
    _, num_left_out = deepened_tree(tree_file, found)
    assert found.report is not None
    lines = [f"queries whose answers are no longer those of {options.tree}: {num_left_out}"]
    print("\n".join([*summary_lines(found.report), *lines, f"tree: {options.out}"]))


if __name__ == "__main__":
    run(main)
