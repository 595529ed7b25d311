"""Matrix products in int8: weights rounded once, with a scale an output; inputs at every call, with a scale a token.

    x W^T ~ (X W8^T) * step * scale    X = round(x / step), step = max |x| / 127 over a token's features
                                       W8 = round(W / scale), scale = max |W| / 127 over an output's weights

(Dettmers et al. 2022, "LLM.int8()", section 2, without outliers kept apart.) Sums are exact in int32, so a token's
answer still does not depend on its neighbours. On CPU these products take about half the time of float32 ones, and
weights a quarter of the memory; docs/generation.md has what that does to speed and answers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int8

LARGEST = 127
TINY = 1e-30  # the largest value that nothing but zeros is below
MIN_ROWS = 2  # XLA's CPU backend multiplies a single row number by number, 20 times as slow as two


def float_type(dtype: DTypeLike) -> np.dtype:
    """Return the type of states and of parameters outside products: that of the weights, beside int8 float32."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype == jnp.int8 else dtype


def quantize_outputs(weights: Float[ArrayLike, "out dim"]) -> tuple[Int8[Array, "out dim"], Float[Array, " out"]]:
    """Return the weights as int8, and the scale of each output."""
    wide = jnp.asarray(weights, jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(wide), axis=1), TINY) / LARGEST
    return jnp.round(wide / scale[:, None]).astype(jnp.int8), scale


def int8_product(
    x: Float[Array, "*batch dim"], weights: Int8[Array, "out dim"], scale: Float[Array, " out"]
) -> Float[Array, "*batch out"]:
    """Return x times the weights, in the type of x."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    num_rows = rows.shape[0]
    step = jnp.maximum(jnp.max(jnp.abs(rows), axis=1, keepdims=True), TINY) / LARGEST
    rounded = jnp.round(rows / step).astype(jnp.int8)
    rounded = jnp.pad(rounded, ((0, max(0, MIN_ROWS - num_rows)), (0, 0)))
    sums = jax.lax.dot_general(rounded, weights, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
    product = sums[:num_rows].astype(jnp.float32) * step * scale[None, :]
    return product.astype(x.dtype).reshape(*x.shape[:-1], -1)
