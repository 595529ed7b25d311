"""Scalars for TensorBoard, written by the caller's own thread.

tensorboardX's `SummaryWriter` writes from a thread of its own through a bounded queue. On a full disk that thread dies
with a trace, and the next scalars wait for room in the queue for ever; so only its record format and its messages are
used here, and a failed write is an `OSError` in the hands of whoever wrote.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class EventFile:
    """A new event file in `run_dir`; TensorBoard drops what earlier files hold beyond `num_finished`.

    Use it as a context manager. Every method raises `OSError` when it could not write.
    """

    def __init__(self, run_dir: Path, *, num_finished: int) -> None:
        from tensorboardX import RecordWriter  # imports torch where torch is, which takes seconds
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        # TensorBoard reads the files in the order of their names. The number keeps two of one second apart.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{num_finished:09d}"
        self._records = RecordWriter(str((run_dir / name).absolute()))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=num_finished + 1, session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> EventFile:
        """Return the file itself."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, also where what was added last cannot be written."""
        self._records.close()

    def add(self, step: int, scalars: Mapping[str, int | float]) -> None:
        """Add scalars {tag: value} of one step; `flush` puts them on the disk."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        """Put everything that was added on the disk."""
        self._records.flush()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
