"""Train queries held out to choose a number by, where there is no validation tree."""

from __future__ import annotations

import numpy as np

from hierrouter_jax.routing.route_tree import RouteTree, rows_of_tree


def held_out(tree: RouteTree) -> tuple[RouteTree, RouteTree]:
    """Return every fourth query, and the others; of fewer than four queries, all twice."""
    is_held = np.arange(tree.num_queries) % 4 == 3
    if not is_held.any():
        return tree, tree
    return rows_of_tree(tree, np.flatnonzero(is_held)), rows_of_tree(tree, np.flatnonzero(~is_held))
