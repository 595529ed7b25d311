"""What routes come to, query by query, on the host and in double precision: what every table and front is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Integer

from hierrouter_jax.evaluate.results import Interval
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch, score_routes


@dataclass(frozen=True, kw_only=True)
class RouteOutcomes:
    """What a system's routes came to, on the host and in double precision; of several seeds, the mean of each query."""

    actions: Integer[np.ndarray, "seed query stage"]
    quality: Float[np.ndarray, " query"]
    cost: Float[np.ndarray, " query"]
    utility: Float[np.ndarray, " query"]
    num_hops: Float[np.ndarray, " query"]
    weights: Float[np.ndarray, " query"]  # how much each query counts in means; their own mean is 1

    def mean(self, values: Float[np.ndarray, " query"]) -> float:
        """Return the weighted mean of what each query has."""
        return float(np.average(values, weights=self.weights))


def outcomes_of(
    tree: RouteTree,
    routes: RouteBatch | Sequence[RouteBatch],
    cost_weight: float,
    *,
    weights: Float[np.ndarray, " query"] | None = None,
) -> RouteOutcomes:
    """Score the routes of a system on every query; several batches are those of its seeds.

    `weights` say how much each query counts (`task_weights`); without them all count alike.
    """
    batches = [routes] if isinstance(routes, RouteBatch) else list(routes)
    scores = [jax.device_get(score_routes(tree, batch, cost_weight=cost_weight)) for batch in batches]

    def mean(name: str) -> Float[np.ndarray, " query"]:
        return np.mean([np.asarray(getattr(one, name), np.float64) for one in scores], axis=0)

    quality, cost = mean("quality"), mean("cost")
    return RouteOutcomes(
        actions=np.stack([np.asarray(batch.actions) for batch in batches]),
        quality=quality,
        cost=cost,
        utility=quality - cost_weight * cost,
        num_hops=mean("num_hops"),
        weights=np.ones(tree.num_queries) if weights is None else weights,
    )


def task_weights(tree: RouteTree) -> Float[np.ndarray, " query"]:
    """Return weights by which every task that has queries counts alike, however many it has; their mean is 1."""
    task = np.asarray(tree.task)
    counts = np.bincount(task, minlength=len(tree.task_names))
    return tree.num_queries / (np.count_nonzero(counts) * counts[task])


def interval_of(bounds: Float[np.ndarray, " bound"]) -> Interval:
    """Return a lower and an upper bound as plain numbers."""
    return float(bounds[0]), float(bounds[1])
