"""PPO in the manner of PureJaxRL, the peer that is compiled as a whole as well: our environment and network, its loop.

What makes it that manner (C. Lu et al. 2022, "Discovered policy optimisation", and its repository): environments are
stepped one decision at a time and reset themselves; observations are stored as they were seen; a minibatch is a
permutation of single transitions. Loss, optimizer, network and sizes are ours, so that what differs is the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from hierrouter_jax.agent.distributions import entropy, log_prob_of
from hierrouter_jax.agent.networks import RouterParams, apply_router
from hierrouter_jax.agent.policies import sample_action
from hierrouter_jax.rl.advantages import gae_advantages
from hierrouter_jax.rl.losses import clipped_policy_loss, clipped_value_loss
from hierrouter_jax.routing.mdp import RouterState, observe, reset, step
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.make_train import init_train_state, input_sizes
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.ppo import normalise_advantages

Carry = tuple[RouterParams, optax.OptState, RouterState, Key[Array, ""]]


def start(config: TrainConfig, tree: RouteTree, *, key: Key[Array, ""]) -> Carry:
    """Return weights, optimizer state, environments and key before the first update."""
    state = init_train_state(config, key=key, **input_sizes(tree))
    env_key, next_key = jax.random.split(state.key)
    envs = jax.vmap(lambda one: reset(tree, key=one))(jax.random.split(env_key, config.num_envs))
    return state.params, state.opt_state, envs, next_key


def make_updates(config: TrainConfig, tree: RouteTree) -> Callable[[Carry, Int[Array, ""]], Carry]:
    """Return `run(carry, num_updates)`."""
    optimizer = make_optimizer(config)
    update = partial(_update, config, optimizer, tree)
    return lambda carry, num_updates: jax.lax.fori_loop(0, num_updates, lambda _, each: update(each), carry)


def _update(config: TrainConfig, optimizer: optax.GradientTransformation, tree: RouteTree, carry: Carry) -> Carry:
    params, opt_state, envs, key = carry
    key, walk_key, *epoch_keys = jax.random.split(key, 2 + config.ppo.num_epochs)
    envs, seen = jax.lax.scan(
        partial(_step_all, config, tree, params), envs, jax.random.split(walk_key, tree.num_stages)
    )
    last = jax.vmap(lambda env: apply_router(params, observe(tree, env, allow_stop=config.allow_stop)))(envs)
    gae = partial(gae_advantages, gae_lambda=config.ppo.gae_lambda)
    advantages = jax.vmap(gae, in_axes=(1, 1, 1, 0), out_axes=1)(
        seen["reward"], config.ppo.discount * seen["discount"], seen["value"], last.value
    )
    size = config.num_envs * tree.num_stages
    flat = jax.tree.map(
        lambda leaf: leaf.reshape((size, *leaf.shape[2:])),
        seen | {"advantage": advantages, "target": advantages + seen["value"]},
    )

    def run_epoch(learner: Any, epoch_key: Key[Array, ""]) -> tuple[Any, None]:
        order = jax.random.permutation(epoch_key, size).reshape(config.ppo.num_minibatches, -1)
        take = partial(_minibatch_step, config, optimizer)
        return jax.lax.scan(
            lambda each, rows: (take(each, jax.tree.map(lambda leaf: leaf[rows], flat)), None), learner, order
        )

    (params, opt_state), _ = jax.lax.scan(run_epoch, (params, opt_state), jnp.stack(epoch_keys))
    return params, opt_state, envs, key


def _step_all(
    config: TrainConfig, tree: RouteTree, params: RouterParams, envs: RouterState, key: Key[Array, ""]
) -> tuple[RouterState, dict[str, Any]]:
    """Step every environment once; one whose route has ended begins another."""

    def step_one(env: RouterState, one_key: Key[Array, ""]) -> tuple[RouterState, dict[str, Any]]:
        act_key, reset_key = jax.random.split(one_key)
        observation = observe(tree, env, allow_stop=config.allow_stop)
        choice = sample_action(params, observation, key=act_key)
        following, reward, discount = step(
            tree, env, choice.action, cost_weight=config.cost_weight, allow_stop=config.allow_stop
        )
        fresh = reset(tree, key=reset_key)
        following = jax.tree.map(lambda new, old: jnp.where(following.is_done, new, old), fresh, following)
        record = {
            "observation": observation,
            "action": choice.action,
            "log_prob": choice.log_prob,
            "value": choice.value,
            "reward": reward,
            "discount": discount,
        }
        return following, record

    return jax.vmap(step_one)(envs, jax.random.split(key, config.num_envs))


def _minibatch_step(
    config: TrainConfig, optimizer: optax.GradientTransformation, learner: Any, batch: dict[str, Any]
) -> Any:
    params, opt_state = learner
    gradients = jax.grad(_loss)(params, batch, config)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _loss(params: RouterParams, batch: dict[str, Any], config: TrainConfig) -> Float[Array, ""]:
    ppo = config.ppo
    output = jax.vmap(partial(apply_router, params))(batch["observation"])
    legal = batch["observation"].legal
    log_prob = jax.vmap(log_prob_of)(output.logits, legal, batch["action"])
    advantages = normalise_advantages(batch["advantage"], jnp.ones_like(batch["advantage"]), axis_name=None)
    clip = jnp.inf if ppo.value_clip_epsilon is None else ppo.value_clip_epsilon
    policy = clipped_policy_loss(log_prob, batch["log_prob"], advantages, clip_epsilon=ppo.clip_epsilon).mean()
    value = clipped_value_loss(output.value, batch["value"], batch["target"], clip_epsilon=clip).mean()
    bonus = jax.vmap(entropy)(output.logits, legal).mean()
    return policy + ppo.value_coefficient * value - ppo.entropy_coefficient * bonus
