"""Logistic regressions of scikit-learn: the one-shot classifier, and the scorer of answers of FrugalGPT cascades."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hierrouter_jax.baselines.decision_tables import (
    DecisionTable,
    decision_table,
    mean_utility,
    routes_of,
)
from hierrouter_jax.baselines.held_out import held_out
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, check_same_pool
from hierrouter_jax.routing.scores import RouteBatch

INVERSE_PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)  # scikit-learn's C, on standardised inputs
MAX_ITERATIONS, TOLERANCE = 500, 1e-3


def one_shot_routes(
    train_tree: RouteTree,
    tree: RouteTree,
    *,
    cost_weight: float,
    validation: RouteTree | None = None,
) -> RouteBatch:
    """Ask the one model that a classifier of the query's embedding names.

    Its classes are the models, its labels the models of highest utility on the train queries (the cheapest of equals).
    The penalty is chosen by the mean utility on the validation tree, without one on a quarter of the train queries.
    Raises `DataError` for trees of different pools.
    """
    check_same_pool(train_tree, tree)
    train, table = (decision_table(one, cost_weight=cost_weight) for one in (train_tree, tree))
    judge_tree, learn_tree = held_out(train_tree) if validation is None else (validation, train_tree)
    check_same_pool(train_tree, judge_tree)
    judge, learn = (decision_table(one, cost_weight=cost_weight) for one in (judge_tree, learn_tree))
    earned = [
        mean_utility(judge_tree, routes, cost_weight=cost_weight)
        for routes in _one_shot(learn, judge, INVERSE_PENALTIES)
    ]
    (routes,) = _one_shot(train, table, [INVERSE_PENALTIES[int(np.argmax(earned))]])
    return routes


def correctness_scores(
    train_tree: RouteTree, tree: RouteTree, *, inverse_penalty: float
) -> Float[np.ndarray, "query decision"]:
    """Return how likely the last response at each node is right, by a regression on its context and signals.

    It learns from every first and later response of the train tree that something can follow; the root, where no
    response is, has 0. Qualities between 0 and 1 count as that share of a right answer.
    """
    train, table = (decision_table(one, cost_weight=0.0) for one in (train_tree, tree))
    is_there = np.asarray(train_tree.valid)[:, 1 : train.legal.shape[1]]
    inputs, rights = _inputs(train)[:, 1:][is_there], train.quality[:, 1 : train.legal.shape[1]][is_there]
    scores = np.zeros(table.legal.shape[:2])
    if len(inputs) == 0:
        return scores
    # A quality of 0.7 is a right answer of weight 0.7 and a wrong one of weight 0.3.
    weights = np.concatenate([rights, 1 - rights])
    is_used = weights > 0
    labels = np.repeat([1, 0], len(inputs))[is_used]
    if not labels.any():  # nothing was ever right, and nothing will be trusted
        return scores
    seen = _inputs(table)[:, 1:].reshape(-1, inputs.shape[1])
    twice = np.concatenate([inputs, inputs])[is_used]
    (chances,) = _probabilities(twice, labels, seen, [inverse_penalty], weights[is_used])
    scores[:, 1:] = chances[:, -1].reshape(scores[:, 1:].shape)
    return scores


def _inputs(table: DecisionTable) -> Float[np.ndarray, "query decision number"]:
    return np.concatenate([table.context, table.signals], axis=2)


def _one_shot(train: DecisionTable, table: DecisionTable, inverse_penalties: Sequence[float]) -> list[RouteBatch]:
    """Return the routes by the classifier of each penalty."""
    stop = train.num_models
    utilities = train.action_utilities(ROOT, train.quality[:, 1 : 1 + stop])[:, :stop]
    costs = train.step_cost[:, 1 : 1 + stop]
    is_best = utilities == utilities.max(axis=1, keepdims=True)
    labels = np.where(is_best, costs, np.inf).argmin(axis=1)
    found = []
    for probabilities in _probabilities(train.context[:, ROOT], labels, table.context[:, ROOT], inverse_penalties):
        chances = np.full((table.num_queries, stop), -1.0)
        chances[:, np.unique(labels)] = probabilities
        actions = np.full(table.legal.shape[:2], stop)
        actions[:, ROOT] = np.where(table.legal[:, ROOT, :stop], chances, -np.inf).argmax(axis=1)
        found.append(routes_of(table, actions))
    return found


def _probabilities(
    inputs: np.ndarray,
    labels: np.ndarray,
    seen: np.ndarray,
    inverse_penalties: Sequence[float],
    weights: np.ndarray | None = None,
) -> Iterator[Float[np.ndarray, "seen class"]]:
    """Yield, for each penalty, the probability of each class, in the order of the sorted labels, of what is seen.

    A fit begins where the one of the penalty before ended.
    """
    if len(np.unique(labels)) == 1:
        yield from (np.ones((len(seen), 1)) for _ in inverse_penalties)
        return
    scaler = StandardScaler().fit(inputs)
    inputs, seen = scaler.transform(inputs), scaler.transform(seen)
    model = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True)
    for inverse_penalty in inverse_penalties:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last steps change no choice
            model.set_params(C=inverse_penalty).fit(inputs, labels, sample_weight=weights)
        yield model.predict_proba(seen)
