"""Eight devices, by pmap and by shard_map, and one device, make the same training and the same evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_trees import context_dependent_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.loop import make_update_block
from hierrouter_jax.train.make_train import init_train_state, input_sizes, make_environment
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.parallel import (
    AXIS_NAME,
    parallelise,
    parallelise_routes,
    place_shards,
    replicate,
    shard_rows,
    unreplicate,
)
from hierrouter_jax.train.ppo import make_update

NUM_UPDATES = 50
TREE = context_dependent_tree(53, num_queries=47, dim=11)
CONFIG = TrainConfig(
    num_updates=NUM_UPDATES,
    num_envs=48,
    ppo=PPOConfig(num_minibatches=3),
    network=RouterNetConfig(hidden_sizes=(19, 17), stage_embed_dim=3),
)


def initial_state():
    return init_train_state(CONFIG, key=jax.random.key(59), **input_sizes(TREE))


@pytest.fixture(scope="module")
def alone():
    """The run that knows of no devices."""
    update = make_update(make_optimizer(CONFIG), CONFIG.ppo, allow_stop=True)
    block = jax.jit(make_update_block(update, NUM_UPDATES))
    return block(initial_state(), jnp.arange(48), make_environment(CONFIG, TREE), jnp.int32(NUM_UPDATES))


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_eight_devices_agree_with_one_after_fifty_updates(alone, backend):
    devices = jax.devices()
    assert len(devices) == 8
    update = make_update(make_optimizer(CONFIG), CONFIG.ppo, allow_stop=True, axis_name=AXIS_NAME)
    block = parallelise(make_update_block(update, NUM_UPDATES), devices, backend=backend)
    shared = replicate((make_environment(CONFIG, TREE), jnp.int32(NUM_UPDATES)), devices, backend=backend)
    rows = shard_rows(jnp.arange(48), devices, backend=backend)
    spread, columns = block(replicate(initial_state(), devices, backend=backend), rows, *shared)
    state, metrics = unreplicate((spread, columns), backend=backend)

    def largest_difference(first, second):
        differences = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), first, second)
        return max(jax.tree.leaves(differences))

    assert largest_difference(state.params, alone[0].params) < 1e-5
    assert largest_difference(state.params, initial_state().params) > 0.1  # there was something to agree on
    np.testing.assert_allclose(metrics.utility, alone[1].utility, atol=1e-5)
    np.testing.assert_allclose(metrics.value_loss, alone[1].value_loss, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(state.num_hops, alone[0].num_hops)
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(alone[0].key))

    route_all = parallelise_routes(greedy_routes, devices, backend=backend)
    routes = route_all(spread.params, place_shards(TREE, devices, backend=backend))
    np.testing.assert_array_equal(routes.actions, greedy_routes(alone[0].params, TREE).actions)
