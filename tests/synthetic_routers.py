"""Routers whose every weight is a random number, made without running the (slow to compile) initialisers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hierrouter_jax.agent.networks import RouterNetConfig, init_router


def random_params(
    config=None, *, context_dim=5, num_models=3, num_stages=2, num_signals=0, num_tasks=1, seed=0, head_gain=1.0
):
    """RouterParams with normal weights of variance 1 / inputs; `head_gain` makes its opinions strong."""
    config = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=5) if config is None else config

    def make():
        return init_router(
            config,
            context_dim=context_dim,
            num_models=num_models,
            num_stages=num_stages,
            num_signals=num_signals,
            num_tasks=num_tasks,
            key=jax.random.key(0),
        )

    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0]), leaf.dtype), jax.eval_shape(make)
    )
    head = params.weights["policy_head"]
    head = {"kernel": head["kernel"] * head_gain, "bias": head["bias"]}
    return params.replace(weights={**params.weights, "policy_head": head})
