"""One program on many devices: the only file that knows how many there are, here and on other hosts.

The update it spreads is written for one shard of the rows and sums over the named axis `AXIS_NAME`; everything but
the rows is the same on all devices, unless the tree is sharded (`place_shards`). Two backends do the same work: `pmap`,
where a replicated array carries a leading device axis, and `jit(shard_map)`, where the sharding says it all. Callers
see neither: they place what they hand in with `replicate` and `shard_rows`, and read results through `unreplicate`.

With several processes (see `distributed.py`) `devices` are those of all of them, every process hands in the same
values, and each puts its part on its own devices. Both backends work across processes: shard_map on global arrays,
pmap on each process's own part of the device axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Int

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.route_tree import QUERY_FIELDS, RouteTree
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.train.tree_shards import plan_shards

AXIS_NAME = "device"
REPLICATED, SHARDED = Spec(), Spec(AXIS_NAME)
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
    """Put one copy of every array on every device; every process hands in the same values."""
    if backend == "shard_map":
        # A copy, even on the device where the array already is: the update donates it, and the caller keeps theirs.
        return _place(tree, _mesh(devices), REPLICATED, copied=True)
    return jax.tree.map(lambda leaf: _copy_to_each(leaf, devices), tree)


def replicate_globally(tree: T, devices: Sequence[jax.Device]) -> T:
    """Return global arrays, the same on all devices of all processes: the form in which Orbax saves and loads."""
    return _place(tree, _mesh(devices), REPLICATED)


def global_sharding(devices: Sequence[jax.Device]) -> NamedSharding:
    """Return the sharding of `replicate_globally`."""
    return NamedSharding(_mesh(devices), REPLICATED)


def unreplicate(tree: T, *, backend: Backend) -> T:
    """Return what every device holds, from this process's first device: no other device is asked."""
    shards = jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
    return jax.tree.map(lambda leaf: leaf[0], shards) if backend == "pmap" else shards


def shard_rows(tree: T, devices: Sequence[jax.Device], *, backend: Backend) -> T:
    """Spread the leading axis of every array over the devices, in order; its length must be a multiple of theirs."""
    if backend == "shard_map":
        return _place(tree, _mesh(devices), SHARDED)

    def spread(leaf: Any) -> Any:
        shares = np.asarray(leaf).reshape((len(devices), -1, *leaf.shape[1:]))
        return jax.device_put(shares[_places_here(devices)], _sharding_here(devices))

    return jax.tree.map(spread, tree)


def parallelise(
    update: Callable[..., Any], devices: Sequence[jax.Device], *, backend: Backend, shared_specs: Sequence[Any] = ()
) -> Callable[..., Any]:
    """Run `update(state, row_ids, *shared) -> (state, metrics)` on every device, each with its share of the rows.

    `state` and `shared` come from `replicate`, `row_ids` from `shard_rows`; both results are replicated, since the
    update sums over `AXIS_NAME` whatever depends on its rows. `shared_specs` says which parts of the first of `shared`
    are `SHARDED` instead (a pytree prefix each). The state handed in is donated: use the one returned.
    """
    if backend == "pmap":
        return jax.pmap(update, axis_name=AXIS_NAME, devices=list(devices), donate_argnums=(0,))
    mesh = _mesh(devices)

    def spread(state: Any, row_ids: Any, *shared: Any) -> Any:
        specs = (*shared_specs, *[REPLICATED] * (len(shared) - len(shared_specs)))
        in_specs = (REPLICATED, SHARDED, *specs)
        # check_vma off: sums over devices are written out in the update, as pmap needs them, and not inferred.
        mapped = jax.shard_map(update, mesh=mesh, in_specs=in_specs, out_specs=(Spec(), Spec()), check_vma=False)
        return mapped(state, row_ids, *shared)

    return jax.jit(spread, donate_argnums=(0,))


