"""A run of models and people killed with SIGKILL at random moments goes on where it was.

What is demanded, and checked after every kill from two logs that the killed process wrote and from the store:

- An ask (step, slot, attempt) whose answer was committed is never put to a worker again, and what was committed is
  there as it was.
- No response that was stored is generated again; a kill loses one response at most, the one in flight.
- People work all the while, whether the run lives or not, with leases so short that they overtake each other. No
  ticket is shown once it was answered, and everything they submit is counted, or kept beside what is.
- The result, and all that stands in the journal but who answered, equal those of an undisturbed run.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from hierrouter_jax.core.configs import digest
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.output_schemas import YES_NO, ChoiceSchema, NumberSchema
from hierrouter_jax.crowd.runner import Crew, Runner
from hierrouter_jax.crowd.subtasks import SubTask, Together, contributors, values
from hierrouter_jax.crowd.workers.mix import Mix
from hierrouter_jax.crowd.workers.pool_worker import PoolWorker
from hierrouter_jax.crowd.workers.worker import People
from hierrouter_jax.llm.scripted_engine import ScriptedEngine, scripted_card
from hierrouter_jax.store.request_keys import request_key
from hierrouter_jax.store.response_store import ResponseStore

NUM_KILLS, NUM_BRANCHES, DELAY_S, LEASE_S = 20, 11, 0.003, 0.02
PATIENCE_S = 120  # for what takes seconds; a slow machine is no failure
ASKED, GENERATED, STORE, RUN = "asked.log", "generated.log", "store.sqlite", "run"


def hashed(*parts) -> int:
    return int(hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:8], 16)


def log(path: Path, word: object) -> None:
    """Append a line, in one call, and see it on disk."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, f"{word}\n".encode())
    os.fsync(file)
    os.close(file)


