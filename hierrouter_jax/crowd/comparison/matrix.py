"""Models by sub-task: every sub-task of an algorithm is asked of every worker, with what came before it frozen.

A reference crew takes each input through the algorithm once. Its sub-tasks are what each worker is then asked, one
sub-task at a time, so that all of them see the same inputs at every step, whatever they would have made of the steps
before. An answer is scored by what a perfect worker would say (arXiv:2307.10168, comparing models by sub-task).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput
from hierrouter_jax.crowd.comparison.grading import perfect_answer, step_score
from hierrouter_jax.crowd.comparison.intervals import Estimate, mean_estimate
from hierrouter_jax.crowd.registry import Algorithm
from hierrouter_jax.crowd.runner import Crew, RunOutcome
from hierrouter_jax.crowd.subtasks import Contribution, Pipeline, Step, SubTask, alone, side_by_side
from hierrouter_jax.crowd.workers.mix import worker_role
from hierrouter_jax.crowd.workers.scripted_worker import ScriptedWorker

Reference = Callable[[GradedInput], Crew]
RunPipeline = Callable[[Pipeline, Crew, str], RunOutcome]  # pipeline, crew, name of the run in the journal


@dataclass(frozen=True, kw_only=True)
class Cell:
    """How well one worker does one sub-task. `usable` is the share of answers that fit their schema."""

    score: Estimate
    usable: float
    num_asked: int
    cost: float  # of one answer


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Cells by sub-task, then by worker; `calls` is how often a run asks each sub-task, on average."""

    algorithm: str
    cells: Mapping[str, Mapping[str, Cell]]
    calls: Mapping[str, float]
    num_inputs: int


def compare_workers(
    found: Algorithm,
    config: Any,
    inputs: Sequence[GradedInput],
    *,
    reference: Reference,
    workers: Crew,
    names: Sequence[str],
    run: RunPipeline,
    redundancy: int = 1,
) -> Matrix:
    """Return how well each of the workers `names` of the crew `workers` does each sub-task of an algorithm.

    The crew that `reference` gives for an input fills the roles before a step; each sub-task is asked `redundancy`
    times of each worker. Runs go through the journal, so a comparison that was cut short goes on. Raises `DataError`
    when the reference does not come through, or a budget ends a run.
    """
    frozen = [subtasks_of(found, config, one, reference, run, index) for index, one in enumerate(inputs)]
    kinds = list(dict.fromkeys(subtask.name for own in frozen for subtask in own))
    cells = {
        kind: {
            name: compare_subtasks(
                found,
                inputs,
                [[subtask for subtask in own if subtask.name == kind] for own in frozen],
                worker=name,
                workers=workers,
                run=run,
                redundancy=redundancy,
                label=f"matrix/{kind}",
            )
            for name in names
        }
        for kind in kinds
    }
    calls = {kind: sum(s.name == kind for own in frozen for s in own) / len(inputs) for kind in kinds}
    return Matrix(algorithm=found.name, cells=cells, calls=calls, num_inputs=len(inputs))


def perfect_crew(found: Algorithm) -> Reference:
    """Return a reference that answers as the gold says: what is asked then does not depend on any model."""

    def crew(one: GradedInput) -> Crew:
        worker = ScriptedWorker(lambda ask: perfect_answer(found.name, ask.subtask, ask.slot, one), kins=("gold",))
        return Crew(workers={"gold": worker}, roles={"*": "gold"})

    return crew


def compare_subtasks(
    found: Algorithm,
    inputs: Sequence[GradedInput],
    subtasks: Sequence[Sequence[SubTask]],
    *,
    worker: str,
    workers: Crew,
    run: RunPipeline,
    redundancy: int,
    label: str,
) -> Cell:
    """Return how well one worker does the given sub-tasks, a list an input."""
    asked = [[_asked_of(worker, subtask, redundancy) for subtask in own] for own in subtasks]
    outcome = run(side_by_side([alone(one) for own in asked for one in own]), workers, f"{label}/{found.name}/{worker}")
    require_done(outcome, f"asking {worker} ({label})")
    answers = iter(outcome.result)
    return _cell(found, inputs, asked, [[next(answers) for _ in own] for own in asked], outcome)


def subtasks_of(
    found: Algorithm, config: Any, one: GradedInput, reference: Reference, run: RunPipeline, index: int
) -> list[SubTask]:
    """Return every sub-task that the reference crew meets on one input, in order."""
    seen: list[SubTask] = []
    outcome = run(
        _recorded(found.make(one.text, config), seen), reference(one), f"matrix/{found.name}/reference/{index}"
    )
    require_done(outcome, f"the reference run of input {index}")
    return seen


def _recorded(pipeline: Pipeline, seen: list[SubTask]) -> Pipeline:
    """Pass a pipeline on, and note its sub-tasks."""
    value, error = None, None
    while True:
        try:
            step: Step = pipeline.send(value) if error is None else pipeline.throw(error)
        except StopIteration as stop:
            return stop.value
        value, error = None, None
        if isinstance(step, SubTask):
            seen.append(step)
        else:
            step = dataclasses.replace(step, branches=[_recorded(branch, seen) for branch in step.branches])
        try:
            value = yield step
        except Exception as raised:
            error = raised


def _asked_of(worker: str, subtask: SubTask, redundancy: int) -> SubTask:
    """Return the first slots of a sub-task put to one worker, so many (more see the first's inputs), nobody barred."""
    slots = [slot if slot < subtask.redundancy else 0 for slot in range(redundancy)]
    return dataclasses.replace(
        subtask,
        role=worker_role(worker),
        inputs_by_slot=tuple(subtask.inputs_by_slot[slot] for slot in slots) if subtask.inputs_by_slot else (),
        redundancy=redundancy,
        barred=(),
        asked_before=(),
        min_contributions=0,
    )


def _cell(
    found: Algorithm,
    inputs: Sequence[GradedInput],
    asked: Sequence[Sequence[SubTask]],
    answered: Sequence[Sequence[Sequence[Contribution]]],
    outcome: RunOutcome,
) -> Cell:
    """Score the answers: a mean an input, an answer that is not usable counting 0; then the mean over inputs."""
    means: list[float] = []
    num_asked = num_usable = 0
    for one, subtasks, answers in zip(inputs, asked, answered, strict=True):
        scores: list[float] = []
        for subtask, usable in zip(subtasks, answers, strict=True):
            own = [
                step_score(found.name, subtask, contribution.slot, contribution.value, one) for contribution in usable
            ]
            if own and own[0] is None:
                continue  # the step says nothing of right or wrong here
            num_asked += subtask.redundancy
            num_usable += len(usable)
            scores.append(sum(score for score in own if score is not None) / subtask.redundancy)
        if scores:
            means.append(sum(scores) / len(scores))
    if not means:
        raise DataError(f"No input of {found.name} says what is right at this sub-task; give gold.")
    return Cell(
        score=mean_estimate(means),
        usable=num_usable / max(num_asked, 1),
        num_asked=num_asked,
        cost=outcome.spent.cost / max(outcome.spent.num_calls, 1),
    )


def require_done(outcome: RunOutcome, what: str) -> None:
    """Raise `DataError` unless a run came through."""
    if outcome.status != "done":
        raise DataError(f"A comparison needs {what} to come through, but it is {outcome.status}: {outcome.reason}.")
