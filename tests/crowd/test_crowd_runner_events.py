"""What happens in a run, in which order: failures in branches and mixes, budgets with people, long and deep runs."""

from __future__ import annotations

import cProfile
import pstats
import sys
import traceback

import pytest
from crowd_runs import asked_names, run_crew, run_scripted, scripted

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.budget import Budget
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.output_schemas import YES_NO, NumberSchema, TextSchema
from hierrouter_jax.crowd.runner import ASKS_AT_A_TIME, Crew, Runner
from hierrouter_jax.crowd.subtasks import SubTask, SubTaskFailedError, Together, values
from hierrouter_jax.crowd.workers.mix import Mix
from hierrouter_jax.crowd.workers.worker import People


def number(name, **fields):
    return SubTask(name=name, role=fields.pop("role", "m"), instructions="?", schema=NumberSchema(), **fields)


def one(name, **fields):
    return (yield number(name, **fields))[0].value


def several(name, **fields):
    return values((yield number(name, **fields)))


# -- failures in branches --


def test_a_branch_that_fails_is_told_when_all_have_ended_and_may_be_caught(tmp_path):
    told = []

    def bad():
        yield number("bad")

    def good(place):
        first = yield from one(f"good-{place}")
        told.append(f"good-{place}")
        return first + (yield from one(f"more-{place}"))

    def pipeline():
        try:
            yield Together([bad(), good(0), bad(), good(1)])
        except SubTaskFailedError as failure:
            told.append(str(failure).split(";")[0])
        kept = yield Together([bad(), good(2)], keeps_failures=True)
        empty = yield Together([])
        return [type(kept[0]).__name__, kept[1], empty, (yield from one("last"))]

    failed = "Sub-task bad needs 1 usable answers, but got 0 of 1"
    worker = scripted(lambda ask: "none" if ask.subtask.name == "bad" else "3")
    outcome = run_scripted(pipeline(), worker, tmp_path)
    assert outcome.result == ["SubTaskFailedError", 6, [], 3]
    assert told == ["good-0", "good-1", failed, "good-2"]
    names = asked_names(worker)
    assert names[:4] == ["bad", "good-0", "bad", "good-1"]
    assert names[-1] == "last"
    assert names.count("bad") == 3 * 3
    silent = scripted(lambda ask: "0")
    told.clear()
    assert run_scripted(pipeline(), silent, tmp_path).result == outcome.result
    assert silent.asked == []
    assert told == ["good-0", "good-1", failed, "good-2"]


def test_a_pipeline_may_fail_by_itself(tmp_path):
    def own():
        yield number("n")
        raise SubTaskFailedError("No two answers agree.")

    def pipeline():
        return [str(found) for found in (yield Together([own(), one("n")], keeps_failures=True))]

    worker = scripted(lambda ask: "3")
    assert run_scripted(pipeline(), worker, tmp_path).result == ["No two answers agree.", "3"]
    outcome = run_scripted(own(), worker, tmp_path, run="own")
    assert (outcome.status, outcome.reason) == ("failed", "No two answers agree.")