@dataclass(frozen=True, kw_only=True)
class PlacedTree:
    """A route tree of which every device holds a block of the queries, with the contexts of that block alone."""

    tree: RouteTree  # global arrays, block after block; under pmap with a leading device axis
    places: Int[np.ndarray, " query"]  # where each query of the original tree stands, the blocks laid end to end


def place_shards(tree: RouteTree, devices: Sequence[jax.Device], *, backend: Backend) -> PlacedTree:
    """Cut a tree into blocks of queries (`tree_shards.py`) and put one on each device.

    A process makes and holds only the blocks of its own devices; the tree handed in may lie in host memory.
    """
    shards = plan_shards(tree, len(devices))

    def place(name: str) -> jax.Array:
        if backend == "pmap":
            blocks = [
                jax.device_put(shards.block(name, shard)[None], devices[shard]) for shard in _places_here(devices)
            ]
            shape = (len(blocks), *blocks[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, _sharding_here(devices), blocks)
        length, *rest = shards.block_shape(name)

        def make_block(at: tuple[slice, ...] | None) -> np.ndarray:
            return shards.block(name, (at[0].start or 0) // length if at else 0)

        shape = (len(devices) * length, *rest)
        return jax.make_array_from_callback(shape, NamedSharding(_mesh(devices), SHARDED), make_block)

    placed: dict[str, Any] = {name: place(name) for name in (*QUERY_FIELDS, "context")}
    return PlacedTree(tree=dataclasses.replace(tree, **placed), places=shards.place_of_query())


def parallelise_routes(
    route: Callable[[Any, RouteTree], RouteBatch], devices: Sequence[jax.Device], *, backend: Backend
) -> Callable[[Any, PlacedTree], RouteBatch]:
    """Run `route(params, tree) -> RouteBatch` with the tree's queries spread over the devices.

    `params` come from `replicate`, the tree from `place_shards`; every process has the routes of all queries, in the
    order of the original tree.
    """

    def route_shard(params: Any, tree: RouteTree) -> Any:
        return jax.lax.all_gather(route(params, tree).actions, AXIS_NAME, tiled=True)

    if backend == "pmap":
        spread = jax.pmap(route_shard, axis_name=AXIS_NAME, devices=list(devices))
    else:
        specs = (REPLICATED, SHARDED)
        mapped = jax.shard_map(route_shard, mesh=_mesh(devices), in_specs=specs, out_specs=REPLICATED, check_vma=False)
        spread = jax.jit(mapped)

    def route_all(params: Any, placed: PlacedTree) -> RouteBatch:
        actions = np.asarray(unreplicate(spread(params, placed.tree), backend=backend))
        return RouteBatch(actions=jnp.asarray(actions[placed.places]))

    return route_all


def _place(tree: T, mesh: Mesh, spec: Spec, *, copied: bool = False) -> T:
    """Make global arrays of values that every process has in full."""
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(jax.tree.map(jnp.copy, tree) if copied else tree, sharding)

    def place(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])

    return jax.tree.map(place, tree)


def _copy_to_each(leaf: Any, devices: Sequence[jax.Device]) -> Any:
    """Return one array with a leading device axis, a copy on each; never all the copies on one device."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _copy_to_each(jax.random.key_data(leaf), devices)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)[None]  # by way of the host: on a device it would be one more copy, and a program a shape
    copies = [jax.device_put(array, devices[place]) for place in _places_here(devices)]
    shape = (len(copies), *array.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, _sharding_here(devices), copies)


def _places_here(devices: Sequence[jax.Device]) -> list[int]:
    """Return which of the devices belong to this process. With pmap a process hands in and gets these parts alone."""
    return [place for place, one in enumerate(devices) if one.process_index == jax.process_index()]


def _sharding_here(devices: Sequence[jax.Device]) -> NamedSharding:
    return NamedSharding(_mesh([devices[place] for place in _places_here(devices)]), SHARDED)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    # In the order given, so that a process's rows and blocks lie together; make_mesh might deal devices otherwise.
    return Mesh(np.array(devices), (AXIS_NAME,), axis_types=(AxisType.Auto,))
