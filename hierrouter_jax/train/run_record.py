"""What a run directory says about itself in `config.json`: the config, the tree it learns from, and their origins.

A run may be resumed only as what it was: the same config, the same tree, the same pool and encoder. Anything else
would carry on under the old name with other data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.configs import digest, from_json_dict, read_json, to_json_dict
from hierrouter_jax.core.errors import CheckpointError, ConfigError, DataError, raise_all
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.checkpoint import finished_steps
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.metrics_log import METRICS_NAME

CONFIG_NAME = "config.json"
CHECKPOINTS_NAME = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The identity of a run. `origins` names digests of what the tree was made from, such as `pool_digest`."""

    config: TrainConfig
    tree_digest: str
    model_names: tuple[str, ...]
    num_stages: int
    context_dim: int
    num_signals: int = 0
    num_tasks: int = 1
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def config_digest(self) -> str:
        """Digest of what the config states beyond the defaults; checkpoints carry it.

        A field that a later version adds, with a default, leaves the runs of earlier versions readable.
        """
        changes = _changes(to_json_dict(type(self.config)()), to_json_dict(self.config))
        return digest({name: stated for name, (_, stated) in changes.items()})


def make_record(config: TrainConfig, tree: RouteTree, origins: Mapping[str, str]) -> RunRecord:
    """Return the record of a run on `tree`."""
    return RunRecord(
        config=config,
        tree_digest=tree_digest(tree),
        model_names=tree.model_names,
        num_stages=tree.num_stages,
        context_dim=tree.context.shape[1],
        num_signals=tree.signals.shape[2],
        num_tasks=len(tree.task_names),
        origins=dict(origins),
    )


def tree_digest(tree: RouteTree) -> str:
    """Return the sha256 (hex) of the tree's arrays, names and sizes."""
    names = json.dumps([tree.model_names, tree.task_names, tree.num_models, tree.num_stages])
    return hashlib.sha256(f"{arrays_digest(tree)} {names}".encode()).hexdigest()


def arrays_digest(tree: Any) -> str:
    """Return the sha256 (hex) of every array of a pytree with its path, shape and type."""
    hasher = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        hasher.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def read_record(run_dir: Path) -> RunRecord:
    """Return the record of an existing run; `DataError` or `ConfigError` when there is none or it cannot be read."""
    path = run_dir / CONFIG_NAME
    return from_json_dict(RunRecord, read_json(path), what=str(path))


def open_run_dir(run_dir: Path, record: RunRecord, *, resume: bool) -> bool:
    """Make the run directory, or check that it holds the same run; return whether there is something to resume.

    Raises `ConfigError` when the directory holds a run and `resume` is not asked for, `CheckpointError` when it is
    that of another config or its checkpoints are gone, `DataError` when it is that of another tree, pool or encoder.
    """
    if not (run_dir / CONFIG_NAME).exists():
        _refuse_foreign_files(run_dir)
        text = json.dumps(to_json_dict(record), indent=2, sort_keys=True) + "\n"
        write_text_atomically(run_dir / CONFIG_NAME, text)
        return False
    if not resume:
        raise ConfigError(f"{run_dir} already holds a run. Resume it, or choose another run directory.")
    _check_same_run(run_dir, read_record(run_dir), record)
    checkpoints = run_dir / CHECKPOINTS_NAME
    if finished_steps(checkpoints):
        return True
    # The checkpoint of update 0 precedes the first line, so a run without both was killed before it began.
    if (run_dir / METRICS_NAME).exists() and (run_dir / METRICS_NAME).stat().st_size > 0:
        raise CheckpointError(
            f"{checkpoints} must hold the checkpoints of the updates in {METRICS_NAME}, but holds none. Put them "
            "back, or start the run in a new directory."
        )
    return False


def _refuse_foreign_files(run_dir: Path) -> None:
    if (run_dir / CHECKPOINTS_NAME).exists() or (run_dir / METRICS_NAME).exists():
        raise DataError(
            f"{run_dir} holds checkpoints or metrics but no {CONFIG_NAME}, so nothing says what they belong to. "
            "Put the file back, or choose another run directory."
        )


def _check_same_run(run_dir: Path, found: RunRecord, asked: RunRecord) -> None:
    changes = _differences(to_json_dict(found.config), to_json_dict(asked.config))
    raise_all(CheckpointError, f"{run_dir} holds a run of another config; resume with its own, or start anew:", changes)
    changes = _differences(_data_of(found), _data_of(asked))
    raise_all(DataError, f"{run_dir} was trained on other data; resume with its own tree, or start anew:", changes)


def _data_of(record: RunRecord) -> dict[str, Any]:
    return {"tree_digest": record.tree_digest, "model_names": record.model_names, **record.origins}


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Name every value that differs, by its dotted path."""
    changes = _changes(found, asked)
    return [f"{name} is {old!r} in the run, {new!r} here" for name, (old, new) in changes.items()]


def _changes(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return every value that differs, by its dotted path, as it was found and as it is asked for."""
    changes: dict[str, tuple[Any, Any]] = {}
    for name in sorted(found.keys() | asked.keys()):
        old, new = found.get(name), asked.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes |= _changes(old, new, f"{prefix}{name}.")
        elif old != new:
            changes[f"{prefix}{name}"] = (old, new)
    return changes
