"""Regression on the values of a tree: what would each action earn here, by the kind of task and by what is alike?

    value(x, a) = sum_t p(t | query) mean_t(a) + k(x)' (K + ridge I)^-1 r(a)

p is a logistic regression that infers the task from the query's embedding; mean_t(a) is what action a earns at this
node on the train queries of task t; r(a) is what each train query earns beyond the mean of its task; k and K are means
of Gaussian kernels of three widths, of contexts and signals (kernel ridge regression: Saunders et al. 1998). Train
queries say what their task is; of the others it is never read. A tree knows what every action leads to, so nothing
need be explored: a child is worth what the train query earns from there on, acting by the values that the others give.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hierrouter_jax.baselines.decision_tables import DecisionTable, decision_table, mean_utility, routes_of
from hierrouter_jax.baselines.held_out import held_out
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, check_same_pool
from hierrouter_jax.routing.scores import RouteBatch

INVERSE_PENALTY = 10.0  # of the classifier of tasks: scikit-learn's C, on embeddings of norm 1
MAX_ITERATIONS, TOLERANCE = 200, 1e-3
WIDTHS = (1.0, 2.0, 4.0)  # of the kernels exp(-width |x - y|^2)
RIDGES = (3.0, 10.0, 30.0, 100.0, np.inf)  # infinite: the task alone decides
MAX_ROOT_ROWS, MAX_ROWS = 4096, 2048  # train queries that a kernel compares with, evenly taken; the first at the root


def value_regression_routes(
    train_tree: RouteTree,
    tree: RouteTree,
    *,
    cost_weight: float,
    validation: RouteTree | None = None,
    allow_stop: bool = True,
) -> RouteBatch:
    """Take, at every node, the action of the highest value by regression.

    The ridge is chosen by the mean utility on the validation tree, without one on a quarter of the train queries (the
    largest of equals); then all train queries are learned from. Raises `DataError` for trees of different pools.
    """
    check_same_pool(train_tree, tree)
    judge_tree, learn_tree = held_out(train_tree) if validation is None else (validation, train_tree)
    check_same_pool(train_tree, judge_tree)

    def table_of(one: RouteTree) -> DecisionTable:
        return decision_table(one, cost_weight=cost_weight, allow_stop=allow_stop)

    learn, judge = (_Seen(one, table_of(one)) for one in (learn_tree, judge_tree))
    chances = _infer_tasks(learn, judge)
    earned = [
        mean_utility(judge_tree, routes_of(judge.table, actions), cost_weight=cost_weight)
        for actions in _actions(learn, judge, chances, RIDGES)
    ]
    _, ridge = max(zip(earned, RIDGES, strict=True))
    train, seen = _Seen(train_tree, table_of(train_tree)), _Seen(tree, table_of(tree))
    (actions,) = _actions(train, seen, _infer_tasks(train, seen), [ridge])
    return routes_of(seen.table, actions)


class _Seen:
    """A tree's decision nodes, and the inputs of the kernel: contexts, and signals at the scale of one coordinate."""

    def __init__(self, tree: RouteTree, table: DecisionTable) -> None:
        self.table = table
        self.task = np.asarray(tree.task)
        self.is_there = np.asarray(tree.valid)[:, : table.legal.shape[1]]
        scale = 1 / np.sqrt(max(1, table.signals.shape[2]))
        self.inputs = np.concatenate([table.context, table.signals * scale], axis=2, dtype=np.float32)


def _infer_tasks(train: _Seen, seen: _Seen) -> Float[np.ndarray, "query task"]:
    """Return how likely each query is of each task of the train queries, in the order of the tasks' numbers."""
    if len(np.unique(train.task)) == 1:
        return np.ones((seen.table.num_queries, 1))
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last steps change no choice
        model.fit(train.table.context[:, ROOT], train.task)
    return np.asarray(model.predict_proba(seen.table.context[:, ROOT]))


