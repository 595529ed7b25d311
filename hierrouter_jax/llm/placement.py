"""Where a model's parameters lie when there are several devices: whole on each, or cut over all of them.

A model that fits one device is replicated: each device answers requests of its own, and nothing passes between them.
One that does not fit is sharded: every matrix is cut along the axis of heads or of hidden units (the two products of a
block then need one sum over devices: Shoeybi et al. 2019, "Megatron-LM", section 3), and the compiler adds the
communication. Several devices that a CPU is told to pretend share its cores, so they are used only when they are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import ArrayLike

from hierrouter_jax.llm.decoder import DecoderModel

Layout = Literal["auto", "replicate", "shard"]
PlaceLeaf = Callable[[str, ArrayLike], jax.Array]

AXIS = "model"
SHARE_OF_DEVICE = 0.6  # of a device's memory that parameters may take, so that caches have room too
CUT_AXES = {
    "qkv.kernel": 1,
    "qkv.bias": 0,
    "gate_up.kernel": 1,
    "unembed.kernel": 1,
    "output.kernel": 0,
    "down.kernel": 0,
    "embed.table": 0,
    # int8 kernels are (out, in), and have a scale an output
    "qkv.int8_kernel": 0,
    "qkv.scale": 0,
    "gate_up.int8_kernel": 0,
    "gate_up.scale": 0,
    "unembed.int8_kernel": 0,
    "unembed.scale": 0,
    "output.int8_kernel": 1,
    "down.int8_kernel": 1,
    "embed.scale": 0,
}


def default_devices() -> tuple[jax.Device, ...]:
    """Return the devices of this process that models are placed on when none are named."""
    devices = jax.local_devices()
    return tuple(devices[:1] if devices[0].platform == "cpu" else devices)


def device_bytes(device: jax.Device) -> int | None:
    """Return the memory of a device; None where it does not say, as a CPU does not."""
    return (device.memory_stats() or {}).get("bytes_limit")


def is_sharded(layout: Layout, size_bytes: int, *, num_devices: int, limit_bytes: int | None) -> bool:
    """Return whether parameters of that size are cut over devices of that memory."""
    if num_devices == 1 or layout == "replicate":
        return False
    return layout == "shard" or (limit_bytes is not None and size_bytes > SHARE_OF_DEVICE * limit_bytes)


def leaf_placer(devices: Sequence[jax.Device], *, is_sharded: bool) -> PlaceLeaf:
    """Return what puts a leaf, by its dotted name, where it belongs: on the first device, or cut over all."""
    if not is_sharded:
        return lambda name, value: jax.device_put(value, devices[0])
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))

    def place(name: str, value: ArrayLike) -> jax.Array:
        return jax.device_put(value, NamedSharding(mesh, cut_of_leaf(name, np.shape(value), len(devices))))

    return place


def cut_of_leaf(name: str, shape: Sequence[int], num_devices: int) -> PartitionSpec:
    """Return along which axis a leaf is cut: its own, or another that divides evenly, or none."""
    wanted = next((axis for ending, axis in CUT_AXES.items() if name.endswith(ending)), None)
    if wanted is None:
        return PartitionSpec()
    for axis in (wanted, *(axis for axis in range(len(shape)) if axis != wanted)):
        if shape[axis] % num_devices == 0:
            return PartitionSpec(*(AXIS if index == axis else None for index in range(len(shape))))
    return PartitionSpec()


def devices_of(model: DecoderModel) -> set[jax.Device]:
    """Return the devices that hold any of the parameters."""
    leaves: list[Any] = jax.tree.leaves(model.params)
    return set().union(*(leaf.devices() for leaf in leaves))


def replicate_model(model: DecoderModel, devices: Sequence[jax.Device]) -> list[DecoderModel]:
    """Return the model once a device, or alone where its parameters are cut over several devices."""
    held_on = devices_of(model)
    if len(held_on) > 1 or len(devices) <= 1:
        return [model]
    return [
        model if {device} == held_on else replace(model, params=jax.device_put(model.params, device))
        for device in devices
    ]
