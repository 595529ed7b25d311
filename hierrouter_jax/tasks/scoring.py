"""Scores: the quality in [0, 1] of a model's text as an answer to a row, and what can be told without the reference.

`read_answer` is for everybody who holds a question, a live system too: the answer found in the text, its identity (two
texts agree when theirs are equal) and whether it passes the examples that the question shows. `score_answer` adds the
verdict by the row's reference. A letter or a number is right (1) or wrong (0); a program is right when every test of
the row passes in the sandbox.
Text in which no answer is found scores 0 and counts as unparsable, so that a format failure is not taken for inability
without being seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.tasks.extraction import extract_letter, extract_number, is_same_number, parse_number
from hierrouter_jax.tasks.program_extraction import extract_program, question_helpers, without_docstring
from hierrouter_jax.tasks.sandbox import DEFAULT_LIMITS, SandboxLimits, run_program
from hierrouter_jax.tasks.shown_examples import shown_examples
from hierrouter_jax.tasks.task_row import TaskRow


@dataclass(frozen=True, kw_only=True)
class AnswerReading:
    """What a text says, without the reference.

    `extracted` is the letter, number or program found, None where none is; `identity` the same in one spelling (equal
    answers have equal identities). `passes_examples` is None where the question shows none, or no program was found.
    """

    extracted: str | None = None
    identity: str | None = None
    passes_examples: bool | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerScore:
    """The score of one answer, and what was read of it."""

    quality: float
    reading: AnswerReading = AnswerReading()

    @property
    def is_parsed(self) -> bool:
        """Whether an answer was found in the text."""
        return self.reading.extracted is not None


def read_answer(row: TaskRow, text: str, *, limits: SandboxLimits = DEFAULT_LIMITS) -> AnswerReading:
    """Return what `text` answers; programs are run on the examples that the question shows."""
    if row.form == "choice":
        letter = extract_letter(row, text)
        return AnswerReading(extracted=letter, identity=None if letter is None else _choice(row, letter))
    if row.form == "number":
        number = extract_number(text)
        value = None if number is None else parse_number(number)
        return AnswerReading(extracted=number, identity=number if value is None else str(value))
    if row.form == "open":
        return AnswerReading()
    program = extract_program(row, text)
    if program is None:
        return AnswerReading()
    examples = shown_examples(row)
    return AnswerReading(
        extracted=program,
        identity=without_docstring(program, row.entry_point).strip(),
        passes_examples=_passes(row, program, examples, limits) if examples else None,
    )


def score_answer(row: TaskRow, text: str, *, limits: SandboxLimits = DEFAULT_LIMITS) -> AnswerScore:
    """Return the score of `text` as an answer to `row`.

    Raises `DataError` when the row's own tests cannot be run, or when it has no answer to score against: no text of a
    model's is an error.
    """
    if not row.answer and not row.tests:
        raise DataError(f"An answer is scored against that of its row, but row {row.id!r} has none; give it an answer.")
    reading = read_answer(row, text, limits=limits)
    if reading.extracted is None:
        is_right = False
    elif row.form == "choice":
        is_right = reading.identity == _choice(row, row.answer)
    elif row.form == "number":
        is_right = is_same_number(reading.extracted, row.answer)
    elif row.form == "program" and reading.passes_examples is False:  # its example is one of its tests
        is_right = False
    else:
        is_right = _passes(row, reading.extracted, row.tests, limits)
    return AnswerScore(quality=float(is_right), reading=reading)


def score_answers(
    rows: Sequence[TaskRow],
    texts: Sequence[str],
    *,
    num_workers: int = 2,
    limits: SandboxLimits = DEFAULT_LIMITS,
    is_quiet: bool = False,
) -> list[AnswerScore]:
    """Return the score of each text as an answer to the row beside it; equal pairs are judged once.

    Programs run in `num_workers` sandboxes at a time. Raises `DataError` when the two lists differ in length.
    """
    if len(rows) != len(texts):
        raise DataError(f"Every answer needs its row, but there are {len(rows)} rows and {len(texts)} texts.")
    distinct = dict.fromkeys(zip(rows, texts, strict=True))
    scores: dict[tuple[TaskRow, str], AnswerScore] = {}
    pool = ThreadPoolExecutor(max_workers=num_workers)
    try:
        futures = {pool.submit(score_answer, row, text, limits=limits): (row, text) for row, text in distinct}
        with progress_bar("Scoring answers", total=len(futures), is_quiet=is_quiet) as advance:
            for future in as_completed(futures):
                scores[futures[future]] = future.result()
                advance(1)
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C or an error: the sandboxes that run end, no other begins
    return [scores[pair] for pair in zip(rows, texts, strict=True)]


def _choice(row: TaskRow, letter: str) -> str:
    """Return the text of a choice: a row may hold one choice twice, and then either letter is right."""
    return row.choices[row.letters.index(letter)].strip()


def _passes(row: TaskRow, program: str, tests: Sequence[str], limits: SandboxLimits) -> bool:
    """Whether a program passes tests of the row, or its examples."""
    support = question_helpers(row)
    try:
        return run_program(program, tests, entry_point=row.entry_point, support=support, limits=limits).is_passed
    except DataError as error:
        raise DataError(f"Row {row.id!r} of task {row.task!r} has tests that say nothing. {error}") from error
