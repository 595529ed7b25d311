"""The journal: leases, late and double submissions, who may take what, and several processes at once."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections import Counter

import pytest

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.journal import Answer, Journal, Place, Ticket
from hierrouter_jax.crowd.output_schemas import NumberSchema
from hierrouter_jax.crowd.subtasks import SubTask

LEASE_S = 13.0


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def journal(tmp_path, clock):
    with Journal(tmp_path / "store.sqlite", clock=clock) as journal:
        yield journal


def count(name="count", **fields):
    return SubTask(
        name=name,
        role=fields.pop("role", "count"),
        instructions="How many?",
        schema=NumberSchema(),
        **({"redundancy": 2} | fields),
    )


def add(journal, *places, run="run", lease_s=LEASE_S, cost=0.25, **fields):
    """Open a ticket for each (step, slot)."""
    for step, slot in places:
        name = step.split(":")[-1]
        ticket = Ticket(
            place=Place(run=run, step=step, slot=slot), subtask=count(name, **fields), lease_s=lease_s, cost=cost
        )
        journal.open_ticket(ticket)


def submit(journal, ticket, person, value):
    return journal.submit(ticket, person, text=f"{value}!", value=value)


def steps(tickets):
    return [(ticket.place.step, ticket.place.slot) for ticket in tickets]


def values(journal, run="run"):
    """What is counted: by step and slot, who said what."""
    return {place: [(one.contributor, one.value) for one in found] for place, found in journal.answers(run).items()}


def test_the_oldest_ticket_is_leased_and_comes_back_when_the_lease_ends(journal, clock):
    add(journal, ("0:first", 0))
    clock.now_s += 1
    add(journal, ("1:second", 0))
    ticket = journal.take_ticket("ann")
    assert steps([ticket]) == [("0:first", 0)]
    assert (ticket.holder, ticket.lease_until_s) == ("ann", clock.now_s + LEASE_S)
    assert (ticket.lease_s, ticket.cost) == (LEASE_S, 0.25)
    assert ticket.subtask == count("first")
    assert steps([journal.take_ticket("bo")]) == [("1:second", 0)]
    assert journal.take_ticket("carl") is None
    clock.now_s += LEASE_S - 0.1
    assert journal.take_ticket("carl") is None
    clock.now_s += 0.1
    again = journal.take_ticket("carl")
    assert steps([again]) == [("0:first", 0)]
    assert (again.holder, again.lease_until_s) == ("carl", clock.now_s + LEASE_S)


def test_a_ticket_that_is_there_already_stays_as_it_is(journal, clock):
    add(journal, ("0:first", 0))
    until_s = journal.take_ticket("ann").lease_until_s
    clock.now_s += 1
    add(journal, ("0:first", 0), lease_s=999.0)
    (ticket,) = journal.open_tickets()
    assert (ticket.holder, ticket.lease_until_s, ticket.lease_s) == ("ann", until_s, LEASE_S)


def test_who_took_a_ticket_and_lost_it_from_sight_gets_it_again_with_a_new_lease(journal, clock):
    add(journal, ("0:first", 0), ("1:second", 0))
    journal.take_ticket("ann")
    clock.now_s += 5
    again = journal.take_ticket("ann")
    assert steps([again]) == [("0:first", 0)]
    assert again.lease_until_s == clock.now_s + LEASE_S


def test_an_answer_counts_once_and_closes_its_ticket(journal):
    add(journal, ("0:first", 0))
    ticket = journal.take_ticket("ann")
    assert submit(journal, ticket, "ann", 7)
    assert journal.open_tickets() == []
    assert journal.take_ticket("bo") is None
    (answer,) = journal.answers("run")["0:first", 0]
    assert answer == Answer(
        asked=count("first").digest(), contributor="ann", kin="ann", text="7!", value=7, refusal=None, cost=0.25
    )
    assert journal.answers_at(ticket.place) == [answer]
    assert not submit(journal, ticket, "ann", 11)
    assert values(journal) == {("0:first", 0): [("ann", 7)]}
    assert journal.extras("run") == [(ticket.place, "ann", 11)]


@pytest.mark.parametrize("is_taken_by_another", [False, True])
def test_a_late_answer_counts_when_nobody_was_faster(journal, clock, is_taken_by_another):
    add(journal, ("0:first", 0))
    late = journal.take_ticket("ann")
    clock.now_s += LEASE_S + 1
    other = journal.take_ticket("bo") if is_taken_by_another else None
    assert submit(journal, late, "ann", 7)
    assert journal.open_tickets() == []
    if other is not None:
        assert not submit(journal, other, "bo", 11)
        assert journal.extras("run") == [(late.place, "bo", 11)]
    assert values(journal) == {("0:first", 0): [("ann", 7)]}


def test_a_late_answer_is_kept_beside_a_faster_one(journal, clock):
    add(journal, ("0:first", 0))
    late = journal.take_ticket("ann")
    clock.now_s += LEASE_S
    fast = journal.take_ticket("bo")
    assert submit(journal, fast, "bo", 11)
    clock.now_s += 1
    assert not submit(journal, late, "ann", 7)
    clock.now_s += 1
    assert not submit(journal, late, "carl", 5)
    assert values(journal) == {("0:first", 0): [("bo", 11)]}
    assert journal.extras("run") == [(late.place, "ann", 7), (late.place, "carl", 5)]
    assert journal.extras("other") == []


def test_one_person_never_has_two_slots_of_a_step(journal, clock):
    add(journal, ("0:first", 0), ("0:first", 1), ("1:second", 0))
    first = journal.take_ticket("ann")
    second = journal.take_ticket("bo")
    assert steps([first, second]) == [("0:first", 0), ("0:first", 1)]
    journal.give_back(second, "bo")
    assert submit(journal, first, "ann", 7)
    assert steps([journal.take_ticket("ann")]) == [("1:second", 0)]  # not the free second slot
    assert not submit(journal, second, "ann", 13)  # nor by a ticket from elsewhere
    assert steps(journal.open_tickets()) == [("0:first", 1), ("1:second", 0)]
    assert journal.extras("run") == [(second.place, "ann", 13)]
    assert steps([journal.take_ticket("bo")]) == [("0:first", 1)]


def test_who_holds_a_slot_is_not_given_an_older_one_of_its_step(journal, clock):
    add(journal, ("0:first", 0), ("0:first", 1))
    freed, held = journal.take_ticket("ann"), journal.take_ticket("bo")
    journal.give_back(freed, "ann")
    assert steps([journal.take_ticket("bo")]) == [("0:first", 1)]
    assert not submit(journal, freed, "bo", 3)  # while the other is held
    assert submit(journal, held, "bo", 7)
    assert values(journal) == {("0:first", 1): [("bo", 7)]}


def test_slots_held_and_other_steps_of_other_runs_count_for_themselves(journal, clock):
    add(journal, ("0:first", 0), ("0:first", 1))
    clock.now_s += 1
    add(journal, ("0:first", 0), run="other")
    journal.take_ticket("ann")
    clock.now_s += LEASE_S
    assert steps([journal.take_ticket("bo")]) == [("0:first", 0)]
    held = journal.take_ticket("ann")
    assert steps([held]) == [("0:first", 1)]
    assert submit(journal, held, "ann", 3)
    assert journal.take_ticket("ann").place.run == "other"


def test_a_barred_person_is_passed_over(journal):
    add(journal, ("0:judge", 0), barred=("ann", "model#0"))
    assert journal.take_ticket("ann") is None
    assert steps([journal.take_ticket("bo")]) == [("0:judge", 0)]


def test_a_skipped_step_is_not_shown_again_to_who_skipped_it(journal, clock):
    add(journal, ("0:first", 0), ("0:first", 1), ("1:second", 0))
    ticket = journal.take_ticket("ann")
    journal.skip(ticket, "ann")
    journal.skip(ticket, "ann")
    (free, *_) = journal.open_tickets()
    assert (free.holder, free.lease_until_s) == (None, None)
    assert steps([journal.take_ticket("ann")]) == [("1:second", 0)]  # the other slot asks the same
    clock.now_s += 10 * LEASE_S
    assert steps([journal.take_ticket("bo")]) == [("0:first", 0)]


def test_a_ticket_is_given_back_only_by_who_holds_it(journal, clock):
    add(journal, ("0:first", 0))
    ticket = journal.take_ticket("ann")
    journal.give_back(ticket, "bo")
    assert journal.take_ticket("carl") is None
    journal.give_back(ticket, "ann")
    assert journal.take_ticket("carl").holder == "carl"
    journal.give_back(ticket, "ann")  # and again, too late
    journal.skip(ticket, "ann")
    assert journal.open_tickets()[0].holder == "carl"


def test_tickets_are_chosen_by_run_and_role(journal, clock):
    add(journal, ("0:find", 0), role="find")
    clock.now_s += 1
    add(journal, ("0:fix", 0), role="fix")
    clock.now_s += 1
    add(journal, ("0:fix", 0), run="other", role="fix")
    assert len(journal.open_tickets()) == 3
    assert steps(journal.open_tickets("run")) == [("0:find", 0), ("0:fix", 0)]
    found = journal.take_ticket("ann", roles=["fix", "verify"])
    assert (found.place.run, found.subtask.role) == ("run", "fix")
    assert journal.take_ticket("bo", run="other", roles=["find"]) is None
    assert journal.take_ticket("bo", run="other").place.run == "other"
    assert journal.take_ticket("bo", roles=["verify"]) is None


def test_a_submission_without_a_ticket_is_refused(journal):
    add(journal, ("0:first", 0))
    ticket = journal.take_ticket("ann")
    stray = Ticket(place=Place(run="run", step="7:stray", slot=0), subtask=ticket.subtask, lease_s=LEASE_S, cost=0.0)
    with pytest.raises(DataError, match=r"There is no ticket 7:stray of run run in .*store\.sqlite"):
        submit(journal, stray, "ann", 7)
    assert journal.answers("run") == {}


def test_the_first_answer_to_an_attempt_stays(journal):
    place = Place(run="run", step="0:first", slot=0)
    for attempt, text in ((0, "seven"), (0, "eleven"), (1, "13")):
        refusal = None if attempt else "no number"
        answer = Answer(asked="d", contributor="m#0", kin="m", text=text, value=13, refusal=refusal)
        journal.put(place, attempt, answer)
    first, second = journal.answers_at(place)
    assert (first.text, first.value, first.refusal) == ("seven", None, "no number")
    assert (second.text, second.value, second.refusal) == ("13", 13, None)


def test_a_file_that_is_no_store_and_a_store_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="There is no store at"):
        Journal.existing(tmp_path / "none.sqlite")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("not a database, but some text\n" * 99)
    with pytest.raises(DataError):
        Journal.existing(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text().startswith("not a database")


# -- several processes --


@pytest.fixture(scope="module")
def processes():
    """Processes forked from a server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hierrouter_jax.crowd.journal", "pytest"])
    return context


