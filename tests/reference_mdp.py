"""The routing MDP a second time, as plain Python over paths: the oracle of the array version.

It knows nothing of node arithmetic: nodes are named by the models asked on the way, and the array order is taken from
`itertools.product`, stage by stage.
"""

from __future__ import annotations

import itertools

import numpy as np


def outcomes_of(tree, query):
    """Return {path: (cost of the last hop, quality, context)} of the nodes the tree holds for a query."""
    paths = [
        path for stage in range(tree.num_stages + 1) for path in itertools.product(range(tree.num_models), repeat=stage)
    ]
    assert len(paths) == tree.valid.shape[1]
    cost, quality = np.asarray(tree.step_cost)[query].astype(float), np.asarray(tree.quality)[query].astype(float)
    valid, rows, context = np.asarray(tree.valid)[query], np.asarray(tree.context_row)[query], np.asarray(tree.context)
    return {path: (cost[i], quality[i], context[rows[i]]) for i, path in enumerate(paths) if valid[i]}


class Walker:
    """One route of one query."""

    def __init__(self, tree, query, *, cost_weight, allow_stop):
        self.outcomes, self.num_models = outcomes_of(tree, query), tree.num_models
        self.cost_weight, self.allow_stop = cost_weight, allow_stop
        self.path, self.cum_cost, self.is_done = (), 0.0, False

    @property
    def context(self):
        return self.outcomes[self.path][2]

    def legal(self):
        """Return the set of legal actions."""
        models = set()
        if not self.is_done:
            models = {m for m in range(self.num_models) if (*self.path, m) in self.outcomes}
        if not models or (self.allow_stop and len(self.path) > 0):
            models.add(self.num_models)
        return models

    def step(self, action):
        """Take a legal action; return reward and discount."""
        assert action in self.legal()
        if self.is_done:
            return 0.0, 0.0
        reward = 0.0
        if action < self.num_models:
            self.path = (*self.path, action)
            reward -= self.cost_weight * self.outcomes[self.path][0]
            self.cum_cost += self.outcomes[self.path][0]
        if action == self.num_models or all((*self.path, m) not in self.outcomes for m in range(self.num_models)):
            self.is_done = True
            reward += self.outcomes[self.path][1]
        return reward, 0.0 if self.is_done else 1.0


def all_returns(outcomes, num_models, start, *, cost_weight, allow_stop):
    """Return [(what it still earns, what it still pays, models it still asks)] of every route at `start`."""
    children = [(*start, m) for m in range(num_models) if (*start, m) in outcomes]
    routes = []
    if not children or (allow_stop and start):
        routes.append((outcomes[start][1], 0.0, ()))
    for child in children:
        hop_cost = outcomes[child][0]
        for earned, paid, models in all_returns(
            outcomes, num_models, child, cost_weight=cost_weight, allow_stop=allow_stop
        ):
            routes.append((earned - cost_weight * hop_cost, paid + hop_cost, (child[-1], *models)))
    return routes
