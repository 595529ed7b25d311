"""Rollouts: a batch of routes walked by a policy, as one `lax.scan` over the stages of the tree.

Every route ends within L steps, so a trajectory has exactly L rows and needs no value to bootstrap from. Rows after
the end of a route are marked by mask 0. Randomness is a function of (key, row id, time) alone: results depend
neither on the batch nor on the number of devices when row ids are global.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from hierrouter_jax.core.keys import row_keys
from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.routing.mdp import Observation, RouterState, observe, step
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch


@array_struct
class PolicyStep:
    """A policy's choice in one state: the action, its log-probability, and the value expected from here on."""

    action: Int[Array, ""]
    log_prob: Float[Array, ""]
    value: Float[Array, ""]


@runtime_checkable
class Policy(Protocol):
    """A decision maker, for one observation; batches are made by vmap."""

    def __call__(self, params: Any, observation: Observation, *, key: Key[Array, ""]) -> PolicyStep:
        """Choose an action that `observation.legal` allows."""
        ...


@array_struct
class Trajectory:
    """What happened, [time batch] in every field; `state` and `observation` are those the action was chosen in."""

    state: RouterState
    observation: Observation
    action: Int[Array, "time batch"]
    log_prob: Float[Array, "time batch"]
    value: Float[Array, "time batch"]
    reward: Float[Array, "time batch"]
    discount: Float[Array, "time batch"]  # 0 where the step ended the route, and after it
    mask: Float[Array, "time batch"]  # 1 = a real step, 0 = after the end


def rollout(
    policy: Policy,
    params: Any,
    tree: RouteTree,
    states: RouterState,
    *,
    key: Key[Array, ""],
    cost_weight: Float[ArrayLike, "*batch"],
    allow_stop: bool = True,
    row_ids: Int[Array, " batch"] | None = None,
    is_cost_weight_shown: bool = False,
) -> Trajectory:
    """Walk every row of `states` to its end.

    `cost_weight` is one number, or one a row; `is_cost_weight_shown` puts it into the observations, for routers that
    are conditioned on it. `row_ids` names the rows for the random numbers (default 0, 1, ...); give global ids when
    the batch is one device's share of a larger one.
    """
    if row_ids is None:
        row_ids = jnp.arange(states.query_index.shape[0])
    keys = row_keys(key, row_ids)
    cost_weights = jnp.broadcast_to(jnp.asarray(cost_weight, jnp.float32), states.query_index.shape)

    def walk_one_stage(states: RouterState, time: Int[Array, ""]) -> tuple[RouterState, Trajectory]:
        def walk_row(
            state: RouterState, row_key: Key[Array, ""], cost_weight: Float[Array, ""]
        ) -> tuple[RouterState, Trajectory]:
            shown = cost_weight if is_cost_weight_shown else None
            observation = observe(tree, state, allow_stop=allow_stop, cost_weight=shown)
            choice = policy(params, observation, key=jax.random.fold_in(row_key, time))
            following, reward, discount = step(
                tree, state, choice.action, cost_weight=cost_weight, allow_stop=allow_stop
            )
            record = Trajectory(
                state=state,
                observation=observation,
                action=choice.action,
                log_prob=choice.log_prob,
                value=choice.value,
                reward=reward,
                discount=discount,
                mask=1.0 - state.is_done.astype(jnp.float32),
            )
            return following, record

        return jax.vmap(walk_row)(states, keys, cost_weights)

    return jax.lax.scan(walk_one_stage, states, jnp.arange(tree.num_stages))[1]


def routes_of(trajectory: Trajectory, *, num_models: int) -> RouteBatch:
    """Return the routes that were walked, one a row of the batch, padded with STOP after their end."""
    actions = jnp.where(trajectory.mask > 0, trajectory.action, num_models)
    return RouteBatch(actions=actions.T)
