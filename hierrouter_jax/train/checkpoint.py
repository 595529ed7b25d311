"""Checkpoints of a run, through Orbax: everything training carries, named by the number of finished updates.

Orbax writes a checkpoint beside the others and renames it when it is whole, so a kill or a full disk costs the one
being written and no other. Beside the arrays stand two digests: that of the config, because weights mean nothing
under another one, and that of the arrays themselves, because the storage format does not notice every damaged byte.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from hierrouter_jax.core.errors import CheckpointError, StorageError

T = TypeVar("T")
_CONFIG_DIGEST = "config_digest"
_CONTENT_DIGEST = "content_digest"


class CheckpointFolder:
    """The checkpoints of one run, written in the course of training. Use it as a context manager."""

    def __init__(self, folder: Path, *, config_digest: str, save_interval: int, num_kept: int) -> None:
        """Open the folder, or make it; half-written checkpoints of an earlier process are removed."""
        self._folder = folder.absolute()
        self._config_digest = config_digest
        policies, preservation = ocp.training.save_decision_policies, ocp.training.preservation_policies
        try:
            self._checkpointer = ocp.training.Checkpointer(
                self._folder,
                save_decision_policy=policies.AnySavePolicy(
                    [policies.FixedIntervalPolicy(save_interval), policies.PreemptionCheckpointingPolicy()]
                ),
                preservation_policy=preservation.LatestN(num_kept),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise StorageError(f"{folder} must be a folder that can be written, but: {error}.") from error

    def __enter__(self) -> CheckpointFolder:
        """Return the folder itself."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it. After a failed save Orbax repeats the failure here; the first report is enough."""
        try:
            self._checkpointer.close()
        except Exception:
            if error is None:
                raise

    @property
    def latest_step(self) -> int | None:
        """The newest checkpoint, or None when there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, *, is_forced: bool = False) -> bool:
        """Save `state` after `step` updates if the interval says so, a preemption is announced, or `is_forced`.

        The checkpoint is whole on the disk when this returns. Returns whether there is one at `step` now. Raises
        `StorageError` when it could not be written; the earlier checkpoints are as they were.
        """
        if self.latest_step == step:
            return True
        digests = {_CONFIG_DIGEST: self._config_digest, _CONTENT_DIGEST: content_digest(state)}
        try:
            with _orbax_quiet():
                return self._checkpointer.save(step, state, force=is_forced, custom_metadata=digests)
        # Orbax reports a full disk as OSError, ValueError or a runtime error, depending on the file it hits.
        except (OSError, ValueError, RuntimeError) as error:
            raise StorageError(
                f"Writing the checkpoint of update {step} to {self._folder} failed: {_first_line(error)}. Free space "
                f"or choose another place, then resume: the earlier checkpoints are as they were."
            ) from error


def restore_checkpoint(folder: Path, abstract_state: T, *, config_digest: str, step: int | None = None) -> T:
    """Return the state saved at `step`, or the newest one.

    `abstract_state` gives structure, shapes and types (see `abstract_of`). Raises `CheckpointError` when there is no
    such checkpoint, when it belongs to another config, or when it is damaged.
    """
    step = _find_step(folder, step)
    path = (folder / str(step)).absolute()
    remedy = f"Delete {path} to go on from the checkpoint before it, or start the run in a new directory."
    with _orbax_quiet():
        try:
            digests = ocp.metadata(path).custom_metadata
        except Exception as error:  # whatever Orbax says of a damaged checkpoint, the remedy is the same
            raise CheckpointError(f"{path} must be a whole checkpoint, but: {_first_line(error)}. {remedy}") from error
        if not isinstance(digests, dict) or not {_CONFIG_DIGEST, _CONTENT_DIGEST} <= digests.keys():
            raise CheckpointError(f"{path} must hold the digests of a whole checkpoint, but holds {digests}. {remedy}")
        if digests[_CONFIG_DIGEST] != config_digest:
            raise CheckpointError(
                f"{path} was saved under another config (digest {digests[_CONFIG_DIGEST][:12]}, this one is "
                f"{config_digest[:12]}). Resume with the run's own config, or choose a new run directory."
            )
        try:
            state = ocp.load(path, abstract_state)
        except Exception as error:
            raise CheckpointError(f"{path} must be a whole checkpoint, but: {_first_line(error)}. {remedy}") from error
    if content_digest(state) != digests[_CONTENT_DIGEST]:
        raise CheckpointError(f"{path} is damaged: its arrays are not those that were saved. {remedy}")
    return state


def abstract_of(state: T) -> T:
    """Return the state's structure with shapes and types in place of arrays, to be loaded onto the first device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def content_digest(state: Any) -> str:
    """Return the sha256 (hex) of every array of `state` with its path, shape and type."""
    hasher = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        hasher.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def _find_step(folder: Path, step: int | None) -> int:
    steps = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()) if folder.is_dir() else []
    if not steps:
        raise CheckpointError(f"{folder} must hold at least one checkpoint, but holds none. Train a run there first.")
    if step is None:
        return steps[-1]
    if step not in steps:
        raise CheckpointError(f"{folder} holds no checkpoint of update {step}; it holds those of {steps}.")
    return step


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def _orbax_quiet() -> Iterator[None]:
    """Keep Orbax from printing the traces of its threads: what fails is raised here, with what to do about it."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
