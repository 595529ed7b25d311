"""`hierrouter store merge | count`: the stores of several hosts become one; how much a store holds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hierrouter_jax.cli.output import print_lines, write_json
from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.store.response_store import ResponseStore

MAX_CONFLICTS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Take over all responses and scores of other stores; killed or repeated, it loses and doubles nothing."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The stores to read; they are not changed."""
    store: Path
    """The store to fill; made where there is none. What it holds already stays as it is."""
    json: Path | None = None
    """Write the outcome there as JSON."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """Count the responses of each model."""

    store: Path
    """The store to look into."""
    json: Path | None = None
    """Write the outcome there as JSON."""


Command = Annotated[Merge, tyro.conf.subcommand("merge")] | Annotated[Count, tyro.conf.subcommand("count")]


def run(command: Merge | Count) -> None:
    """Do what the subcommand says."""
    match command:
        case Merge():
            outcome = _merge(command)
        case Count():
            outcome = _count(command)
    write_json(command.json, outcome)


def _merge(command: Merge) -> dict[str, object]:
    missing = [f"{source} is no file" for source in command.sources if not source.is_file()]
    missing += [] if command.sources else ["none is given"]
    raise_all(DataError, "The stores to merge must be there, all of them, before the first is:", missing)
    reports = {}
    with ResponseStore(command.store) as store:
        for source in command.sources:
            report = reports[str(source)] = store.merge(source)
            print_lines(
                [
                    f"{source}: {report.num_new_responses} responses and {report.num_new_scores} scores are new, "
                    f"{report.num_already_there} responses were there, {len(report.conflicts)} conflicts",
                    *(
                        f"  conflict: {one.table} {one.key[:12]} differ in {', '.join(one.fields)}; kept as it was"
                        for one in report.conflicts[:MAX_CONFLICTS_SHOWN]
                    ),
                ]
            )
        num_responses = len(store)
    print_lines([f"{num_responses} responses in {command.store}"])
    return {
        "store": str(command.store),
        "num_responses": num_responses,
        "sources": {source: dataclasses.asdict(report) for source, report in reports.items()},
    }


def _count(command: Count) -> dict[str, object]:
    with ResponseStore.existing(command.store) as store:
        counts = store.count_by_weights()
    print_lines(
        [*(f"{weights}: {count} responses" for weights, count in counts.items()), f"{sum(counts.values())} in all"]
    )
    return {"store": str(command.store), "num_responses": sum(counts.values()), "by_weights": counts}
