"""Checkpoints of a run, through Orbax: everything training carries, named by the number of finished updates.

Orbax writes a checkpoint beside the others and renames it when it is whole. Then a manifest goes into it: the digest
of the run's config, because weights mean nothing under another one; shape and type of every array; and the sha256 of
every file, because the storage format does not notice every damaged byte. A checkpoint without a manifest is
unfinished and counts as absent, so a kill or a full disk costs the checkpoint being written and no other.

With several processes saving and loading are done by all of them, on global arrays (`replicate_globally`) and in a
folder that all of them see; manifests and removals are the first process's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.configs import canonical_json, read_json
from hierrouter_jax.core.errors import CheckpointError, DataError, StorageError
from hierrouter_jax.train.distributed import agree, decide, is_first_process, is_loss, together
from hierrouter_jax.train.held_interrupts import interrupts_held
from hierrouter_jax.train.orbax_noise import silence_orbax_threads

T = TypeVar("T")
MANIFEST_NAME = "manifest.json"
_BYTES_BESIDE_ARRAYS = 100_000  # what Orbax writes of names, shapes and times


class CheckpointFolder:
    """The checkpoints of one run, written in the course of training. Use it as a context manager."""

    def __init__(self, folder: Path, *, config_digest: str, save_interval: int, num_kept: int) -> None:
        """Open the folder, or make it; unfinished checkpoints of an earlier process are removed."""
        self._folder = folder.absolute()
        self._config_digest = config_digest
        silence_orbax_threads()
        policies, preservation = ocp.training.save_decision_policies, ocp.training.preservation_policies
        agree(partial(_remove_unfinished, folder))
        try:
            self._checkpointer = ocp.training.Checkpointer(
                self._folder,
                save_decision_policy=policies.FixedIntervalPolicy(save_interval),
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
        """Save `state` after `step` updates if the interval says so, or `is_forced`.

        The checkpoint is whole on the disk when this returns. Returns whether there is one at `step` now. Raises
        `StorageError` when it could not be written; the earlier checkpoints are as they were. Ctrl-C meanwhile raises
        `KeyboardInterrupt` once the checkpoint is whole.
        """
        if self.latest_step == step:
            return True
        with interrupts_held():
            if jax.process_count() > 1 and (is_forced or self._checkpointer.should_save(step)):
                agree(lambda: self._check_room(step, state))
            is_saved = together(lambda: self._save_arrays(step, state, is_forced))
            if is_saved:
                agree(lambda: self._finish(step, state))
        return is_saved

    def _save_arrays(self, step: int, state: Any, is_forced: bool) -> bool:
        try:
            return self._checkpointer.save(step, state, force=is_forced)
        # Orbax reports a full disk as OSError, ValueError or a runtime error, depending on the file it hits.
        except (OSError, ValueError, RuntimeError) as error:
            if is_loss(error):
                raise
            raise self._failure(step, error) from error

    def _check_room(self, step: int, state: Any) -> None:
        """Try the disk with as many bytes as the state has: Orbax's processes wait for one that a full disk stopped.

        Raises `StorageError` like a failed save.
        """
        if not is_first_process():
            return
        num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        try:
            with tempfile.TemporaryFile(dir=self._folder) as probe:
                probe.write(bytes(num_bytes + _BYTES_BESIDE_ARRAYS))
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            raise self._failure(step, error) from error

    def _failure(self, step: int, error: BaseException) -> StorageError:
        return StorageError(
            f"Writing the checkpoint of update {step} to {self._folder} failed: {_first_line(error)}. Free space "
            f"or choose another place, then resume: the earlier checkpoints are as they were."
        )

    def _finish(self, step: int, state: Any) -> None:
        if is_first_process():
            _write_manifest(self._folder / str(step), self._config_digest, state)


def restore_checkpoint(folder: Path, abstract_state: T, *, config_digest: str, step: int | None = None) -> T:
    """Return the state saved at `step`, or the newest one.

    `abstract_state` gives structure, shapes and types (see `abstract_of`). Raises `CheckpointError` when there is no
    such checkpoint, when it belongs to another config, or when it is damaged.
    """
    found = decide(lambda: str(_checked_step(folder, abstract_state, config_digest, step)))
    path = (folder / found).absolute()
    silence_orbax_threads()
    try:
        return ocp.load(path, abstract_state)
    except Exception as error:  # whatever Orbax says of a whole checkpoint that it cannot load, the remedy is the same
        raise CheckpointError(
            f"{path} must hold this run's state, but: {_first_line(error)}. {_remedy(path)}"
        ) from error


def finished_steps(folder: Path) -> list[int]:
    """Return the steps of the whole checkpoints, oldest first; an absent folder has none."""
    return sorted(_step_folders(folder, is_finished=True))


def abstract_of(state: T, sharding: jax.sharding.Sharding | None = None) -> T:
    """Return the state's structure with shapes and types in place of arrays, to be loaded onto the first device.

    Several processes load global arrays: give their sharding.
    """
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def _checked_step(folder: Path, abstract_state: Any, config_digest: str, step: int | None) -> int:
    """Return the step to load, whose files are all there, whole, and of this run."""
    found_step = _find_step(folder, step)
    path = (folder / str(found_step)).absolute()
    remedy = _remedy(path)
    manifest = _read_manifest(path, remedy)
    if manifest["config_digest"] != config_digest:
        raise CheckpointError(
            f"{path} was saved under another config (digest {manifest['config_digest'][:12]}, this one is "
            f"{config_digest[:12]}). Resume with the run's own config, or choose a new run directory."
        )
    for found, asked in ((manifest["files"], _file_digests(path)), (manifest["arrays"], _array_types(abstract_state))):
        broken = sorted(name for name in found.keys() | asked.keys() if found.get(name) != asked.get(name))
        if broken:
            raise CheckpointError(
                f"{path} must be as it was saved, but missing, altered or foreign are {', '.join(broken)}. {remedy}"
            )
    return found_step


def _remedy(path: Path) -> str:
    return f"Delete {path} to go on from the checkpoint before it, or start the run in a new directory."


def _write_manifest(path: Path, config_digest: str, state: Any) -> None:
    manifest = {"config_digest": config_digest, "arrays": _array_types(state), "files": _file_digests(path)}
    write_text_atomically(path / MANIFEST_NAME, canonical_json(manifest) + "\n")


def _read_manifest(path: Path, remedy: str) -> dict[str, Any]:
    try:
        manifest = read_json(path / MANIFEST_NAME)
    except DataError as error:
        raise CheckpointError(f"{path} is damaged: {error} {remedy}") from error
    kinds = {"config_digest": str, "arrays": dict, "files": dict}
    if not all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        raise CheckpointError(f"{path} is damaged: its manifest must hold {', '.join(kinds)}. {remedy}")
    return manifest


def _array_types(state: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _remove_unfinished(folder: Path) -> None:
    if not is_first_process():
        return
    try:
        for unfinished in _step_folders(folder) - _step_folders(folder, is_finished=True):
            shutil.rmtree(folder / str(unfinished))
    except OSError as error:
        raise StorageError(f"{folder} must be a folder that can be written, but: {error}.") from error


def _file_digests(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / MANIFEST_NAME)
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _step_folders(folder: Path, *, is_finished: bool = False) -> set[int]:
    if not folder.is_dir():
        return set()
    entries = (entry for entry in folder.iterdir() if entry.name.isdigit() and entry.is_dir())
    return {int(entry.name) for entry in entries if not is_finished or (entry / MANIFEST_NAME).exists()}


def _find_step(folder: Path, step: int | None) -> int:
    steps = finished_steps(folder)
    if not steps:
        raise CheckpointError(f"{folder} must hold at least one checkpoint, but holds none. Train a run there first.")
    if step is None:
        return steps[-1]
    if step not in steps:
        raise CheckpointError(f"{folder} holds no checkpoint of update {step}; it holds those of {steps}.")
    return step


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # TensorStore names the file first, by a long path, and the reason last.
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-200:]}"
