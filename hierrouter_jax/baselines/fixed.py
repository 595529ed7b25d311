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
    return RouteBatch(actions=jnp.tile(jnp.asarray(_actions(tree, path), jnp.int32)[None], (tree.num_queries, 1)))


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
    return _best_path(tree, _mean_utilities(train_tree, tree, cost_weight), num_hops)


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
    seen = _Utilities(train_tree, tree, cost_weight)
    path_of_all = _best_path(tree, seen.means(), num_hops)
    paths = [path_of_all] * len(tree.task_names)
    train_task, task = np.asarray(train_tree.task), np.asarray(tree.task)
    for index in set(train_task.tolist()) & set(task.tolist()):
        paths[index] = _best_path(tree, seen.means(train_task == index, task == index), num_hops)
    return RouteBatch(actions=jnp.asarray(np.array([_actions(tree, path) for path in paths], np.int32)[task]))


class _Utilities:
    """What stopping at each node earns on the train tree, and which nodes each tree holds."""

    def __init__(self, train_tree: RouteTree, tree: RouteTree, cost_weight: float) -> None:
        check_cost_weight(cost_weight)
        check_same_pool(train_tree, tree)
        costs = np.asarray(cumulative_costs(train_tree))
        self.utility = np.asarray(train_tree.quality) - cost_weight * costs
        self.valid = np.asarray(train_tree.valid), np.asarray(tree.valid)
        self.first_stage = stage_slice(tree.num_models, 1)

    def means(
        self,
        learned: Bool[np.ndarray, " train"] | slice = slice(None),
        used: Bool[np.ndarray, " query"] | slice = slice(None),
    ) -> Float[np.ndarray, " node"]:
        """Return each node's mean over the learned queries; -inf where a learned or a used query lacks the node."""
        rows = np.concatenate([self.valid[0][learned], self.valid[1][used]])
        is_known = np.logical_and.reduce(rows, axis=0)
        is_known[ROOT] = False  # no route stops before the first hop
        if not is_known[self.first_stage].any():
            raise DataError(
                "No model was collected for every query of both trees, so fixed routes cannot be compared; "
                "collect at least the first stage of one model."
            )
        return np.where(is_known, self.utility[learned].mean(axis=0, dtype=np.float64), -np.inf)


def _mean_utilities(train_tree: RouteTree, tree: RouteTree, cost_weight: float) -> Float[np.ndarray, " node"]:
    """Return the mean utility on the train tree of stopping at each node; -inf where no fair mean exists."""
    return _Utilities(train_tree, tree, cost_weight).means()


def _best_path(tree: RouteTree, utilities: Float[np.ndarray, " node"], num_hops: int | None) -> tuple[int, ...]:
    """Return the sequence of models of the highest utility, the shortest of equals; perhaps of a given length."""
    if num_hops is not None:
        if not 1 <= num_hops <= tree.num_stages:
            raise DataError(f"A route of this tree asks 1 to {tree.num_stages} models, but {num_hops} are wanted.")
        others = np.ones(tree.num_nodes, bool)
        others[stage_slice(tree.num_models, num_hops)] = False
        utilities = np.where(others, -np.inf, utilities)
        if not np.isfinite(utilities).any():
            raise DataError(f"No route of {num_hops} hops was collected for every query; collect one, or ask for less.")
    return path_of_node(tree.num_models, int(utilities.argmax()))


def _actions(tree: RouteTree, path: Sequence[int]) -> list[int]:
    """Return the actions of a route: its models, then STOP to the last stage."""
    return [*path, *[tree.stop] * (tree.num_stages - len(path))]


def _is_complete(tree: RouteTree) -> Bool[np.ndarray, " node"]:
    return np.logical_and.reduce(np.asarray(tree.valid), axis=0)
