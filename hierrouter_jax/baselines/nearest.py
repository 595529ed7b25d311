"""Nearest neighbours in the encoder's space: what did the queries most like this one get from each action?

`knn_routes` is the router that learned ones so often fail to beat: one model a query, by the mean utility of each over
the k nearest train queries. `knn_multi_hop_routes` does the same at every decision node, among the train queries' own
nodes of the same route: an action is worth what the neighbours earned by it, acting in the same way from there on.
"""

from __future__ import annotations

from collections.abc import Callable

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


_Actions = Callable[[DecisionTable, DecisionTable | None, int], Int[np.ndarray, "query decision"]]


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
    return routes_of(table, actions_of(train, table, num_neighbours))


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
    routes = [routes_of(judged, actions_of(train, chosen_on, number)) for number in numbers]
    earned = [mean_utility(judged_tree, each, cost_weight=train.cost_weight) for each in routes]
    return max(zip(earned, numbers, strict=True))[1]


def _one_hop_actions(
    train: DecisionTable, table: DecisionTable | None, num_neighbours: int
) -> Int[np.ndarray, "query decision"]:
    """Return a model at the root and STOP behind it; without a table, for the train queries, each without itself."""
    judged = train if table is None else table
    stop = train.num_models
    known = train.action_utilities(ROOT, train.quality[:, 1 : 1 + stop])
    actions = np.full(judged.legal.shape[:2], stop)
    actions[:, ROOT] = _best_actions(train, table, ROOT, known, num_neighbours)
    return actions


def _multi_hop_actions(
    train: DecisionTable, table: DecisionTable | None, num_neighbours: int
) -> Int[np.ndarray, "query decision"]:
    """Return the best action at every node, last stage first: what a child is worth is what was earned from there."""
    judged = train if table is None else table
    num_decisions = train.legal.shape[1]
    worth = train.quality.copy()  # of a train node: what the train query itself earns from it on
    actions = np.zeros(judged.legal.shape[:2], np.int64)
    queries = np.arange(train.num_queries)
    for node in reversed(range(num_decisions)):
        known = train.action_utilities(node, worth[:, train.children(node)])
        actions[:, node] = _best_actions(train, table, node, known, num_neighbours)
        own = actions[:, node] if table is None else _best_actions(train, None, node, known, num_neighbours)
        worth[:, node] = np.where(train.legal[queries, node, own], known[queries, own], train.quality[:, node])
    return actions


def _best_actions(
    train: DecisionTable,
    table: DecisionTable | None,
    node: int,
    known: Float[np.ndarray, "train action"],
    num_neighbours: int,
) -> Int[np.ndarray, " query"]:
    """Return, for each query, its legal action with the highest mean among the neighbours for which it is known."""
    judged = train if table is None else table
    similarity = judged.context[:, node] @ train.context[:, node].T
    is_there = np.isfinite(known).any(axis=1)  # train queries that have this node at all
    similarity[:, ~is_there] = -np.inf
    if table is None:
        np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :num_neighbours]
    of_neighbours = known[nearest]  # [query neighbour action]
    is_known = np.isfinite(of_neighbours) & np.isfinite(np.take_along_axis(similarity, nearest, axis=1))[..., None]
    count = is_known.sum(axis=1)
    means = np.where(is_known, of_neighbours, 0.0).sum(axis=1) / np.maximum(count, 1)
    overall = np.where(np.isfinite(known), known, 0.0).sum(axis=0) / np.maximum(np.isfinite(known).sum(axis=0), 1)
    means = np.where(count > 0, means, overall)  # no neighbour has taken it: what it earns on the whole
    return np.where(judged.legal[:, node], means, -np.inf).argmax(axis=1)
