"""Large tasks by Price-Divide-Solve (Kulkarni et al. 2011, Turkomatic): the crowd plans its own work.

    solved(task, depth):
        if depth == 0 or price(task):   return vote(solve(task))
        steps = vote(divide(task))
        return vote(merge(task, [solved(step, depth - 1) for step in steps, side by side]))

Where something fails, the rest goes on: a task that nobody can divide is solved as a whole, a division that the editor
gives no usable answer to stays as it is, and a merge does without the steps that were not solved. A task fails when all
its steps fail, or where nobody prices, solves, merges or votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.algorithms.examples import DIVIDE, MAX_EXAMPLES, fitting
from hierrouter_jax.crowd.output_schemas import YES, YES_NO, ItemsSchema, TextSchema
from hierrouter_jax.crowd.subtasks import (
    Contribution,
    Input,
    Pipeline,
    SubTask,
    SubTaskFailedError,
    Together,
    checked_text,
    contributors,
    values,
)
from hierrouter_jax.crowd.votes import LABELS, Candidate, vote


@dataclass(frozen=True, kw_only=True)
class PriceDivideSolveConfig:
    """Turkomatic's numbers: 3 answers to everything, two minutes, 2 to 5 steps. The depth is ours."""

    num_votes: int = 3
    num_solutions: int = 3
    num_divisions: int = 3
    num_merges: int = 3
    max_depth: int = 2  # how often a task may be divided, and its steps again
    min_steps: int = 2
    max_steps: int = 5
    minutes: int = 2
    shows_whole: bool = True  # a step is shown with the whole task that it is a part of
    edits_plan: bool = False  # each winning division goes to the editor, who may change its steps
    max_chars: int = 1200
    num_examples: int = MAX_EXAMPLES  # that a worker is shown at most
    price: str = "Can one person do this task well in the time that is given?"
    divide: str = (
        "Divide this task into steps that different people can do at the same time. Each step must say all that is "
        "needed to do it."
    )
    solve: str = "Do this task."
    merge: str = "The parts of this task are done. Put them together into one result of the whole task."
    choose_division: str = "This task was divided into steps in several ways. Which way is best?"
    choose_solution: str = "This task was done several times. Which result is best?"
    choose_merge: str = "The parts of this task were put together several times. Which result is best?"
    edit: str = "This task is to be done in these steps. Write the steps as they should be, changed or as they are."
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to do."""
        for name, least in {
            "num_votes": 1,
            "minutes": 1,
            "max_chars": 1,
            "max_depth": 0,
            "min_steps": 2,
            "num_examples": 0,
        }.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be >= {least}, but is {getattr(self, name)}.")
        for name in ("num_solutions", "num_divisions", "num_merges"):
            if not 1 <= getattr(self, name) <= len(LABELS):
                raise ConfigError(f"{name} must be >= 1 and <= {len(LABELS)}, but is {getattr(self, name)}.")
        if self.max_steps < self.min_steps:
            raise ConfigError(f"max_steps must be >= min_steps, {self.min_steps}, but is {self.max_steps}.")


ROLES = ("price", "divide", "solve", "merge", "vote")
EDITOR_ROLE = "editor"  # asked with `edits_plan`


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A task, or the step of one, and the inputs by which it is shown."""

    text: str
    depth: int  # how often it may still be divided
    shown: dict[str, Input]


def price_divide_solve(task: str, config: PriceDivideSolveConfig) -> Pipeline:
    """Return the pipeline for a task in words.

    Its result has the `text` of the solution, and the `plan`: a tree of {"task": ..., "steps": [...]}; a step that
    failed has the `problem` as well.
    """
    task = checked_text(task, what="task")
    text, plan = yield from _solved(_Task(text=task, depth=config.max_depth, shown={"task": task}), config)
    return {"text": text, "plan": plan}


def one_prompt(task: str, config: PriceDivideSolveConfig) -> Pipeline:
    """Return the baseline: one worker, one prompt."""
    task = checked_text(task, what="task")
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.solve,
        inputs={"task": task},
        schema=TextSchema(max_chars=config.max_chars),
    )
    return {"text": found.value}


