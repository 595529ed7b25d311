"""Microtasks: sums, sorted lists and restored texts from small answers; who is asked what; ties; bad input."""

from __future__ import annotations

import functools
import itertools
import math
import random

import pytest
from crowd_runs import run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.arithmetic import ArithmeticConfig, arithmetic, numbers_of
from hierrouter_jax.crowd.algorithms.arithmetic import one_prompt as add_at_once
from hierrouter_jax.crowd.algorithms.sorting import SortingConfig, items_of, sorting
from hierrouter_jax.crowd.algorithms.sorting import one_prompt as sort_at_once
from hierrouter_jax.crowd.algorithms.transcription import TranscriptionConfig, transcription
from hierrouter_jax.crowd.algorithms.transcription import one_prompt as restore_at_once
from hierrouter_jax.crowd.votes import most_frequent

NUMBERS = [13, 29, 31, 7, 2, 41, 17]
TEXT = " ".join(map(str, NUMBERS))


def adds(ask):
    return str(sum(map(int, ask.subtask.inputs["sum"].split(" + "))))


def test_a_chain_adds_two_numbers_at_a_time_from_the_left(tmp_path):
    worker = scripted(adds)
    result = run_scripted(arithmetic(TEXT, ArithmeticConfig()), worker, tmp_path).result
    totals = list(itertools.accumulate(NUMBERS))
    assert result == {
        "sum": totals[-1],
        "steps": [[totals[place], NUMBERS[place + 1], totals[place + 1]] for place in range(6)],
    }
    shown = [ask.subtask.inputs for ask in worker.asked]
    assert shown == [{"sum": f"{totals[place]} + {NUMBERS[place + 1]}"} for place in range(6)]


def test_a_tree_adds_pairs_side_by_side(tmp_path):
    worker = scripted(adds)
    result = run_scripted(arithmetic(TEXT, ArithmeticConfig(is_tree=True)), worker, tmp_path).result
    assert result["sum"] == sum(NUMBERS)
    steps = [tuple(step[:2]) for step in result["steps"]]
    assert steps == [(13, 29), (31, 7), (2, 41), (42, 38), (43, 17), (80, 60)]
    assert [ask.subtask.inputs for ask in worker.asked] == [{"sum": f"{first} + {second}"} for first, second in steps]


@pytest.mark.parametrize("num_garbage", [0, 1, 2, 3, 4, 5])
def test_of_redundant_answers_the_most_frequent_counts(tmp_path, num_garbage):
    def mostly(ask):
        return str(900 + ask.slot) if ask.slot < num_garbage else adds(ask)

    config = ArithmeticConfig(redundancy=5)
    result = run_scripted(arithmetic("3 4 5", config), scripted(mostly), tmp_path).result
    # Garbage that agrees with nobody loses to two that agree; alone against four different, it is first that counts.
    assert result["sum"] == (12 if num_garbage <= 3 else 900)


@pytest.mark.parametrize("answers", list(itertools.product("abc", repeat=4)))
def test_most_frequent_is_that_of_counting(answers):
    found = most_frequent(answers)
    assert all(answers.count(found) >= answers.count(other) for other in answers)
    best = [other for other in answers if answers.count(other) == answers.count(found)]
    assert found == best[0]


def test_numbers_are_read_and_anything_else_is_named():
    assert numbers_of("1, 2; 3+4\n-5 \u22127") == [1, 2, 3, 4, -5, -7]
    with pytest.raises(DataError, match=r"must be whole numbers, but among them is '2\.5'"):
        numbers_of("1 2.5")
    with pytest.raises(DataError, match="at most 250 digits, but one has 5000"):
        numbers_of("7 " + "1" * 5000)
    with pytest.raises(DataError, match="two or more numbers to add, but there is 1"):
        numbers_of("17")
    with pytest.raises(ConfigError, match="redundancy must be >= 1, but is 0"):
        ArithmeticConfig(redundancy=0)


def test_one_prompt_shows_all_numbers(tmp_path):
    worker = scripted(lambda ask: "The sum is 140.")
    assert run_scripted(add_at_once(TEXT, ArithmeticConfig()), worker, tmp_path).result == {"sum": 140}
    assert worker.asked[0].subtask.inputs == {"sum": "13 + 29 + 31 + 7 + 2 + 41 + 17"}


def compares(key):
    """Answers comparisons by a key, whatever label an item has."""

    def respond(ask):
        shown = ask.subtask.inputs_of(ask.slot)
        return min("AB", key=lambda label: key(shown[label]))

    return respond


@pytest.mark.parametrize("method", ["merge", "insertion"])
@pytest.mark.parametrize("seed", range(5))
def test_perfect_comparisons_sort_perfectly(tmp_path, method, seed):
    items = [f"item {number}" for number in range(17)]
    random.Random(seed).shuffle(items)
    worker = scripted(compares(lambda item: int(item.split()[1])))
    result = run_scripted(sorting("\n".join(items), SortingConfig(method=method)), worker, tmp_path).result
    assert result["items"] == [f"item {number}" for number in range(17)]
    assert result["num_comparisons"] == len(worker.asked)
    assert 17 - 1 <= len(worker.asked) <= 17 * math.ceil(math.log2(17))


