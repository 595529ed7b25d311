"""The runner: slots, refusals, branches, budgets, journals that belong to another pipeline."""

from __future__ import annotations

import functools
import math
import random

import pytest
from crowd_runs import asked_names, run_crew, run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.budget import Budget, Spent
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.output_schemas import YES_NO, NumberSchema, TextSchema
from hierrouter_jax.crowd.runner import Crew, Runner
from hierrouter_jax.crowd.subtasks import SubTask, SubTaskFailedError, Together, contributors, values
from hierrouter_jax.crowd.workers.mix import Mix
from hierrouter_jax.crowd.workers.worker import People, Reply


def number(name, **fields):
    return SubTask(
        name=name, role=fields.pop("role", "count"), instructions="How many?", schema=NumberSchema(), **fields
    )


def counting(num_branches=3, redundancy=5):
    """Sum the medians of branches that each ask twice."""

    def branch(place):
        first = yield number(f"first-{place}", redundancy=redundancy)
        second = yield number(f"second-{place}", inputs={"seen": [str(v) for v in values(first)]})
        return sorted(values(first))[redundancy // 2] * 10 + second[0].value

    found = yield Together([branch(place) for place in range(num_branches)])
    return sum(found)


def by_slot(ask):
    return str(ask.slot + 1 if ask.subtask.name.startswith("first") else 7)


def test_branches_slots_and_results_come_in_their_order(tmp_path):
    worker = scripted(by_slot)
    outcome = run_scripted(counting(), worker, tmp_path)
    assert outcome.status == "done"
    assert outcome.result == 3 * (3 * 10 + 7)
    assert outcome.spent.num_calls == 3 * (5 + 1)
    assert asked_names(worker)[:15] == [f"first-{place}" for place in range(3) for _ in range(5)]
    assert [ask.contributor.name for ask in worker.asked[:5]] == [f"script#{sample}" for sample in range(5)]
    assert len({ask.seed for ask in worker.asked}) == 18


def test_a_second_run_asks_nothing_and_says_the_same(tmp_path):
    first = run_scripted(counting(), scripted(by_slot), tmp_path)
    worker = scripted(lambda ask: "0")
    again = run_scripted(counting(), worker, tmp_path)
    assert (again.result, again.spent) == (first.result, first.spent)
    assert worker.asked == []


class Stop(Exception):
    pass


@pytest.mark.parametrize("num_answers", [0, 1, 4, 6, 13, 17])
def test_a_run_that_broke_off_anywhere_goes_on_and_asks_only_what_is_missing(tmp_path, num_answers):
    answered = []

    def breaking(ask):
        if len(answered) == num_answers:
            raise Stop
        answered.append(ask.seed)
        return by_slot(ask)

    with pytest.raises(Stop):
        run_scripted(counting(), scripted(breaking), tmp_path)
    worker = scripted(by_slot)
    outcome = run_scripted(counting(), worker, tmp_path)
    assert outcome.result == 3 * 37
    assert len(worker.asked) == 18 - num_answers
    assert not {ask.seed for ask in worker.asked} & set(answered)


def test_order_of_arrival_does_not_matter(tmp_path):
    class Shuffled:
        def __init__(self, seed):
            self.random = random.Random(seed)
            self.inner = scripted(by_slot)

        def assign(self, subtask, step):
            return self.inner.assign(subtask, step)

        def answer(self, asks, on_reply):
            replies = []
            self.inner.answer(asks, lambda index, reply: replies.append((index, reply)))
            self.random.shuffle(replies)
            for index, reply in replies:
                on_reply(index, reply)

    results = set()
    for seed in range(7):
        results.add(run_scripted(counting(), Shuffled(seed), tmp_path, run=f"run-{seed}").result)
    assert results == {3 * 37}


def test_refused_text_is_asked_again_with_the_reason_until_attempts_are_spent(tmp_path):
    def pipeline():
        found = yield number("count", redundancy=3, min_contributions=1)
        return [(one.slot, one.value) for one in found]

    def respond(ask):
        if ask.slot == 0:
            return "none at all"
        return "13" if ask.slot == 1 or ask.refusals else "no idea"

    worker = scripted(respond)
    outcome = run_scripted(pipeline(), worker, tmp_path)
    assert outcome.result == [(1, 13), (2, 13)]
    assert [ask.slot for ask in worker.asked] == [0, 1, 2, 0, 2, 0]
    assert worker.asked[3].refusals == ("the answer must be a number, but is 'none at all'",)
    assert len({ask.seed for ask in worker.asked}) == 6
    again = scripted(lambda ask: "1")
    assert run_scripted(pipeline(), again, tmp_path).result == [(1, 13), (2, 13)]
    assert again.asked == []


def test_a_sub_task_without_usable_answers_fails_its_pipeline_or_is_caught(tmp_path):
    def lone():
        yield number("count")

    worker = scripted(lambda ask: "garbage")
    outcome = run_scripted(lone(), worker, tmp_path)
    assert outcome.status == "failed"
    assert "needs 1 usable answers, but got 0 of 1" in outcome.reason
    assert "must be a number" in outcome.reason
    assert len(worker.asked) == 3

    def careful():
        try:
            yield number("count")
        except SubTaskFailedError:
            return "gave up"

    assert run_scripted(careful(), worker, tmp_path, run="other").result == "gave up"

    def side_by_side(keeps):
        def good():
            return (yield number("good"))[0].value

        found = yield Together([lone(), good()], keeps_failures=keeps)
        return [one if isinstance(one, int) else type(one) for one in found]

    mixed = scripted({"count": "garbage", "good": "5"})
    assert run_scripted(side_by_side(True), mixed, tmp_path, run="kept").result == [SubTaskFailedError, 5]
    outcome = run_scripted(side_by_side(False), mixed, tmp_path, run="raised")
    assert outcome.status == "failed"


def test_barred_contributors_are_passed_over(tmp_path):
    def pipeline(**fields):
        made = yield number("made", redundancy=2)
        judged = yield number("judged", redundancy=3, barred=contributors(made))
        return [contributors(made), contributors(judged)]

    worker = scripted(lambda ask: "1", kins=("ann", "bo"))
    made, judged = run_scripted(pipeline(), worker, tmp_path).result
    assert made == ("ann#0", "bo#0")
    assert judged == ("ann#1", "bo#1", "ann#2")
    strict = scripted(lambda ask: "1", kins=("ann", "bo"), bars_kin=True)
    outcome = run_scripted(pipeline(), strict, tmp_path, run="strict")
    assert outcome.status == "failed"
    assert "had no part in what it judges, but role count has only ann, bo" in outcome.reason


@pytest.mark.parametrize("limit", [1, 4, 5, 7, 16, 17])
def test_a_budget_of_calls_is_never_passed_and_the_run_goes_on_later(tmp_path, limit):
    worker = scripted(by_slot)
    outcome = run_scripted(counting(), worker, tmp_path, budget=Budget(max_calls=limit))
    assert outcome.status == "budget"
    assert len(worker.asked) == outcome.spent.num_calls == limit
    assert f"{limit} of {limit} calls are spent" in outcome.reason
    outcome = run_scripted(counting(), worker, tmp_path, budget=Budget(max_calls=18))
    assert outcome.result == 3 * 37
    assert len(worker.asked) == 18


def test_budgets_of_cost_and_time(tmp_path):
    worker = scripted(by_slot, cost=0.5)
    outcome = run_scripted(counting(), worker, tmp_path, budget=Budget(max_cost=2.0))
    assert outcome.status == "budget"
    assert outcome.spent.cost == pytest.approx(0.5 * outcome.spent.num_calls)
    times = iter(float(ten) for ten in range(0, 1000, 10))
    outcome = run_scripted(
        counting(), worker, tmp_path, run="slow", budget=Budget(max_wall_s=15.0), clock=lambda: next(times)
    )
    assert outcome.status == "budget"
    assert "seconds are gone" in outcome.reason
    with pytest.raises(ConfigError, match="max_calls must be > 0"):
        Budget(max_calls=0)


def test_costs_have_one_sum_in_whichever_order_answers_are_counted():
    """So that a run which is read from its journal says of itself what it said when it was asked."""
    draw = random.Random(7)
    costs = [draw.randint(1, 997) * draw.choice([1.0, 2.7]) / 4910.0 for _ in range(997)]
    totals = set()
    for _ in range(11):
        draw.shuffle(costs)
        totals.add(functools.reduce(Spent.plus, costs, Spent()))
    (spent,) = totals
    assert spent.num_calls == 997
    assert spent.cost == pytest.approx(math.fsum(costs), abs=997e-9)


def test_a_journal_of_another_pipeline_is_refused(tmp_path):
    run_scripted(counting(redundancy=5), scripted(by_slot), tmp_path)
    with pytest.raises(DataError, match="answer to another sub-task at 0:together/0/0:first-0"):
        run_scripted(counting(redundancy=3), scripted(by_slot), tmp_path)
    with Journal(tmp_path / "store.sqlite") as journal:
        journal.begin("named", {"text": "one"})
        journal.begin("named", {"text": "one"})
        with pytest.raises(DataError, match="of another pipeline, input or crew"):
            journal.begin("named", {"text": "two"})
        with pytest.raises(DataError, match=r"no run 'none'.*its runs are: named"):
            journal.record("none")


def yes_or_no():
    found = yield SubTask(name="agree", role="judge", instructions="Is it so?", schema=YES_NO, redundancy=3)
    return [(one.slot, one.value, one.contributor) for one in found]


def test_a_mix_asks_its_decider_where_members_disagree(tmp_path):
    first = scripted(lambda ask: "yes", kins=("first",))
    second = scripted(lambda ask: "no" if ask.slot == 1 else "Yes.", kins=("second",))
    third = scripted(lambda ask: "no", kins=("third",))
    crew = Crew(
        workers={"a": first, "b": second, "c": third, "mixed": Mix(members=("a", "b"), decider="c")},
        roles={"judge": "mixed"},
    )
    outcome = run_crew(yes_or_no(), crew, tmp_path)
    assert outcome.result == [
        (0, "yes", "first#0 & second#0"),
        (1, "no", "third#0"),
        (2, "yes", "first#2 & second#2"),
    ]
    assert (len(first.asked), len(second.asked), len(third.asked)) == (3, 3, 1)
    assert run_crew(yes_or_no(), crew, tmp_path).result == outcome.result
    assert len(third.asked) == 1


def test_a_crew_without_a_needed_role():
    crew = Crew(workers={"a": scripted(by_slot)}, roles={"find": "a"})
    crew.check_roles(["find"])
    with pytest.raises(ConfigError, match="needs a worker for role 'fix', but has roles find"):
        crew.check_roles(["find", "fix"])
    nested = Crew(
        workers={
            "a": scripted(by_slot),
            "m": Mix(members=("a", "n"), decider="a"),
            "n": Mix(members=("a", "a"), decider="a"),
        },
        roles={"*": "m"},
    )
    with pytest.raises(ConfigError, match="A mix is made of workers that are no mix"):
        nested.check_roles(["any"])


def test_three_branches_wait_for_people_while_a_fourth_goes_on(tmp_path):
    def branch(place):
        if place == 2:
            done = 0
            for step in range(3):
                done += (yield number(f"model-{step}"))[0].value
            return done
        return (yield number(f"person-{place}", role="person"))[0].value

    def pipeline():
        return (yield Together([branch(place) for place in range(4)]))

    crew = Crew(workers={"m": scripted(lambda ask: "3"), "p": People()}, roles={"person": "p", "*": "m"})
    outcome = run_crew(pipeline(), crew, tmp_path)
    assert (outcome.status, outcome.num_waiting, outcome.spent.num_calls) == ("waiting", 3, 3)
    store = tmp_path / "store.sqlite"
    naps = []

    def person_works(seconds):
        naps.append(seconds)
        with Journal(store) as other:
            ticket = other.take_ticket(f"person {len(naps)}")
            assert other.submit(ticket, f"person {len(naps)}", text="5", value=5)

    with Journal(store) as journal:
        outcome = Runner(crew, journal, "run", sleep=person_works).run(pipeline())
    assert outcome.result == [5, 5, 9, 5]
    assert len(naps) == 3
    assert outcome.spent.num_calls == 6


def test_a_person_s_answer_given_while_the_run_was_dead_is_not_asked_again(tmp_path):
    crew = Crew(workers={"p": People()}, roles={"*": "p"})

    def pipeline():
        found = yield SubTask(name="say", role="any", instructions="Say.", schema=TextSchema(), redundancy=2)
        return values(found)

    assert run_crew(pipeline(), crew, tmp_path).num_waiting == 2
    with Journal(tmp_path / "store.sqlite") as journal:
        for person in ("ann", "bo"):
            journal.submit(journal.take_ticket(person), person, text=person, value=person)
        assert journal.take_ticket("carl") is None
    assert sorted(run_crew(pipeline(), crew, tmp_path).result) == ["ann", "bo"]


def test_a_failure_is_an_attempt_and_no_refusal(tmp_path):
    class Failing:
        def __init__(self, num_failures):
            self.asked, self.num_failures = [], num_failures

        def assign(self, subtask, step):
            return scripted(by_slot).assign(subtask, step)

        def answer(self, asks, on_reply):
            for index, ask in enumerate(asks):
                self.asked.append(ask)
                failed = len(self.asked) <= self.num_failures
                on_reply(index, Reply(failure="nobody is there") if failed else Reply(text="13"))

    def lone():
        return (yield number("count"))[0].value

    worker = Failing(2)
    assert run_scripted(lone(), worker, tmp_path).result == 13
    assert [ask.refusals for ask in worker.asked] == [(), (), ()]
    assert len({ask.seed for ask in worker.asked}) == 3
    outcome = run_scripted(lone(), Failing(9), tmp_path, run="silent")
    assert outcome.status == "failed"
    assert "got 0 of 1; the last attempt failed because nobody is there" in outcome.reason
    assert run_scripted(lone(), Failing(0), tmp_path, run="silent").reason == outcome.reason
