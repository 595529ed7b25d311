"""Trees cut into blocks: every number in its place, every query drawn as often, and an update on blocks that is the
update of the whole batch with each row's query taken from its device's block."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripted_trees import save_scripted_tree
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.cli.main import main
from hierrouter_jax.routing.route_tree import QUERY_FIELDS
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.loop import make_update_block, train_run
from hierrouter_jax.train.make_train import init_train_state, input_sizes, make_environment
from hierrouter_jax.train.metrics_log import read_metrics
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.parallel import (
    AXIS_NAME,
    REPLICATED,
    SHARDED,
    parallelise,
    place_shards,
    replicate,
    shard_rows,
    unreplicate,
)
from hierrouter_jax.train.ppo import collect_episodes, make_update
from hierrouter_jax.train.state import Environment
from hierrouter_jax.train.tree_shards import plan_shards

BACKENDS = ["pmap", "shard_map"]
CONFIG = TrainConfig(
    num_updates=11,
    num_envs=48,
    validation_interval=4,
    checkpoint_interval=5,
    ppo=PPOConfig(num_minibatches=3),
    network=RouterNetConfig(hidden_sizes=(19,), stage_embed_dim=3),
)
SPECS = (Environment(tree=SHARDED, cost_weight=REPLICATED),)


def block_trees(shards):
    """The blocks as route trees of their own."""
    names = (*QUERY_FIELDS, "context")
    return [
        dataclasses.replace(shards.tree, **{name: jnp.asarray(shards.block(name, shard)) for name in names})
        for shard in range(shards.num_shards)
    ]


@pytest.mark.parametrize(("num_queries", "num_shards"), [(8, 1), (8, 8), (13, 5), (3, 8), (47, 8), (24, 3)])
def test_blocks_hold_the_tree(num_queries, num_shards):
    tree = random_tree(3, num_queries=num_queries, share_missing=0.2, dim=5)
    shards = plan_shards(tree, num_shards)
    blocks = block_trees(shards)
    size = -(-num_queries // num_shards)
    counts = np.bincount(shards.queries.reshape(-1), minlength=num_queries)
    assert counts.min() >= 1
    assert counts.max() <= counts.min() + 1  # filled up evenly
    assert counts.sum() == size * num_shards
    for query, place in enumerate(shards.place_of_query()):
        block, here = blocks[place // size], place % size
        for name in ("step_cost", "quality", "valid", "task"):
            np.testing.assert_array_equal(getattr(block, name)[here], getattr(tree, name)[query])
        np.testing.assert_array_equal(block.context[block.context_row[here]], tree.context[tree.context_row[query]])
    for block in blocks:
        assert block.quality.shape == (size, tree.num_nodes)
        assert block.context.shape == blocks[0].context.shape
    largest = max(len(np.unique(np.asarray(tree.context_row)[own])) for own in shards.queries)
    assert blocks[0].context.shape[0] == largest  # no device holds a row that none of its queries has


@pytest.mark.parametrize("backend", BACKENDS)
def test_devices_hold_their_blocks_and_nothing_else(backend):
    tree, devices = random_tree(3, num_queries=13, dim=5), jax.devices()
    placed = place_shards(tree, devices, backend=backend).tree
    blocks = block_trees(plan_shards(tree, len(devices)))
    for name in (*QUERY_FIELDS, "context"):
        array = getattr(placed, name)
        for shard in array.addressable_shards:
            data = shard.data[0] if backend == "pmap" else shard.data
            expected = getattr(blocks[devices.index(shard.device)], name)
            np.testing.assert_array_equal(data, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_queries", [47, 48])
def test_training_on_blocks_is_the_update_with_each_devices_queries_from_its_block(backend, num_queries):
    """The oracle knows no devices: a vmap over stacked blocks, with sums over the vmapped axis."""
    tree, devices = context_dependent_tree(53, num_queries=num_queries, dim=11), jax.devices()
    update = make_update(make_optimizer(CONFIG), CONFIG.ppo, allow_stop=True, axis_name=AXIS_NAME)
    block = make_update_block(update, 7)
    start = init_train_state(CONFIG, key=jax.random.key(59), **input_sizes(tree))
    rows = jnp.arange(CONFIG.num_envs)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *block_trees(plan_shards(tree, 8)))
    environment = make_environment(CONFIG, tree)
    in_axes = (None, 0, Environment(tree=0, cost_weight=None), None)
    oracle = jax.jit(jax.vmap(block, in_axes=in_axes, axis_name=AXIS_NAME))
    expected, columns = oracle(start, rows.reshape(8, -1), environment.replace(tree=stacked), jnp.int32(7))

    placed = Environment(
        tree=place_shards(tree, devices, backend=backend).tree,
        cost_weight=replicate(environment.cost_weight, devices, backend=backend),
    )
    program = parallelise(block, devices, backend=backend, shared_specs=SPECS)
    state, metrics = program(
        replicate(start, devices, backend=backend),
        shard_rows(rows, devices, backend=backend),
        placed,
        replicate(jnp.int32(7), devices, backend=backend),
    )
    state, metrics = unreplicate((state, metrics), backend=backend)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs[0], atol=1e-5), state.params, expected.params
    )
    np.testing.assert_allclose(metrics.utility, columns.utility[0], atol=1e-5)
    assert float(metrics.utility.std()) > 0


def test_every_query_is_drawn_as_often_as_from_the_whole_tree():
    """Each device draws equally often from its own block alone; each query's count is within 5 standard deviations."""
    num_queries, num_rounds, devices = 24, 1000, jax.devices()
    tree = dataclasses.replace(
        random_tree(5, num_queries=num_queries, num_tasks=num_queries),
        task=jnp.arange(num_queries),
        task_names=tuple(map(str, range(num_queries))),
    )
    params = init_train_state(CONFIG, key=jax.random.key(1), **input_sizes(tree)).params

    def draw(state, row_ids, environment):
        walk = collect_episodes(
            params, row_ids, environment, key=jax.random.fold_in(jax.random.key(7), state), allow_stop=True
        )
        drawn = environment.tree.task[walk.state.query_index[0]]
        return state + 1, jax.lax.psum(jnp.zeros(num_queries).at[drawn].add(1), AXIS_NAME)

    program = parallelise(draw, devices, backend="shard_map", shared_specs=SPECS)
    environment = Environment(
        tree=place_shards(tree, devices, backend="shard_map").tree,
        cost_weight=replicate(jnp.float32(0.1), devices, backend="shard_map"),
    )
    state, rows = (
        replicate(jnp.int32(0), devices, backend="shard_map"),
        shard_rows(jnp.arange(16), devices, backend="shard_map"),
    )
    counts = np.zeros(num_queries)
    for _ in range(num_rounds):
        state, drawn = program(state, rows, environment)
        counts += np.asarray(drawn)
    np.testing.assert_array_equal(counts.reshape(8, 3).sum(axis=1), 2 * num_rounds)
    mean = 16 * num_rounds / num_queries
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean * 2 / 3)