def logged(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# -- the run --


def number(name, **fields):
    return SubTask(
        name=name, role=fields.pop("role", "count"), instructions="How many?", schema=NumberSchema(), **fields
    )


def branch(place):
    """Models, then two people, then another one, then a mix, then a chain of models."""
    guesses = yield number("guess", inputs={"place": str(place)}, redundancy=3)
    counts = yield number("person", role="people", inputs={"guesses": list(map(str, values(guesses)))}, redundancy=2)
    shown = {"counts": list(map(str, values(counts)))}
    checked = yield SubTask(
        name="check", role="people", instructions="So?", schema=YES_NO, inputs=shown, barred=contributors(counts)
    )
    agreed = yield SubTask(name="agree", role="mix", instructions="So?", schema=YES_NO, inputs=shown, redundancy=2)
    total = sum(values(counts))
    for _ in range(3):
        (one,) = yield number("more", inputs={"so far": str(total)})
        total += one.value
    return [*values(guesses), *values(checked), *values(agreed), total]


def pipeline():
    found = yield Together([branch(place) for place in range(NUM_BRANCHES)])
    (last,) = yield number("last", inputs={"all": [json.dumps(one) for one in found]})
    return [*found, last.value]


class LoggedAsks:
    """A worker that writes down what it is asked; an ask's seed tells step, slot, attempt and contributor."""

    def __init__(self, worker, path):
        self.assign, self._worker, self._path = worker.assign, worker, path

    def answer(self, asks, on_reply):
        for ask in asks:
            log(self._path, ask.seed)
        self._worker.answer(asks, on_reply)


def open_run(folder: Path, store: ResponseStore, delay_s: float) -> Crew:
    """The crew: models that write down what they generate, and are refused now and then; people; a mix of them."""

    def respond(card, request):
        log(folder / GENERATED, request_key(engine.encode(request)))
        drawn = hashed(card.name, request.prompt)
        if request.options:
            return request.options[drawn % len(request.options)]
        is_refused = drawn % 4 == 0 and "refused" not in str(request.prompt)
        return "no idea" if is_refused else str(drawn % 97)

    engine = ScriptedEngine([scripted_card("small"), scripted_card("large", base_rate=3.0)], respond, delay_s=delay_s)
    workers = {
        name: LoggedAsks(PoolWorker(engine, store, models=models), folder / ASKED)
        for name, models in (("models", ()), ("small", ("small",)), ("large", ("large",)))
    }
    return Crew(
        workers=workers | {"people": People(lease_s=LEASE_S), "mix": Mix(members=("small", "large"), decider="people")},
        roles={"people": "people", "mix": "mix", "*": "models"},
    )


def run(folder: Path, delay_s: float, started=None, **options) -> None:
    """Take the run to its end; what a killed process does."""
    with ResponseStore(folder / STORE) as store, Journal(folder / STORE) as journal:
        runner = Runner(open_run(folder, store, delay_s), journal, RUN, poll_s=0.003, **options)
        if started is not None:
            started.set()
        outcome = runner.run(pipeline())
    (folder / "result.json").write_text(json.dumps([outcome.status, outcome.result, outcome.spent.num_calls]))


# -- the people --


class Crowd:
    """People on a queue: some submit at once, some late or not at all; what they say depends on the sub-task alone."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self._random = path, random.Random(seed)
        self.submitted: list[tuple] = []  # (place, person, value, is counted)
        self.error: BaseException | None = None  # what ended the thread
        self._late: list[tuple] = []
        self._deadline_s = time.monotonic() + PATIENCE_S

    def act(self, journal: Journal) -> None:
        """Let somebody do something."""
        assert time.monotonic() < self._deadline_s
        if self._late and self._random.random() < 0.3:
            ticket, person = self._late.pop(0)
            self._submit(journal, ticket, person)
        person = self._random.choice(["ann", "bo", "carl", "dee", "eve"])
        ticket = journal.take_ticket(person)
        if ticket is None:
            return
        assert ticket.place not in {place for place, *_, is_counted in self.submitted if is_counted}
        match self._random.randrange(8):
            case 0:
                journal.give_back(ticket, person)
            case 1 if person == "ann":  # were all to skip, nobody would be left
                journal.skip(ticket, person)
            case 2 | 3:
                self._late.append((ticket, person))
            case _:
                self._submit(journal, ticket, person)

    def finish(self, journal: Journal) -> None:
        """Let the late ones submit."""
        for ticket, person in self._late:
            self._submit(journal, ticket, person)

    def _submit(self, journal: Journal, ticket, person: str) -> None:
        shown = hashed(*map(str, ticket.subtask.inputs_of(ticket.place.slot).items()), ticket.place.slot)
        schema = ticket.subtask.schema
        value = schema.options[shown % 2] if isinstance(schema, ChoiceSchema) else shown % 97
        is_counted = journal.submit(ticket, person, text=str(value), value=value)
        self.submitted.append((ticket.place, person, value, is_counted))

    def work_until(self, is_over: threading.Event) -> None:
        """Work in a thread of one's own, with a pause after every act."""
        try:
            with Journal(self.path) as journal:
                while not is_over.wait(self._random.uniform(0, 0.01)):
                    self.act(journal)
        except BaseException as error:
            self.error = error

    def check(self, journal: Journal) -> None:
        """Everything submitted is there, once: as the answer, or beside it."""
        answers, extras = journal.answers(RUN), journal.extras(RUN)
        for place, person, value, is_counted in self.submitted:
            if is_counted:
                (answer,) = answers[place.step, place.slot]
                assert (answer.contributor, answer.value) == (person, value)
        beside = [(place, person, value) for place, person, value, is_counted in self.submitted if not is_counted]
        assert Counter(map(str, extras)) == Counter(map(str, beside))
        counted = [place for place, *_, is_counted in self.submitted if is_counted]
        assert len(set(counted)) == len(counted)


# -- the account --


def rows(path: Path, columns: str) -> list[tuple]:
    connection = sqlite3.connect(path)
    try:
        return sorted(connection.execute(f"SELECT {columns}"))
    finally:
        connection.close()


class Account:
    """What the logs and the store say, kill after kill."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.answers, self.keys = folder, {}, set()
        self.num_asked = self.num_generated = 0
        self.unanswered: set[str] = set()  # asks, by their seed
        self.lost: Counter = Counter()

    def check(self) -> None:
        """Account for the process that has ended."""
        before, known = self.answers, self.keys
        found = rows(
            self.folder / STORE, "step, slot, attempt, asked, contributor, answer, created_s FROM crowd_answers"
        )
        self.answers = {tuple(row[:3]): row[3:] for row in found}
        self.keys = {key for (key,) in rows(self.folder / STORE, "key FROM responses")}
        assert self.answers.items() >= before.items()  # nothing was lost or written anew
        asked, generated = logged(self.folder / ASKED), logged(self.folder / GENERATED)
        committed = {self.seed(place, row) for place, row in before.items()}
        assert not committed & set(asked[self.num_asked :])
        assert {self.seed(place, row) for place, row in found_of_models(self.answers)} <= set(asked)
        new = generated[self.num_generated :]
        assert not known & set(new)
        assert len(set(new)) == len(new)
        assert len(set(new) - self.keys) <= 1
        self.lost.update(set(new) - self.keys)
        self.num_asked, self.num_generated = len(asked), len(generated)
        self.unanswered = set(asked) - {self.seed(place, row) for place, row in self.answers.items()}

    @staticmethod
    def seed(place: tuple, row: tuple) -> str:
        """The seed with which a contributor was asked, as the runner makes it."""
        (step, _, attempt), (asked, contributor, *_) = place, row
        return str(int(digest([asked, step, contributor, attempt])[:7], 16))


def found_of_models(answers: dict[tuple, tuple]) -> list[tuple]:
    return [(place, row) for place, row in answers.items() if "#" in row[1]]


def contents(path: Path) -> list[tuple]:
    """The journal, without times and without the names of people."""
    return [
        (*row, contributor if "#" in contributor else "somebody")
        for *row, contributor in rows(
            path, "step, slot, attempt, answer, value, refusal, cost, contributor FROM crowd_answers"
        )
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    crowd = Crowd(folder / STORE, 1)
    with Journal(folder / STORE) as journal:
        run(folder, 0.0, sleep=lambda _: crowd.act(journal))
        crowd.finish(journal)
        crowd.check(journal)
    return folder


@pytest.fixture(scope="module")
def processes():
    """Processes forked from a server that has imported everything: a run starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["hierrouter_jax.crowd.runner", "hierrouter_jax.crowd.workers.pool_worker", "pytest",
         "hierrouter_jax.llm.scripted_engine"]
    )  # fmt: skip
    return context


