"""Price-Divide-Solve: prices, divisions, branches, merges, votes and the editor's part, with scripted workers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from crowd_runs import asked_names, run_crew, run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.price_divide_solve import (
    EDITOR_ROLE,
    ROLES,
    PriceDivideSolveConfig,
    one_prompt,
    price_divide_solve,
)
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.runner import Crew
from hierrouter_jax.crowd.workers.mix import Mix
from hierrouter_jax.crowd.workers.worker import People


def adding(ask):
    """Adds numbers perfectly: one number is little work, more are divided in two, parts are summed up."""
    shown = ask.subtask.inputs_of(ask.slot)
    numbers = [int(one) for one in shown["task"].split("+")]
    match ask.subtask.name:
        case "price":
            return "yes" if len(numbers) <= 2 else "no"
        case "divide":
            half = len(numbers) // 2
            return "\n".join("+".join(map(str, part)) for part in (numbers[:half], numbers[half:]))
        case "solve":
            return str(sum(numbers))
        case "merge":
            return str(sum(int(part.split("\n")[1]) for part in shown["parts"]))
        case "vote-division" | "vote-solve" | "vote-merge":
            return "A"
    raise AssertionError(ask.subtask.name)


def with_answers(answers):
    """`adding`, but where `answers` has something for the name of a sub-task: a text, or a function of the ask."""

    def respond(ask):
        found = answers.get(ask.subtask.name, adding)
        return found(ask) if callable(found) else found

    return respond


def leaf(task):
    return {"task": task, "steps": []}


def asks_of(worker, name):
    return [ask for ask in worker.asked if ask.subtask.name == name]


def names_of(asks):
    return [ask.contributor.name for ask in asks]


def solve(task, respond, folder, *, run="run", kins=("script",), **fields):
    """The outcome of a task, and the worker."""
    worker = scripted(respond, kins=kins)
    return run_scripted(price_divide_solve(task, PriceDivideSolveConfig(**fields)), worker, folder, run=run), worker


def test_perfect_workers_solve_a_task_by_its_plan_and_a_rerun_asks_nothing(tmp_path):
    outcome, worker = solve("2+3+5+7+11", adding, tmp_path)
    assert outcome.result == {
        "text": "28",
        "plan": {
            "task": "2+3+5+7+11",
            "steps": [leaf("2+3"), {"task": "5+7+11", "steps": [leaf("5"), leaf("7+11")]}],
        },
    }
    # all answers are equal, so nothing is voted on; a task of depth 0 is not priced
    assert Counter(asked_names(worker)) == {"price": 3 * 3, "divide": 2 * 3, "solve": 3 * 3, "merge": 2 * 3}
    assert {ask.subtask.role for ask in worker.asked} < set(ROLES)
    again, idle = solve("2+3+5+7+11", lambda ask: "garbage", tmp_path)
    assert (again.result, idle.asked) == (outcome.result, [])


@pytest.mark.parametrize(
    ("max_depth", "plan"),
    [
        (0, leaf("1+2+3+4+5+6+7")),
        (1, {"task": "1+2+3+4+5+6+7", "steps": [leaf("1+2+3"), leaf("4+5+6+7")]}),
        (
            3,
            {
                "task": "1+2+3+4+5+6+7",
                "steps": [
                    {"task": "1+2+3", "steps": [leaf("1"), leaf("2+3")]},
                    {"task": "4+5+6+7", "steps": [leaf("4+5"), leaf("6+7")]},
                ],
            },
        ),
    ],
)
def test_a_task_is_divided_no_deeper_than_it_may_be(tmp_path, max_depth, plan):
    outcome, worker = solve("1+2+3+4+5+6+7", adding, tmp_path, max_depth=max_depth)
    assert outcome.result == {"text": "28", "plan": plan}
    assert ("price" in asked_names(worker)) is (max_depth > 0)


def test_who_is_asked_what_in_which_order(tmp_path):
    def distinct(ask):
        """Three different answers to everything, of which the voters take the second."""
        shown = ask.subtask.inputs_of(ask.slot)
        match ask.subtask.name:
            case "divide":
                return f"- step {ask.slot} left\n- step {ask.slot} right"
            case "solve":
                return f"solved {shown['task']} by {ask.slot}"
            case "merge":
                return f"merged by {ask.slot}"
            case "price":
                return "no"
        return next(label for label in "ABC" if is_second(shown[label]))

    def is_second(text):
        return text.startswith("1. step 1") or text.endswith("by 1")

    outcome, worker = solve("Plan a fair.", distinct, tmp_path, kins=("ann", "bo"), max_depth=1)
    assert outcome.result == {
        "text": "merged by 1",
        "plan": {"task": "Plan a fair.", "steps": [leaf("step 1 left"), leaf("step 1 right")]},
    }
    assert asked_names(worker) == [
        *["price"] * 3,
        *["divide"] * 3,
        *["vote-division"] * 3,
        *["solve"] * 6,
        *["vote-solve"] * 6,
        *["merge"] * 3,
        *["vote-merge"] * 3,
    ]
    makers, voters = ["ann#0", "bo#0", "ann#1"], ["bo#1", "ann#2", "bo#2"]
    for made, voted in (("divide", "vote-division"), ("merge", "vote-merge")):
        assert names_of(asks_of(worker, made)) == makers
        assert sorted(names_of(asks_of(worker, voted))) == sorted(voters)
    assert sorted(names_of(asks_of(worker, "vote-solve"))) == sorted(voters * 2)
    assert worker.asked[0].subtask.inputs == {"task": "Plan a fair.", "time": "2 minutes"}
    shown = asks_of(worker, "vote-division")[0].subtask.inputs_of(0)
    assert sorted(shown[label] for label in "ABC") == [
        f"1. step {slot} left\n2. step {slot} right" for slot in range(3)
    ]
    assert asks_of(worker, "solve")[5].subtask.inputs == {"whole task": "Plan a fair.", "task": "step 1 right"}
    assert asks_of(worker, "merge")[0].subtask.inputs == {
        "task": "Plan a fair.",
        "parts": ["step 1 left\nsolved step 1 left by 1", "step 1 right\nsolved step 1 right by 1"],
    }


@pytest.mark.parametrize("shows_whole", [True, False])
def test_a_step_of_a_step_is_shown_with_the_whole_task(tmp_path, shows_whole):
    _, worker = solve("1+2+3+4+5+6+7", adding, tmp_path, shows_whole=shows_whole, minutes=1)
    whole = {"whole task": "1+2+3+4+5+6+7"} if shows_whole else {}
    assert [ask.subtask.inputs for ask in asks_of(worker, "solve")][-1] == whole | {"task": "6+7"}
    assert asks_of(worker, "price")[0].subtask.inputs["time"] == "1 minute"


@pytest.mark.parametrize(
    ("num_votes", "num_yes", "is_divided"),
    [(3, 0, True), (3, 1, True), (3, 2, False), (3, 3, False), (4, 2, True), (4, 3, False), (1, 1, False)],
)
def test_more_than_half_must_find_a_task_small_and_a_tie_divides_it(tmp_path, num_votes, num_yes, is_divided):
    respond = with_answers({"price": lambda ask: "yes" if ask.slot < num_yes else "no"})
    outcome, _ = solve("1+2+3+4+5", respond, tmp_path, num_votes=num_votes, max_depth=1)
    assert bool(outcome.result["plan"]["steps"]) is is_divided
    assert outcome.result["text"] == "15"


def test_pricers_without_a_usable_answer_are_not_counted(tmp_path):
    respond = with_answers({"price": lambda ask: "perhaps" if ask.slot else "yes"})
    outcome, _ = solve("1+2+3", respond, tmp_path)
    assert outcome.result["plan"] == leaf("1+2+3")


def by_text(ask, wanted):
    """The label of a text among the options of a voter."""
    shown = ask.subtask.inputs_of(ask.slot)
    return next(label for label in "ABC" if shown.get(label) == wanted)


@pytest.mark.parametrize(
    ("wanted", "winner"),
    [
        (["wrong", "right", "right"], "right"),
        (["wrong", "wrong", "right"], "wrong"),
        (["third", "right", "wrong"], "right"),  # one each: the first that was made
        (["third", "wrong"], "wrong"),
    ],
)
def test_votes_between_solutions_resolve_by_count_then_by_place(tmp_path, wanted, winner):
    respond = with_answers(
        {
            "solve": lambda ask: ["right", "wrong", "third"][ask.slot],
            "vote-solve": lambda ask: by_text(ask, wanted[ask.slot]),
        }
    )
    outcome, _ = solve("1+2", respond, tmp_path, num_votes=len(wanted), max_depth=0)
    assert outcome.result == {"text": winner, "plan": leaf("1+2")}


@pytest.mark.parametrize("num_honest", [0, 1, 2, 3, 4, 5])
def test_a_minority_of_honest_voters_is_not_enough(tmp_path, num_honest):
    respond = with_answers(
        {
            "solve": lambda ask: ["wrong", "3"][ask.slot],
            "vote-solve": lambda ask: by_text(ask, "3" if ask.slot < num_honest else "wrong"),
        }
    )
    outcome, _ = solve("1+2", respond, tmp_path, num_votes=5, num_solutions=2)
    assert outcome.result["text"] == ("3" if num_honest >= 3 else "wrong")


def test_equal_candidates_are_voted_on_once_and_all_their_makers_are_barred(tmp_path):
    respond = with_answers(
        {
            "solve": lambda ask: ["3", "wrong", "3", "3", "wrong"][ask.slot],
            "vote-solve": lambda ask: by_text(ask, "3"),
        }
    )
    outcome, worker = solve("1+2", respond, tmp_path, num_solutions=5, kins=("ann", "bo", "cy"))
    assert outcome.result["text"] == "3"
    votes = asks_of(worker, "vote-solve")
    assert len(votes) == 3
    assert sorted(votes[0].subtask.inputs_of(0)) == ["A", "B", "task"]
    assert not set(names_of(votes)) & set(names_of(asks_of(worker, "solve")))


def test_members_of_a_mix_that_made_a_candidate_are_barred_each(tmp_path):
    respond = with_answers({"solve": lambda ask: str(ask.slot), "vote-solve": "A"})
    first, second = scripted(respond, kins=("first",)), scripted(respond, kins=("second",))
    crew = Crew(
        workers={"first": first, "second": second, "both": Mix(members=("first", "second"), decider="second")},
        roles={"solve": "both", "*": "first"},
    )
    outcome = run_crew(price_divide_solve("1+2", PriceDivideSolveConfig(max_depth=0)), crew, tmp_path)
    assert outcome.status == "done"
    assert names_of(asks_of(first, "solve")) == ["first#0", "first#1", "first#2"]
    assert names_of(asks_of(first, "vote-solve")) == ["first#3", "first#4", "first#5"]


def test_a_division_has_as_many_steps_as_it_may(tmp_path):
    def divide(ask):
        return "1+2+3+4+5" if not ask.refusals else "\n".join("12345")

    outcome, worker = solve("1+2+3+4+5", with_answers({"divide": divide}), tmp_path, max_steps=3)
    assert [step["task"] for step in outcome.result["plan"]["steps"]] == ["1", "2", "3"]
    assert "must have at least 2 items" in asks_of(worker, "divide")[3].refusals[0]


# -- what fails --


def test_a_task_that_nobody_can_divide_is_solved_as_a_whole(tmp_path):
    outcome, worker = solve("1+2+3", with_answers({"divide": "no idea"}), tmp_path)
    assert outcome.result == {"text": "6", "plan": leaf("1+2+3")}
    assert Counter(asked_names(worker)) == {"price": 3, "divide": 9, "solve": 3}


def test_a_merge_does_without_the_steps_that_failed(tmp_path):
    def solving(ask):
        return "" if "5" in ask.subtask.inputs["task"] else adding(ask)

    outcome, worker = solve("1+2+3+4+5", with_answers({"solve": solving}), tmp_path)
    assert outcome.result["text"] == "6"  # 1+2 and 3, without 4+5
    left, right = outcome.result["plan"]["steps"]
    assert left == leaf("1+2")
    assert right["task"] == "3+4+5"
    assert right["steps"][0] == leaf("3")
    failed = right["steps"][1]
    assert (failed["task"], failed["steps"]) == ("4+5", [])
    assert "Sub-task solve needs 1 usable answers, but got 0 of 3" in failed["problem"]
    assert asks_of(worker, "merge")[0].subtask.inputs["parts"] == ["3\n3"]


@pytest.mark.parametrize(("role", "text"), [("solve", ""), ("merge", ""), ("price", "perhaps")])
def test_a_task_fails_where_a_stage_of_all_of_it_does(tmp_path, role, text):
    outcome, _ = solve("1+2+3", with_answers({role: text}), tmp_path)
    assert outcome.status == "failed"
    assert f"Sub-task {role} needs 1 usable answers, but got 0 of 3" in outcome.reason


def test_without_a_voter_who_had_no_part_in_it_a_task_fails(tmp_path):
    makers = scripted(with_answers({"solve": lambda ask: str(ask.slot)}))
    voters = scripted(adding, bars_kin=True)
    crew = Crew(workers={"makers": makers, "voters": voters}, roles={"vote": "voters", "*": "makers"})
    outcome = run_crew(price_divide_solve("1+2", PriceDivideSolveConfig()), crew, tmp_path)
    assert outcome.status == "failed"
    assert "had no part in what it judges" in outcome.reason


# -- the editor --


def test_an_editor_changes_the_plan(tmp_path):
    def editing(ask):
        assert ask.subtask.role == EDITOR_ROLE
        assert ask.subtask.inputs == {"task": "1+2+3", "steps": ["1", "2+3"]}
        return "1\n2\n3"

    outcome, worker = solve("1+2+3", with_answers({"edit-plan": editing}), tmp_path, edits_plan=True)
    assert outcome.result["text"] == "6"
    assert outcome.result["plan"]["steps"] == [leaf("1"), leaf("2"), leaf("3")]
    assert asked_names(worker).count("edit-plan") == 1


def test_a_plan_stays_where_the_editor_gives_no_usable_answer(tmp_path):
    outcome, worker = solve("1+2+3", with_answers({"edit-plan": "looks good"}), tmp_path, edits_plan=True)
    assert outcome.result["plan"]["steps"] == [leaf("1"), leaf("2+3")]
    assert asked_names(worker).count("edit-plan") == 3


def test_branches_wait_for_a_person_who_edits_while_others_go_on(tmp_path):
    config = PriceDivideSolveConfig(edits_plan=True)
    worker = scripted(adding)
    crew = Crew(workers={"models": worker, "people": People()}, roles={EDITOR_ROLE: "people", "*": "models"})

    def go_on():
        return run_crew(price_divide_solve("1+2+3+4+5+6", config), crew, tmp_path)

    def edit(*texts):
        with Journal(tmp_path / "store.sqlite") as journal:
            for text in texts:
                ticket = journal.take_ticket("ann")
                assert journal.submit(ticket, "ann", text=text, value=ticket.subtask.schema.parse(text))
            assert journal.take_ticket("ann") is None

    assert (go_on().status, go_on().num_waiting) == ("waiting", 1)
    edit("1+2+3\n4+5+6\n0")
    outcome = go_on()
    assert (outcome.status, outcome.num_waiting) == ("waiting", 2)
    assert asks_of(worker, "solve")[0].subtask.inputs["task"] == "0"  # the third branch needs no editor
    edit("1\n2+3", "4\n5\n6")
    outcome = go_on()
    assert outcome.result["text"] == "21"
    assert [len(step["steps"]) for step in outcome.result["plan"]["steps"]] == [2, 3, 0]


# -- the rest --


def test_order_of_arrival_does_not_matter(tmp_path):
    class Shuffled:
        def __init__(self, seed):
            self.random = random.Random(seed)
            self.inner = scripted(with_answers({"solve": lambda ask: f"{'0' * ask.slot}{adding(ask)}"}))

        def assign(self, subtask, step):
            return self.inner.assign(subtask, step)

        def answer(self, asks, on_reply):
            replies = []
            self.inner.answer(asks, lambda index, reply: replies.append((index, reply)))
            for index, reply in self.random.sample(replies, len(replies)):
                on_reply(index, reply)

    results = []
    for seed in range(3):
        pipeline = price_divide_solve("1+2+3+4+5", PriceDivideSolveConfig())
        results.append(run_scripted(pipeline, Shuffled(seed), tmp_path, run=f"run-{seed}").result)
    assert results[0] == results[1] == results[2]
    assert results[0]["text"] == "15"


def test_the_baseline_is_one_prompt(tmp_path):
    worker = scripted({"one-prompt": "6"})
    assert run_scripted(one_prompt("1+2+3", PriceDivideSolveConfig()), worker, tmp_path).result == {"text": "6"}
    assert [(ask.subtask.role, ask.subtask.inputs) for ask in worker.asked] == [("one_prompt", {"task": "1+2+3"})]


@pytest.mark.parametrize("task", ["", "  \n", "a\x1bb", "\ud800"])
def test_tasks_that_are_no_text_are_refused(task):
    for make in (price_divide_solve, one_prompt):
        with pytest.raises(DataError, match="The task must"):
            next(make(task, PriceDivideSolveConfig()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_votes": 0}, "num_votes must be >= 1, but is 0"),
        ({"num_solutions": 0}, "num_solutions must be >= 1 and <= 10, but is 0"),
        ({"num_divisions": 11}, "num_divisions must be >= 1 and <= 10, but is 11"),
        ({"num_merges": -1}, "num_merges must be >= 1"),
        ({"max_depth": -1}, "max_depth must be >= 0"),
        ({"min_steps": 1}, "min_steps must be >= 2"),
        ({"min_steps": 4, "max_steps": 3}, "max_steps must be >= min_steps, 4, but is 3"),
        ({"minutes": 0}, "minutes must be >= 1"),
        ({"max_chars": 0}, "max_chars must be >= 1"),
    ],
)
def test_numbers_that_leave_nothing_to_do_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        PriceDivideSolveConfig(**fields)
