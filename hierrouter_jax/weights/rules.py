"""Weight rules: a family's mapping from the tensors of a file to the leaves of a module, as data.

Names are templates in which `{layer}` stands for a layer's index. A rule with several tensors concatenates them,
after their transforms, along the leaf's last axis (fused projections).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# transpose: a torch Linear (out, in) becomes a kernel (in, out).
# unpermute_query / unpermute_key: GGUF stores llama's rotary rows interleaved; undone, then transposed.
# subtract_one: GGUF stores Gemma's norm weights with 1 already added.
Transform = Literal["identity", "transpose", "unpermute_query", "unpermute_key", "subtract_one"]


@dataclass(frozen=True, kw_only=True)
class WeightRule:
    """One leaf of the module and the tensors that fill it.

    `transforms` has one entry a tensor, or a single entry for all. A rule that `is_optional` may find none of its
    tensors when the module has no such leaf.
    """

    leaf: str  # dotted path in the module's state, such as "layers.{layer}.attention.qkv.kernel"
    tensors: tuple[str, ...]  # such as ("model.layers.{layer}.self_attn.q_proj.weight", ...)
    transforms: tuple[Transform, ...] = ("identity",)
