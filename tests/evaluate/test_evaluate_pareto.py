"""The Pareto front against its definition, written as two loops."""

from hypothesis import given
from hypothesis import strategies as st

from hierrouter_jax.evaluate.pareto import pareto_mask

POINTS = st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), min_size=1, max_size=13)


@given(POINTS)
def test_mask_equals_the_definition(points):
    expected = []
    for quality, cost in points:
        dominated = False
        for other_quality, other_cost in points:
            as_good = other_quality >= quality and other_cost <= cost
            dominated |= as_good and (other_quality > quality or other_cost < cost)
        expected.append(not dominated)
    mask = pareto_mask([quality for quality, _ in points], [cost for _, cost in points])
    assert mask.tolist() == expected


def test_equal_systems_both_stay():
    assert pareto_mask([0.5, 0.5, 0.4], [1.0, 1.0, 1.0]).tolist() == [True, True, False]
