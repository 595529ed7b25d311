"""Keeps the threads of Orbax and TensorStore from printing traces of what `checkpoint.py` reports itself.

After a failed write those threads live on for a while and tell standard error of it in three ways, at any moment
until the process ends: log records with a trace, callbacks into an event loop that is closed, coroutines that nobody
awaits any more. So the filters stay once they are there. They know each kind by where it comes from and let pass
whatever else uses the same logger, hook and category.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any


def silence_orbax_threads() -> None:
    """Put the filters in place, unless they are there."""
    logger = logging.getLogger("absl")
    if _is_no_orbax_trace not in logger.filters:
        logger.addFilter(_is_no_orbax_trace)
    if not isinstance(sys.unraisablehook, _WithoutLateCallbacks):
        sys.unraisablehook = _WithoutLateCallbacks(sys.unraisablehook)
    warnings.filterwarnings("ignore", r"coroutine 'async_serialize\S*' was never awaited", RuntimeWarning)


class _WithoutLateCallbacks:
    """An unraisable hook that drops TensorStore's calls into a closed event loop and hands on everything else."""

    def __init__(self, following: Callable[[Any], None]) -> None:
        self._following = following

    def __call__(self, unraisable: Any) -> None:
        if not _is_late_callback(unraisable):
            self._following(unraisable)


def _is_no_orbax_trace(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "/orbax/" in record.pathname.replace("\\", "/"))


def _is_late_callback(unraisable: Any) -> bool:
    # TensorStore calls from C++: no object is named, and asyncio's own method is the outermost frame. A call from
    # Python code, ours or a user's, would have the caller's frame outside it.
    trace = unraisable.exc_traceback
    return (
        unraisable.object is None
        and isinstance(unraisable.exc_value, RuntimeError)
        and str(unraisable.exc_value) == "Event loop is closed"
        and trace is not None
        and trace.tb_frame.f_code.co_name == "call_soon_threadsafe"
    )
