"""The rows of weight rules that families share, so that a family's file states only what is its own."""

from __future__ import annotations

from hierrouter_jax.weights.rules import Transform, WeightRule

# A tied model's file may repeat the embedding as an output projection.
HF_IGNORABLE = ("lm_head.weight",)

By = Transform | tuple[Transform, ...]


def rule(leaf: str, *tensors: str, by: By = "identity", is_optional: bool = False) -> WeightRule:
    """Return the rule that fills `leaf` from `tensors`."""
    transforms: tuple[Transform, ...] = by if isinstance(by, tuple) else (by,)
    return WeightRule(leaf=leaf, tensors=tensors, transforms=transforms, is_optional=is_optional)


def layer_rule(leaf: str, *tensors: str, by: By = "identity") -> WeightRule:
    """Return the rule of a leaf that every layer has; `tensors` are full templates."""
    return rule(f"layers.{{layer}}.{leaf}", *tensors, by=by)


_HF = "model.layers.{layer}."
_GGUF = "blk.{layer}."

HF_BASE_RULES = (
    rule("embed.table", "model.embed_tokens.weight"),
    layer_rule(
        "attention.qkv.kernel",
        *(f"{_HF}self_attn.{name}_proj.weight" for name in "qkv"),
        by="transpose",
    ),
    layer_rule("attention.output.kernel", f"{_HF}self_attn.o_proj.weight", by="transpose"),
    layer_rule("mlp.gate_up.kernel", f"{_HF}mlp.gate_proj.weight", f"{_HF}mlp.up_proj.weight", by="transpose"),
    layer_rule("mlp.down.kernel", f"{_HF}mlp.down_proj.weight", by="transpose"),
    layer_rule("attention_norm.scale", f"{_HF}input_layernorm.weight"),
    rule("final_norm.scale", "model.norm.weight"),
    rule("unembed.kernel", "lm_head.weight", by="transpose", is_optional=True),
)
# The norm before the MLP bears another name in Gemma, where "post_attention" is meant literally.
HF_MLP_NORM = layer_rule("mlp_norm.scale", f"{_HF}post_attention_layernorm.weight")
HF_QKV_BIAS = layer_rule("attention.qkv.bias", *(f"{_HF}self_attn.{name}_proj.bias" for name in "qkv"))
HF_QUERY_KEY_NORMS = (
    layer_rule("attention.query_norm.scale", f"{_HF}self_attn.q_norm.weight"),
    layer_rule("attention.key_norm.scale", f"{_HF}self_attn.k_norm.weight"),
)
HF_SANDWICH_NORMS = (
    layer_rule("attention_post_norm.scale", f"{_HF}post_attention_layernorm.weight"),
    layer_rule("mlp_norm.scale", f"{_HF}pre_feedforward_layernorm.weight"),
    layer_rule("mlp_post_norm.scale", f"{_HF}post_feedforward_layernorm.weight"),
)


def gguf_base_rules(*, norm: Transform = "identity", is_rotary_permuted: bool = False) -> tuple[WeightRule, ...]:
    """Return the rules that every GGUF decoder has; `norm` undoes what the file did to norm weights."""
    query: Transform = "unpermute_query" if is_rotary_permuted else "transpose"
    key: Transform = "unpermute_key" if is_rotary_permuted else "transpose"
    return (
        rule("embed.table", "token_embd.weight"),
        layer_rule(
            "attention.qkv.kernel",
            *(f"{_GGUF}attn_{name}.weight" for name in "qkv"),
            by=(query, key, "transpose"),
        ),
        layer_rule("attention.output.kernel", f"{_GGUF}attn_output.weight", by="transpose"),
        layer_rule("mlp.gate_up.kernel", f"{_GGUF}ffn_gate.weight", f"{_GGUF}ffn_up.weight", by="transpose"),
        layer_rule("mlp.down.kernel", f"{_GGUF}ffn_down.weight", by="transpose"),
        layer_rule("attention_norm.scale", f"{_GGUF}attn_norm.weight", by=norm),
        layer_rule("mlp_norm.scale", f"{_GGUF}ffn_norm.weight", by=norm),
        rule("final_norm.scale", "output_norm.weight", by=norm),
        rule("unembed.kernel", "output.weight", by="transpose", is_optional=True),
    )


GGUF_QKV_BIAS = layer_rule("attention.qkv.bias", *(f"{_GGUF}attn_{name}.bias" for name in "qkv"))
GGUF_ROPE_DIVISORS = rule("rope.divisors", "rope_freqs.weight", is_optional=True)


def gguf_query_key_norms(*, norm: Transform = "identity") -> tuple[WeightRule, ...]:
    """Return the rules of the norms on queries and keys."""
    return (
        layer_rule("attention.query_norm.scale", f"{_GGUF}attn_q_norm.weight", by=norm),
        layer_rule("attention.key_norm.scale", f"{_GGUF}attn_k_norm.weight", by=norm),
    )


def gguf_sandwich_norms(*, norm: Transform = "identity") -> tuple[WeightRule, ...]:
    """Return the rules of the norms behind attention and MLP."""
    return (
        layer_rule("attention_post_norm.scale", f"{_GGUF}post_attention_norm.weight", by=norm),
        layer_rule("mlp_post_norm.scale", f"{_GGUF}post_ffw_norm.weight", by=norm),
    )
