"""Sweeps scored: numbers are those of the scored routes, and nothing is picked by what the test split says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_routers import random_params
from synthetic_trees import random_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig
from hierrouter_jax.evaluate.sweep_results import SplitScore, SweepRun, pick_points, sweep_results
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_values

BOOTSTRAP = BootstrapConfig(num_resamples=53)


def score(quality, cost, utility):
    interval = (0.0, 1.0)
    return SplitScore(
        quality=quality,
        quality_ci=interval,
        cost=cost,
        cost_ci=interval,
        utility=utility,
        utility_ci=interval,
        hops=1.0,
    )


def run(cost_weight, seed, train, test):
    splits = {"train": score(*train), "test": score(*test)}
    return SweepRun(cost_weight=cost_weight, seed=seed, splits=splits)


def test_seeds_and_front_are_picked_on_the_selection_split():
    runs = [
        run(0.5, 1, train=(0.4, 0.2, 0.30), test=(0.9, 0.1, 0.85)),
        run(0.5, 2, train=(0.5, 0.3, 0.35), test=(0.1, 0.9, -0.35)),  # best on train, worst on test
        run(0.0, 1, train=(0.5, 0.9, 0.50), test=(1.0, 0.0, 1.00)),  # dominated on train, unbeaten on test
        run(0.0, 2, train=(0.4, 0.8, 0.40), test=(0.2, 0.5, 0.20)),
    ]
    free, dear = pick_points(runs, "train")
    assert (free.cost_weight, free.picked_seed, free.is_on_front) == (0.0, 1, False)
    assert (dear.cost_weight, dear.picked_seed, dear.is_on_front) == (0.5, 2, True)
    assert dear.test == runs[1].splits["test"]
    assert dear.test_mean["quality"] == pytest.approx(0.5)
    assert dear.test_spread["quality"] == pytest.approx(np.std([0.9, 0.1], ddof=1))
    alone = pick_points(runs[:1], "train")[0]
    assert alone.test_spread == {"quality": 0.0, "cost": 0.0, "utility": 0.0}


@pytest.mark.parametrize("is_conditioned", [False, True])
def test_every_number_is_that_of_the_scored_routes(is_conditioned):
    splits = {"train": random_tree(1, num_queries=11), "test": random_tree(2, num_queries=13)}
    plain = RouterNetConfig(hidden_sizes=(7,), stage_embed_dim=3)
    weights, seeds = (0.7, 0.0, 0.2), (4, 5)
    grid = [[random_params(plain, seed=10 * k + s, head_gain=3.0) for s in seeds] for k in range(3)]
    params = jax.tree.map(
        lambda *leaves: jnp.stack(leaves).reshape((3, 2, *leaves[0].shape)), *[one for row in grid for one in row]
    )
    conditioned = RouterNetConfig(hidden_sizes=(7,), stage_embed_dim=3, is_conditioned=True)
    both = [random_params(conditioned, seed=seed, head_gain=3.0) for seed in seeds]
    shared = jax.tree.map(lambda *leaves: jnp.stack(leaves), *both) if is_conditioned else None
    results = sweep_results(
        splits, params, weights, seeds, allow_stop=True, conditioned_params=shared, bootstrap=BOOTSTRAP
    )
    assert (results.selection_split, results.cost_weights) == ("train", (0.0, 0.2, 0.7))
    family = results.conditioned if is_conditioned else results.separate
    assert len(family.runs) == 6
    for one in family.runs:
        own = both[seeds.index(one.seed)] if is_conditioned else grid[weights.index(one.cost_weight)][one.seed - 4]
        asked = one.cost_weight if is_conditioned else None
        for name, tree in splits.items():
            expected = score_routes(tree, greedy_routes(own, tree, cost_weight=asked), cost_weight=one.cost_weight)
            found = one.splits[name]
            for field, value in (("quality", expected.quality), ("cost", expected.cost), ("utility", expected.utility)):
                assert getattr(found, field) == pytest.approx(float(value.mean()), abs=1e-6)
                low, high = getattr(found, f"{field}_ci")
                assert low <= getattr(found, field) <= high
            assert found.hops == pytest.approx(float(expected.num_hops.mean()))
    for weight, bound in zip(results.cost_weights, results.oracle, strict=True):
        optimum = float(optimal_values(splits["test"], cost_weight=weight)[:, 0].mean())
        assert bound.utility == pytest.approx(optimum, abs=1e-6)
    for index, name in enumerate(splits["test"].model_names):
        assert results.singles[name].quality == pytest.approx(
            float(splits["test"].quality[:, 1 + index].mean()), abs=1e-6
        )


def test_validation_is_preferred_to_train():
    tree = random_tree(1, num_queries=11)
    params = jax.tree.map(
        lambda leaf: leaf[None, None], random_params(RouterNetConfig(hidden_sizes=(7,), stage_embed_dim=3))
    )
    splits = {"train": tree, "validation": random_tree(3, num_queries=5), "test": random_tree(2, num_queries=7)}
    results = sweep_results(splits, params, (0.1,), (0,), allow_stop=True, bootstrap=BOOTSTRAP)
    assert results.selection_split == "validation"
    assert results.num_queries == {"train": 11, "validation": 5, "test": 7}
