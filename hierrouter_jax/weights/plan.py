"""From the tensors of a file to the leaves of a module, checked as a whole before a single value is read.

The plan pairs every leaf with the tensors that fill it. All that does not fit (missing tensors, tensors nobody asked
for, shapes that differ, leaves nobody fills) is collected and raised as one error. Leaves are then read one by one,
so that besides the model itself only one tensor's float32 values are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hierrouter_jax.core.errors import WeightsError, raise_all
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.weights.readers import TensorReader
from hierrouter_jax.weights.rules import Transform, WeightRule

ROWS_AT_ONCE = 128  # of a tensor that is transposed
# Buffers that files carry and modules compute for themselves.
IGNORABLE_TENSORS = ("*rotary_emb.inv_freq", "*rotary_pos_emb.inv_freq", "*position_ids")


@runtime_checkable
class AbstractLeaf(Protocol):
    """Anything with a shape and a dtype, such as `jax.ShapeDtypeStruct`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leaf."""
        ...

    @property
    def dtype(self) -> Any:
        """Type the leaf is held in."""
        ...


@dataclass(frozen=True, kw_only=True)
class HeadCounts:
    """What undoing a rotary permutation needs to know of the attention."""

    num_heads: int
    num_kv_heads: int


def load_leaves(
    rules: Sequence[WeightRule],
    num_layers: int,
    reader: TensorReader,
    leaves: Mapping[str, AbstractLeaf],
    *,
    heads: HeadCounts | None = None,
    ignorable: Sequence[str] = (),
    place: Callable[[str, np.ndarray], Any] = lambda _, values: values,
    description: str = "loading weights",
    is_quiet: bool = False,
) -> dict[str, Any]:
    """Return the value of every leaf, in the leaf's own shape and dtype.

    `leaves` maps dotted names to abstract values. `ignorable` are patterns (as in a shell) of tensors that may be in
    the file for nobody, besides `IGNORABLE_TENSORS`. `place` receives the name and value of each finished leaf, for
    instance to put it on a device at once. Raises `WeightsError` that lists every problem, before any value is read.
    """
    plan = make_plan(rules, num_layers, reader.shapes, leaves, heads=heads, ignorable=ignorable)
    values: dict[str, Any] = {}
    with progress_bar(description, len(plan), is_quiet=is_quiet) as advance:
        for item in plan:
            values[item.leaf] = place(item.leaf, _read_leaf(item, reader, leaves[item.leaf], heads))
            advance(1)
    return values


@dataclass(frozen=True, kw_only=True)
class PlannedLeaf:
    """One leaf, its tensors and what is done to each, with the layer's index filled in."""

    leaf: str
    tensors: tuple[str, ...]
    transforms: tuple[Transform, ...]


def make_plan(
    rules: Sequence[WeightRule],
    num_layers: int,
    shapes: Mapping[str, tuple[int, ...]],
    leaves: Mapping[str, AbstractLeaf],
    *,
    heads: HeadCounts | None = None,
    ignorable: Sequence[str] = (),
) -> list[PlannedLeaf]:
    """Pair every leaf with its tensors. Raises `WeightsError` that lists every problem."""
    plan = _expand(rules, num_layers, leaves)
    used = {name for item in plan for name in item.tensors}
    filled = [item.leaf for item in plan]
    problems = [f"leaf {leaf} is not in the module, but a rule fills it" for leaf in filled if leaf not in leaves]
    problems += [
        f"leaf {leaf} is filled by {filled.count(leaf)} rules"
        for leaf in dict.fromkeys(filled)
        if filled.count(leaf) > 1
    ]
    problems += [
        f"leaf {leaf} {tuple(leaves[leaf].shape)} is filled by no rule" for leaf in sorted(set(leaves) - set(filled))
    ]
    problems += [f"tensor {name} is missing" for name in sorted(used - set(shapes))]
    problems += [
        f"tensor {name} {shapes[name]} is in the file, but nothing asks for it"
        for name in sorted(set(shapes) - used)
        if not _matches(name, (*IGNORABLE_TENSORS, *ignorable))
    ]
    for item in plan:
        if item.leaf in leaves and all(name in shapes for name in item.tensors):
            problems += _shape_problems(item, shapes, tuple(leaves[item.leaf].shape), heads)
    raise_all(
        WeightsError, "The weights do not fit the architecture; use the checkpoint of this model, whole:", problems
    )
    return plan


