"""How independent redundant answers were: who asks five samples of one model may have asked once.

Answers are compared where they answer one question: the same instructions, inputs and schema, in whatever step, round
or part of a mix it was put. Options may be shown to each voter in an order of their own; what counts is the option, not
its label. Figures are means over questions with two or more answers, so that each question counts once:

- diversity: the mean distance of two answers, 0 where all are alike and 1 where all differ in everything. Two choices
  or numbers are at distance 0 or 1; two texts or lists at one minus the Jaccard index of their words; two sets of
  fields at the mean over fields; two sets of passages at one minus the Jaccard index of their characters.
- copies: of answers in words, the share that repeat an earlier one of their kin word for word. Samples from a cache are
  copies; so are right answers, where one alone is right.
- agreement within kin and between kins: the mean of one minus distance over pairs of each sort. Where samples of a
  model agree more with each other than with other models on the same questions, they are less evidence than they seem.

The journal holds answers, not what was asked. That is found by taking the pipeline through the journal once more: it
is pure, so it asks the same again.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.core.configs import canonical_json
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.budget import Budget
from hierrouter_jax.crowd.crew import CrewConfig, MixConfig
from hierrouter_jax.crowd.journal import Answer, Journal
from hierrouter_jax.crowd.output_schemas import ChoiceSchema, schema_to_json
from hierrouter_jax.crowd.run_records import record_from_json
from hierrouter_jax.crowd.run_state import positions
from hierrouter_jax.crowd.runner import AnyWorker, Crew, Runner
from hierrouter_jax.crowd.subtasks import Contribution, Input, Pipeline, SubTask, values
from hierrouter_jax.crowd.workers.mix import Mix
from hierrouter_jax.crowd.workers.worker import Ask, Contributor, NoContributorError, OnReply, People

EXACT_KINDS = ("choice", "number")  # of schemas whose answers are the same or are not
WORD_KINDS = ("text", "items", "fields")  # of schemas whose answers are written
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked, and all that was answered. A choice between labelled options has the option's text as value."""

    subtask: str  # the sub-task's name
    kind: str  # of its schema
    answers: tuple[Contribution, ...]


@dataclass(frozen=True, kw_only=True)
class Independence:
    """Figures over questions of two or more answers; None where there is no pair, or no answer, of that sort.

    `kin_gap` is agreement within kin less agreement between kins, over the questions that have pairs of both sorts.
    """

    num_questions: int
    num_answers: int
    diversity: float | None
    copies: float | None
    agreement_within_kin: float | None
    agreement_between_kins: float | None
    kin_gap: float | None


@dataclass(frozen=True, kw_only=True)
class IndependenceReport:
    """Figures over a whole run, and by sub-task; sub-tasks that nobody answered twice are left out."""

    overall: Independence
    by_subtask: Mapping[str, Independence]


def run_independence(journal: Journal, run: str) -> IndependenceReport:
    """Return the figures of a run, finished or not, from its journal; nothing is asked and nothing written.

    Raises `DataError` when there is no run of that name, `ConfigError` when this version cannot go on with it.
    """
    record = record_from_json(journal.record(run))
    return independence(questions_of(journal, run, record.pipeline(), _stand_in(record.crew)))


def independence(questions: Iterable[Question]) -> IndependenceReport:
    """Return the figures of questions and their answers; the order of neither matters."""
    redundant = [one for one in questions if len(one.answers) > 1]
    names = dict.fromkeys(one.subtask for one in redundant)
    return IndependenceReport(
        overall=_figures(redundant),
        by_subtask={name: _figures([one for one in redundant if one.subtask == name]) for name in names},
    )


def questions_of(journal: Journal, run: str, pipeline: Pipeline, crew: Crew) -> list[Question]:
    """Return what a run has asked, with its usable answers, from its pipeline and the crew it was run with.

    Of the crew only its mixes and roles matter. Raises `DataError` when the journal's answers belong to another
    pipeline.
    """
    answers = journal.answers(run)
    usable = {place: one for place, attempts in answers.items() for one in attempts if one.refusal is None}
    asked = _asked(journal, run, pipeline, crew, answers)
    found: dict[str, list[Contribution]] = {}
    subtasks: dict[str, SubTask] = {}
    for step, subtask in asked.items():
        for slot in range(subtask.redundancy):
            if (answer := usable.get((step, slot))) is not None:
                identity = _identity(subtask, slot)
                subtasks.setdefault(identity, subtask)
                found.setdefault(identity, []).append(_contribution(subtask, slot, answer))
    return [
        Question(subtask=subtasks[one].name, kind=subtasks[one].schema.kind, answers=tuple(own))
        for one, own in found.items()
    ]


def diversity(answers: Sequence[Any], kind: str = "text") -> float:
    """Return the mean distance of two of the answers to a question whose schema is of `kind`.

    Raises `DataError` for fewer than two answers.
    """
    if len(answers) < 2:
        raise DataError(f"Diversity is that of two or more answers, but there is {len(answers)}.")
    return _mean([distance(first, second, kind) for first, second in itertools.combinations(answers, 2)])


def distance(first: Any, second: Any, kind: str = "text") -> float:
    """Return how far two answers to a question are apart, in [0, 1]."""
    if kind in EXACT_KINDS:
        return float(first != second)
    if kind == "spans":
        return _jaccard_distance(_characters(first), _characters(second))
    if kind == "fields":
        return _mean([distance(first.get(name, ""), second.get(name, "")) for name in {**first, **second}] or [0.0])
    words = _words(first), _words(second)
    return _jaccard_distance(*words) if any(words) else float(first != second)


