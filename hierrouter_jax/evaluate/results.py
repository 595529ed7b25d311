"""What an evaluation found, as data: the JSON that `evaluate --json` writes and that reports read.

Quality is in [0, 1]; cost is the normalised one (1 = the dearest model answering the mean query once); utility is
quality - cost_weight * cost. An interval is (lower, upper) at the level of `bootstrap`. Shares sum to 1.
This file needs neither JAX nor a tree, so that a report can be made wherever the JSON is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.configs import from_json_dict, read_json, to_json_dict
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One system on the queries of one task. `routes` maps a route's name to the share of queries that took it."""

    num_queries: int
    quality: float
    quality_ci: Interval
    cost: float
    cost_ci: Interval
    utility: float
    hops: float
    routes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A system minus the reference system, paired by query."""

    quality: float
    quality_ci: Interval
    cost: float
    cost_ci: Interval
    utility: float
    utility_ci: Interval


@dataclass(frozen=True, kw_only=True)
class SystemResult:
    """One system on all queries."""

    quality: float
    quality_ci: Interval
    cost: float
    cost_ci: Interval
    utility: float
    utility_ci: Interval
    hops: float
    tasks: dict[str, TaskResult]
    routes: dict[str, float] = field(default_factory=dict)
    versus_best_single: Difference | None = None
    # Share of the utility from `best_single` to `oracle` that the system gains; None without either, or without a gap.
    gap_closed: float | None = None
    gap_closed_ci: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All systems on the same queries."""

    num_queries: int
    cost_weight: float
    systems: dict[str, SystemResult]
    split: str = "test"
    cost_model: str = "base_rate"
    model_names: tuple[str, ...] = ()
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    is_balanced: bool = False  # every task counts alike in what is said of all queries; else every query does


def save_comparison(path: Path, comparison: Comparison) -> None:
    """Write the comparison as JSON, atomically."""
    write_text_atomically(path, json.dumps(to_json_dict(comparison), indent=1) + "\n")


def load_comparison(path: Path) -> Comparison:
    """Read what `save_comparison` wrote; `DataError` when it is not there, `ConfigError` when it is something else."""
    if path.is_dir():
        raise DataError(f"{path} must be a results file, but is a folder; give the path of a results.json.")
    return from_json_dict(Comparison, read_json(path), what=str(path))
