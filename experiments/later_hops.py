"""Does it help to ask otherwise at the second hop? Prompts that refine, verify or solve anew, beside those in use.

    python experiments/later_hops.py --out results

Trees of other prompts (`experiments/collect_later_hops.py`) hold some train rows of the six-benchmark tree, with its
first answers. Their second answers are compared with its own to the same rows, by what they change and by what a
router earns that is trained and judged on these rows (cross-validation).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from command import run
from jaxtyping import Float
from later_answers import changes
from rich.console import Console
from router_candidates import ROUTER, Candidate, cross_validated, priced

from hierrouter_jax.collect.outcomes import NodeOutcomes, field_dims, field_names, raw_cost_of_one, route_tree_of
from hierrouter_jax.collect.tree_file import TreeFile, load_tree
from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval
from hierrouter_jax.report.tables import Table, markdown_table, rich_table
from hierrouter_jax.routing.route_tree import RouteTree, stage_slice
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_routes

TREES = Path(__file__).resolve().parent / "trees"
VERSIONS = ("later_hops_refine.npz", "later_hops_verify.npz", "later_hops_anew.npz")
COST_WEIGHTS = (0.1, 0.01)
SHARED = ("pool_digest", "encoder_digest", "num_stages")
COMPARED = ("num_prompt_tokens", "num_new_tokens", "quality")


@dataclass(frozen=True, kw_only=True)
class Version:
    """The same rows under one version of prompts."""

    name: str
    outcomes: NodeOutcomes
    tree: RouteTree


def all_rows(tree_file: TreeFile) -> NodeOutcomes:
    """Return the outcomes of the train and the test split as one, in the order of the rows' hashes."""
    parts = [tree_file.outcomes[split] for split in ("train", "test")]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in field_names() if name != "context_row"
    }
    second = parts[1].context_row + parts[0].context.shape[0]
    arrays["context_row"] = np.concatenate([parts[0].context_row, second])
    return rows_of(NodeOutcomes(**arrays), np.argsort(arrays["row_id_hash"]))


def rows_of(outcomes: NodeOutcomes, rows: np.ndarray) -> NodeOutcomes:
    """Return the outcomes of some rows, in that order."""
    led = [name for name in field_names() if field_dims(name)[0] == "query"]
    return dataclasses.replace(outcomes, **{name: getattr(outcomes, name)[rows] for name in led})


def same_rows(tree_file: TreeFile, other: TreeFile, *, what: str) -> tuple[NodeOutcomes, NodeOutcomes]:
    """Return the outcomes of the rows of `other` by both files, those left out whose first answers or scores differ.

    Raises `DataError` unless both are of one pool, encoder and length, and the train split has the rows.
    """
    differing = [name for name in SHARED if getattr(tree_file.manifest, name) != getattr(other.manifest, name)]
    if differing:
        raise DataError(f"{what} must be made like the tree it is compared with, but these differ: {differing}.")
    theirs, own = all_rows(other), tree_file.outcomes["train"]
    places = {int(value): place for place, value in enumerate(own.row_id_hash)}
    missing = [value for value in theirs.row_id_hash.tolist() if value not in places]
    if missing:
        raise DataError(
            f"{what} must hold train rows of the tree it is compared with, but {len(missing)} of "
            f"{len(theirs.row_id_hash)} rows are none; collect it with collect_later_hops.py."
        )
    ours = rows_of(own, np.array([places[value] for value in theirs.row_id_hash.tolist()]))
    first = stage_slice(len(tree_file.manifest.cards), 1)
    is_same = np.all([getattr(ours, name)[:, first] == getattr(theirs, name)[:, first] for name in COMPARED], axis=0)
    kept = np.flatnonzero(is_same.all(axis=1))
    return rows_of(ours, kept), rows_of(theirs, kept)


