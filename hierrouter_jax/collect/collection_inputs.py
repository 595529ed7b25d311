"""What a collection is asked to fill, checked before anything is generated: rows of each split, wanted nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from hierrouter_jax.collect.tree_manifest import SPLITS
from hierrouter_jax.core.errors import ConfigError, DataError, raise_all
from hierrouter_jax.routing.route_tree import node_of_path
from hierrouter_jax.tasks.task_row import TaskRow

WantedNodes = Callable[[str, int, int], bool] | Mapping[str, Bool[np.ndarray, "query node"]]


def checked_rows(splits: Mapping[str, Sequence[TaskRow]]) -> dict[str, tuple[TaskRow, ...]]:
    """Return the splits that have rows, in their usual order; refuse what would make a tree unusable."""
    rows = {split: tuple(splits[split]) for split in SPLITS if splits.get(split)}
    seen: dict[str, str] = {}
    problems = [
        f"there is no split {split!r}; the splits are {', '.join(SPLITS)}" for split in set(splits) - set(SPLITS)
    ]
    problems += [f"split {split} must have rows" for split in ("train", "test") if split not in rows]
    for split, own in rows.items():
        for row in own:
            if row.id in seen:
                problems.append(f"row {row.id} of {split} is already in {seen[row.id]}")
            seen[row.id] = split
    raise_all(DataError, "The rows to collect must be train and test rows, each once:", sorted(problems))
    return rows


def nodes_of_routes(routes: Sequence[Sequence[str]], model_names: Sequence[str]) -> WantedNodes | None:
    """Return the wanted nodes of a partial tree, the same for every query; None, which is all, for no routes.

    Every model's first hop is wanted, because the unit of cost is made of them. Raises `ConfigError` naming models
    that the pool lacks.
    """
    if not routes:
        return None
    unknown = sorted({name for route in routes for name in route} - set(model_names))
    if unknown:
        raise ConfigError(f"routes must be made of the pool's models {list(model_names)}, but name {unknown}.")
    paths = [[index] for index in range(len(model_names))] + [[model_names.index(n) for n in route] for route in routes]
    wanted = {node_of_path(len(model_names), path) for path in paths}
    return lambda split, query, node: node in wanted


def wanted_mask(nodes: WantedNodes | None, rows: Mapping[str, Sequence[TaskRow]], num_nodes: int) -> np.ndarray | None:
    """Return the mask of wanted nodes over all splits, one after the other; None for all."""
    if nodes is None:
        return None
    if callable(nodes):
        return np.array(
            [
                [bool(nodes(split, index, node)) for node in range(num_nodes)]
                for split, own in rows.items()
                for index in range(len(own))
            ]
        )
    problems = [
        f"{split} needs a mask of shape {(len(own), num_nodes)} (query, node), but has "
        f"{np.shape(nodes[split]) if split in nodes else 'none'}"
        for split, own in rows.items()
        if split not in nodes or np.shape(nodes[split]) != (len(own), num_nodes)
    ]
    raise_all(DataError, "Masks of wanted nodes must cover every row of every split:", problems)
    return np.concatenate([np.asarray(nodes[split], bool) for split in rows])
