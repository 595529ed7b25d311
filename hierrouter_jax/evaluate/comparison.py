"""Router and baselines on the same queries, scored by one function, with paired intervals.

Every system is a `RouteBatch`; `score_routes` gives its quality and cost a query; means and paired-bootstrap
intervals follow. The best single model and everything fitted is chosen on the train tree; the tree that is scored
decides nothing but the oracle's routes, which are a bound and not a system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval, mean_intervals, resampled_means
from hierrouter_jax.evaluate.results import Comparison, Difference, Interval, SystemResult, TaskResult
from hierrouter_jax.evaluate.route_outcomes import RouteOutcomes, interval_of, outcomes_of, task_weights
from hierrouter_jax.evaluate.routes import route_shares
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch

REFERENCE, BOUND = "best_single", "oracle"


def compare(
    tree: RouteTree,
    systems: Mapping[str, RouteBatch | Sequence[RouteBatch]],
    *,
    cost_weight: float,
    bootstrap: BootstrapConfig | None = None,
    split: str = "test",
    cost_model: str = "base_rate",
    is_balanced: bool = False,
) -> Comparison:
    """Score the systems on `tree`; each but the reference is also compared with `best_single`, where that is given.

    A system that was trained with several seeds is given as one batch of routes a seed; its outcome on a query is the
    mean over the seeds, and intervals are over queries. Where `oracle` is given too, every system gets the share of the
    gap between the two that it closes. `is_balanced` lets every task count alike in means over all queries, however
    many queries it has.

    Raises `DataError` when there is no system, or when a system's routes are not routes of this tree.
    """
    if not systems:
        raise DataError("A comparison needs at least one system, but none was given.")
    config = BootstrapConfig() if bootstrap is None else bootstrap
    weights = task_weights(tree) if is_balanced else None
    outcomes = {name: outcomes_of(tree, routes, cost_weight, weights=weights) for name, routes in systems.items()}
    reference, bound = outcomes.get(REFERENCE), outcomes.get(BOUND)
    return Comparison(
        num_queries=tree.num_queries,
        cost_weight=cost_weight,
        systems={name: _system_result(tree, found, reference, bound, config) for name, found in outcomes.items()},
        split=split,
        cost_model=cost_model,
        model_names=tree.model_names,
        bootstrap=config,
        is_balanced=is_balanced,
    )


def _system_result(
    tree: RouteTree,
    found: RouteOutcomes,
    reference: RouteOutcomes | None,
    bound: RouteOutcomes | None,
    config: BootstrapConfig,
) -> SystemResult:
    intervals = mean_intervals(np.stack([found.quality, found.cost, found.utility]), config, weights=found.weights)
    task = np.asarray(tree.task)
    closed, closed_ci = _gap_closed(found, reference, bound, config)
    rows_of = {name: task == index for index, name in enumerate(tree.task_names)}
    return SystemResult(
        quality=found.mean(found.quality),
        quality_ci=interval_of(intervals[0]),
        cost=found.mean(found.cost),
        cost_ci=interval_of(intervals[1]),
        utility=found.mean(found.utility),
        utility_ci=interval_of(intervals[2]),
        hops=found.mean(found.num_hops),
        tasks={name: _task_result(tree, found, rows, config) for name, rows in rows_of.items() if rows.any()},
        routes=route_shares(found.actions, tree.model_names),
        versus_best_single=None if reference is None or reference is found else difference(found, reference, config),
        gap_closed=closed,
        gap_closed_ci=closed_ci,
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
        routes=route_shares(found.actions[:, rows], tree.model_names),
    )


def _gap_closed(
    found: RouteOutcomes, reference: RouteOutcomes | None, bound: RouteOutcomes | None, config: BootstrapConfig
) -> tuple[float | None, Interval | None]:
    """Return (found - reference) / (bound - reference) in mean utility, and its interval."""
    if reference is None or bound is None:
        return None, None
    gain, gap = found.utility - reference.utility, bound.utility - reference.utility
    if found.mean(gap) <= 0:
        return None, None
    gains, gaps = resampled_means(np.stack([gain, gap]), config, weights=found.weights)
    tail = (1 - config.level) / 2
    shares = gains / np.where(gaps > 0, gaps, np.nan)
    return found.mean(gain) / found.mean(gap), interval_of(np.nanquantile(shares, [tail, 1 - tail]))


def difference(found: RouteOutcomes, reference: RouteOutcomes, config: BootstrapConfig) -> Difference:
    """Return what a system has more than another, with intervals paired by query."""
    return Difference(
        quality=found.mean(found.quality - reference.quality),
        quality_ci=difference_interval(found.quality, reference.quality, config, weights=found.weights),
        cost=found.mean(found.cost - reference.cost),
        cost_ci=difference_interval(found.cost, reference.cost, config, weights=found.weights),
        utility=found.mean(found.utility - reference.utility),
        utility_ci=difference_interval(found.utility, reference.utility, config, weights=found.weights),
    )
