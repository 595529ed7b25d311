"""A comparison as tables: for the terminal, for a page, for a README.

One function a table decides which numbers stand where; three renderers only draw. Qualities and utilities are shown
times 100, costs as they are (1 = the dearest model answering the mean query once). An interval is [lower, upper]: a
percentile interval need not be symmetric, so it is never written with a plus-minus.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import rich.table
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.text import Text

from hierrouter_jax.evaluate.results import Comparison, Difference, Interval, SystemResult, TaskResult

SHOWN_NAMES = {
    "ppo": "PPO",
    "best_single": "best single",
    "best_fixed_route": "best fixed route",
    "task_best_single": "best single, task told",
    "task_best_route": "best route, task told",
    "knn": "kNN",
    "knn_multi_hop": "kNN, multi-hop",
    "one_shot": "one-shot classifier",
    "value_regression": "value regression",
    "scorer_cascade": "scorer cascade",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows and columns; the first column is a name, the others numbers. `emphasised` are row indices."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    emphasised: frozenset[int] = frozenset()


def system_table(comparison: Comparison) -> Table:
    """Return every system's quality, cost, utility and hops, and what it gains on the best single model.

    The gain in utility stands as it is, and as a share of what the oracle gains (the gap).
    """
    level = f"{comparison.bootstrap.level:.0%}"
    header = (
        "system",
        f"quality % [{level}]",
        f"cost [{level}]",
        "utility %",
        "hops",
        "utility vs best",
        "gap %",
    )
    rows = tuple(_system_row(name, system) for name, system in comparison.systems.items())
    return Table(title=_heading(comparison), header=header, rows=rows, emphasised=_router_rows(comparison))


def task_quality_table(comparison: Comparison) -> Table:
    """Return every system's quality on each task, with intervals."""
    return _task_table(comparison, "Quality, %", lambda task: _quality(task.quality, task.quality_ci))


def task_cost_table(comparison: Comparison) -> Table:
    """Return every system's cost on each task, with intervals."""
    return _task_table(comparison, "Cost", lambda task: _cost(task.cost, task.cost_ci))


def shown_name(name: str) -> str:
    """Return a system's name for readers."""
    if name.startswith("oracle/"):
        num_stages = name.removeprefix("oracle/")
        return f"oracle of {num_stages} stage" + ("" if num_stages == "1" else "s")
    return SHOWN_NAMES.get(name, name.removeprefix("single/"))


def is_oracle(name: str) -> bool:
    """Return whether a system chooses with the answers at hand: a bound, and no competitor."""
    return name == "oracle" or name.startswith("oracle/")


def is_router(name: str) -> bool:
    """Return whether a system is a trained router: a run's own, or one of several runs' ("router NAME")."""
    return name == "router" or name.startswith("router ")


def rich_table(table: Table) -> ConsoleRenderable:
    """Return what rich prints without cutting a number, however wide the terminal is."""
    return _FittedTable(table=table)


def split_columns(table: Table, *, width: int) -> list[Table]:
    """Return the table as the fewest tables that are at most `width` characters wide, each with the names.

    They have about equally many columns; a width too small for one number beside the names is not kept to.
    """
    parts, num_numbers = [table], len(table.header) - 1
    for num_parts in range(1, num_numbers + 1):
        groups = np.array_split(np.arange(1, num_numbers + 1), num_parts)
        parts = [_columns(table, (0, *map(int, group))) for group in groups]
        if all(_drawn_width(part) <= width for part in parts):
            break
    return [parts[0], *(replace(part, title="") for part in parts[1:])]


