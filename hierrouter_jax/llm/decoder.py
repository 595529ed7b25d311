"""The one decoder-only transformer of all families: (tokens, positions, cache) -> (logits, cache).

A row's positions are consecutive. Without a cache, rows start at position 0 and attend within the given tokens;
padding goes behind a row's last token, where causality hides it. With a cache, tokens are written to the slots of
their positions and attend over all slots. What a call computes depends on a row alone, never on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int

from hierrouter_jax.core.structs import array_struct, static_field
from hierrouter_jax.llm.cache import Keys, KVCache, Values, write_keys, write_values
from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.llm.int8 import float_type, int8_product, quantize_outputs
from hierrouter_jax.llm.layers import (
    MLP,
    Int8Linear,
    Linear,
    RMSNorm,
    attend,
    attend_within,
    attention_mask,
    rope_frequencies,
    rotate,
    turns_by,
)


class Decoder(nnx.Module):
    """A decoder with random parameters; see `decoder_from_leaves` for one with given parameters.

    With a dtype of int8, kernels and embeddings are int8 with scales and all else is float32.
    """

    def __init__(self, config: DecoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        is_int8, dtype = jnp.dtype(dtype) == jnp.int8, float_type(dtype)
        self.config = config
        self.embed = Embedding(config.vocab_size, config.embed_dim, dtype=dtype, rngs=rngs)
        self.layers = nnx.List([Layer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)])
        self.final_norm = _make_norm(config, config.embed_dim)
        self.unembed = (
            None if config.has_tied_output else Linear(config.embed_dim, config.vocab_size, dtype=dtype, rngs=rngs)
        )
        self.rope = RopeDivisors(config.head_dim // 2) if config.has_rope_divisors else None
        if is_int8:
            self._round_to_int8()

    def _round_to_int8(self) -> None:
        """Round the parameters that stand in products."""
        self.embed = Int8Embedding(self.embed)
        for layer in self.layers:
            layer.attention.qkv, layer.attention.output = map(Int8Linear, (layer.attention.qkv, layer.attention.output))
            layer.mlp.gate_up, layer.mlp.down = map(Int8Linear, (layer.mlp.gate_up, layer.mlp.down))
        if self.unembed is not None:
            self.unembed = Int8Linear(self.unembed)

    def __call__(
        self,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "batch time"] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "batch time vocab"], KVCache]:
        """Return float32 logits after every token, and the cache with the tokens in it.

        Without a cache, the one returned has exactly as many slots as there are tokens. The returned lengths are one
        more than each row's last position; a caller with padding replaces them.
        """
        hidden, cache = self.hidden_states(tokens, positions, cache)
        return self.logits(hidden), cache

    def hidden_states(
        self,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "batch time"] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "batch time embed"], KVCache]:
        """Return the normalised states behind the logits, for callers that want logits of few positions."""
        x, cache = self.run_layers(tokens, positions, cache)
        return self.final_norm(x), cache

    def run_layers(
        self,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "batch time"] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "batch time embed"], KVCache]:
        """Return the states behind the last layer, before the last norm."""
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        x, turns = self.embed_tokens(tokens, positions)
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            slots = None if cache is None else (cache.keys[index], cache.values[index])
            turn, window = turns[self.config.is_local(index)], self.config.layer_window(index)
            x, (layer_keys, layer_values) = layer(x, positions, turn, window, slots)
            keys.append(layer_keys)
            values.append(layer_values)
        lengths = positions[:, -1].astype(jnp.int32) + 1
        return x, KVCache(keys=tuple(keys), values=tuple(values), lengths=lengths)

    def embed_tokens(
        self, tokens: Int[Array, "batch time"], positions: Int[Array, "batch time"]
    ) -> tuple[Float[Array, "batch time embed"], dict[bool, Float[Array, "2 batch time half"]]]:
        """Return what the first layer gets, and the rotary turns of global (False) and of local layers (True)."""
        return self.embed(tokens, scale=self.config.embed_scale), self._turns(positions)

    def logits(self, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """Return float32 logits of normalised states; narrower ones would make ties of close tokens."""
        product = self.embed.unembed(hidden) if self.unembed is None else self.unembed.wide(hidden)
        product = product.astype(jnp.float32)
        cap = self.config.final_soft_cap
        return product if cap is None else cap * jnp.tanh(product / cap)

    def _turns(self, positions: Int[Array, "batch time"]) -> dict[bool, Float[Array, "2 batch time half"]]:
        """Return rotary turns of global layers (False) and of local layers (True)."""
        config, places = self.config, positions[:, :, None].astype(jnp.float32)
        frequencies = rope_frequencies(config.head_dim, base=config.rope_base, scaling=config.rope_scaling)
        if self.rope is not None:
            frequencies = frequencies / self.rope.divisors[...]
        turns = turns_by(places * frequencies[None, None, :])
        if config.local_rope_base is None:
            return {False: turns, True: turns}
        frequencies = rope_frequencies(config.head_dim, base=config.local_rope_base, scaling=None)
        return {False: turns, True: turns_by(places * frequencies[None, None, :])}


class Embedding(nnx.Module):
    """The vocabulary's vectors, which a tied model also uses to make logits."""

    def __init__(self, vocab_size: int, embed_dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.table = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (vocab_size, embed_dim), dtype))

    def __call__(self, tokens: Int[Array, "batch time"], *, scale: float) -> Float[Array, "batch time embed"]:
        vectors = self.table[...][tokens]
        return vectors if scale == 1.0 else vectors * jnp.asarray(scale, vectors.dtype)

    def unembed(self, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """Return hidden @ table.T."""
        return jnp.einsum("...e,ve->...v", hidden, self.table[...], preferred_element_type=jnp.float32)


class Int8Embedding(Embedding):
    """What an `Embedding` computes, with its table rounded to int8 and a scale a token (see `int8`)."""

    def __init__(self, embedding: Embedding):
        table, scale = quantize_outputs(embedding.table[...])
        self.table, self.scale = nnx.Param(table), nnx.Param(scale)

    def __call__(self, tokens: Int[Array, "batch time"], *, scale: float) -> Float[Array, "batch time embed"]:
        return self.table[...][tokens] * (scale * self.scale[...][tokens])[..., None]

    def unembed(self, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """Return hidden @ table.T."""
        return int8_product(hidden, self.table[...], self.scale[...])


class RopeDivisors(nnx.Module):
    """One divisor a rotary frequency, as a GGUF file of Llama 3 states its scaling."""

    def __init__(self, num_frequencies: int):
        self.divisors = nnx.Param(jnp.ones((num_frequencies,), jnp.float32))


class Layer(nnx.Module):
    """One decoder layer: attention and MLP, each behind a norm and, in a sandwich, before another."""

    def __init__(self, config: DecoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attention_norm = _make_norm(config, config.embed_dim)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.mlp_norm = _make_norm(config, config.embed_dim)
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)
        has_post = config.has_post_norms
        self.attention_post_norm = _make_norm(config, config.embed_dim) if has_post else None
        self.mlp_post_norm = _make_norm(config, config.embed_dim) if has_post else None

    def __call__(
        self,
        x: Float[Array, "batch time embed"],
        positions: Int[Array, "batch time"],
        turns: Float[Array, "2 batch time half"],
        window: int | Int[Array, ""] | None,
        slots: tuple[Keys, Values] | None,
    ) -> tuple[Float[Array, "batch time embed"], tuple[Keys, Values]]:
        """Return the layer's output and its keys and values, all slots of them; `window` as in `attention_mask`."""
        attended, slots = self.attention(self.attention_norm(x), positions, turns, window, slots)
        x = x + (attended if self.attention_post_norm is None else self.attention_post_norm(attended))
        fed = self.mlp(self.mlp_norm(x))
        return x + (fed if self.mlp_post_norm is None else self.mlp_post_norm(fed)), slots


class Attention(nnx.Module):
    """Grouped-query attention with rotary embedding; query, key and value come from one product."""

    def __init__(self, config: DecoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        num_all = config.num_heads + 2 * config.num_kv_heads
        self.qkv = Linear(
            config.embed_dim, num_all * config.head_dim, has_bias=config.has_qkv_bias, dtype=dtype, rngs=rngs
        )
        self.output = Linear(config.num_heads * config.head_dim, config.embed_dim, dtype=dtype, rngs=rngs)
        has_norms = config.has_query_key_norms
        self.query_norm = _make_norm(config, config.head_dim) if has_norms else None
        self.key_norm = _make_norm(config, config.head_dim) if has_norms else None
        self.config = config

    def __call__(
        self,
        x: Float[Array, "batch time embed"],
        positions: Int[Array, "batch time"],
        turns: Float[Array, "2 batch time half"],
        window: int | Int[Array, ""] | None,
        slots: tuple[Keys, Values] | None,
    ) -> tuple[Float[Array, "batch time embed"], tuple[Keys, Values]]:
        """Return the attended values and the keys and values, all slots of them.

        `window` is as in `attention_mask`; without a cache it must be a plain number, or None.
        """
        config, (num_rows, num_tokens, _) = self.config, x.shape
        query, key, value = self._project(x, turns)
        query = query.reshape(num_rows, num_tokens, config.num_kv_heads, -1, config.head_dim)
        keys, values = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
        scale, soft_cap = config.attention_scale, config.attention_soft_cap
        if slots is None:
            size = None if window is None else int(window)
            attended = attend_within(query, keys, values, window=size, scale=scale, soft_cap=soft_cap)
        else:
            keys = write_keys(slots[0], keys, positions[:, 0])
            values = write_values(slots[1], values, positions[:, 0])
            mask = attention_mask(positions, jnp.arange(values.shape[2]), window)
            attended = attend(query, keys, values, mask, scale=scale, soft_cap=soft_cap)
        return self.output(attended.reshape(num_rows, num_tokens, -1)), (keys, values)

    def _project(
        self, x: Float[Array, "batch time embed"], turns: Float[Array, "2 batch time half"]
    ) -> tuple[Float[Array, "batch time head head_dim"], ...]:
        """Return queries and keys, normalised and rotated, and values."""
        num_heads, num_kv_heads = self.config.num_heads, self.config.num_kv_heads
        heads = self.qkv(x).reshape(*x.shape[:2], -1, self.config.head_dim)
        query, key, value = jnp.split(heads, (num_heads, num_heads + num_kv_heads), axis=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return rotate(query, turns), rotate(key, turns), value


def _make_norm(config: DecoderConfig, dim: int) -> RMSNorm:
    return RMSNorm(dim, eps=config.norm_eps, offset=config.norm_offset)


@array_struct
class DecoderModel:
    """A decoder split once into what jit compiles for (config, graphdef) and what it is called with (params)."""

    params: nnx.State
    config: DecoderConfig = static_field()
    graphdef: nnx.GraphDef = static_field()

    def module(self) -> Decoder:
        """Return the decoder whole again, as functions under jit use it."""
        return nnx.merge(self.graphdef, self.params)

    @cached_property
    def ends(self) -> DecoderModel:
        """The decoder without its layers: all that programs need which embed tokens or make logits."""
        decoder = self.module()
        decoder.layers = nnx.List([])
        graphdef, params = nnx.split(decoder)
        return DecoderModel(params=params, config=self.config, graphdef=graphdef)

    @cached_property
    def layers(self) -> tuple[tuple[nnx.GraphDef[Layer], nnx.State], ...]:
        """The layers, each split, for programs of one layer."""
        return tuple(nnx.split(layer) for layer in self.module().layers)

    @property
    def dtype(self) -> Any:
        """The type of states and cache."""
        table: Any = self.params["embed"]["table"]
        return float_type(table.dtype)


def random_model(config: DecoderConfig, *, seed: int = 0, dtype: DTypeLike = jnp.float32) -> DecoderModel:
    """Return a decoder with random parameters."""
    graphdef, params = nnx.split(Decoder(config, dtype=dtype, rngs=nnx.Rngs(seed)))
    return DecoderModel(params=params, config=config, graphdef=graphdef)


def abstract_leaves(config: DecoderConfig, *, dtype: DTypeLike = jnp.float32) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and dtype of every leaf by its dotted name, without making any."""
    state = nnx.state(nnx.eval_shape(lambda: Decoder(config, dtype=dtype, rngs=nnx.Rngs(0))))
    return {_dotted(path): jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in nnx.to_flat_state(state)}


def int8_leaves(name: str, values: ArrayLike) -> dict[str, ArrayLike]:
    """Return what a decoder of int8 holds in the place of a leaf of float32, by dotted names."""
    if name == "embed.table":
        table, scale = quantize_outputs(values)
        return {name: table, "embed.scale": scale}
    if name.endswith(".kernel"):
        kernel, scale = quantize_outputs(jnp.asarray(values).T)
        module = name.removesuffix("kernel")
        return {f"{module}int8_kernel": kernel, f"{module}scale": scale}
    return {name: values}


def decoder_from_leaves(
    config: DecoderConfig, leaves: Mapping[str, Any], *, dtype: DTypeLike = jnp.float32
) -> DecoderModel:
    """Return a decoder with the given leaves, exactly those that `abstract_leaves` names, put on the device."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, dtype=dtype, rngs=nnx.Rngs(0))))
    flat = nnx.to_flat_state(state)
    names = [_dotted(path) for path, _ in flat]
    if set(names) != set(leaves):
        raise ValueError(
            f"Leaves must be those of the module; these are not shared: {sorted(set(names) ^ set(leaves))}."
        )
    filled = [(path, x.replace(jnp.asarray(leaves[_dotted(path)], x.dtype))) for path, x in flat]
    return DecoderModel(params=nnx.from_flat_state(filled), config=config, graphdef=graphdef)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)
