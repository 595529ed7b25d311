"""Comparisons: grades by hand, frozen steps, blind votes, phrasings, assignment by brute force."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
from crowd_runs import run_crew, scripted

from hierrouter_jax.core.configs import from_json_dict, to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.budget import Budget
from hierrouter_jax.crowd.comparison.assign import assign_people
from hierrouter_jax.crowd.comparison.chain_or_prompt import compare_chain
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput, read_inputs
from hierrouter_jax.crowd.comparison.grading import perfect_answer, result_score, step_score, word_distance
from hierrouter_jax.crowd.comparison.intervals import Estimate, difference_estimate, mean_estimate, share_estimate
from hierrouter_jax.crowd.comparison.matrix import Cell, Matrix, compare_workers, perfect_crew
from hierrouter_jax.crowd.comparison.probe import probe_instructions
from hierrouter_jax.crowd.registry import algorithm
from hierrouter_jax.crowd.runner import Crew

TEXT = "The cat sleep on the mat, and the dogs barks at it all day long until the evening comes at last."
ERRORS = [["cat sleep", "cat sleeps"], ["dogs barks", "dogs bark"]]
ONE = GradedInput(text=TEXT, gold={"errors": ERRORS})
RIGHT = TEXT.replace("cat sleep", "cat sleeps").replace("dogs barks", "dogs bark")
FFV = algorithm("find_fix_verify")
ADD = algorithm("arithmetic")
SMALL = FFV.config(num_finders=3, num_fixers=2, num_verifiers=3)


def runner_in(folder):
    def run(pipeline, crew, label):
        return run_crew(pipeline, crew, folder, run=label)

    return run


def crew_of(**workers):
    return Crew(workers=workers, roles={"*": next(iter(workers))})


@pytest.mark.parametrize("name", ["find_fix_verify", "arithmetic", "sorting"])
def test_with_perfect_workers_the_result_is_perfect(name, tmp_path):
    found = algorithm(name)
    inputs = {
        "find_fix_verify": ONE,
        "arithmetic": GradedInput(text="13 29 31 7 2"),
        "sorting": GradedInput(
            text="pear\nfig\nkiwi\nlime\nplum", gold={"order": ["fig", "kiwi", "lime", "pear", "plum"]}
        ),
    }
    one = inputs[name]
    outcome = runner_in(tmp_path)(found.make(one.text, found.config()), perfect_crew(found)(one), "perfect")
    assert outcome.status == "done"
    assert result_score(name, outcome.result, one) == 1.0


def subtasks(found, one, folder):
    from hierrouter_jax.crowd.comparison.matrix import subtasks_of

    config = SMALL if found is FFV else found.config()
    return subtasks_of(found, config, one, perfect_crew(found), runner_in(folder), 0)


def test_grades_of_steps_by_hand(tmp_path):
    asked = {}
    for subtask in subtasks(FFV, ONE, tmp_path):
        asked.setdefault(subtask.name, subtask)
    find, fix, verify = (asked[name] for name in ("find", "fix", "verify"))
    first, second = (TEXT.index(wrong) for wrong, _ in ERRORS)

    def score(subtask, value, slot=0):
        return step_score("find_fix_verify", subtask, slot, value, ONE)

    assert score(find, [[first, first + 3]]) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert score(find, [[first, first + 3], [second + 2, second + 9]]) == 1.0
    assert score(find, [[0, 3], [first + 8, first + 12], [second, second + 4]]) == pytest.approx(2 * (2 / 3) / (5 / 3))
    assert score(find, [[0, 3]]) == 0.0
    passage = fix.inputs["passage"]
    assert score(fix, passage) == 0.0
    assert score(fix, perfect_answer("find_fix_verify", fix, 0, ONE)) == 1.0
    assert {score(verify, "yes"), score(verify, "no")} == {0.0, 1.0}
    right = [slot for slot in range(3) if perfect_answer("find_fix_verify", verify, slot, ONE) == "yes"]
    assert [score(verify, "yes", slot) for slot in range(3)] == [float(slot in right) for slot in range(3)]
    assert step_score("iterative", find, 0, [], ONE) is None


def test_grades_of_results():
    def proofread(text):
        return result_score("find_fix_verify", {"text": text}, ONE)

    assert proofread(TEXT) == 0.0
    assert proofread(RIGHT) == 1.0
    assert proofread(TEXT.replace("cat sleep", "cat sleeps")) == pytest.approx(0.5)
    assert proofread("Nothing of it") == 0.0
    assert result_score("arithmetic", {"sum": 42}, GradedInput(text="40 2")) == 1.0
    assert result_score("arithmetic", {"sum": 41}, GradedInput(text="40 2")) == 0.0
    listed = GradedInput(text="b\na\nc", gold={"order": ["a", "b", "c"]})
    assert result_score("sorting", {"items": ["b", "a", "c"]}, listed) == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="must occur once in its text, but 'the' occurs"):
        result_score("find_fix_verify", {"text": ""}, GradedInput(text=TEXT, gold={"errors": [["the", "a"]]}))


def test_word_distance_is_that_of_brute_force():
    draw = random.Random(3)
    for _ in range(60):
        first, second = (tuple(draw.choice("abc") for _ in range(draw.randint(0, 5))) for _ in range(2))
        reached, frontier, steps = {first}, {first}, 0
        while second not in reached:
            frontier = {
                other
                for text in frontier
                for place in range(len(text) + 1)
                for other in (
                    text[:place] + text[place + 1 :],
                    *((*text[:place], one, *text[place:]) for one in "abc"),
                    *((*text[:place], one, *text[place + 1 :]) for one in "abc" if place < len(text)),
                )
                if len(other) <= 6
            } - reached
            reached |= frontier
            steps += 1
        assert word_distance(first, second) == steps


def test_the_matrix_says_who_does_what_well_whatever_came_before(tmp_path):
    def fixes_wrongly(ask):
        if ask.subtask.name == "fix":
            return "something else"
        return perfect_answer("find_fix_verify", ask.subtask, ask.slot, ONE)

    def says_yes(ask):
        return {"find": "The cat", "verify": "yes"}.get(ask.subtask.name, "")

    workers = crew_of(bad_fixer=scripted(fixes_wrongly), agreeable=scripted(says_yes, cost=0.25))
    inputs = [ONE, ONE]
    found = compare_workers(
        FFV,
        SMALL,
        inputs,
        reference=perfect_crew(FFV),
        workers=workers,
        names=("bad_fixer", "agreeable"),
        run=runner_in(tmp_path),
    )
    cells = found.cells
    assert list(cells) == ["find", "fix", "verify"]
    assert [cells[name]["bad_fixer"].score.mean for name in cells] == [1.0, 0.0, 1.0]
    assert cells["find"]["agreeable"].score.mean == pytest.approx(2 / 3)
    assert cells["fix"]["agreeable"].usable == 0.0  # an empty text is refused, three times
    assert cells["fix"]["agreeable"].score.mean == 0.0
    # Two patches, and of each the original, the corrected and the cut version: one in three is right.
    assert found.calls == {"find": 1.0, "fix": 2.0, "verify": 6.0}
    assert cells["verify"]["agreeable"].score.mean == pytest.approx(1 / 3)
    assert cells["verify"]["agreeable"].num_asked == 12
    assert cells["verify"]["agreeable"].cost == pytest.approx(0.25)
    assert from_json_dict(Matrix, to_json_dict(found)) == found
    again = scripted(lambda ask: "asked again")
    assert (
        compare_workers(
            FFV,
            SMALL,
            inputs,
            reference=perfect_crew(FFV),
            workers=crew_of(bad_fixer=again),
            names=("bad_fixer",),
            run=runner_in(tmp_path),
        )
        .cells["find"]["bad_fixer"]
        .score.mean
        == 1.0
    )
    assert again.asked == []


def test_a_chain_that_adds_well_is_preferred_to_a_prompt_that_does_not(tmp_path):
    inputs = [GradedInput(text=f"{number} 11 5") for number in range(20, 27)]

    def works(ask):
        if ask.subtask.name == "one-prompt":
            return "40"  # right once
        return perfect_answer("arithmetic", ask.subtask, ask.slot, inputs[0])

    def judges(ask):
        wanted = sum(int(number) for number in ask.subtask.inputs["input"].split())
        shown = ask.subtask.inputs_of(ask.slot)
        return "A" if shown["A"] == str(wanted) else "B"

    crew = Crew(workers={"w": scripted(works, cost=1.0), "j": scripted(judges)}, roles={"*": "w", "judge": "j"})
    found = compare_chain(ADD, ADD.config(), inputs, crew=crew, run=runner_in(tmp_path), num_judges=3)
    assert found.preferred.mean == pytest.approx((6 + 0.5) / 7)
    assert (found.chain_gold.mean, found.prompt_gold.mean) == (1.0, pytest.approx(1 / 7))
    assert found.gold_difference.mean == pytest.approx(6 / 7)
    assert (found.chain_calls, found.prompt_calls, found.chain_cost) == (2.0, 1.0, 2.0)
    blind = [ask.subtask.inputs_of(ask.slot) for ask in crew.workers["j"].asked]
    assert all(set(one) == {"input", "A", "B"} for one in blind)
    assert {one["A"] == "40" for one in blind} == {True, False}  # the order changes


def test_a_chain_that_fails_loses_and_is_counted(tmp_path):
    crew = crew_of(w=scripted(lambda ask: "36" if ask.subtask.name == "one-prompt" else "no number"))
    found = compare_chain(ADD, ADD.config(), [GradedInput(text="20 11 5")], crew=crew, run=runner_in(tmp_path))
    assert (found.chain_failures, found.prompt_failures) == (1, 0)
    assert found.preferred.mean == 0.0
    assert (found.chain_gold.mean, found.prompt_gold.mean) == (0.0, 1.0)


# By number added: what the chain and the one prompt say ("" where they fail), how many of 5 judges prefer the chain
# (None: nobody is asked).
SIDES = {
    11: ("111", "111", None),
    13: ("113", "0", 5),
    17: ("117", "0", 2),
    19: ("0", "1", 0),
    23: ("", "0", None),
    29: ("129", "", None),
    31: ("", "", None),
}


def sided(ask):
    """Answers as SIDES says; sums are of 100 and its number."""
    number = int(ask.subtask.inputs["sum"].split(" + ")[1])
    return SIDES[number][1 if ask.subtask.name == "one-prompt" else 0] or "no number"


def judging(ask):
    chain, _, num = SIDES[int(ask.subtask.inputs["input"].split()[1])]
    shown = ask.subtask.inputs_of(ask.slot)
    is_for_chain = ask.slot < num
    return next(label for label in "AB" if (shown[label] == chain) is is_for_chain)


def compared_sides(folder, *, numbers=SIDES, judges=judging, run=None, **options):
    """The comparison of the sides of SIDES, and its crew: a worker whose answers cost 0.25, and judges."""
    inputs = [GradedInput(text=f"100 {number}") for number in numbers]
    workers = {"w": scripted(sided, cost=0.25), "j": scripted(judges, cost=3.0)}
    crew = Crew(workers=workers, roles={"*": "w", "judge": "j"})
    run = runner_in(folder) if run is None else run
    return compare_chain(ADD, ADD.config(), inputs, crew=crew, run=run, **options), crew


def test_a_failed_side_loses_and_judges_are_asked_only_where_results_differ(tmp_path):
    found, crew = compared_sides(tmp_path)
    shares = {11: 0.5, 13: 5 / 5, 17: 2 / 5, 19: 0.0, 23: 0.0, 29: 1.0, 31: 0.5}
    assert found.preferred == mean_estimate(list(shares.values()))
    assert (found.chain_failures, found.prompt_failures, found.num_inputs) == (2, 2, 7)
    judged = [ask.subtask.inputs["input"] for ask in crew.workers["j"].asked]
    assert sorted(judged) == sorted(f"100 {number}" for number in (13, 17, 19) for _ in range(5))
    chains, prompts = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]  # what failed is wrong
    assert found.chain_gold == mean_estimate(chains)
    assert found.prompt_gold == mean_estimate(prompts)
    assert found.gold_difference == difference_estimate(chains, prompts)


@pytest.mark.parametrize("number", SIDES)
def test_each_input_alone_is_judged_as_among_others(tmp_path, number):
    found, _ = compared_sides(tmp_path, numbers=[number])
    votes = SIDES[number][2]
    expected = {11: 0.5, 23: 0.0, 29: 1.0, 31: 0.5}[number] if votes is None else votes / 5
    assert found.preferred.mean == expected


def test_calls_and_costs_are_means_an_input_with_what_was_asked_in_vain(tmp_path):
    found, _ = compared_sides(tmp_path)
    # Five of seven sides answer at once, two are refused three times; judges are not counted.
    assert found.chain_calls == found.prompt_calls == pytest.approx((5 * 1 + 2 * 3) / 7)
    assert found.chain_cost == found.prompt_cost == pytest.approx(0.25 * 11 / 7)
    again, crew = compared_sides(tmp_path)
    assert (again, crew.workers["w"].asked, crew.workers["j"].asked) == (found, [], [])


def test_the_inputs_of_a_side_run_side_by_side_in_one_run(tmp_path):
    labels, batches = [], []

    def run(pipeline, crew, label):
        outcome = run_crew(pipeline, crew, tmp_path, run=label)
        labels.append(label)
        batches.append(len(crew.workers["w"].asked))
        return outcome

    _, crew = compared_sides(tmp_path, run=run)
    assert labels == [f"compare/arithmetic/{side}" for side in ("chain", "prompt", "judge")]
    assert batches == [11, 22, 22]
    firsts = [ask.subtask.inputs["sum"] for ask in crew.workers["w"].asked[:7]]
    assert firsts == [f"100 + {number}" for number in SIDES]  # every input once before any is asked again


def test_a_result_that_no_judge_can_use_is_no_one_s(tmp_path):
    found, crew = compared_sides(tmp_path, numbers=[13, 19], judges=lambda ask: "neither", num_judges=3)
    assert found.preferred.mean == 0.5
    assert len(crew.workers["j"].asked) == 2 * 3 * 3


def test_without_judges_results_are_graded_alone(tmp_path):
    found, crew = compared_sides(tmp_path, num_judges=0)
    assert found.preferred is None
    assert found.chain_gold.mean == pytest.approx(4 / 7)
    assert crew.workers["j"].asked == []
    with pytest.raises(ConfigError, match="number of judges must be >= 0, but is -1"):
        compared_sides(tmp_path, num_judges=-1)
    goals = [GradedInput(text="A motto.")]
    iterative = algorithm("iterative")
    crew = crew_of(w=scripted(lambda ask: "A" if "vote" in ask.subtask.name else f"text {len(ask.subtask.inputs)}"))
    config = iterative.config(num_creations=2)
    found = compare_chain(iterative, config, goals, crew=crew, run=runner_in(tmp_path), num_judges=0)
    assert (found.preferred, found.chain_gold, found.prompt_gold, found.gold_difference) == (None, None, None, None)


@pytest.mark.parametrize(
    ("max_calls", "message", "num_left"),
    [
        (
            {"chain": 10},
            "needs the chain side to come through, but it is budget: 10 of 10 calls are spent",
            (1 + 11, 15),
        ),
        ({"prompt": 3}, "needs the prompt side to come through, but it is budget", (8, 15)),
        ({"judge": 14}, "needs the judging to come through, but it is budget", (0, 1)),
    ],
)
def test_a_side_that_a_budget_ends_is_no_comparison(tmp_path, max_calls, message, num_left):
    def run(pipeline, crew, label):
        limit = max_calls.get(label.rsplit("/", 1)[1])
        return run_crew(pipeline, crew, tmp_path, run=label, budget=Budget(max_calls=limit))

    with pytest.raises(DataError, match=message):
        compared_sides(tmp_path, run=run)
    found, crew = compared_sides(tmp_path)  # with more to spend it goes on
    assert found.num_inputs == 7
    assert tuple(len(crew.workers[name].asked) for name in "wj") == num_left


def test_a_probe_tells_phrasings_apart(tmp_path):
    def obeys(ask):
        right = perfect_answer("arithmetic", ask.subtask, ask.slot, ONE)
        return right if "carefully" in ask.subtask.instructions else "1"

    inputs = [GradedInput(text=f"{number} 13") for number in range(3, 8)]
    found = probe_instructions(
        ADD,
        ADD.config(),
        inputs,
        {"careful": "Add carefully.", "hasty": "Add fast."},
        subtask="add",
        reference=perfect_crew(ADD),
        workers=crew_of(w=scripted(obeys)),
        names=("w",),
        run=runner_in(tmp_path),
    )
    assert {name: row["w"].score.mean for name, row in found.cells.items()} == {
        "as it is": 0.0,
        "careful": 1.0,
        "hasty": 0.0,
    }
    assert found.spread == {"w": 1.0}
    with pytest.raises(ConfigError, match="has sub-tasks add, but 'fix' was asked for"):
        probe_instructions(
            ADD,
            ADD.config(),
            inputs,
            {},
            subtask="fix",
            reference=perfect_crew(ADD),
            workers=crew_of(w=scripted(obeys)),
            names=("w",),
            run=runner_in(tmp_path),
        )


def cell(mean):
    return Cell(score=Estimate(mean=mean, low=mean, high=mean, count=7), usable=1.0, num_asked=7, cost=0.0)


def random_matrix(draw, num_subtasks):
    names = [f"step-{place}" for place in range(num_subtasks)]
    cells = {name: {worker: cell(draw.random()) for worker in ("small", "large")} for name in names}
    return Matrix(algorithm="x", cells=cells, calls={name: draw.randint(1, 5) * 1.0 for name in names}, num_inputs=7)


def test_people_go_where_they_help_most_for_the_budget():
    draw = random.Random(11)
    for _ in range(20):
        matrix = random_matrix(draw, 5)
        price = {name: draw.randint(1, 3) * 1.0 for name in matrix.cells}
        budget = draw.randint(0, 20) * 1.0
        found = assign_people(matrix, budget=budget, people_score=0.97, people_cost=price)
        best = -1.0
        for chosen in itertools.product((False, True), repeat=5):
            steps = list(zip(matrix.cells, chosen, strict=True))
            cost = sum(matrix.calls[name] * price[name] for name, by_people in steps if by_people)
            models = {name: max(one.score.mean for one in matrix.cells[name].values()) for name in matrix.cells}
            chance = math.prod(0.97 if by_people else models[name] for name, by_people in steps)
            if cost <= budget:
                best = max(best, chance)
        assert found.expected == pytest.approx(best)
        assert found.people_cost <= budget
        if budget == 0:
            assert "people" not in found.worker_of.values()


def test_measured_people_count_as_measured_and_bad_numbers_are_refused():
    matrix = random_matrix(random.Random(2), 2)
    cells = {name: {**row, "people": cell(0.01)} for name, row in matrix.cells.items()}
    measured = dataclasses.replace(matrix, cells=cells)
    assert "people" not in assign_people(measured, budget=99.0).worker_of.values()
    assert set(assign_people(matrix, budget=99.0).worker_of.values()) == {"people"}
    with pytest.raises(ConfigError, match="budget must be finite and >= 0, but is -1"):
        assign_people(matrix, budget=-1.0)
    with pytest.raises(ConfigError, match="People's score must lie in"):
        assign_people(matrix, budget=1.0, people_score=1.5)
    alone = dataclasses.replace(matrix, cells={name: {"people": cell(1.0)} for name in matrix.cells})
    with pytest.raises(DataError, match="must have been asked of a model"):
        assign_people(alone, budget=1.0)


def test_intervals():
    wilson = share_estimate(7, 29)
    p, n, z = 7 / 29, 29, 1.959964
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson.low == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-6)
    assert wilson.high == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-6)
    assert mean_estimate([1.0] * 7 + [0.0] * 22) == wilson
    values = np.random.default_rng(0).normal(size=101).tolist()
    found = mean_estimate(values)
    spread = 1.96 * np.std(values) / math.sqrt(101)
    assert found.low == pytest.approx(found.mean - spread, abs=0.06)
    assert found.high == pytest.approx(found.mean + spread, abs=0.06)
    assert mean_estimate([0.5, 0.5]).low == 0.5
    with pytest.raises(DataError, match="at least one"):
        mean_estimate([])


def test_inputs_are_read_and_bad_lines_named(tmp_path):
    path = tmp_path / "inputs.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b", "gold": {"x": 1}}\n')
    assert read_inputs(path) == [GradedInput(text="a"), GradedInput(text="b", gold={"x": 1})]
    path.write_text('{"text": ""}\nnone\n{"text": "a", "other": 1}\n')
    with pytest.raises(DataError, match=r"(?s)line 1:.*line 2:.*line 3:"):
        read_inputs(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no input"):
        read_inputs(path)
    with pytest.raises(DataError, match="no file of inputs"):
        read_inputs(tmp_path / "none")
