"""Iterative, parallel, brainstorm: who is asked what in which order, and what stays when answers or votes are bad."""

from __future__ import annotations

import itertools
import random

import pytest
from crowd_runs import asked_names, run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.iterative import IterativeConfig, iterative, one_prompt
from hierrouter_jax.crowd.budget import Budget

GOAL = "Describe the picture."


def label_of(ask, text):
    (label,) = [label for label, shown in ask.subtask.inputs_of(ask.slot).items() if shown == text]
    return label


def shown_texts(ask):
    shown = ask.subtask.inputs_of(ask.slot)
    return [shown[label] for label in ask.subtask.schema.options]


def creations(worker):
    return [ask for ask in worker.asked if ask.subtask.role == "create"]


def votes(worker):
    return [ask for ask in worker.asked if ask.subtask.role == "vote"]


def writing(texts, judge, *, kins=("ada", "bo")):
    """A worker that writes the texts in turn, and votes for what `judge(ask, texts shown)` returns."""
    coming = iter(texts)

    def respond(ask):
        if ask.subtask.role == "create":
            return next(coming)
        return label_of(ask, judge(ask, shown_texts(ask)))

    return scripted(respond, kins=kins)


def longest(ask, texts):
    return max(texts, key=len)


def shortest(ask, texts):
    return min(texts, key=len)


# -- iterative --


def test_each_creation_is_shown_the_best_so_far_and_a_vote_follows(tmp_path):
    config = IterativeConfig(num_creations=4, num_votes=3, create="Write.", compare="Which?")
    worker = writing(["11", "1", "1111", "111"], longest)
    outcome = run_scripted(iterative(GOAL, config), worker, tmp_path)
    assert outcome.result == {"text": "1111", "problems": []}
    assert asked_names(worker) == ["create", *["create", "vote", "vote"] * 3]
    assert [dict(ask.subtask.inputs) for ask in creations(worker)] == [
        {"goal": GOAL},
        {"goal": GOAL, "best text so far": "11"},
        {"goal": GOAL, "best text so far": "11"},
        {"goal": GOAL, "best text so far": "1111"},
    ]
    assert {ask.subtask.instructions for ask in creations(worker)} == {"Write."}
    assert [sorted(shown_texts(ask)) for ask in votes(worker)[::2]] == [["1", "11"], ["11", "1111"], ["111", "1111"]]
    assert {(ask.subtask.instructions, ask.subtask.inputs_of(ask.slot)["goal"]) for ask in votes(worker)} == {
        ("Which?", GOAL)
    }


def test_by_default_there_are_six_creations_and_a_vote_of_first_to_three(tmp_path):
    worker = writing([str(10**k) for k in range(6)], longest)
    outcome = run_scripted(iterative(GOAL, IterativeConfig()), worker, tmp_path)
    assert outcome.result["text"] == "100000"
    assert (len(creations(worker)), len(votes(worker))) == (6, 5 * 3)
    worker = writing([str(10**k) for k in range(6)], lambda ask, texts: random.Random(ask.seed).choice(texts))
    run_scripted(iterative(GOAL, IterativeConfig()), worker, tmp_path, run="random")
    assert 5 * 3 < len(votes(worker)) <= 5 * 5


def test_a_tie_keeps_the_best_so_far(tmp_path):
    for number, order in enumerate(set(itertools.permutations(["old", "old", "new", "new"]))):
        coming = iter(order)
        worker = writing(["old", "new"], lambda ask, texts, coming=coming: next(coming))
        config = IterativeConfig(num_creations=2, num_votes=4)
        outcome = run_scripted(iterative(GOAL, config), worker, tmp_path, run=f"run-{number}")
        assert (outcome.result["text"], len(votes(worker))) == ("old", 4)


def test_a_text_that_is_not_new_is_asked_for_again(tmp_path):
    worker = writing(["one", '"one"', "two"], longest)
    run_scripted(iterative(GOAL, IterativeConfig(num_creations=2, num_votes=1)), worker, tmp_path)
    assert "must differ from the text that was given" in creations(worker)[2].refusals[0]
    worker = writing(["12345", "1234"], longest)
    outcome = run_scripted(
        iterative(GOAL, IterativeConfig(num_creations=1, max_chars=4)), worker, tmp_path, run="short"
    )
    assert outcome.result["text"] == "1234"
    assert votes(worker) == []


@pytest.mark.parametrize("variant", ["iterative", "parallel"])
def test_creators_never_vote_on_their_own_text(tmp_path, variant):
    worker = writing([str(10**k) for k in range(6)], longest, kins=("ada", "bo", "cy"))
    run_scripted(iterative(GOAL, IterativeConfig(variant=variant)), worker, tmp_path)
    makers = {str(10**k): ask.contributor.name for k, ask in enumerate(creations(worker))}
    for ask in votes(worker):
        assert ask.contributor.name not in {makers[text] for text in shown_texts(ask)}
        assert set(ask.subtask.barred) == {makers[text] for text in shown_texts(ask)}
    pairs = [tuple(sorted(shown_texts(ask))) for ask in votes(worker)]
    for pair in set(pairs):
        voters = [ask.contributor.name for ask, other in zip(votes(worker), pairs, strict=True) if other == pair]
        assert len(set(voters)) == len(voters) >= 3


