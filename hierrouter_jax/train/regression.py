"""The loss of regression on the values of a tree: what does each action earn more than the others would?

A tree says what every action leads to: Q(n, a), what the query earns from there on if from the next node on the router
acts as it now would. The logits are fitted, at every node, to how far the legal actions lie from their mean, in units
of `TEMPERATURE`:

    sum_n sum_a ( logit(n, a) - mean logit(n) - (Q(n, a) - mean Q(n)) / TEMPERATURE )^2

so the likeliest action is the one of the highest value expected. Rewards of single questions are mostly noise (right
or wrong); a fit of means stands that better than a policy gradient, which sharpens on whatever helped by chance.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hierrouter_jax.agent.distributions import entropy
from hierrouter_jax.agent.networks import RouterParams
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.config import PPOConfig
from hierrouter_jax.train.device_sums import sum_over_devices
from hierrouter_jax.train.full_information import Loss, decision_metrics, explained_variance, look_at

TEMPERATURE = 0.1  # the difference in utility at which one action is e times as likely as another


def regression_loss(
    params: RouterParams,
    tree: RouteTree,
    cost_weights: Float[Array, " query"],
    *,
    config: PPOConfig,
    allow_stop: bool,
    is_shown: bool = False,
    axis_name: str | None = None,
) -> Loss:
    """Return fit of the logits + c_v * value loss, means over the decision nodes that are there.

    The entropy is that of the softmax of the logits; nothing is paid for it. See `LossFn`.
    """
    seen = look_at(params, tree, cost_weights, allow_stop=allow_stop, is_shown=is_shown, is_greedy=True)
    weight = seen.is_there / sum_over_devices(seen.is_there.sum(), axis_name)

    def mean(terms: Float[Array, "query decision"]) -> Float[Array, ""]:
        return jnp.sum(weight * terms)  # of all devices together; each adds its share

    def mean_of_all(terms: Float[Array, "query decision"]) -> Float[Array, ""]:
        return sum_over_devices(mean(terms), axis_name)

    def beyond_mean(terms: Float[Array, "query decision action"]) -> Float[Array, "query decision action"]:
        average = jnp.mean(terms, axis=2, keepdims=True, where=seen.legal)
        return jnp.where(seen.legal, terms - average, 0.0)

    errors = beyond_mean(seen.output.logits) - beyond_mean(seen.known.action_value) / TEMPERATURE
    fit = 0.5 * mean(jnp.sum(jnp.square(errors), axis=2))
    value = 0.5 * mean(jnp.square(seen.output.value - seen.known.value))
    uncertainty = mean(jax.vmap(jax.vmap(entropy))(seen.output.logits, seen.legal))
    parts = sum_over_devices((fit, value, uncertainty), axis_name)
    metrics = decision_metrics(tree, seen, cost_weights, parts, explained_variance(seen, mean_of_all), axis_name)
    return fit + config.value_coefficient * value, metrics
