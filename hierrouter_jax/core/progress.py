"""One look for everything that takes more than two seconds: how far it is, the time gone and the time left.

On a terminal it is a bar on standard error. In the log of a batch job, where a bar would be thousands of lines, it is
one line a minute.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_INTERVAL_S = 60.0


@runtime_checkable
class Advance(Protocol):
    """Says that `count` more of the work is done, and, where given, what to print after the bar from now on."""

    def __call__(self, count: int, note: str | None = None) -> None:
        """Move the bar."""
        ...


@contextmanager
def progress_bar(description: str, total: int, *, is_quiet: bool = False) -> Iterator[Advance]:
    """Yield `advance(n)`, which moves a bar on a terminal and writes a line a minute elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(description, total, console=None if is_quiet else console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=is_quiet) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(count: int, note: str | None = None) -> None:
            progress.advance(task, count)
            if note is not None:
                progress.update(task, note=note)

        yield advance


def _log_lines(description: str, total: int, *, console: Console | None) -> Advance:
    """Return an `advance` that prints where the work stands when a minute has passed since it last did."""
    begun = said = time.monotonic()
    num_done, latest_note = 0, ""

    def advance(count: int, note: str | None = None) -> None:
        nonlocal said, num_done, latest_note
        num_done += count
        latest_note = latest_note if note is None else note
        now = time.monotonic()
        if console is None or now - said < LOG_INTERVAL_S:
            return
        said = now
        gone = now - begun
        left = gone * (total - num_done) / num_done if num_done else None
        times = f"{_clock(gone)} gone, {'-:--:--' if left is None else _clock(left)} left"
        line = f"{description}: {num_done}/{total}, {times} {latest_note}".rstrip()
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return advance


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