def markdown_table(table: Table) -> str:
    """Write a table in GitHub's markdown."""
    ruler = ["---", *["---:"] * (len(table.header) - 1)]
    lines = [[_markdown_cell(cell) for cell in table.header], ruler]
    for index, row in enumerate(table.rows):
        mark = "**" if index in table.emphasised else ""
        lines.append([f"{mark}{_markdown_cell(cell)}{mark}" if cell else "" for cell in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def html_table(table: Table) -> str:
    """Write a table as HTML, every text escaped; its box can be scrolled by keyboard too."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    body = []
    for index, row in enumerate(table.rows):
        opening = '<tr class="emphasised">' if index in table.emphasised else "<tr>"
        body.append(opening + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    caption = html.escape(table.title)
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>\n"
    )


@dataclass(frozen=True, kw_only=True)
class _FittedTable:
    """A table that is split when it is printed: only then is the terminal's width known."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in split_columns(self.table, width=options.max_width):
            yield _drawn(part)


def _columns(table: Table, indices: tuple[int, ...]) -> Table:
    rows = tuple(tuple(row[index] for index in indices) for row in table.rows)
    return replace(table, header=tuple(table.header[index] for index in indices), rows=rows)


def _drawn_width(table: Table) -> int:
    """Return how many characters `_drawn` takes: the widest cell of each column, and a space around each column."""
    widths = [max(map(cell_len, column)) for column in zip(table.header, *table.rows, strict=True)]
    return sum(widths) + len(widths) + 1


def _drawn(table: Table) -> rich.table.Table:
    title = Text(table.title, style="bold") if table.title else None
    drawn = rich.table.Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for index, name in enumerate(table.header):
        drawn.add_column(Text(name), justify="left" if index == 0 else "right", overflow="fold")
    for index, row in enumerate(table.rows):
        drawn.add_row(*map(Text, row), style="bold" if index in table.emphasised else None)
    return drawn


def _router_rows(comparison: Comparison) -> frozenset[int]:
    return frozenset(index for index, name in enumerate(comparison.systems) if is_router(name))


def _heading(comparison: Comparison) -> str:
    heading = f"{comparison.num_queries} {comparison.split} queries, cost weight {comparison.cost_weight:g}"
    if comparison.is_balanced:
        heading += ", every task counts alike"
    best = comparison.systems.get("best_single")
    return heading if best is None else f"{heading}; best single model: {', '.join(best.routes)}"


def _system_row(name: str, system: SystemResult) -> tuple[str, ...]:
    return (
        shown_name(name),
        _quality(system.quality, system.quality_ci),
        _cost(system.cost, system.cost_ci),
        f"{100 * system.utility:.1f}",
        f"{system.hops:.2f}",
        _difference(system.versus_best_single),
        "" if system.gap_closed is None else f"{100 * system.gap_closed:.0f}",
    )


def _task_table(comparison: Comparison, what: str, cell_of: Callable[[TaskResult], str]) -> Table:
    """Lay out one number of each system on each task; a task that a system lacks is an empty cell."""
    sizes = {name: task.num_queries for system in comparison.systems.values() for name, task in system.tasks.items()}
    rows = []
    for name, system in comparison.systems.items():
        cells = [cell_of(system.tasks[task]) if task in system.tasks else "" for task in sizes]
        rows.append((shown_name(name), *cells))
    title = f"{what} [{comparison.bootstrap.level:.0%}], by task ({_sizes_in_words(sizes)})"
    return Table(title=title, header=("system", *sizes), rows=tuple(rows), emphasised=_router_rows(comparison))


def _sizes_in_words(sizes: dict[str, int]) -> str:
    if len(set(sizes.values())) == 1:
        return f"{next(iter(sizes.values()))} queries each"
    return "queries: " + ", ".join(f"{task} {size}" for task, size in sizes.items())


def _quality(quality: float, interval: Interval) -> str:
    return f"{100 * quality:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _cost(cost: float, interval: Interval) -> str:
    return f"{cost:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _difference(difference: Difference | None) -> str:
    """Write the utility's difference in points, the way the utility itself is written."""
    if difference is None:
        return ""
    lower, upper = (100 * bound for bound in difference.utility_ci)
    return f"{100 * difference.utility:+.1f} [{lower:+.1f}, {upper:+.1f}]"


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|")
