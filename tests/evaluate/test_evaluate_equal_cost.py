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
    [(9.0, 0.0), (3.0, 0.0), (2.9, 0.2), (1.0, 0.2), (0.9, 0.5), (0.1, 0.5)],
)
def test_the_best_quality_that_the_budget_pays_the_cheaper_of_equals(budget, chosen):
    assert within_budget(ROUTER, budget) == chosen


def test_weights_decide_what_the_best_is():
    weighted = {weight: outcomes(one.quality, one.cost, [2.5, 0.25, 0.25]) for weight, one in ROUTER.items()}
    assert within_budget(weighted, 2.0) == 0.1


def test_the_choice_is_made_on_validation_and_the_numbers_are_of_the_scored_split():
    tree = random_tree(1, num_queries=23)
    weights = task_weights(tree)
    scored = {w: outcomes_of(tree, single_routes(tree, m), 0.1, weights=weights) for m, w in enumerate((0.0, 0.1, 0.2))}
    validation = {0.0: outcomes([1], [5]), 0.1: outcomes([0.5], [2]), 0.2: outcomes([0.4], [1])}
    system = scored[0.2]
    found = at_equal_cost(
        validation, scored, system_validation=outcomes([0], [2]), system_scored=system, bootstrap=CONFIG
    )
    router = scored[0.1]
    assert found.cost_weight == 0.1
    assert found.quality == pytest.approx(np.average(router.quality, weights=weights))
    assert found.system_cost == pytest.approx(np.average(system.cost, weights=weights))
    gain = np.average(router.quality - system.quality, weights=weights)
    assert found.difference.quality == pytest.approx(gain)
    interval = difference_interval(router.quality, system.quality, CONFIG, weights=weights)
    assert found.difference.quality_ci == pytest.approx(interval)


def test_the_cost_weights_of_both_splits_must_be_the_same():
    one = ROUTER[0.0]
    for validation in ({}, {0.3: one}):
        with pytest.raises(DataError, match="same cost weights"):
            at_equal_cost(validation, {0.0: one}, system_validation=one, system_scored=one)
