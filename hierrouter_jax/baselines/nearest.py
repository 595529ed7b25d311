"""Nearest neighbours in the encoder's space: what did the queries most like this one get from each action?

`knn_routes` is the router that learned ones so often fail to beat: one model a query, by the mean utility of each over
the k nearest train queries. `knn_multi_hop_routes` does the same at every decision node, among the train queries' own
nodes of the same route: an action is worth what the neighbours earned by it, acting in the same way from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from hierrouter_jax.baselines.decision_tables import (
    DecisionTable,
    decision_table,
    mean_utility,
    routes_of,
)
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, check_same_pool
from hierrouter_jax.routing.scores import RouteBatch

NUM_NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64, 128)


def knn_routes(
    train_tree: RouteTree,
    tree: RouteTree,
    *,
    cost_weight: float,
    validation: RouteTree | None = None,
    num_neighbours: int | None = None,
) -> RouteBatch:
    """Ask the one model that served the nearest train queries best.

    `num_neighbours` is chosen on the validation tree, without one by leaving each train query out in turn, unless it
    is given. Raises `DataError` for trees of different pools, `ConfigError` for a number below 1.
    """
    return _routes(_one_hop_actions, train_tree, tree, cost_weight, validation, num_neighbours, allow_stop=True)


def knn_multi_hop_routes(
    train_tree: RouteTree,
    tree: RouteTree,
    *,
    cost_weight: float,
    validation: RouteTree | None = None,
    num_neighbours: int | None = None,
    allow_stop: bool = True,
) -> RouteBatch:
    """Take, at every node, the action that served the nearest train nodes of the same route best.

    Neighbours are found by the context's embedding, which holds the responses so far. See `knn_routes` for the rest.
    """
    return _routes(_multi_hop_actions, train_tree, tree, cost_weight, validation, num_neighbours, allow_stop=allow_stop)


_Actions = Callable[[DecisionTable, DecisionTable | None, Sequence[int]], list[Int[np.ndarray, "query decision"]]]


def _routes(
    actions_of: _Actions,
    train_tree: RouteTree,
    tree: RouteTree,
    cost_weight: float,
    validation: RouteTree | None,
    num_neighbours: int | None,
    *,
    allow_stop: bool,
) -> RouteBatch:
    check_same_pool(train_tree, tree)
    if num_neighbours is not None and num_neighbours < 1:
        raise ConfigError(f"num_neighbours must be >= 1, but is {num_neighbours}.")
    train, table = (decision_table(one, cost_weight=cost_weight, allow_stop=allow_stop) for one in (train_tree, tree))
    if num_neighbours is None:
        num_neighbours = _best_number(actions_of, train_tree, validation, train, allow_stop=allow_stop)
    (actions,) = actions_of(train, table, [num_neighbours])
    return routes_of(table, actions)


def _best_number(
    actions_of: _Actions,
    train_tree: RouteTree,
    validation: RouteTree | None,
    train: DecisionTable,
    *,
    allow_stop: bool,
) -> int:
    """Return the number of neighbours with the highest mean utility; the largest of equals, whose means say more."""
    judged_tree, judged, chosen_on = train_tree, train, None
    if validation is not None:
        check_same_pool(train_tree, validation)
        judged_tree = validation
        judged = chosen_on = decision_table(validation, cost_weight=train.cost_weight, allow_stop=allow_stop)
    numbers = [number for number in NUM_NEIGHBOURS if number < train.num_queries] or [1]
    routes = [routes_of(judged, actions) for actions in actions_of(train, chosen_on, numbers)]
    earned = [mean_utility(judged_tree, each, cost_weight=train.cost_weight) for each in routes]
    return max(zip(earned, numbers, strict=True))[1]


def _one_hop_actions(
    train: DecisionTable, table: DecisionTable | None, numbers: Sequence[int]
) -> list[Int[np.ndarray, "query decision"]]:
    """Return, for each number of neighbours, a model at the root and STOP behind it.

    Without a table, for the train queries, each without itself.
    """
    judged = train if table is None else table
    stop = train.num_models
    known = train.action_utilities(ROOT, train.quality[:, 1 : 1 + stop])
    nearest = _Nearest(train, table, ROOT, max(numbers))
    found = []
    for number in numbers:
        actions = np.full(judged.legal.shape[:2], stop)
        actions[:, ROOT] = nearest.best_actions(known, number)
        found.append(actions)
    return found


def _multi_hop_actions(
    train: DecisionTable, table: DecisionTable | None, numbers: Sequence[int]
) -> list[Int[np.ndarray, "query decision"]]:
    """Return, for each number of neighbours, the best action at every node.

    The last stage comes first: what a child is worth is what was earned from there.
    """
    judged = train if table is None else table
    num_decisions = train.legal.shape[1]
    worths = [train.quality.copy() for _ in numbers]  # of a train node: what the train query earns from it on
    found = [np.zeros(judged.legal.shape[:2], np.int64) for _ in numbers]
    queries = np.arange(train.num_queries)
    for node in reversed(range(num_decisions)):
        nearest = _Nearest(train, table, node, max(numbers))
        own_nearest = nearest if table is None else _Nearest(train, None, node, max(numbers))
        for number, actions, worth in zip(numbers, found, worths, strict=True):
            known = train.action_utilities(node, worth[:, train.children(node)])
            actions[:, node] = nearest.best_actions(known, number)
            own = actions[:, node] if table is None else own_nearest.best_actions(known, number)
            worth[:, node] = np.where(train.legal[queries, node, own], known[queries, own], train.quality[:, node])
    return found


class _Nearest:
    """For each query the train queries that are most like it at one node, the nearest first."""

    def __init__(self, train: DecisionTable, table: DecisionTable | None, node: int, most: int) -> None:
        judged = train if table is None else table
        self.legal = judged.legal[:, node]
        similarity = judged.context[:, node] @ train.context[:, node].T
        similarity[:, ~train.legal[:, node].any(axis=1)] = -np.inf  # train queries that lack this node
        if table is None:
            np.fill_diagonal(similarity, -np.inf)
        self.order = np.argsort(-similarity, axis=1, kind="stable")[:, :most]
        self.is_there = np.isfinite(np.take_along_axis(similarity, self.order, axis=1))

    def best_actions(self, known: Float[np.ndarray, "train action"], num_neighbours: int) -> Int[np.ndarray, " query"]:
        """Return, for each query, its legal action with the highest mean among the neighbours that know it."""
        of_neighbours = known[self.order[:, :num_neighbours]]  # [query neighbour action]
        is_known = np.isfinite(of_neighbours) & self.is_there[:, :num_neighbours, None]
        count = is_known.sum(axis=1)
        means = np.where(is_known, of_neighbours, 0.0).sum(axis=1) / np.maximum(count, 1)
        overall = np.where(np.isfinite(known), known, 0.0).sum(axis=0) / np.maximum(np.isfinite(known).sum(axis=0), 1)
        means = np.where(count > 0, means, overall)  # no neighbour has taken it: what it earns on the whole
        return np.where(self.legal, means, -np.inf).argmax(axis=1)
