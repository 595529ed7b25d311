"""BERT and MPNet encoders: token ids to one vector a token.

Both are post-norm transformers (Devlin et al. 2019, arXiv:1810.04805; Song et al. 2020, arXiv:2004.09297) with learned
absolute positions and the exact GELU. They differ in the embeddings and in MPNet's relative position bias, which all
layers share. No dropout: the encoder is frozen. Sequences are padded on the right; what stands in the padding changes
no token before it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from hierrouter_jax.encoder.config import MPNET_NUM_BUCKETS, EncoderConfig

_MAX_DISTANCE = 128  # tokens at this distance or further share the last bucket


class TokenEncoder(nnx.Module):
    """The whole encoder, without pooling."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        """Make an encoder with random weights."""
        self.config = config
        self.word = nnx.Embed(config.vocab_size, config.embed_dim, rngs=rngs)
        self.position = nnx.Embed(config.num_positions, config.embed_dim, rngs=rngs)
        if config.family == "bert":
            self.token_type = nnx.Embed(config.num_token_types, config.embed_dim, rngs=rngs)
        else:
            self.relative_bias = nnx.Embed(MPNET_NUM_BUCKETS, config.num_heads, rngs=rngs)
        self.norm = nnx.LayerNorm(config.embed_dim, epsilon=config.norm_epsilon, rngs=rngs)
        self.layers = nnx.List([EncoderLayer(config, rngs=rngs) for _ in range(config.num_layers)])

    def __call__(
        self, token_ids: Int[Array, "batch time"], num_tokens: Int[Array, " batch"]
    ) -> Float[Array, "batch time embed"]:
        """Return the last layer's vectors; only the first `num_tokens` of each row mean something."""
        num_slots = token_ids.shape[1]
        rows = self.position(jnp.arange(num_slots) + self.config.position_offset)
        hidden = self.word(token_ids) + rows[None]
        bias = None
        if self.config.family == "bert":
            hidden = hidden + self.token_type(jnp.zeros((1, 1), jnp.int32))
        else:
            buckets = relative_position_buckets(num_slots)
            bias = self.relative_bias(jnp.asarray(buckets)).transpose(2, 0, 1)[None]
        hidden = self.norm(hidden)
        for layer in self.layers:
            hidden = layer(hidden, num_tokens, bias)
        return hidden


class EncoderLayer(nnx.Module):
    """Self-attention and MLP, each added to its input and then normalised."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        """Make a layer with random weights; query, key and value are one fused projection."""
        embed_dim, epsilon = config.embed_dim, config.norm_epsilon
        self.num_heads = config.num_heads
        self.qkv = nnx.Linear(embed_dim, 3 * embed_dim, rngs=rngs)
        self.out = nnx.Linear(embed_dim, embed_dim, rngs=rngs)
        self.attention_norm = nnx.LayerNorm(embed_dim, epsilon=epsilon, rngs=rngs)
        self.up = nnx.Linear(embed_dim, config.mlp_dim, rngs=rngs)
        self.down = nnx.Linear(config.mlp_dim, embed_dim, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(embed_dim, epsilon=epsilon, rngs=rngs)

    def __call__(
        self,
        hidden: Float[Array, "batch time embed"],
        num_tokens: Int[Array, " batch"],
        bias: Float[Array, "1 head time time"] | None,
    ) -> Float[Array, "batch time embed"]:
        """Return the layer's output; tokens attend to the first `num_tokens` of their row."""
        heads = (*hidden.shape[:2], self.num_heads, -1)
        query, key, value = (part.reshape(heads) for part in jnp.split(self.qkv(hidden), 3, axis=-1))
        mixed = jax.nn.dot_product_attention(query, key, value, bias=bias, key_value_seq_lengths=num_tokens)
        hidden = self.attention_norm(hidden + self.out(mixed.reshape(hidden.shape)))
        inner = jax.nn.gelu(self.up(hidden), approximate=False)
        return self.mlp_norm(hidden + self.down(inner))


def relative_position_buckets(num_slots: int) -> Int[np.ndarray, "time time"]:
    """Return the bucket of every pair (query position, key position) of MPNet's relative position bias.

    Half of the buckets are for keys after the query. In each half, distances below 8 have a bucket each, and longer
    ones share buckets of logarithmically growing width up to distance 128 (the scheme of T5, arXiv:1910.10683).
    """
    num_half = MPNET_NUM_BUCKETS // 2
    num_exact = num_half // 2
    offset = np.arange(num_slots)[None, :] - np.arange(num_slots)[:, None]
    distance = np.abs(offset)
    # In float32, as the weights were trained: in float64 a distance on a bucket's edge could fall on its other side.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(num_exact))
    growth = ratio / np.float32(np.log(_MAX_DISTANCE / num_exact)) * np.float32(num_half - num_exact)
    shared = np.minimum(num_exact + growth.astype(np.int32), num_half - 1)
    bucket = np.where(distance < num_exact, distance, shared)
    return (bucket + num_half * (offset > 0)).astype(np.int32)
