"""Aggregation: plurality by counting, planted bad workers, Bradley-Terry by maximum likelihood, ties, bad input."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from scipy.stats import kendalltau

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.aggregation import (
    LABEL_METHODS,
    RANK_METHODS,
    Choice,
    Label,
    _Fit,
    aggregate_labels,
    rank_pairwise,
)

OPTIONS = ("red", "green", "blue")
# Two workers are right nine times in ten; three are mediocre; one plants one wrong answer against the truth.
SKILLS = {"ada": 0.92, "bob": 0.9, "cem": 0.45, "dee": 0.45, "eli": 0.45}


def contributions(seed, num_items=61):
    draw = random.Random(seed)
    truth = {f"item {number}": draw.choice(OPTIONS) for number in range(num_items)}
    labels = []
    for item, right in truth.items():
        wrong = [option for option in OPTIONS if option != right]
        for name, skill in SKILLS.items():
            value = right if draw.random() < skill else draw.choice(wrong)
            labels.append(Label(item=item, contributor=name, value=value))
        planted = OPTIONS[(OPTIONS.index(right) + 1) % 3] if draw.random() < 0.9 else right
        labels.append(Label(item=item, contributor="bad", value=planted))
    return truth, labels


def accuracy(found, truth):
    return np.mean([found.answers[item] == right for item, right in truth.items()])


def test_plurality_is_that_of_counting_and_the_first_of_equals_wins():
    draw = random.Random(7)
    labels = [
        Label(item=f"i{item}", contributor=f"c{one}", value=draw.choice("xyz"))
        for item in range(31)
        for one in range(5)
    ]
    found = aggregate_labels(labels).answers
    for item in range(31):
        own = [one.value for one in labels if one.item == f"i{item}"]
        best = [value for value in dict.fromkeys(own) if own.count(value) == max(own.count(other) for other in own)]
        assert found[f"i{item}"] == best[0]


@pytest.mark.parametrize(("method", "num_seeds"), [("dawid_skene", 5), ("glad", 2)])
def test_models_of_skill_beat_plurality_where_a_worker_is_planted(method, num_seeds):
    gains, lowest = [], []
    for seed in range(num_seeds):
        truth, labels = contributions(seed, num_items=23)
        found = aggregate_labels(labels, method)
        gains.append(accuracy(found, truth) - accuracy(aggregate_labels(labels), truth))
        lowest.append(min(found.skills, key=found.skills.__getitem__))
    assert np.mean(gains) > 0.1
    assert min(gains) > 0
    assert lowest == ["bad"] * num_seeds


def test_mace_finds_who_is_right():
    truth, labels = contributions(3)
    found = aggregate_labels(labels, "mace", seed=5)
    assert accuracy(found, truth) >= accuracy(aggregate_labels(labels), truth)
    assert min(found.skills, key=found.skills.__getitem__) == "bad"
    assert aggregate_labels(labels, "mace", seed=5) == found


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_the_order_of_labels_does_not_matter(method):
    _, labels = contributions(1, num_items=13)
    found = aggregate_labels(labels, method)
    mixed = random.Random(2).sample(labels, len(labels))
    again = aggregate_labels(mixed, method)
    assert again.skills == pytest.approx(found.skills, abs=1e-9)
    if method != "plurality":  # which of equals is first depends on the order
        assert again.answers == found.answers
        assert set(found.skills) == {*SKILLS, "bad"}


@pytest.mark.parametrize("seed", [1, 5])
def test_mace_says_the_same_of_contributors_and_answers_under_other_names(seed):
    """The new names sort the other way round."""
    truth, labels = contributions(seed, num_items=41)
    names = {name: str(9 - place) for place, name in enumerate([*SKILLS, "bad"])}
    values = {"red": "zed", "green": "mid", "blue": "any"}
    renamed = [Label(item=one.item, contributor=names[one.contributor], value=values[one.value]) for one in labels]
    found, again = aggregate_labels(labels, "mace"), aggregate_labels(renamed, "mace")
    assert again.answers == {item: values[answer] for item, answer in found.answers.items()}
    assert again.skills == pytest.approx({names[name]: skill for name, skill in found.skills.items()}, abs=1e-3)
    assert set(again.answers) == set(truth)


def test_mace_knows_the_one_who_always_says_the_same():
    draw = random.Random(3)
    labels = []
    for number in range(53):
        right = draw.choice("xyz")
        for name in ("zoe", "yan", "amy") if number else ("zoe",):  # not all label the first item
            value = right if draw.random() < 0.8 else draw.choice("xyz")
            labels.append(Label(item=str(number), contributor=name, value=value))
        labels.append(Label(item=str(number), contributor="spam", value="z"))
    draw.shuffle(labels)
    skills = aggregate_labels(labels, "mace").skills
    assert skills["spam"] < 0.5 < 0.75 < min(skills[name] for name in ("zoe", "yan", "amy"))


def test_skills_of_dawid_skene_are_near_the_planted_ones():
    truth, labels = contributions(11, num_items=401)
    skills = aggregate_labels(labels, "dawid_skene").skills
    for name, skill in SKILLS.items():
        own = np.mean([one.value == truth[one.item] for one in labels if one.contributor == name])
        assert skills[name] == pytest.approx(own, abs=0.05)
        assert skills[name] == pytest.approx(skill, abs=0.1)
    assert skills["bad"] < 0.2


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_a_lone_label_is_the_answer(method):
    assert aggregate_labels([Label(item="i", contributor="a", value="x")], method).answers == {"i": "x"}


@pytest.mark.parametrize("method", ["plurality", "dawid_skene", "glad"])
def test_of_equals_the_one_given_first_wins(method):
    tie = [Label(item="i", contributor=name, value=value) for name, value in (("a", "z"), ("b", "x"))]
    assert aggregate_labels(tie, method).answers == {"i": "z"}
    assert aggregate_labels(tie[::-1], method).answers == {"i": "x"}


def test_an_answer_that_nobody_gave_an_item_is_not_its_answer():
    labels = [Label(item=f"i{place}", contributor=name, value="x") for place in range(7) for name in "ab"]
    labels.append(Label(item="rare", contributor="a", value="y"))
    for method in LABEL_METHODS:
        assert aggregate_labels(labels, method).answers["rare"] == "y"


def test_crowd_kit_is_imported_when_it_is_used_and_missed_in_words(monkeypatch):
    code = "import sys, hierrouter_jax.crowd.aggregation; print({'crowdkit', 'pandas', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    labels = [Label(item="i", contributor=name, value=name) for name in "ab"]
    monkeypatch.setitem(sys.modules, "crowdkit.aggregation", None)
    assert aggregate_labels(labels).answers == {"i": "a"}
    with pytest.raises(ConfigError, match="package crowd-kit, which cannot be imported here"):
        aggregate_labels(labels, "glad")


def test_labels_that_cannot_be_aggregated():
    with pytest.raises(DataError, match="at least one label"):
        aggregate_labels([])
    one = Label(item="i", contributor="a", value="x")
    with pytest.raises(DataError, match="a labelled i more often"):
        aggregate_labels([one, one])


def pairwise(draw, strengths, pairs, chooser="a"):
    choices = []
    for left, right in pairs:
        is_left = draw.random() < 1 / (1 + math.exp(strengths[right] - strengths[left]))
        choices.append(Choice(left=left, right=right, winner=left if is_left else right, contributor=chooser))
    return choices


@pytest.mark.parametrize("seed", range(7))
def test_bradley_terry_ranks_as_maximum_likelihood_does(seed):
    """Items meet unequally often, so that the number of wins alone says little."""
    draw = random.Random(seed)
    names = list("abcdefg")
    strengths = {name: 0.8 * place for place, name in enumerate(names)}
    pairs = [draw.sample(names, 2) for _ in range(97)]
    near = [pair for pair in pairs if abs(names.index(pair[0]) - names.index(pair[1])) <= 2 or draw.random() < 0.2]
    choices = pairwise(draw, strengths, near)

    def loss(point):
        value = dict(zip(names, point, strict=True))
        return -sum(
            value[one.winner] - math.log(math.exp(value[one.left]) + math.exp(value[one.right])) for one in choices
        ) + float(np.sum(point**2) / (2 * 10.0**2))

    best = minimize(loss, np.zeros(7)).x
    assert rank_pairwise(choices) == [names[place] for place in np.argsort(-best)]


def test_gradients_are_those_of_differences():
    draw = np.random.default_rng(5)
    left = draw.integers(0, 5, 31)
    fit = _Fit(
        left=left,
        right=(left + draw.integers(1, 5, 31)) % 5,
        sign=draw.choice([-1.0, 1.0], 31),
        chooser=draw.integers(0, 3, 31),
        num_items=5,
        num_choosers=3,
    )
    for loss, size in ((fit.loss, 5), (fit.noisy_loss, 5 + 2 * 3)):
        point = draw.normal(size=size)
        assert loss(point)[1] == pytest.approx(approx_fprime(point, lambda x, of=loss: of(x)[0], 1e-6), abs=1e-4)


def test_where_choosers_guess_the_noisy_model_is_nearer_the_truth():
    """Two look at the items; three take the left one, whatever it is, four times in five."""
    names = list("abcdefg")
    strengths = {name: 1.2 * place for place, name in enumerate(names)}
    gains = []
    for seed in range(7):
        draw = random.Random(seed)
        choices = []
        for chooser in ("ann", "bo", "cy", "di", "ed"):
            pairs = [draw.sample(pair, 2) for pair in itertools.combinations(names, 2)]
            if chooser in ("ann", "bo"):
                choices += pairwise(draw, strengths, pairs, chooser)
            else:
                winners = [left if draw.random() < 0.8 else right for left, right in pairs]
                choices += [
                    Choice(left=left, right=right, winner=winner, contributor=chooser)
                    for (left, right), winner in zip(pairs, winners, strict=True)
                ]
        draw.shuffle(choices)
        plain, noisy = (
            kendalltau([names.index(item) for item in rank_pairwise(choices, method)], range(7, 0, -1)).statistic
            for method in RANK_METHODS
        )
        gains.append(noisy - plain)
    assert np.mean(gains) > 0.1
    assert sum(gain >= 0 for gain in gains) >= 6


@pytest.mark.parametrize("method", RANK_METHODS)
def test_items_that_never_lose_or_win_have_a_place_too(method):
    chain = [
        Choice(left=left, right=right, winner=right, contributor="x") for left, right in itertools.pairwise("abcde")
    ]
    assert rank_pairwise(chain, method) == list("edcba")


@pytest.mark.parametrize("method", RANK_METHODS)
def test_of_equal_strengths_the_item_named_first_is_first(method):
    round_trip = [Choice(left="b", right="a", winner=winner, contributor="x") for winner in "ab"]
    round_trip += [Choice(left="a", right="b", winner=winner, contributor="x") for winner in "ab"]
    assert rank_pairwise(round_trip, method) == ["b", "a"]
    assert rank_pairwise(round_trip[2:] + round_trip[:2], method) == ["a", "b"]


@pytest.mark.parametrize("seed", range(6))
def test_items_of_the_same_record_are_tied_whatever_rounding_makes_of_them(seed):
    draw = random.Random(seed)
    record = [(draw.choice("abc"), draw.random() < 0.6) for _ in range(13)]
    met = [(item, other, item if is_won else other) for item in "pq" for other, is_won in record]
    met += [(left, right, draw.choice((left, right))) for left, right in ("ab", "bc") for _ in range(5)]
    draw.shuffle(met)
    choices = [Choice(left=left, right=right, winner=winner, contributor="x") for left, right, winner in met]
    named = [item for left, right, _ in met for item in (left, right) if item in "pq"]
    for method in RANK_METHODS:
        assert next(item for item in rank_pairwise(choices, method) if item in "pq") == named[0]


@pytest.mark.parametrize("method", RANK_METHODS)
def test_choices_that_cannot_be_ranked(method):
    with pytest.raises(DataError, match="at least one choice"):
        rank_pairwise([], method)
    with pytest.raises(DataError, match="name one of them as winner"):
        rank_pairwise([Choice(left="a", right="b", winner="c", contributor="x")], method)
