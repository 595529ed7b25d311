"""Array structs: frozen dataclasses that are JAX pytrees.

The second of the two kinds of data in this package (the other is the frozen, hashable config). Fields are arrays
unless declared with `static_field`, which makes them part of the tree's structure and so of jit's cache key.
"""

from __future__ import annotations

from typing import Any, TypeVar, dataclass_transform

import flax.struct

T = TypeVar("T")


def static_field(**kwargs: Any) -> Any:
    """Declare a field that is hashable structure, not an array."""
    return flax.struct.field(pytree_node=False, **kwargs)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(static_field, flax.struct.field))
def array_struct(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only pytree dataclass with a `replace` method.

    The annotations give shapes to the reader. They are not checked at run time, because `vmap`, `tree.map` and
    `eval_shape` build the same struct with other shapes, or with no arrays at all.
    """
    struct = flax.struct.dataclass(cls, kw_only=True)
    struct.__no_type_check__ = True  # type: ignore[attr-defined]
    return struct