# -- parallel --


def test_parallel_texts_are_made_unseen_and_then_compared_in_their_order(tmp_path):
    worker = writing(["11", "1111", "1", "1111111", "11111"], longest)
    config = IterativeConfig(variant="parallel", num_creations=5, num_votes=1)
    outcome = run_scripted(iterative(GOAL, config), worker, tmp_path)
    assert outcome.result == {"text": "1111111", "problems": []}
    assert asked_names(worker) == ["create"] * 5 + ["vote"] * 4
    assert all(dict(ask.subtask.inputs_of(ask.slot)) == {"goal": GOAL} for ask in creations(worker))
    assert [ask.contributor.name for ask in creations(worker)] == ["ada#0", "bo#0", "ada#1", "bo#1", "ada#2"]
    assert [sorted(shown_texts(ask)) for ask in votes(worker)] == [
        ["11", "1111"],
        ["1", "1111"],
        ["1111", "1111111"],
        ["11111", "1111111"],
    ]


def test_parallel_goes_on_without_the_texts_that_failed(tmp_path):
    def respond(ask):
        if ask.subtask.role == "create":
            return "" if ask.slot in (0, 3) else "1" * (ask.slot + 1)
        return label_of(ask, longest(ask, shown_texts(ask)))

    worker = scripted(respond)
    config = IterativeConfig(variant="parallel", num_creations=5, num_votes=1)
    assert run_scripted(iterative(GOAL, config), worker, tmp_path).result["text"] == "11111"
    assert len(votes(worker)) == 2


# -- judges --


@pytest.mark.parametrize("variant", ["iterative", "parallel"])
def test_with_perfect_judges_the_best_text_wins_wherever_it_stands(tmp_path, variant):
    for order in itertools.permutations(range(1, 5)):
        worker = writing(["1" * length for length in order], longest)
        config = IterativeConfig(variant=variant, num_creations=4)
        run = "".join(map(str, order))
        assert run_scripted(iterative(GOAL, config), worker, tmp_path, run=run).result["text"] == "1111"
        assert len(votes(worker)) == 3 * 3  # all agree: no more than first to 3


