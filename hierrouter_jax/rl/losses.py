"""The losses of proximal policy optimisation, for one element each.

They are not averaged: the caller vmaps, multiplies by its mask and averages over what is real. All are minimised.
Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv:1707.06347).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def clipped_policy_loss(
    log_prob: Float[Array, "*shape"],
    old_log_prob: Float[Array, "*shape"],
    advantage: Float[Array, "*shape"],
    *,
    clip_epsilon: Float[ArrayLike, ""],
) -> Float[Array, "*shape"]:
    """Return -min(rho A, clip(rho, 1 - eps, 1 + eps) A) with rho = pi(a|s) / pi_old(a|s) (eq. 7, negated)."""
    ratio = jnp.exp(log_prob - old_log_prob)
    clipped = jnp.clip(ratio, 1 - clip_epsilon, 1 + clip_epsilon)
    return -jnp.minimum(ratio * advantage, clipped * advantage)


def clipped_value_loss(
    value: Float[Array, "*shape"],
    old_value: Float[Array, "*shape"],
    target: Float[Array, "*shape"],
    *,
    clip_epsilon: Float[ArrayLike, ""],
) -> Float[Array, "*shape"]:
    """Return half the larger squared error of the value and of the value held within eps of the old one.

    max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2) / 2: an update gains nothing by moving V further than
    eps. An infinite eps gives the plain squared error.
    """
    held = jnp.clip(value, old_value - clip_epsilon, old_value + clip_epsilon)
    return 0.5 * jnp.maximum(jnp.square(value - target), jnp.square(held - target))


def approximate_kl(log_prob: Float[Array, "*shape"], old_log_prob: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return (rho - 1) - log rho, whose mean over actions drawn from the old policy is KL(old || new); never negative.

    See J. Schulman's note "Approximating KL divergence" (2020), estimator k3.
    """
    log_ratio = log_prob - old_log_prob
    return jnp.expm1(log_ratio) - log_ratio
