"""Does a third hop pay? Routers of two stages beside routers of three, on the same test rows at the same cost weights.

    python experiments/third_hop.py --out results

The two-stage tree is deepened by a partial one of three stages (`experiments/collect_third_hop.py`): a third model can
be asked where routers of two stages end after two. Tables and `third_hop.json` go into the folder. In means
every benchmark counts alike; intervals are paired.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from command import run
from later_answers import changes, changes_table
from rich.console import Console
from router_candidates import ROUTER, priced, trained_routes

from hierrouter_jax.collect.deepened_tree import deepened_tree
from hierrouter_jax.collect.tree_file import TreeFile, load_tree
from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig
from hierrouter_jax.evaluate.comparison import difference
from hierrouter_jax.evaluate.results import Difference
from hierrouter_jax.evaluate.route_outcomes import RouteOutcomes, outcomes_of, task_weights
from hierrouter_jax.report.tables import Table, markdown_table, rich_table
from hierrouter_jax.routing.route_tree import first_stages
from hierrouter_jax.routing.values import optimal_routes

TREES = Path(__file__).resolve().parent / "trees"
COST_WEIGHTS = (0.0, 0.005, 0.01, 0.02)  # beyond, hardly a question is asked twice


def router_outcomes(tree_file: TreeFile, num_stages: int, cost_weight: float, num_seeds: int) -> RouteOutcomes:
    """Return what routers of at most so many hops come to on the test rows, the mean of the seeds."""
    train, test = (first_stages(tree, num_stages) for tree in (tree_file.train, tree_file.test))
    routes = trained_routes(priced(ROUTER, cost_weight), train, test, num_seeds)
    return outcomes_of(test, routes, cost_weight, weights=task_weights(test))


def bound(tree_file: TreeFile, num_stages: int, cost_weight: float) -> RouteOutcomes:
    """Return what the oracle comes to within so many hops."""
    test = first_stages(tree_file.test, num_stages)
    return outcomes_of(test, optimal_routes(test, cost_weight=cost_weight), cost_weight, weights=task_weights(test))


def row_of(cost_weight: float, pair: Sequence[RouteOutcomes], gain: Difference) -> tuple[str, ...]:
    """Return a line of the table."""
    low, high = (100 * limit for limit in gain.utility_ci)
    cells = [(100 * one.mean(one.quality), one.mean(one.cost), one.mean(one.num_hops)) for one in pair]
    numbers = [f"{value:.{digits}f}" for cell in cells for value, digits in zip(cell, (1, 2, 2), strict=True)]
    return (f"{cost_weight:g}", *numbers, f"{100 * gain.utility:+.1f} [{low:+.1f}, {high:+.1f}]")


def changes_by_hop(tree_file: TreeFile) -> Table:
    """Return what answers to test questions do to those before them, by hop."""
    test = tree_file.test
    rows = {
        str(stage): changes(tree_file.outcomes["test"], test.num_models, stage)
        for stage in range(2, test.num_stages + 1)
    }
    return changes_table(rows, title="What later answers change, test questions", name="hop")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=TREES / "six_benchmarks.npz", help="tree file of two stages")
    parser.add_argument("--deeper", type=Path, default=TREES / "third_hop.npz", help="partial one with a stage more")
    parser.add_argument("--out", type=Path, required=True, help="folder for third_hop.md and third_hop.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cost-weights", type=float, nargs="+", default=list(COST_WEIGHTS))
    options = parser.parse_args(arguments)
    tree_file, _ = deepened_tree(load_tree(options.tree), load_tree(options.deeper))
    num_stages = tree_file.test.num_stages
    rows, found = [], {}
    for weight in options.cost_weights:
        pair = [router_outcomes(tree_file, stages, weight, options.seeds) for stages in (num_stages - 1, num_stages)]
        gain = difference(pair[1], pair[0], BootstrapConfig())
        rows.append(row_of(weight, pair, gain))
        found[f"{weight:g}"] = {"systems": _means(tree_file, weight, pair), "gain": to_json_dict(gain)}
    lengths = (num_stages - 1, num_stages)
    names = [f"{what}, {stages} hops" for stages in lengths for what in ("quality %", "cost", "asked")]
    share = np.mean(np.asarray(tree_file.test.valid)[:, -(tree_file.test.num_models**num_stages) :])
    title = f"Routers of {lengths[0]} and {lengths[1]} hops ({100 * share:.0f}% of the last stage's nodes are there)"
    table = Table(title=title, header=("cost weight", *names, "utility gained [95%]"), rows=tuple(rows))
    Console().print(rich_table(table))
    options.out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(options.out / "third_hop.md", markdown_table(table))
    of_answers = changes_by_hop(tree_file)
    Console().print(rich_table(of_answers))
    write_text_atomically(options.out / "third_hop_answers.md", markdown_table(of_answers))
    write_text_atomically(options.out / "third_hop.json", json.dumps(found, indent=1) + "\n")


def _means(tree_file: TreeFile, cost_weight: float, pair: Sequence[RouteOutcomes]) -> dict[str, dict[str, float]]:
    num_stages = tree_file.test.num_stages
    systems = dict(zip((f"router/{num_stages - 1}", f"router/{num_stages}"), pair, strict=True))
    systems |= {f"oracle/{stages}": bound(tree_file, stages, cost_weight) for stages in range(1, num_stages + 1)}
    return {
        name: {what: one.mean(getattr(one, what)) for what in ("quality", "cost", "utility", "num_hops")}
        for name, one in systems.items()
    }


if __name__ == "__main__":
    run(main)
