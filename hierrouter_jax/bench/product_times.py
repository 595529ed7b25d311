"""How long matrix products and copies take on this device, as XLA runs them.

A product is timed over all its weights in one program: weights are distinct arrays, together larger than any cache
where the model's are, and each product waits for the one before it through one element of its input. Weights are
random, as large as the model's; both layouts are timed, (in, out) and (out, in), and the faster counts. Seconds are
medians. Products in int8 are summed in int32, and have `MIN_ROWS` rows at least, as ours have.

On an accelerator products are not timed one by one: at few rows they take less time than a call does. There a product
costs what its weights' bytes take at the copy rate or its FLOPs at the rate of one large product, whichever is more
(the roofline: Williams et al. 2009).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Num

from hierrouter_jax.bench.floor import ProductShape
from hierrouter_jax.llm.int8 import MIN_ROWS

MIN_REPEATS = 5
MIN_TIMED_S = 0.2
COPIED_BYTES = 2**28  # on CPU; an accelerator's caches are larger, and its memory faster
COPIED_BYTES_OF_ACCELERATOR = 2**32
LARGE_PRODUCT = 8192  # rows, and sizes of the weights, of the product whose rate is an accelerator's best
KEEP_FINITE = 1e-30  # what a product's output adds to the next one's input: a dependence, not a number


def product_seconds(shape: ProductShape, num_rows: int, *, dtype: DTypeLike) -> float:
    """Return the seconds of x @ w over all weights of a shape, for the faster layout of w."""
    return min(_layout_seconds(shape, num_rows, dtype, is_transposed=layout) for layout in (False, True))


def copy_rate(*, dtype: DTypeLike = jnp.float32, size_bytes: int | None = None) -> float:
    """Return the bytes read and written a second where an array that fits no cache is updated in place.

    In place, as a cache is: fresh memory would be paid for page by page.
    """
    if size_bytes is None:
        size_bytes = COPIED_BYTES if jax.default_backend() == "cpu" else COPIED_BYTES_OF_ACCELERATOR
    x = jnp.ones((size_bytes // jnp.dtype(dtype).itemsize,), dtype)
    size = x.nbytes

    def update() -> Array:
        nonlocal x
        x = _updated(x)
        return x

    return 2 * size / median_seconds(update)


def best_flop_rate(*, dtype: DTypeLike, size: int = LARGE_PRODUCT) -> float:
    """Return the FLOPs a second of one large square product."""
    shape = ProductShape(name="large", dim_in=size, dim_out=size, num_weights=1)
    return shape.flops(size) / product_seconds(shape, size, dtype=dtype)


def roofline_seconds(
    shape: ProductShape, num_rows: int, *, itemsize: int, bytes_per_s: float, flops_per_s: float
) -> float:
    """Return what a product over all its weights takes at least, `itemsize` bytes each.

    That is their bytes at the one rate or its FLOPs at the other, whichever is more.
    """
    weight_bytes = itemsize * shape.dim_in * shape.dim_out * shape.num_weights
    return max(weight_bytes / bytes_per_s, shape.flops(num_rows) / flops_per_s)


def median_seconds(run: Callable[[], Any], *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the median of repeated runs, the first one not counted."""
    jax.block_until_ready(run())
    times: list[float] = []
    while len(times) < MIN_REPEATS or sum(times) < MIN_TIMED_S:
        began_s = clock()
        jax.block_until_ready(run())
        times.append(clock() - began_s)
    return float(statistics.median(times))


def _layout_seconds(shape: ProductShape, num_rows: int, dtype: DTypeLike, *, is_transposed: bool) -> float:
    is_int8 = jnp.dtype(dtype) == jnp.int8
    x = jnp.ones((max(MIN_ROWS, num_rows) if is_int8 else num_rows, shape.dim_in), dtype)
    size = (shape.dim_out, shape.dim_in) if is_transposed else (shape.dim_in, shape.dim_out)
    weights = [
        jax.random.randint(key, size, -127, 128, dtype) if is_int8 else jax.random.normal(key, size, dtype)
        for key in jax.random.split(jax.random.key(0), shape.num_weights)
    ]
    return median_seconds(lambda: _chain(x, weights, is_transposed=is_transposed))


@partial(jax.jit, static_argnames="is_transposed")
def _chain(x: Num[Array, "row dim"], weights: list[Array], *, is_transposed: bool) -> Num[Array, ""]:
    is_int8 = x.dtype == jnp.int8
    for weight in weights:
        spelled = "ri,oi->ro" if is_transposed else "ri,io->ro"
        product = jnp.einsum(spelled, x, weight, preferred_element_type=jnp.int32 if is_int8 else None)
        # The barrier keeps XLA from computing the one element that is used.
        last = jax.lax.optimization_barrier(product)[-1, -1]
        x = x.at[0, 0].set(
            (last & 1).astype(x.dtype) if is_int8 else x[0, 0] + last * jnp.asarray(KEEP_FINITE, x.dtype)
        )
    return x[0, 0]


@partial(jax.jit, donate_argnums=0)
def _updated(x: Float[Array, " entry"]) -> Float[Array, " entry"]:
    return x + jnp.asarray(1, x.dtype)
