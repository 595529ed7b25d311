"""The journal of runs: every answer is on disk before it is used, every sub-task that waits for people stands there.

It lives in the response store's SQLite file, in tables of its own, with the same guarantees: what a call has returned
from survives a kill. Several processes use it at once: the run, and everybody who works on its queue.

A person takes a ticket under a lease. When the lease ends, others may take it; whoever submits first is counted, and
what comes later is kept beside it, never thrown away.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from hierrouter_jax.core.configs import canonical_json
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.subtasks import SubTask
from hierrouter_jax.store.response_store import BUSY_TIMEOUT_S, ResponseStore
from hierrouter_jax.store.sqlite_file import clear_errors, transaction

JOURNAL_VERSION = 1
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS crowd_runs (run TEXT PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL,"
    " created_s REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS crowd_answers (run TEXT NOT NULL, step TEXT NOT NULL, slot INTEGER NOT NULL,"
    " attempt INTEGER NOT NULL, asked TEXT NOT NULL, contributor TEXT NOT NULL, kin TEXT NOT NULL,"
    " answer TEXT NOT NULL, value TEXT, refusal TEXT, is_failure INTEGER NOT NULL, cost REAL NOT NULL,"
    " created_s REAL NOT NULL,"
    " PRIMARY KEY (run, step, slot, attempt))",
    "CREATE TABLE IF NOT EXISTS crowd_tickets (run TEXT NOT NULL, step TEXT NOT NULL, slot INTEGER NOT NULL,"
    " role TEXT NOT NULL, subtask TEXT NOT NULL, lease_s REAL NOT NULL, cost REAL NOT NULL, opened_s REAL NOT NULL,"
    " holder TEXT, lease_until_s REAL, is_done INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (run, step, slot))",
    "CREATE TABLE IF NOT EXISTS crowd_extras (run TEXT NOT NULL, step TEXT NOT NULL, slot INTEGER NOT NULL,"
    " contributor TEXT NOT NULL, answer TEXT NOT NULL, value TEXT NOT NULL, created_s REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS crowd_skips (run TEXT NOT NULL, step TEXT NOT NULL, slot INTEGER NOT NULL,"
    " contributor TEXT NOT NULL, PRIMARY KEY (run, step, slot, contributor))",
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a run an answer belongs: the step of the pipeline, and one of the sub-task's slots."""

    run: str
    step: str
    slot: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back for one slot: a value, or the reason why there is none."""

    asked: str  # digest of the sub-task
    contributor: str
    kin: str
    text: str
    value: Any = None
    refusal: str | None = None
    is_failure: bool = False  # nothing was said that could be refused
    cost: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A slot that waits for a person."""

    place: Place
    subtask: SubTask
    lease_s: float
    cost: float  # what an answer is counted as
    holder: str | None = None
    lease_until_s: float | None = None


