"""Generalised advantage estimation, for one trajectory with time leading (vmap for batches)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def gae_advantages(
    rewards: Float[Array, " time"],
    discounts: Float[Array, " time"],
    values: Float[Array, " time"],
    final_value: Float[ArrayLike, ""],
    *,
    gae_lambda: Float[ArrayLike, ""],
) -> Float[Array, " time"]:
    """Return generalised advantages, the lambda-weighted sums of temporal-difference errors.

    delta_t = r_t + d_t * V_{t+1} - V_t;  A_t = delta_t + d_t * lambda * A_{t+1}
    (Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", eqs. 11-16.)

    `discounts` are gamma, or 0 at a step that ended the episode, so nothing leaks over an end. `values[t]` is V of
    the state in which r_t was earned; `final_value` is V after the last step. A_t + V_t is the lambda-return.
    """
    next_values = jnp.append(values[1:], final_value)
    errors = rewards + discounts * next_values - values

    def accumulate(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        error, discount = now
        advantage = error + discount * gae_lambda * later
        return advantage, advantage

    return jax.lax.scan(accumulate, jnp.zeros_like(errors[0]), (errors, discounts), reverse=True)[1]
