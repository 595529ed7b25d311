"""Which tensors of a BERT or MPNet checkpoint fill which leaves of `TokenEncoder`, as data.

Names are those of a bare encoder (`BertModel`, `MPNetModel`), as sentence encoders are published.
"""

from __future__ import annotations

from hierrouter_jax.encoder.config import Family
from hierrouter_jax.weights.rules import WeightRule

_LAYER = "encoder.layer.{layer}."


def _norm(leaf: str, tensor: str) -> tuple[WeightRule, ...]:
    return (
        WeightRule(leaf=f"{leaf}.scale", tensors=(f"{tensor}.weight",)),
        WeightRule(leaf=f"{leaf}.bias", tensors=(f"{tensor}.bias",)),
    )


def _linear(leaf: str, *tensors: str) -> tuple[WeightRule, ...]:
    return (
        WeightRule(
            leaf=f"{leaf}.kernel", tensors=tuple(f"{name}.weight" for name in tensors), transforms=("transpose",)
        ),
        WeightRule(leaf=f"{leaf}.bias", tensors=tuple(f"{name}.bias" for name in tensors)),
    )


_COMMON = (
    WeightRule(leaf="word.embedding", tensors=("embeddings.word_embeddings.weight",)),
    WeightRule(leaf="position.embedding", tensors=("embeddings.position_embeddings.weight",)),
    *_norm("norm", "embeddings.LayerNorm"),
    *_linear("layers.{layer}.up", _LAYER + "intermediate.dense"),
    *_linear("layers.{layer}.down", _LAYER + "output.dense"),
    *_norm("layers.{layer}.mlp_norm", _LAYER + "output.LayerNorm"),
)

RULES: dict[Family, tuple[WeightRule, ...]] = {
    "bert": (
        *_COMMON,
        WeightRule(leaf="token_type.embedding", tensors=("embeddings.token_type_embeddings.weight",)),
        *_linear("layers.{layer}.qkv", *(_LAYER + f"attention.self.{name}" for name in ("query", "key", "value"))),
        *_linear("layers.{layer}.out", _LAYER + "attention.output.dense"),
        *_norm("layers.{layer}.attention_norm", _LAYER + "attention.output.LayerNorm"),
    ),
    "mpnet": (
        *_COMMON,
        WeightRule(leaf="relative_bias.embedding", tensors=("encoder.relative_attention_bias.weight",)),
        *_linear("layers.{layer}.qkv", *(_LAYER + f"attention.attn.{name}" for name in "qkv")),
        *_linear("layers.{layer}.out", _LAYER + "attention.attn.o"),
        *_norm("layers.{layer}.attention_norm", _LAYER + "attention.LayerNorm"),
    ),
}

# In the file, but no part of a sentence vector: the head of next-sentence prediction.
UNUSED_TENSORS = ("pooler.dense.weight", "pooler.dense.bias")
