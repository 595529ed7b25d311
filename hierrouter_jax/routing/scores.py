"""The one place where routes are scored, whoever chose them.

A route is a row of `RouteBatch.actions`: model indices, then STOP = M from the end on. Its quality is that of its
last response, its cost the sum of its hops' costs, its utility quality - cost_weight * cost, which is the return of
the routing MDP (undiscounted).

A route is impossible when an action is out of range, when it stops before the first hop, goes on after STOP, or
passes a node that the tree does not hold. Outside jit an impossible route raises `DataError`; inside jit, where
nothing can raise, all its scores are NaN.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.routing.mdp import check_cost_weight
from hierrouter_jax.routing.route_tree import ROOT, RouteTree


@array_struct
class RouteBatch:
    """The decisions of one router for every query; after the first STOP every entry is STOP."""

    actions: Int[Array, "query stage"]


@array_struct
class RouteScores:
    """Outcomes a query."""

    quality: Float[Array, " query"]
    cost: Float[Array, " query"]
    utility: Float[Array, " query"]
    num_hops: Int[Array, " query"]


def score_routes(tree: RouteTree, routes: RouteBatch, *, cost_weight: Float[ArrayLike, ""]) -> RouteScores:
    """Score every query's route: U = quality - cost_weight * sum_t delta_t.

    Raises `DataError` for impossible routes and `ConfigError` for an impossible cost weight, when called outside jit.
    """
    expected = (tree.num_queries, tree.num_stages)
    if routes.actions.shape != expected:
        raise DataError(
            f"Routes of this tree have shape {expected} (query, stage), but these have {routes.actions.shape}. "
            "Make them on the tree they are scored on."
        )
    if not isinstance(cost_weight, jax.core.Tracer):
        check_cost_weight(float(np.asarray(cost_weight)))
    scores, is_possible = _score(tree, routes, cost_weight)
    if not isinstance(is_possible, jax.core.Tracer):
        _refuse_impossible(routes, is_possible)
    return scores


@partial(jax.jit, static_argnames=("num_models", "num_stages"))
def routes_of_actions(actions: Int[Array, "query node"], *, num_models: int, num_stages: int) -> RouteBatch:
    """Return the routes that take, at each node they come to, the action given there.

    Actions of the nodes where something is decided are enough: those of the first L stages.
    """
    queries = jnp.arange(actions.shape[0])
    node = jnp.full(actions.shape[0], ROOT)
    is_ended = jnp.full(actions.shape[0], False)
    taken = []
    for _ in range(num_stages):
        action = jnp.where(is_ended, num_models, actions[queries, node])
        is_ended = action == num_models
        node = jnp.where(is_ended, node, node * num_models + 1 + action)
        taken.append(action)
    return RouteBatch(actions=jnp.stack(taken, axis=1))


@jax.jit
def _score(
    tree: RouteTree, routes: RouteBatch, cost_weight: Float[ArrayLike, ""]
) -> tuple[RouteScores, Bool[Array, " query"]]:
    """Return the scores, NaN where the route is impossible, and which routes are possible."""
    nodes, is_possible = _walk(tree, routes.actions)
    queries = jnp.arange(tree.num_queries)
    is_hop = routes.actions != tree.stop
    cost = jnp.where(is_hop, tree.step_cost[queries[:, None], nodes], 0.0).sum(axis=1)
    cost = jnp.where(is_possible, cost, jnp.nan)
    quality = jnp.where(is_possible, tree.quality[queries, nodes[:, -1]], jnp.nan)
    scores = RouteScores(
        quality=quality, cost=cost, utility=quality - cost_weight * cost, num_hops=is_hop.sum(axis=1, dtype=jnp.int32)
    )
    return scores, is_possible


def _walk(
    tree: RouteTree, actions: Int[Array, "query stage"]
) -> tuple[Int[Array, "query stage"], Bool[Array, " query"]]:
    """Return the node after each stage (the last one again after STOP), and whether the route exists."""
    queries = jnp.arange(tree.num_queries)
    node = jnp.full(tree.num_queries, ROOT)
    is_possible = jnp.full(tree.num_queries, True)
    is_stopped = jnp.full(tree.num_queries, False)
    nodes = []
    for stage in range(tree.num_stages):
        action = actions[:, stage]
        is_hop = (action >= 0) & (action < tree.stop)
        is_stop = action == tree.stop
        child = jnp.where(is_hop, node * tree.num_models + 1 + action, node)
        is_possible &= (is_hop & ~is_stopped) | (is_stop & (stage > 0))
        is_stopped |= is_stop
        # An impossible route may leave the tree; it stays in range here and is flagged.
        node = jnp.minimum(child, tree.num_nodes - 1)
        is_possible &= tree.valid[queries, node]
        nodes.append(node)
    return jnp.stack(nodes, axis=1), is_possible


def _refuse_impossible(routes: RouteBatch, is_possible: Bool[Array, " query"]) -> None:
    impossible = np.flatnonzero(~np.asarray(is_possible))
    if impossible.size:
        first = int(impossible[0])
        raise DataError(
            "A route asks at least one model, holds only STOP after STOP, and passes nodes that the tree holds, but "
            f"{impossible.size} routes do not, the first that of query {first}: {np.asarray(routes.actions[first])}. "
            "Choose among the legal actions of the tree that is scored, or collect the missing nodes."
        )