def test_merges_of_a_level_are_asked_together(tmp_path):
    worker = scripted(compares(lambda item: item))
    run_scripted(sorting("d\nc\nb\na", SortingConfig()), worker, tmp_path)
    pairs = [frozenset(ask.subtask.inputs_of(ask.slot).values()) for ask in worker.asked]
    assert set(pairs[:2]) == {frozenset("dc"), frozenset("ba")}


def test_a_majority_of_garbage_decides_and_a_minority_does_not(tmp_path):
    right, wrong = compares(lambda item: item), compares(lambda item: tuple(-ord(letter) for letter in item))
    items = "pear\nfig\nlime\nkiwi\nplum"
    for num_garbage, expected in ((2, sorted(items.split())), (3, sorted(items.split(), reverse=True))):
        worker = scripted(lambda ask, n=num_garbage: (wrong if ask.slot < n else right)(ask))
        run = f"garbage {num_garbage}"
        outcome = run_scripted(sorting(items, SortingConfig(num_votes=5)), worker, tmp_path, run=run)
        assert outcome.result["items"] == expected


def test_a_tied_vote_goes_to_the_earlier_of_the_input(tmp_path):
    right, wrong = compares(lambda item: item), compares(lambda item: -ord(item))
    worker = scripted(lambda ask: (wrong if ask.slot else right)(ask))
    outcome = run_scripted(sorting("b\nc\na", SortingConfig(num_votes=2)), worker, tmp_path)
    assert outcome.result["items"] == ["b", "c", "a"]


def test_voters_see_the_pair_in_orders_of_their_own(tmp_path):
    worker = scripted(compares(lambda item: item))
    run_scripted(sorting("\n".join("gfedcba"), SortingConfig(num_votes=3)), worker, tmp_path)
    first_shown = [ask.subtask.inputs_of(ask.slot) for ask in worker.asked]
    assert {shown["A"] < shown["B"] for shown in first_shown} == {True, False}


def test_one_prompt_for_a_list_keeps_what_is_really_of_it(tmp_path):
    worker = scripted(lambda ask: "1. Kiwi\n2. grape\n3. fig\n4. Fig.\n")
    found = run_scripted(sort_at_once("pear\nfig\nkiwi", SortingConfig()), worker, tmp_path).result
    assert found == {"items": ["kiwi", "fig", "pear"], "num_missing": 1}
    assert worker.asked[0].subtask.instructions.endswith("alphabetical order?")


@pytest.mark.parametrize(
    ("items", "answer", "expected"),
    [
        ("c\nC\nb", "b\nC\nc", ["b", "C", "c"]),  # literally before apart from case
        ("1. end\n2. begin", "1. begin\n2. end", ["2. begin", "1. end"]),
        ("- y\n- x", "- x\n- y", ["- x", "- y"]),
        ("3\n-3\n10", "-3\n3\n10", ["-3", "3", "10"]),
        ('"the end"\na', 'a\n"the end"', ["a", '"the end"']),
        ("b.\na", "A\nB", ["a", "b."]),
    ],
)
def test_one_prompt_for_a_list_knows_its_items_again(tmp_path, items, answer, expected):
    found = run_scripted(sort_at_once(items, SortingConfig()), scripted(lambda ask: answer), tmp_path).result
    assert found == {"items": expected, "num_missing": 0}


@pytest.mark.parametrize(
    ("items", "answer", "expected"),
    [
        ('"q"\nq', "q", ["q", '"q"']),
        ("1. End\n2. Begin\nc", "begin\nend", ["2. Begin", "1. End", "c"]),
        ("c\nb\na", "a\nA\nb", ["a", "b", "c"]),
    ],
)
def test_one_prompt_for_a_list_adds_the_one_item_that_is_missing(tmp_path, items, answer, expected):
    found = run_scripted(sort_at_once(items, SortingConfig()), scripted(lambda ask: answer), tmp_path).result
    assert found == {"items": expected, "num_missing": 1}


def test_lists_that_cannot_be_sorted():
    assert items_of(" a \n\nb\r\n") == ["a", "b"]
    with pytest.raises(DataError, match="'a' stands twice"):
        items_of("a\nb\na")
    with pytest.raises(DataError, match="two or more items"):
        items_of("a")
    with pytest.raises(ConfigError, match="num_votes must be >= 1"):
        SortingConfig(num_votes=0)


GARBLED = "Tne old brigde over thc river wos closed las spring becuse two of its piers had sunk"
MEANT = "The old bridge over the river was closed last spring because two of its piers had sunk"
MEANINGS = dict(zip(GARBLED.split(), MEANT.split(), strict=True))


def restores(ask):
    return " ".join(MEANINGS[word] for word in ask.subtask.inputs["piece"].split())


