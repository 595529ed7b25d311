"""A worker without a model, for tests and dry runs: its answers are a function of what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hierrouter_jax.crowd.subtasks import SubTask
from hierrouter_jax.crowd.workers.worker import Ask, Contributor, OnReply, Reply, samples_of

Respond = Callable[[Ask], str]


class ScriptedWorker:
    """Answers by `respond(ask)`; `asked` lists every ask, in order."""

    def __init__(
        self, respond: Respond, *, kins: Sequence[str] = ("script",), bars_kin: bool = False, cost: float = 0.0
    ) -> None:
        self._respond, self._kins, self._bars_kin, self._cost = respond, tuple(kins), bars_kin, cost
        self.asked: list[Ask] = []

    def assign(self, subtask: SubTask, step: str) -> list[Contributor]:
        """Return the kins in turn, the first one first."""
        del step
        return samples_of(self._kins, subtask, offset=0, bars_kin=self._bars_kin)

    def answer(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        """Answer in order."""
        for index, ask in enumerate(asks):
            self.asked.append(ask)
            on_reply(index, Reply(text=self._respond(ask), cost=self._cost))
