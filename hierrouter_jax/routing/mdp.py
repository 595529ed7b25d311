"""The routing MDP: `reset`, `observe`, `step`, for one query at a time (vmap for batches).

At stage t the router sees the context c_t, the stage t and the cumulative cost C_t, and asks model m_t or stops:
c_{t+1} = c_t ++ Gen(m_t, c_t), C_{t+1} = C_t + delta_t. The reward is -cost_weight * delta_t at each hop, plus the
quality of the last response when the route ends: on STOP, on reaching stage L, or where no valid child remains.
The discount is 1 until the end and 0 from then on (a learner multiplies its own gamma in).

Actions are model indices and STOP = M. STOP is illegal before the first hop, and always with `allow_stop=False`,
which is the fixed-length MDP of HierRouter (arXiv:2511.09873); the cost weight and STOP are this package's choices.
A route that has ended absorbs: reward 0, discount 0, and STOP as the one legal action. An illegal action cannot
raise inside jit; it ends the route with reward NaN, so that it cannot be mistaken for an outcome.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, context_at

Reward = Float[Array, ""]
Discount = Float[Array, ""]


@array_struct
class RouterState:
    """Where one route stands."""

    query_index: Int[Array, ""]
    node: Int[Array, ""]
    stage: Int[Array, ""]  # number of models asked so far
    cum_cost: Float[Array, ""]
    is_done: Bool[Array, ""]


@array_struct
class Observation:
    """What a router may base its choice on."""

    context: Float[Array, " dim"]
    signals: Float[Array, " number"]
    stage: Int[Array, ""]
    cum_cost: Float[Array, ""]
    legal: Bool[Array, " action"]  # model indices, then STOP; never all False
    cost_weight: Float[Array, ""] | None = None  # shown to routers that are conditioned on it


def check_cost_weight(cost_weight: float) -> float:
    """Return `cost_weight`, or raise `ConfigError` when it is negative or not finite."""
    if not (math.isfinite(cost_weight) and cost_weight >= 0):
        raise ConfigError(
            f"cost_weight must be finite and >= 0, but is {cost_weight}. It is the quality one gives up "
            "for one call of the dearest model; 0 ignores cost."
        )
    return cost_weight


def reset(tree: RouteTree, *, key: Key[Array, ""]) -> RouterState:
    """Return the start of a route of a query drawn uniformly."""
    return reset_at(jax.random.randint(key, (), 0, tree.num_queries))


def reset_at(query_index: Int[ArrayLike, ""]) -> RouterState:
    """Return the start of a route of the given query."""
    return RouterState(
        query_index=jnp.asarray(query_index, jnp.int32),
        node=jnp.asarray(ROOT, jnp.int32),
        stage=jnp.asarray(0, jnp.int32),
        cum_cost=jnp.asarray(0.0, jnp.float32),
        is_done=jnp.asarray(False),
    )


def reset_all(tree: RouteTree) -> RouterState:
    """Return the starts of the routes of all queries of the tree, in order; fields are [query]."""
    return jax.vmap(reset_at)(jnp.arange(tree.num_queries))


def observe(
    tree: RouteTree, state: RouterState, *, allow_stop: bool = True, cost_weight: Float[ArrayLike, ""] | None = None
) -> Observation:
    """Return what the router sees in `state`; the cost weight only where it is given."""
    return Observation(
        context=context_at(tree, state.query_index, state.node),
        signals=tree.signals[state.query_index, state.node],
        stage=state.stage,
        cum_cost=state.cum_cost,
        legal=legal_actions(tree, state, allow_stop=allow_stop),
        cost_weight=None if cost_weight is None else jnp.asarray(cost_weight, jnp.float32),
    )


def legal_actions(tree: RouteTree, state: RouterState, *, allow_stop: bool = True) -> Bool[Array, " action"]:
    """Return which actions may be taken; STOP alone when the route has ended."""
    models = _valid_children(tree, state.query_index, state.node, state.stage) & ~state.is_done
    stop = ~models.any() | ((state.stage > 0) & allow_stop)
    return jnp.append(models, stop)


def step(
    tree: RouteTree,
    state: RouterState,
    action: Int[ArrayLike, ""],
    *,
    cost_weight: Float[ArrayLike, ""],
    allow_stop: bool = True,
) -> tuple[RouterState, Reward, Discount]:
    """Take one action: R_t = -cost_weight * delta_t, plus the quality of the last response if the route ends."""
    action = jnp.asarray(action, jnp.int32)
    legal = legal_actions(tree, state, allow_stop=allow_stop)
    is_legal = (action >= 0) & (action <= tree.stop) & legal[jnp.clip(action, 0, tree.stop)]
    is_hop = is_legal & (action < tree.stop)

    node = jnp.where(is_hop, _child(tree, state.node, action), state.node)
    stage = state.stage + is_hop.astype(jnp.int32)
    cost = jnp.where(is_hop, tree.step_cost[state.query_index, node], 0.0)
    is_end = ~is_hop | ~_valid_children(tree, state.query_index, node, stage).any()

    gained = jnp.where(is_end, tree.quality[state.query_index, node], 0.0)
    reward = jnp.where(is_legal, gained - cost_weight * cost, jnp.nan)
    reward = jnp.where(state.is_done, 0.0, reward)
    is_done = state.is_done | is_end
    following = state.replace(node=node, stage=stage, cum_cost=state.cum_cost + cost, is_done=is_done)  # type: ignore[attr-defined]
    return following, reward, 1.0 - is_done.astype(jnp.float32)


def _child(tree: RouteTree, node: Int[Array, ""], action: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    # Below the last stage there are no children: the index is kept in range, and the stage forbids its use.
    return jnp.minimum(node * tree.num_models + 1 + action, tree.num_nodes - 1)


def _valid_children(
    tree: RouteTree, query_index: Int[Array, ""], node: Int[Array, ""], stage: Int[Array, ""]
) -> Bool[Array, " model"]:
    children = _child(tree, node, jnp.arange(tree.num_models))
    return tree.valid[query_index, children] & (stage < tree.num_stages)
