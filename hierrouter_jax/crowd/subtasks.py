"""The vocabulary of pipelines: sub-tasks that are asked, contributions that come back, branches that run side by side.

A pipeline is a generator. It yields a `SubTask` and receives its contributions, a tuple in the order of their slots,
or yields `Together` of pipelines and receives what each returned. It does no I/O and knows no worker: who answers, how
and when, is the runner's affair. Given the same contributions it yields the same sub-tasks, so a run that was killed is
run again from its journal (TurKit's crash-and-rerun, Little et al. 2010).
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.text import is_unicode
from hierrouter_jax.crowd.output_schemas import Schema, is_blank, schema_from_json, schema_to_json, without_controls

Input = str | list[str]
MIXED = " & "  # between the names of a mix's members who gave one answer


class SubTaskFailedError(DataError):
    """A sub-task that got fewer usable contributions than its pipeline needs; a pipeline may catch it and go on."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sub-task like the one that is asked, and its answer as a worker writes it."""

    inputs: Mapping[str, Input]
    answer: str


@dataclass(frozen=True, kw_only=True)
class SubTask:
    """One thing asked of `redundancy` workers of a role.

    `inputs` are shown under their names, in their order; `inputs_by_slot`, where given, adds what each slot sees alone,
    such as options in an order of its own. `barred` are contributors who may not answer, such as those
    whose work is judged; `asked_before` are those who have answered it already and are not asked twice, while others
    of their kin may be asked. With fewer than `min_contributions` usable answers the sub-task fails. `examples` are
    shown before the inputs.
    """

    name: str
    role: str
    instructions: str
    schema: Schema
    inputs: Mapping[str, Input] = field(default_factory=dict)
    inputs_by_slot: tuple[Mapping[str, Input], ...] = ()
    redundancy: int = 1
    barred: tuple[str, ...] = ()
    asked_before: tuple[str, ...] = ()
    min_contributions: int = 1
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what nobody could answer."""
        if not self.name or "/" in self.name or not self.role:
            raise ConfigError(f"A sub-task needs a name without / and a role, but has {self.name!r}, {self.role!r}.")
        if not 0 <= self.min_contributions <= self.redundancy or self.redundancy < 1:
            raise ConfigError(
                f"Sub-task {self.name} must be asked of 1 or more, and need no more contributions than that, but is "
                f"asked of {self.redundancy} and needs {self.min_contributions}."
            )
        if self.inputs_by_slot and len(self.inputs_by_slot) != self.redundancy:
            raise ConfigError(
                f"Sub-task {self.name} must have inputs for each of its {self.redundancy} slots, or none by slot, but "
                f"has {len(self.inputs_by_slot)}."
            )

    def inputs_of(self, slot: int) -> dict[str, Input]:
        """Return what one slot is shown."""
        return dict(self.inputs) | (dict(self.inputs_by_slot[slot]) if self.inputs_by_slot else {})

    def is_open_to(self, name: str) -> bool:
        """Say whether a contributor of that name may answer."""
        return name not in self.barred and name not in self.asked_before

    def to_json(self) -> dict[str, Any]:
        """Return the sub-task as JSON values."""
        return {
            "name": self.name,
            "role": self.role,
            "instructions": self.instructions,
            "schema": schema_to_json(self.schema),
            "inputs": [[name, value] for name, value in self.inputs.items()],
            "inputs_by_slot": [[[name, value] for name, value in own.items()] for own in self.inputs_by_slot],
            "redundancy": self.redundancy,
            "barred": list(self.barred),
            "asked_before": list(self.asked_before),
            "min_contributions": self.min_contributions,
            "examples": [[list(map(list, one.inputs.items())), one.answer] for one in self.examples],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SubTask:
        """Return the sub-task of JSON values."""
        fields = dict(data)
        fields["schema"] = schema_from_json(fields["schema"])
        fields["inputs"] = dict(fields["inputs"])
        fields["inputs_by_slot"] = tuple(dict(own) for own in fields["inputs_by_slot"])
        fields["barred"], fields["asked_before"] = tuple(fields["barred"]), tuple(fields["asked_before"])
        fields["examples"] = tuple(Example(inputs=dict(inputs), answer=answer) for inputs, answer in fields["examples"])
        return cls(**fields)

    def digest(self) -> str:
        """Return the identity of what is asked."""
        return digest(self.to_json())


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """A usable answer of one slot. `value` is what the schema's `parse` returned."""

    contributor: str  # who: a model with the number of its sample, a router, a person's name
    kin: str  # whose answers are alike: the model, the person
    value: Any
    slot: int


@dataclass(frozen=True)
class Together:
    """Pipelines that run side by side; the results come in their order, whatever finishes first.

    Where one fails, the others end first and the error is raised here; with `keeps_failures` it stands in the results.
    """

    branches: Sequence[Pipeline]
    keeps_failures: bool = False


Step = SubTask | Together
Pipeline = Generator[Step, Any, Any]


def alone(subtask: SubTask) -> Pipeline:
    """Return a sub-task as a pipeline, which can run beside others; it returns the contributions."""
    return (yield subtask)


def side_by_side(branches: Sequence[Pipeline]) -> Pipeline:
    """Return pipelines as one, which returns what each returned, or the `SubTaskFailedError` that it ended with."""
    return (yield Together(branches, keeps_failures=True))


def values(contributions: Sequence[Contribution]) -> list[Any]:
    """Return the values alone."""
    return [one.value for one in contributions]


def contributors(contributions: Sequence[Contribution]) -> tuple[str, ...]:
    """Return who gave them, as `SubTask.barred` takes them: of a mix whose members agreed, each member."""
    return tuple(name for one in contributions for name in one.contributor.split(MIXED))


def each_once(items: Sequence[str]) -> list[str]:
    """Return the items without those that differ from an earlier one in case, spaces or a full stop alone."""
    firsts: dict[str, str] = {}
    for item in items:
        firsts.setdefault(" ".join(item.casefold().split()).rstrip("."), item)
    return list(firsts.values())


def shuffled(items: Sequence[Any], *, seed: int, label: str) -> list[Any]:
    """Return the items in an order that seed and label decide: pure, and the same in every rerun."""
    order = list(items)
    random.Random(f"{seed}/{label}").shuffle(order)
    return order


def checked_text(text: str, *, what: str = "text") -> str:
    """Return the text with plain line ends; `DataError` when it is empty, no Unicode, or holds control characters.

    Markup is text like any other.
    """
    if is_blank(text):
        raise DataError(f"The {what} must hold text, but is empty.")
    if not is_unicode(text):
        raise DataError(f"The {what} must be valid Unicode, but holds half of a character.")
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    if (kept := without_controls(plain)) != plain:
        place = next(index for index, one in enumerate(plain) if index >= len(kept) or one != kept[index])
        raise DataError(
            f"The {what} must hold no control characters, but has {plain[place]!r} at character {place}; remove it."
        )
    return plain
