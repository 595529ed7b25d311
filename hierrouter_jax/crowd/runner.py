"""The runner: takes a pipeline through its sub-tasks, from worker to journal to pipeline.

Every answer is in the journal before the pipeline sees it. A run that ended early (killed, out of budget, waiting for
people) is run again from the start: the generator is made anew, finds its answers in the journal, and asks only what
is missing. So nothing is asked twice, and the result is that of a run that was left alone.

Branches side by side are advanced until all of them wait. What waits for models is then asked together, batched over
branches; what waits for people stands in the queue meanwhile, and branches whose people have answered go on.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.budget import Budget, Spent
from hierrouter_jax.crowd.journal import Answer, Journal, Place, Ticket
from hierrouter_jax.crowd.run_state import Asked, Branch, Move, Slot, answer_of, ask_of, handed_over, positions
from hierrouter_jax.crowd.subtasks import Contribution, Pipeline, SubTask, SubTaskFailedError, Together
from hierrouter_jax.crowd.workers.mix import Mix, mixed_contributions, worker_role
from hierrouter_jax.crowd.workers.worker import NoContributorError, People, Reply, Worker

MAX_ATTEMPTS = 3
ASKS_AT_A_TIME = 32
AnyWorker = Worker | People | Mix
RunStatus = Literal["done", "waiting", "budget", "failed"]


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Who does what: workers by name, and the worker of each role; "*" stands for every role not named.

    A text that its schema refuses is asked again with the reason, `max_attempts` times in all.
    """

    workers: Mapping[str, AnyWorker]
    roles: Mapping[str, str]
    max_attempts: int = MAX_ATTEMPTS

    def name_of(self, role: str) -> str:
        """Return the name of a role's worker; `ConfigError` when the crew has none."""
        name = role[1:] if role.startswith("@") else self.roles.get(role, self.roles.get("*"))
        if name is None:
            raise missing_role(role, self.roles)
        if name not in self.workers:
            raise ConfigError(f"Role {role!r} names worker {name!r}, but the workers are {', '.join(self.workers)}.")
        return name

    def worker(self, role: str) -> AnyWorker:
        """Return a role's worker."""
        return self.workers[self.name_of(role)]

    def check_roles(self, roles: Sequence[str]) -> None:
        """Raise `ConfigError` unless every role, and every part of a mix, has a worker."""
        for role in roles:
            worker = self.worker(role)
            if isinstance(worker, Mix):
                for part in (*worker.members, worker.decider):
                    if isinstance(self.worker(worker_role(part)), Mix):
                        raise ConfigError(f"A mix is made of workers that are no mix, but {role!r} has {part!r}.")


