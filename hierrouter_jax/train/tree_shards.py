"""A route tree cut into blocks of queries, one a device, so that no device holds all of it.

Block d holds ceil(Q / D) consecutive queries and just the context rows that they refer to. Q is filled up to a
multiple of D by queries that are counted twice, evenly spaced ones. An update on blocks draws the episodes of a
device from its own block: stratified sampling with equal shares, so a query is drawn as often as from the whole tree
(where D divides Q; else the at most D - 1 filling queries twice as often), and the gradient has the same expectation
and no more variance. What changes is which draw a key gives, and that it depends on the number of devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from hierrouter_jax.routing.route_tree import RouteTree


@dataclass(frozen=True, kw_only=True)
class TreeShards:
    """The plan of the cut: small indices. The blocks themselves are made when they are asked for."""

    tree: RouteTree
    queries: Int[np.ndarray, "shard query"]  # of the whole tree
    rows: Int[np.ndarray, "shard row"]  # of the whole tree's contexts, rising, filled up with the last of the block

    @property
    def num_shards(self) -> int:
        """Number of blocks."""
        return len(self.queries)

    def block(self, name: str, shard: int) -> np.ndarray:
        """Return one array of one block; `context_row` counts in the block's own rows."""
        array = getattr(self.tree, name)
        if name == "context":
            return np.asarray(array[self.rows[shard]])
        own = np.asarray(array)[self.queries[shard]]
        if name != "context_row":
            return own
        return np.searchsorted(self.rows[shard], own).astype(own.dtype)

    def block_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one array, equal in all blocks."""
        lead = (self.rows if name == "context" else self.queries).shape[1]
        return (lead, *getattr(self.tree, name).shape[1:])

    def place_of_query(self) -> Int[np.ndarray, " query"]:
        """Return where each query of the whole tree stands when the blocks are laid end to end."""
        flat = self.queries.reshape(-1)
        places = np.empty(self.tree.num_queries, np.int64)
        places[flat[::-1]] = np.arange(flat.size)[::-1]  # of a query that stands twice, the first
        return places


def plan_shards(tree: RouteTree, num_shards: int) -> TreeShards:
    """Return the cut of a tree into `num_shards` blocks."""
    num_queries = tree.num_queries
    num_missing = -num_queries % num_shards
    filling = np.arange(num_missing) * num_queries // max(num_missing, 1)
    queries = np.sort(np.concatenate([np.arange(num_queries), filling])).reshape(num_shards, -1)
    context_row = np.asarray(tree.context_row)
    rows = [np.unique(context_row[own]) for own in queries]
    longest = max(map(len, rows))
    filled = np.stack([np.concatenate([own, np.repeat(own[-1:], longest - len(own))]) for own in rows])
    return TreeShards(tree=tree, queries=queries, rows=filled)
