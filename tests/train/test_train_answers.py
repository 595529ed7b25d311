"""The table of states against decision by decision: the same answers, gradients, draws and trained weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_routers import random_params
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.routing.decision_states import (
    count_decision_states,
    decision_state_index,
    observe_decision_states,
)
from hierrouter_jax.routing.mdp import observe
from hierrouter_jax.train import answers, ppo
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.make_train import init_train_state, input_sizes, make_environment, make_train
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.ppo import collect_episodes, make_update

NET = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=3)


def tabled(monkeypatch, is_tabled):
    for room in (answers, ppo):
        monkeypatch.setattr(room, "is_table_smaller", lambda tree, num_decisions: is_tabled)


@pytest.mark.parametrize(("num_models", "num_stages"), [(2, 3), (3, 2), (5, 1)])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_the_table_holds_what_a_rollout_observes(num_models, num_stages, seed):
    tree = random_tree(seed, num_queries=11, num_models=num_models, num_stages=num_stages, share_missing=0.3)
    params = random_params(NET, num_models=num_models, num_stages=num_stages, head_gain=3.0)
    config = TrainConfig(num_envs=52, network=NET)
    trajectory = jax.jit(partial(collect_episodes, allow_stop=True))(
        params, jnp.arange(29), make_environment(config, tree), key=jax.random.key(seed)
    )
    state = trajectory.state
    seen = jax.vmap(jax.vmap(partial(observe, tree)))(state)
    rows = decision_state_index(tree, state.query_index, state.node)
    assert int(rows.max()) < count_decision_states(tree) == 11 * sum(num_models**k for k in range(num_stages))
    table = jax.tree.map(lambda leaf: leaf[rows], observe_decision_states(tree))
    real = np.asarray(trajectory.mask) > 0
    for name in ("context", "stage", "cum_cost", "legal"):  # bit by bit: costs are added up in the same order
        np.testing.assert_array_equal(np.asarray(getattr(table, name))[real], np.asarray(getattr(seen, name))[real])


@pytest.mark.parametrize("network", [NET, RouterNetConfig(hidden_sizes=(7, 5), is_torso_shared=True, norm="rms")])
def test_updates_by_the_table_are_updates_decision_by_decision(monkeypatch, network):
    tree = random_tree(3, num_queries=5, num_models=3, num_stages=3, dim=7, share_missing=0.2)
    config = TrainConfig(num_envs=58, num_updates=5, network=network, ppo=PPOConfig(num_minibatches=2))
    outputs = []
    for is_tabled in (True, False):
        tabled(monkeypatch, is_tabled)
        outputs.append(jax.jit(make_train(config, tree))(jax.random.key(7)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), outputs[0].params, outputs[1].params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5), outputs[0].metrics, outputs[1].metrics)
    np.testing.assert_array_equal(outputs[0].metrics.num_hops, outputs[1].metrics.num_hops)  # the same draws


def flops(tree, config):
    update = make_update(make_optimizer(config), config.ppo, allow_stop=True)
    state = init_train_state(config, key=jax.random.key(0), **input_sizes(tree))
    arguments = (state, jnp.arange(config.num_envs), make_environment(config, tree))
    return jax.jit(update).lower(*arguments).compile().cost_analysis()["flops"]


def test_the_work_of_a_large_batch_is_bounded_by_the_tree():
    """Loops count once, so this is the work of one rollout and one optimizer step."""
    tree = context_dependent_tree(2, num_queries=13, dim=97)
    work = [flops(tree, TrainConfig(num_envs=n, network=RouterNetConfig(hidden_sizes=(31,)))) for n in (256, 1024)]
    assert work[1] < 2.5 * work[0]
    few, many = (
        flops(context_dependent_tree(2, num_queries=n, dim=97), TrainConfig(num_envs=1024, network=NET))
        for n in (13, 2003)
    )
    assert few < 0.6 * many
