"""Logistic regressions of scikit-learn: the one-shot classifier, and the scorer of answers of FrugalGPT cascades."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
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
MAX_ITERATIONS = 500


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
        mean_utility(judge_tree, _one_shot(learn, judge, penalty), cost_weight=cost_weight)
        for penalty in INVERSE_PENALTIES
    ]
    return _one_shot(train, table, INVERSE_PENALTIES[int(np.argmax(earned))])


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
    predict = _fit(np.concatenate([inputs, inputs])[is_used], labels, inverse_penalty, weights[is_used])
    chances = predict(_inputs(table)[:, 1:].reshape(-1, inputs.shape[1]))[:, -1]
    scores[:, 1:] = chances.reshape(scores[:, 1:].shape)
    return scores


def _inputs(table: DecisionTable) -> Float[np.ndarray, "query decision number"]:
    return np.concatenate([table.context, table.signals], axis=2)


def _one_shot(train: DecisionTable, table: DecisionTable, inverse_penalty: float) -> RouteBatch:
    stop = train.num_models
    utilities = train.action_utilities(ROOT, train.quality[:, 1 : 1 + stop])[:, :stop]
    costs = train.step_cost[:, 1 : 1 + stop]
    is_best = utilities == utilities.max(axis=1, keepdims=True)
    labels = np.where(is_best, costs, np.inf).argmin(axis=1)
    predict = _fit(train.context[:, ROOT], labels, inverse_penalty)
    chances = np.full((table.num_queries, stop), -1.0)
    chances[:, np.unique(labels)] = predict(table.context[:, ROOT])
    actions = np.full(table.legal.shape[:2], stop)
    actions[:, ROOT] = np.where(table.legal[:, ROOT, :stop], chances, -np.inf).argmax(axis=1)
    return routes_of(table, actions)


def _fit(inputs: np.ndarray, labels: np.ndarray, inverse_penalty: float, weights: np.ndarray | None = None) -> Any:
    """Return a function from inputs to the probability of each class, in the order of the sorted labels."""
    if len(np.unique(labels)) == 1:
        return lambda seen: np.ones((len(seen), 1))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last steps change no choice
        model.fit(inputs, labels, logisticregression__sample_weight=weights)
    return model.predict_proba
