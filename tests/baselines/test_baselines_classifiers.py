"""The one-shot classifier and the scorer on trees whose answers are planted."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.baselines.classifiers import correctness_scores, one_shot_routes
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.signals import num_signals


@pytest.mark.parametrize("with_validation", [True, False])
def test_the_model_that_a_query_wants_is_asked(with_validation):
    """Kinds 0 to 2 want one model alone; kinds 3 to 5 want two, and any single one serves them alike."""
    train, validation, test = (
        context_dependent_tree(seed, num_queries=size) for seed, size in ((1, 127), (2, 61), (3, 64))
    )
    routes = one_shot_routes(train, test, cost_weight=0.1, validation=validation if with_validation else None)
    kind = np.asarray(test.task)
    found = np.asarray(routes.actions)
    assert (found[:, 1] == 3).all()
    assert np.mean(found[kind < 3, 0] == kind[kind < 3]) > 0.95
    assert np.mean(found[kind >= 3, 0] == 0) > 0.95  # the cheapest of equals


def test_one_class_is_no_error_and_an_illegal_model_is_not_asked():
    train, test = random_tree(2, num_queries=11), random_tree(3, num_queries=7)
    better = train.replace(quality=jnp.zeros_like(train.quality).at[:, 2].set(1.0))
    assert one_shot_routes(better, test, cost_weight=0.0).actions.tolist() == [[1, 3]] * 7
    valid = np.array(test.valid)
    valid[4, 2] = valid[4, 7:10] = False
    partial = test.replace(valid=jnp.asarray(valid))
    routes = one_shot_routes(better, partial, cost_weight=0.0)
    assert routes.actions[4, 0] != 1
    score_routes(partial, routes, cost_weight=0.0)


def test_scores_tell_right_answers_from_wrong_ones():
    def tree(seed):
        made = random_tree(seed, num_queries=211, num_signals=num_signals(3, 2))
        right = np.random.default_rng(seed).random((211, 13)) < 0.4
        signals = np.array(made.signals)
        signals[:, :, 0] = np.where(right, 0.7, 0.5) + 0.2 * signals[:, :, 0]
        return made.replace(quality=jnp.asarray(right, jnp.float32).at[:, 0].set(0), signals=jnp.asarray(signals))

    train, test = tree(1), tree(2)
    scores = correctness_scores(train, test, inverse_penalty=0.01)
    right = np.asarray(test.quality)[:, 1:4] > 0
    assert scores.shape == (211, 4)
    assert not scores[:, 0].any()
    order = scores[:, 1:][right][:, None] > scores[:, 1:][~right][None, :]
    assert order.mean() > 0.9  # the area under the ROC curve
    assert abs(scores[:, 1:].mean() - 0.4) < 0.05


@pytest.mark.parametrize("quality", [0.0, 1.0])
def test_where_all_answers_are_alike_so_are_the_scores(quality):
    train, test = random_tree(2, num_signals=num_signals(3, 2)), random_tree(3, num_signals=num_signals(3, 2))
    alike = train.replace(quality=jnp.full_like(train.quality, quality).at[:, 0].set(0))
    scores = correctness_scores(alike, test, inverse_penalty=0.01)
    np.testing.assert_array_equal(scores[:, 1:], np.full((7, 3), quality))


def test_trees_of_other_pools_are_refused():
    with pytest.raises(DataError, match="share models"):
        one_shot_routes(random_tree(2, num_models=2), random_tree(3), cost_weight=0.1)
