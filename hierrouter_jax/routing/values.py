"""Exact optimum of the routing MDP by backward induction over the tree, and the exact values of a policy.

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

from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.routing.route_tree import RouteTree, stage_slice
from hierrouter_jax.routing.scores import RouteBatch, routes_of_actions


@array_struct
class PolicyValues:
    """What a policy earns from every decision node on, and how likely its routes pass there."""

    value: Float[Array, "query decision"]
    action_value: Float[Array, "query decision action"]  # at illegal actions the numbers mean nothing
    reach: Float[Array, "query decision"]


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
    return routes_of_actions(best, num_models=tree.num_models, num_stages=tree.num_stages)


def policy_values(
    tree: RouteTree,
    probabilities: Float[Array, "query decision action"],
    *,
    cost_weight: Float[ArrayLike, ""] | Float[Array, " query"],
) -> PolicyValues:
    """Return what a policy earns, exactly, at one cost weight or one a query; `decision` counts the first L stages.

    V(n) = sum_a p(a|n) Q(n, a); Q(n, STOP) = quality(n), Q(n, a) = V(child) - cost_weight * delta(child). The
    probabilities must be 0 where an action is illegal. Differentiable in them: the gradient of V at the root is the
    policy gradient, without sampling.
    """
    num_models = tree.num_models
    price = jnp.reshape(jnp.asarray(cost_weight), (-1, 1))
    below = tree.quality[:, stage_slice(num_models, tree.num_stages)]
    values: list[Array] = []
    action_values: list[Array] = []
    reach = [jnp.ones((tree.num_queries, 1))]
    for stage in reversed(range(tree.num_stages)):
        here, children = stage_slice(num_models, stage), stage_slice(num_models, stage + 1)
        ask = below - price * tree.step_cost[:, children]
        ask = ask.reshape(tree.num_queries, num_models**stage, num_models)
        of_action = jnp.concatenate([ask, tree.quality[:, here, None]], axis=2)
        below = jnp.sum(probabilities[:, here] * of_action, axis=2)
        values.insert(0, below)
        action_values.insert(0, of_action)
    for stage in range(tree.num_stages - 1):
        asks = probabilities[:, stage_slice(num_models, stage), :-1]
        reach.append((reach[-1][..., None] * asks).reshape(tree.num_queries, -1))
    return PolicyValues(
        value=jnp.concatenate(values, axis=1),
        action_value=jnp.concatenate(action_values, axis=1),
        reach=jnp.concatenate(reach, axis=1),
    )


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
    # Sorted, not compared with the maximum: a compiler may compute a value twice, and round it otherwise each time.
    choice = jnp.lexsort((cost, -value), axis=2)[..., 0]
    best_value, best_cost = (jnp.take_along_axis(one, choice[..., None], axis=2)[..., 0] for one in (value, cost))
    return best_value, (choice + tree.num_models) % (tree.num_models + 1), best_cost
