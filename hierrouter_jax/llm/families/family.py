"""What a model family is: two config mappings and two tables of weight rules.

Leaf names, shared by all families (kernels are (in, out); shapes in the house words):

    embed.table                            (vocab, embed)
    layers.{layer}.attention_norm.scale    (embed,)
    layers.{layer}.attention.qkv.kernel    (embed, (num_heads + 2 num_kv_heads) head_dim)
    layers.{layer}.attention.qkv.bias      where has_qkv_bias
    layers.{layer}.attention.query_norm.scale, ...key_norm.scale   (head_dim,) where has_query_key_norms
    layers.{layer}.attention.output.kernel (num_heads head_dim, embed)
    layers.{layer}.attention_post_norm.scale   where has_post_norms
    layers.{layer}.mlp_norm.scale          (embed,)
    layers.{layer}.mlp.gate_up.kernel      (embed, 2 mlp)
    layers.{layer}.mlp.down.kernel         (mlp, embed)
    layers.{layer}.mlp_post_norm.scale     where has_post_norms
    final_norm.scale                       (embed,)
    unembed.kernel                         (embed, vocab) unless has_tied_output
    rope.divisors                          (head_dim / 2,) where has_rope_divisors

A family's table holds a rule for every leaf its models may have; those that only some of them have are optional.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.weights.rules import WeightRule


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family.

    `config_from_gguf` takes the names of the file's tensors beside its metadata, because GGUF tells only through them
    whether the output projection is separate and whether rotary frequencies are divided. Both mappings raise
    `WeightsError` for what the decoder does not compute. `ignorable_tensors` are shell patterns of names that may be in
    a file without any use.
    """

    name: str
    config_from_hf: Callable[[Mapping[str, Any]], DecoderConfig]
    config_from_gguf: Callable[[Mapping[str, Any], Collection[str]], DecoderConfig]
    hf_rules: tuple[WeightRule, ...]
    gguf_rules: tuple[WeightRule, ...]
    ignorable_tensors: tuple[str, ...] = ()
