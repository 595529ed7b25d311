"""Which family reads which checkpoint, told by the name that the checkpoint itself bears."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.llm.families import gemma3, llama, qwen2, qwen3
from hierrouter_jax.llm.families.family import Family

FAMILIES: tuple[Family, ...] = (llama.FAMILY, qwen2.FAMILY, qwen3.FAMILY, gemma3.FAMILY)
# The names that Hugging Face configs give (`model_type`) and that GGUF files give (`general.architecture`).
_HF_NAMES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
_GGUF_NAMES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3"}


def family_for_hf(config: Mapping[str, Any]) -> Family:
    """Return the family of a Hugging Face config. Raises `WeightsError` that names an unsupported architecture."""
    return _find(config.get("model_type"), _HF_NAMES)


def family_for_gguf(metadata: Mapping[str, Any]) -> Family:
    """Return the family of a GGUF file. Raises `WeightsError` that names an unsupported architecture."""
    return _find(metadata.get("general.architecture"), _GGUF_NAMES)


def _find(name: Any, names: Mapping[str, str]) -> Family:
    if name not in names:
        raise WeightsError(
            f"The architecture must be one of {', '.join(sorted(names))}, but the checkpoint's is {name!r}."
        )
    return next(family for family in FAMILIES if family.name == names[name])
