"""Tree files: one `.npz` holding the outcomes of every split and, as JSON, the manifest that says where they are from.

Numbers only: embeddings, token counts, scores, hashes. Costs are not in the file but follow from the token counts
when it is loaded, under the cost model that the loader names; one unit is the dearest model's mean first hop on the
train split, in every split. Equal content gives equal bytes.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hierrouter_jax.collect.collection_report import CollectionReport
from hierrouter_jax.collect.outcomes import (
    FIELD_DTYPES,
    NodeOutcomes,
    field_dims,
    field_names,
    raw_cost_of_one,
    route_tree_of,
    row_ids_digest,
)
from hierrouter_jax.collect.tree_manifest import FORMAT_VERSION, SPLITS, TreeManifest
from hierrouter_jax.core.atomic_files import atomic_write, write_text_atomically
from hierrouter_jax.core.configs import canonical_json, from_json_dict, to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError, raise_all
from hierrouter_jax.costs import CostModel
from hierrouter_jax.routing.route_tree import RouteTree, check_tree, count_nodes

MANIFEST = "manifest"


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """The route trees of one collection, with the measurements behind them."""

    manifest: TreeManifest
    train: RouteTree
    validation: RouteTree | None
    test: RouteTree
    outcomes: Mapping[str, NodeOutcomes]  # by split
    cost_model: CostModel
    report: CollectionReport | None = None  # of the collection that made it; absent when loaded


def make_tree_file(
    manifest: TreeManifest,
    outcomes: Mapping[str, NodeOutcomes],
    *,
    cost_model: CostModel = "base_rate",
    report: CollectionReport | None = None,
) -> TreeFile:
    """Build the route trees of every split under one cost model.

    Raises `DataError` when the arrays contradict the manifest or are no trees, `ConfigError` when a model card lacks
    what the cost model needs.
    """
    raise_all(DataError, "The arrays of a tree must agree with its manifest:", _contradictions(manifest, outcomes))
    unit = raw_cost_of_one(outcomes["train"], manifest.cards, cost_model=cost_model)
    trees = {}
    for split, arrays in outcomes.items():
        trees[split] = route_tree_of(
            arrays,
            manifest.cards,
            num_stages=manifest.num_stages,
            task_names=manifest.task_names,
            cost_model=cost_model,
            raw_cost_of_one=unit,
        )
        check_tree(trees[split], what=f"split {split}")
    return TreeFile(
        manifest=manifest,
        train=trees["train"],
        validation=trees.get("validation"),
        test=trees["test"],
        outcomes=dict(outcomes),
        cost_model=cost_model,
        report=report,
    )


def save_tree(path: str | Path, tree_file: TreeFile) -> None:
    """Write a tree file, and beside it the report of its collection where there is one (`report_path`).

    Raises `StorageError` when the disk is full or the place cannot be written; an older file is then as it was.
    """
    arrays = {MANIFEST: np.frombuffer(canonical_json(to_json_dict(tree_file.manifest)).encode(), np.uint8)}
    for split, outcomes in tree_file.outcomes.items():
        for name in field_names():
            arrays[f"{split}/{name}"] = np.asarray(getattr(outcomes, name), FIELD_DTYPES[name])
    # Packed in memory first: an interrupted zip writer adds errors of its own to the one that matters.
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    with atomic_write(Path(path)) as file:
        file.write(packed.getbuffer())
    if tree_file.report is not None:
        write_text_atomically(report_path(path), json.dumps(dataclasses.asdict(tree_file.report), indent=2) + "\n")


def load_tree(path: str | Path, *, cost_model: CostModel = "base_rate") -> TreeFile:
    """Read a tree file and build its route trees under `cost_model`.

    Raises `DataError` when the file is missing, truncated, not a tree file, of another format version, or when its
    arrays contradict its manifest.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    try:
        manifest = _read_manifest(arrays)
        outcomes = {split: _read_outcomes(arrays, split) for split in SPLITS if split in manifest.split_sizes}
        return make_tree_file(manifest, outcomes, cost_model=cost_model)
    except DataError as error:
        raise DataError(f"{path} is not a usable tree file. {error}") from error


