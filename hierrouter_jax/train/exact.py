"""The loss of the exact policy gradient: a tree knows what every action leads to, so nothing need be sampled.

Where PPO sees one action a decision and estimates its advantage, here every action's advantage is computed from the
tree: A(n, a) = Q(n, a) - V(n) under the policy as it is, weighted by how likely the policy passes n. By the policy
gradient theorem (Sutton et al. 1999) the gradient of

    sum_n reach(n) sum_a p(a|n) A(n, a),    reach and A held fixed,

is that of the mean utility. Advantages have unit variance as PPO's have. Clipping has no use: advantages are computed
anew at every step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hierrouter_jax.agent.distributions import entropy, masked_probs
from hierrouter_jax.agent.networks import RouterParams
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.config import PPOConfig
from hierrouter_jax.train.device_sums import sum_over_devices
from hierrouter_jax.train.full_information import EPSILON, Loss, decision_metrics, explained_variance, look_at


def exact_loss(
    params: RouterParams,
    tree: RouteTree,
    cost_weights: Float[Array, " query"],
    *,
    config: PPOConfig,
    allow_stop: bool,
    is_shown: bool = False,
    axis_name: str | None = None,
) -> Loss:
    """Return policy loss + c_v * value loss - c_e * entropy, means over the decisions that the policy meets.

    A decision counts as much as the policy is likely to meet it. See `LossFn`.
    """
    seen = look_at(params, tree, cost_weights, allow_stop=allow_stop, is_shown=is_shown, is_greedy=False)
    known = seen.known
    weight = known.reach / sum_over_devices(known.reach.sum(), axis_name)

    def mean(terms: Float[Array, "query decision"]) -> Float[Array, ""]:
        return jnp.sum(weight * terms)  # of all devices together; each adds its share

    def mean_of_all(terms: Float[Array, "query decision"]) -> Float[Array, ""]:
        return sum_over_devices(mean(terms), axis_name)

    probabilities = jax.vmap(jax.vmap(masked_probs))(seen.output.logits, seen.legal)
    advantage = known.action_value - known.value[..., None]
    spread = jnp.sqrt(mean_of_all(jnp.sum(seen.chances * jnp.square(advantage), axis=2))) + EPSILON
    policy = -mean(jnp.sum(probabilities * advantage, axis=2)) / spread
    value = 0.5 * mean(jnp.square(seen.output.value - known.value))
    bonus = mean(jax.vmap(jax.vmap(entropy))(seen.output.logits, seen.legal))
    loss = policy + config.value_coefficient * value - config.entropy_coefficient * bonus
    parts = sum_over_devices((policy, value, bonus), axis_name)
    metrics = decision_metrics(tree, seen, cost_weights, parts, explained_variance(seen, mean_of_all), axis_name)
    return loss, metrics
