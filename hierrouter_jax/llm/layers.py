"""The parts of a decoder layer: RMS norm, rotary embedding, grouped-query attention, gated MLP.

Kernels are (in, out). Norms and softmax are computed, and norm scales held, in float32 whatever the dtype of the rest.
Rotary embedding rotates halves: (x_i, x_{i + head_dim/2}) is a pair.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from hierrouter_jax.llm.config import Activation, DecoderConfig, RopeScaling
from hierrouter_jax.llm.int8 import int8_product, quantize_outputs

# Prefill attends in blocks of this many queries, so that scores take memory in proportion to it, not to the prompt.
QUERY_BLOCK = 256


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * (offset + scale), over the last axis (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, dim: int, *, eps: float, offset: int):
        self.scale = nnx.Param(jnp.full((dim,), 1 - offset, jnp.float32))
        self.eps = eps
        self.offset = offset

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        wide = x.astype(jnp.float32)
        inverse_rms = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...] + self.offset
        return (wide * inverse_rms * scale.reshape((1,) * (x.ndim - 1) + scale.shape)).astype(x.dtype)


class Linear(nnx.Module):
    """x @ kernel, plus a bias where there is one."""

    def __init__(self, dim_in: int, dim_out: int, *, has_bias: bool = False, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (dim_in, dim_out), dtype))
        self.bias = nnx.Param(jnp.zeros((dim_out,), dtype)) if has_bias else None

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim_out"]:
        return _add_bias(x @ self.kernel[...], self.bias)

    def wide(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim_out"]:
        """Return the same in float32, never rounded to a narrower type of x."""
        return _add_bias(jnp.matmul(x, self.kernel[...], preferred_element_type=jnp.float32), self.bias)


class Int8Linear(Linear):
    """What a `Linear` computes, with its kernel rounded to int8 (see `int8`); that kernel is (out, in)."""

    def __init__(self, linear: Linear):
        weights, scale = quantize_outputs(linear.kernel[...].T)
        self.int8_kernel, self.scale = nnx.Param(weights), nnx.Param(scale)
        self.bias = linear.bias

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim_out"]:
        return _add_bias(int8_product(x, self.int8_kernel[...], self.scale[...]), self.bias)

    def wide(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim_out"]:
        """Return the same in float32."""
        return self(x.astype(jnp.float32))


def _add_bias(product: Float[Array, "*batch dim_out"], bias: nnx.Param | None) -> Float[Array, "*batch dim_out"]:
    return product if bias is None else product + bias[...].reshape((1,) * (product.ndim - 1) + (-1,))


class MLP(nnx.Module):
    """down(activation(gate(x)) * up(x)), gate and up in one product."""

    def __init__(self, config: DecoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.gate_up = Linear(config.embed_dim, 2 * config.mlp_dim, dtype=dtype, rngs=rngs)
        self.down = Linear(config.mlp_dim, config.embed_dim, dtype=dtype, rngs=rngs)
        self.activation: Activation = config.activation

    def __call__(self, x: Float[Array, "batch time embed"]) -> Float[Array, "batch time embed"]:
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        gate = jax.nn.silu(gate) if self.activation == "silu" else jax.nn.gelu(gate, approximate=True)
        return self.down(gate * up)


def rope_frequencies(head_dim: int, *, base: float, scaling: RopeScaling | None) -> Float[Array, " half"]:
    """Return the angle per position of each rotary pair: base^(-2i / head_dim), then scaled."""
    frequencies = base ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # How many turns a pair makes within the original context: few turns are slow, many are fast.
    turns = scaling.original_context * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = jnp.clip(blend, 0.0, 1.0)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies


def turns_by(angles: Float[Array, "batch time half"]) -> Float[Array, "2 batch time half"]:
    """Return cosine and sine of the angles.

    They are computed once for all layers: XLA would rather compute them anew in every layer, for every head.
    """
    return jax.lax.optimization_barrier(jnp.stack((jnp.cos(angles), jnp.sin(angles))))


def rotate(
    x: Float[Array, "batch time some_heads head_dim"], turns: Float[Array, "2 batch time half"]
) -> Float[Array, "batch time some_heads head_dim"]:
    """Rotate the pairs of every head by the angles of their tokens (Su et al. 2021, eq. 34)."""
    cos, sin = turns[0, :, :, None, :], turns[1, :, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return rotated.astype(x.dtype)


def attention_mask(
    query_positions: Int[Array, "batch time"], slot_positions: Int[Array, " slot"], window: int | Int[Array, ""] | None
) -> Bool[Array, "batch time slot"]:
    """Return which slots each query sees: those not after it and, with a window, at most window - 1 before it."""
    distance = query_positions[:, :, None] - slot_positions[None, None, :]
    is_seen = distance >= 0
    return is_seen if window is None else is_seen & (distance < window)


def attend(
    query: Float[Array, "batch time kv_head group head_dim"],
    keys: Float[Array, "batch kv_head head_dim slot"],
    values: Float[Array, "batch kv_head slot head_dim"],
    mask: Bool[Array, "batch time slot"],
    *,
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "batch time kv_head group head_dim"]:
    """Attend with groups of query heads that share a key head, keys never repeated in memory.

    softmax(scale q.k, masked) v; with a soft cap c the products become c tanh(. / c) before masking.
    """
    num_rows, num_tokens, num_kv_heads, num_groups, head_dim = query.shape
    # Heads of a group and times become the rows of one matrix a key head: a plain batched product, which on CPU is
    # two to three times as fast as what einsum makes of the axes as they are.
    rows = (query * scale).transpose(0, 2, 3, 1, 4).reshape(num_rows, num_kv_heads, num_groups * num_tokens, head_dim)
    scores = jax.lax.dot_general(
        rows, keys, (((3,), (2,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32
    ).reshape(num_rows, num_kv_heads, num_groups, num_tokens, -1)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    scores = jnp.where(mask[:, None, None, :, :], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype).reshape(*rows.shape[:3], -1)
    attended = jax.lax.dot_general(weights, values, (((3,), (2,)), ((0, 1), (0, 1))))
    return attended.reshape(num_rows, num_kv_heads, num_groups, num_tokens, head_dim).transpose(0, 3, 1, 2, 4)


def attend_within(
    query: Float[Array, "batch time kv_head group head_dim"],
    keys: Float[Array, "batch kv_head head_dim time"],
    values: Float[Array, "batch kv_head time head_dim"],
    *,
    window: int | None,
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "batch time kv_head group head_dim"]:
    """Attend causally within one block of tokens that starts every row, by blocks of queries."""
    num_tokens = query.shape[1]
    outputs = []
    for start in range(0, num_tokens, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, num_tokens)
        first = 0 if window is None else max(0, start - window + 1)
        mask = attention_mask(jnp.arange(start, end)[None], jnp.arange(first, end), window)
        mask = jnp.broadcast_to(mask, (query.shape[0], *mask.shape[1:]))
        seen_keys, seen_values = keys[..., first:end], values[:, :, first:end]
        outputs.append(attend(query[:, start:end], seen_keys, seen_values, mask, scale=scale, soft_cap=soft_cap))
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=1)
