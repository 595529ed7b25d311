"""One program on many devices: the only file that knows how many there are.

The update it spreads is written for one shard of the rows and sums over the named axis `AXIS_NAME`; everything but
the rows is the same on all devices. Two backends do the same work: `pmap`, where a replicated array carries a leading
device axis, and `jit(shard_map)`, where the sharding says it all. Callers see neither: they place what they hand in
with `replicate` and `shard_rows`, and read results through `unreplicate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch

AXIS_NAME = "device"
Backend = Literal["pmap", "shard_map"]
T = TypeVar("T")


def check_devices(devices: Sequence[jax.Device], *, backend: str, num_rows: int, num_minibatches: int) -> None:
    """Raise `ConfigError` unless the rows of an update split evenly over devices and minibatches."""
    if backend not in get_args(Backend):
        raise ConfigError(f"backend must be one of {', '.join(get_args(Backend))}, but is {backend!r}.")
    if not devices:
        raise ConfigError("devices must name at least one device, but is empty; give jax.devices().")
    if num_rows % (len(devices) * num_minibatches) != 0:
        raise ConfigError(
            f"num_envs must be a multiple of devices x minibatches = {len(devices)} x {num_minibatches}, but is "
            f"{num_rows}; change num_envs, ppo.num_minibatches or the number of devices."
        )


def choose_devices(*, num_rows: int, num_minibatches: int) -> list[jax.Device]:
    """Return the machine's devices, or the first of them where an update's rows split evenly only over fewer.

    In a computation of several processes all devices are returned, whether they fit or not: none may stay away.
    """
    if jax.process_count() > 1:
        return jax.devices()
    devices = jax.local_devices()
    fitting = (count for count in range(len(devices), 0, -1) if num_rows % (count * num_minibatches) == 0)
    return devices[: next(fitting, len(devices))]


def replicate(tree: T, devices: Sequence[jax.Device], *, backend: Backend) -> T:
    """Put one copy of every array on every device."""
    mesh = _mesh(devices)
    if backend == "shard_map":
        # A copy, even on the device where the array already is: the update donates it, and the caller keeps theirs.
        return jax.device_put(jax.tree.map(jnp.copy, tree), NamedSharding(mesh, Spec()))
    stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (len(devices), *jnp.shape(leaf))), tree)
    return jax.device_put(stacked, NamedSharding(mesh, Spec(AXIS_NAME)))


def unreplicate(tree: T, *, backend: Backend) -> T:
    """Return what every device holds, from this process's first device: no other device is asked."""
    shards = jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
    return jax.tree.map(lambda leaf: leaf[0], shards) if backend == "pmap" else shards


def shard_rows(tree: T, devices: Sequence[jax.Device], *, backend: Backend) -> T:
    """Spread the leading axis of every array over the devices, in order; its length must be a multiple of theirs."""
    if backend == "pmap":
        tree = jax.tree.map(lambda leaf: leaf.reshape((len(devices), -1, *leaf.shape[1:])), tree)
    return jax.device_put(tree, NamedSharding(_mesh(devices), Spec(AXIS_NAME)))


def parallelise(update: Callable[..., Any], devices: Sequence[jax.Device], *, backend: Backend) -> Callable[..., Any]:
    """Run `update(state, row_ids, *shared) -> (state, metrics)` on every device, each with its share of the rows.

    `state` and `shared` come from `replicate`, `row_ids` from `shard_rows`; both results are replicated, since the
    update sums over `AXIS_NAME` whatever depends on its rows. The state handed in is donated: use the one returned.
    """
    if backend == "pmap":
        return jax.pmap(update, axis_name=AXIS_NAME, devices=list(devices), donate_argnums=(0,))
    mesh = _mesh(devices)

    def spread(state: Any, row_ids: Any, *shared: Any) -> Any:
        in_specs = (Spec(), Spec(AXIS_NAME), *(Spec() for _ in shared))
        # check_vma off: sums over devices are written out in the update, as pmap needs them, and not inferred.
        mapped = jax.shard_map(update, mesh=mesh, in_specs=in_specs, out_specs=(Spec(), Spec()), check_vma=False)
        return mapped(state, row_ids, *shared)

    return jax.jit(spread, donate_argnums=(0,))


def parallelise_routes(
    route: Callable[[Any, RouteTree], RouteBatch], devices: Sequence[jax.Device], *, backend: Backend
) -> Callable[[Any, RouteTree], RouteBatch]:
    """Run `route(params, tree) -> RouteBatch` with the tree's queries spread over the devices.

    `params` come from `replicate`; the tree is an ordinary one, whose number of queries need not be a multiple of
    the number of devices: the last query is repeated to fill up, and the surplus routes are dropped.
    """
    spread = _spread_routes(route, devices, backend=backend)

    def route_all(params: Any, tree: RouteTree) -> RouteBatch:
        num_queries = tree.quality.shape[0]
        num_missing = -num_queries % len(devices)
        by_query = {name: _repeat_last(getattr(tree, name), num_missing) for name in QUERY_FIELDS}
        sharded = shard_rows(by_query, devices, backend=backend)
        routes = spread(params, sharded, replicate(tree, devices, backend=backend))
        actions = np.asarray(routes.actions).reshape(num_queries + num_missing, -1)[:num_queries]
        return dataclasses.replace(routes, actions=jnp.asarray(actions))

    return route_all


QUERY_FIELDS = ("context_row", "step_cost", "quality", "valid", "task")  # the arrays of a RouteTree led by `query`


def _spread_routes(
    route: Callable[[Any, RouteTree], RouteBatch], devices: Sequence[jax.Device], *, backend: Backend
) -> Callable[[Any, dict[str, Any], RouteTree], RouteBatch]:
    def route_shard(params: Any, by_query: dict[str, Any], tree: RouteTree) -> RouteBatch:
        return route(params, dataclasses.replace(tree, **by_query))

    if backend == "pmap":
        return jax.pmap(route_shard, axis_name=AXIS_NAME, devices=list(devices))
    specs = (Spec(), Spec(AXIS_NAME), Spec())
    mapped = jax.shard_map(route_shard, mesh=_mesh(devices), in_specs=specs, out_specs=Spec(AXIS_NAME), check_vma=False)
    return jax.jit(mapped)


def _repeat_last(leaf: Any, count: int) -> Any:
    return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], count, axis=0)])


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return jax.make_mesh((len(devices),), (AXIS_NAME,), axis_types=(AxisType.Auto,), devices=list(devices))
