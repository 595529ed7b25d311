"""Sweeps: every run of the grid is the training it would be alone; conditioned routers; what is refused."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_trees import context_dependent_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_values
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.make_train import make_train
from hierrouter_jax.train.ppo import SHARE_OF_FREE, draw_cost_weights
from hierrouter_jax.train.sweep import (
    DEFAULT_COST_WEIGHTS,
    check_sweep,
    conditioned_config,
    make_sweep,
    run_sweep,
    sweep_config,
)

NET = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=3)
CONFIG = TrainConfig(num_updates=3, num_envs=14, seed=5, network=NET, ppo=PPOConfig(num_minibatches=2))
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("chunk_size", [2, 4, 64])
def test_every_run_of_a_grid_is_the_run_alone(chunk_size):
    """Five weights x one or two seeds: chunks that do not divide the grid, and one larger than it."""
    tree = context_dependent_tree(31, num_queries=11, dim=5)
    weights, advanced = (0.0, 0.7, 0.1), []
    whole = jax.jit(make_sweep(CONFIG, tree, weights, 2, chunk_size=chunk_size))()
    assert whole.metrics.utility.shape == (3, 2, 3)
    driven = run_sweep(CONFIG, tree, weights, 2, advance=advanced.append, chunk_size=chunk_size)
    assert sum(advanced) == 6
    jax.tree.map(close, driven, whole)
    train = jax.jit(make_train(CONFIG, tree))
    for index, weight in enumerate(weights):
        for seed in range(2):
            alone = train(jax.random.key(5 + seed), jnp.float32(weight))
            jax.tree.map(close, jax.tree.map(lambda leaf: leaf[index, seed], whole.params), alone.params)  # noqa: B023


def test_a_sweep_returns_to_python_at_its_end_alone():
    tree = context_dependent_tree(31, num_queries=11, dim=5)
    sweep = jax.jit(make_sweep(CONFIG, tree, (0.0, 0.1), 1))
    sweep()
    with jax.transfer_guard("disallow"):
        outputs = jax.block_until_ready(sweep())
    assert np.isfinite(outputs.metrics.utility).all()


def test_routers_of_full_size_are_made_in_batches():
    """On two cores a batch of QR decompositions waited forever; in a process of its own, so that this test ends."""
    program = (
        "import jax; from hierrouter_jax.agent.networks import *;"
        "make = lambda key: init_router(RouterNetConfig(), context_dim=384, num_models=3, num_stages=2, key=key);"
        "jax.block_until_ready(jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(0), 3))); print('made')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "made\n"


def test_drawn_cost_weights_are_free_or_log_uniform_and_belong_to_their_row():
    draw = jax.jit(draw_cost_weights)
    bounds, key = jnp.asarray([0.02, 3.0]), jax.random.key(7)
    drawn = np.asarray(draw(bounds, jnp.arange(20_011), key=key), np.float64)
    np.testing.assert_allclose((drawn == 0).mean(), SHARE_OF_FREE, atol=0.01)
    places = np.log(drawn[drawn > 0] / 0.02) / np.log(3.0 / 0.02)
    np.testing.assert_allclose(np.quantile(places, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.015)
    np.testing.assert_array_equal(draw(bounds, jnp.asarray([19, 4]), key=key), drawn[[19, 4]].astype(np.float32))


def test_one_conditioned_router_serves_cheap_and_dear_queries():
    """At weight 0 every kind can have its answer, at 2 the cheapest model alone pays: one network does both."""
    tree = context_dependent_tree(23, num_queries=61, dim=13)
    config = TrainConfig(
        num_updates=120,
        num_envs=256,
        cost_weight=0.3,
        cost_weight_range=(0.05, 2.0),
        network=RouterNetConfig(hidden_sizes=(31,), stage_embed_dim=5, is_conditioned=True),
        ppo=PPOConfig(learning_rate=3e-3),
    )
    params = jax.jit(make_train(config, tree))(jax.random.key(3)).params
    costs = []
    for cost_weight in (0.0, 0.1, 2.0):
        scores = score_routes(tree, greedy_routes(params, tree, cost_weight=cost_weight), cost_weight=cost_weight)
        optimum = float(optimal_values(tree, cost_weight=cost_weight)[:, 0].mean())
        assert float(scores.utility.mean()) >= optimum - 0.06, cost_weight
        costs.append(float(scores.cost.mean()))
    assert costs[0] >= costs[1] > costs[2] + 0.2
    unasked = greedy_routes(params, tree).actions  # its config's own weight
    np.testing.assert_array_equal(unasked, greedy_routes(params, tree, cost_weight=0.3).actions)


def test_conditioned_routers_are_trained_once_a_seed():
    tree = context_dependent_tree(31, num_queries=11, dim=5)
    config = conditioned_config(CONFIG, (0.5, 0.0, 0.01), num_times_envs=3)
    assert (config.num_envs, config.cost_weight_range, config.network.is_conditioned) == (42, (0.01, 0.5), True)
    output = run_sweep(config, tree, (0.5, 0.0, 0.01), 2)
    assert output.metrics.utility.shape == (2, 3)
    alone = jax.jit(make_train(config, tree))(jax.random.key(6))
    jax.tree.map(close, jax.tree.map(lambda leaf: leaf[1], output.params), alone.params)
    with pytest.raises(ConfigError, match="leave it out"):
        make_train(config, tree)(jax.random.key(0), 0.1)
    with pytest.raises(ConfigError, match="at least two above 0"):
        conditioned_config(CONFIG, (0.0, 0.3))


def test_the_default_grid_is_a_grid():
    assert len(DEFAULT_COST_WEIGHTS) == 16
    check_sweep(sweep_config(), DEFAULT_COST_WEIGHTS, 4)


@pytest.mark.parametrize(
    ("cost_weights", "num_seeds", "changes", "message"),
    [
        ((), 4, {}, "cost_weights must name at least one"),
        ((0.1, -0.1), 4, {}, "finite and >= 0"),
        ((float("nan"),), 4, {}, "finite and >= 0"),
        ((0.1, 0.1), 4, {}, "must differ"),
        ((0.1,), 0, {}, "num_seeds must be >= 1"),
        ((0.1,), 2, {"seed": 2**32 - 1}, "last seed"),
        ((0.1,), 1, {"network": RouterNetConfig(is_conditioned=True)}, "conditioned"),
    ],
)
def test_grids_that_cannot_be_run_are_refused(cost_weights, num_seeds, changes, message):
    config = TrainConfig(**changes)
    with pytest.raises(ConfigError, match=message):
        make_sweep(config, context_dependent_tree(1, num_queries=5), cost_weights, num_seeds)
