"""Reading model metadata strictly: a value that is absent, or that the decoder does not compute, is an error.

The dict of a Hugging Face config and the metadata of a GGUF file tell the same facts under other names; this module
reads either, and each family maps the facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.llm.config import RopeScaling


def required(metadata: Mapping[str, Any], key: str) -> Any:
    """Return the value of `key`. Raises `WeightsError` when it is absent."""
    value = metadata.get(key)
    if value is None:
        raise WeightsError(f"The model's metadata must have {key!r}, but it has not. Use a complete checkpoint.")
    return value


def refuse(metadata: Mapping[str, Any], supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise `WeightsError` for the first key that is present with a value outside those supported."""
    for key, values in supported.items():
        value = metadata.get(key)
        if value is not None and value not in values:
            wanted = " or ".join(repr(value) for value in values)
            raise WeightsError(f"The decoder computes {key} = {wanted}, but the model's metadata says {value!r}.")


def same_for_all_layers(metadata: Mapping[str, Any], key: str) -> int:
    """Return an integer that GGUF gives once, or once a layer. Raises `WeightsError` when layers differ."""
    value = required(metadata, key)
    if not isinstance(value, (list, tuple)):
        return int(value)
    if len(set(value)) != 1:
        raise WeightsError(f"{key} must be the same for all layers, but is {list(value)}.")
    return int(value[0])


def hf_rope(config: Mapping[str, Any], *, default_base: float = 10000.0) -> tuple[float, RopeScaling | None]:
    """Return rotary base and scaling of a Hugging Face config, written in its old or its new form."""
    parameters = config.get("rope_parameters") or {}
    base = float(parameters.get("rope_theta", config.get("rope_theta", default_base)))
    return base, hf_rope_scaling(parameters or config.get("rope_scaling"), config)


def hf_rope_scaling(parameters: Mapping[str, Any] | None, config: Mapping[str, Any]) -> RopeScaling | None:
    """Return the scaling that a `rope_scaling` or `rope_parameters` entry describes, None for the default kind."""
    kind = (parameters or {}).get("rope_type", (parameters or {}).get("type", "default"))
    if parameters is None or kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=float(required(parameters, "factor")))
    if kind != "llama3":
        raise WeightsError(f"The decoder computes rotary scaling linear and llama3, but the model uses {kind!r}.")
    return RopeScaling(
        kind="llama3",
        factor=float(required(parameters, "factor")),
        low_freq_factor=float(required(parameters, "low_freq_factor")),
        high_freq_factor=float(required(parameters, "high_freq_factor")),
        original_context=int(parameters.get("original_max_position_embeddings") or config["max_position_embeddings"]),
    )


def gguf_rope_scaling(metadata: Mapping[str, Any], architecture: str) -> RopeScaling | None:
    """Return the scaling that GGUF metadata states; llama3's comes as a tensor instead and is none here."""
    kind = metadata.get(f"{architecture}.rope.scaling.type")
    legacy_factor = metadata.get(f"{architecture}.rope.scale_linear")
    factor = metadata.get(f"{architecture}.rope.scaling.factor", legacy_factor)
    if kind not in (None, "none", "linear"):
        raise WeightsError(f"The decoder computes rotary scaling linear of GGUF files, but the file says {kind!r}.")
    if kind == "none" or factor is None or float(factor) == 1.0:
        return None
    return RopeScaling(kind="linear", factor=float(factor))
