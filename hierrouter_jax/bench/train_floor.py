"""The floor of an update: the seconds that the network's matrix products alone take, as XLA runs them here.

The products are those of a network without norms, activations, heads, losses, gathers, draws and optimizer: forward
for the rollout; forward, and backward for weights and (from the second layer on) inputs, for each minibatch.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hierrouter_jax.bench.product_times import median_seconds
from hierrouter_jax.routing.decision_states import count_decision_states
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.config import TrainConfig

Weights = list[list[Array]]  # by net and layer: inward x outward
NUM_REPEATS = 16  # in one program, as the steps of an update are
KEEP_FINITE = 1e-30  # what a result adds to the weights of the next product: a dependence, not a number


def floor_update_s(config: TrainConfig, tree: RouteTree) -> float:
    """Return the seconds of one update's products."""
    num_states = count_decision_states(tree)
    num_decisions = config.num_envs * tree.num_stages
    steps = config.ppo.num_epochs * config.ppo.num_minibatches
    rollout_rows = min(num_decisions, num_states)
    minibatch_rows = min(num_decisions // config.ppo.num_minibatches, num_states)
    weights = _make_weights(config, tree.context.shape[1])
    forward_s = median_seconds(lambda: _forward(_inputs(rollout_rows, tree), weights)) / NUM_REPEATS
    step_s = median_seconds(lambda: _steps(_inputs(minibatch_rows, tree), weights)) / NUM_REPEATS
    return forward_s + steps * step_s


def _make_weights(config: TrainConfig, dim: int) -> Weights:
    num_nets = 1 if config.network.is_torso_shared else 2
    sizes = list(itertools.pairwise((dim, *config.network.hidden_sizes)))
    return [[jnp.full(size, 1e-3) for size in sizes] for _ in range(num_nets)]


def _inputs(num_rows: int, tree: RouteTree) -> Float[Array, "row dim"]:
    return jnp.ones((num_rows, tree.context.shape[1]))


def _product_sum(weights: Weights, inputs: Float[Array, "row dim"]) -> Float[Array, ""]:
    total = jnp.float32(0.0)
    for net in weights:
        features = inputs
        for weight in net:
            features = features @ weight
        total += jnp.square(features).sum()  # a square, so that the backward product of the last layer is a real one
    return total


@jax.jit
def _forward(inputs: Float[Array, "row dim"], weights: Weights) -> Weights:
    def again(_: Array, now: Weights) -> Weights:
        total = _product_sum(now, inputs)
        return jax.tree.map(lambda weight: weight + KEEP_FINITE * total, now)

    return jax.lax.fori_loop(0, NUM_REPEATS, again, weights)


@jax.jit
def _steps(inputs: Float[Array, "row dim"], weights: Weights) -> Weights:
    def again(_: Array, now: Weights) -> Weights:
        gradients = jax.grad(_product_sum)(now, inputs)
        return jax.tree.map(lambda weight, gradient: weight - KEEP_FINITE * gradient, now, gradients)

    return jax.lax.fori_loop(0, NUM_REPEATS, again, weights)
