"""What a sweep over cost weights and seeds found, as data: every run on every split, and what is picked of them.

Nothing is picked with test data. The seed of a cost weight is the one of the best utility on the selection split
(validation, or train where there is none), and so are the cost weights on the front: those whose picked runs no other
picked run beats there in quality and cost. Test numbers are read off afterwards, so a test point may lie below its
neighbour. Intervals are percentile bootstrap over queries; the spread over seeds is a standard deviation (n - 1).
Quality is in [0, 1], cost normalised (1 = the dearest model answering the mean query once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.baselines.fixed import single_routes
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, mean_intervals
from hierrouter_jax.evaluate.pareto import pareto_mask
from hierrouter_jax.evaluate.results import Interval
from hierrouter_jax.evaluate.route_outcomes import interval_of, outcomes_of
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.routing.values import optimal_routes


@dataclass(frozen=True, kw_only=True)
class SplitScore:
    """One router on the queries of one split."""

    quality: float
    quality_ci: Interval
    cost: float
    cost_ci: Interval
    utility: float
    utility_ci: Interval
    hops: float


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One training: its cost weight and seed, and its greedy routes on every split."""

    cost_weight: float
    seed: int
    splits: dict[str, SplitScore]


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One cost weight: the seed that was picked without test data, and how the seeds differ on the test split."""

    cost_weight: float
    picked_seed: int
    is_on_front: bool  # by the selection split, among the picked runs
    test: SplitScore  # of the picked run
    test_mean: dict[str, float]  # over seeds: quality, cost, utility
    test_spread: dict[str, float]  # over seeds: standard deviation; 0 of one seed


@dataclass(frozen=True, kw_only=True)
class SweepFamily:
    """All runs of one kind: one router a cost weight, or one router for all."""

    runs: tuple[SweepRun, ...]
    points: tuple[SweepPoint, ...]  # by rising cost weight


@dataclass(frozen=True, kw_only=True)
class SweepResults:
    """The outcome of a sweep."""

    num_queries: dict[str, int]  # by split
    selection_split: str
    cost_weights: tuple[float, ...]
    seeds: tuple[int, ...]
    separate: SweepFamily
    oracle: tuple[SplitScore, ...]  # on the test split, by cost weight: a bound, it knows the answers
    singles: dict[str, SplitScore]  # every model alone, on the test split; utility at cost weight 0
    conditioned: SweepFamily | None = None
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)


def sweep_results(
    splits: Mapping[str, RouteTree],
    params: Any,
    cost_weights: Sequence[float],
    seeds: Sequence[int],
    *,
    allow_stop: bool,
    conditioned_params: Any = None,
    bootstrap: BootstrapConfig | None = None,
) -> SweepResults:
    """Score all runs. `splits` holds train and test, and validation where there is one.

    `params` lead with [cost_weight seed], `conditioned_params` with [seed].
    """
    config = BootstrapConfig() if bootstrap is None else bootstrap
    selection = "validation" if "validation" in splits else "train"
    order = [int(index) for index in np.argsort(cost_weights)]
    weights = [float(cost_weights[index]) for index in order]
    alone = jax.tree.map(lambda leaf: leaf[np.asarray(order)], params)
    test = splits["test"]
    oracle = [
        _scored(test, [optimal_routes(test, cost_weight=w, allow_stop=allow_stop)], w, config)[0] for w in weights
    ]
    return SweepResults(
        num_queries={name: tree.num_queries for name, tree in splits.items()},
        selection_split=selection,
        cost_weights=tuple(weights),
        seeds=tuple(seeds),
        separate=_family(splits, alone, weights, seeds, allow_stop, config, selection, is_conditioned=False),
        oracle=tuple(oracle),
        singles=_singles(test, config),
        conditioned=None
        if conditioned_params is None
        else _family(splits, conditioned_params, weights, seeds, allow_stop, config, selection, is_conditioned=True),
        bootstrap=config,
    )


def _family(
    splits: Mapping[str, RouteTree],
    params: Any,
    cost_weights: Sequence[float],
    seeds: Sequence[int],
    allow_stop: bool,
    config: BootstrapConfig,
    selection: str,
    *,
    is_conditioned: bool,
) -> SweepFamily:
    runs = []
    for index, cost_weight in enumerate(cost_weights):
        own = params if is_conditioned else jax.tree.map(lambda leaf: leaf[index], params)  # noqa: B023
        asked = cost_weight if is_conditioned else None
        by_split = {
            name: _scored(tree, _routes_of_seeds(own, tree, allow_stop, asked), cost_weight, config)
            for name, tree in splits.items()
        }
        for place, seed in enumerate(seeds):
            scores = {name: scored[place] for name, scored in by_split.items()}
            runs.append(SweepRun(cost_weight=cost_weight, seed=seed, splits=scores))
    return SweepFamily(runs=tuple(runs), points=pick_points(runs, selection))


def pick_points(runs: Sequence[SweepRun], selection: str) -> tuple[SweepPoint, ...]:
    """Return one point a cost weight, picked on the split `selection` (of equal seeds the first)."""
    weights = sorted({run.cost_weight for run in runs})
    groups = [[run for run in runs if run.cost_weight == weight] for weight in weights]
    picked = [max(group, key=lambda run: run.splits[selection].utility) for group in groups]
    scores = [run.splits[selection] for run in picked]
    is_on_front = pareto_mask([score.quality for score in scores], [score.cost for score in scores])
    return tuple(
        SweepPoint(
            cost_weight=run.cost_weight,
            picked_seed=run.seed,
            is_on_front=bool(is_on),
            test=run.splits["test"],
            test_mean={name: float(np.mean(_column(group, name))) for name in ("quality", "cost", "utility")},
            test_spread={name: _spread(_column(group, name)) for name in ("quality", "cost", "utility")},
        )
        for run, group, is_on in zip(picked, groups, is_on_front, strict=True)
    )


def _column(runs: Sequence[SweepRun], name: str) -> list[float]:
    return [getattr(run.splits["test"], name) for run in runs]


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _routes_of_seeds(params: Any, tree: RouteTree, allow_stop: bool, cost_weight: float | None) -> list[RouteBatch]:
    asked = None if cost_weight is None else jnp.float32(cost_weight)
    routes = jax.vmap(lambda one: greedy_routes(one, tree, allow_stop=allow_stop, cost_weight=asked))(params)
    return [RouteBatch(actions=actions) for actions in routes.actions]


def _scored(
    tree: RouteTree, routes: Sequence[RouteBatch], cost_weight: float, config: BootstrapConfig
) -> list[SplitScore]:
    """Score several routers on one tree; their intervals share their resamples."""
    found = [outcomes_of(tree, one, cost_weight) for one in routes]
    values = np.stack([np.stack([one.quality, one.cost, one.utility]) for one in found])  # router, number, query
    bounds = mean_intervals(values.reshape(-1, tree.num_queries), config).reshape(len(found), 3, 2)
    return [
        _split_score(mean, bound, float(one.num_hops.mean()))
        for mean, bound, one in zip(values.mean(axis=2), bounds, found, strict=True)
    ]


def _split_score(
    mean: Float[np.ndarray, " number"], bounds: Float[np.ndarray, "number bound"], hops: float
) -> SplitScore:
    pairs = [interval_of(each) for each in bounds]
    return SplitScore(
        quality=float(mean[0]),
        quality_ci=pairs[0],
        cost=float(mean[1]),
        cost_ci=pairs[1],
        utility=float(mean[2]),
        utility_ci=pairs[2],
        hops=hops,
    )


def _singles(tree: RouteTree, config: BootstrapConfig) -> dict[str, SplitScore]:
    """Score every model that the tree holds for all queries."""
    models = [model for model in range(tree.num_models) if bool(np.asarray(tree.valid[:, 1 + model]).all())]
    scores = [_scored(tree, [single_routes(tree, model)], 0.0, config)[0] for model in models]
    return dict(zip([tree.model_names[model] for model in models], scores, strict=True))
