"""Qwen3, dense: Llama with a norm on every head's query and key, and a head size of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.llm.families import rules
from hierrouter_jax.llm.families.family import Family
from hierrouter_jax.llm.families.metadata import hf_rope, refuse
from hierrouter_jax.llm.families.sizes import gguf_sizes, hf_sizes


def _config_from_hf(config: Mapping[str, Any]) -> DecoderConfig:
    refuse(config, {"hidden_act": ("silu",), "attention_bias": (False,), "use_sliding_window": (False,)})
    base, scaling = hf_rope(config)
    return DecoderConfig(
        **hf_sizes({"head_dim": 128, **config}),
        rope_base=base,
        rope_scaling=scaling,
        has_query_key_norms=True,
        has_tied_output=bool(config.get("tie_word_embeddings", False)),
    )


def _config_from_gguf(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> DecoderConfig:
    return DecoderConfig(**gguf_sizes(metadata, tensor_names), has_query_key_norms=True)


FAMILY = Family(
    name="qwen3",
    config_from_hf=_config_from_hf,
    config_from_gguf=_config_from_gguf,
    hf_rules=(*rules.HF_BASE_RULES, rules.HF_MLP_NORM, *rules.HF_QUERY_KEY_NORMS),
    gguf_rules=(*rules.gguf_base_rules(), *rules.gguf_query_key_norms(), rules.GGUF_ROPE_DIVISORS),
    ignorable_tensors=rules.HF_IGNORABLE,
)