def kill_at(process, crowd: Crowd, num_answers: int, delay_s: float) -> None:
    """Kill a process once so many answers are committed, and a moment more: by count, a slow machine is as random."""
    deadline_s = time.monotonic() + PATIENCE_S
    connection = sqlite3.connect(crowd.path)
    try:
        while connection.execute("SELECT COUNT(*) FROM crowd_answers").fetchone()[0] < num_answers:
            assert process.exitcode is None
            assert crowd.error is None
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
    finally:
        connection.close()
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL  # it had not finished


def test_a_killed_run_of_models_and_people_ends_as_an_undisturbed_one(tmp_path, undisturbed, processes):
    expected = contents(undisturbed / STORE)
    moments, account, crowd = random.Random(7), Account(tmp_path), Crowd(tmp_path / STORE, 2)
    thresholds = sorted(moments.sample(range(len(expected) * 9 // 10), NUM_KILLS))
    is_over, num_calm = threading.Event(), 0
    with Journal(tmp_path / STORE):
        people = threading.Thread(target=crowd.work_until, args=(is_over,))
        people.start()
    try:
        for threshold in thresholds:
            started, num_before = processes.Event(), len(account.answers)
            process = processes.Process(target=run, args=(tmp_path, DELAY_S, started))
            process.start()
            assert started.wait(120)
            kill_at(process, crowd, threshold, moments.uniform(0, 3 * DELAY_S))
            account.check()
            num_calm += len(account.answers) == num_before
        assert num_calm < NUM_KILLS // 2  # most kills fell amid the work
    finally:
        is_over.set()
        people.join()
    assert crowd.error is None
    assert 0 < len(account.answers) < len(expected)
    with Journal(tmp_path / STORE) as journal:
        run(tmp_path, 0.0, sleep=lambda _: crowd.act(journal))
        account.check()
        crowd.finish(journal)
        crowd.check(journal)
        assert len(journal.extras(RUN)) > 0  # somebody was overtaken, or the check of that would be an empty one
        assert journal.open_tickets() == []
    assert (tmp_path / "result.json").read_text() == (undisturbed / "result.json").read_text()
    assert json.loads((tmp_path / "result.json").read_text())[0] == "done"
    assert contents(tmp_path / STORE) == expected
    assert account.unanswered == set()
    generated = Counter(logged(tmp_path / GENERATED))
    assert generated == Counter(account.keys) + account.lost
    print(f"{NUM_KILLS} kills, {len(expected)} answers, {len(crowd.submitted)} submitted, {account.lost.total()} lost")
