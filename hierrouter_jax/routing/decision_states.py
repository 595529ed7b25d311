"""The states of a tree in which a decision can be made, as one table.

The MDP is deterministic: query and node decide context, stage and cumulative cost, whichever policy leads there. A
route decides at the nodes of the first L stages (those of the last have no children), so a tree has
num_queries * (1 + M + ... + M**(L-1)) such states, in the order of queries and, within one, of nodes. A learner whose
batch is larger than the table evaluates its network once a state instead of once a decision.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hierrouter_jax.routing.mdp import Observation, RouterState, legal_actions
from hierrouter_jax.routing.route_tree import RouteTree, context_at, count_nodes, cumulative_costs, stage_slice


def count_decision_nodes(tree: RouteTree) -> int:
    """Return the number of nodes a query at which a route may go on: all but those of the last stage."""
    return count_nodes(tree.num_models, tree.num_stages - 1)


def count_decision_states(tree: RouteTree) -> int:
    """Return the number of rows of the table."""
    return tree.num_queries * count_decision_nodes(tree)


def decision_state_index(
    tree: RouteTree, query_index: Int[Array, "*shape"], node: Int[Array, "*shape"]
) -> Int[Array, "*shape"]:
    """Return the row of the table; a node of the last stage, where nothing is decided, gets one in range."""
    num_nodes = count_decision_nodes(tree)
    return query_index * num_nodes + jnp.minimum(node, num_nodes - 1)


def observe_decision_states(tree: RouteTree, *, allow_stop: bool = True) -> Observation:
    """Return what the router sees in every state of the table; fields lead with [state]."""
    num_nodes = count_decision_nodes(tree)
    stages = np.zeros(num_nodes, np.int32)
    for stage in range(tree.num_stages):
        stages[stage_slice(tree.num_models, stage)] = stage
    grid = (tree.num_queries, num_nodes)
    states = RouterState(
        query_index=jnp.broadcast_to(jnp.arange(tree.num_queries)[:, None], grid),
        node=jnp.broadcast_to(jnp.arange(num_nodes), grid),
        stage=jnp.broadcast_to(jnp.asarray(stages), grid),
        cum_cost=cumulative_costs(tree)[:, :num_nodes],
        is_done=jnp.zeros(grid, bool),
    )
    states = jax.tree.map(lambda leaf: leaf.reshape(-1), states)
    return Observation(
        context=context_at(tree, states.query_index, states.node),
        signals=tree.signals[states.query_index, states.node],
        stage=states.stage,
        cum_cost=states.cum_cost,
        legal=jax.vmap(lambda state: legal_actions(tree, state, allow_stop=allow_stop))(states),
    )


def with_context_of_states(tree: RouteTree, table: Float[Array, "state dim"]) -> RouteTree:
    """Return the tree with a row of `table` as the context of each decision state: whatever was computed of it."""
    num_nodes = count_decision_nodes(tree)
    queries, nodes = jnp.arange(tree.num_queries)[:, None], jnp.arange(tree.num_nodes)[None, :]
    rows = queries * num_nodes + jnp.minimum(nodes, num_nodes - 1)
    return dataclasses.replace(tree, context=table, context_row=rows.astype(jnp.int32))
