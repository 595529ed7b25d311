"""Justify and reconsider: who argues, who hears which argument, how the answers are counted."""

from __future__ import annotations

import random

import pytest
from crowd_runs import asked_names, run_crew, run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.justify_reconsider import (
    JustifyReconsiderConfig,
    justify_reconsider,
    one_prompt,
)
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.runner import Crew
from hierrouter_jax.crowd.workers.worker import People, samples_of

QUESTION = "Is a tomato a fruit?"
CONFIG = JustifyReconsiderConfig()


def crowd(first, convinced_by=()):
    """Assessors who say `first` by slot, and in the second round follow arguments for what is in `convinced_by`."""

    def respond(ask):
        inputs = ask.subtask.inputs_of(ask.slot)
        match ask.subtask.name:
            case "assess":
                return first[ask.slot]
            case "justify":
                return f"Because of {inputs['answer']}, says {ask.contributor.name}."
            case "reconsider":
                (side,) = [name.removeprefix("argument for ") for name in inputs if name.startswith("argument for ")]
                return side if side in convinced_by else inputs["first answer"]
        raise AssertionError(ask.subtask.name)

    return respond


def result(respond, folder, config=CONFIG, **options):
    return run_scripted(justify_reconsider(QUESTION, config), scripted(respond, **options), folder).result


def test_where_all_agree_nothing_is_argued(tmp_path):
    worker = scripted(crowd(["no"] * 5))
    outcome = run_scripted(justify_reconsider(QUESTION, CONFIG), worker, tmp_path)
    assert asked_names(worker) == ["assess"] * 5
    assert outcome.result == {
        "answer": "no",
        "before": {"yes": 0, "no": 5},
        "after": {"yes": 0, "no": 5},
        "arguments": {},
        "num_reconsidered": 0,
        "changed": 0,
        "failed": [],
    }


def test_a_minority_with_the_better_argument_wins(tmp_path):
    worker = scripted(crowd(["no", "yes", "no", "no", "yes"], convinced_by=("yes",)))
    outcome = run_scripted(justify_reconsider(QUESTION, CONFIG), worker, tmp_path)
    assert asked_names(worker) == ["assess"] * 5 + ["justify"] * 2 + ["reconsider"] * 5
    assert outcome.result["answer"] == "yes"
    assert (outcome.result["before"], outcome.result["after"]) == ({"yes": 2, "no": 3}, {"yes": 5, "no": 0})
    assert (outcome.result["changed"], outcome.result["num_reconsidered"]) == (3, 5)
    assert outcome.result["arguments"] == {
        "yes": ["Because of yes, says script#1."],
        "no": ["Because of no, says script#0."],
    }


def test_each_side_argues_for_itself_and_hears_the_other(tmp_path):
    worker = scripted(crowd(["no", "yes", "no", "no", "yes"]))
    run_scripted(justify_reconsider(QUESTION, CONFIG), worker, tmp_path)
    assert [(ask.contributor.name, ask.subtask.inputs["answer"]) for ask in worker.asked[5:7]] == [
        ("script#1", "yes"),
        ("script#0", "no"),
    ]
    heard = [(ask.contributor.name, ask.subtask.inputs_of(ask.slot)) for ask in worker.asked[7:]]
    for_no, for_yes = "Because of no, says script#0.", "Because of yes, says script#1."
    yes_side = {"question": QUESTION, "first answer": "yes", "argument for no": for_no}
    no_side = {"question": QUESTION, "first answer": "no", "argument for yes": for_yes}
    assert heard == [
        ("script#1", yes_side),
        ("script#4", yes_side),
        ("script#0", no_side),
        ("script#2", no_side),
        ("script#3", no_side),
    ]


@pytest.mark.parametrize("garbage", [0, 2, 4])
def test_perfect_workers_and_all_but_one_who_say_nothing_usable(tmp_path, garbage):
    first = ["mumble"] * garbage + ["yes"] * (5 - garbage)
    found = result(crowd(first), tmp_path)
    assert (found["answer"], found["before"]) == ("yes", {"yes": 5 - garbage, "no": 0})


def test_without_conviction_the_first_plurality_stands(tmp_path):
    found = result(crowd(["no", "no", "yes", "no", "yes"]), tmp_path)
    assert (found["answer"], found["changed"], found["num_reconsidered"]) == ("no", 0, 5)
    assert found["before"] == found["after"] == {"yes": 2, "no": 3}


@pytest.mark.parametrize(
    ("first", "last", "answer"),
    [
        ("aabc", "abbc", "b"),  # 1 2 1
        ("aabc", "abcb", "b"),
        ("bbac", "abac", "a"),  # 2 1 1
        ("abbc", "abac", "a"),
        ("bbbac", "aabbc", "b"),  # 2 2 1: b had more first assessments
        ("cba", "cba", "a"),  # all equal: the option that stands first
        ("ccbb", "ccbb", "b"),  # equal before and after: b stands before c
        ("bbcca", "ccbba", "b"),
    ],
)
def test_plurality_then_first_assessments_then_the_order_of_options(tmp_path, first, last, answer):
    """Assessor number i says first[i] and then last[i]; who sits where is told by the number of the sample."""

    def respond(ask):
        if ask.subtask.name == "reconsider":
            return last[int(ask.contributor.name.removeprefix("script#"))]
        return crowd(list(first))(ask)

    config = JustifyReconsiderConfig(options=("a", "b", "c"), num_assessors=len(first))

    found = run_scripted(justify_reconsider(QUESTION, config), scripted(respond), tmp_path).result
    assert found["after"] == {option: last.count(option) for option in "abc"}
    assert found["answer"] == answer
    assert found["changed"] == sum(one != two for one, two in zip(first, last, strict=True))


