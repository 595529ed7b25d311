"""Routing among models whose outcomes are recorded: learn on some questions, be scored on others.

    python experiments/outcomes.py                                                     # the packaged tree, 5 splits
    python experiments/outcomes.py --table outcomes.jsonl --models models.json --splits 5 --json out.json
    python experiments/outcomes.py --train train.jsonl --test test.jsonl --models models.json --json out.json

A table is as `hierrouter outcomes` reads it (docs/data.md), a tree what it writes; a model's cost is its price, 1 = the
dearest model. Of a tree or `--table`, a quarter of the questions is held out at random, `--splits` times. For every
cost weight all systems are fitted on the other questions and scored on those: `router` is the task mixture of
`router_candidates.py`; `ppo` is the paper's learner, on the sentence encoder's part of the contexts alone (with n-grams
it is slow, and no better); kNN and the other baselines are those of `hierrouter evaluate`. A router's outcome on a
question is the mean over its seeds. Nothing is chosen on questions that are held out.

JSON: {"results": {COST_WEIGHT: [one comparison a split, as `evaluate --json` writes them]}, "means": {COST_WEIGHT:
{SYSTEM: {"quality", "cost", "utility": mean over splits, "router_ahead_in_quality", "router_ahead_in_utility": [mean,
least, largest of the splits]}}}, "tasks": {COST_WEIGHT: [what `recognition` says of a split]}}. `--out` is a folder for
tables of the means and of the tasks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command import run
from rich.console import Console
from router_candidates import PPO, ROUTER, priced, routes_of_seeds, train_seeds

from hierrouter_jax.agent.networks import RouterParams, task_logits
from hierrouter_jax.baselines.fixed import best_task_routes
from hierrouter_jax.collect.outcome_table import RecordedQuery, models_asked, read_outcome_table, read_split_tables
from hierrouter_jax.collect.outcome_tree import outcome_tree_file, read_model_cards
from hierrouter_jax.collect.tree_file import TreeFile, load_tree
from hierrouter_jax.core.atomic_files import require_writable, write_text_atomically
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.encoder.joint import open_encoder
from hierrouter_jax.evaluate.evaluate_run import evaluate_tree
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.report.tables import Table, markdown_table, rich_table, shown_name
from hierrouter_jax.routing.decision_states import observe_decision_states
from hierrouter_jax.routing.route_tree import RouteTree, first_stages, joined_trees, rows_of_tree
from hierrouter_jax.routing.scores import RouteBatch, score_routes

TREE = Path(__file__).resolve().parent / "trees" / "outcomes.npz"
ENCODER = "all-mpnet-base-v2+ngrams-2048"  # the best of five by cross-validation on the questions that are learned from
HELD_OUT = 0.25
LEARNED = {"router": ROUTER, "ppo": PPO}
NUM_SEEDS = {"router": 5, "ppo": 1}


def tree_files_of(options: argparse.Namespace) -> list[TreeFile]:
    """Return a tree file for every split into questions to learn from and questions to be scored on."""
    if options.train is not None:
        queries = read_split_tables({"train": options.train, "validation": None, "test": options.test})
        return [tree_file_of(queries, options)]
    if options.table is None:
        return random_splits(load_tree(options.tree, cost_model="price"), options.splits)
    queries = read_outcome_table(options.table)
    # A tree file has two splits at least; they are joined again, in the table's order.
    named = ["train"] * (len(queries) - 1) + ["test"]
    placed = [dataclasses.replace(query, split=split) for query, split in zip(queries, named, strict=True)]
    return random_splits(tree_file_of(placed, options), options.splits)


def tree_file_of(queries: Sequence[RecordedQuery], options: argparse.Namespace) -> TreeFile:
    """Return the tree file of recorded questions."""
    cards = read_model_cards(options.models, models_asked(queries))
    return outcome_tree_file(queries, cards, encoder=open_encoder(options.encoder), cost_model="price")


def random_splits(tree_file: TreeFile, num_splits: int) -> list[TreeFile]:
    """Return the tree file divided anew, so many times: a quarter of all its questions is for scoring."""
    whole = joined_trees([tree for tree in (tree_file.train, tree_file.validation, tree_file.test) if tree is not None])
    found = []
    for seed in range(num_splits):
        order = np.random.default_rng(seed).permutation(whole.num_queries)
        held, learned = np.split(order, [round(HELD_OUT * len(order))])
        trees = {name: rows_of_tree(whole, np.sort(rows)) for name, rows in {"train": learned, "test": held}.items()}
        found.append(dataclasses.replace(tree_file, validation=None, **trees))
    return found


def learned_params(tree_file: TreeFile, cost_weight: float, meaning_dim: int) -> dict[str, RouterParams]:
    """Return the trained routers, every leaf led by [seed]."""
    train = {"router": tree_file.train, "ppo": meaning_of(tree_file.train, meaning_dim)}
    return {
        name: train_seeds(priced(config, cost_weight), train[name], NUM_SEEDS[name]) for name, config in LEARNED.items()
    }


def meaning_of(tree: RouteTree, meaning_dim: int) -> RouteTree:
    """Return the tree with the first part of its contexts alone, of norm 1 again."""
    own = tree.context[:, :meaning_dim]
    return dataclasses.replace(tree, context=own / jnp.linalg.norm(own, axis=1, keepdims=True))


def compare_on(tree_file: TreeFile, cost_weight: float, meaning_dim: int) -> tuple[Comparison, dict[str, float]]:
    """Return all systems on the test questions, the router's first, and how well the router knows their tasks."""
    params = learned_params(tree_file, cost_weight, meaning_dim)
    test = {"router": tree_file.test, "ppo": meaning_of(tree_file.test, meaning_dim)}
    routes = {
        name: routes_of_seeds(priced(LEARNED[name], cost_weight), own, test[name]) for name, own in params.items()
    }
    known = recognition(tree_file, params["router"], routes["router"], cost_weight)
    return evaluate_tree(tree_file, cost_weight=cost_weight, routers=routes), known


