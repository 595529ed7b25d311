"""Weight rules: a family's mapping from the tensors of a file to the leaves of a module, as data.

Names are templates in which `{layer}` stands for a layer's index. A rule with several tensors concatenates them,
after their transforms, along the leaf's last axis (fused projections).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hierrouter_jax.core.errors import ConfigError

# transpose: a torch Linear (out, in) becomes a kernel (in, out).
# unpermute_query / unpermute_key: GGUF stores llama's rotary rows interleaved; undone, then transposed.
# subtract_one: GGUF stores Gemma's norm weights with 1 already added.
Transform = Literal["identity", "transpose", "unpermute_query", "unpermute_key", "subtract_one"]


@dataclass(frozen=True, kw_only=True)
class WeightRule:
    """One leaf of the module and the tensors that fill it.

    `transforms` has one entry a tensor, or a single entry for all. An optional rule applies only when the module has
    the leaf (biases, separate output weights): without the leaf, it asks for nothing.
    """

    leaf: str  # dotted path in the module's state, such as "layers.{layer}.attention.qkv.kernel"
    tensors: tuple[str, ...]  # such as ("model.layers.{layer}.self_attn.q_proj.weight", ...)
    transforms: tuple[Transform, ...] = ("identity",)
    is_optional: bool = False

    def __post_init__(self) -> None:
        """Refuse a rule that no file could satisfy."""
        if not self.tensors:
            raise ConfigError(f"A weight rule needs at least one tensor, but the rule of leaf {self.leaf!r} has none.")
        if len(self.transforms) not in (1, len(self.tensors)):
            raise ConfigError(
                f"A weight rule needs one transform, or one a tensor, but the rule of leaf {self.leaf!r} "
                f"has {len(self.transforms)} for {len(self.tensors)} tensors."
            )

    @property
    def is_per_layer(self) -> bool:
        """Whether the rule stands for one leaf in every layer."""
        return "{layer}" in self.leaf
