"""Placement on eight forced CPU devices: what is replicated, what is spread, and what comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from synthetic_trees import random_tree

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.train.loop import make_update_block
from hierrouter_jax.train.parallel import (
    AXIS_NAME,
    check_devices,
    choose_devices,
    parallelise,
    parallelise_routes,
    place_shards,
    replicate,
    shard_rows,
    unreplicate,
)
from hierrouter_jax.train.state import Environment, UpdateMetrics, make_train_state

BACKENDS = ["pmap", "shard_map"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_devices", [1, 8])
def test_what_is_replicated_comes_back_and_lies_on_every_device(backend, num_devices):
    devices = jax.devices()[:num_devices]
    tree = {"weights": jnp.arange(6.0).reshape(2, 3), "count": jnp.int32(7), "key": jax.random.key(3)}
    placed = replicate(tree, devices, backend=backend)
    assert placed["weights"].sharding.device_set == set(devices)
    back = unreplicate(placed, backend=backend)
    np.testing.assert_array_equal(back["weights"], tree["weights"])
    np.testing.assert_array_equal(jax.random.key_data(back["key"]), jax.random.key_data(tree["key"]))
    assert (back["count"].shape, int(back["count"])) == ((), 7)
    assert back["weights"].sharding.device_set == {devices[0]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_spread_in_order_and_sums_see_them_all(backend):
    devices = jax.devices()

    def update(state, row_ids, offset):
        total = jax.lax.psum(row_ids.sum(), AXIS_NAME)
        first = jax.lax.psum(jnp.where(jax.lax.axis_index(AXIS_NAME) == 5, row_ids[0], 0), AXIS_NAME)
        return state + total, first + offset

    program = parallelise(update, devices, backend=backend)
    state = replicate(jnp.int32(1000), devices, backend=backend)
    offset = replicate(jnp.int32(10_000), devices, backend=backend)
    rows = shard_rows(jnp.arange(24), devices, backend=backend)
    state, first = unreplicate(program(state, rows, offset), backend=backend)
    assert int(state) == 1000 + 276
    assert int(first) == 10_000 + 15


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_of_any_length_are_one_program(backend):
    devices = jax.devices()[:2]
    traces = []

    def update(state, row_ids, environment):
        traces.append(None)
        names = UpdateMetrics.__dataclass_fields__
        metrics = UpdateMetrics(**dict.fromkeys(names, state.step * environment.cost_weight))
        return state.replace(step=state.step + 1, params=state.params * 2), metrics

    program = parallelise(make_update_block(update, 7), devices, backend=backend)
    state = replicate(make_train_state(jnp.ones(3), optax.identity(), key=jax.random.key(0)), devices, backend=backend)
    rows = shard_rows(jnp.arange(4), devices, backend=backend)
    environment = Environment(tree=random_tree(), cost_weight=jnp.float32(0.5))
    environment = replicate(environment, devices, backend=backend)
    finished = 0
    for length in (1, 5, 7, 2):
        state, columns = program(state, rows, environment, replicate(jnp.int32(length), devices, backend=backend))
        filled = unreplicate(columns, backend=backend).utility[:length]
        np.testing.assert_allclose(filled, 0.5 * np.arange(finished, finished + length))
        finished += length
    assert len(traces) == 1
    np.testing.assert_array_equal(unreplicate(state, backend=backend).params, np.full(3, 2.0**15))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_queries", [3, 8, 13])
def test_routes_of_spread_queries_are_those_of_each_query(backend, num_queries):
    """Fewer queries than devices, as many, and a number that does not divide; a route that betrays what it saw."""
    tree = random_tree(5, num_queries=num_queries, num_tasks=7, dim=3)

    def route(params, tree):
        seen = jnp.round(1000 * tree.context[tree.context_row[:, 4], 1]).astype(jnp.int32)
        return RouteBatch(actions=jnp.stack([tree.task + params, seen + tree.valid[:, 2]], axis=1))

    devices = jax.devices()
    route_all = parallelise_routes(route, devices, backend=backend)
    routes = route_all(
        replicate(jnp.int32(100), devices, backend=backend), place_shards(tree, devices, backend=backend)
    )
    np.testing.assert_array_equal(routes.actions, route(jnp.int32(100), tree).actions)


def test_rows_that_do_not_split_evenly_are_refused():
    check_devices(jax.devices(), backend="pmap", num_rows=48, num_minibatches=3)
    with pytest.raises(ConfigError, match="8 x 3, but is 40"):
        check_devices(jax.devices(), backend="pmap", num_rows=40, num_minibatches=3)


@pytest.mark.parametrize(
    ("num_there", "num_rows", "num_minibatches", "num_used"),
    [
        *[(1, 256, 4, 1), (3, 256, 4, 2), (4, 256, 4, 4), (5, 256, 4, 4), (6, 256, 4, 4), (7, 256, 4, 4)],
        *[(8, 256, 4, 8), (6, 72, 3, 6), (8, 72, 3, 8), (8, 39, 3, 1), (8, 35, 5, 7), (5, 35, 5, 1)],
    ],
)
def test_as_many_devices_are_chosen_as_rows_split_evenly_over(
    monkeypatch, num_there, num_rows, num_minibatches, num_used
):
    there = jax.devices()[:num_there]
    monkeypatch.setattr(jax, "local_devices", lambda: there)
    chosen = choose_devices(num_rows=num_rows, num_minibatches=num_minibatches)
    assert chosen == there[:num_used]
    check_devices(chosen, backend="pmap", num_rows=num_rows, num_minibatches=num_minibatches)


def test_no_process_of_several_is_left_without_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert choose_devices(num_rows=12, num_minibatches=2) == jax.devices()


def test_unknown_backends_and_no_devices_are_refused():
    with pytest.raises(ConfigError, match="backend must be one of pmap, shard_map, but is 'threads'"):
        check_devices(jax.devices(), backend="threads", num_rows=48, num_minibatches=3)
    with pytest.raises(ConfigError, match="at least one device"):
        check_devices([], backend="pmap", num_rows=48, num_minibatches=3)
