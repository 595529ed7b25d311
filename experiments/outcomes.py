"""Routing among models whose outcomes are recorded: learn on one table, be scored on another.

    python experiments/outcomes.py --train train.jsonl --test test.jsonl --models models.json --json out.json
    python experiments/outcomes.py --table outcomes.jsonl --models models.json --splits 5 --json out.json

A table is as `hierrouter outcomes` reads it (docs/data.md); a model's cost is its price, 1 = the dearest model. With
`--table`, a quarter of the questions is held out at random, `--splits` times. For every cost weight all systems are
fitted on the training questions and scored on the others: `router` is the task mixture of `router_candidates.py`, on
questions encoded by their meaning and by their n-grams; `ppo` is the paper's learner, on the meaning alone (on both it
is no better and slower); kNN and the other baselines are those of `hierrouter evaluate`, on both. A router's outcome on
a question is the mean over its seeds. Nothing is chosen on test questions.

JSON: {"results": {COST_WEIGHT: [one comparison a split, as `evaluate --json` writes them]}, "means": {COST_WEIGHT:
{SYSTEM: {"quality", "cost", "utility": mean over splits, "utility_minus_best_single": [mean, least, largest]}}}}
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from router_candidates import PPO, ROUTER, priced, routes_of_seeds, train_seeds

from hierrouter_jax.collect.outcome_table import RecordedQuery, models_asked, read_outcome_table, read_split_tables
from hierrouter_jax.collect.outcome_tree import outcome_tree_file, read_model_cards
from hierrouter_jax.collect.tree_file import TreeFile
from hierrouter_jax.core.atomic_files import require_writable, write_text_atomically
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.core.errors import ConfigError, HierRouterError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.encoder.joint import JointEncoder, open_encoder
from hierrouter_jax.encoder.text_encoder import TextEncoder
from hierrouter_jax.evaluate.evaluate_run import evaluate_tree
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.report.tables import rich_table, system_table
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch

ENCODER = "all-MiniLM-L6-v2+ngrams-512"
HELD_OUT = 0.25
NUM_SEEDS = {"router": 5, "ppo": 2}


class Remembered:
    """An encoder that encodes a text once, however many splits ask for it."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder, self._rows = encoder, {}
        self.meaning_dim = encoder.parts[0].dim if isinstance(encoder, JointEncoder) else encoder.dim
        self.dim, self.digest = encoder.dim, encoder.digest

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one vector a text."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        self._rows |= dict(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([self._rows[text] for text in texts])


def splits_of(options: argparse.Namespace) -> list[list[RecordedQuery]]:
    """Return the questions, each with its split, once for every split that is asked for."""
    if options.table is None:
        return [read_split_tables({"train": options.train, "validation": None, "test": options.test})]
    queries = read_outcome_table(options.table)
    found = []
    for seed in range(options.splits):
        held_out = set(np.random.default_rng(seed).permutation(len(queries))[: round(HELD_OUT * len(queries))].tolist())
        named = ["test" if index in held_out else "train" for index in range(len(queries))]
        found.append([dataclasses.replace(query, split=name) for query, name in zip(queries, named, strict=True)])
    return found


def learned_routes(tree_file: TreeFile, cost_weight: float, meaning_dim: int) -> dict[str, list[RouteBatch]]:
    """Return the routes of the trained routers on the test questions, one batch a seed."""
    meanings = [meaning_of(tree, meaning_dim) for tree in (tree_file.train, tree_file.test)]
    inputs = {"router": (ROUTER, tree_file.train, tree_file.test), "ppo": (PPO, *meanings)}
    found = {}
    for name, (config, train, test) in inputs.items():
        own = priced(config, cost_weight)
        found[name] = routes_of_seeds(own, train_seeds(own, train, NUM_SEEDS[name]), test)
    return found


def meaning_of(tree: RouteTree, meaning_dim: int) -> RouteTree:
    """Return the tree with the first part of its contexts alone, of norm 1 again."""
    own = tree.context[:, :meaning_dim]
    return dataclasses.replace(tree, context=own / jnp.linalg.norm(own, axis=1, keepdims=True))


def compare_on(tree_file: TreeFile, cost_weight: float, meaning_dim: int) -> Comparison:
    """Return all systems on the test questions, the router's first."""
    routers = learned_routes(tree_file, cost_weight, meaning_dim)
    return evaluate_tree(tree_file, cost_weight=cost_weight, routers=routers)


def means_of(comparisons: Sequence[Comparison]) -> dict[str, dict[str, object]]:
    """Return every system's means over the splits."""
    means: dict[str, dict[str, object]] = {}
    for name in comparisons[0].systems:
        systems = [found.systems for found in comparisons if name in found.systems]
        own = [each[name] for each in systems]
        gains = [each[name].utility - each["best_single"].utility for each in systems]
        means[name] = {
            **{key: statistics.fmean(getattr(one, key) for one in own) for key in ("quality", "cost", "utility")},
            "utility_minus_best_single": [statistics.fmean(gains), min(gains), max(gains)],
        }
    return means


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, learn, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, help="table of the questions that are learned from")
    parser.add_argument("--test", type=Path, help="table of the questions that are scored")
    parser.add_argument("--table", type=Path, help="one table for both, divided at random")
    parser.add_argument("--splits", type=int, default=5, help="with --table: how many times")
    parser.add_argument("--models", type=Path, required=True, help="JSON file {model: {price_usd_per_mtok: ...}}")
    parser.add_argument("--cost-weights", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--json", type=Path, help="write the outcome there")
    options = parser.parse_args(arguments)
    if (options.table is None) == (options.train is None or options.test is None):
        raise ConfigError("Give either --train and --test, or --table.")
    if options.splits < 1:
        raise ConfigError(f"--splits must be >= 1, but is {options.splits}.")
    if options.json is not None:
        require_writable(options.json)
    splits = splits_of(options)
    cards = read_model_cards(options.models, models_asked(splits[0]))
    encoder = Remembered(open_encoder(options.encoder))
    results: dict[str, list[Comparison]] = {str(weight): [] for weight in options.cost_weights}
    trees = [outcome_tree_file(queries, cards, encoder=encoder, cost_model="price") for queries in splits]
    with progress_bar("learning and comparing", len(trees) * len(results)) as advance:
        for tree_file in trees:
            for weight, found in results.items():
                found.append(compare_on(tree_file, float(weight), encoder.meaning_dim))
                advance(1)
    means = {weight: means_of(found) for weight, found in results.items()}
    console = Console()
    for weight, found in results.items():
        console.print(rich_table(system_table(found[0])))
        if len(found) > 1:
            for name, mean in means[weight].items():
                numbers = ", ".join(f"{key} {mean[key]:.4f}" for key in ("quality", "cost", "utility"))
                console.print(f"cost weight {weight}, mean of {len(found)} splits: {name}: {numbers}")
    if options.json is not None:
        listed = {weight: [to_json_dict(one) for one in found] for weight, found in results.items()}
        write_text_atomically(options.json, json.dumps({"results": listed, "means": means}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except HierRouterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
