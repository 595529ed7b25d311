"""Updates by learners that know what every action leads to, because a tree says it: nothing need be sampled.

Queries are drawn as PPO draws them and the options mean the same, so that learners differ in what they know of an
action and in their loss, and in nothing else. A loss is given whole trees of some queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from hierrouter_jax.agent.distributions import masked_probs, mode
from hierrouter_jax.agent.networks import NetOutput, RouterParams, apply_router
from hierrouter_jax.core.keys import row_keys, stream_key
from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.routing.decision_states import count_decision_nodes, observe_decision_states
from hierrouter_jax.routing.mdp import reset
from hierrouter_jax.routing.route_tree import RouteTree, rows_of_tree
from hierrouter_jax.routing.values import PolicyValues, policy_values
from hierrouter_jax.train.config import PPOConfig
from hierrouter_jax.train.device_sums import sum_over_devices
from hierrouter_jax.train.ppo import Learned, UpdateFn, draw_cost_weights, run_epochs
from hierrouter_jax.train.state import Environment, TrainState, UpdateMetrics, after_update
from hierrouter_jax.train.task_loss import task_loss

Loss = tuple[Float[Array, ""], UpdateMetrics]
T = TypeVar("T")
EPSILON = 1e-8


@runtime_checkable
class LossFn(Protocol):
    """A loss over the whole trees of some queries."""

    def __call__(
        self,
        params: RouterParams,
        tree: RouteTree,
        cost_weights: Float[Array, " query"],
        *,
        config: PPOConfig,
        allow_stop: bool,
        is_shown: bool = False,
        axis_name: str | None = None,
    ) -> Loss:
        """Return the loss, and the metrics with `grad_norm` left at 0.

        `is_shown` says whether the network sees the cost weights. Of several devices each returns its share of the
        loss, and the metrics of all.
        """
        ...


@array_struct
class Decisions:
    """What the network answers at every decision node of some queries, and what the tree says of a policy there."""

    output: NetOutput  # [query decision ...]
    legal: Bool[Array, "query decision action"]
    is_there: Bool[Array, "query decision"]  # False where the node was not generated
    chances: Float[Array, "query decision action"]  # the policy's, which `known` is about
    known: PolicyValues


def make_full_information_update(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    config: PPOConfig,
    *,
    allow_stop: bool,
    axis_name: str | None = None,
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
        own_loss = partial(loss_fn, config=config, allow_stop=allow_stop, is_shown=is_shown, axis_name=axis_name)

        def loss(params: RouterParams, rows: RouteTree, row_prices: Float[Array, " row"]) -> Loss:
            own, metrics = own_loss(params, rows, row_prices)
            return own + task_loss(params, rows, penalty=config.task_penalty, axis_name=axis_name), metrics

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
    loss: Callable[[RouterParams, RouteTree, Float[Array, " row"]], Loss],
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


def look_at(
    params: RouterParams,
    tree: RouteTree,
    cost_weights: Float[Array, " query"],
    *,
    allow_stop: bool,
    is_shown: bool,
    is_greedy: bool,
) -> Decisions:
    """Return the decisions of whole trees; `chances` and `known`, of the policy or of its mode, have no gradient."""
    grid = (tree.num_queries, count_decision_nodes(tree))
    seen = observe_decision_states(tree, allow_stop=allow_stop)
    if is_shown:
        seen = dataclasses.replace(seen, cost_weight=jnp.repeat(cost_weights, grid[1]))
    output = jax.vmap(partial(apply_router, params))(seen)
    chances = jax.vmap(_mode_probs if is_greedy else masked_probs)(output.logits, seen.legal)
    output, legal, chances = _on_grid((output, seen.legal, chances), grid)
    chances = jax.lax.stop_gradient(chances)
    return Decisions(
        output=output,
        legal=legal,
        is_there=tree.valid[:, : grid[1]],
        chances=chances,
        known=policy_values(tree, chances, cost_weight=cost_weights),
    )


def _mode_probs(logits: Float[Array, " action"], legal: Bool[Array, " action"]) -> Float[Array, " action"]:
    return jax.nn.one_hot(mode(logits, legal), logits.shape[0])


def explained_variance(
    decisions: Decisions, mean_of_all: Callable[[Float[Array, "query decision"]], Float[Array, ""]]
) -> Float[Array, ""]:
    """Return 1 - var(V - value) / var(V)."""
    value = decisions.known.value
    error = value - decisions.output.value
    return 1 - _variance(error, mean_of_all) / jnp.maximum(_variance(value, mean_of_all), EPSILON)


def _variance(
    terms: Float[Array, "query decision"], mean: Callable[[Float[Array, "query decision"]], Float[Array, ""]]
) -> Float[Array, ""]:
    return mean(jnp.square(terms - mean(terms)))


def decision_metrics(
    tree: RouteTree,
    decisions: Decisions,
    cost_weights: Float[Array, " query"],
    parts: tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]],
    explained_variance: Float[Array, ""],
    axis_name: str | None,
) -> UpdateMetrics:
    """Return what the policy earns and costs in expectation over the queries of all devices, beside the loss's parts.

    `parts` are the losses of policy and value, and the entropy.
    """
    known, chances = decisions.known, decisions.chances
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
