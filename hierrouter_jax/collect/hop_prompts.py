"""Hop prompts: what a model sees at each stage of a route, and what the router's encoder sees.

The first hop is the task's own prompt. A later hop shows the question, the earlier answers in the order they were
given, and asks for the model's own final answer in the same form, so that every node of the route tree is scored the
same way. Request and context are functions of the row and of the earlier texts alone (not of which models gave them),
so equal texts ask, and cost, once.

The paper's context (c_t = query ++ r_1 ++ ... ++ r_t) is `context_text`. The prompt trims long earlier answers (see
`tasks.prompts`); the context does not, because the encoder reads it by segments.
"""

from __future__ import annotations

from collections.abc import Sequence

from hierrouter_jax.core.text import GenerationRequest, ModelCard
from hierrouter_jax.tasks.prompt_texts import LATEST_PROMPT_VERSION
from hierrouter_jax.tasks.prompts import option_lines, shown_answer, task_request
from hierrouter_jax.tasks.task_row import TaskRow


def hop_request(
    card: ModelCard, row: TaskRow, earlier: Sequence[str], *, prompt_version: str = LATEST_PROMPT_VERSION
) -> GenerationRequest:
    """Return what the model of `card` is asked after the responses `earlier`; () is the first hop.

    Raises `ConfigError` when there is no such prompt version.
    """
    return task_request(card, row, tuple(earlier), prompt_version=prompt_version)


def context_text(row: TaskRow, earlier: Sequence[str]) -> str:
    """Return the query followed by the responses so far: the text that the router's encoder reads."""
    query = "\n".join(part for part in (row.question.strip(), option_lines(row.choices), *_shown_tests(row)) if part)
    answers = [f"Answer {number}: {shown_answer(row, text)}" for number, text in enumerate(earlier, start=1)]
    return "\n\n".join([query, *answers])


def _shown_tests(row: TaskRow) -> tuple[str, ...]:
    """Return the tests where they are part of the question; those of a function to complete are hidden from models."""
    return row.tests if row.form == "program" else ()