@pytest.mark.parametrize("where", ["root", "branch", "after branches", "after a failure", "mix"])
def test_a_defect_of_a_pipeline_comes_through_with_its_traceback(tmp_path, where):
    def faulty_line(found):
        return {}[found]

    def branch(is_faulty):
        found = yield from one("n", role="x" if where == "mix" else "m")
        return faulty_line(found) if is_faulty else found

    def pipeline():
        if where in ("branch", "mix"):
            return (yield Together([branch(False), branch(True)], keeps_failures=True))
        if where == "root":
            return (yield from branch(True))
        if where == "after branches":
            return faulty_line(sum((yield Together([branch(False), branch(False)]))))
        try:
            yield Together([one("bad"), branch(False)])
        except SubTaskFailedError:
            return faulty_line(7)

    worker = scripted(lambda ask: "none" if ask.subtask.name == "bad" else "3")
    crew = Crew(workers={"m": worker, "x": Mix(members=("m", "m"), decider="m")}, roles={"x": "x", "*": "m"})
    with pytest.raises(KeyError) as caught:
        run_crew(pipeline(), crew, tmp_path)
    frames = [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert frames[-1] == "faulty_line"
    if where != "after a failure":
        assert caught.value.__context__ is None  # nothing of the runner's own hides it
    with Journal(tmp_path / "store.sqlite") as journal:
        assert journal.answers("run")


def test_bad_data_that_a_pipeline_finds_comes_through(tmp_path):
    def pipeline():
        yield number("n")
        raise DataError("The sums must agree.")

    with pytest.raises(DataError, match="The sums must agree"):
        run_scripted(pipeline(), scripted(lambda ask: "3"), tmp_path)


def test_halves_of_characters_are_no_crash(tmp_path):
    def pipeline():
        return values((yield SubTask(name="n", role="r", instructions="?", schema=TextSchema())))

    assert run_scripted(pipeline(), scripted(lambda ask: "a\ud800b"), tmp_path).result == ["a?b"]


def test_a_sub_task_that_needs_nobody_gets_nothing_where_nobody_may_answer(tmp_path):
    worker = scripted(lambda ask: "3", kins=("ada",), bars_kin=True)
    asked = {"barred": ("ada#7",), "redundancy": 3}
    assert run_scripted(several("n", min_contributions=0, **asked), worker, tmp_path).result == []
    outcome = run_scripted(several("n", **asked), worker, tmp_path, run="needed")
    assert outcome.status == "failed"
    assert "had no part in what it judges" in outcome.reason


# -- mixes --


def mixed(a, b, c, **options):
    """A crew whose role "judge" is a mix of the workers a and b, which c decides."""
    workers = {"a": a, "b": b, "c": c, "mix": Mix(members=("a", "b"), decider="c")}
    return Crew(workers=workers, roles={"judge": "mix", "*": "a"}, **options)


def judging(redundancy=5, **fields):
    found = yield SubTask(name="judge", role="judge", instructions="?", schema=YES_NO, redundancy=redundancy, **fields)
    return [(one.slot, one.value, one.contributor) for one in found]


def test_disputed_slots_are_decided_by_different_contributors(tmp_path):
    first = scripted(lambda ask: "yes", kins=("first",))
    second = scripted(lambda ask: "yes" if ask.slot % 2 else "no", kins=("second",))
    third = scripted(lambda ask: str(ask.subtask.inputs_of(ask.slot)["own"]), kins=("third",))
    own = tuple({"own": "no" if slot == 2 else "yes"} for slot in range(5))
    outcome = run_crew(judging(inputs_by_slot=own, barred=("third#1",)), mixed(first, second, third), tmp_path)
    assert outcome.result == [
        (0, "yes", "third#0"),
        (1, "yes", "first#1 & second#1"),
        (2, "no", "third#2"),
        (3, "yes", "first#3 & second#3"),
        (4, "yes", "third#3"),
    ]
    assert asked_names(third) == ["judge-disputed"] * 3


def test_a_person_decides_one_slot_of_a_sub_task(tmp_path):
    crew = mixed(scripted(lambda ask: "yes"), scripted(lambda ask: "no"), People())
    assert run_crew(judging(3), crew, tmp_path).num_waiting == 3
    with Journal(tmp_path / "store.sqlite") as journal:
        for person in ("ada", "bo", "cy"):
            ticket = journal.take_ticket(person)
            assert journal.submit(ticket, person, text="no", value="no")
            assert journal.take_ticket(person) is None
    assert run_crew(judging(3), crew, tmp_path).result == [(0, "no", "ada"), (1, "no", "bo"), (2, "no", "cy")]


def test_a_member_without_a_usable_answer_agrees_with_nobody(tmp_path):
    garbage = scripted(lambda ask: "perhaps" if ask.slot == 1 else "yes", kins=("first",))
    barred = scripted(lambda ask: "yes", kins=("second",), bars_kin=True)
    third = scripted(lambda ask: "no", kins=("third",))
    crew = mixed(garbage, scripted(lambda ask: "yes", kins=("second",)), third)
    assert [value for _, value, _ in run_crew(judging(3), crew, tmp_path).result] == ["yes", "no", "yes"]
    outcome = run_crew(judging(3, barred=("second#0",)), mixed(garbage, barred, third), tmp_path, run="barred")
    assert outcome.result == [(slot, "no", f"third#{slot}") for slot in range(3)]


def test_what_a_decider_cannot_decide_is_missing_and_too_little_fails_with_the_reason(tmp_path):
    a = scripted(lambda ask: "yes", kins=("first",))
    b = scripted(lambda ask: "yes" if ask.slot else "no", kins=("second",))
    c = scripted(lambda ask: "perhaps", kins=("third",))
    crew = mixed(a, b, c)
    assert [slot for slot, _, _ in run_crew(judging(3), crew, tmp_path).result] == [1, 2]

    def pipeline():
        found = yield Together([judging(1), one("n"), judging(3, min_contributions=3)], keeps_failures=True)
        again = yield from judging(2)
        return [str(found[0]), found[1], str(found[2]), again]

    a = scripted(lambda ask: "3" if ask.subtask.name == "n" else "yes", kins=("first",))
    outcome = run_crew(pipeline(), mixed(a, b, c), tmp_path, run="nested")
    failed, three, too_few, again = outcome.result
    assert "Sub-task judge-disputed needs 1 usable answers, but got 0 of 1" in failed
    assert "must be one of yes, no, but is 'perhaps'" in failed
    assert "judge-disputed needs 1" in too_few
    assert (three, [slot for slot, _, _ in again]) == (3, [1])
    silent = [scripted(lambda ask: "no", kins=(kin,)) for kin in ("first", "second", "third")]
    assert run_crew(pipeline(), mixed(*silent), tmp_path, run="nested").result == outcome.result
    assert not any(worker.asked for worker in silent)


def test_a_mix_with_fewer_answers_than_are_needed_fails(tmp_path):
    a = scripted(lambda ask: "yes", kins=("first",))
    b = scripted(lambda ask: "yes" if ask.slot else "no", kins=("second",))
    c = scripted(lambda ask: "perhaps" if ask.slot else "no", kins=("third",))
    crew = mixed(a, b, c)
    assert len(run_crew(judging(3, min_contributions=3), crew, tmp_path).result) == 3
    b = scripted(lambda ask: "no", kins=("second",))
    outcome = run_crew(judging(3, min_contributions=3), mixed(a, b, c), tmp_path, run="few")
    assert outcome.reason == "Sub-task judge needs 3 usable answers, but got 1 of 3."


# -- budgets and people --


class Someone:
    """People who answer one ticket each time the run sleeps, as long as there is one."""

    def __init__(self, path):
        self.path, self.num = path, 0

    def __call__(self, seconds):
        with Journal(self.path) as journal:
            self.num += 1
            ticket = journal.take_ticket(f"person {self.num}")
            assert ticket is not None
            assert journal.submit(ticket, f"person {self.num}", text="5", value=5)


def people_and_models(tmp_path, pipeline, worker, *, waits=True, **options):
    crew = Crew(workers={"m": worker, "p": People()}, roles={"p": "p", "*": "m"})
    sleep = Someone(tmp_path / "store.sqlite")
    with Journal(tmp_path / "store.sqlite") as journal:
        before = journal.answers("run")
        sleep.num = len(before)
        return Runner(crew, journal, "run", sleep=sleep, **options).run(pipeline, waits=waits), sleep


def num_tickets(tmp_path):
    with Journal(tmp_path / "store.sqlite") as journal:
        return len(journal.open_tickets("run"))


@pytest.mark.parametrize("limit", [1, 2, 5, 7, 9, 11, 15])
def test_people_and_models_together_never_pass_a_budget_of_calls(tmp_path, limit):
    def pipeline():
        return (yield Together([several("p", role="p", redundancy=7), several("m", redundancy=11)]))

    worker = scripted(lambda ask: "3")
    outcome, _ = people_and_models(tmp_path, pipeline(), worker, budget=Budget(max_calls=limit))
    assert outcome.status == "budget"
    assert outcome.spent.num_calls == limit
    assert outcome.reason == f"{limit} of {limit} calls are spent"
    assert num_tickets(tmp_path) == 0
    assert len(worker.asked) == max(0, limit - 7)
    outcome, _ = people_and_models(tmp_path, pipeline(), worker, budget=Budget(max_calls=18))
    assert outcome.result == [[5] * 7, [3] * 11]
    assert (outcome.spent.num_calls, len(worker.asked)) == (18, 11)


def test_a_budget_that_is_spent_while_people_wait_is_told_at_once_and_their_work_counts_later(tmp_path):
    def pipeline():
        return (yield Together([several("p", role="p", redundancy=2), several("m", redundancy=3)]))

    worker = scripted(lambda ask: "3")
    outcome, someone = people_and_models(tmp_path, pipeline(), worker, waits=False)
    assert (outcome.status, outcome.num_waiting, len(worker.asked)) == ("waiting", 2, 3)
    outcome, _ = people_and_models(tmp_path, pipeline(), worker, budget=Budget(max_calls=3))
    assert (outcome.status, outcome.num_waiting) == ("budget", 2)
    assert num_tickets(tmp_path) == 2  # what stands in the queue is not taken away
    someone(0)
    outcome, _ = people_and_models(tmp_path, pipeline(), worker, budget=Budget(max_calls=3))
    assert (outcome.status, outcome.num_waiting, outcome.spent.num_calls) == ("budget", 1, 4)
    someone.num = 4
    someone(0)
    outcome, _ = people_and_models(tmp_path, pipeline(), worker, budget=Budget(max_calls=3))
    assert (outcome.status, outcome.result) == ("done", [[5, 5], [3, 3, 3]])


def test_branches_of_people_go_on_between_what_models_are_asked(tmp_path):
    """Two steps of a person pass while models have three batches to answer."""
    store = tmp_path / "store.sqlite"
    steps = []

    class Busy:
        def __init__(self):
            self.inner = scripted(lambda ask: "3")
            self.assign = self.inner.assign

        def answer(self, asks, on_reply):
            with Journal(store) as journal:
                if (ticket := journal.take_ticket("ada")) is not None:
                    assert journal.submit(ticket, "ada", text="5", value=5)
            steps.append([ticket.subtask.name if ticket else None, len(asks)])
            self.inner.answer(asks, on_reply)

    def person():
        return (yield from one("p-0", role="p")) + (yield from one("p-1", role="p"))

    def pipeline():
        return (yield Together([person(), *(one("m") for _ in range(2 * ASKS_AT_A_TIME + 1))]))

    outcome, someone = people_and_models(tmp_path, pipeline(), Busy())
    assert outcome.result == [10] + [3] * (2 * ASKS_AT_A_TIME + 1)
    assert steps == [["p-0", ASKS_AT_A_TIME], ["p-1", ASKS_AT_A_TIME], [None, 1]]
    assert someone.num == 0


def test_progress_says_what_is_spent_and_how_many_wait(tmp_path):
    def pipeline():
        return (yield Together([several("p", role="p", redundancy=2), several("m", redundancy=3)]))

    told = []
    worker = scripted(lambda ask: "3", cost=0.5)
    people_and_models(tmp_path, pipeline(), worker, on_change=lambda *change: told.append(change))
    assert [(spent.num_calls, waiting) for spent, waiting in told] == [
        (0, 2),
        (1, 2),
        (2, 2),
        (3, 2),
        (3, 2),
        (3, 2),
        (4, 1),
        (4, 1),
    ]
    assert told[3][0].cost == 1.5


# -- other numbers of attempts --


def attempts(tmp_path, worker, pipeline, max_attempts):
    crew = Crew(workers={"m": worker}, roles={"*": "m"}, max_attempts=max_attempts)
    return run_crew(pipeline, crew, tmp_path)


def third_time(ask):
    return "7" if len(ask.refusals) >= 2 else "none"


def test_a_failed_run_is_tried_further_with_more_attempts(tmp_path):
    def pipeline():
        return (yield Together([one("hard"), one("easy")]))

    def respond(ask):
        return "3" if ask.subtask.name == "easy" else third_time(ask)

    worker = scripted(respond)
    assert attempts(tmp_path, worker, pipeline(), 2).status == "failed"
    assert attempts(tmp_path, worker, pipeline(), 3).result == [7, 3]
    assert asked_names(worker).count("hard") == 3
    for fewer in (1, 2, 5):
        silent = scripted(respond)
        assert attempts(tmp_path, silent, pipeline(), fewer).result == [7, 3]  # an answer that is there is used
        assert silent.asked == []


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 5])
def test_what_a_run_has_gone_beyond_stays_with_other_numbers_of_attempts(tmp_path, max_attempts):
    """A slot without an answer is not filled afterwards: what followed was asked without it."""

    def inner():
        try:
            yield number("hard")
        except SubTaskFailedError:
            return len((yield number("few", redundancy=3)))
        raise AssertionError

    def pipeline(last):
        (found,) = yield Together([inner()])
        return found + len((yield number(last, redundancy=2, inputs={"found": str(found)})))

    def respond(ask):
        return "none" if ask.subtask.name == "hard" or ask.slot == 1 else "3"

    worker = scripted(respond)
    assert attempts(tmp_path, worker, pipeline("last"), 2).result == 2 + 1
    asked = len(worker.asked)
    generous = scripted(lambda ask: "3")
    outcome = attempts(tmp_path, generous, pipeline("last"), max_attempts)
    assert outcome.result == 2 + (2 if max_attempts > 2 else 1)  # at the end nothing follows: that slot is filled
    assert [ask.slot for ask in generous.asked] == ([1] if max_attempts > 2 else [])
    assert len(worker.asked) == asked
    again = scripted(lambda ask: "none")
    assert attempts(tmp_path, again, pipeline("last"), 2).result == outcome.result
    assert again.asked == []


