"""Sums over the devices that train together."""

from __future__ import annotations

from typing import TypeVar

import jax
from jax.flatten_util import ravel_pytree

T = TypeVar("T")


def sum_over_devices(tree: T, axis_name: str | None) -> T:
    """Sum every leaf over the devices of the axis; without an axis there is one device, and its sums stand."""
    if axis_name is None:
        return tree
    # One message for all leaves of a type: a collective's cost is mostly that of meeting, not of bytes.
    flat, unflatten = ravel_pytree(tree)
    return unflatten(jax.lax.psum(flat, axis_name))