def recognition(
    tree_file: TreeFile, params: RouterParams, routes: Sequence[RouteBatch], cost_weight: float
) -> dict[str, float]:
    """Return the share of test questions whose task the router's gate finds, and what it lacks to the policy told it.

    `behind_told_where_found` and `behind_told_elsewhere` are means of utility over the questions of either kind.
    """
    test = tree_file.test
    told = best_task_routes(tree_file.train, test, cost_weight=cost_weight, num_hops=1)
    earned = np.asarray(score_routes(test, told, cost_weight=cost_weight).utility, np.float64)
    behind = np.stack([earned - score_routes(test, own, cost_weight=cost_weight).utility for own in routes])
    questions = observe_decision_states(first_stages(test, 1))
    logits = jax.vmap(jax.vmap(task_logits, in_axes=(None, 0)), in_axes=(0, None))(params, questions)
    is_found = np.asarray(logits.argmax(axis=2)) == np.asarray(test.task)

    def mean(where: np.ndarray) -> float:
        return float(behind[where].mean()) if where.any() else 0.0

    return {
        "found": float(is_found.mean()),
        "behind_told_where_found": mean(is_found),
        "behind_told_elsewhere": mean(~is_found),
    }


def means_of(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """Return every system's means over the splits, and how far the router is ahead of it in each."""
    means: dict[str, dict[str, Any]] = {}
    for name in comparisons[0].systems:
        pairs = [(found.systems[name], found.systems["router"]) for found in comparisons if name in found.systems]
        mean = {key: statistics.fmean(getattr(own, key) for own, _ in pairs) for key in ("quality", "cost", "utility")}
        ahead = {}
        for key in ("quality", "utility"):
            leads = [getattr(router, key) - getattr(own, key) for own, router in pairs]
            ahead[f"router_ahead_in_{key}"] = [statistics.fmean(leads), min(leads), max(leads)]
        means[name] = mean | ahead
    return means


def means_table(means: dict[str, dict[str, dict[str, Any]]], num_splits: int) -> Table:
    """Return a table of every system's means at each cost weight."""
    header, names = ["system"], list(next(iter(means.values())))
    for weight in means:
        header += [f"quality % at {weight}", "cost", "utility %", "router ahead in utility [least, largest]"]
    rows = []
    for name in names:
        row = [shown_name(name)]
        for found in means.values():
            own = found[name]
            mean, least, largest = (100 * lead for lead in own["router_ahead_in_utility"])
            row += [f"{100 * own['quality']:.2f}", f"{own['cost']:.2f}", f"{100 * own['utility']:.2f}"]
            row.append("" if name == "router" else f"{mean:+.2f} [{least:+.2f}, {largest:+.2f}]")
        rows.append(tuple(row))
    return Table(title=f"Means of {num_splits} splits, by cost weight", header=tuple(header), rows=tuple(rows))


def tasks_table(tasks: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    """Return how often the router knows the task, and what it lacks to the policy told it; means of the splits."""
    header = ("cost weight", "task found %", "utility behind told % where found", "elsewhere")
    rows = []
    for weight, found in tasks.items():
        names = ("found", "behind_told_where_found", "behind_told_elsewhere")
        rows.append((weight, *(f"{100 * statistics.fmean(one[name] for one in found):.2f}" for name in names)))
    return Table(title="What the router knows of tasks", header=header, rows=tuple(rows))


def check_options(options: argparse.Namespace) -> None:
    """Raise `ConfigError` for options that do not go together, before anything slow is done."""
    is_split = options.train is not None or options.test is not None
    if is_split and (options.train is None or options.test is None or options.table is not None):
        raise ConfigError("Give --train and --test together, or --table alone, or neither for a tree.")
    if (is_split or options.table is not None) and options.models is None:
        raise ConfigError("Tables need --models, a JSON file with each model's price.")
    for name in ("splits", "meaning_dim"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be >= 1, but is {getattr(options, name)}.")
    if options.json is not None:
        require_writable(options.json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, learn, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=TREE, help="tree file of recorded outcomes, divided at random")
    parser.add_argument("--table", type=Path, help="a table in its place")
    parser.add_argument("--train", type=Path, help="table of the questions that are learned from, with --test")
    parser.add_argument("--test", type=Path, help="table of the questions that are scored")
    parser.add_argument("--models", type=Path, help="for tables: JSON file {model: {price_usd_per_mtok: ...}}")
    parser.add_argument("--encoder", default=ENCODER, help="for tables: how questions are encoded")
    parser.add_argument("--splits", type=int, default=5, help="of --tree and --table: how often they are divided")
    parser.add_argument("--meaning-dim", type=int, default=768, help="numbers of a context that the ppo router reads")
    parser.add_argument("--cost-weights", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--json", type=Path, help="write the outcome there")
    parser.add_argument("--out", type=Path, help="folder for tables")
    options = parser.parse_args(arguments)
    check_options(options)
    trees = tree_files_of(options)
    results: dict[str, list[Comparison]] = {str(weight): [] for weight in options.cost_weights}
    tasks: dict[str, list[dict[str, float]]] = {weight: [] for weight in results}
    with progress_bar("learning and comparing", len(trees) * len(results)) as advance:
        for tree_file in trees:
            for weight in results:
                comparison, known = compare_on(tree_file, float(weight), options.meaning_dim)
                results[weight].append(comparison)
                tasks[weight].append(known)
                advance(1)
    means = {weight: means_of(found) for weight, found in results.items()}
    tables = {"outcomes": means_table(means, len(trees)), "outcomes_tasks": tasks_table(tasks)}
    for name, table in tables.items():
        Console().print(rich_table(table))
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            write_text_atomically(options.out / f"{name}.md", markdown_table(table))
    if options.json is not None:
        listed = {weight: [to_json_dict(one) for one in found] for weight, found in results.items()}
        found = {"results": listed, "means": means, "tasks": tasks}
        write_text_atomically(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
