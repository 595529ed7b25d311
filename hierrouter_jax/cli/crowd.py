"""`hierrouter crowd`: human-computation algorithms on models, routers, endpoints and people.

`list` says what there is, `run` begins a run (or goes on with the same one), `resume` goes on with any run of a store,
`work` is for people: it shows at a terminal what waits for them; `matrix`, `compare`, `probe` and `assign` compare
(`crowd_compare.py`).
"""

from __future__ import annotations

import json as json_module
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from hierrouter_jax.cli.crowd_progress import answers_status
from hierrouter_jax.cli.crowd_work import DEFAULT_STORE, Work, work
from hierrouter_jax.cli.output import print_lines, write_json
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.budget import Budget
from hierrouter_jax.crowd.crew import DEFAULT_CREW, load_crew
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.registry import ALGORITHMS, algorithm
from hierrouter_jax.crowd.run_records import RunRecord, config_of, record_from_json
from hierrouter_jax.crowd.runner import Runner, RunOutcome
from hierrouter_jax.store.response_store import ResponseStore


@dataclass(frozen=True, kw_only=True)
class List:
    """Say which algorithms there are, what they take, which roles they ask, and their options."""

    json: Path | None = None
    """Write the list there as JSON."""


@dataclass(frozen=True, kw_only=True)
class _Limits:
    max_calls: int | None = None
    """Answers at most, over all sessions of the run."""
    max_cost: float | None = None
    """Cost at most; 1 is a thousand tokens of the pool's dearest model."""
    max_seconds: float | None = None
    """Wall time of this session at most."""
    no_wait: bool = False
    """End where only people are asked, instead of waiting for them."""
    json: Path | None = None
    """Write the outcome there as JSON."""


@dataclass(frozen=True, kw_only=True)
class Run(_Limits):
    """Run an algorithm on a text; the same call again goes on where the run stands."""

    algorithm: Annotated[str, tyro.conf.Positional]
    """Its name: see `hierrouter crowd list`."""
    text: str | None = None
    """The input, in words; without it and --file it is read from standard input."""
    file: Path | None = None
    """A file with the input."""
    options: tuple[str, ...] = ()
    """Options of the algorithm, such as num_votes=3."""
    crew: Path | None = None
    """Crew file (TOML); by default all models of the packaged pool fill all roles."""
    one_prompt: bool = False
    """Run the baseline: one worker, one prompt."""
    store: Path = DEFAULT_STORE
    """Response store with the journal; made where there is none."""
    run: str | None = None
    """A name for the run; by default one that its content decides."""