def answer_all(path, person, start):
    """Take and answer whatever there is, with numbers from 1 on; a third of the tickets is given back first."""
    with Journal(path) as journal:
        start.wait(60)
        num_taken = num_submitted = 0
        while (ticket := journal.take_ticket(person)) is not None:
            num_taken += 1
            if num_taken % 3 == 1:
                journal.give_back(ticket, person)
                continue
            num_submitted += 1
            submit(journal, ticket, person, num_submitted)
    path.with_name(person).write_text(str(num_submitted))


@pytest.mark.parametrize("lease_s", [1e6, 0.0])
def test_people_in_processes_of_their_own_never_answer_a_slot_twice(tmp_path, processes, lease_s):
    """With leases that end at once, people race for every ticket: what loses is kept."""
    path, places = tmp_path / "store.sqlite", [(f"{step}:many", slot) for step in range(11) for slot in range(3)]
    start, people = processes.Event(), ["ann", "bo", "carl", "dee"]
    workers = [processes.Process(target=answer_all, args=(path, person, start)) for person in people]
    with Journal(path) as journal:
        add(journal, *places, lease_s=lease_s, redundancy=3)
        for worker in workers:
            worker.start()
        start.set()
        for worker in workers:
            worker.join(120)
            assert worker.exitcode == 0
        counted, extras = values(journal), journal.extras("run")
        assert sorted(counted) == sorted(places)
        assert all(len(found) == 1 for found in counted.values())
        by_step = Counter((step, found[0][0]) for (step, _), found in counted.items())
        assert set(by_step.values()) == {1}  # three people a step
        assert journal.open_tickets() == []
    kept = [found[0] for found in counted.values()] + [(person, value) for _, person, value in extras]
    submitted = {person: int((tmp_path / person).read_text()) for person in people}
    assert sorted(kept) == [(person, value) for person in people for value in range(1, submitted[person] + 1)]
    assert not extras or not lease_s


def open_at_once(path, start):
    start.wait(60)
    with Journal(path) as journal:
        journal.begin("run", {"text": "one"})


def test_a_journal_is_made_by_several_processes_at_once(tmp_path, processes):
    path, start = tmp_path / "new.sqlite", processes.Event()
    workers = [processes.Process(target=open_at_once, args=(path, start)) for _ in range(5)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    with Journal.existing(path) as journal:
        assert journal.runs() == ["run"]
        assert journal.record("run") == {"text": "one"}


def test_a_journal_shares_its_file_with_an_ordinary_reader(journal):
    add(journal, ("0:first", 0))
    submit(journal, journal.take_ticket("ann"), "ann", 7)
    reader = sqlite3.connect(journal.path)
    try:
        assert reader.execute("SELECT value FROM crowd_answers").fetchall() == [("7",)]
    finally:
        reader.close()
