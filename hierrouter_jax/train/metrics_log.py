"""The written record of a run: `metrics.jsonl` (one line an update, deterministic) and TensorBoard events.

A line is written before the checkpoint of its update, so a run that was killed has every line up to its checkpoint,
and perhaps some beyond: those are dropped on resume and written again. Wall-clock figures go to TensorBoard only, so
that two runs of one config have equal files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.configs import canonical_json
from hierrouter_jax.core.errors import CheckpointError, StorageError
from hierrouter_jax.train.event_file import EventFile

METRICS_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends to a run's record after `num_finished` updates; what lies beyond them is dropped first.

    Raises `CheckpointError` when lines up to `num_finished` are missing.
    """

    def __init__(self, run_dir: Path, *, num_finished: int) -> None:
        self._path = run_dir / METRICS_NAME
        self._drop_after(num_finished)
        try:
            with ExitStack() as opened:
                self._file = opened.enter_context(self._path.open("a", encoding="utf-8"))
                self._events = opened.enter_context(EventFile(run_dir, num_finished=num_finished))
                self._opened = opened.pop_all()
        except OSError as error:
            raise self._storage_error(error) from error

    def __enter__(self) -> MetricsLog:
        """Return the log itself."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both records, each whether or not the other can be. After a failed write the first report is enough."""
        try:
            self._opened.close()
        except OSError as failure:
            if error is None:
                raise self._storage_error(failure) from failure

    def append(self, rows: Sequence[Mapping[str, int | float]], speed: Mapping[str, int | float]) -> None:
        """Write one line a row (`update` is the number of finished updates); `speed` goes to TensorBoard alone.

        Lines and events are on the disk when this returns. Raises `StorageError` when they could not be written.
        """
        try:
            self._file.writelines(canonical_json(dict(row)) + "\n" for row in rows)
            self._file.flush()
            os.fsync(self._file.fileno())
            for row in rows:
                scalars = {_tag(name): value for name, value in row.items() if name != "update"}
                self._events.add(int(row["update"]), scalars)
            self._events.add(int(rows[-1]["update"]), {f"speed/{name}": value for name, value in speed.items()})
            self._events.flush()
        except OSError as error:
            raise self._storage_error(error) from error

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"Writing {METRICS_NAME} and the TensorBoard events in {self._path.parent} failed: {error}. Free space, "
            "then resume the run; its checkpoints are whole."
        )

    def _drop_after(self, num_finished: int) -> None:
        rows = read_metrics(self._path.parent)
        kept = rows[:num_finished]
        if [row["update"] for row in kept] != list(range(1, num_finished + 1)):
            raise CheckpointError(
                f"{self._path} must hold one line for each of the {num_finished} updates before the checkpoint, but "
                f"some are missing or doubled. Put the file back, or start the run in a new directory."
            )
        write_text_atomically(self._path, "".join(canonical_json(row) + "\n" for row in kept))


class SilentLog:
    """What a process has in place of the log that the first process writes for all."""

    def append(self, rows: Sequence[Mapping[str, int | float]], speed: Mapping[str, int | float]) -> None:
        """Write nothing."""


def read_metrics(run_dir: Path) -> list[dict[str, int | float]]:
    """Return the lines of `metrics.jsonl` as dicts; a last line that a kill cut short is left out."""
    path = run_dir / METRICS_NAME
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not line.endswith("\n") or not isinstance(row, dict) or "update" not in row:
            break
        rows.append(row)
    return rows


def _tag(name: str) -> str:
    """TensorBoard groups by the part before the slash."""
    return name if "/" in name else f"train/{name}"