def test_what_people_have_been_asked_stays_as_it_is_with_more_attempts(tmp_path):
    def pipeline():
        found = yield number("few", redundancy=2)
        return values((yield number("p", role="p", inputs={"found": [str(one.value) for one in found]})))

    worker = scripted(lambda ask: "none" if ask.slot else "3")
    workers, roles = {"m": worker, "p": People()}, {"p": "p", "*": "m"}
    for max_attempts in (1, 3):
        crew = Crew(workers=workers, roles=roles, max_attempts=max_attempts)
        assert run_crew(pipeline(), crew, tmp_path).status == "waiting"
        assert len(worker.asked) == 2
    Someone(tmp_path / "store.sqlite")(0)
    assert run_crew(pipeline(), crew, tmp_path).result == [5]


# -- long and deep runs --

LONG = 1213  # more than Python has room for calls in calls


def quick(folder):
    """A journal that does not wait for the disk."""
    journal = Journal(folder / "store.sqlite")
    journal._connection.execute("PRAGMA synchronous = OFF")
    return journal


def run_quickly(folder, pipeline, worker, *, run="run"):
    with quick(folder) as journal:
        crew = Crew(workers={"m": worker, "p": People()}, roles={"p": "p", "*": "m"})
        return Runner(crew, journal, run, on_change=lambda *_: None).run(pipeline, waits=False)


