"""What baselines that are fitted on the host look at: the decision nodes of a tree as NumPy arrays.

`decision` counts the nodes of the first L stages, where something is decided; an action is a model, then STOP. An
action that is illegal has the utility -inf.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from hierrouter_jax.routing.decision_states import count_decision_nodes
from hierrouter_jax.routing.mdp import check_cost_weight
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, count_nodes, stage_slice
from hierrouter_jax.routing.scores import RouteBatch


@dataclass(frozen=True, kw_only=True)
class DecisionTable:
    """A tree on the host."""

    context: Float[np.ndarray, "query decision dim"]
    signals: Float[np.ndarray, "query decision number"]
    legal: Bool[np.ndarray, "query decision action"]
    quality: Float[np.ndarray, "query node"]
    step_cost: Float[np.ndarray, "query node"]
    num_models: int
    num_stages: int
    cost_weight: float
    allow_stop: bool

    @property
    def num_queries(self) -> int:
        """Number of queries."""
        return len(self.quality)

    def rows(self, chosen: Bool[np.ndarray, " query"]) -> DecisionTable:
        """Return the table of some queries."""
        names = ("context", "signals", "legal", "quality", "step_cost")
        arrays: dict[str, Any] = {name: getattr(self, name)[chosen] for name in names}
        return dataclasses.replace(self, **arrays)

    def action_utilities(
        self, node: int, child_values: Float[np.ndarray, "query model"]
    ) -> Float[np.ndarray, "query action"]:
        """Return what each action at a node earns, where a child is worth what `child_values` says."""
        children = slice(1 + node * self.num_models, 1 + (node + 1) * self.num_models)
        ask = child_values - self.cost_weight * self.step_cost[:, children]
        utilities = np.concatenate([ask, self.quality[:, node : node + 1]], axis=1)
        return np.where(self.legal[:, node], utilities, -np.inf)


def decision_table(tree: RouteTree, *, cost_weight: float, allow_stop: bool = True) -> DecisionTable:
    """Return the decision nodes of a tree."""
    check_cost_weight(cost_weight)
    num_decisions = count_decision_nodes(tree)
    valid = np.asarray(tree.valid)
    asks = valid[:, 1 : 1 + num_decisions * tree.num_models].reshape(tree.num_queries, num_decisions, tree.num_models)
    may_stop = np.broadcast_to(allow_stop and np.arange(num_decisions) > ROOT, asks.shape[:2])
    stop = valid[:, :num_decisions] & (may_stop | ~asks.any(axis=2))
    return DecisionTable(
        context=np.asarray(tree.context, np.float32)[np.asarray(tree.context_row)[:, :num_decisions]],
        signals=np.asarray(tree.signals)[:, :num_decisions],
        legal=np.concatenate([asks, stop[..., None]], axis=2),
        quality=np.asarray(tree.quality, np.float64),
        step_cost=np.asarray(tree.step_cost, np.float64),
        num_models=tree.num_models,
        num_stages=tree.num_stages,
        cost_weight=cost_weight,
        allow_stop=allow_stop,
    )


def decision_stages(num_models: int, num_stages: int) -> Int[np.ndarray, " decision"]:
    """Return the stage of every decision node."""
    stages = np.zeros(count_nodes(num_models, num_stages - 1), np.int64)
    for stage in range(num_stages):
        stages[stage_slice(num_models, stage)] = stage
    return stages


def routes_of_actions(table: DecisionTable, actions: Int[np.ndarray, "query decision"]) -> RouteBatch:
    """Return the routes that take, at each node they come to, the action given there."""
    stop = table.num_models
    queries, node = np.arange(table.num_queries), np.full(table.num_queries, ROOT)
    is_ended, taken = np.zeros(table.num_queries, bool), []
    for _ in range(table.num_stages):
        at = np.minimum(node, actions.shape[1] - 1)
        action = np.where(is_ended, stop, actions[queries, at])
        is_ended |= action == stop
        node = np.where(is_ended, node, node * table.num_models + 1 + action)
        taken.append(action)
    return RouteBatch(actions=jnp.asarray(np.stack(taken, axis=1), jnp.int32))


def mean_utility(table: DecisionTable, routes: RouteBatch) -> float:
    """Return the mean utility of routes on the queries of a table."""
    actions, queries = np.asarray(routes.actions), np.arange(table.num_queries)
    node, cost = np.full(table.num_queries, ROOT), np.zeros(table.num_queries)
    for stage in range(table.num_stages):
        is_hop = actions[:, stage] < table.num_models
        node = np.where(is_hop, node * table.num_models + 1 + actions[:, stage], node)
        cost += np.where(is_hop, table.step_cost[queries, node], 0.0)
    return float(np.mean(table.quality[queries, node] - table.cost_weight * cost))
