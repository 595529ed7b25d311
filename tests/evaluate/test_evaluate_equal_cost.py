"""Quality at equal cost, against picking by hand."""

import numpy as np
import pytest
from synthetic_trees import random_tree

from hierrouter_jax.baselines.fixed import single_routes
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval
from hierrouter_jax.evaluate.equal_cost import at_equal_cost, within_budget
from hierrouter_jax.evaluate.route_outcomes import RouteOutcomes, outcomes_of, task_weights

CONFIG = BootstrapConfig(num_resamples=101)


def outcomes(quality, cost, weights=None):
    quality, cost = np.asarray(quality, float), np.asarray(cost, float)
    return RouteOutcomes(
        actions=np.zeros((1, len(quality), 2), int),
        quality=quality,
        cost=cost,
        utility=quality,
        num_hops=np.ones(len(quality)),
        weights=np.ones(len(quality)) if weights is None else np.asarray(weights),
    )


ROUTER = {
    0.0: outcomes([1, 1, 0], [3, 3, 3]),
    0.1: outcomes([1, 0, 0], [2, 1, 1]),
    0.2: outcomes([0, 1, 0], [1, 1, 1]),
    0.5: outcomes([0, 0, 0], [0, 1, 0]),
}


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (9.0, (0.0, 0.0, 0.0)),
        (3.0, (0.0, 0.0, 0.0)),
        (2.5, (0.2, 0.0, 0.75)),  # costs 1 and 3
        (1.0, (0.2, 0.2, 0.0)),  # 0.1 is of the same quality, and dearer
        (0.5, (0.5, 0.2, 0.25)),  # costs 1/3 and 1
        (0.1, (0.5, 0.5, 0.0)),  # nothing is affordable
    ],
)
def test_the_best_quality_that_the_budget_pays_the_cheaper_of_equals(budget, chosen):
    found = within_budget(ROUTER, budget)
    assert (found.cheap, found.dear, found.dear_share) == pytest.approx(chosen)


def test_no_mixture_in_the_budget_is_better_by_brute_force():
    rng = np.random.default_rng(3)
    family = {float(weight): outcomes(rng.random(7), 3 * rng.random(7)) for weight in range(5)}
    means = {weight: (one.mean(one.quality), one.mean(one.cost)) for weight, one in family.items()}
    lowest = min(cost for _, cost in means.values())
    for budget in lowest + rng.random(11):
        best = max(
            (1 - share) * means[first][0] + share * means[second][0]
            for first in means
            for second in means
            for share in np.linspace(0, 1, 1009)
            if (1 - share) * means[first][1] + share * means[second][1] <= budget + 1e-12
        )
        found = within_budget(family, budget)
        quality, cost = (
            (1 - found.dear_share) * means[found.cheap][place] + found.dear_share * means[found.dear][place]
            for place in (0, 1)
        )
        assert cost <= budget + 1e-9
        assert best - 1e-9 <= quality <= best + 1e-3


def test_weights_decide_what_the_best_is():
    weighted = {weight: outcomes(one.quality, one.cost, [2.5, 0.25, 0.25]) for weight, one in ROUTER.items()}
    found = within_budget(weighted, 1.95)
    assert (found.cheap, found.dear) == (0.1, 0.0)  # all alike it would be 0.2 and 0.0


def test_the_choice_is_made_on_validation_and_the_numbers_are_of_the_scored_split():
    tree = random_tree(1, num_queries=23)
    weights = task_weights(tree)
    scored = {w: outcomes_of(tree, single_routes(tree, m), 0.1, weights=weights) for m, w in enumerate((0.0, 0.1, 0.2))}
    validation = {0.0: outcomes([1], [5]), 0.1: outcomes([0.6], [2]), 0.2: outcomes([0.4], [1])}
    system = scored[0.2]
    found = at_equal_cost(
        validation, scored, system_validation=outcomes([0], [2]), system_scored=system, bootstrap=CONFIG
    )
    router = scored[0.1]
    assert (found.mixture.cheap, found.mixture.dear) == (0.1, 0.1)
    assert found.quality == pytest.approx(np.average(router.quality, weights=weights))
    assert found.system_cost == pytest.approx(np.average(system.cost, weights=weights))
    gain = np.average(router.quality - system.quality, weights=weights)
    assert found.difference.quality == pytest.approx(gain)
    interval = difference_interval(router.quality, system.quality, CONFIG, weights=weights)
    assert found.difference.quality_ci == pytest.approx(interval)


def test_a_mixture_is_scored_by_the_mean_over_its_draw():
    first, second = outcomes([1, 0, 0.5], [1, 1, 1]), outcomes([1, 1, 0], [3, 2, 1])
    validation = {0.5: outcomes([0.2], [1]), 0.1: outcomes([0.6], [3])}
    system = outcomes([0, 1, 1], [1, 2, 2])
    found = at_equal_cost(
        validation,
        {0.5: first, 0.1: second},
        system_validation=outcomes([0], [1.5]),
        system_scored=system,
        bootstrap=CONFIG,
    )
    draws = np.random.default_rng(0).random((20011, 3)) < 0.25
    assert found.mixture.dear_share == pytest.approx(0.25)
    drawn = np.where(draws, second.quality, first.quality)
    assert found.quality == pytest.approx(drawn.mean(), abs=0.01)
    assert found.cost == pytest.approx(np.where(draws, second.cost, first.cost).mean(), abs=0.01)
    gain = drawn.mean(axis=0) - system.quality
    interval = difference_interval(drawn.mean(axis=0), system.quality, CONFIG)
    assert found.difference.quality == pytest.approx(gain.mean(), abs=0.01)
    assert found.difference.quality_ci == pytest.approx(interval, abs=0.02)


def test_the_cost_weights_of_both_splits_must_be_the_same():
    one = ROUTER[0.0]
    for validation in ({}, {0.3: one}):
        with pytest.raises(DataError, match="same cost weights"):
            at_equal_cost(validation, {0.0: one}, system_validation=one, system_scored=one)