@dataclass(frozen=True, kw_only=True)
class Resume(_Limits):
    """Go on with a run: nothing that was answered is asked again."""

    run: Annotated[str, tyro.conf.Positional]
    """The run's name."""
    more_attempts: int = 0
    """Ask so many times more where no usable answer came: an endpoint may be back, a model do better."""
    store: Path = DEFAULT_STORE
    """The store it was begun with."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Work, tyro.conf.subcommand("work")]
)
LIGHT = ("list", "run", "resume", "work")


def command_for(arguments: Sequence[str]) -> Any:
    """Return what may be asked for; comparisons, which draw and count, are imported where they may be meant."""
    if arguments and arguments[0] in LIGHT:
        return Command
    from hierrouter_jax.cli import crowd_compare

    return Command | crowd_compare.Command


def run(command: Any) -> None:
    """Do what the subcommand says."""
    match command:
        case List():
            _list(command)
        case Run():
            _run(command)
        case Work():
            work(command)
        case Resume():
            _resume(command)
        case _:
            from hierrouter_jax.cli.crowd_compare import run_comparison

            run_comparison(command)


def _list(command: List) -> None:
    lines = []
    for one in ALGORITHMS.values():
        options = ", ".join(f"{name}={value!r}" for name, value in to_json_dict(one.config()).items())
        lines += [
            f"{one.name}: {one.summary} ({one.source})",
            f"  takes {one.takes}; roles: {', '.join(one.roles)}",
            f"  options: {options}",
        ]
    print_lines(lines)
    write_json(
        command.json,
        {
            one.name: {
                "summary": one.summary,
                "source": one.source,
                "takes": one.takes,
                "roles": list(one.roles),
                "options": to_json_dict(one.config()),
            }
            for one in ALGORITHMS.values()
        },
    )


def _run(command: Run) -> None:
    found = algorithm(command.algorithm)
    record = RunRecord(
        algorithm=found,
        config=config_of(found, command.options),
        text=_input(command),
        crew=DEFAULT_CREW if command.crew is None else load_crew(command.crew),
        is_one_prompt=command.one_prompt,
    )
    _check_input(record)
    name = command.run or record.name
    with Journal(command.store) as journal:
        journal.begin(name, record.to_json())
        _go_on(command, journal, name, record, command.store)


def _resume(command: Resume) -> None:
    if command.more_attempts < 0:
        raise ConfigError(f"--more-attempts must be >= 0, but is {command.more_attempts}.")
    with Journal.existing(command.store) as journal:
        record = record_from_json(journal.record(command.run))
        crew = replace(record.crew, max_attempts=record.crew.max_attempts + command.more_attempts)
        _go_on(command, journal, command.run, replace(record, crew=crew), command.store)


def _check_input(record: RunRecord) -> None:
    """Take the pipeline to its first sub-task, so that a bad input is told before models are opened."""
    with suppress(StopIteration):
        next(record.pipeline())


def _input(command: Run) -> str:
    if command.text is not None and command.file is not None:
        raise ConfigError("Give the input as --text or as --file, not as both.")
    if command.text is not None:
        return command.text
    if command.file is None and sys.stdin.isatty():
        raise ConfigError("Give the input as --text or --file, or pipe it in.")
    try:
        return sys.stdin.read() if command.file is None else command.file.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError, IsADirectoryError) as error:
        raise DataError(f"The input must be a text file in UTF-8, but reading it failed: {error}.") from error


def _go_on(command: Run | Resume, journal: Journal, name: str, record: RunRecord, store_path: Path) -> None:
    from hierrouter_jax.cli.crowd_openers import openers  # imports the models; other subcommands need none of them
    from hierrouter_jax.crowd.open_crew import open_crew

    budget = Budget(max_calls=command.max_calls, max_cost=command.max_cost, max_wall_s=command.max_seconds)
    with ResponseStore(store_path) as store, openers(store_path) as opening:
        crew = open_crew(record.crew, store, opening, roles=record.roles)
        with answers_status(name, store_path) as on_change:
            runner = Runner(crew, journal, name, budget=budget, on_change=on_change)
            outcome = runner.run(record.pipeline(), waits=not command.no_wait)
    print_lines(_outcome_lines(outcome, name, store_path))
    write_json(command.json, outcome_json(outcome, name, record))
    if outcome.status == "failed":
        raise DataError(f"Run {name} failed: {outcome.reason}")


def _outcome_lines(outcome: RunOutcome, name: str, store: Path) -> list[str]:
    spent = f"{outcome.spent.num_calls} answers, cost {outcome.spent.cost:.3f}"
    again = shlex.join(["hierrouter", "crowd", "resume", name, "--store", str(store)])
    match outcome.status:
        case "done":
            shown = json_module.dumps(outcome.result, ensure_ascii=False, indent=2)
            return [shown, f"run {name}: done, {spent}"]
        case "waiting":
            people = shlex.join(["hierrouter", "crowd", "work", "--store", str(store)])
            return [f"run {name}: {outcome.num_waiting} answers of people are wanted ({people}); then {again}; {spent}"]
        case "budget":
            return [f"run {name}: stopped, because {outcome.reason}; to go on, {again} with a larger limit; {spent}"]
        case _:
            return [f"run {name}: failed; to ask again, {again} --more-attempts 3; {spent}"]


def outcome_json(outcome: RunOutcome, name: str, record: RunRecord) -> dict[str, Any]:
    """Return how a run ended as JSON values."""
    return {
        "run": name,
        "algorithm": record.algorithm.name,
        "is_one_prompt": record.is_one_prompt,
        "status": outcome.status,
        "reason": outcome.reason,
        "result": outcome.result,
        "num_calls": outcome.spent.num_calls,
        "cost": outcome.spent.cost,
        "num_waiting": outcome.num_waiting,
    }
