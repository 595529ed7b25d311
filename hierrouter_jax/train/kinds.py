"""Kinds of question where tasks have no names: clusters of the queries' embeddings.

A task mixture learns a head for every task that a tree names. Recorded questions of one's own are often of one task by
name and of many kinds in fact; k-means (Lloyd 1982, scikit-learn's) on the embeddings divides them.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, context_at

NUM_STARTS = 4  # of k-means; the best is kept


def with_kinds(tree: RouteTree, num_kinds: int, *, seed: int = 0) -> RouteTree:
    """Return the tree with kinds in place of tasks, named kind_0, kind_1, ...; a function of tree, number and seed.

    Raises `ConfigError` unless there are at least as many queries as kinds, and one kind.
    """
    if not 1 <= num_kinds <= tree.num_queries:
        raise ConfigError(
            f"The number of kinds must be 1 to {tree.num_queries}, the number of train queries, but is {num_kinds}."
        )
    queries = jnp.arange(tree.num_queries)
    contexts = np.asarray(context_at(tree, queries, jnp.full_like(queries, ROOT)), np.float64)
    kinds = KMeans(num_kinds, n_init=NUM_STARTS, random_state=seed).fit_predict(contexts)
    names = tuple(f"kind_{index}" for index in range(num_kinds))
    return dataclasses.replace(tree, task=jnp.asarray(kinds, jnp.int32), task_names=names)
