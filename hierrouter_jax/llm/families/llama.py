"""Llama and its relatives of the same architecture: Llama 2 and 3.x, SmolLM2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.llm.families import rules
from hierrouter_jax.llm.families.family import Family
from hierrouter_jax.llm.families.metadata import hf_rope, refuse
from hierrouter_jax.llm.families.sizes import gguf_sizes, hf_sizes


def _config_from_hf(config: Mapping[str, Any]) -> DecoderConfig:
    refuse(config, {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)})
    base, scaling = hf_rope(config)
    return DecoderConfig(
        **hf_sizes(config),
        rope_base=base,
        rope_scaling=scaling,
        has_tied_output=bool(config.get("tie_word_embeddings", False)),
    )


def _config_from_gguf(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> DecoderConfig:
    refuse(metadata, {"llama.expert_count": (0,)})
    return DecoderConfig(**gguf_sizes(metadata, tensor_names))


FAMILY = Family(
    name="llama",
    config_from_hf=_config_from_hf,
    config_from_gguf=_config_from_gguf,
    hf_rules=(*rules.HF_BASE_RULES, rules.HF_MLP_NORM),
    gguf_rules=(*rules.gguf_base_rules(is_rotary_permuted=True), rules.GGUF_ROPE_DIVISORS),
    ignorable_tensors=rules.HF_IGNORABLE,
)
