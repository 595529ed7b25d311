"""Scores: the quality in [0, 1] of a model's text as an answer to a row.

A letter or a number is right (1) or wrong (0); a program is right when every test of the row passes in the sandbox.
Text in which no answer is found scores 0 and counts as unparsable, so that a format failure is not taken for inability
without being seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.tasks.extraction import extract_letter, extract_number, is_same_number
from hierrouter_jax.tasks.program_extraction import extract_program, question_helpers
from hierrouter_jax.tasks.sandbox import DEFAULT_LIMITS, SandboxLimits, run_program
from hierrouter_jax.tasks.task_row import TaskRow


@dataclass(frozen=True, kw_only=True)
class AnswerScore:
    """The score of one answer. `extracted` is the letter, number or program that was judged, None where none is."""

    quality: float
    is_parsed: bool
    extracted: str | None


def score_answer(row: TaskRow, text: str, *, limits: SandboxLimits = DEFAULT_LIMITS) -> AnswerScore:
    """Return the score of `text` as an answer to `row`.

    Raises `DataError` when the row's own tests cannot be run, or when it has no answer to score against: no text of a
    model's is an error.
    """
    if not row.answer and not row.tests:
        raise DataError(f"An answer is scored against that of its row, but row {row.id!r} has none; give it an answer.")
    if row.form == "choice":
        extracted = extract_letter(row, text)
        is_right = extracted is not None and _choice(row, extracted) == _choice(row, row.answer)
    elif row.form == "number":
        extracted = extract_number(text)
        is_right = extracted is not None and is_same_number(extracted, row.answer)
    else:
        extracted = extract_program(row, text)
        is_right = extracted is not None and _passes(row, extracted, limits)
    return AnswerScore(quality=float(is_right), is_parsed=extracted is not None, extracted=extracted)


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


def _passes(row: TaskRow, program: str, limits: SandboxLimits) -> bool:
    """Whether a program passes the row's tests."""
    support = question_helpers(row)
    try:
        return run_program(program, row.tests, entry_point=row.entry_point, support=support, limits=limits).is_passed
    except DataError as error:
        raise DataError(f"Row {row.id!r} of task {row.task!r} has tests that say nothing. {error}") from error
