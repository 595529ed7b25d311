"""The route tree: everything that can happen to a set of queries, as device arrays.

The routing MDP is deterministic given the pool, so each query has a tree of M**0 + M**1 + ... + M**L nodes. The root
is the query before any model was asked; the node reached by asking model `a` at node `n` is `n * M + 1 + a`, so the
nodes of one stage are contiguous and the path to a node is its number in base M. A partial tree marks the nodes that
were never generated as invalid; a route then ends where no valid child remains.

Costs are normalised (1 = the dearest model answering the mean query once), qualities lie in [0, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.core.structs import array_struct, static_field

ROOT = 0
# The arrays of a RouteTree that are led by `query`.
QUERY_FIELDS = ("context_row", "step_cost", "quality", "valid", "signals", "task")


@array_struct
class RouteTree:
    """All routes of all queries. At invalid nodes the numbers mean nothing, but they are finite (0 by convention)."""

    context_row: Int[Array, "query node"]  # row of `context`; equal texts share a row
    context: Float[Array, "row dim"]  # embedding of the query and the responses so far
    step_cost: Float[Array, "query node"]  # cost of the hop that led here; 0 at the root
    quality: Float[Array, "query node"]  # score of stopping here; 0 at the root
    valid: Bool[Array, "query node"]  # False where the node was not generated
    signals: Float[Array, "query node number"]  # what can be measured of the responses so far; may have no numbers
    task: Int[Array, " query"]  # index into `task_names`
    num_models: int = static_field()
    num_stages: int = static_field()
    model_names: tuple[str, ...] = static_field()
    task_names: tuple[str, ...] = static_field()

    @property
    def num_queries(self) -> int:
        """Number of queries, and so of trees."""
        return self.task.shape[0]

    @property
    def num_nodes(self) -> int:
        """Number of nodes a query."""
        return count_nodes(self.num_models, self.num_stages)

    @property
    def stop(self) -> int:
        """The action that ends a route: the one after the last model."""
        return self.num_models


def count_nodes(num_models: int, num_stages: int) -> int:
    """Return 1 + M + ... + M**L, the number of nodes a query."""
    return sum(num_models**stage for stage in range(num_stages + 1))


def stage_slice(num_models: int, stage: int) -> slice:
    """Return where the M**stage nodes of one stage lie."""
    first = count_nodes(num_models, stage - 1)
    return slice(first, first + num_models**stage)


def node_parents(num_models: int, num_stages: int) -> Int[np.ndarray, " node"]:
    """Return the parent of each node; the root is its own parent."""
    return np.maximum((np.arange(count_nodes(num_models, num_stages)) - 1) // num_models, ROOT)


def path_of_node(num_models: int, node: int) -> tuple[int, ...]:
    """Return the models asked on the way to `node`, first hop first."""
    path: list[int] = []
    while node > ROOT:
        node, model = divmod(node - 1, num_models)
        path.append(model)
    return tuple(reversed(path))


def node_of_path(num_models: int, path: Sequence[int]) -> int:
    """Return the node reached by asking the models of `path` in turn; `DataError` for a model that does not exist."""
    node = ROOT
    for model in path:
        if not 0 <= model < num_models:
            raise DataError(f"A path holds model indices in [0, {num_models}), but {tuple(path)} holds {model}.")
        node = node * num_models + 1 + model
    return node


def context_at(
    tree: RouteTree, query_index: Int[Array, "*batch"], node: Int[Array, "*batch"]
) -> Float[Array, "*batch dim"]:
    """Return the context of each node.

    Numbers of bfloat16 are gathered as the bits they are: XLA's CPU backend has no gather of that type and would turn
    the whole table into float32 first, whatever few rows are wanted.
    """
    rows = tree.context_row[query_index, node]
    if tree.context.dtype != jnp.bfloat16:
        return tree.context[rows]
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(tree.context, jnp.uint16)[rows], jnp.bfloat16)


def cumulative_costs(tree: RouteTree) -> Float[Array, "query node"]:
    """Return the cost of the whole route from the root to each node: C_{t+1} = C_t + delta_t."""
    costs = [tree.step_cost[:, :1]]
    for stage in range(1, tree.num_stages + 1):
        earlier = jnp.repeat(costs[-1], tree.num_models, axis=1)
        costs.append(earlier + tree.step_cost[:, stage_slice(tree.num_models, stage)])
    return jnp.concatenate(costs, axis=1)


def rows_of_tree(tree: RouteTree, queries: Int[ArrayLike, " row"]) -> RouteTree:
    """Return the trees of some queries, in that order, a query perhaps twice; contexts stay where they are."""
    queries = jnp.asarray(queries)
    arrays: dict[str, Any] = {name: getattr(tree, name)[queries] for name in QUERY_FIELDS}
    return dataclasses.replace(tree, **arrays)


def joined_trees(trees: Sequence[RouteTree]) -> RouteTree:
    """Return one tree of all the trees' queries, in their order.

    Raises `DataError` unless there is a tree, and all share models, stages, tasks and sizes of contexts and signals.
    """
    if not trees:
        raise DataError("Trees are joined from at least one, but none was given.")
    first = trees[0]
    for tree in trees[1:]:
        check_same_pool(first, tree)
        sizes = [(one.task_names, one.context.shape[1], one.signals.shape[2]) for one in (first, tree)]
        if sizes[0] != sizes[1]:
            raise DataError(
                "Trees are joined that share tasks and sizes of contexts and signals, but theirs are "
                f"{sizes[0]} and {sizes[1]}. Use the splits of one tree file."
            )
    starts = np.cumsum([0, *(tree.context.shape[0] for tree in trees[:-1])])
    rows = [tree.context_row + int(start) for tree, start in zip(trees, starts, strict=True)]
    arrays: dict[str, Any] = {
        name: jnp.concatenate([getattr(tree, name) for tree in trees]) for name in (*QUERY_FIELDS, "context")
    }
    return dataclasses.replace(first, **(arrays | {"context_row": jnp.concatenate(rows)}))


def first_stages(tree: RouteTree, num_stages: int) -> RouteTree:
    """Return the tree of the first stages alone, whose routes are shorter; signals beyond need are kept.

    Raises `DataError` unless it has that many stages.
    """
    if not 1 <= num_stages <= tree.num_stages:
        raise DataError(f"The tree has 1 to {tree.num_stages} stages to keep, but {num_stages} are wanted.")
    kept = slice(0, count_nodes(tree.num_models, num_stages))
    arrays: dict[str, Any] = {name: getattr(tree, name)[:, kept] for name in QUERY_FIELDS if name != "task"}
    return dataclasses.replace(tree, num_stages=num_stages, **arrays)


def check_tree(tree: RouteTree, *, what: str = "route tree") -> None:
    """Raise one `DataError` listing everything that makes the tree unusable. Runs on the host, on concrete arrays."""
    raise_all(DataError, f"{what} is not a route tree:", _shape_problems(tree) or _value_problems(tree))


def check_same_pool(first: RouteTree, second: RouteTree) -> None:
    """Raise `DataError` unless both trees route over the same models, in the same order, with as many stages."""
    pools = [(tree.model_names, tree.num_stages) for tree in (first, second)]
    if pools[0] != pools[1]:
        raise DataError(
            "Trees compared with each other must share models and number of stages, but one has "
            f"{pools[0][0]} over {pools[0][1]} stages and the other {pools[1][0]} over {pools[1][1]}. "
            "Use the splits of one tree file."
        )


def _shape_problems(tree: RouteTree) -> list[str]:
    problems = []
    if tree.num_models < 1 or tree.num_stages < 1:
        problems.append(f"models and stages must be at least 1, but are {tree.num_models} and {tree.num_stages}")
        return problems
    if len(tree.model_names) != tree.num_models or len(set(tree.model_names)) != tree.num_models:
        problems.append(f"{tree.num_models} models need as many different names, but they are {tree.model_names}")
    if tree.task.ndim != 1 or tree.num_queries < 1:
        problems.append(f"task must be one index a query and at least one query, but has shape {tree.task.shape}")
        return problems
    if tree.context.ndim != 2 or 0 in tree.context.shape:
        problems.append(f"context must be rows of at least one number, but has shape {tree.context.shape}")
    expected = (tree.num_queries, tree.num_nodes)
    for name in ("context_row", "step_cost", "quality", "valid"):
        shape = getattr(tree, name).shape
        if shape != expected:
            problems.append(f"{name} must have shape {expected} (query, node), but has {shape}")
    if tree.signals.shape[:-1] != expected:
        problems.append(f"signals must lead with {expected} (query, node), but has shape {tree.signals.shape}")
    return problems


def _value_problems(tree: RouteTree) -> list[str]:
    valid = np.asarray(tree.valid)
    quality = np.asarray(tree.quality)
    step_cost = np.asarray(tree.step_cost)
    context_row = np.asarray(tree.context_row)
    task = np.asarray(tree.task)
    num_rows = tree.context.shape[0]
    parents = node_parents(tree.num_models, tree.num_stages)
    first_stage = valid[:, stage_slice(tree.num_models, 1)]
    findings = {
        "context must be finite": ~np.isfinite(np.asarray(tree.context)),
        "signals must be finite": ~np.isfinite(np.asarray(tree.signals)),
        "step_cost must be finite": ~np.isfinite(step_cost),
        "step_cost must not be negative": step_cost < 0,
        "step_cost must be 0 at the root": step_cost[:, :1] != 0,
        "quality must be finite": ~np.isfinite(quality),
        "quality must lie in [0, 1]": (quality < 0) | (quality > 1),
        "quality must be 0 at the root, where no model has answered": quality[:, :1] != 0,
        f"context_row must lie in [0, {num_rows})": (context_row < 0) | (context_row >= num_rows),
        f"task must lie in [0, {len(tree.task_names)})": (task < 0) | (task >= len(tree.task_names)),
        "the root must be valid": ~valid[:, :1],
        "the root must have a valid child, or the query cannot be routed": ~first_stage.any(axis=1),
        "a valid node must have a valid parent": valid & ~valid[:, parents],
    }
    return [_describe(rule, broken) for rule, broken in findings.items() if broken.any()]


def _describe(rule: str, broken: Bool[np.ndarray, ...]) -> str:
    first = tuple(int(index) for index in np.argwhere(broken)[0])
    return f"{rule}, but {int(broken.sum())} entries break this, the first at index {first}"
