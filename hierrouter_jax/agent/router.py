"""A trained router at work: routes over a tree, and single decisions while a query is being answered live."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from hierrouter_jax.agent.distributions import masked_probs
from hierrouter_jax.agent.networks import RouterNetConfig, RouterParams, apply_router
from hierrouter_jax.agent.policies import greedy_action, sample_action
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.core.structs import array_struct, static_field
from hierrouter_jax.routing.mdp import Observation, reset_all
from hierrouter_jax.routing.rollout import Trajectory, rollout, routes_of
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch


@array_struct
class Router:
    """Everything a decision needs, and the digests that say which encoder and pool it was trained with."""

    params: RouterParams
    config: RouterNetConfig = static_field()
    model_names: tuple[str, ...] = static_field()
    num_stages: int = static_field()
    allow_stop: bool = static_field()
    encoder_digest: str = static_field()
    pool_digest: str = static_field()


@partial(jax.jit, static_argnames="allow_stop")
def greedy_routes(params: RouterParams, tree: RouteTree, *, allow_stop: bool = True) -> RouteBatch:
    """Return the route of every query when the likeliest legal action is taken at each stage."""
    return routes_of(_walk_greedily(params, tree, allow_stop), num_models=tree.num_models)


@partial(jax.jit, static_argnames="allow_stop")
def sampled_routes(
    params: RouterParams, tree: RouteTree, *, key: Key[Array, ""], allow_stop: bool = True
) -> RouteBatch:
    """Return one route a query drawn from the router's distribution, each a function of (key, query index) alone."""
    walked = rollout(sample_action, params, tree, reset_all(tree), key=key, cost_weight=0.0, allow_stop=allow_stop)
    return routes_of(walked, num_models=tree.num_models)


@partial(jax.jit, static_argnames="allow_stop")
def stage_probabilities(
    params: RouterParams, tree: RouteTree, *, allow_stop: bool = True
) -> Float[Array, "query stage action"]:
    """Return the action probabilities at each stage of the greedy routes; after their end STOP has probability 1."""
    seen = _walk_greedily(params, tree, allow_stop).observation
    probabilities = jax.vmap(jax.vmap(partial(_action_probabilities, params)))(seen)
    return jnp.swapaxes(probabilities, 0, 1)


def live_legal(router: Router, stage: int) -> Bool[np.ndarray, " action"]:
    """Return the legal actions of a live query: every model before the last stage, and STOP as the router allows."""
    may_ask = stage < router.num_stages
    legal = np.full(len(router.model_names) + 1, may_ask)
    legal[-1] = not may_ask or (router.allow_stop and stage > 0)
    return legal


def next_action(
    router: Router,
    context: Float[ArrayLike, " dim"],
    stage: int,
    cum_cost: float,
    legal: Bool[ArrayLike, " action"],
) -> tuple[int, Float[np.ndarray, " action"]]:
    """Return the likeliest legal action (a model index, or STOP) and the probabilities of all actions.

    Raises `DataError` when no action is legal.
    """
    if not np.any(legal):
        raise DataError("A router chooses among legal actions, but none is legal here; end the route instead.")
    observation = Observation(
        context=jnp.asarray(context, jnp.float32),
        stage=jnp.asarray(stage, jnp.int32),
        cum_cost=jnp.asarray(cum_cost, jnp.float32),
        legal=jnp.asarray(legal, bool),
    )
    probabilities = np.asarray(_jitted_probabilities(router.params, observation))
    return int(probabilities.argmax()), probabilities


def _walk_greedily(params: RouterParams, tree: RouteTree, allow_stop: bool) -> Trajectory:
    key = jax.random.key(0)  # the greedy policy draws nothing
    return rollout(greedy_action, params, tree, reset_all(tree), key=key, cost_weight=0.0, allow_stop=allow_stop)


def _action_probabilities(params: RouterParams, observation: Observation) -> Float[Array, " action"]:
    return masked_probs(apply_router(params, observation).logits, observation.legal)


_jitted_probabilities = jax.jit(_action_probabilities)
