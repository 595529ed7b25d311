"""Route trees made of random numbers, for the tests of every room that learns or scores."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hierrouter_jax.routing.route_tree import RouteTree, count_nodes, node_parents, path_of_node


def random_tree(
    seed=0, *, num_queries=7, num_models=3, num_stages=2, dim=5, num_tasks=2, share_missing=0.0, num_signals=0
):
    """A tree of independent uniform numbers; `share_missing` of the nodes (and what hangs on them) is invalid."""
    rng = np.random.default_rng(seed)
    num_nodes = count_nodes(num_models, num_stages)
    shape = (num_queries, num_nodes)
    valid = rng.random(shape) >= share_missing
    valid[:, 0] = True
    valid[np.arange(num_queries), 1 + rng.integers(num_models, size=num_queries)] = True  # each query can be routed
    parents = node_parents(num_models, num_stages)
    for node in range(1, num_nodes):
        valid[:, node] &= valid[:, parents[node]]
    num_rows = num_queries * num_nodes - num_nodes + 1  # fewer rows than nodes: some texts are shared
    context = rng.normal(size=(num_rows, dim))
    quality, step_cost = rng.random(shape), rng.exponential(0.5, size=shape)
    quality[:, 0] = step_cost[:, 0] = 0
    return RouteTree(
        context_row=jnp.asarray(rng.integers(num_rows, size=shape), jnp.int32),
        context=jnp.asarray(context / np.linalg.norm(context, axis=1, keepdims=True), jnp.float32),
        step_cost=jnp.asarray(np.where(valid, step_cost, 0), jnp.float32),
        quality=jnp.asarray(np.where(valid, quality, 0), jnp.float32),
        valid=jnp.asarray(valid),
        signals=jnp.asarray(rng.random((*shape, num_signals)), jnp.float32),
        task=jnp.asarray(rng.integers(num_tasks, size=num_queries), jnp.int32),
        num_models=num_models,
        num_stages=num_stages,
        model_names=tuple(f"model_{index}" for index in range(num_models)),
        task_names=tuple(f"task_{index}" for index in range(num_tasks)),
    )


def context_dependent_tree(seed=0, *, num_queries=64, num_models=3, num_stages=2, dim=16, noise=0.1):
    """A tree whose best route must be read from the context: each kind of query has its own.

    Kind k < M wants model k alone (further hops add cost, and no quality). Kind M + k wants model k and then model
    (k + 1) mod M; every shorter or other route answers it badly. The context at a node is the direction of the kind
    plus that of the path plus noise. Model m costs (m + 1) / M a hop. No fixed route is good for most queries.
    """
    rng = np.random.default_rng(seed)
    num_nodes, num_kinds = count_nodes(num_models, num_stages), 2 * num_models
    kind = rng.permutation(np.arange(num_queries) % num_kinds)
    meanings = np.random.default_rng(1009)  # directions mean the same in every tree, so that trees generalise
    kind_direction, node_direction = meanings.normal(size=(num_kinds, dim)), meanings.normal(size=(num_nodes, dim))
    context = (
        kind_direction[kind][:, None] + 0.5 * node_direction + noise * rng.normal(size=(num_queries, num_nodes, dim))
    )
    context /= np.linalg.norm(context, axis=2, keepdims=True)
    quality = np.zeros((num_queries, num_nodes))
    step_cost = np.zeros((num_queries, num_nodes))
    for node in range(1, num_nodes):
        path = path_of_node(num_models, node)
        step_cost[:, node] = (path[-1] + 1) / num_models
        quality[:, node] = [1.0 if path[: len(want)] == want else 0.1 for want in map(_wanted(num_models), kind)]
    return RouteTree(
        context_row=jnp.arange(num_queries * num_nodes, dtype=jnp.int32).reshape(num_queries, num_nodes),
        context=jnp.asarray(context.reshape(-1, dim), jnp.float32),
        step_cost=jnp.asarray(step_cost, jnp.float32),
        quality=jnp.asarray(quality, jnp.float32),
        valid=jnp.ones((num_queries, num_nodes), bool),
        signals=jnp.zeros((num_queries, num_nodes, 0)),
        task=jnp.asarray(kind, jnp.int32),
        num_models=num_models,
        num_stages=num_stages,
        model_names=tuple(f"model_{index}" for index in range(num_models)),
        task_names=tuple(f"kind_{index}" for index in range(num_kinds)),
    )


def _wanted(num_models):
    def wanted(kind):
        first = int(kind) % num_models
        return (first,) if kind < num_models else (first, (first + 1) % num_models)

    return wanted