def versions(tree_file: TreeFile, others: Sequence[tuple[str, TreeFile]]) -> list[Version]:
    """Return the versions, that of `tree_file` first, all about the rows that every file has.

    Costs of all count in the unit of `tree_file`.
    """
    manifest = tree_file.manifest
    unit = raw_cost_of_one(tree_file.outcomes["train"], manifest.cards, cost_model=tree_file.cost_model)
    pairs = [same_rows(tree_file, other, what=name) for name, other in others]
    common = set.intersection(*(set(theirs.row_id_hash.tolist()) for _, theirs in pairs))
    found = [(manifest.prompt_version, pairs[0][0])]
    found += [(other.manifest.prompt_version, theirs) for (_, other), (_, theirs) in zip(others, pairs, strict=True)]
    result = []
    for name, outcomes in found:
        chosen = np.flatnonzero([value in common for value in outcomes.row_id_hash.tolist()])
        own = rows_of(outcomes, chosen)
        tree = route_tree_of(
            own,
            manifest.cards,
            num_stages=manifest.num_stages,
            task_names=manifest.task_names,
            cost_model=tree_file.cost_model,
            raw_cost_of_one=unit,
        )
        result.append(Version(name=name, outcomes=own, tree=tree))
    return result


def router_utilities(version: Version, cost_weight: float) -> Float[np.ndarray, " query"]:
    """Return what a router earns on each row by routers trained on other rows."""
    return cross_validated(Candidate(config=priced(ROUTER, cost_weight)), version.tree)


def oracle_quality(version: Version) -> float:
    """Return the mean quality of the best routes."""
    routes = optimal_routes(version.tree, cost_weight=0.0)
    return float(jnp.mean(score_routes(version.tree, routes, cost_weight=0.0).quality))


def findings(compared: Sequence[Version]) -> dict[str, dict[str, Any]]:
    """Return, by version, what second answers change and what a router earns, the first one's as the measure."""
    found: dict[str, dict[str, Any]] = {}
    base: dict[float, np.ndarray] = {}
    with progress_bar("prompts of the second hop", len(compared) * len(COST_WEIGHTS)) as advance:
        for version in compared:
            own = changes(version.outcomes, version.tree.num_models, 2) | {"oracle": oracle_quality(version)}
            found[version.name] = own
            for weight in COST_WEIGHTS:
                earned = router_utilities(version, weight)
                base.setdefault(weight, earned)
                low, high = difference_interval(earned, base[weight], BootstrapConfig())
                gain = float((earned - base[weight]).mean())
                own[f"router at {weight:g}"] = {
                    "utility": float(earned.mean()),
                    "gain": gain,
                    "gain_ci": [float(low), float(high)],
                }
                advance(1)
    return found


def table_of(found: Mapping[str, Mapping[str, Any]], num_queries: int) -> Table:
    """Return the findings as a table."""
    rows = []
    for name, own in found.items():
        repeats = own["repeat the answer before, %"]
        cells = [f"{own['answers']}", f"{repeats:.0f}", f"{own['mend it']}", f"{own['spoil it']}"]
        cells.append(f"{100 * own['oracle']:.1f}")
        for weight in COST_WEIGHTS:
            router = own[f"router at {weight:g}"]
            low, high = router["gain_ci"]
            gain = f", {100 * router['gain']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" if rows else ""
            cells.append(f"{100 * router['utility']:.1f}{gain}")
        rows.append((name, *cells))
    counts = ("second answers", "repeat the first, %", "mend it", "spoil it", "oracle's quality %")
    header = ("prompts", *counts, *(f"router, utility % at {weight:g}" for weight in COST_WEIGHTS))
    return Table(
        title=f"Other prompts at the second hop, {num_queries} train questions", header=header, rows=tuple(rows)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=TREES / "six_benchmarks.npz", help="tree file of two stages")
    parser.add_argument("--others", type=Path, nargs="+", default=[TREES / name for name in VERSIONS])
    parser.add_argument("--out", type=Path, required=True, help="folder for later_hops.md and later_hops.json")
    options = parser.parse_args(arguments)
    compared = versions(load_tree(options.tree), [(str(path), load_tree(path)) for path in options.others])
    found = findings(compared)
    table = table_of(found, compared[0].tree.num_queries)
    Console().print(rich_table(table))
    options.out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(options.out / "later_hops.md", markdown_table(table))
    write_text_atomically(options.out / "later_hops.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