def report_path(path: str | Path) -> Path:
    """Return where the collection report of the tree at `path` lies: `small.npz` has `small.report.json`."""
    return Path(path).with_suffix(".report.json")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"There is no tree file at {path}; collect one or give the path of an existing one.")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # damaged bytes make zip, zlib and NumPy raise nearly anything; it means one thing
        raise DataError(
            f"{path} must be a whole tree file (.npz), but reading it failed: {error}. It may be "
            "truncated or another kind of file; copy or collect it again."
        ) from error


def _read_manifest(arrays: Mapping[str, np.ndarray]) -> TreeManifest:
    if MANIFEST not in arrays:
        raise DataError(f"It has no manifest, only {sorted(arrays)[:5]}; tree files are written by `collect`.")
    try:
        data: Any = json.loads(arrays[MANIFEST].tobytes().decode())
    except ValueError as error:
        raise DataError(f"Its manifest must be JSON: {error}.") from error
    found = data.get("format_version") if isinstance(data, dict) else None
    if found != FORMAT_VERSION:
        raise DataError(
            f"It has format version {found}, but this version of hierrouter_jax reads version "
            f"{FORMAT_VERSION}; collect it again, or use the version that wrote it."
        )
    try:
        return from_json_dict(TreeManifest, data, what="manifest")
    except ConfigError as error:
        raise DataError(str(error)) from error


def _read_outcomes(arrays: Mapping[str, np.ndarray], split: str) -> NodeOutcomes:
    missing = [name for name in field_names() if f"{split}/{name}" not in arrays]
    raise_all(DataError, f"Split {split} must have all of its arrays, but these are missing:", missing)
    return NodeOutcomes(**{name: arrays[f"{split}/{name}"] for name in field_names()})


def _contradictions(manifest: TreeManifest, outcomes: Mapping[str, NodeOutcomes]) -> list[str]:
    """Return what the arrays of all splits and the manifest do not agree on."""
    if set(outcomes) != set(manifest.split_sizes):
        return [f"the manifest has splits {sorted(manifest.split_sizes)}, the arrays {sorted(outcomes)}"]
    problems = []
    for split, arrays in outcomes.items():
        found = _shape_problems(manifest, split, arrays) or _value_problems(manifest, split, arrays)
        problems += [f"{split}: {problem}" for problem in found]
    return problems


def _shape_problems(manifest: TreeManifest, split: str, arrays: NodeOutcomes) -> list[str]:
    sizes = {
        "query": sum(manifest.split_sizes[split].values()),
        "node": count_nodes(len(manifest.cards), manifest.num_stages),
        "dim": manifest.encoder_dim,
        "row": arrays.context.shape[0] if arrays.context.ndim else -1,
    }
    problems = []
    for name in field_names():
        array, expected = getattr(arrays, name), tuple(sizes[dim] for dim in field_dims(name))
        if array.shape != expected or array.dtype != FIELD_DTYPES[name]:
            problems.append(
                f"{name} must be {FIELD_DTYPES[name]} of shape {expected} ({' '.join(field_dims(name))}), "
                f"but is {array.dtype} of shape {array.shape}"
            )
    return problems


def _value_problems(manifest: TreeManifest, split: str, arrays: NodeOutcomes) -> list[str]:
    if np.any((arrays.task < 0) | (arrays.task >= len(manifest.task_names))):
        return [f"task must lie in [0, {len(manifest.task_names)})"]
    problems = []
    counts = np.bincount(arrays.task, minlength=len(manifest.task_names))
    sizes = {name: int(count) for name, count in zip(manifest.task_names, counts, strict=True) if count}
    if sizes != {name: size for name, size in manifest.split_sizes[split].items() if size}:
        problems.append(f"the manifest counts {manifest.split_sizes[split]} queries a task, the arrays {sizes}")
    if row_ids_digest(arrays.row_id_hash) != manifest.row_ids_digests[split]:
        problems.append("the rows' ids are not those whose digest is in the manifest")
    for name in ("num_prompt_tokens", "num_new_tokens"):
        if np.any(getattr(arrays, name) < 0):
            problems.append(f"{name} must be >= 0")
    return problems
