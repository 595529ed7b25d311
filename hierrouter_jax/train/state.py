"""What training carries from one update to the next, what it reads, and what it reports: three array structs.

Everything here is the same on every device. `TrainState` is all that a checkpoint holds, so that a run that was
killed goes on bit by bit as if it had not been.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt32

from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.routing.route_tree import RouteTree

Params = Any  # the network's pytree of weights


@array_struct
class TrainState:
    """The learner between two updates. `step` counts finished updates and names the checkpoint."""

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]
    key: Key[Array, ""]
    num_hops: UInt32[Array, " word"]  # hops taken since the start: low word, high word


@array_struct
class Environment:
    """What the learner acts in: a tree and the price of cost. Both are arrays, so `vmap` over prices works."""

    tree: RouteTree
    cost_weight: Float[Array, ""]
    # For a router conditioned on the price: every episode draws one between the two, or 0.
    cost_weight_range: Float[Array, " bound"] | None = None


@array_struct
class UpdateMetrics:
    """What one update saw. Means over the episodes of all devices, except where a line says otherwise."""

    utility: Float[Array, "*update"]  # quality - cost_weight * cost of a sampled route
    quality: Float[Array, "*update"]
    cost: Float[Array, "*update"]
    num_hops: Float[Array, "*update"]  # models asked in a route
    policy_loss: Float[Array, "*update"]  # this and the next four: mean over the update's optimizer steps
    value_loss: Float[Array, "*update"]
    entropy: Float[Array, "*update"]  # natural units
    approx_kl: Float[Array, "*update"]  # of the policy that acted from the one being fitted, natural units
    clip_fraction: Float[Array, "*update"]  # share of decisions whose ratio is clipped
    grad_norm: Float[Array, "*update"]  # before clipping
    explained_variance: Float[Array, "*update"]  # 1 - var(target - value) / var(target), over decisions


@array_struct
class TrainOutput:
    """What `make_train`'s function returns: the trained weights and the metrics of every update."""

    params: Params
    metrics: UpdateMetrics


def make_train_state(params: Params, optimizer: optax.GradientTransformation, *, key: Key[Array, ""]) -> TrainState:
    """Return the state before the first update."""
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        key=key,
        num_hops=jnp.zeros((2,), jnp.uint32),
    )


def after_update(
    state: TrainState, params: Params, opt_state: optax.OptState, *, key: Key[Array, ""], num_hops: UInt32[Array, ""]
) -> TrainState:
    """Return the state after one more update, in which so many hops were taken."""
    return TrainState(
        params=params,
        opt_state=opt_state,
        step=state.step + 1,
        key=key,
        num_hops=count_up(state.num_hops, num_hops),
    )


def count_up(words: UInt32[Array, " word"], amount: UInt32[Array, ""]) -> UInt32[Array, " word"]:
    """Add to a counter of two 32-bit words: one word would wrap within a day of training."""
    low = words[0] + amount
    carry = (low < words[0]).astype(jnp.uint32)
    return jnp.stack([low, words[1] + carry])


def count_of(words: UInt32[Array, " word"]) -> int:
    """Return the counter's value as a Python integer."""
    low, high = (int(word) for word in np.asarray(jax.device_get(words)))
    return low + (high << 32)
