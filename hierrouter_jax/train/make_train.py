"""The whole training run as one pure function of a key: jit it, vmap it over seeds, vmap it over cost weights.

For a run that lasts longer than one wants to lose, that is watched, or that spans devices, see `train/loop.py`, which
drives the same update.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from hierrouter_jax.agent.networks import RouterParams, init_router
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.keys import stream_key
from hierrouter_jax.routing.mdp import check_cost_weight
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.learners import make_learner
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.state import Environment, TrainOutput, TrainState, UpdateMetrics, make_train_state


@runtime_checkable
class TrainFn(Protocol):
    """A training run."""

    def __call__(
        self,
        key: Key[Array, ""],
        cost_weight: Float[ArrayLike, ""] | None = None,
        params: RouterParams | None = None,
    ) -> TrainOutput:
        """Train from scratch, or on from `params`; `cost_weight`, where given, replaces the config's.

        All may be traced. Params must have the architecture of the config.
        """
        ...


def make_train(config: TrainConfig, tree: RouteTree) -> TrainFn:
    """Return `train(key, cost_weight=None, params=None) -> TrainOutput`, which trains a router on `tree`.

    The key alone decides the outcome; `config.seed` and the intervals are for `train_run`. A conditioned router
    (`network.is_conditioned`) learns all trade-offs at once and takes no cost weight.
    """
    update = make_learner(config)
    row_ids = jnp.arange(config.num_envs)

    def train(
        key: Key[Array, ""],
        cost_weight: Float[ArrayLike, ""] | None = None,
        params: RouterParams | None = None,
    ) -> TrainOutput:
        environment = make_environment(config, tree, cost_weight)

        def one_update(state: TrainState, _: None) -> tuple[TrainState, UpdateMetrics]:
            return update(state, row_ids, environment)

        start = init_train_state(config, key=key, **input_sizes(tree))
        if params is not None:
            start = make_train_state(params, make_optimizer(config), key=start.key)
        state, metrics = jax.lax.scan(one_update, start, length=config.num_updates)
        return TrainOutput(params=state.params, metrics=metrics)

    return train


def init_train_state(
    config: TrainConfig,
    *,
    context_dim: int,
    num_models: int,
    num_stages: int,
    num_signals: int = 0,
    num_tasks: int = 1,
    key: Key[Array, ""],
) -> TrainState:
    """Return the state before the first update, with freshly initialised weights."""
    params = init_router(
        config.network,
        context_dim=context_dim,
        num_models=num_models,
        num_stages=num_stages,
        num_signals=num_signals,
        num_tasks=num_tasks,
        key=stream_key(key, "weights"),
        default_cost_weight=config.cost_weight,
    )
    return make_train_state(params, make_optimizer(config), key=stream_key(key, "updates"))


def input_sizes(tree: RouteTree) -> dict[str, int]:
    """Return what the network's shapes depend on, as arguments of `init_train_state`."""
    return {
        "context_dim": tree.context.shape[1],
        "num_models": tree.num_models,
        "num_stages": tree.num_stages,
        "num_signals": tree.signals.shape[2],
        "num_tasks": len(tree.task_names),
    }


def make_environment(
    config: TrainConfig, tree: RouteTree, cost_weight: Float[ArrayLike, ""] | None = None
) -> Environment:
    """Return the tree with the config's cost weight, or with another one; `ConfigError` when there can be no other."""
    bounds = jnp.asarray(config.cost_weight_range, jnp.float32) if config.network.is_conditioned else None
    if cost_weight is None:
        cost_weight = config.cost_weight
    elif bounds is not None:
        raise ConfigError(
            "A conditioned router is trained for every cost weight of cost_weight_range, but one was given; leave it "
            "out, or set network.is_conditioned to False."
        )
    elif not isinstance(cost_weight, jax.core.Tracer):
        check_cost_weight(float(np.asarray(cost_weight)))
    return Environment(tree=tree, cost_weight=jnp.asarray(cost_weight, jnp.float32), cost_weight_range=bounds)
