"""The task row: one question with what is needed to score an answer to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["choice", "number", "program", "completion", "open"]

LETTERS = "ABCDEFGHIJ"  # the letter of choice i is LETTERS[i]


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """One question.

    `choices` is empty unless the answer is a letter. `tests` are pieces of Python that raise when the code under test
    is wrong, and `entry_point` is the name they call. `answer` is the letter, the number, or a reference solution; it
    is empty for a question that is asked live, which nobody can score.
    """

    id: str
    task: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    entry_point: str | None = None

    @property
    def form(self) -> Form:
        """What kind of answer is asked for: a letter, a number, a program, the rest of a function, or free text."""
        if self.choices:
            return "choice"
        if not self.tests:
            return "number" if self.answer else "open"
        return "completion" if f"def {self.entry_point}(" in self.question else "program"

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the choices, in order."""
        return tuple(LETTERS[: len(self.choices)])