@pytest.mark.parametrize("piece_words", [1, 3, 7, 17, 50])
def test_pieces_are_restored_and_joined(tmp_path, piece_words):
    worker = scripted(restores)
    config = TranscriptionConfig(piece_words=piece_words)
    assert run_scripted(transcription(GARBLED, config), worker, tmp_path).result == {"text": MEANT, "num_failed": 0}
    assert len(worker.asked) == math.ceil(17 / piece_words)


def test_lines_stay_lines(tmp_path):
    lines = GARBLED.replace(" wos", "\nwos").replace(" becuse", "\n\nbecuse")
    meant = MEANT.replace(" was", "\nwas").replace(" because", "\n\nbecause")
    worker = scripted(restores)
    config = TranscriptionConfig(piece_words=5, around_words=2)
    assert run_scripted(transcription(lines, config), worker, tmp_path).result == {"text": meant, "num_failed": 0}
    pieces = [ask.subtask.inputs["piece"] for ask in worker.asked]
    assert pieces == [
        "Tne old brigde over thc",
        "river",
        "wos closed las spring",
        "becuse two of its piers",
        "had sunk",
    ]
    assert worker.asked[1].subtask.inputs["text after"] == "wos closed"
    at_once = scripted(lambda ask: meant)
    assert run_scripted(restore_at_once(lines, config), at_once, tmp_path, run="b").result == {"text": meant}
    assert at_once.asked[0].subtask.inputs == {"text": lines}


@pytest.mark.parametrize("num_garbage", range(6))
def test_of_redundant_pieces_the_most_frequent_counts(tmp_path, num_garbage):
    """Garbage that agrees with nobody loses to two that agree; among five different answers the first counts."""

    def mostly(ask):
        return f"garbage {ask.slot}" if ask.slot < num_garbage else restores(ask)

    config = TranscriptionConfig(piece_words=17, redundancy=5)
    result = run_scripted(transcription(GARBLED, config), scripted(mostly), tmp_path).result
    assert result["text"] == (MEANT if num_garbage <= 3 else "garbage 0")


@pytest.mark.parametrize(
    "pipeline",
    [
        lambda: arithmetic(TEXT, ArithmeticConfig(redundancy=3, is_tree=True)),
        lambda: sorting("d\nb\na\ne\nc", SortingConfig(num_votes=3)),
        lambda: transcription(GARBLED, TranscriptionConfig(redundancy=3)),
    ],
    ids=["arithmetic", "sorting", "transcription"],
)
def test_a_second_run_asks_nothing_and_says_the_same(tmp_path, pipeline):
    respond = {"add": adds, "compare": compares(lambda item: item), "transcribe": restores}
    first = run_scripted(pipeline(), scripted(respond), tmp_path)
    worker = scripted(lambda ask: "0")
    assert run_scripted(pipeline(), worker, tmp_path).result == first.result
    assert (first.status, worker.asked) == ("done", [])


def test_a_piece_shows_the_words_around_it(tmp_path):
    worker = scripted(restores)
    run_scripted(transcription(GARBLED, TranscriptionConfig(piece_words=5, around_words=2)), worker, tmp_path)
    assert worker.asked[1].subtask.inputs == {
        "text before": "over thc",
        "piece": "river wos closed las spring",
        "text after": "becuse two",
    }
    assert list(worker.asked[1].subtask.inputs) == ["text before", "text after", "piece"]  # as it is shown
    assert "text before" not in worker.asked[0].subtask.inputs
    assert "text after" not in worker.asked[3].subtask.inputs


def test_a_piece_without_usable_answers_stays_as_it_is(tmp_path):
    def respond(ask):
        return "" if "wos" in ask.subtask.inputs["piece"] else restores(ask)

    outcome = run_scripted(transcription(GARBLED, TranscriptionConfig(piece_words=5)), scripted(respond), tmp_path)
    assert outcome.result["num_failed"] == 1
    assert outcome.result["text"] == MEANT.replace("was closed last", "wos closed las")
    silent = run_scripted(transcription(GARBLED, TranscriptionConfig()), scripted(lambda ask: ""), tmp_path, run="b")
    assert silent.status == "failed"


def test_one_prompt_restores_all_at_once(tmp_path):
    worker = scripted(lambda ask: MEANT)
    assert run_scripted(restore_at_once(GARBLED, TranscriptionConfig()), worker, tmp_path).result == {"text": MEANT}
    with pytest.raises(ConfigError, match="piece_words must be >= 1"):
        TranscriptionConfig(piece_words=0)


def test_comparisons_by_chance_still_give_every_item_once(tmp_path):
    draw = functools.partial(random.Random(5).choice, "AB")
    items = [f"word{number}" for number in range(13)]
    for method in ("merge", "insertion"):
        config = SortingConfig(method=method)
        outcome = run_scripted(sorting("\n".join(items), config), scripted(lambda ask: draw()), tmp_path, run=method)
        assert sorted(outcome.result["items"]) == sorted(items)