def test_arguments_of_the_other_sides_take_turns(tmp_path):
    worker = scripted(crowd(list("aaaaaab" + "bcc")))
    config = JustifyReconsiderConfig(options=("a", "b", "c"), num_assessors=10, num_justifiers=3)
    found = run_scripted(justify_reconsider(QUESTION, config), worker, tmp_path).result
    assert {side: len(texts) for side, texts in found["arguments"].items()} == {"a": 3, "b": 2, "c": 2}
    heard = {"a": [], "b": [], "c": []}
    for ask in worker.asked:
        if ask.subtask.name == "reconsider":
            (own,) = ask.subtask.inputs_by_slot[ask.slot].items()
            heard[ask.subtask.inputs["first answer"]].append(own)
    assert [len(heard[side]) for side in "abc"] == [6, 2, 2]
    counts = [heard["a"].count(own) for own in set(heard["a"])]
    assert sorted(counts) == [1, 1, 2, 2]  # six assessors, the four arguments for b and c
    for side, own in heard.items():
        assert f"argument for {side}" not in [name for name, _ in own]
        assert len(set(own)) == min(len(own), 7 - len(found["arguments"][side]))


def test_nobody_reconsiders_after_an_argument_of_their_own(tmp_path):
    """Strangers to the assessment argue; each is barred where their argument is shown, and only there."""

    class Strangers:
        def __init__(self):
            self.inner = scripted(crowd([]))
            self.asked = self.inner.asked

        def assign(self, subtask, step):
            names = ["for-yes", "for-no"] if subtask.name == "reconsider" else [f"for-{subtask.inputs['answer']}"]
            return samples_of(names, subtask, offset=0)

        def answer(self, asks, on_reply):
            self.inner.answer(asks, on_reply)

    crew = Crew(
        workers={"a": scripted(crowd(["yes", "no"]), kins=("ann",)), "b": Strangers()},
        roles={"assess": "a", "*": "b"},
    )
    run_crew(justify_reconsider(QUESTION, JustifyReconsiderConfig(num_assessors=2)), crew, tmp_path)
    of_yes, of_no = crew.workers["b"].asked[2:]
    assert (of_yes.subtask.barred, of_yes.contributor.name) == (("ann#1", "for-no#0"), "for-yes#0")
    assert (of_no.subtask.barred, of_no.contributor.name) == (("ann#0", "for-yes#0"), "for-no#0")


def test_at_most_so_many_reconsider(tmp_path):
    config = JustifyReconsiderConfig(num_assessors=11, max_reconsidering=3)
    first = ["yes", "no"] * 5 + ["yes"]
    worker = scripted(crowd(first, convinced_by=("yes", "no")))
    found = run_scripted(justify_reconsider(QUESTION, config), worker, tmp_path).result
    assert asked_names(worker).count("reconsider") == found["num_reconsidered"] == found["changed"] == 3
    other = run_scripted(
        justify_reconsider(QUESTION, JustifyReconsiderConfig(num_assessors=11, max_reconsidering=100)),
        scripted(crowd(first, convinced_by=("yes", "no"))),
        tmp_path,
        run="all",
    ).result
    assert (other["num_reconsidered"], other["changed"], other["answer"]) == (11, 11, "no")


def test_where_one_may_reconsider_the_other_side_is_not_asked(tmp_path):
    config = JustifyReconsiderConfig(num_assessors=3, max_reconsidering=1)
    found = result(crowd(["no", "yes", "no"], convinced_by=("yes", "no")), tmp_path, config)
    assert (found["num_reconsidered"], found["changed"], found["failed"]) == (1, 1, [])


def test_a_side_without_an_argument_convinces_nobody(tmp_path):
    def respond(ask):
        if ask.subtask.name == "justify" and ask.subtask.inputs["answer"] == "no":
            return ""
        return crowd(["no", "no", "yes", "no", "yes"], convinced_by=("yes", "no"))(ask)

    found = result(respond, tmp_path)
    assert found["arguments"] == {"yes": ["Because of yes, says script#2."], "no": []}
    assert (found["answer"], found["after"], found["num_reconsidered"]) == ("yes", {"yes": 5, "no": 0}, 3)
    (reason,) = found["failed"]
    assert "Sub-task justify needs 1 usable answers" in reason


