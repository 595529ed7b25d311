"""Baselines that give every query the same route: one model alone, the best single model, the best fixed route.

"Best" means the highest mean utility on the train tree; the tree that is scored plays no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.mdp import check_cost_weight
from hierrouter_jax.routing.route_tree import (
    ROOT,
    RouteTree,
    check_same_pool,
    cumulative_costs,
    node_of_path,
    path_of_node,
    rows_of_tree,
    stage_slice,
)
from hierrouter_jax.routing.scores import RouteBatch


def fixed_routes(tree: RouteTree, path: Sequence[int]) -> RouteBatch:
    """Ask the models of `path` in turn on every query, then stop.

    Raises `DataError` when the path is empty, too long, names a model that does not exist, or passes a node that
    the tree does not hold for every query.
    """
    if not 1 <= len(path) <= tree.num_stages:
        raise DataError(f"A route of this tree asks 1 to {tree.num_stages} models, but {tuple(path)} asks {len(path)}.")
    node = node_of_path(tree.num_models, path)
    if not _is_complete(tree)[node]:
        missing = int((~np.asarray(tree.valid[:, node])).sum())
        raise DataError(
            f"The route {tuple(path)} was not collected for {missing} of {tree.num_queries} queries; "
            "collect the missing nodes, or leave this baseline out."
        )
    actions = [*path, *[tree.stop] * (tree.num_stages - len(path))]
    return RouteBatch(actions=jnp.tile(jnp.asarray(actions, jnp.int32)[None], (tree.num_queries, 1)))


def single_routes(tree: RouteTree, model_index: int) -> RouteBatch:
    """Ask one model on every query, once."""
    return fixed_routes(tree, [model_index])


def best_single_model(train_tree: RouteTree, tree: RouteTree, *, cost_weight: float) -> int:
    """Return the model whose single answer has the highest mean utility on the train tree; the lowest of equals.

    Only models whose answers both trees hold for every query are compared; `DataError` when there is none.
    """
    models = _mean_utilities(train_tree, tree, cost_weight)[stage_slice(train_tree.num_models, 1)]
    return int(models.argmax())


def best_single_routes(train_tree: RouteTree, tree: RouteTree, *, cost_weight: float) -> RouteBatch:
    """Ask the best single model of the train tree on every query."""
    return single_routes(tree, best_single_model(train_tree, tree, cost_weight=cost_weight))


def best_fixed_path(
    train_tree: RouteTree, tree: RouteTree, *, cost_weight: float, num_hops: int | None = None
) -> tuple[int, ...]:
    """Return the sequence of models with the highest mean utility on the train tree; the shortest of equals.

    `num_hops` asks for one of that length. Only sequences that both trees hold for every query are compared;
    `DataError` when there is none.
    """
    utilities = _mean_utilities(train_tree, tree, cost_weight)
    if num_hops is not None:
        if not 1 <= num_hops <= tree.num_stages:
            raise DataError(f"A route of this tree asks 1 to {tree.num_stages} models, but {num_hops} are wanted.")
        others = np.ones(tree.num_nodes, bool)
        others[stage_slice(tree.num_models, num_hops)] = False
        utilities = np.where(others, -np.inf, utilities)
        if not np.isfinite(utilities).any():
            raise DataError(f"No route of {num_hops} hops was collected for every query; collect one, or ask for less.")
    return path_of_node(train_tree.num_models, int(utilities.argmax()))


def best_fixed_routes(
    train_tree: RouteTree, tree: RouteTree, *, cost_weight: float, num_hops: int | None = None
) -> RouteBatch:
    """Ask the best fixed sequence of models of the train tree on every query."""
    return fixed_routes(tree, best_fixed_path(train_tree, tree, cost_weight=cost_weight, num_hops=num_hops))


def best_task_routes(
    train_tree: RouteTree, tree: RouteTree, *, cost_weight: float, num_hops: int | None = None
) -> RouteBatch:
    """Ask, on each query, the sequence of models that was best on the train queries of its task.

    It is told the task, which a router must see from the question. Tasks without a train query get the best sequence
    of all tasks. Raises `DataError` when the trees name other tasks, or as `best_fixed_path` does.
    """
    if train_tree.task_names != tree.task_names:
        raise DataError(f"The trees must name the same tasks, but do {train_tree.task_names} and {tree.task_names}.")
    actions = np.array(
        best_fixed_routes(train_tree, tree, cost_weight=cost_weight, num_hops=num_hops).actions, np.int32
    )
    train_task, task = np.asarray(train_tree.task), np.asarray(tree.task)
    for index in range(len(tree.task_names)):
        learn, use = np.flatnonzero(train_task == index), np.flatnonzero(task == index)
        if len(learn) and len(use):
            own = rows_of_tree(train_tree, learn), rows_of_tree(tree, use)
            actions[use] = best_fixed_routes(*own, cost_weight=cost_weight, num_hops=num_hops).actions
    return RouteBatch(actions=jnp.asarray(actions))


def _mean_utilities(train_tree: RouteTree, tree: RouteTree, cost_weight: float) -> Float[np.ndarray, " node"]:
    """Return the mean utility on the train tree of stopping at each node; -inf where no fair mean exists."""
    check_cost_weight(cost_weight)
    check_same_pool(train_tree, tree)
    is_known = _is_complete(train_tree) & _is_complete(tree)
    is_known[ROOT] = False  # no route stops before the first hop
    if not is_known[stage_slice(tree.num_models, 1)].any():
        raise DataError(
            "No model was collected for every query of both trees, so fixed routes cannot be compared; "
            "collect at least the first stage of one model."
        )
    utility = np.asarray(train_tree.quality) - cost_weight * np.asarray(cumulative_costs(train_tree))
    return np.where(is_known, utility.mean(axis=0, dtype=np.float64), -np.inf)


def _is_complete(tree: RouteTree) -> Bool[np.ndarray, " node"]:
    return np.logical_and.reduce(np.asarray(tree.valid), axis=0)
