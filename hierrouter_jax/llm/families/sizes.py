"""The sizes every family states under the same names, read from a Hugging Face config or from GGUF metadata."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.llm.families.metadata import gguf_rope_scaling, required, same_for_all_layers


def hf_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `DecoderConfig` fields that all Hugging Face configs name alike."""
    num_heads = int(required(config, "num_attention_heads"))
    embed_dim = int(required(config, "hidden_size"))
    return {
        "vocab_size": int(required(config, "vocab_size")),
        "num_layers": int(required(config, "num_hidden_layers")),
        "embed_dim": embed_dim,
        "mlp_dim": int(required(config, "intermediate_size")),
        "num_heads": num_heads,
        "num_kv_heads": int(config.get("num_key_value_heads") or num_heads),
        "head_dim": _head_dim(config.get("head_dim"), embed_dim, num_heads),
        "context_window": int(required(config, "max_position_embeddings")),
        "norm_eps": float(required(config, "rms_norm_eps")),
    }


def gguf_sizes(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> dict[str, Any]:
    """Return the `DecoderConfig` fields that GGUF names alike under the architecture's prefix."""
    arch = str(required(metadata, "general.architecture"))
    num_heads = same_for_all_layers(metadata, f"{arch}.attention.head_count")
    embed_dim = int(required(metadata, f"{arch}.embedding_length"))
    head_dim = _head_dim(metadata.get(f"{arch}.attention.key_length"), embed_dim, num_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        value = metadata.get(f"{arch}.{key}")
        if value is not None and int(value) != head_dim:
            raise WeightsError(f"{arch}.{key} must equal the key length {head_dim}, but is {value}.")
    return {
        "vocab_size": _gguf_vocab_size(metadata, arch),
        "num_layers": int(required(metadata, f"{arch}.block_count")),
        "embed_dim": embed_dim,
        "mlp_dim": same_for_all_layers(metadata, f"{arch}.feed_forward_length"),
        "num_heads": num_heads,
        "num_kv_heads": _gguf_num_kv_heads(metadata, arch, num_heads),
        "head_dim": head_dim,
        "context_window": int(required(metadata, f"{arch}.context_length")),
        "norm_eps": float(required(metadata, f"{arch}.attention.layer_norm_rms_epsilon")),
        "rope_base": float(metadata.get(f"{arch}.rope.freq_base") or 10000.0),
        "rope_scaling": gguf_rope_scaling(metadata, arch),
        "has_rope_divisors": "rope_freqs.weight" in tensor_names,
        "has_tied_output": "output.weight" not in tensor_names,
    }


def _head_dim(stated: Any, embed_dim: int, num_heads: int) -> int:
    """Return the stated width, else an equal share; no heads at all are for `DecoderConfig` to refuse."""
    return int(stated or embed_dim // max(num_heads, 1))


def _gguf_num_kv_heads(metadata: Mapping[str, Any], arch: str, num_heads: int) -> int:
    key = f"{arch}.attention.head_count_kv"
    return same_for_all_layers(metadata, key) if metadata.get(key) is not None else num_heads


def _gguf_vocab_size(metadata: Mapping[str, Any], arch: str) -> int:
    """Every token has a row in the embedding, so the vocabulary's own list is as good as a stated size."""
    stated = metadata.get(f"{arch}.vocab_size")
    return int(stated) if stated is not None else len(required(metadata, "tokenizer.ggml.tokens"))
