"""A mix of workers: members answer first, and where they disagree another decides (two models, then a person)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.subtasks import (
    MIXED,
    Contribution,
    Pipeline,
    SubTask,
    SubTaskFailedError,
    Together,
    alone,
    values,
)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Names of workers of the crew: `members` answer every slot, `decider` where their answers are not all equal."""

    members: tuple[str, ...]
    decider: str

    def __post_init__(self) -> None:
        """Refuse a mix that cannot disagree."""
        if len(self.members) < 2:
            raise ConfigError(f"A mix needs two or more members who may disagree, but has {self.members}.")


def worker_role(worker: str) -> str:
    """Return the role by which a mix asks one worker of the crew directly."""
    return f"@{worker}"


def mixed_contributions(mix: Mix, subtask: SubTask) -> Pipeline:
    """Ask a sub-task of a mix; returns its contributions, as the sub-task itself would.

    Each member answers every slot; the slots on which not all of them agree go to the decider, as the slots of one
    sub-task, so that nobody decides two of them. A member without a usable answer agrees with nobody. Where the
    decider has none either, what it says of that is raised, if too few contributions are left.
    """
    asked = replace(subtask, min_contributions=1)
    groups = yield Together(
        [alone(replace(asked, role=worker_role(member))) for member in mix.members], keeps_failures=True
    )
    given = [one for group in groups if not isinstance(group, SubTaskFailedError) for one in group]
    by_slot = [[one for one in given if one.slot == slot] for slot in range(subtask.redundancy)]
    found = {
        slot: _together(slot, answers)
        for slot, answers in enumerate(by_slot)
        if len(answers) == len(mix.members) and agree(values(answers))
    }
    if disputed := [slot for slot in range(subtask.redundancy) if slot not in found]:
        try:
            decided = yield _decision(mix, asked, disputed)
        except SubTaskFailedError:
            if len(found) < subtask.min_contributions:
                raise
            decided = ()
        found |= {disputed[one.slot]: replace(one, slot=disputed[one.slot]) for one in decided}
    return tuple(found[slot] for slot in sorted(found))


def _decision(mix: Mix, subtask: SubTask, slots: Sequence[int]) -> SubTask:
    return replace(
        subtask,
        name=f"{subtask.name}-disputed",
        role=worker_role(mix.decider),
        inputs_by_slot=tuple(subtask.inputs_by_slot[slot] for slot in slots) if subtask.inputs_by_slot else (),
        redundancy=len(slots),
    )


def _together(slot: int, answers: Sequence[Contribution]) -> Contribution:
    """Return the one answer of several members."""
    return Contribution(
        contributor=MIXED.join(one.contributor for one in answers),
        kin=MIXED.join(one.kin for one in answers),
        value=answers[0].value,
        slot=slot,
    )


def agree(answers: Sequence[Any]) -> bool:
    """Say whether all answers are the same, texts apart from case and spaces."""
    return len({_normal(answer) for answer in answers}) == 1


def _normal(answer: Any) -> str:
    return " ".join(str(answer).casefold().split())