@pytest.mark.parametrize("num_good", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("variant", ["iterative", "parallel"])
def test_good_judges_win_where_they_are_more_than_half(tmp_path, variant, num_good):
    """Of each five voters the last `num_good` choose the longer text, those before them the shorter one."""

    def judge(ask, texts):
        number = [one.contributor.name for one in asked_with(ask)].index(ask.contributor.name)
        return longest(ask, texts) if number >= 5 - num_good else shortest(ask, texts)

    def asked_with(ask):
        return [one for one in votes(worker) if sorted(shown_texts(one)) == sorted(shown_texts(ask))]

    worker = writing(["111", "1", "11111", "11"], judge)
    config = IterativeConfig(variant=variant, num_creations=4)
    outcome = run_scripted(iterative(GOAL, config), worker, tmp_path)
    assert outcome.result["text"] == ("11111" if num_good >= 3 else "1")
    assert len(votes(worker)) == 3 * {1: 3, 2: 3, 3: 5, 4: 4, 5: 3}[num_good]


# -- what fails --


def test_creations_and_votes_that_fail_leave_the_best_so_far(tmp_path):
    texts = iter([*[""] * 3, "11", *["11"] * 3, "1111", "111111"])

    def respond(ask):
        if ask.subtask.role == "create":
            return next(texts)
        return "neither" if "111111" in shown_texts(ask) else label_of(ask, longest(ask, shown_texts(ask)))

    worker = scripted(respond)
    outcome = run_scripted(iterative(GOAL, IterativeConfig(num_creations=5, num_votes=1)), worker, tmp_path)
    assert outcome.result["text"] == "1111"
    empty, same, vote = outcome.result["problems"]
    assert "Sub-task create needs 1 usable answers, but got 0 of 1" in empty
    assert "the answer must hold text, but is empty" in empty
    assert "must differ" in same
    assert "Sub-task vote needs 1 usable answers" in vote
    assert "best text so far" not in creations(worker)[3].subtask.inputs  # after the first failure nothing is best
    again = scripted(lambda ask: "")
    assert run_scripted(iterative(GOAL, IterativeConfig(num_creations=5, num_votes=1)), again, tmp_path).result == (
        outcome.result
    )
    assert again.asked == []


@pytest.mark.parametrize("variant", ["iterative", "parallel", "brainstorm"])
def test_a_run_without_any_usable_creation_fails(tmp_path, variant):
    worker = scripted(lambda ask: " ")
    outcome = run_scripted(iterative(GOAL, IterativeConfig(variant=variant, num_creations=2)), worker, tmp_path)
    assert outcome.status == "failed"
    assert "needs 1 usable answers, but got 0 of" in outcome.reason
    assert len(worker.asked) == 2 * 3


def test_a_run_that_stopped_goes_on_to_the_same_result(tmp_path):
    def make(seen):
        def respond(ask):
            seen.append(ask.seed)
            if ask.subtask.role == "create":
                return str(ask.seed)
            return label_of(ask, max(shown_texts(ask), key=lambda text: (text[-1], text)))

        return scripted(respond)

    whole, parts = [], []
    config = IterativeConfig(num_creations=3)
    expected = run_scripted(iterative(GOAL, config), make(whole), tmp_path, run="run").result
    (tmp_path / "other").mkdir()
    for limit in range(1, len(whole) + 1):
        outcome = run_scripted(iterative(GOAL, config), make(parts), tmp_path / "other", budget=Budget(max_calls=limit))
        assert outcome.spent.num_calls == limit
    assert (outcome.result, parts) == (expected, whole)


# -- brainstorm --


def test_a_brainstorm_shows_all_earlier_ideas_and_keeps_new_ones(tmp_path):
    answers = ["a\nb\nc", "B.\nd\nD\n a ", "e"]
    coming = iter(answers)
    worker = scripted(lambda ask: next(coming))
    config = IterativeConfig(variant="brainstorm", num_creations=3, num_items=4, ideas="More!")
    outcome = run_scripted(iterative(GOAL, config), worker, tmp_path)
    assert outcome.result == {"items": ["a", "b", "c", "d", "e"], "problems": []}
    assert asked_names(worker) == ["ideas"] * 3
    assert [dict(ask.subtask.inputs) for ask in worker.asked] == [
        {"goal": GOAL},
        {"goal": GOAL, "ideas so far": ["a", "b", "c"]},
        {"goal": GOAL, "ideas so far": ["a", "b", "c", "d"]},
    ]
    assert {ask.subtask.instructions for ask in worker.asked} == {"More!"}


def test_by_default_a_brainstorm_is_six_times_five_ideas(tmp_path):
    numbers = itertools.count()
    worker = scripted(lambda ask: "\n".join(f"idea {next(numbers)}" for _ in range(7)))
    outcome = run_scripted(iterative(GOAL, IterativeConfig(variant="brainstorm")), worker, tmp_path)
    assert len(worker.asked) == 6
    assert len(outcome.result["items"]) == 30
    assert outcome.result["items"][:6] == [f"idea {number}" for number in (0, 1, 2, 3, 4, 7)]


def test_a_brainstorm_goes_on_without_a_creator_who_fails(tmp_path):
    coming = iter(["", "", "", "a", "b"])
    outcome = run_scripted(
        iterative(GOAL, IterativeConfig(variant="brainstorm", num_creations=3)),
        scripted(lambda ask: next(coming)),
        tmp_path,
    )
    assert outcome.result["items"] == ["a", "b"]
    assert "at least 1 items" in outcome.result["problems"][0]


# -- the baseline, inputs and numbers --


def test_the_baseline_asks_one_worker_once(tmp_path):
    worker = scripted(lambda ask: "a text")
    assert run_scripted(one_prompt(GOAL, IterativeConfig(create="Write.")), worker, tmp_path).result == {
        "text": "a text"
    }
    (ask,) = worker.asked
    assert (ask.subtask.name, ask.subtask.role, ask.subtask.instructions) == ("one-prompt", "one_prompt", "Write.")
    assert dict(ask.subtask.inputs) == {"goal": GOAL}
    worker = scripted(lambda ask: "\n".join(["a", "A.", *(f"idea {number}" for number in range(50))]))
    config = IterativeConfig(variant="brainstorm", num_creations=3, num_items=4, ideas="More!")
    outcome = run_scripted(one_prompt(GOAL, config), worker, tmp_path, run="ideas")
    assert outcome.result["items"] == ["a", *(f"idea {number}" for number in range(10))]  # of 3 x 4, A. is no new one
    assert worker.asked[0].subtask.instructions == "More!"


@pytest.mark.parametrize("make", [iterative, one_prompt])
@pytest.mark.parametrize("variant", ["iterative", "parallel", "brainstorm"])
def test_a_goal_is_a_text(make, variant):
    for goal, message in ((" \n", "The goal must hold text"), ("a\x1bb", "no control characters")):
        with pytest.raises(DataError, match=message):
            next(make(goal, IterativeConfig(variant=variant)))
    assert next(make("a\r\nb", IterativeConfig(variant=variant))).inputs["goal"] == "a\nb"


@pytest.mark.parametrize("name", ["num_creations", "num_votes", "num_items", "max_chars"])
def test_numbers_that_leave_nothing_to_do(name):
    with pytest.raises(ConfigError, match=f"{name} must be >= 1, but is 0"):
        IterativeConfig(**{name: 0})