def test_a_run_on_blocks_learns_validates_and_goes_on(tmp_path):
    tree, validation = (
        context_dependent_tree(43, num_queries=61, dim=5),
        context_dependent_tree(47, num_queries=11, dim=5),
    )
    config = dataclasses.replace(CONFIG, num_updates=40, num_envs=96)
    router = train_run(config, tree, tmp_path / "run", validation=validation, is_tree_sharded=True, is_quiet=True)
    rows = read_metrics(tmp_path / "run")
    scores = score_routes(validation, greedy_routes(router.params, validation), cost_weight=config.cost_weight)
    assert rows[-1]["validation/quality"] == pytest.approx(float(scores.quality.mean()), rel=1e-6)
    assert rows[-1]["utility"] > rows[0]["utility"] + 0.1
    again = train_run(config, tree, tmp_path / "run", validation=validation, resume=True, is_quiet=True)
    jax.tree.map(np.testing.assert_array_equal, again.params, router.params)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_conditioned_router_learns_on_blocks_too(tmp_path, backend):
    network = dataclasses.replace(CONFIG.network, is_conditioned=True)
    config = dataclasses.replace(CONFIG, num_updates=3, network=network)
    train_run(config, context_dependent_tree(43, dim=5), tmp_path, is_tree_sharded=True, backend=backend, is_quiet=True)
    assert len(read_metrics(tmp_path)) == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_command_trains_on_blocks_with_contexts_of_16_bits(tmp_path, dtype, capsys):
    save_scripted_tree(tmp_path / "tree.npz")
    arguments = ["--tree", str(tmp_path / "tree.npz"), "--num-updates", "3", "--num-envs", "32", "--hidden-sizes", "5"]
    run = ["train", "--run-dir", str(tmp_path / "run"), *arguments, "--shard-tree", "--context-dtype", dtype]
    assert main(run) == 0
    assert len(read_metrics(tmp_path / "run")) == 3
    assert main([*run[:-1], "float32", "--resume"]) == 2  # a tree of other numbers
    assert "tree_digest" in capsys.readouterr().err
