"""What every worker answers to: who takes each slot of a sub-task, and how asks are answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hierrouter_jax.core.errors import HierRouterError
from hierrouter_jax.crowd.subtasks import SubTask


class NoContributorError(HierRouterError):
    """Nobody of a role may take a slot: all are barred."""


@dataclass(frozen=True, kw_only=True)
class Contributor:
    """Who answers: a name of its own, and its kin, whose answers are alike (a model, whatever the sample)."""

    name: str
    kin: str
    persona: str = ""  # said to the worker before the instructions, so that redundant answers differ


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One slot of a sub-task, asked of a contributor. `refusals` say why earlier texts of the slot were refused."""

    subtask: SubTask
    slot: int
    contributor: Contributor
    seed: int  # decides what a sampled answer is
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a worker said; `failure` where it said nothing. `cost` is in thousands of tokens of the dearest model."""

    text: str = ""
    cost: float = 0.0
    failure: str | None = None


OnReply = Callable[[int, Reply], None]


@runtime_checkable
class Worker(Protocol):
    """Answers asks at once, as models do. `on_reply` is called once an ask, in any order, when its reply is there."""

    def assign(self, subtask: SubTask, step: str) -> list[Contributor]:
        """Return who takes each slot; depends on the arguments alone. Raises `NoContributorError`."""
        ...

    def answer(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        """Answer all asks."""
        ...


@dataclass(frozen=True, kw_only=True)
class People:
    """People who take tickets from the journal's queue; who, is seen when one is taken."""

    lease_s: float = 900.0
    cost: float = 0.0  # of one answer


def samples_of(
    kins: Sequence[str], subtask: SubTask, *, offset: int, personas: Sequence[str] = (), bars_kin: bool = False
) -> list[Contributor]:
    """Return contributors for all slots: the kins in turn from `offset` on, then their further samples.

    Sample k of a kin is named `kin#k`; personas go round over all samples of all kins. Names that the sub-task is not
    open to are passed over; with `bars_kin` so are all samples of a kin of which one is barred. Raises
    `NoContributorError` when none is left.
    """
    barred_kins = {name.rsplit("#", 1)[0] for name in subtask.barred} if bars_kin else set()
    free = [kin for kin in kins if kin not in barred_kins]
    if not free:
        raise NoContributorError(
            f"Sub-task {subtask.name} needs a worker who had no part in what it judges, but role {subtask.role} has "
            f"only {', '.join(kins)}; add a model to the role, or set bars_kin to false."
        )
    found: list[Contributor] = []
    sample = 0
    while len(found) < subtask.redundancy:
        for place in range(len(free)):
            kin = free[(offset + place) % len(free)]
            name = f"{kin}#{sample}"
            if subtask.is_open_to(name) and len(found) < subtask.redundancy:
                persona = personas[(sample * len(free) + place) % len(personas)] if personas else ""
                found.append(Contributor(name=name, kin=kin, persona=persona))
        sample += 1
    return found
