"""What routes come to, query by query, on the host and in double precision: what every table and front is made of."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Integer

from hierrouter_jax.evaluate.results import Interval
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch, score_routes


@dataclass(frozen=True, kw_only=True)
class RouteOutcomes:
    """What a system's routes came to, on the host and in double precision."""

    actions: Integer[np.ndarray, "query stage"]
    quality: Float[np.ndarray, " query"]
    cost: Float[np.ndarray, " query"]
    utility: Float[np.ndarray, " query"]
    num_hops: Float[np.ndarray, " query"]


def outcomes_of(tree: RouteTree, routes: RouteBatch, cost_weight: float) -> RouteOutcomes:
    """Score the routes of a system on every query."""
    scores = jax.device_get(score_routes(tree, routes, cost_weight=cost_weight))
    quality, cost = np.asarray(scores.quality, np.float64), np.asarray(scores.cost, np.float64)
    return RouteOutcomes(
        actions=np.asarray(routes.actions),
        quality=quality,
        cost=cost,
        utility=quality - cost_weight * cost,
        num_hops=np.asarray(scores.num_hops, np.float64),
    )


def interval_of(bounds: Float[np.ndarray, " bound"]) -> Interval:
    """Return a lower and an upper bound as plain numbers."""
    return float(bounds[0]), float(bounds[1])
