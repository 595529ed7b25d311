"""The categorical distribution over legal actions.

Illegal actions have probability exactly 0 and log-probability -inf, whatever their logits are, and no gradient flows
through them. At least one action must be legal. Functions of one state; vmap for batches.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def masked_log_probs(logits: Float[Array, " action"], legal: Bool[Array, " action"]) -> Float[Array, " action"]:
    """Return log p: log-softmax over the legal actions, -inf elsewhere."""
    log_probs = jax.nn.log_softmax(jnp.where(legal, logits, -jnp.inf))
    # The outer mask changes no number. In gradients it stops the NaN that 0 * -inf makes at illegal actions.
    return jnp.where(legal, log_probs, -jnp.inf)


def masked_probs(logits: Float[Array, " action"], legal: Bool[Array, " action"]) -> Float[Array, " action"]:
    """Return p, which sums to 1 over the legal actions."""
    return jnp.exp(masked_log_probs(logits, legal))


def log_prob_of(
    logits: Float[Array, " action"], legal: Bool[Array, " action"], action: Int[Array, ""]
) -> Float[Array, ""]:
    """Return log p(action)."""
    # Picked by a mask: the gradient of an index is added up entry by entry, batch after batch.
    is_taken = jnp.arange(logits.shape[0]) == action
    return jnp.sum(jnp.where(is_taken, masked_log_probs(logits, legal), 0.0))


def entropy(logits: Float[Array, " action"], legal: Bool[Array, " action"]) -> Float[Array, ""]:
    """Return -sum p log p in nats, over the legal actions."""
    log_probs = masked_log_probs(logits, legal)
    return -jnp.sum(jnp.where(legal, jnp.exp(log_probs) * log_probs, 0.0))


def sample(logits: Float[Array, " action"], legal: Bool[Array, " action"], *, key: Key[Array, ""]) -> Int[Array, ""]:
    """Draw a legal action."""
    return jax.random.categorical(key, masked_log_probs(logits, legal)).astype(jnp.int32)


def mode(logits: Float[Array, " action"], legal: Bool[Array, " action"]) -> Int[Array, ""]:
    """Return the likeliest legal action; the lowest index among equals."""
    return jnp.argmax(masked_log_probs(logits, legal)).astype(jnp.int32)
