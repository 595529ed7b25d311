"""`hierrouter route`: a question, or JSONL from standard input, answered through a trained router.

A line of input is a JSON object with "question" and, for multiple choice, "choices" (a list of texts); "id" is handed
through. A line of output is a JSON object with answer, route, probabilities, cost and tokens. All lines are checked
before the first is answered.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from hierrouter_jax.cli.live_session import open_session, result_json, result_lines
from hierrouter_jax.cli.output import print_lines, write_json
from hierrouter_jax.core.errors import ConfigError, DataError, raise_all
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.core.text import is_unicode
from hierrouter_jax.evaluate.live import as_row
from hierrouter_jax.tasks.task_row import LETTERS, TaskRow

KNOWN_FIELDS = frozenset({"id", "question", "choices"})


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `route`."""

    question: tyro.conf.Positional[str | None] = None
    """The question; without it, JSONL is read from standard input."""
    run_dir: Path = Path("runs/quickstart")
    """The run whose router decides."""
    pool: Path | None = None
    """Pool file of the run; by default the packaged small pool."""
    encoder: str | None = None
    """The run's encoder: a name (all-MiniLM-L6-v2, the default, or all-mpnet-base-v2), hf:, pypi: or a path."""
    store: Path | None = None
    """Response store used as a cache; nothing in it is asked again."""
    batch_size: int = 16
    """Lines answered together."""
    cost_weight: float | None = None
    """For a router that is conditioned on it: the quality one gives up for one call of the dearest model."""
    json: Path | None = None
    """Write all results there as JSON."""


def run(command: Command) -> None:
    """Answer one question in words, or many lines by lines of JSON."""
    if command.batch_size < 1:
        raise ConfigError(f"batch_size must be >= 1, but is {command.batch_size}.")
    rows = _rows(command)
    outcomes: list[dict[str, Any]] = []
    with (
        open_session(
            command.run_dir,
            pool=command.pool,
            encoder=command.encoder,
            store=command.store,
            cost_weight=command.cost_weight,
        ) as session,
        progress_bar("answering", len(rows), is_quiet=len(rows) < 2) as advance,
    ):
        try:
            for results in session.answer_in_batches(rows, batch_size=command.batch_size):
                for result in results:
                    outcome = {"id": rows[len(outcomes)].id} | result_json(result)
                    outcomes.append(outcome)
                    print_lines(result_lines(result) if command.question is not None else [json.dumps(outcome)])
                advance(len(results))
        finally:  # what was answered before an interruption is not lost
            if outcomes:
                write_json(command.json, outcomes)


def read_questions(lines: Iterable[bytes]) -> list[TaskRow]:
    """Return the questions of JSONL in UTF-8; one `DataError` naming every bad line by its number."""
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line), number))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    raise_all(DataError, "Every line must be a JSON object with a question; nothing was answered:", problems)
    if not rows:
        raise DataError('There is no question; give one as an argument, or lines such as {"question": "..."}.')
    return rows


def _rows(command: Command) -> list[TaskRow]:
    if command.question is not None:
        return [as_row(command.question)]
    if sys.stdin.isatty():
        raise ConfigError('Give a question as an argument, or pipe JSONL in: one {"question": "..."} a line.')
    return read_questions(sys.stdin.buffer)


def _row(data: Any, number: int) -> TaskRow:
    """Return one line's row; `ValueError` saying what is wrong with it."""
    if not isinstance(data, dict):
        raise ValueError(f"must be an object, but is a {type(data).__name__}")
    if unknown := sorted(data.keys() - KNOWN_FIELDS):
        raise ValueError(f"unknown fields {unknown}; known are {sorted(KNOWN_FIELDS)}")
    question, choices = data.get("question"), data.get("choices", [])
    if not isinstance(question, str) or not question.strip():
        raise ValueError('"question" must be a text that is not empty')
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError('"choices" must be a list of texts that are not empty')
    if len(choices) == 1 or len(choices) > len(LETTERS):
        raise ValueError(f'"choices" must hold 2 to {len(LETTERS)} texts, but holds {len(choices)}')
    if not all(is_unicode(text) for text in (question, *choices)):
        raise ValueError("texts must be valid Unicode, but one holds half of a character")
    return TaskRow(id=str(data.get("id", number)), task="open", question=question, answer="", choices=tuple(choices))
