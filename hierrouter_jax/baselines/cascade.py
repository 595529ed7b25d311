"""Cascades: ask models in a fixed order and stop as soon as an answer is trusted.

Trust is a number at every decision node: the model's own confidence (the mean log-probability of its answer), or the
probability that a learned scorer gives it of being right (FrugalGPT, Chen et al. 2023, arXiv:2305.05176). A route
stops after stage t where trust reaches the threshold of that stage, or where enough of the route's answers agree. The
order of models, the thresholds and the use of agreement are those of the highest mean utility on the validation tree,
without one on the train tree.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from hierrouter_jax.baselines.classifiers import INVERSE_PENALTIES, correctness_scores
from hierrouter_jax.baselines.decision_tables import (
    DecisionTable,
    decision_table,
    mean_utility,
    routes_of,
)
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.decision_states import count_decision_nodes
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, check_same_pool, node_of_path
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.routing.signals import SIGNAL_NAMES

NUM_THRESHOLDS = 15  # quantiles of trust on the train tree, the ends included
_CONFIDENCE, _AGREEMENT = SIGNAL_NAMES.index("confidence"), SIGNAL_NAMES.index("agreement")

Trust = Float[np.ndarray, "query decision"]
# What is learned is learned on the first tree, and told of the second.
Measure = Callable[[RouteTree, RouteTree], Trust]


@dataclass(frozen=True, kw_only=True)
class CascadePlan:
    """The models in order, the trust at which each but the last is enough, and whether agreement is enough too."""

    path: tuple[int, ...]
    thresholds: tuple[float, ...]
    stops_on_agreement: bool = False


def cascade_routes(
    train_tree: RouteTree, tree: RouteTree, *, cost_weight: float, validation: RouteTree | None = None
) -> RouteBatch:
    """Stop on the model's own confidence, or on agreement with an earlier answer.

    Raises `DataError` for trees of different pools, and for trees without signals.
    """
    return _chosen_cascade(train_tree, tree, cost_weight, validation, [_confidence])


def scorer_cascade_routes(
    train_tree: RouteTree, tree: RouteTree, *, cost_weight: float, validation: RouteTree | None = None
) -> RouteBatch:
    """Stop on a learned scorer's opinion of the answer; its penalty is chosen with the rest of the plan."""
    scorers = [partial(correctness_scores, inverse_penalty=penalty) for penalty in INVERSE_PENALTIES]
    return _chosen_cascade(train_tree, tree, cost_weight, validation, scorers)


def plan_routes(table: DecisionTable, plan: CascadePlan, trust: Trust) -> RouteBatch:
    """Return the routes of a plan; where a model cannot be asked, the route ends with the answer before it."""
    return routes_of(table, _plan_actions(table, plan, trust))


def _chosen_cascade(
    train_tree: RouteTree,
    tree: RouteTree,
    cost_weight: float,
    validation: RouteTree | None,
    measures: Sequence[Measure],
) -> RouteBatch:
    check_same_pool(train_tree, tree)
    if tree.num_stages > 1 and tree.signals.shape[2] == 0:
        raise DataError("A cascade looks at the responses' signals, but this tree has none; collect it again.")
    judged_tree = train_tree if validation is None else validation
    check_same_pool(train_tree, judged_tree)
    judged, table = (decision_table(one, cost_weight=cost_weight) for one in (judged_tree, tree))
    best: tuple[float, CascadePlan, Measure] | None = None
    for measure in measures:
        on_train = measure(train_tree, train_tree)
        trust = on_train if validation is None else measure(train_tree, judged_tree)
        for plan in _plans(train_tree, judged, on_train):
            earned = mean_utility(judged_tree, plan_routes(judged, plan, trust), cost_weight=cost_weight)
            if best is None or earned > best[0]:
                best = (earned, plan, measure)
    if best is None:
        raise DataError("No model answered every query of the tree, so that no cascade can begin; collect more.")
    return plan_routes(table, best[1], best[2](train_tree, tree))


def _plans(train_tree: RouteTree, judged: DecisionTable, train_trust: Trust) -> Iterator[CascadePlan]:
    """Yield every sequence of models that all queries can begin with, with every combination of thresholds."""
    valid = np.asarray(train_tree.valid)
    for length in range(1, train_tree.num_stages + 1):
        for path in itertools.product(range(train_tree.num_models), repeat=length):
            if not judged.legal[:, ROOT, path[0]].all():
                continue
            grids = []
            for num_asked in range(1, length):
                node = node_of_path(train_tree.num_models, path[:num_asked])
                seen = train_trust[valid[:, node], node]
                quantiles = np.quantile(seen, np.linspace(0, 1, NUM_THRESHOLDS)) if seen.size else np.zeros(1)
                grids.append(np.unique(np.append(quantiles, np.inf)))
            for thresholds in itertools.product(*grids):
                yield CascadePlan(path=path, thresholds=tuple(map(float, thresholds)))
                if length > 2:
                    yield CascadePlan(path=path, thresholds=tuple(map(float, thresholds)), stops_on_agreement=True)


def _plan_actions(table: DecisionTable, plan: CascadePlan, trust: Trust) -> Int[np.ndarray, "query decision"]:
    stop = table.num_models
    actions = np.full(table.legal.shape[:2], stop)
    first = plan.path[0]
    # A query that the first model cannot be asked begins with another, and stops there.
    actions[:, ROOT] = np.where(table.legal[:, ROOT, first], first, table.legal[:, ROOT].argmax(axis=1))
    for stage in range(1, len(plan.path)):
        node, model = node_of_path(stop, plan.path[:stage]), plan.path[stage]
        goes_on = table.legal[:, node, model] & (trust[:, node] < plan.thresholds[stage - 1])
        if plan.stops_on_agreement and stage > 1:
            goes_on &= table.signals[:, node, _AGREEMENT] == 0
        actions[:, node] = np.where(goes_on, model, stop)
    return actions


def _confidence(train_tree: RouteTree, tree: RouteTree) -> Trust:
    del train_tree
    num_decisions = count_decision_nodes(tree)
    if tree.signals.shape[2] == 0:  # one stage: nothing is decided after a response
        return np.zeros((tree.num_queries, num_decisions))
    return np.asarray(tree.signals, np.float64)[:, :num_decisions, _CONFIDENCE]
