"""Assess, justify, reconsider (Drapeau et al. 2016, MicroTalk).

    before = assess(question)                            by every assessor
    argument[side] = justify(question, side)             where the assessors disagree, on every side
    after = reconsider(before, an argument of another side)    for every assessor
    answer = plurality(after)

Where all agree nothing is argued. Sub-tasks cannot be sent to a person by name, but they can bar: a side's argument,
and its reconsidering, are closed to those who assessed otherwise, and nobody reconsiders after an argument of their
own. So with no other workers about, the assessors themselves justify and reconsider; a newcomer who takes the place of
one is shown that one's answer. The number of assessors and of arguments is chosen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.output_schemas import ChoiceSchema, TextSchema
from hierrouter_jax.crowd.subtasks import (
    Contribution,
    Pipeline,
    SubTask,
    SubTaskFailedError,
    Together,
    checked_text,
    contributors,
    shuffled,
)


@dataclass(frozen=True, kw_only=True)
class JustifyReconsiderConfig:
    """How many assess, how many justify on each side (no more than chose it), and how many reconsider at most."""

    options: tuple[str, ...] = ("yes", "no")
    num_assessors: int = 5
    num_justifiers: int = 1
    max_reconsidering: int = 100
    max_chars: int = 600  # of an argument
    assess: str = "Answer this question."
    justify: str = "Some answered this question as shown. Give the best argument for that answer."
    reconsider: str = (
        "A first answer to this question is shown, and an argument for another answer. Weigh the argument: keep the "
        "first answer if the argument does not convince, and change it if it does."
    )
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to do, and options that leave nothing to choose."""
        for name in ("num_assessors", "num_justifiers", "max_reconsidering", "max_chars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")
        if not all(option.strip() for option in self.options):
            raise ConfigError(f"Every option must hold text, but they are {self.options}.")
        ChoiceSchema(options=self.options)


ROLES = ("assess", "justify", "reconsider")


@dataclass(frozen=True, kw_only=True)
class _Argument:
    side: str
    text: str
    by: tuple[str, ...]


def justify_reconsider(question: str, config: JustifyReconsiderConfig) -> Pipeline:
    """Return the pipeline for a question.

    Its result has the `answer` (the plurality; of equals the option with more first assessments, then the one that
    stands first), the counts of the options `before` and `after`, the `arguments` for each side, how many assessors
    were heard again (`num_reconsidered`), how many of them `changed` their answer, and which sub-tasks `failed` and
    why. A side that nobody can argue for has no arguments; an assessor who is not heard again keeps the first answer.
    """
    question = checked_text(question, what="question")
    assessed = yield _assessing(question, config)
    before = [one.value for one in assessed]
    sides = [option for option in config.options if option in before]
    arguments: list[_Argument] = []
    revised: dict[int, str] = {}
    failed: list[str] = []
    if len(sides) > 1:
        found, failed = yield from _all_of([_justified(question, side, assessed, config) for side in sides])
        arguments = [argument for own in found for argument in own]
        found, also = yield from _all_of(
            [
                _reconsidered(question, side, places, assessed, arguments, config)
                for side, places in _places(before, sides, config).items()
                if places and any(argument.side != side for argument in arguments)
            ]
        )
        failed += also
        revised = {place: answer for own in found for place, answer in own.items()}
    after = [revised.get(place, answer) for place, answer in enumerate(before)]
    return {
        "answer": _plurality(before, after, config.options),
        "before": _counts(before, config.options),
        "after": _counts(after, config.options),
        "arguments": {side: [one.text for one in arguments if one.side == side] for side in sides if len(sides) > 1},
        "num_reconsidered": len(revised),
        "changed": sum(old != new for old, new in zip(before, after, strict=True)),
        "failed": failed,
    }


def one_prompt(question: str, config: JustifyReconsiderConfig) -> Pipeline:
    """Return the baseline: one worker, one prompt; its result is {"answer": ...}."""
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.assess,
        inputs={"question": checked_text(question, what="question")},
        schema=ChoiceSchema(options=config.options),
    )
    return {"answer": found.value}


def _assessing(question: str, config: JustifyReconsiderConfig) -> SubTask:
    return SubTask(
        name="assess",
        role="assess",
        instructions=config.assess,
        inputs={"question": question},
        schema=ChoiceSchema(options=config.options),
        redundancy=config.num_assessors,
    )


def _justified(question: str, side: str, assessed: Sequence[Contribution], config: JustifyReconsiderConfig) -> Pipeline:
    """Return the arguments for one side."""
    found = yield SubTask(
        name="justify",
        role="justify",
        instructions=config.justify,
        inputs={"question": question, "answer": side},
        schema=TextSchema(max_chars=config.max_chars),
        redundancy=min(config.num_justifiers, sum(one.value == side for one in assessed)),
        barred=_of_other_sides(side, assessed),
    )
    return [_Argument(side=side, text=one.value, by=contributors([one])) for one in found]


def _reconsidered(
    question: str,
    side: str,
    places: Sequence[int],
    assessed: Sequence[Contribution],
    arguments: Sequence[_Argument],
    config: JustifyReconsiderConfig,
) -> Pipeline:
    """Return the new answers of one side's assessors, by their places; the other sides' arguments take turns."""
    others = [argument for argument in arguments if argument.side != side]
    turns = shuffled(others, seed=config.seed, label=f"arguments against {side}")
    shown = [turns[number % len(turns)] for number in range(len(places))]
    found = yield SubTask(
        name="reconsider",
        role="reconsider",
        instructions=config.reconsider,
        inputs={"question": question, "first answer": side},
        inputs_by_slot=tuple({f"argument for {one.side}": one.text} for one in shown),
        schema=ChoiceSchema(options=config.options),
        redundancy=len(places),
        barred=tuple(sorted({*_of_other_sides(side, assessed), *(name for one in shown for name in one.by)})),
    )
    return {places[one.slot]: one.value for one in found}


def _places(before: Sequence[str], sides: Sequence[str], config: JustifyReconsiderConfig) -> dict[str, list[int]]:
    """Return which assessors of each side reconsider, by their places."""
    chosen = shuffled(range(len(before)), seed=config.seed, label="reconsidering")[: config.max_reconsidering]
    return {side: [place for place in chosen if before[place] == side] for side in sides}


def _all_of(branches: Sequence[Pipeline]) -> Pipeline:
    """Return what the branches return, and why those failed that did."""
    found = yield Together(branches, keeps_failures=True)
    failed = [str(one) for one in found if isinstance(one, SubTaskFailedError)]
    return [one for one in found if not isinstance(one, SubTaskFailedError)], failed


def _of_other_sides(side: str, assessed: Sequence[Contribution]) -> tuple[str, ...]:
    return tuple(sorted(contributors([one for one in assessed if one.value != side])))


def _counts(answers: Sequence[str], options: Sequence[str]) -> dict[str, int]:
    return {option: answers.count(option) for option in options}


def _plurality(before: Sequence[str], after: Sequence[str], options: Sequence[str]) -> str:
    first, last = Counter(before), Counter(after)
    return max(options, key=lambda option: (last[option], first[option], -options.index(option)))
