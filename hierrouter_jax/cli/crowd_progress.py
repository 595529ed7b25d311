"""What a crowd command says while it works: answers, cost, how many sub-tasks wait for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hierrouter_jax.crowd.budget import Spent


@contextmanager
def answers_status(title: str, store: Path) -> Iterator[Callable[[Spent, int], None]]:
    """Yield what runners tell their progress to: a line that is kept up to date on a terminal."""
    console = Console(stderr=True)
    with console.status(Text(f"{title}: beginning")) as status:

        def on_change(spent: Spent, num_waiting: int) -> None:
            waiting = f", {num_waiting} for people (hierrouter crowd work --store {store})" if num_waiting else ""
            status.update(Text(f"{title}: {spent.num_calls} answers, cost {spent.cost:.2f}{waiting}"))

        yield on_change
