"""Passages that finders agree on, and rewrites for a length: by brute force, and worked out."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from hierrouter_jax.crowd.algorithms.patches import agreed_patches, pick_for_length

# -- agreement --


def joined(spans_by_worker, needed):
    """The definition of `agreed_patches` on sets of characters, by joining what overlaps until nothing does."""
    covered = [{place for start, end in spans for place in range(start, end)} for spans in spans_by_worker]
    core = {place for place in range(60) if sum(place in own for own in covered) >= needed}
    groups = [set(range(start, end)) for spans in spans_by_worker for start, end in spans]
    groups = [group for group in groups if group & core]
    while True:
        pair = next(((a, b) for a, b in itertools.combinations(groups, 2) if a & b), None)
        if pair is None:
            return sorted((min(group), max(group) + 1) for group in groups)
        groups = [group for group in groups if group is not pair[0] and group is not pair[1]] + [pair[0] | pair[1]]


def test_patches_are_unions_of_marks_by_brute_force():
    draw = random.Random(7)
    num_patches = set()
    for _ in range(700):
        num_workers = draw.choice([1, 2, 3, 5, 7, 10, 11, 13])
        spans_by_worker = [
            [(start, start + draw.randint(1, 11)) for start in draw.sample(range(41), draw.randint(0, 3))]
            for _ in range(num_workers - draw.randint(0, 1))
        ]
        needed = max(1, -(-num_workers // 5))
        expected = joined(spans_by_worker, needed)
        assert agreed_patches(spans_by_worker, num_workers, 0.2) == expected
        shuffled = draw.sample(spans_by_worker, len(spans_by_worker))
        assert agreed_patches(shuffled, num_workers, 0.2) == expected
        num_patches.add(len(expected))
    assert {0, 1, 2, 3} <= num_patches


@pytest.mark.parametrize(
    ("spans_by_worker", "num_workers", "expected"),
    [
        ([[(3, 7)], [(5, 11)]], 10, [(3, 11)]),  # two share characters 5 and 6
        ([[(3, 7)], [(7, 11)]], 10, []),  # these touch, and share none
        ([[(3, 7), (5, 11)]], 10, []),  # one worker is one worker
        ([[(3, 7)], [(5, 11)]], 11, []),  # of 11 three are needed
        ([[(3, 7)], [(5, 11)]], 5, [(3, 11)]),
        ([[(3, 7)], [(7, 11)]], 5, [(3, 7), (7, 11)]),  # one is enough, and these do not overlap
        ([[(0, 2)], [(0, 2)], [(1, 5)], [(4, 9)], [(8, 13)], [(8, 11)]], 10, [(0, 13)]),  # 4 to 5 joins both ends
        ([[], []], 2, []),
        ([], 0, []),
    ],
)
def test_agreement_worked_out(spans_by_worker, num_workers, expected):
    assert agreed_patches(spans_by_worker, num_workers, 0.2) == expected


def test_the_needed_share_is_reckoned_in_decimals():
    assert 0.07 * 100 > 7  # in binary
    seven = [[(2, 5)]] * 7
    assert agreed_patches(seven, 100, 0.07) == [(2, 5)]
    assert agreed_patches(seven, 101, 0.07) == []


# -- the choice for a length --


def test_rewrites_for_a_length_by_brute_force():
    draw = random.Random(11)
    num_unreachable = 0
    for _ in range(500):
        rewrites = [
            [
                (draw.randint(1, 13), Fraction(draw.randint(0, 2), draw.choice([3, 5])))
                for _ in range(draw.randint(0, 3))
            ]
            for _ in range(draw.randint(0, 5))
        ]
        num_chars, target = 100, draw.randint(60, 103)
        ranked = []
        for places in itertools.product(*[[None, *range(len(own))] for own in rewrites]):
            taken = [own[place] for own, place in zip(rewrites, places, strict=True) if place is not None]
            length = num_chars - sum(saved for saved, _ in taken)
            order = tuple(-1 if place is None else place for place in places)
            ranked.append((sum(lost for _, lost in taken), len(taken), -length, order, list(places)))
        shortest = min(-minus for _, _, minus, _, _ in ranked)
        num_unreachable += shortest > target
        fitting = [one for one in ranked if -one[2] <= max(target, shortest)]
        assert pick_for_length(num_chars, target, rewrites) == min(fitting)[-1]
    assert 50 < num_unreachable < 450


def test_the_choice_for_a_length_worked_out():
    none, some = Fraction(0), Fraction(1, 5)
    assert pick_for_length(40, 40, [[(9, none)]]) == [None]
    assert pick_for_length(40, 37, [[(9, some)], [(2, none)], [(2, none)]]) == [None, 0, 0]  # loses nothing
    assert pick_for_length(40, 37, [[(9, none)], [(2, none)], [(2, none)]]) == [0, None, None]  # changes less
    assert pick_for_length(40, 37, [[(9, none), (4, none), (4, none)]]) == [1]  # longest, then first
    assert pick_for_length(40, 3, [[(9, some), (2, none)], []]) == [0, None]  # too long, but shortest
    assert pick_for_length(40, 3, []) == []


def test_a_hundred_patches_are_chosen_among():
    draw = random.Random(3)
    rewrites = [[(draw.randint(1, 30), Fraction(draw.randint(0, 2), 5)) for _ in range(3)] for _ in range(101)]
    picked = pick_for_length(5003, 4001, rewrites)
    saved = [own[place][0] for own, place in zip(rewrites, picked, strict=True) if place is not None]
    assert sum(saved) >= 1002
    assert sum(saved) - min(saved) < 1002  # no change could be spared
