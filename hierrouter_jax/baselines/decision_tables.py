"""What baselines that are fitted on the host look at: the decision nodes of a tree as NumPy arrays.

`decision` counts the nodes of the first L stages, where something is decided; an action is a model, then STOP. An
action that is illegal has the utility -inf.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from hierrouter_jax.routing.decision_states import count_decision_nodes, observe_decision_states
from hierrouter_jax.routing.mdp import check_cost_weight
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch, routes_of_actions, score_routes


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

    @property
    def num_queries(self) -> int:
        """Number of queries."""
        return len(self.quality)

    def children(self, node: int) -> slice:
        """Return where the children of a node lie."""
        return slice(1 + node * self.num_models, 1 + (node + 1) * self.num_models)

    def action_utilities(
        self, node: int, child_values: Float[np.ndarray, "query model"]
    ) -> Float[np.ndarray, "query action"]:
        """Return what each action at a node earns, where a child is worth what `child_values` says."""
        ask = child_values - self.cost_weight * self.step_cost[:, self.children(node)]
        utilities = np.concatenate([ask, self.quality[:, node : node + 1]], axis=1)
        return np.where(self.legal[:, node], utilities, -np.inf)


def decision_table(tree: RouteTree, *, cost_weight: float, allow_stop: bool = True) -> DecisionTable:
    """Return the decision nodes of a tree."""
    check_cost_weight(cost_weight)
    num_decisions = count_decision_nodes(tree)
    seen = observe_decision_states(tree, allow_stop=allow_stop)
    context, signals, legal = (
        np.asarray(leaf).reshape(tree.num_queries, num_decisions, leaf.shape[1])
        for leaf in (seen.context, seen.signals, seen.legal)
    )
    return DecisionTable(
        context=context.astype(np.float32),
        signals=signals,
        legal=legal & np.asarray(tree.valid)[:, :num_decisions, None],
        quality=np.asarray(tree.quality, np.float64),
        step_cost=np.asarray(tree.step_cost, np.float64),
        num_models=tree.num_models,
        num_stages=tree.num_stages,
        cost_weight=cost_weight,
    )


def routes_of(table: DecisionTable, actions: Int[np.ndarray, "query decision"]) -> RouteBatch:
    """Return the routes that take, at each node they come to, the action given there."""
    chosen = jnp.asarray(actions, jnp.int32)
    return routes_of_actions(chosen, num_models=table.num_models, num_stages=table.num_stages)


def mean_utility(tree: RouteTree, routes: RouteBatch, *, cost_weight: float) -> float:
    """Return the mean utility of routes."""
    return float(np.mean(np.asarray(score_routes(tree, routes, cost_weight=cost_weight).utility, np.float64)))
