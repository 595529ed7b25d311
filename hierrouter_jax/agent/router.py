"""A trained router at work: routes over a tree, and single decisions while a query is being answered live."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from hierrouter_jax.agent.distributions import masked_probs
from hierrouter_jax.agent.networks import RouterNetConfig, RouterParams, apply_router, is_conditioned
from hierrouter_jax.agent.policies import greedy_action, sample_action
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.structs import array_struct, static_field
from hierrouter_jax.routing.mdp import Observation, check_cost_weight, reset_all
from hierrouter_jax.routing.rollout import Policy, Trajectory, rollout, routes_of
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.routing.signals import num_signals


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
    # For a conditioned router, the trade-off that is asked of it; None: the cost weight of its training config.
    cost_weight: float | None = static_field(default=None)


@partial(jax.jit, static_argnames="allow_stop")
def greedy_routes(
    params: RouterParams,
    tree: RouteTree,
    *,
    allow_stop: bool = True,
    cost_weight: Float[ArrayLike, ""] | None = None,
) -> RouteBatch:
    """Return the route of every query when the likeliest legal action is taken at each stage.

    `cost_weight` asks a conditioned router for a trade-off; without it, it takes that of its training config. Raises
    `ConfigError` when it is given to a router that was trained for one trade-off alone.
    """
    walked = _walk(greedy_action, params, tree, jax.random.key(0), allow_stop, cost_weight)  # it draws nothing
    return routes_of(walked, num_models=tree.num_models)


@partial(jax.jit, static_argnames="allow_stop")
def sampled_routes(
    params: RouterParams,
    tree: RouteTree,
    *,
    key: Key[Array, ""],
    allow_stop: bool = True,
    cost_weight: Float[ArrayLike, ""] | None = None,
) -> RouteBatch:
    """Return one route a query drawn from the router's distribution, each a function of (key, query index) alone.

    For `cost_weight` see `greedy_routes`.
    """
    walked = _walk(sample_action, params, tree, key, allow_stop, cost_weight)
    return routes_of(walked, num_models=tree.num_models)


@partial(jax.jit, static_argnames="allow_stop")
def stage_probabilities(
    params: RouterParams,
    tree: RouteTree,
    *,
    allow_stop: bool = True,
    cost_weight: Float[ArrayLike, ""] | None = None,
) -> Float[Array, "query stage action"]:
    """Return the action probabilities at each stage of the greedy routes; after their end STOP has probability 1.

    For `cost_weight` see `greedy_routes`.
    """
    seen = _walk(greedy_action, params, tree, jax.random.key(0), allow_stop, cost_weight).observation
    probabilities = jax.vmap(jax.vmap(partial(_action_probabilities, params)))(seen)
    return jnp.swapaxes(probabilities, 0, 1)


def asked_for(router: Router, cost_weight: float | None) -> Router:
    """Return the router asked for another trade-off; None leaves it as it is.

    Raises `ConfigError` when the cost weight is no price, or the router is not conditioned on it.
    """
    if cost_weight is None:
        return router
    _refuse_unread(router.params, check_cost_weight(cost_weight))
    return dataclasses.replace(router, cost_weight=cost_weight)


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
    *,
    signals: Float[ArrayLike, " number"] | None = None,
) -> tuple[int, Float[np.ndarray, " action"]]:
    """Return the likeliest legal action (a model index, or STOP) and the probabilities of all actions.

    `signals` are those of the responses so far, as `routing.signals.route_signals` gives them; a router that reads
    none needs none. A conditioned router is asked for the trade-off of `router.cost_weight`. Raises `DataError` when
    no action is legal or signals are missing, `ConfigError` when the router has a cost weight and is not conditioned on
    it.
    """
    _refuse_unread(router.params, router.cost_weight)
    if not np.any(legal):
        raise DataError("A router chooses among legal actions, but none is legal here; end the route instead.")
    given = jnp.zeros(0) if signals is None else jnp.asarray(signals, jnp.float32)
    wanted = num_signals(len(router.model_names), router.num_stages) if router.config.reads_signals else 0
    if given.size < wanted:
        raise DataError(
            f"This router reads {wanted} signals of the responses so far, but {given.size} are given; measure "
            "them, or train with network.reads_signals off."
        )
    observation = Observation(
        context=jnp.asarray(context, jnp.float32),
        signals=given,
        stage=jnp.asarray(stage, jnp.int32),
        cum_cost=jnp.asarray(cum_cost, jnp.float32),
        legal=jnp.asarray(legal, bool),
        cost_weight=None if router.cost_weight is None else jnp.asarray(router.cost_weight, jnp.float32),
    )
    probabilities = np.asarray(_jitted_probabilities(router.params, observation))
    return int(probabilities.argmax()), probabilities


def _walk(
    policy: Policy,
    params: RouterParams,
    tree: RouteTree,
    key: Key[Array, ""],
    allow_stop: bool,
    cost_weight: Float[ArrayLike, ""] | None,
) -> Trajectory:
    _refuse_unread(params, cost_weight)
    return rollout(
        policy,
        params,
        tree,
        reset_all(tree),
        key=key,
        cost_weight=0.0 if cost_weight is None else cost_weight,
        allow_stop=allow_stop,
        is_cost_weight_shown=cost_weight is not None,
    )


def _refuse_unread(params: RouterParams, cost_weight: Float[ArrayLike, ""] | None) -> None:
    if cost_weight is not None and not is_conditioned(params):
        raise ConfigError(
            "A cost weight can be asked of a router that is conditioned on it, but this one was trained for a single "
            "one; leave cost_weight out, or train with network.is_conditioned."
        )


def _action_probabilities(params: RouterParams, observation: Observation) -> Float[Array, " action"]:
    return masked_probs(apply_router(params, observation).logits, observation.legal)


_jitted_probabilities = jax.jit(_action_probabilities)