def _expand(rules: Sequence[WeightRule], num_layers: int, leaves: Mapping[str, AbstractLeaf]) -> list[PlannedLeaf]:
    plan = []
    for rule in rules:
        transforms = (
            rule.transforms if len(rule.transforms) == len(rule.tensors) else rule.transforms * len(rule.tensors)
        )
        for layer in range(num_layers) if rule.is_per_layer else (0,):
            leaf = rule.leaf.replace("{layer}", str(layer))
            if rule.is_optional and leaf not in leaves:
                continue
            tensors = tuple(name.replace("{layer}", str(layer)) for name in rule.tensors)
            plan.append(PlannedLeaf(leaf=leaf, tensors=tensors, transforms=transforms))
    return plan


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shape_problems(
    item: PlannedLeaf, shapes: Mapping[str, tuple[int, ...]], expected: tuple[int, ...], heads: HeadCounts | None
) -> list[str]:
    parts = []
    for name, transform in zip(item.tensors, item.transforms, strict=True):
        problem = _transform_problem(transform, shapes[name], heads)
        if problem is not None:
            return [f"tensor {name} {shapes[name]} {problem}"]
        parts.append(shapes[name] if transform in ("identity", "subtract_one") else shapes[name][::-1])
    is_stackable = all(part and part[:-1] == parts[0][:-1] for part in parts)
    received = parts[0] if len(parts) == 1 else (*parts[0][:-1], sum(part[-1] for part in parts if part))
    if is_stackable and received == expected:
        return []
    described = " + ".join(f"{name} {shapes[name]}" for name in item.tensors)
    return [f"leaf {item.leaf} needs {expected}, but receives {described}"]


def _transform_problem(transform: Transform, shape: tuple[int, ...], heads: HeadCounts | None) -> str | None:
    if transform in ("identity", "subtract_one"):
        return None
    if len(shape) != 2:
        return "must have two axes to be transposed"
    if transform == "transpose":
        return None
    if heads is None:
        return "needs head counts to undo its rotary permutation, but none were given"
    if shape[0] % (2 * _num_heads(transform, heads)):
        return f"must have rows in pairs for {_num_heads(transform, heads)} heads"
    return None


def _num_heads(transform: Transform, heads: HeadCounts) -> int:
    return heads.num_heads if transform == "unpermute_query" else heads.num_kv_heads


def _read_leaf(item: PlannedLeaf, reader: TensorReader, leaf: AbstractLeaf, heads: HeadCounts | None) -> np.ndarray:
    values = np.empty(tuple(leaf.shape), dtype=leaf.dtype)
    start = 0
    for name, transform in zip(item.tensors, item.transforms, strict=True):
        part = reader.read(name)
        if transform in ("identity", "subtract_one"):
            part = part if transform == "identity" else part - 1.0
            stop = start + part.shape[-1]
            values[..., start:stop] = part
        else:
            part = (
                part if transform == "transpose" or heads is None else _unpermuted(part, _num_heads(transform, heads))
            )
            stop = start + part.shape[0]
            _write_transposed(values[:, start:stop], part)
        start = stop
    return values


def _unpermuted(values: np.ndarray, num_heads: int) -> np.ndarray:
    # A head's rows lie as pairs (x0, y0, x1, y1, ...); the module rotates halves (x0, x1, ..., y0, y1, ...).
    num_rows, num_columns = values.shape
    pairs = values.reshape(num_heads, num_rows // num_heads // 2, 2, num_columns)
    return pairs.swapaxes(1, 2).reshape(num_rows, num_columns)


def _write_transposed(destination: np.ndarray, values: np.ndarray) -> None:
    # By blocks of rows that stay in the processor's cache: ten times faster on an output projection than at once.
    for start in range(0, len(values), ROWS_AT_ONCE):
        destination[:, start : start + ROWS_AT_ONCE] = values[start : start + ROWS_AT_ONCE].T