def test_whoever_is_not_heard_again_keeps_the_first_answer(tmp_path):
    def respond(ask):
        if ask.subtask.name == "reconsider" and ask.slot == 0:
            return "well"
        return crowd(["no", "no", "yes", "no", "yes"], convinced_by=("yes",))(ask)

    found = result(respond, tmp_path)
    assert (found["num_reconsidered"], found["changed"]) == (3, 2)
    assert (found["after"], found["answer"], found["failed"]) == ({"yes": 4, "no": 1}, "yes", [])


def test_a_side_of_which_nobody_is_heard_again_keeps_its_answers_and_says_why(tmp_path):
    def respond(ask):
        if ask.subtask.name == "reconsider" and ask.subtask.inputs["first answer"] == "no":
            return "well"
        return crowd(["no", "no", "yes", "no", "yes"], convinced_by=("yes", "no"))(ask)

    found = result(respond, tmp_path)
    assert (found["num_reconsidered"], found["changed"], found["after"]) == (2, 2, {"yes": 0, "no": 5})
    (reason,) = found["failed"]
    assert "Sub-task reconsider needs 1 usable answers, but got 0 of 3" in reason


def test_no_argument_at_all_leaves_the_first_plurality(tmp_path):
    found = result(crowd(["yes", "no", "no", "yes", "no"]), tmp_path, kins=("ann", "bo"), bars_kin=True)
    assert (found["answer"], found["arguments"], found["num_reconsidered"]) == ("no", {"yes": [], "no": []}, 0)
    assert len(found["failed"]) == 2
    assert "set bars_kin to false" in found["failed"][0]


def test_three_people_who_disagree_are_enough(tmp_path):
    """The queue lets each person justify and reconsider only their own answer, and the run ends without others."""
    crew = Crew(workers={"p": People()}, roles={"*": "p"})
    config = JustifyReconsiderConfig(num_assessors=3)
    opinions = {"ann": "yes", "bo": "no", "cy": "yes"}
    done = []

    def pipeline():
        return justify_reconsider(QUESTION, config)

    for _ in range(4):
        outcome = run_crew(pipeline(), crew, tmp_path)
        if outcome.status == "done":
            break
        with Journal(tmp_path / "store.sqlite") as journal:
            for person in ("cy", "bo", "ann"):
                ticket = journal.take_ticket(person)
                if ticket is None:
                    continue
                subtask = ticket.subtask
                own = subtask.inputs.get("answer", subtask.inputs.get("first answer", opinions[person]))
                assert own == opinions[person]
                done.append((subtask.name, person))
                text = "My view." if subtask.name == "justify" else "yes"
                value = opinions[person] if subtask.name == "assess" else text
                assert journal.submit(ticket, person, text=value, value=value)
    assert outcome.result["after"] == {"yes": 3, "no": 0}
    assert outcome.result["changed"] == 1
    assert [one for one in done if one[0] != "assess"] == [
        ("justify", "cy"),
        ("justify", "bo"),
        ("reconsider", "cy"),
        ("reconsider", "bo"),
        ("reconsider", "ann"),
    ]


def test_a_second_run_asks_nothing_and_order_of_arrival_does_not_matter(tmp_path):
    respond = crowd(["no", "yes", "no", "no", "yes", "yes", "no"], convinced_by=("yes",))

    class Shuffled:
        def __init__(self, seed):
            self.random, self.inner = random.Random(seed), scripted(respond)

        def assign(self, subtask, step):
            return self.inner.assign(subtask, step)

        def answer(self, asks, on_reply):
            replies = []
            self.inner.answer(asks, lambda index, reply: replies.append((index, reply)))
            self.random.shuffle(replies)
            for index, reply in replies:
                on_reply(index, reply)

    config = JustifyReconsiderConfig(num_assessors=7, num_justifiers=2)
    results = [
        run_scripted(justify_reconsider(QUESTION, config), Shuffled(seed), tmp_path, run=f"run-{seed}").result
        for seed in range(5)
    ]
    assert all(one == results[0] for one in results)
    assert results[0]["changed"] == 4
    silent = scripted(lambda ask: "")
    again = run_scripted(justify_reconsider(QUESTION, config), silent, tmp_path, run="run-3")
    assert (again.result, silent.asked) == (results[0], [])


def test_one_prompt(tmp_path):
    worker = scripted({"one-prompt": "maybe not"})
    config = JustifyReconsiderConfig(options=("maybe", "maybe not"))
    outcome = run_scripted(one_prompt(QUESTION, config), worker, tmp_path)
    assert outcome.result == {"answer": "maybe not"}
    assert [ask.subtask.role for ask in worker.asked] == ["one_prompt"]
    with pytest.raises(DataError, match="question must hold text"):
        next(justify_reconsider("", config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_assessors": 0}, "num_assessors must be >= 1, but is 0"),
        ({"num_justifiers": 0}, "num_justifiers must be >= 1"),
        ({"max_reconsidering": 0}, "max_reconsidering must be >= 1"),
        ({"options": ("yes",)}, "two or more different options"),
        ({"options": ("yes", "yes")}, "two or more different options"),
        ({"options": ("yes", " ")}, "Every option must hold text"),
    ],
)
def test_configs_that_leave_nothing_to_do_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        JustifyReconsiderConfig(**fields)
