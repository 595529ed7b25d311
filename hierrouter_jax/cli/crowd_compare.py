"""`hierrouter crowd matrix | compare | probe | assign`: what works at which sub-task, and who should do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from matplotlib.figure import Figure

from hierrouter_jax.cli.crowd_openers import openers
from hierrouter_jax.cli.crowd_progress import answers_status
from hierrouter_jax.cli.crowd_work import DEFAULT_STORE
from hierrouter_jax.cli.output import print_lines, print_table, write_json
from hierrouter_jax.core.atomic_files import atomic_write, require_writable, write_text_atomically
from hierrouter_jax.core.configs import from_json_dict, read_json, to_json_dict
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.budget import Budget
from hierrouter_jax.crowd.comparison.assign import assign_people
from hierrouter_jax.crowd.comparison.chain_or_prompt import JUDGE_ROLE, QUESTION, compare_chain
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput, read_inputs
from hierrouter_jax.crowd.comparison.matrix import Matrix, Reference, RunPipeline, compare_workers, perfect_crew
from hierrouter_jax.crowd.comparison.probe import probe_instructions
from hierrouter_jax.crowd.crew import DEFAULT_CREW, load_crew
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.open_crew import Openers, open_crew
from hierrouter_jax.crowd.registry import ONE_PROMPT_ROLE, Algorithm, algorithm
from hierrouter_jax.crowd.run_records import config_of, run_identity
from hierrouter_jax.crowd.runner import Crew, Runner, RunOutcome
from hierrouter_jax.crowd.subtasks import Pipeline
from hierrouter_jax.report.crowd_report import (
    assignment_table,
    chain_figure,
    chain_page,
    chain_table,
    has_estimates,
    matrix_figure,
    matrix_page,
    matrix_table,
    probe_figure,
    probe_page,
    probe_table,
)
from hierrouter_jax.report.tables import Table, markdown_table
from hierrouter_jax.report.themes import png_bytes
from hierrouter_jax.store.response_store import ResponseStore

GOLD = "gold"


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    algorithm: Annotated[str, tyro.conf.Positional]
    """Its name: see `hierrouter crowd list`."""
    inputs: Path
    """Inputs, JSONL: {"text": ..., "gold": {...}} a line."""
    options: tuple[str, ...] = ()
    """Options of the algorithm, such as num_votes=3."""
    crew: Path | None = None
    """Crew file (TOML) with the workers; by default all models of the packaged pool."""
    num_inputs: int | None = None
    """Only the first inputs."""
    store: Path = DEFAULT_STORE
    """Response store with the journal: a comparison that was cut short goes on."""
    max_calls: int | None = None
    """Answers of one run at most."""
    json: Path | None = None
    """Write the numbers there as JSON."""
    out: Path | None = None
    """A folder for table, picture, page and JSON."""


@dataclass(frozen=True, kw_only=True)
class CompareWorkers(_Comparison):
    """Ask every worker for every sub-task, with what came before it frozen, and grade the answers."""

    workers: tuple[str, ...] = ()
    """Names of workers of the crew; by default all but people and mixes."""
    reference: str = GOLD
    """Who fills the roles before a step: "gold" (what the inputs say is right), or a crew file."""
    redundancy: int = 1
    """Answers of each worker to each sub-task."""


@dataclass(frozen=True, kw_only=True)
class CompareChain(_Comparison):
    """Run the algorithm and its one-prompt baseline; judges of role "judge" compare them blind."""

    num_judges: int = 5
    """Votes an input; 0: results are graded alone."""
    question: str = QUESTION
    """What judges are asked."""
    seed: int = 0
    """Seed of the order in which results are shown."""


@dataclass(frozen=True, kw_only=True)
class ProbeInstructions(CompareWorkers):
    """Ask for one sub-task in several phrasings, and grade the answers."""

    subtask: str
    """The sub-task, by its name."""
    phrasings: Path
    """JSON: names of phrasings to instructions."""


@dataclass(frozen=True, kw_only=True)
class AssignPeople:
    """Say which sub-tasks to give to people at a budget, from a matrix."""

    matrix: Path
    """The JSON of `hierrouter crowd matrix`."""
    budget: float
    """What people may cost a run."""
    people: str = "people"
    """The worker of the matrix that stands for people, if it has one."""
    people_score: float = 1.0
    """How well people do where the matrix does not say it, in [0, 1]."""
    people_cost: float = 1.0
    """Cost of one answer of theirs."""
    json: Path | None = None
    """Write the assignment there as JSON."""


Command = (
    Annotated[CompareWorkers, tyro.conf.subcommand("matrix")]
    | Annotated[CompareChain, tyro.conf.subcommand("compare")]
    | Annotated[ProbeInstructions, tyro.conf.subcommand("probe")]
    | Annotated[AssignPeople, tyro.conf.subcommand("assign")]
)


def run_comparison(command: CompareWorkers | CompareChain | ProbeInstructions | AssignPeople) -> None:
    """Do what the subcommand says."""
    match command:
        case ProbeInstructions():
            run_probe(command)
        case CompareWorkers():
            run_matrix(command)
        case CompareChain():
            run_compare(command)
        case AssignPeople():
            run_assign(command)


def run_matrix(command: CompareWorkers) -> None:
    """Compare workers by sub-task."""
    with _comparison(command, command.workers) as opened:
        matrix = compare_workers(
            opened.found,
            opened.config,
            opened.inputs,
            reference=opened.reference,
            workers=opened.crew,
            names=opened.names,
            run=opened.run,
            redundancy=command.redundancy,
        )
    _show(
        command,
        to_json_dict(matrix),
        stem=f"{matrix.algorithm}_matrix",
        table=matrix_table(matrix),
        page=lambda: matrix_page(matrix),
        figure=lambda: matrix_figure(matrix),
    )


def run_compare(command: CompareChain) -> None:
    """Compare a chain with one prompt."""
    roles = (ONE_PROMPT_ROLE,) + ((JUDGE_ROLE,) if command.num_judges else ())
    with _comparison(command, roles=roles) as opened:
        comparison = compare_chain(
            opened.found,
            opened.config,
            opened.inputs,
            crew=opened.crew,
            run=opened.run,
            num_judges=command.num_judges,
            question=command.question,
            seed=command.seed,
        )
    name = "all models" if command.crew is None else command.crew.stem
    named = [(name, comparison)]
    _show(
        command,
        to_json_dict(comparison),
        stem=f"{comparison.algorithm}_compare",
        table=chain_table(named),
        page=lambda: chain_page(named),
        figure=(lambda: chain_figure(named)) if has_estimates(named) else None,
    )


def run_probe(command: ProbeInstructions) -> None:
    """Compare phrasings of one sub-task."""
    phrasings = read_json(command.phrasings)
    if not phrasings or not all(isinstance(words, str) and words.strip() for words in phrasings.values()):
        raise ConfigError(f"{command.phrasings} must map names of phrasings to instructions, texts that are not empty.")
    with _comparison(command, command.workers) as opened:
        probe = probe_instructions(
            opened.found,
            opened.config,
            opened.inputs,
            phrasings,
            subtask=command.subtask,
            reference=opened.reference,
            workers=opened.crew,
            names=opened.names,
            run=opened.run,
            redundancy=command.redundancy,
        )
    _show(
        command,
        to_json_dict(probe),
        stem=f"{probe.algorithm}_probe_{probe.subtask}",
        table=probe_table(probe),
        page=lambda: probe_page(probe),
        figure=lambda: probe_figure(probe),
    )


def run_assign(command: AssignPeople) -> None:
    """Assign people from a matrix."""
    matrix = from_json_dict(Matrix, read_json(command.matrix), what=str(command.matrix))
    assignment = assign_people(
        matrix,
        budget=command.budget,
        people=command.people,
        people_score=command.people_score,
        people_cost=command.people_cost,
    )
    print_table(assignment_table(assignment))
    write_json(command.json, to_json_dict(assignment))


def _show(
    command: _Comparison,
    data: dict[str, Any],
    *,
    stem: str,
    table: Table,
    page: Callable[[], str],
    figure: Callable[[], Figure] | None,
) -> None:
    """Print the table, and write what was asked for."""
    print_table(table)
    write_json(command.json, data)
    if command.out is None:
        return
    command.out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(command.out / f"{stem}.md", markdown_table(table))
    write_text_atomically(command.out / f"{stem}.html", page())
    write_json(command.out / f"{stem}.json", data)
    if figure is not None:
        with atomic_write(command.out / f"{stem}.png") as file:
            file.write(png_bytes(figure()))
    print_lines([f"table, picture, page and numbers: {command.out}"])


class _Opened(NamedTuple):
    """What a comparison works with."""

    found: Algorithm
    config: Any
    inputs: list[GradedInput]
    crew: Crew
    names: tuple[str, ...]
    reference: Reference
    run: RunPipeline


@contextmanager
def _comparison(command: _Comparison, names: tuple[str, ...] = (), *, roles: tuple[str, ...] = ()) -> Iterator[_Opened]:
    """Yield what a comparison works with. Runs are named after everything that they depend on."""
    found = algorithm(command.algorithm)
    config = config_of(found, command.options)
    if command.num_inputs is not None and command.num_inputs < 1:
        raise ConfigError(f"--num-inputs must be >= 1, but is {command.num_inputs}.")
    inputs = read_inputs(command.inputs)[: command.num_inputs]
    crew_config = DEFAULT_CREW if command.crew is None else load_crew(command.crew)
    if command.json is not None:
        require_writable(command.json)
    chosen = names or tuple(name for name, one in crew_config.workers.items() if one.kind not in ("people", "mix"))
    if unknown := sorted(set(chosen) - set(crew_config.workers)):
        raise ConfigError(f"Workers must be of the crew ({', '.join(crew_config.workers)}), but are {unknown}.")
    needed = (*found.roles_of(config), *roles) if roles else tuple(f"@{name}" for name in chosen)
    identity = run_identity(config, [to_json_dict(one) for one in inputs], crew_config.to_json())[:10]
    with (
        ResponseStore(command.store) as store,
        openers(command.store) as opening,
        Journal(command.store) as journal,
        answers_status(f"comparing {found.name}", command.store) as on_change,
    ):
        crew = open_crew(crew_config, store, opening, roles=needed)
        reference = _reference(command, found, store, opening)

        def run(pipeline: Pipeline, crew_of_run: Crew, label: str) -> RunOutcome:
            budget = Budget(max_calls=command.max_calls)
            runner = Runner(crew_of_run, journal, f"{identity}/{label}", budget=budget, on_change=on_change)
            return runner.run(pipeline)

        yield _Opened(found, config, inputs, crew, chosen, reference, run)


def _reference(command: _Comparison, found: Algorithm, store: ResponseStore, opening: Openers) -> Reference:
    """Return who fills the roles before a step."""
    if not isinstance(command, CompareWorkers) or command.reference == GOLD:
        return perfect_crew(found)
    crew = open_crew(
        load_crew(Path(command.reference)), store, opening, roles=found.roles_of(config_of(found, command.options))
    )
    return lambda one: crew
