"""What distinguishes one decoder from another, as frozen data.

Every supported family is a setting of these fields; the code of the decoder never asks for a family's name. Sizes
count elements, `context_window` counts tokens, `sliding_window` counts the positions a local layer sees, its own
included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hierrouter_jax.core.errors import ConfigError, raise_all

Activation = Literal["silu", "gelu_tanh"]
NormOffset = Literal[0, 1]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched to a longer context than the one first trained on.

    `linear` divides every frequency by `factor`. `llama3` divides the slow ones by `factor`, leaves the fast ones and
    blends between: a wavelength is slow above `original_context / low_freq_factor` tokens and fast below
    `original_context / high_freq_factor` (Llama 3.1).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        """Refuse factors without meaning."""
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ConfigError(f"A rotary scaling factor must be finite and > 0, but is {self.factor}.")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ConfigError(
                "llama3 rotary scaling needs 0 < low_freq_factor < high_freq_factor, "
                f"but got {self.low_freq_factor} and {self.high_freq_factor}."
            )
        if self.original_context < 1:
            raise ConfigError(f"original_context must be >= 1, but is {self.original_context}.")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The architecture of one decoder-only transformer."""

    vocab_size: int
    num_layers: int
    embed_dim: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_window: int
    norm_eps: float
    rope_base: float
    rope_scaling: RopeScaling | None = None
    has_rope_divisors: bool = False  # a tensor of the file divides the frequencies, one number each
    sliding_window: int | None = None
    local_layers: tuple[bool, ...] = ()  # one flag a layer; empty when no layer is local
    local_rope_base: float | None = None  # None: local layers rotate as the others do; else unscaled at this base
    activation: Activation = "silu"
    has_qkv_bias: bool = False
    has_query_key_norms: bool = False
    has_post_norms: bool = False  # sandwich: the output of attention and of the MLP is normalised too
    norm_offset: NormOffset = 0  # a norm multiplies by (offset + scale)
    embed_scale: float = 1.0
    query_scale: float | None = None  # None: head_dim ** -0.5
    attention_soft_cap: float | None = None
    final_soft_cap: float | None = None
    has_tied_output: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other, all of them at once."""
        raise_all(ConfigError, "The decoder's config does not fit together:", self._problems())

    def _problems(self) -> list[str]:
        sizes = ("vocab_size", "num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads", "head_dim",
                 "context_window")  # fmt: skip
        positive = ("norm_eps", "rope_base", "local_rope_base", "embed_scale", "query_scale", "sliding_window",
                    "attention_soft_cap", "final_soft_cap")  # fmt: skip
        problems = [f"{name} must be >= 1, but is {getattr(self, name)}." for name in sizes if getattr(self, name) < 1]
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                problems.append(f"{name} must be finite and > 0, but is {value}.")
        if self.num_kv_heads >= 1 and self.num_heads % self.num_kv_heads != 0:
            problems.append(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads}).")
        if self.head_dim % 2 != 0:
            problems.append(f"head_dim must be even for rotary embedding, but is {self.head_dim}.")
        if self.local_layers and len(self.local_layers) != self.num_layers:
            problems.append(
                f"local_layers needs {self.num_layers} flags, one a layer, but has {len(self.local_layers)}."
            )
        if any(self.local_layers) and self.sliding_window is None:
            problems.append("Local layers need a sliding_window, but none is given.")
        return problems

    @property
    def attention_scale(self) -> float:
        """The factor on query-key products."""
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale

    def layer_window(self, layer: int) -> int | None:
        """Return how many positions layer `layer` sees, its own included, or None for all of them."""
        return self.sliding_window if self.is_local(layer) else None

    def is_local(self, layer: int) -> bool:
        """Whether layer `layer` sees a sliding window only."""
        return bool(self.local_layers) and self.local_layers[layer]
