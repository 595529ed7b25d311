"""A synthetic route tree on which routing must be learned from the context, for benchmarks of learners.

Query kind k < M is answered well by model k alone; kind M + k only by model k and then model (k + 1) mod M. Every
other route answers badly. The context is the kind's direction plus half the path's plus noise, of norm 1, so every
kind can be told apart, and no fixed route is good for more than a few kinds. Model m costs (m + 1) / M a hop.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hierrouter_jax.routing.route_tree import RouteTree, count_nodes, path_of_node

GOOD, BAD = 1.0, 0.1


def make_context_tree(
    num_queries: int, *, dim: int, num_models: int = 3, num_stages: int = 2, noise: float = 0.1, seed: int = 0
) -> RouteTree:
    """Return the tree of `num_queries` queries, all nodes valid, with contexts of `dim` numbers."""
    rng = np.random.default_rng(seed)
    num_nodes, num_kinds = count_nodes(num_models, num_stages), 2 * num_models
    kinds = rng.permutation(np.arange(num_queries) % num_kinds)
    of_kind, of_node = rng.normal(size=(num_kinds, dim)), rng.normal(size=(num_nodes, dim))
    context = of_kind[kinds][:, None] + 0.5 * of_node + noise * rng.normal(size=(num_queries, num_nodes, dim))
    context /= np.linalg.norm(context, axis=2, keepdims=True)
    paths = [path_of_node(num_models, node) for node in range(num_nodes)]
    wanted = [
        (kind,) if kind < num_models else (kind % num_models, (kind + 1) % num_models) for kind in range(num_kinds)
    ]
    by_kind = np.array([[GOOD if path[: len(want)] == want else BAD for path in paths] for want in wanted])
    by_kind[:, 0] = 0.0
    hop_cost = np.array([(path[-1] + 1) / num_models if path else 0.0 for path in paths])
    shape = (num_queries, num_nodes)
    return RouteTree(
        context_row=jnp.arange(num_queries * num_nodes, dtype=jnp.int32).reshape(shape),
        context=jnp.asarray(context.reshape(-1, dim), jnp.float32),
        step_cost=jnp.asarray(np.broadcast_to(hop_cost, shape), jnp.float32),
        quality=jnp.asarray(by_kind[kinds], jnp.float32),
        valid=jnp.ones(shape, bool),
        signals=jnp.zeros((*shape, 0)),
        task=jnp.asarray(kinds, jnp.int32),
        num_models=num_models,
        num_stages=num_stages,
        model_names=tuple(f"model_{index}" for index in range(num_models)),
        task_names=tuple(f"kind_{index}" for index in range(num_kinds)),
    )