def _actions(
    train: _Seen, seen: _Seen, chances: Float[np.ndarray, "query task"], ridges: Sequence[float]
) -> list[Int[np.ndarray, "query decision"]]:
    """Return, for each ridge, the best action at every node; the last stage comes first."""
    worths = [train.table.quality.copy() for _ in ridges]  # of a train node: what the query itself earns from it on
    found = [np.zeros(seen.table.legal.shape[:2], np.int64) for _ in ridges]
    queries = np.arange(train.table.num_queries)
    for node in reversed(range(train.table.legal.shape[1])):
        kernels = _Kernels(train, seen, node) if np.isfinite(ridges).any() else None
        for ridge, actions, worth in zip(ridges, found, worths, strict=True):
            known = train.table.action_utilities(node, worth[:, train.table.children(node)])
            values, own_values = _values(train, known, chances, kernels, ridge)
            actions[:, node] = np.where(seen.table.legal[:, node], values, -np.inf).argmax(axis=1)
            own = np.where(train.table.legal[:, node], own_values, -np.inf).argmax(axis=1)
            is_known = np.isfinite(known[queries, own])
            worth[:, node] = np.where(is_known, known[queries, own], train.table.quality[:, node])
    return found


class _Kernels:
    """How alike the train queries at one node are to each other, and to those of the queries seen."""

    def __init__(self, train: _Seen, seen: _Seen, node: int) -> None:
        rows = np.flatnonzero(train.is_there[:, node])
        self.is_root = node == ROOT
        self.rows = rows[:: max(1, -(-len(rows) // (MAX_ROOT_ROWS if self.is_root else MAX_ROWS)))]
        inputs = train.inputs[self.rows, node]
        self.among_train = _kernel(inputs, inputs)
        self.to_train = _kernel(seen.inputs[:, node], inputs)


def _values(
    train: _Seen,
    known: Float[np.ndarray, "train action"],
    chances: Float[np.ndarray, "query task"],
    kernels: _Kernels | None,
    ridge: float,
) -> tuple[Float[np.ndarray, "query action"], Float[np.ndarray, "train action"]]:
    """Return the actions' values for the queries seen, and for each train query by all others (its task known).

    The latter are the means of tasks alone where no others are asked: at the root, and without a kernel.
    """
    is_known = np.isfinite(known)
    means, places = _task_means(train.task, known, is_known)
    own_means = means[places]
    residuals = np.where(is_known, known - own_means, 0.0)
    values, own_values = chances @ means, own_means.copy()
    if kernels is None or not np.isfinite(ridge) or len(kernels.rows) < 2:
        return values, own_values
    rows = kernels.rows
    penalised = kernels.among_train + ridge * np.eye(len(rows))
    if kernels.is_root:  # nothing comes before it, so nobody asks what train queries would do here
        weights = scipy.linalg.solve(penalised, residuals[rows], assume_a="pos")
    else:
        inverse = scipy.linalg.inv(penalised)
        weights = inverse @ residuals[rows]
        # What the others say of a row: r - w / inverse_ii (the leave-one-out identity of ridge regression).
        own_values[rows] += residuals[rows] - weights / np.diag(inverse)[:, None]
    return values + kernels.to_train @ weights, own_values


def _task_means(
    task: Int[np.ndarray, " train"], known: np.ndarray, is_known: np.ndarray
) -> tuple[Float[np.ndarray, "task action"], Int[np.ndarray, " train"]]:
    """Return each action's mean by task, the mean over all where a task never took it, and each row's place in it."""
    total, count = np.where(is_known, known, 0.0), is_known.sum(axis=0)
    overall = np.where(count > 0, total.sum(axis=0) / np.maximum(count, 1), 0.0)
    tasks, places = np.unique(task, return_inverse=True)
    is_of = places[None, :] == np.arange(len(tasks))[:, None]
    counts = is_of @ is_known.astype(float)
    return np.where(counts > 0, is_of @ total / np.maximum(counts, 1), overall), places


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the mean over the widths of exp(-width |x - y|^2), for every pair of rows."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2 * first @ second.T
    squares = np.maximum(squares, 0.0)
    return np.mean([np.exp(-width * squares) for width in WIDTHS], axis=0)