class Journal:
    """The journal in the response store at `path`, made when it does not exist. Use it in a `with` block.

    `clock` gives the time in seconds since the epoch, for leases. Raises what `ResponseStore` raises.
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = Path(path), clock
        ResponseStore(path).close()  # makes the file, or checks that it is a store
        with self._clear_errors("opening"):
            self._connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                for statement in SCHEMA:
                    self._connection.execute(statement)

    @classmethod
    def existing(cls, path: str | Path) -> Journal:
        """Open a journal that must be there already; `DataError` when it is not."""
        if not Path(path).is_file():
            raise DataError(f"There is no store at {path}; give the one that the run was begun with.")
        return cls(path)

    def begin(self, run: str, record: Mapping[str, Any]) -> None:
        """Write down what a run is; `DataError` when a run of that name is another one."""
        with self._clear_errors("writing"), self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO crowd_runs VALUES (?, ?, ?, ?)",
                (run, JOURNAL_VERSION, canonical_json(dict(record)), self._clock()),
            )
        if self.record(run) != json.loads(canonical_json(dict(record))):
            raise DataError(
                f"Run {run} of {self.path} is of another pipeline, input or crew; name this run otherwise, or resume "
                "that one. Nothing was changed."
            )

    def record(self, run: str) -> dict[str, Any]:
        """Return what a run is; `DataError` when there is none of that name."""
        rows = self._all("SELECT version, record FROM crowd_runs WHERE run = ?", (run,))
        if not rows:
            known = ", ".join(self.runs()) or "none"
            raise DataError(f"There is no run {run!r} in {self.path}; its runs are: {known}.")
        version, record = rows[0]
        if version != JOURNAL_VERSION:
            raise DataError(
                f"Run {run} of {self.path} has journal version {version}, but this version of hierrouter_jax reads "
                f"version {JOURNAL_VERSION}; use the version that wrote it."
            )
        return json.loads(record)

    def runs(self) -> list[str]:
        """Return the names of the runs, oldest first."""
        return [name for (name,) in self._all("SELECT run FROM crowd_runs ORDER BY created_s, run")]

    def put(self, place: Place, attempt: int, answer: Answer) -> None:
        """Commit an answer; one that is there already stays."""
        with self._clear_errors("writing"), self._transaction():
            self._insert_answer(place, attempt, answer)

    def answers(self, run: str) -> dict[tuple[str, int], list[Answer]]:
        """Return all answers of a run: by step and slot, those of its attempts in their order."""
        found: dict[tuple[str, int], list[Answer]] = {}
        columns = "step, slot, asked, contributor, kin, answer, value, refusal, is_failure, cost"
        rows = self._all(f"SELECT {columns} FROM crowd_answers WHERE run = ? ORDER BY step, slot, attempt", (run,))
        for step, slot, *fields in rows:
            found.setdefault((step, slot), []).append(_answer(fields))
        return found

    def answers_at(self, place: Place) -> list[Answer]:
        """Return the answers of one slot."""
        columns = "asked, contributor, kin, answer, value, refusal, is_failure, cost"
        rows = self._all(
            f"SELECT {columns} FROM crowd_answers WHERE run = ? AND step = ? AND slot = ? ORDER BY attempt", _at(place)
        )
        return [_answer(fields) for fields in rows]

    def open_ticket(self, ticket: Ticket) -> None:
        """Put a slot into the queue; one that is there already stays as it is."""
        with self._clear_errors("writing"), self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO crowd_tickets VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, 0)",
                (
                    *_at(ticket.place),
                    ticket.subtask.role,
                    canonical_json(ticket.subtask.to_json()),
                    ticket.lease_s,
                    ticket.cost,
                    self._clock(),
                ),
            )

    def open_tickets(self, run: str | None = None) -> list[Ticket]:
        """Return the tickets that nobody has answered yet, oldest first."""
        chosen, parameters = ("", ()) if run is None else (" AND run = ?", (run,))
        columns = "run, step, slot, subtask, lease_s, cost, holder, lease_until_s"
        rows = self._all(
            f"SELECT {columns} FROM crowd_tickets WHERE is_done = 0{chosen} ORDER BY opened_s, run, step, slot",
            parameters,
        )
        return [_ticket(row) for row in rows]

    def take_ticket(self, person: str, *, run: str | None = None, roles: Sequence[str] = ()) -> Ticket | None:
        """Lease the oldest ticket that `person` may answer, or return None.

        Not taken are tickets that another holds, that bar the person, that the person skipped, and those of a step of
        which the person has answered, or holds, another slot: redundant answers come from different people.
        """
        with self._clear_errors("writing"), self._transaction():
            now = self._clock()
            for ticket in self.open_tickets(run):
                is_free = ticket.holder in (None, person) or (ticket.lease_until_s or 0.0) <= now
                is_wanted = not roles or ticket.subtask.role in roles
                if is_free and is_wanted and self._may_answer(person, ticket):
                    until = now + ticket.lease_s
                    self._connection.execute(
                        "UPDATE crowd_tickets SET holder = ?, lease_until_s = ?"
                        " WHERE run = ? AND step = ? AND slot = ?",
                        (person, until, *_at(ticket.place)),
                    )
                    return replace(ticket, holder=person, lease_until_s=until)
        return None

    def submit(self, ticket: Ticket, person: str, *, text: str, value: Any) -> bool:
        """Commit a person's answer; return whether it counts. Where another was first it is kept beside that one.

        A lease that has ended does no harm as long as nobody else was faster.
        """
        place = ticket.place
        with self._clear_errors("writing"), self._transaction():
            is_done = self._all("SELECT is_done FROM crowd_tickets WHERE run = ? AND step = ? AND slot = ?", _at(place))
            if not is_done:
                raise DataError(f"There is no ticket {place.step} of run {place.run} in {self.path}.")
            if is_done[0][0] or not self._is_only_slot(person, ticket):
                self._connection.execute(
                    "INSERT INTO crowd_extras VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*_at(place), person, text, canonical_json(value), self._clock()),
                )
                return False
            answer = Answer(
                asked=ticket.subtask.digest(), contributor=person, kin=person, text=text, value=value, cost=ticket.cost
            )
            self._insert_answer(place, 0, answer)
            self._connection.execute(
                "UPDATE crowd_tickets SET is_done = 1 WHERE run = ? AND step = ? AND slot = ?", _at(place)
            )
        return True

    def skip(self, ticket: Ticket, person: str) -> None:
        """Give a ticket back; neither it nor another slot of its step is taken by this person until `forget_skips`."""
        with self._clear_errors("writing"), self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO crowd_skips VALUES (?, ?, ?, ?)", (*_at(ticket.place), person)
            )
            self._release(ticket, person)

    def forget_skips(self, person: str) -> None:
        """Let a person take again what they have skipped."""
        with self._clear_errors("writing"), self._transaction():
            self._connection.execute("DELETE FROM crowd_skips WHERE contributor = ?", (person,))

    def give_back(self, ticket: Ticket, person: str) -> None:
        """Give a ticket back for anybody to take, this person included."""
        with self._clear_errors("writing"), self._transaction():
            self._release(ticket, person)

    def extras(self, run: str) -> list[tuple[Place, str, Any]]:
        """Return what was submitted beside the answer that counts: where, by whom, the value."""
        rows = self._all(
            "SELECT step, slot, contributor, value FROM crowd_extras WHERE run = ? ORDER BY created_s", (run,)
        )
        return [(Place(run=run, step=step, slot=slot), who, json.loads(value)) for step, slot, who, value in rows]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Journal:
        """Return the journal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _may_answer(self, person: str, ticket: Ticket) -> bool:
        if not ticket.subtask.is_open_to(person):
            return False
        skipped = self._all(
            "SELECT 1 FROM crowd_skips WHERE run = ? AND step = ? AND contributor = ?",
            (ticket.place.run, ticket.place.step, person),
        )
        return not skipped and self._is_only_slot(person, ticket)

    def _is_only_slot(self, person: str, ticket: Ticket) -> bool:
        """Say whether the person has no other slot of the step, answered or held."""
        place = ticket.place
        step = (place.run, place.step, place.slot, person)
        answered = self._all(
            "SELECT 1 FROM crowd_answers WHERE run = ? AND step = ? AND slot <> ? AND contributor = ?", step
        )
        held = self._all(
            "SELECT 1 FROM crowd_tickets WHERE run = ? AND step = ? AND slot <> ? AND holder = ? AND is_done = 0"
            " AND lease_until_s > ?",
            (*step, self._clock()),
        )
        return not answered and not held

    def _release(self, ticket: Ticket, person: str) -> None:
        self._connection.execute(
            "UPDATE crowd_tickets SET holder = NULL, lease_until_s = NULL"
            " WHERE run = ? AND step = ? AND slot = ? AND holder = ?",
            (*_at(ticket.place), person),
        )

    def _insert_answer(self, place: Place, attempt: int, answer: Answer) -> None:
        # Not canonical: fields keep their order, so that a rerun sees the value that the first run saw.
        value = None if answer.refusal is not None else json.dumps(answer.value, allow_nan=False)
        self._connection.execute(
            "INSERT OR IGNORE INTO crowd_answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *_at(place),
                attempt,
                answer.asked,
                answer.contributor,
                answer.kin,
                answer.text,
                value,
                answer.refusal,
                int(answer.is_failure),
                answer.cost,
                self._clock(),
            ),
        )

    def _all(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._clear_errors("reading"):
            return self._connection.execute(query, parameters).fetchall()

    def _transaction(self) -> AbstractContextManager[None]:
        return transaction(self._connection)

    def _clear_errors(self, action: str) -> AbstractContextManager[None]:
        return clear_errors(action, "the journal in", self.path)


def _at(place: Place) -> tuple[str, str, int]:
    return place.run, place.step, place.slot


def _answer(fields: Sequence[Any]) -> Answer:
    asked, contributor, kin, text, value, refusal, is_failure, cost = fields
    return Answer(
        asked=asked,
        contributor=contributor,
        kin=kin,
        text=text,
        value=None if value is None else json.loads(value),
        refusal=refusal,
        is_failure=bool(is_failure),
        cost=cost,
    )


def _ticket(row: Sequence[Any]) -> Ticket:
    run, step, slot, subtask, lease_s, cost, holder, lease_until_s = row
    return Ticket(
        place=Place(run=run, step=step, slot=slot),
        subtask=SubTask.from_json(json.loads(subtask)),
        lease_s=lease_s,
        cost=cost,
        holder=holder,
        lease_until_s=lease_until_s,
    )
