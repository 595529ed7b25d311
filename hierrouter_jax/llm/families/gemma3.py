"""Gemma 3, text only: local layers with a short window between global ones, norms around everything.

Local layers rotate at their own base and are never scaled. Norms multiply by (1 + scale); Hugging Face files hold
`scale`, GGUF files hold `1 + scale`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.llm.families import rules
from hierrouter_jax.llm.families.family import Family
from hierrouter_jax.llm.families.metadata import hf_rope_scaling, refuse, required
from hierrouter_jax.llm.families.sizes import gguf_sizes, hf_sizes

GLOBAL_EVERY = 6  # every sixth layer is global, counted from 1
LOCAL_ROPE_BASE = 10_000.0
GLOBAL_ROPE_BASE = 1_000_000.0
NUM_LAYERS_27B = 62  # the one size whose query scale is not head_dim ** -0.5, which GGUF files do not state


def _common(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "activation": "gelu_tanh",
        "has_query_key_norms": True,
        "has_post_norms": True,
        "norm_offset": 1,
        "embed_scale": math.sqrt(sizes["embed_dim"]),
    }


def _local_layers(num_layers: int, global_every: int) -> tuple[bool, ...]:
    return tuple((layer + 1) % global_every != 0 for layer in range(num_layers))


def _config_from_hf(config: Mapping[str, Any]) -> DecoderConfig:
    supported = {"hidden_activation": ("gelu_pytorch_tanh",), "attention_bias": (False,)}
    refuse(config, {**supported, "use_bidirectional_attention": (False,)})
    sizes = hf_sizes({"head_dim": 256, **config})
    kinds = config.get("layer_types")
    pattern = int(config.get("sliding_window_pattern") or GLOBAL_EVERY)
    is_local = tuple(kind == "sliding_attention" for kind in kinds or ())
    parameters = config.get("rope_parameters") or {}
    global_rope = parameters.get("full_attention") or {}
    local_rope = parameters.get("sliding_attention") or {}
    refuse(local_rope, {"rope_type": ("default",)})
    return DecoderConfig(
        **sizes,
        **_common(sizes),
        rope_base=float(global_rope.get("rope_theta", config.get("rope_theta", GLOBAL_ROPE_BASE))),
        rope_scaling=hf_rope_scaling(global_rope or config.get("rope_scaling"), config),
        local_rope_base=float(local_rope.get("rope_theta", config.get("rope_local_base_freq", LOCAL_ROPE_BASE))),
        sliding_window=int(required(config, "sliding_window")),
        local_layers=is_local or _local_layers(sizes["num_layers"], pattern),
        query_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        attention_soft_cap=config.get("attn_logit_softcapping"),
        final_soft_cap=config.get("final_logit_softcapping"),
        has_tied_output=bool(config.get("tie_word_embeddings", True)),
    )


def _config_from_gguf(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> DecoderConfig:
    sizes = gguf_sizes(metadata, tensor_names)
    is_27b = sizes["num_layers"] == NUM_LAYERS_27B
    final_soft_cap = metadata.get("gemma3.final_logit_softcapping")
    return DecoderConfig(
        **{**sizes, "rope_base": float(metadata.get("gemma3.rope.freq_base") or GLOBAL_ROPE_BASE)},
        **_common(sizes),
        local_rope_base=float(metadata.get("gemma3.rope.freq_base_swa") or LOCAL_ROPE_BASE),
        sliding_window=int(required(metadata, "gemma3.attention.sliding_window")),
        local_layers=_local_layers(sizes["num_layers"], GLOBAL_EVERY),
        query_scale=(sizes["embed_dim"] / sizes["num_heads"]) ** -0.5 if is_27b else None,
        final_soft_cap=float(final_soft_cap) if final_soft_cap else None,
    )


FAMILY = Family(
    name="gemma3",
    config_from_hf=_config_from_hf,
    config_from_gguf=_config_from_gguf,
    hf_rules=(*rules.HF_BASE_RULES, *rules.HF_SANDWICH_NORMS, *rules.HF_QUERY_KEY_NORMS),
    gguf_rules=(
        *rules.gguf_base_rules(norm="subtract_one"),
        *rules.gguf_query_key_norms(norm="subtract_one"),
        *rules.gguf_sandwich_norms(norm="subtract_one"),
        rules.GGUF_ROPE_DIVISORS,
    ),
    ignorable_tensors=rules.HF_IGNORABLE,
)
