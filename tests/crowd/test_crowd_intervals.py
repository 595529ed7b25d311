"""Intervals of differences: what two sides that never differ say of a difference, and what mixed ones do."""

from __future__ import annotations

import pytest

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.comparison.intervals import difference_estimate, mean_estimate


def wilson_high_of_none(count):
    """The upper end of Wilson's interval where nothing of `count` succeeded: z^2 / (count + z^2)."""
    z = 1.959963984540054
    return z**2 / (count + z**2)


@pytest.mark.parametrize("count", [1, 7, 31])
@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_sides_that_are_equal_everywhere_may_differ_either_way(count, value):
    found = difference_estimate([value] * count, [value] * count)
    bound = wilson_high_of_none(count)
    assert (found.mean, found.count) == (0.0, count)
    assert [found.low, found.high] == pytest.approx([-bound, bound])


def test_a_side_that_wins_everywhere():
    ahead, behind = difference_estimate([1.0] * 7, [0.0] * 7), difference_estimate([0.0] * 7, [1.0] * 7)
    assert [ahead.mean, ahead.low, ahead.high] == pytest.approx([1.0, 1 - wilson_high_of_none(7), 1.0])
    assert [behind.mean, behind.low, behind.high] == pytest.approx([-1.0, -1.0, -1 + wilson_high_of_none(7)])


def test_mixed_differences_are_those_of_the_bootstrap_and_turn_round_with_the_sides():
    first, second = [0.5, 1.0, 0.25, 0.75, 0.0], [0.25, 1.0, 0.5, 0.0, 0.0]
    found, turned = difference_estimate(first, second), difference_estimate(second, first)
    assert found == mean_estimate([a - b for a, b in zip(first, second, strict=True)])
    assert [turned.mean, turned.low, turned.high] == pytest.approx([-found.mean, -found.high, -found.low], abs=0.02)
    assert found.low < found.mean < found.high


def test_a_difference_of_nothing_is_refused():
    with pytest.raises(DataError, match="at least one input"):
        difference_estimate([], [])
