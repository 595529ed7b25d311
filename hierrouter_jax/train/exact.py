"""Updates by the exact policy gradient: a tree knows what every action leads to, so nothing need be sampled.

Where PPO sees one action a decision and estimates its advantage, here every action's advantage is computed from the
tree: A(n, a) = Q(n, a) - V(n) under the policy as it is, weighted by how likely the policy passes n. By the policy
gradient theorem (Sutton et al. 1999) the gradient of

    sum_n reach(n) sum_a p(a|n) A(n, a),    reach and A held fixed,

is that of the mean utility. Queries are drawn as PPO draws them, advantages have unit variance as PPO's have, and the
options mean the same, so the two learners differ in what they know of an action and in nothing else. Clipping has no
use: advantages are computed anew at every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hierrouter_jax.agent.distributions import entropy, masked_probs
from hierrouter_jax.agent.networks import RouterParams, apply_router
from hierrouter_jax.core.keys import row_keys, stream_key
from hierrouter_jax.routing.decision_states import count_decision_nodes, observe_decision_states
from hierrouter_jax.routing.mdp import reset
from hierrouter_jax.routing.route_tree import RouteTree, rows_of_tree
from hierrouter_jax.routing.values import PolicyValues, policy_values
from hierrouter_jax.train.config import PPOConfig
from hierrouter_jax.train.ppo import Learned, UpdateFn, draw_cost_weights, run_epochs, sum_over_devices
from hierrouter_jax.train.state import Environment, TrainState, UpdateMetrics, after_update

LossFn = Callable[[RouterParams, RouteTree, Float[Array, " row"]], tuple[Float[Array, ""], UpdateMetrics]]
T = TypeVar("T")
_EPSILON = 1e-8


def make_exact_update(
    optimizer: optax.GradientTransformation, config: PPOConfig, *, allow_stop: bool, axis_name: str | None = None
) -> UpdateFn:
    """Return `update(state, row_ids, environment) -> (state, metrics)`, as `make_update` of PPO does.

    `metrics.approx_kl` and `clip_fraction` are 0: the policy that is fitted is the one that acts.
    """

    def update(
        state: TrainState, row_ids: Int[Array, " batch"], environment: Environment
    ) -> tuple[TrainState, UpdateMetrics]:
        next_key, key = jax.random.split(state.key)
        tree = environment.tree
        query_keys = row_keys(stream_key(key, "queries"), row_ids)
        queries = jax.vmap(lambda query_key: reset(tree, key=query_key).query_index)(query_keys)
        prices = jnp.broadcast_to(environment.cost_weight, queries.shape)
        is_shown = environment.cost_weight_range is not None
        if environment.cost_weight_range is not None:
            prices = draw_cost_weights(environment.cost_weight_range, row_ids, key=stream_key(key, "cost_weights"))
        loss = partial(exact_loss, config=config, allow_stop=allow_stop, is_shown=is_shown, axis_name=axis_name)
        take_step = partial(_minibatch_step, tree, loss, optimizer=optimizer, axis_name=axis_name)

        def step_on(learned: Learned, rows: Int[Array, " row"]) -> tuple[Learned, UpdateMetrics]:
            return take_step(learned, queries[rows], prices[rows])

        learned = (state.params, state.opt_state)
        (params, opt_state), steps = run_epochs(step_on, learned, row_ids, config, key=stream_key(key, "minibatches"))
        metrics = jax.tree.map(jnp.mean, steps)
        num_rows = sum_over_devices(jnp.float32(row_ids.shape[0]), axis_name)
        hops = jnp.round(metrics.num_hops * num_rows * config.num_epochs).astype(jnp.uint32)
        following = after_update(state, params, opt_state, key=next_key, num_hops=hops)
        return following, metrics

    return update


def _minibatch_step(
    tree: RouteTree,
    loss: LossFn,
    learned: Learned,
    queries: Int[Array, " row"],
    prices: Float[Array, " row"],
    *,
    optimizer: optax.GradientTransformation,
    axis_name: str | None,
) -> tuple[Learned, UpdateMetrics]:
    """Take one optimizer step on some queries, each with its whole tree."""
    params, opt_state = learned
    gradients, metrics = jax.grad(loss, has_aux=True)(params, rows_of_tree(tree, queries), prices)
    gradients = sum_over_devices(gradients, axis_name)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    metrics = dataclasses.replace(metrics, grad_norm=optax.tree.norm(gradients))
    return (optax.apply_updates(params, updates), opt_state), metrics


def exact_loss(
    params: RouterParams,
    tree: RouteTree,
    cost_weights: Float[Array, " query"],
    *,
    config: PPOConfig,
    allow_stop: bool,
    is_shown: bool = False,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], UpdateMetrics]:
    """Return policy loss + c_v * value loss - c_e * entropy, means over the decisions that the policy meets.

    A decision counts as much as the policy is likely to meet it. `is_shown` says whether the network sees the cost
    weights. Of several devices each returns its share of the loss, and the metrics of all; `grad_norm` is left at 0.
    """
    grid = (tree.num_queries, count_decision_nodes(tree))
    seen = observe_decision_states(tree, allow_stop=allow_stop)
    if is_shown:
        seen = dataclasses.replace(seen, cost_weight=jnp.repeat(cost_weights, grid[1]))
    output = _on_grid(jax.vmap(partial(apply_router, params))(seen), grid)
    legal = _on_grid(seen.legal, grid)
    probabilities = jax.vmap(jax.vmap(masked_probs))(output.logits, legal)
    known = jax.lax.stop_gradient(policy_values(tree, probabilities, cost_weight=cost_weights))
    chances = jax.lax.stop_gradient(probabilities)
    weight = known.reach / sum_over_devices(known.reach.sum(), axis_name)

    def mean(terms: Float[Array, "query decision"]) -> Float[Array, ""]:
        return jnp.sum(weight * terms)  # of all devices together; each adds its share

    def mean_of_all(terms: Float[Array, "query decision"]) -> Float[Array, ""]:
        return sum_over_devices(mean(terms), axis_name)

    advantage = known.action_value - known.value[..., None]
    spread = jnp.sqrt(mean_of_all(jnp.sum(chances * jnp.square(advantage), axis=2))) + _EPSILON
    policy = -mean(jnp.sum(probabilities * advantage, axis=2)) / spread
    value = 0.5 * mean(jnp.square(output.value - known.value))
    bonus = mean(jax.vmap(jax.vmap(entropy))(output.logits, legal))
    loss = policy + config.value_coefficient * value - config.entropy_coefficient * bonus
    parts = sum_over_devices((policy, value, bonus), axis_name)
    error = known.value - output.value
    explained = 1 - _variance(error, mean_of_all) / jnp.maximum(_variance(known.value, mean_of_all), _EPSILON)
    return loss, _metrics(tree, known, chances, cost_weights, parts, explained, axis_name)


def _variance(
    terms: Float[Array, "query decision"], mean: Callable[[Float[Array, "query decision"]], Float[Array, ""]]
) -> Float[Array, ""]:
    return mean(jnp.square(terms - mean(terms)))


def _metrics(
    tree: RouteTree,
    known: PolicyValues,
    chances: Float[Array, "query decision action"],
    cost_weights: Float[Array, " query"],
    parts: tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]],
    explained_variance: Float[Array, ""],
    axis_name: str | None,
) -> UpdateMetrics:
    """Return what the policy earns and costs in expectation, over the queries of all devices."""
    num_decisions = known.reach.shape[1]
    hop_cost = tree.step_cost[:, 1 : 1 + num_decisions * tree.num_models].reshape(tree.num_queries, num_decisions, -1)
    asks = known.reach[..., None] * chances[..., :-1]
    cost = jnp.sum(asks * hop_cost, axis=(1, 2))
    sums = {"utility": known.value[:, 0], "cost": cost, "num_hops": jnp.sum(asks, axis=(1, 2))}
    sums["quality"] = sums["utility"] + cost_weights * cost
    num_queries = sum_over_devices(jnp.float32(tree.num_queries), axis_name)
    means = {
        name: total / num_queries for name, total in sum_over_devices(jax.tree.map(jnp.sum, sums), axis_name).items()
    }
    policy, value, bonus = parts
    zero = jnp.zeros(())
    return UpdateMetrics(
        **means,
        policy_loss=policy,
        value_loss=value,
        entropy=bonus,
        approx_kl=zero,
        clip_fraction=zero,
        grad_norm=zero,
        explained_variance=explained_variance,
    )


def _on_grid(leaves: T, grid: tuple[int, int]) -> T:
    """Return what leads with [state] as [query decision ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape((*grid, *leaf.shape[1:])), leaves)
