"""What the gate of a task mixture learns from: the names of the tasks of train queries, and nothing else."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from hierrouter_jax.agent.networks import RouterParams, is_task_mixture, task_gate_square, task_logits
from hierrouter_jax.routing.decision_states import count_decision_nodes, observe_decision_states
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.device_sums import sum_over_devices


def task_loss(params: RouterParams, tree: RouteTree, *, penalty: float, axis_name: str | None) -> Float[Array, ""]:
    """Return -log p(task | context), the mean over the decision nodes that are there, plus the ridge on the gate.

    0 for a router without a gate. Of several devices each returns its share.
    """
    if not is_task_mixture(params):
        return jnp.zeros(())
    num_decisions = count_decision_nodes(tree)
    is_there = tree.valid[:, :num_decisions].reshape(-1)
    logits = jax.vmap(partial(task_logits, params))(observe_decision_states(tree))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.repeat(tree.task, num_decisions))
    count, num_devices = sum_over_devices((is_there.sum().astype(jnp.float32), jnp.ones(())), axis_name)
    return jnp.sum(jnp.where(is_there, losses, 0.0)) / count + penalty * task_gate_square(params) / num_devices
