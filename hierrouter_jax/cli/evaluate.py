"""`hierrouter evaluate`: a run, or a tree alone, becomes tables of the router and all baselines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hierrouter_jax.cli.output import print_table
from hierrouter_jax.cli.packaged import SMALL_TREE, packaged_file
from hierrouter_jax.collect.tree_file import load_tree
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.costs import CostModel
from hierrouter_jax.evaluate.evaluate_run import RESULTS_NAME, EvaluationConfig, evaluate_run, evaluate_tree
from hierrouter_jax.evaluate.results import Comparison, save_comparison
from hierrouter_jax.report.tables import system_table, task_cost_table, task_quality_table

DEFAULT_COST_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `evaluate`."""

    run_dir: Path | None = None
    """The run whose router is evaluated, at its own cost weight; without it, the baselines alone."""
    tree: Path | None = None
    """Tree file with the queries; by default the packaged one."""
    cost_weight: float | None = None
    """For a tree alone: the quality one gives up for one call of the dearest model (0.1 unless given)."""
    cost_model: CostModel = "base_rate"
    """The unit in which hops cost; a run has its own, and must be given the same."""
    json: Path | None = None
    """Write the comparison there as JSON; a run's own is written to its results.json besides."""
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)
    """Which queries, and how intervals are drawn."""


def run(command: Command) -> None:
    """Evaluate, write the results, print the tables."""
    comparison = _comparison(command)
    for path in (None if command.run_dir is None else command.run_dir / RESULTS_NAME, command.json):
        if path is not None:
            save_comparison(path, comparison)
    print_comparison(comparison)


def print_comparison(comparison: Comparison) -> None:
    """Print the tables of a comparison: overall, then quality and cost by task."""
    for table in (system_table(comparison), task_quality_table(comparison), task_cost_table(comparison)):
        print_table(table)


def _comparison(command: Command) -> Comparison:
    path = packaged_file(SMALL_TREE) if command.tree is None else command.tree
    tree_file = load_tree(path, cost_model=command.cost_model)
    if command.run_dir is None:
        cost_weight = DEFAULT_COST_WEIGHT if command.cost_weight is None else command.cost_weight
        return evaluate_tree(tree_file, cost_weight=cost_weight, config=command.config)
    if command.cost_weight is not None:
        raise ConfigError("A run is evaluated at the cost weight it was trained for; leave --cost-weight out.")
    return evaluate_run(command.run_dir, tree_file, command.config)
