"""What a benchmark hands to the command line: rows, notes for the reader, and a table of the rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hierrouter_jax.bench.rows import BenchRow, Number, bench_json
from hierrouter_jax.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What every benchmark can be told; a subcommand's options are a subclass of it."""

    json: Path | None = None
    """Write rows and machine there as JSON."""


@dataclass(frozen=True, kw_only=True)
class PoolOptions(BenchOptions):
    """The options of a benchmark that runs models; `pool` is filled in by the command line where it is not given."""

    pool: Path | None = None
    """Pool file; by default the packaged small pool."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """The outcome of a benchmark. `more` is written into the JSON beside rows and machine."""

    title: str
    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        return bench_json(self.rows, notes=list(self.notes), **self.more)

    def table(self) -> Table:
        """Return the rows as text; the ratio says how many times better ours is."""
        header = ("what", "model", "batch", "ours", "peer", "peer name", "ratio", "unit")
        return Table(title=self.title, header=header, rows=tuple(_cells(row) for row in self.rows))


def _cells(row: BenchRow) -> tuple[str, ...]:
    return (
        row.what,
        row.model,
        "" if row.batch is None else str(row.batch),
        shown(row.ours),
        shown(row.peer),
        row.peer_name or "",
        "" if row.ratio is None else f"{row.ratio:.2f}x",
        row.unit,
    )


def shown(value: Number | None) -> str:
    """Return a measurement with three significant digits, large counts in full."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:#.3g}".rstrip(".")


def announce(message: str) -> None:
    """Write a line about what is going on to standard error: a benchmark that stops early has said what it knew."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