def share_of_copies(answers: Sequence[Contribution]) -> float:
    """Return the share of answers that repeat an earlier one of their kin word for word."""
    different = {(one.kin, canonical_json(one.value)) for one in answers}
    return (len(answers) - len(different)) / len(answers)


def kin_agreement(answers: Sequence[Contribution], kind: str) -> tuple[float | None, float | None]:
    """Return the mean agreement of pairs of answers of one kin, and of pairs of two; None where there is no pair."""
    sorts: dict[bool, list[float]] = {True: [], False: []}
    for first, second in itertools.combinations(answers, 2):
        sorts[first.kin == second.kin].append(1.0 - distance(first.value, second.value, kind))
    return _mean_if_any(sorts[True]), _mean_if_any(sorts[False])


def _figures(questions: Sequence[Question]) -> Independence:
    agreements = [kin_agreement(one.answers, one.kind) for one in questions]
    return Independence(
        num_questions=len(questions),
        num_answers=sum(len(one.answers) for one in questions),
        diversity=_mean_if_any([diversity(values(one.answers), one.kind) for one in questions]),
        copies=_mean_if_any([share_of_copies(one.answers) for one in questions if one.kind in WORD_KINDS]),
        agreement_within_kin=_mean_if_any([within for within, _ in agreements if within is not None]),
        agreement_between_kins=_mean_if_any([between for _, between in agreements if between is not None]),
        kin_gap=_mean_if_any(
            [within - between for within, between in agreements if within is not None and between is not None]
        ),
    )


def _identity(subtask: SubTask, slot: int) -> str:
    """Return what a slot was asked, whoever was asked and in whatever order options stood."""
    shown = subtask.inputs_of(slot)
    labels = _labels(subtask, shown)
    return canonical_json(
        [
            subtask.instructions,
            schema_to_json(subtask.schema),
            {name: value for name, value in shown.items() if name not in labels},
            sorted(canonical_json(shown[label]) for label in labels),
        ]
    )


def _contribution(subtask: SubTask, slot: int, answer: Answer) -> Contribution:
    shown = subtask.inputs_of(slot)
    value = shown[answer.value] if answer.value in _labels(subtask, shown) else answer.value
    return Contribution(contributor=answer.contributor, kin=answer.kin, value=value, slot=slot)


def _labels(subtask: SubTask, shown: Mapping[str, Input]) -> list[str]:
    """Return the options of a choice under which something is shown."""
    return [one for one in subtask.schema.options if one in shown] if isinstance(subtask.schema, ChoiceSchema) else []


# -- what a run has asked --


class _Listener:
    """Stands where a run's workers stood: notes what they were asked, and answers nothing."""

    def __init__(self, answers: Iterable[tuple[str, int]]) -> None:
        self.asked: dict[str, SubTask] = {}
        self._answered = {step for step, _ in answers}
        self._last: dict[str, int] = {}  # by path of a branch: the last of its steps that was answered
        for step in self._answered:
            for path, number in positions(step):
                self._last[path] = max(number, self._last.get(path, 0))

    def assign(self, subtask: SubTask, step: str) -> list[Contributor]:
        """Note the sub-task. One that the run went on from without an answer found nobody who might take it."""
        if step not in self._answered and any(self._last.get(path, 0) > number for path, number in positions(step)):
            raise NoContributorError(f"Nobody could take sub-task {subtask.name}.")
        self.asked[step] = subtask
        return [Contributor(name="", kin="")] * subtask.redundancy

    def answer(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        """Refuse: the answers there are stand in the journal."""
        raise RuntimeError("A run that is read again asks nobody.")


def _asked(
    journal: Journal, run: str, pipeline: Pipeline, crew: Crew, answers: Mapping[tuple[str, int], Sequence[Answer]]
) -> dict[str, SubTask]:
    """Return the sub-tasks of a run by step, as far as the journal's answers lead."""
    if not answers:
        return {}
    listener = _Listener(answers)
    workers: dict[str, AnyWorker] = {
        name: worker if isinstance(worker, Mix) else listener for name, worker in crew.workers.items()
    }
    silent = Crew(workers=workers, roles=crew.roles, max_attempts=crew.max_attempts)
    num_answers = sum(len(attempts) for attempts in answers.values())
    Runner(silent, journal, run, budget=Budget(max_calls=num_answers)).run(pipeline, waits=False)
    if strange := [step for step, _ in answers if step not in listener.asked]:
        raise DataError(
            f"The answers of run {run} must be to sub-tasks of the pipeline that it is read with, but there is one at "
            f"{strange[0]}, which that pipeline does not reach; read it with the pipeline and the crew it was run with."
        )
    return listener.asked


def _stand_in(config: CrewConfig) -> Crew:
    """Return the crew of a crew file without what its workers need: nobody in it will be asked."""
    workers: dict[str, AnyWorker] = {
        name: Mix(members=one.members, decider=one.decider) if isinstance(one, MixConfig) else People()
        for name, one in config.workers.items()
    }
    return Crew(workers=workers, roles=config.roles, max_attempts=config.max_attempts)


# -- distances --


def _characters(spans: Sequence[Sequence[int]]) -> set[int]:
    return {place for start, end in spans for place in range(start, end)}


def _words(value: str | Sequence[str]) -> set[str]:
    text = value if isinstance(value, str) else " ".join(value)
    return set(_WORD.findall(text.casefold()))


def _jaccard_distance(first: set[Any], second: set[Any]) -> float:
    together = first | second
    return 1.0 - len(first & second) / len(together) if together else 0.0


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _mean_if_any(numbers: Sequence[float]) -> float | None:
    return _mean(numbers) if numbers else None
