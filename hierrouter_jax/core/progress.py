"""One look for everything that takes more than two seconds: a bar with a rate and the time left, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@runtime_checkable
class Advance(Protocol):
    """Says that `count` more of the work is done, and, where given, what to print after the bar from now on."""

    def __call__(self, count: int, note: str | None = None) -> None:
        """Move the bar."""
        ...


@contextmanager
def progress_bar(description: str, total: int, *, is_quiet: bool = False) -> Iterator[Advance]:
    """Yield `advance(n)`; it is drawn on a terminal only, so that logs of a batch job stay readable."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=is_quiet or not console.is_terminal) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(count: int, note: str | None = None) -> None:
            progress.advance(task, count)
            if note is not None:
                progress.update(task, note=note)

        yield advance
