"""Router and baselines on the same queries, scored by one function, with paired intervals.

Every system is a `RouteBatch`; `score_routes` gives its quality and cost a query; means and paired-bootstrap
intervals follow. The best single model and everything fitted is chosen on the train tree; the tree that is scored
decides nothing but the oracle's routes, which are a bound and not a system.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval, mean_intervals
from hierrouter_jax.evaluate.results import Comparison, Difference, SystemResult, TaskResult
from hierrouter_jax.evaluate.route_outcomes import RouteOutcomes, interval_of, outcomes_of
from hierrouter_jax.evaluate.routes import route_shares
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch

REFERENCE = "best_single"


def compare(
    tree: RouteTree,
    systems: Mapping[str, RouteBatch],
    *,
    cost_weight: float,
    bootstrap: BootstrapConfig | None = None,
    split: str = "test",
    cost_model: str = "base_rate",
) -> Comparison:
    """Score the systems on `tree`; each but the reference is also compared with `best_single`, where that is given.

    Raises `DataError` when there is no system, or when a system's routes are not routes of this tree.
    """
    if not systems:
        raise DataError("A comparison needs at least one system, but none was given.")
    config = BootstrapConfig() if bootstrap is None else bootstrap
    outcomes = {name: outcomes_of(tree, routes, cost_weight) for name, routes in systems.items()}
    reference = outcomes.get(REFERENCE)
    return Comparison(
        num_queries=tree.num_queries,
        cost_weight=cost_weight,
        systems={name: _system_result(tree, found, reference, config) for name, found in outcomes.items()},
        split=split,
        cost_model=cost_model,
        model_names=tree.model_names,
        bootstrap=config,
    )


def _system_result(
    tree: RouteTree, found: RouteOutcomes, reference: RouteOutcomes | None, config: BootstrapConfig
) -> SystemResult:
    intervals = mean_intervals(np.stack([found.quality, found.cost, found.utility]), config)
    task = np.asarray(tree.task)
    rows_of = {name: task == index for index, name in enumerate(tree.task_names)}
    return SystemResult(
        quality=float(found.quality.mean()),
        quality_ci=interval_of(intervals[0]),
        cost=float(found.cost.mean()),
        cost_ci=interval_of(intervals[1]),
        utility=float(found.utility.mean()),
        utility_ci=interval_of(intervals[2]),
        hops=float(found.num_hops.mean()),
        tasks={name: _task_result(tree, found, rows, config) for name, rows in rows_of.items() if rows.any()},
        routes=route_shares(found.actions, tree.model_names),
        versus_best_single=None if reference is None or reference is found else _difference(found, reference, config),
    )


def _task_result(
    tree: RouteTree, found: RouteOutcomes, rows: Bool[np.ndarray, " query"], config: BootstrapConfig
) -> TaskResult:
    intervals = mean_intervals(np.stack([found.quality[rows], found.cost[rows]]), config)
    return TaskResult(
        num_queries=int(rows.sum()),
        quality=float(found.quality[rows].mean()),
        quality_ci=interval_of(intervals[0]),
        cost=float(found.cost[rows].mean()),
        cost_ci=interval_of(intervals[1]),
        utility=float(found.utility[rows].mean()),
        hops=float(found.num_hops[rows].mean()),
        routes=route_shares(found.actions[rows], tree.model_names),
    )


def _difference(found: RouteOutcomes, reference: RouteOutcomes, config: BootstrapConfig) -> Difference:
    return Difference(
        quality=float(found.quality.mean() - reference.quality.mean()),
        quality_ci=difference_interval(found.quality, reference.quality, config),
        cost=float(found.cost.mean() - reference.cost.mean()),
        cost_ci=difference_interval(found.cost, reference.cost, config),
        utility=float(found.utility.mean() - reference.utility.mean()),
        utility_ci=difference_interval(found.utility, reference.utility, config),
    )
