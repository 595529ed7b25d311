"""The shape of a sentence encoder, read from the `config.json` of a BERT or MPNet checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from hierrouter_jax.core.errors import ConfigError, WeightsError, raise_all

Family = Literal["bert", "mpnet"]

# The reference implementation of MPNet sorts distances into 32 buckets whatever the config says.
MPNET_NUM_BUCKETS = 32

# Our name of each size, and its name in config.json.
_HF_SIZES = {
    "vocab_size": "vocab_size",
    "embed_dim": "hidden_size",
    "mlp_dim": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_positions": "max_position_embeddings",
}

# What config.json must say where it says anything: other values mean another architecture.
_HF_SUPPORTED: dict[Family, dict[str, Any]] = {
    "bert": {"hidden_act": "gelu", "position_embedding_type": "absolute", "type_vocab_size": 2, "is_decoder": False},
    "mpnet": {"hidden_act": "gelu", "relative_attention_num_buckets": MPNET_NUM_BUCKETS},
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of a post-norm transformer encoder with learned positions.

    BERT adds the embedding of token type 0 to every token; MPNet has no token types, adds a relative position bias to
    the attention scores, and gives the first token position 2 (rows 0 and 1 of the table are never read).
    """

    family: Family
    vocab_size: int
    embed_dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    num_positions: int
    norm_epsilon: float

    def __post_init__(self) -> None:
        """Refuse sizes that make no encoder, all at once."""
        sizes = {field.name: getattr(self, field.name) for field in fields(self) if field.name in _HF_SIZES}
        problems = [f"{name} must be >= 1, but is {size}" for name, size in sizes.items() if size < 1]
        if self.num_heads >= 1 and self.embed_dim % self.num_heads:
            problems.append(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads}")
        if not problems and self.window_tokens < 1:
            problems.append(f"num_positions must be > {self.position_offset}, but is {self.num_positions}")
        raise_all(ConfigError, "The encoder's config is not valid:", problems)

    @property
    def position_offset(self) -> int:
        """Row of the position table that the first token reads."""
        return 2 if self.family == "mpnet" else 0

    @property
    def window_tokens(self) -> int:
        """Most tokens the position table has rows for."""
        return self.num_positions - self.position_offset

    @property
    def num_token_types(self) -> int:
        """Rows of the token-type table; only row 0 is read."""
        return 2 if self.family == "bert" else 0


def config_from_hf(data: Mapping[str, Any]) -> EncoderConfig:
    """Return the config that a Hugging Face `config.json` describes.

    Raises `WeightsError` naming an architecture, activation or position scheme that is not built here, or the keys
    that are missing.
    """
    family = data.get("model_type")
    if family not in ("bert", "mpnet"):
        raise WeightsError(f"The encoder must be of model_type bert or mpnet, but config.json says {family!r}.")
    problems = [f"{key} is missing" for key in _HF_SIZES.values() if key not in data]
    problems += [
        f"{key} must be {value!r}, but is {data[key]!r}"
        for key, value in _HF_SUPPORTED[family].items()
        if data.get(key, value) != value
    ]
    raise_all(WeightsError, f"config.json describes a {family} encoder that is not supported:", problems)
    sizes = {name: int(data[key]) for name, key in _HF_SIZES.items()}
    return EncoderConfig(family=family, norm_epsilon=float(data.get("layer_norm_eps", 1e-12)), **sizes)