def missing_role(role: str, roles: Mapping[str, str]) -> ConfigError:
    """Return the error that a crew of these roles has no worker for a role."""
    return ConfigError(
        f"The crew needs a worker for role {role!r}, but has roles {', '.join(roles) or 'none'}; add "
        f'{role} = "WORKER" under [roles], or "*" for all others.'
    )


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended. `result` is what the pipeline returned, where it is done; `reason` says why it is not."""

    status: RunStatus
    spent: Spent
    result: Any = None
    reason: str = ""
    num_waiting: int = 0  # slots that wait for people


class Runner:
    """One run of a pipeline. `on_change` is called with what was spent and how many slots wait for people."""

    def __init__(
        self,
        crew: Crew,
        journal: Journal,
        run: str,
        *,
        budget: Budget | None = None,
        on_change: Callable[[Spent, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        poll_s: float = 1.0,
    ) -> None:
        self._crew, self._journal, self._run = crew, journal, run
        self._budget = Budget() if budget is None else budget
        self._on_change = on_change
        self._clock, self._sleep, self._poll_s = clock, sleep, poll_s
        self._spent = Spent()
        self._known: dict[tuple[str, int], list[Answer]] = {}
        self._last_known: dict[str, int] = {}  # by path of a branch: the last of its steps that the journal knows
        self._open: dict[str, dict[Slot, None]] = {}  # what models are to answer, by worker
        self._unqueued: deque[Slot] = deque()  # what people are to answer, and what of it is in the queue
        self._queued: dict[Slot, None] = {}
        self._num_opened = 0
        self._ready: deque[Asked] = deque()  # those without open slots
        self._ended: list[tuple[bool, Any]] = []  # (is it a result, the result or the error) of the root

    def run(self, pipeline: Pipeline, *, waits: bool = True) -> RunOutcome:
        """Take the pipeline as far as it goes; without `waits`, no further than to where people are needed.

        Raises `DataError` when the journal's answers belong to another pipeline, and what workers and pipeline raise.
        """
        begun_s = self._clock()
        self._recall()
        self._advance(Move(Branch(path="", generator=pipeline)))
        self._go_on()
        while not self._ended:
            self._queue()
            self._tell()
            if reason := self._budget.exceeded(self._spent, self._clock() - begun_s):
                return self._outcome("budget", reason=reason)
            batch = self._batch()
            if batch is not None:
                self._ask(*batch)
            if not self._hear_people() and batch is None:
                if not waits:
                    return self._outcome("waiting", reason="people are asked")
                self._sleep(self._poll_s)
            self._go_on()
        is_result, value = self._ended[0]
        if is_result:
            return self._outcome("done", result=value)
        return self._outcome("failed", reason=str(value))

    def _recall(self) -> None:
        """Read what the journal knows of the run."""
        queued = [ticket.place.step for ticket in self._journal.open_tickets(self._run)]  # before they are answered
        self._known = self._journal.answers(self._run)
        for answers in self._known.values():
            for answer in answers:
                self._spent = self._spent.plus(answer.cost)
        for step in {*queued, *(step for step, _ in self._known)}:
            for path, number in positions(step):
                self._last_known[path] = max(number, self._last_known.get(path, 0))

    # -- the tree of branches --

    def _advance(self, move: Move) -> None:
        """Take a branch to its next step that has to wait, and so every branch that this sets free."""
        moves = [move]
        while moves:
            moves += reversed(self._step(moves.pop()))

    def _step(self, move: Move) -> Sequence[Move]:
        """Give a branch what it waits for; return the moves that its next step allows at once, in their order."""
        branch = move.branch
        branch.asked = branch.together = None
        try:
            step = branch.generator.send(move.value) if move.error is None else branch.generator.throw(move.error)
        except StopIteration as stop:
            return self._end(branch, stop.value, is_result=True)
        except SubTaskFailedError as failure:
            return self._end(branch, failure, is_result=False)
        name = step.name if isinstance(step, SubTask) else "together"
        path = f"{branch.path}{branch.num_steps}:{name}"
        branch.num_steps += 1
        if isinstance(step, Together):
            return self._side_by_side(branch, step, path)
        if isinstance(mix := self._crew.worker(step.role), Mix):
            branch.asked = Asked(subtask=step, branch=branch)  # how its one branch's result is read
            return self._side_by_side(branch, Together([mixed_contributions(mix, step)]), path)
        return self._begin(branch, step, path)

    def _side_by_side(self, branch: Branch, step: Together, path: str) -> Sequence[Move]:
        branch.together, branch.results = step, {}
        children = [
            Move(Branch(path=f"{path}/{place}/", generator=generator, parent=branch, place=place))
            for place, generator in enumerate(step.branches)
        ]
        return children or [Move(branch, [])]

    def _end(self, branch: Branch, value: Any, *, is_result: bool) -> Sequence[Move]:
        """Return the move of the parent for which this branch was the last to end."""
        parent = branch.parent
        if parent is None:
            self._ended.append((is_result, value))
            return ()
        assert parent.together is not None
        parent.results[branch.place] = (is_result, value)
        if len(parent.results) < len(parent.together.branches):
            return ()
        results = [parent.results[place] for place in range(len(parent.results))]
        failures = [value for is_fine, value in results if not is_fine]
        if parent.asked is not None and not failures:  # a mix: its contributions are those of the sub-task
            return [handed_over(parent.asked, results[0][1])]
        if failures and not parent.together.keeps_failures:
            return [Move(parent, error=failures[0])]
        return [Move(parent, [value for _, value in results])]

    def _begin(self, branch: Branch, subtask: SubTask, path: str) -> Sequence[Move]:
        """Open the slots of a sub-task, but for those that the journal has answers of."""
        name = self._crew.name_of(subtask.role)
        worker = self._crew.workers[name]
        assert not isinstance(worker, Mix)
        asked = branch.asked = Asked(subtask=subtask, branch=branch, worker=name, digest=subtask.digest())
        try:
            who = [None] * subtask.redundancy if isinstance(worker, People) else worker.assign(subtask, path)
        except NoContributorError as error:
            if subtask.min_contributions == 0:
                return [Move(branch, ())]
            return [Move(branch, error=SubTaskFailedError(str(error)))]
        asked.num_open = len(who)
        for index, contributor in enumerate(who):
            self._num_opened += 1
            place = Place(run=self._run, step=path, slot=index)
            slot = Slot(asked=asked, place=place, contributor=contributor, number=self._num_opened)
            asked.slots.append(slot)
            for answer in self._known.get((path, index), []):
                self._take(slot, answer)
            if slot.attempts and self._is_passed(branch):
                self._close(slot)
            if not slot.is_over:
                if isinstance(worker, People):
                    self._unqueued.append(slot)
                else:
                    self._open.setdefault(name, {})[slot] = None
        return ()

    def _is_passed(self, branch: Branch) -> bool:
        """Say whether an earlier session has gone beyond the step of a branch, with the answers that it had."""
        upwards: Branch | None = branch
        while upwards is not None:
            if self._last_known.get(upwards.path, 0) >= upwards.num_steps:
                return True
            upwards = upwards.parent
        return False

    def _go_on(self) -> None:
        """Advance the branches whose sub-tasks are answered, and those that this sets free."""
        while self._ready:
            asked = self._ready.popleft()
            found = tuple(slot.contribution for slot in asked.slots if slot.contribution is not None)
            self._advance(handed_over(asked, found))

    # -- asking and hearing --

    def _queue(self) -> None:
        """Put before people what they are to answer, no more than the budget has calls left for."""
        waiting = len(self._queued) + len(self._unqueued)
        for _ in range(self._budget.calls_left(self._spent, waiting) - len(self._queued)):
            slot = self._unqueued.popleft()
            worker = self._crew.workers[slot.asked.worker]
            assert isinstance(worker, People)
            self._journal.open_ticket(
                Ticket(place=slot.place, subtask=slot.asked.subtask, lease_s=worker.lease_s, cost=worker.cost)
            )
            self._queued[slot] = None

    def _batch(self) -> tuple[Worker, list[Slot]] | None:
        """Return the worker whose turn it is, and what it is asked at once; what people have before them is counted."""
        firsts = {next(iter(slots)).number: name for name, slots in self._open.items() if slots}
        num = self._budget.calls_left(self._spent, ASKS_AT_A_TIME + len(self._queued)) - len(self._queued)
        if not firsts or num < 1:
            return None
        name = firsts[min(firsts)]
        worker = self._crew.workers[name]
        assert isinstance(worker, Worker)
        return worker, list(itertools.islice(self._open[name], num))

    def _ask(self, worker: Worker, slots: Sequence[Slot]) -> None:
        asks = [ask_of(slot) for slot in slots]

        def on_reply(index: int, reply: Reply) -> None:
            slot = slots[index]
            answer = answer_of(asks[index], reply, slot.asked.digest)
            self._journal.put(slot.place, len(slot.attempts), answer)
            self._spent = self._spent.plus(answer.cost)
            self._take(slot, answer)
            self._tell()

        worker.answer(asks, on_reply)

    def _hear_people(self) -> bool:
        """Take what people have submitted since; say whether there was anything."""
        has_news = False
        for slot in list(self._queued):
            for answer in self._journal.answers_at(slot.place):
                self._spent = self._spent.plus(answer.cost)
                self._take(slot, answer)
                has_news = True
        return has_news

    def _take(self, slot: Slot, answer: Answer) -> None:
        if answer.asked != slot.asked.digest:
            raise DataError(
                f"Run {self._run} holds an answer to another sub-task at {slot.place.step}: the pipeline, its options "
                "or its prompts have changed since. Begin a run of another name; the journal is as it was."
            )
        if answer.refusal is None:
            slot.contribution = Contribution(
                contributor=answer.contributor, kin=answer.kin, value=answer.value, slot=slot.place.slot
            )
            self._close(slot)
            return
        slot.attempts.append(answer)
        if len(slot.attempts) >= self._crew.max_attempts:
            self._close(slot)

    def _close(self, slot: Slot) -> None:
        """Ask no more for a slot."""
        if slot.is_over:
            return
        slot.is_over = True
        self._open.get(slot.asked.worker, {}).pop(slot, None)
        self._queued.pop(slot, None)
        slot.asked.num_open -= 1
        if slot.asked.num_open == 0:
            self._ready.append(slot.asked)

    # -- what is told --

    def _num_waiting(self) -> int:
        return len(self._queued) + len(self._unqueued)

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self._spent, self._num_waiting())

    def _outcome(self, status: RunStatus, *, result: Any = None, reason: str = "") -> RunOutcome:
        return RunOutcome(
            status=status, spent=self._spent, result=result, reason=reason, num_waiting=self._num_waiting()
        )
