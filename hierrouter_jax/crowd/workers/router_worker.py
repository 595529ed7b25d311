"""A trained router as a worker: every sub-task is a query of the routing MDP, and the router picks who answers it.

A sub-task is asked in words as a question of task "open"; a choice is asked as multiple choice, so that its answer is
always one of the options. The router itself comes as a function: this room knows no runs and no checkpoints.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.crowd.output_schemas import ChoiceSchema
from hierrouter_jax.crowd.prompts import subtask_text
from hierrouter_jax.crowd.subtasks import SubTask
from hierrouter_jax.crowd.workers.worker import Ask, Contributor, OnReply, Reply, samples_of
from hierrouter_jax.tasks.task_row import LETTERS, TaskRow

KIN = "router"


@runtime_checkable
class RoutedAnswer(Protocol):
    """What a router returns for one query: the answer, the models asked in their order, the cost in its own unit."""

    @property
    def answer(self) -> str:
        """The last response, as others are shown it."""
        ...

    @property
    def route(self) -> tuple[str, ...]:
        """The models asked."""
        ...

    @property
    def cost(self) -> float:
        """The cost of all hops."""
        ...


AnswerRows = Callable[[Sequence[TaskRow]], Sequence[RoutedAnswer]]


class RouterWorker:
    """Answers by `answer`, a router that answers many queries at once, in their order.

    A router takes its likeliest route, so redundant answers differ by persona alone. `cost_factor` brings a cost of
    the router to thousands of tokens of the dearest model. `routes` counts the routes taken. `answer` must raise
    `PromptTooLongError` before it asks anything: then each query is tried alone, and those that fit no model fail.
    """

    def __init__(self, answer: AnswerRows, *, personas: Sequence[str] = (), cost_factor: float = 1.0) -> None:
        if not (math.isfinite(cost_factor) and cost_factor >= 0):
            raise ConfigError(f"cost_factor must be finite and >= 0, but is {cost_factor}.")
        self._answer, self._personas, self._cost_factor = answer, tuple(personas), cost_factor
        self.routes: Counter[tuple[str, ...]] = Counter()

    def assign(self, subtask: SubTask, step: str) -> list[Contributor]:
        """Return the router's samples in turn."""
        del step
        return samples_of((KIN,), subtask, offset=0, personas=self._personas)

    def answer(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        """Answer all asks in one batch."""
        rows = [subtask_row(ask) for ask in asks]
        try:
            self._hand_over(range(len(rows)), self._answer(rows), on_reply)
        except PromptTooLongError:
            for index, row in enumerate(rows):
                try:
                    found = self._answer([row])
                except PromptTooLongError as error:
                    on_reply(index, Reply(failure=str(error)))
                else:
                    self._hand_over([index], found, on_reply)

    def _hand_over(self, indices: Sequence[int], found: Sequence[RoutedAnswer], on_reply: OnReply) -> None:
        for index, one in zip(indices, found, strict=True):
            self.routes[one.route] += 1
            on_reply(index, Reply(text=one.answer, cost=one.cost * self._cost_factor))


def subtask_row(ask: Ask) -> TaskRow:
    """Return an ask as the query of a router, without examples: routers are trained on questions that have none.

    A choice among more options than there are letters is asked in words.
    """
    subtask = replace(ask.subtask, examples=())
    schema = subtask.schema
    options = schema.options if isinstance(schema, ChoiceSchema) and len(schema.options) <= len(LETTERS) else ()
    question = subtask_text(subtask, ask.slot, persona=ask.contributor.persona, refusals=ask.refusals)
    return TaskRow(id="", task="open", question=question, answer="", choices=options)