def _solved(task: _Task, config: PriceDivideSolveConfig) -> Pipeline:
    """Return the solution of a task, with its plan."""
    is_small = task.depth == 0 or (yield from _is_cheap(task, config))
    steps = [] if is_small else (yield from _divided(task, config))
    if not steps:
        text = yield from _best_text("solve", config.solve, config.choose_solution, config.num_solutions, task, config)
        return text, {"task": task.text, "steps": []}
    done = yield Together([_solved(_step(step, task, config), config) for step in steps], keeps_failures=True)
    failures = [one for one in done if isinstance(one, SubTaskFailedError)]
    if len(failures) == len(done):
        raise failures[0]
    solved = [(step, one) for step, one in zip(steps, done, strict=True) if not isinstance(one, SubTaskFailedError)]
    whole = replace(task, shown={**task.shown, "parts": [f"{step}\n{text}" for step, (text, _) in solved]})
    text = yield from _best_text("merge", config.merge, config.choose_merge, config.num_merges, whole, config)
    return text, {"task": task.text, "steps": [_plan(step, one) for step, one in zip(steps, done, strict=True)]}


def _is_cheap(task: _Task, config: PriceDivideSolveConfig) -> Pipeline:
    """Price: say whether more than half find the task small enough; with a tie it is divided."""
    found = yield SubTask(
        name="price",
        role="price",
        instructions=config.price,
        inputs={**task.shown, "time": f"{config.minutes} minute{'' if config.minutes == 1 else 's'}"},
        schema=YES_NO,
        redundancy=config.num_votes,
    )
    return 2 * values(found).count(YES) > len(found)


def _divided(task: _Task, config: PriceDivideSolveConfig) -> Pipeline:
    """Divide: the steps that are voted for, edited where that is wanted; none where nobody can divide the task."""
    schema = ItemsSchema(min_items=config.min_steps, max_items=config.max_steps)
    try:
        found = yield SubTask(
            name="divide",
            role="divide",
            instructions=config.divide,
            inputs=task.shown,
            schema=schema,
            redundancy=config.num_divisions,
            examples=fitting(DIVIDE, schema, num=config.num_examples),
        )
    except SubTaskFailedError:
        return []
    divisions = {_as_lines(one.value): one.value for one in found}
    lines = yield from _best("division", config.choose_division, _candidates(found), task, config)
    steps = divisions[lines]
    if not config.edits_plan:
        return steps
    found = yield SubTask(
        name="edit-plan",
        role=EDITOR_ROLE,
        instructions=config.edit,
        inputs={**task.shown, "steps": steps},
        schema=schema,
        min_contributions=0,
    )
    return found[0].value if found else steps


def _step(text: str, parent: _Task, config: PriceDivideSolveConfig) -> _Task:
    whole = parent.shown.get("whole task", parent.text)
    shown: dict[str, Input] = {"whole task": whole, "task": text} if config.shows_whole else {"task": text}
    return _Task(text=text, depth=parent.depth - 1, shown=shown)


def _plan(step: str, done: Any) -> dict[str, Any]:
    if isinstance(done, SubTaskFailedError):
        return {"task": step, "steps": [], "problem": str(done)}
    return done[1]


def _best_text(
    role: str, instructions: str, choose: str, redundancy: int, task: _Task, config: PriceDivideSolveConfig
) -> Pipeline:
    """Return the text that is voted for, of several that are made independently."""
    found = yield SubTask(
        name=role,
        role=role,
        instructions=instructions,
        inputs=task.shown,
        schema=TextSchema(max_chars=config.max_chars),
        redundancy=redundancy,
    )
    return (yield from _best(role, choose, _candidates(found), task, config))


def _candidates(found: Sequence[Contribution]) -> list[Candidate]:
    """Return what was made, equal ones once, with all who made it."""
    makers: dict[str, list[str]] = {}
    for one in found:
        makers.setdefault(_as_lines(one.value), []).extend(contributors([one]))
    return [Candidate(text=text, by=tuple(by)) for text, by in makers.items()]


def _as_lines(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "\n".join(f"{place}. {one}" for place, one in enumerate(value, start=1))


def _best(
    what: str, instructions: str, candidates: Sequence[Candidate], task: _Task, config: PriceDivideSolveConfig
) -> Pipeline:
    result = yield from vote(
        candidates,
        name=f"vote-{what}",
        role="vote",
        instructions=instructions,
        inputs=task.shown,
        num_votes=config.num_votes,
        seed=config.seed,
    )
    return candidates[result.winner].text
