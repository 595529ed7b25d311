"""Exact optimum of the routing MDP by backward induction over the tree.

V(n) = max( quality(n) if stopping is allowed at n, max_a [ V(child(n, a)) - cost_weight * delta(child(n, a)) ] ),
over valid children; V(n) = quality(n) where none remains. V(n) is what a route that stands at n can still earn, so
costs paid on the way to n are not part of it. Among equally valuable choices the cheapest is taken, then STOP, then
the lowest model index: with cost_weight 0 the optimal route is the cheapest of the best.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from hierrouter_jax.routing.route_tree import ROOT, RouteTree, stage_slice
from hierrouter_jax.routing.scores import RouteBatch


@partial(jax.jit, static_argnames="allow_stop")
def optimal_values(
    tree: RouteTree, *, cost_weight: Float[ArrayLike, ""], allow_stop: bool = True
) -> Float[Array, "query node"]:
    """Return V of every node; -inf at invalid ones. Column 0 is the best utility any route of the query can have."""
    return _backward_induction(tree, cost_weight, allow_stop)[0]


@partial(jax.jit, static_argnames="allow_stop")
def optimal_actions(
    tree: RouteTree, *, cost_weight: Float[ArrayLike, ""], allow_stop: bool = True
) -> Int[Array, "query node"]:
    """Return the best action at every node; STOP where no valid child remains and at invalid nodes."""
    return _backward_induction(tree, cost_weight, allow_stop)[1]


@partial(jax.jit, static_argnames="allow_stop")
def optimal_routes(tree: RouteTree, *, cost_weight: Float[ArrayLike, ""], allow_stop: bool = True) -> RouteBatch:
    """Return the best route of every query."""
    best = optimal_actions(tree, cost_weight=cost_weight, allow_stop=allow_stop)
    queries = jnp.arange(tree.num_queries)
    node = jnp.full(tree.num_queries, ROOT)
    is_ended = jnp.full(tree.num_queries, False)
    actions = []
    for _ in range(tree.num_stages):
        action = jnp.where(is_ended, tree.stop, best[queries, node])
        is_ended = action == tree.stop
        node = jnp.where(is_ended, node, node * tree.num_models + 1 + action)
        actions.append(action)
    return RouteBatch(actions=jnp.stack(actions, axis=1))


def _backward_induction(
    tree: RouteTree, cost_weight: Float[ArrayLike, ""], allow_stop: bool
) -> tuple[Float[Array, "query node"], Int[Array, "query node"]]:
    last = stage_slice(tree.num_models, tree.num_stages)
    values = [jnp.where(tree.valid[:, last], tree.quality[:, last], -jnp.inf)]
    actions = [jnp.full(values[0].shape, tree.stop)]
    costs_to_go = jnp.zeros_like(values[0])
    for stage in reversed(range(tree.num_stages)):
        value, action, costs_to_go = _best_of_stage(tree, stage, values[0], costs_to_go, cost_weight, allow_stop)
        values.insert(0, value)
        actions.insert(0, action)
    return jnp.concatenate(values, axis=1), jnp.concatenate(actions, axis=1)


def _best_of_stage(
    tree: RouteTree,
    stage: int,
    child_values: Float[Array, "query child"],
    child_costs_to_go: Float[Array, "query child"],
    cost_weight: Float[ArrayLike, ""],
    allow_stop: bool,
) -> tuple[Float[Array, "query parent"], Int[Array, "query parent"], Float[Array, "query parent"]]:
    """Return value, action and cost to go of one stage's nodes. Candidates are STOP first, then the models."""
    here, below = stage_slice(tree.num_models, stage), stage_slice(tree.num_models, stage + 1)
    families = (tree.num_queries, tree.num_models**stage, tree.num_models)
    hop_cost = tree.step_cost[:, below]
    ask_value = (child_values - cost_weight * hop_cost).reshape(families)
    ask_cost = (child_costs_to_go + hop_cost).reshape(families)

    has_child = tree.valid[:, below].reshape(families).any(axis=2)
    may_stop = ~has_child | (allow_stop and stage > 0)
    stop_value = jnp.where(may_stop & tree.valid[:, here], tree.quality[:, here], -jnp.inf)

    value = jnp.concatenate([stop_value[..., None], ask_value], axis=2)
    cost = jnp.concatenate([jnp.zeros_like(stop_value)[..., None], ask_cost], axis=2)
    best_value = value.max(axis=2)
    choice = jnp.where(value == best_value[..., None], cost, jnp.inf).argmin(axis=2)
    best_cost = jnp.take_along_axis(cost, choice[..., None], axis=2)[..., 0]
    return best_value, (choice + tree.num_models) % (tree.num_models + 1), best_cost