def test_thousands_of_steps_in_a_row_come_from_the_journal(tmp_path):
    def pipeline():
        total = 0
        for _ in range(LONG):
            total += yield from one("n")
        return total

    worker = scripted(lambda ask: "3")
    assert run_quickly(tmp_path, pipeline(), worker).result == 3 * LONG
    assert run_quickly(tmp_path, pipeline(), worker).result == 3 * LONG
    assert len(worker.asked) == LONG


def test_thousands_of_steps_that_ask_nobody_are_no_recursion(tmp_path):
    def empty():
        return 3
        yield

    def nothing():
        return (yield number("n", barred=("ada#0",)))

    def pipeline():
        total = num_failed = 0
        for _ in range(LONG):
            assert (yield Together([])) == []
            total += sum((yield Together([empty(), empty()])))
            try:
                yield number("n", barred=("ada#0",))
            except SubTaskFailedError:
                num_failed += 1
        failures = yield Together([nothing() for _ in range(LONG)], keeps_failures=True)
        return total, num_failed, len(failures)

    worker = scripted(lambda ask: "3", kins=("ada",), bars_kin=True)
    assert run_quickly(tmp_path, pipeline(), worker).result == (6 * LONG, LONG, LONG)


def test_branches_in_branches_as_deep_as_you_like(tmp_path):
    depth = 2 * sys.getrecursionlimit()

    def nested(level):
        if level == 0:
            return (yield from one("n"))
        return 1 + (yield Together([nested(level - 1)]))[0]

    worker = scripted(lambda ask: "3")
    assert run_quickly(tmp_path, nested(depth), worker).result == 3 + depth


def num_function_calls(folder, num_branches, *, run, **fields):
    def pipeline():
        return len((yield Together([one("n", **fields) for _ in range(num_branches)])))

    profile = cProfile.Profile()
    profile.enable()
    outcome = run_quickly(folder, pipeline(), scripted(lambda ask: "3"), run=run)
    profile.disable()
    assert (outcome.result, outcome.num_waiting) in ((num_branches, 0), (None, num_branches))
    return pstats.Stats(profile).total_calls


@pytest.mark.parametrize("role", ["m", "p"])
def test_what_a_branch_takes_does_not_grow_with_their_number(tmp_path, role):
    for what in ("first", "again"):
        few = num_function_calls(tmp_path, 53, run="few", role=role)
        many = num_function_calls(tmp_path, 16 * 53, run="many", role=role)
        assert many / few < 20, what
