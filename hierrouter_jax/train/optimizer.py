"""The optimizer of a training run, from its config."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from hierrouter_jax.train.config import TrainConfig


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Return Adam on gradients clipped by their global norm, with the config's learning-rate schedule.

    With a weight decay it is AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) and decays matrices, not biases, and
    not the gate of a task mixture, which has a penalty of its own.
    """
    ppo = config.ppo
    schedule = learning_rate_schedule(config)
    adam = optax.adam(schedule, eps=ppo.adam_epsilon)
    if ppo.weight_decay > 0:
        adam = optax.adamw(schedule, eps=ppo.adam_epsilon, weight_decay=ppo.weight_decay, mask=_decayed)
    return optax.chain(optax.clip_by_global_norm(ppo.max_grad_norm), adam)


def _decayed(params: Any) -> Any:
    """Say of every leaf whether it is decayed."""

    def is_decayed(path: tuple[Any, ...], leaf: Any) -> bool:
        return jnp.ndim(leaf) > 1 and "task_gate" not in jax.tree_util.keystr(path)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def learning_rate_schedule(config: TrainConfig) -> optax.Schedule:
    """Return the learning rate as a function of optimizer steps taken."""
    ppo = config.ppo
    if ppo.schedule == "constant":
        return optax.constant_schedule(ppo.learning_rate)
    num_steps = config.num_updates * ppo.num_epochs * ppo.num_minibatches
    return optax.linear_schedule(ppo.learning_rate, 0.0, num_steps)
