"""The routing MDP as Gymnasium environments, for learners of other libraries: one query, or many at once.

The numbers are those of `routing/mdp.py`, held in NumPy arrays, because a learner outside JAX steps on the host.
An observation is one flat vector: the context, the stage as a one-hot vector, and the cumulative cost. Legal actions
come as a mask, in `action_masks()` (the method that sb3-contrib's MaskablePPO asks) and in `info["action_mask"]`.

An illegal action ends the route with the penalty given: a learner that cannot mask needs a finite number there, where
the MDP itself says NaN. Importing this file needs the package gymnasium (`pip install 'hierrouter_jax[gym]'`).
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.mdp import check_cost_weight
from hierrouter_jax.routing.route_tree import ROOT, RouteTree

try:
    gymnasium: Any = importlib.import_module("gymnasium")
except ImportError as error:
    raise ConfigError(
        "The Gymnasium environments need the package gymnasium, which is not installed; "
        "pip install 'hierrouter_jax[gym]'."
    ) from error

ILLEGAL_REWARD = -1.0


class RouteWalkers:
    """Many routes of a tree on the host, stepped together; every array leads with [route]."""

    def __init__(
        self,
        tree: RouteTree,
        num_routes: int,
        *,
        cost_weight: float,
        allow_stop: bool = True,
        illegal_reward: float = ILLEGAL_REWARD,
    ) -> None:
        """Copy the tree to the host. Raises `ConfigError` when the cost weight is no price or no route is asked for."""
        if num_routes < 1:
            raise ConfigError(f"num_routes must be >= 1, but is {num_routes}.")
        self.cost_weight = check_cost_weight(cost_weight)
        self.allow_stop, self.illegal_reward = allow_stop, illegal_reward
        self.num_models, self.num_stages, self.stop = tree.num_models, tree.num_stages, tree.stop
        self.num_queries, self.num_nodes = tree.num_queries, tree.num_nodes
        self.context_row, self.context = np.asarray(tree.context_row), np.asarray(tree.context)
        self.step_cost, self.quality = np.asarray(tree.step_cost), np.asarray(tree.quality)
        self._legal = _legal_at_nodes(np.asarray(tree.valid), tree, allow_stop=allow_stop)
        self._stage_of_node = np.repeat(
            np.arange(tree.num_stages + 1), tree.num_models ** np.arange(tree.num_stages + 1)
        )
        self.query = np.zeros(num_routes, np.int64)
        self.node = np.zeros(num_routes, np.int64)
        self.cum_cost = np.zeros(num_routes, np.float32)

    @property
    def observation_size(self) -> int:
        """Length of an observation: context, one-hot stage, cumulative cost."""
        return self.context.shape[1] + self.num_stages + 2

    def reset(self, routes: Any, query: Int[np.ndarray, " route"]) -> None:
        """Put the given routes (indices or a mask) at the start of the given queries."""
        self.query[routes], self.node[routes], self.cum_cost[routes] = query, ROOT, 0.0

    def observe(self) -> Float[np.ndarray, "route number"]:
        """Return what each router sees."""
        dim = self.context.shape[1]
        seen = np.zeros((len(self.node), self.observation_size), np.float32)
        seen[:, :dim] = self.context[self.context_row[self.query, self.node]]
        seen[np.arange(len(self.node)), dim + self._stage_of_node[self.node]] = 1.0
        seen[:, -1] = self.cum_cost
        return seen

    def legal(self) -> Bool[np.ndarray, "route action"]:
        """Return which actions may be taken: model indices, then STOP."""
        return self._legal[self.query, self.node]

    def step(
        self, actions: Int[np.ndarray, " route"]
    ) -> tuple[Float[np.ndarray, " route"], Bool[np.ndarray, " route"]]:
        """Take one action each; return the rewards, and which routes have ended. The ended wait for `reset`."""
        rows = np.arange(len(self.node))
        is_in_range = (actions >= 0) & (actions <= self.stop)
        actions = np.where(is_in_range, actions, 0)
        is_legal = is_in_range & self.legal()[rows, actions]
        is_hop = is_legal & (actions < self.stop)
        self.node = np.where(is_hop, self.node * self.num_models + 1 + actions, self.node)
        cost = np.where(is_hop, self.step_cost[self.query, self.node], np.float32(0.0))
        self.cum_cost += cost
        is_end = ~is_hop | ~self.legal()[:, :-1].any(axis=1)
        gained = np.where(is_end, self.quality[self.query, self.node], np.float32(0.0))
        reward = np.where(is_legal, gained - np.float32(self.cost_weight) * cost, np.float32(self.illegal_reward))
        return reward.astype(np.float32), is_end


class RoutingEnv(gymnasium.Env):
    """One query routed after another, drawn uniformly; an episode is one route."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, tree: RouteTree, *, cost_weight: float, allow_stop: bool = True) -> None:
        """Make the spaces: a vector of floats, and one action a model, STOP last."""
        self.walkers = RouteWalkers(tree, 1, cost_weight=cost_weight, allow_stop=allow_stop)
        shape = (self.walkers.observation_size,)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = gymnasium.spaces.Discrete(tree.num_models + 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " number"], dict[str, Any]]:
        """Begin a route; `options={"query_index": i}` chooses the query. `ConfigError` when there is no such query."""
        super().reset(seed=seed)
        chosen = (options or {}).get("query_index")
        query = int(self.np_random.integers(self.walkers.num_queries)) if chosen is None else int(chosen)
        if not 0 <= query < self.walkers.num_queries:
            raise ConfigError(f"query_index must be in [0, {self.walkers.num_queries}), but is {query}.")
        self.walkers.reset([0], np.asarray([query]))
        return self.walkers.observe()[0], self._info()

    def step(self, action: int | np.integer) -> tuple[Float[np.ndarray, " number"], float, bool, bool, dict[str, Any]]:
        """Take an action; a route is never truncated."""
        rewards, is_end = self.walkers.step(np.asarray([action]))
        return self.walkers.observe()[0], float(rewards[0]), bool(is_end[0]), False, self._info()

    def action_masks(self) -> Bool[np.ndarray, " action"]:
        """Return which actions are legal here."""
        return self.walkers.legal()[0]

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.action_masks(), "query_index": int(self.walkers.query[0])}


def _legal_at_nodes(
    valid: Bool[np.ndarray, "query node"], tree: RouteTree, *, allow_stop: bool
) -> Bool[np.ndarray, "query node action"]:
    """Return the legal actions of every node: valid children, and STOP where it is allowed or nothing else is left."""
    children = np.arange(tree.num_nodes)[:, None] * tree.num_models + 1 + np.arange(tree.num_models)
    models = valid[:, np.minimum(children, tree.num_nodes - 1)] & (children < tree.num_nodes)
    is_root = np.arange(tree.num_nodes) == ROOT
    stop = ~models.any(axis=2) | (allow_stop & ~is_root)
    return np.concatenate([models, stop[..., None]], axis=2)
