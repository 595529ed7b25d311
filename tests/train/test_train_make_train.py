"""The whole training as one pure function: what it learns, and that seeds and cost weights can be batched."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_trees import context_dependent_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.scores import RouteBatch, score_routes
from hierrouter_jax.routing.values import optimal_values
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.make_train import make_train
from hierrouter_jax.train.optimizer import learning_rate_schedule

NET = RouterNetConfig(hidden_sizes=(31,), stage_embed_dim=3)
COST_WEIGHT = 0.1


def every_route(tree):
    """All routes of the tree's MDP with STOP, as rows of actions."""
    for num_hops in range(1, tree.num_stages + 1):
        for path in itertools.product(range(tree.num_models), repeat=num_hops):
            yield (*path, *[tree.stop] * (tree.num_stages - num_hops))


def mean_utility(tree, route):
    actions = jnp.tile(jnp.asarray(route, jnp.int32), (tree.num_queries, 1))
    return float(score_routes(tree, RouteBatch(actions=actions), cost_weight=COST_WEIGHT).utility.mean())


def test_ppo_reaches_95_percent_of_the_optimum_where_the_context_decides():
    """Five seeds that see the context, and one that sees zeros in its place: it can do no better than a fixed route."""
    tree = context_dependent_tree(23, num_queries=61, dim=13)
    optimum = float(optimal_values(tree, cost_weight=COST_WEIGHT)[:, 0].mean())
    best_fixed = max(mean_utility(tree, route) for route in every_route(tree))
    assert best_fixed < 0.5 * optimum

    config = TrainConfig(
        cost_weight=COST_WEIGHT, num_updates=90, num_envs=128, network=NET, ppo=PPOConfig(learning_rate=3e-3)
    )

    def train(key, context):
        return make_train(config, tree.replace(context=context))(key).params

    contexts = jnp.stack([tree.context] * 5 + [jnp.zeros_like(tree.context)])
    params = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(29), 6), contexts)
    shares = []
    for seed in range(6):
        seen = tree.replace(context=contexts[seed])
        routes = greedy_routes(jax.tree.map(lambda leaf: leaf[seed], params), seen)  # noqa: B023
        shares.append(float(score_routes(tree, routes, cost_weight=COST_WEIGHT).utility.mean()) / optimum)
    assert min(shares[:5]) >= 0.95, shares
    assert shares[5] <= best_fixed / optimum + 1e-5, shares


def test_seeds_and_cost_weights_batch_without_changing_a_run():
    tree = context_dependent_tree(31, num_queries=11, dim=5)
    config = TrainConfig(
        cost_weight=COST_WEIGHT, num_updates=3, num_envs=14, network=NET, ppo=PPOConfig(num_minibatches=2)
    )
    train = make_train(config, tree)
    keys = jax.random.split(jax.random.key(37), 3)
    cost_weights = jnp.asarray([0.0, COST_WEIGHT, 0.7])
    batch = jax.jit(jax.vmap(train))(keys, cost_weights)
    assert batch.metrics.utility.shape == (3, 3)
    single = jax.jit(train)
    for run in range(3):
        alone = single(keys[run], cost_weights[run])
        share = jax.tree.map(lambda leaf: leaf[run], batch)  # noqa: B023
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), share.params, alone.params)
    by_hand = np.asarray(batch.metrics.quality - cost_weights[:, None] * batch.metrics.cost)
    np.testing.assert_allclose(batch.metrics.utility, by_hand, atol=1e-5)
    assert np.ptp(by_hand[:, 0]) > 0.01
    default = single(keys[1])  # the config's cost weight is that of run 1
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6),
        default.params,
        jax.tree.map(lambda leaf: leaf[1], batch.params),
    )


def test_training_goes_on_from_the_weights_it_is_given():
    tree = context_dependent_tree(31, num_queries=11, dim=5)
    config = TrainConfig(num_updates=3, num_envs=14, network=NET, ppo=PPOConfig(num_minibatches=2))
    train = jax.jit(make_train(config, tree))
    begun = train(jax.random.key(1)).params
    idle = TrainConfig(num_updates=3, num_envs=14, network=NET, ppo=PPOConfig(num_minibatches=2, learning_rate=1e-12))
    kept = jax.jit(make_train(idle, tree))(jax.random.key(2), params=begun).params
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), kept, begun)
    moved = train(jax.random.key(2), params=begun).params
    fresh = train(jax.random.key(2)).params
    for other in (begun, fresh):
        assert any(
            not np.allclose(ours, theirs, atol=1e-4)
            for ours, theirs in zip(jax.tree.leaves(moved), jax.tree.leaves(other), strict=True)
        )


def test_a_cost_weight_handed_in_must_be_a_price():
    tree = context_dependent_tree(31, num_queries=11, dim=5)
    with pytest.raises(ConfigError, match="cost_weight"):
        make_train(TrainConfig(network=NET), tree)(jax.random.key(0), -1.0)


def test_learning_rates_fall_to_zero_or_stay():
    config = TrainConfig(num_updates=5, num_envs=6, ppo=PPOConfig(num_epochs=3, num_minibatches=2, learning_rate=0.7))
    schedule = learning_rate_schedule(config)
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 15, 30)], [0.7, 0.35, 0.0], rtol=1e-6)
    constant = PPOConfig(schedule="constant", learning_rate=0.7)
    assert float(learning_rate_schedule(TrainConfig(ppo=constant))(30)) == pytest.approx(0.7)
