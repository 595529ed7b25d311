"""What commands write: results on standard output, errors and progress on standard error, JSON where asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierrouter_jax.core.atomic_files import write_text_atomically

if TYPE_CHECKING:
    from hierrouter_jax.report.tables import Table

MIN_COLUMNS = 100  # of a table that goes to a file or a pipe


def print_lines(lines: Iterable[str]) -> None:
    """Write plain lines to standard output."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def print_table(table: Table) -> None:
    """Draw a table on standard output."""
    from rich.console import Console

    from hierrouter_jax.report.tables import rich_table

    Console(width=None if sys.stdout.isatty() else MIN_COLUMNS).print(rich_table(table))


def print_error(message: str, *, label: str = "error") -> None:
    """Write a message to standard error; colour only on a terminal, no wrapping, so that paths stay whole."""
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble((f"{label}: ", "bold red" if label == "error" else "bold yellow"), message)
    Console(stderr=True, soft_wrap=True).print(text)


def print_note(message: str) -> None:
    """Write a line about what is going on to standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def write_json(path: Path | None, value: Any) -> None:
    """Write `value` as JSON to `path`, atomically; nothing where no path was given."""
    if path is not None:
        write_text_atomically(path, json.dumps(value, indent=1, default=str) + "\n")
