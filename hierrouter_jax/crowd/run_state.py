"""Where a run stands: its branches, the sub-tasks that are being answered, their slots; what the runner works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hierrouter_jax.core.configs import digest
from hierrouter_jax.crowd.journal import Answer, Place
from hierrouter_jax.crowd.output_schemas import Refused
from hierrouter_jax.crowd.subtasks import Contribution, Pipeline, SubTask, SubTaskFailedError, Together
from hierrouter_jax.crowd.workers.worker import Ask, Contributor, Reply


@dataclass(eq=False)
class Slot:
    """One answer that is wanted of a sub-task."""

    asked: Asked
    place: Place
    contributor: Contributor | None  # None: a person, known once they answer
    number: int  # slots are asked in the order in which they were opened
    attempts: list[Answer] = field(default_factory=list)  # that gave nothing usable
    contribution: Contribution | None = None
    is_over: bool = False


@dataclass(eq=False)
class Asked:
    """A sub-task whose slots are being answered by `worker`."""

    subtask: SubTask
    branch: Branch
    worker: str = ""
    digest: str = ""
    slots: list[Slot] = field(default_factory=list)
    num_open: int = 0


@dataclass(eq=False)
class Branch:
    """One generator and where it stands."""

    path: str
    generator: Pipeline
    parent: Branch | None = None
    place: int = 0  # among its parent's children
    num_steps: int = 0
    asked: Asked | None = None
    together: Together | None = None
    results: dict[int, Any] = field(default_factory=dict)


class Move(NamedTuple):
    """What a branch waits for has come: a value, or an error."""

    branch: Branch
    value: Any = None
    error: SubTaskFailedError | None = None


def positions(step: str) -> Iterator[tuple[str, int]]:
    """Yield where the path of a step stands in each branch that it leads through: the branch's path, the number."""
    path, parts = "", step.split("/")
    for index in range(0, len(parts), 2):
        yield path, int(parts[index].split(":", 1)[0])
        path += "/".join([*parts[index : index + 2], ""])


def handed_over(asked: Asked, found: tuple[Contribution, ...]) -> Move:
    """Return the move of the branch that asked: its contributions, or that they are too few."""
    subtask = asked.subtask
    if len(found) >= subtask.min_contributions:
        return Move(asked.branch, found)
    last = [slot.attempts[-1] for slot in asked.slots if slot.attempts]
    why = ""
    if last:
        what = "the last attempt failed" if last[-1].is_failure else "the last was refused"
        why = f"; {what} because {last[-1].refusal}"
    return Move(
        asked.branch,
        error=SubTaskFailedError(
            f"Sub-task {subtask.name} needs {subtask.min_contributions} usable answers, but got {len(found)} of "
            f"{subtask.redundancy}{why}."
        ),
    )


def ask_of(slot: Slot) -> Ask:
    """Return what a slot's contributor is asked next; its seed is that of the step, the contributor and the attempt."""
    assert slot.contributor is not None
    identity = [slot.asked.digest, slot.place.step, slot.contributor.name, len(slot.attempts)]
    return Ask(
        subtask=slot.asked.subtask,
        slot=slot.place.slot,
        contributor=slot.contributor,
        seed=int(digest(identity)[:7], 16),
        refusals=tuple(one.refusal for one in slot.attempts if one.refusal is not None and not one.is_failure),
    )


def answer_of(ask: Ask, reply: Reply, asked: str) -> Answer:
    """Return a reply as an answer: read by the schema, or refused. Halves of characters, which no file holds, go."""
    text = reply.text.encode("utf-8", "replace").decode("utf-8")
    value, refusal = None, reply.failure
    if refusal is None:
        try:
            value = ask.subtask.schema.parse(text)
        except Refused as why:
            refusal = str(why)
    return Answer(
        asked=asked,
        contributor=ask.contributor.name,
        kin=ask.contributor.kin,
        text=text,
        value=value,
        refusal=refusal,
        is_failure=reply.failure is not None,
        cost=reply.cost,
    )
