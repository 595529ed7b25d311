"""Every family against a tiny random torch model of the same architecture, through the family's own rules.

The oracle is transformers' own torch model, made here. No two of its sizes are equal, and they are primes but for what
architecture or transformers force: a rotary head_dim is even (twice a prime here), query heads are a multiple of
key-value heads (twice a prime, or as many where nothing is grouped), and the configs of llama and gemma3 refuse a
hidden size that is no multiple of the heads (a prime times the heads).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import numpy as np
import pytest
import torch
import transformers

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.llm.cache import resize_cache
from hierrouter_jax.llm.config import DecoderConfig, RopeScaling
from hierrouter_jax.llm.decoder import DecoderModel, abstract_leaves, decoder_from_leaves
from hierrouter_jax.llm.families.registry import FAMILIES, family_for_gguf, family_for_hf
from hierrouter_jax.weights.plan import HeadCounts, load_leaves

VOCAB_SIZE = 83
LENGTHS = (47, 1, 19)  # of a ragged batch: longer than gemma3's window, and than llama3's fast wavelengths
SHORT_LENGTH = 13  # where every split of a sequence is tried; still longer than gemma3's window
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "num_hidden_layers": 5,
    "hidden_size": 7 * 13,
    "intermediate_size": 37,
    "num_attention_heads": 7,
    "num_key_value_heads": 7,
    "head_dim": 2 * 17,
    "max_position_embeddings": 101,
    "rms_norm_eps": 1e-5,
}
GROUPED = {**SIZES, "num_attention_heads": 2 * 5, "num_key_value_heads": 2, "hidden_size": 10 * 13}
QWEN3 = {**GROUPED, "hidden_size": 67}
# Qwen2 has no head size of its own: it is the hidden size divided by the heads and rounded down, here 14 = 2 x 7.
QWEN2 = {name: value for name, value in GROUPED.items() if name != "head_dim"} | {"hidden_size": 149}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 7.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 53,
}
GEMMA3_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 31.0},
    "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1009.0},
}
GEMMA3 = {**GROUPED, "num_hidden_layers": 7, "sliding_window": 11, "query_pre_attn_scalar": 19}

CASES = {
    "llama": (transformers.LlamaConfig, {**SIZES}),
    "llama tied, grouped": (transformers.LlamaConfig, {**GROUPED, "tie_word_embeddings": True}),
    "llama scaled as Llama 3": (transformers.LlamaConfig, {**GROUPED, "rope_parameters": LLAMA3_ROPE}),
    "llama scaled linearly": (
        transformers.LlamaConfig,
        {**GROUPED, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 97.0}},
    ),
    "qwen2": (transformers.Qwen2Config, {**QWEN2, "rope_parameters": {"rope_type": "default", "rope_theta": 1009.0}}),
    "qwen3": (transformers.Qwen3Config, {**QWEN3, "tie_word_embeddings": True}),
    "gemma3": (transformers.Gemma3TextConfig, {**GEMMA3}),
    "gemma3 two ropes, logits capped": (
        transformers.Gemma3TextConfig,
        {**GEMMA3, "rope_parameters": GEMMA3_ROPES, "final_logit_softcapping": 2.0},
    ),
    "gemma3 attention and logits capped": (
        transformers.Gemma3TextConfig,
        {**GEMMA3, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
    ),
}


class DictReader:
    """Tensors of a state dict as a checkpoint."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors = tensors

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read(self, name: str) -> np.ndarray:
        return self.tensors[name]


def make_torch(name: str) -> torch.nn.Module:
    """Return the case's torch model, every parameter random, norms and biases too."""
    make_config, arguments = CASES[name]
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(make_config(**arguments), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            size = math.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 1.0
            parameter.copy_(torch.randn_like(parameter) / size)
    return model


def state_arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def load(config: DecoderConfig, rules, tensors: Mapping[str, np.ndarray], ignorable=()) -> DecoderModel:
    heads = HeadCounts(num_heads=config.num_heads, num_kv_heads=config.num_kv_heads)
    leaves = load_leaves(
        rules, config.num_layers, DictReader(tensors), abstract_leaves(config), heads=heads, ignorable=ignorable,
        is_quiet=True,
    )  # fmt: skip
    return decoder_from_leaves(config, leaves)


def load_hf(model: torch.nn.Module) -> DecoderModel:
    config_dict = model.config.to_dict()
    family = family_for_hf(config_dict)
    config = family.config_from_hf(config_dict)
    return load(config, family.hf_rules, state_arrays(model), family.ignorable_tensors)


@jax.jit
def our_logits(model: DecoderModel, tokens):
    return model.module()(tokens)[0]


def torch_logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    # The eager attention of Gemma 3 knows a soft cap, but its layers do not hand it the one of the config.
    cap = getattr(model.config, "attn_logit_softcapping", None)
    with torch.no_grad():
        return model(torch.tensor(tokens), **({} if cap is None else {"softcap": cap})).logits.numpy()


def is_prime(size: int) -> bool:
    return size > 1 and all(size % factor for factor in range(2, math.isqrt(size) + 1))


@pytest.mark.parametrize("name", CASES)
def test_no_two_sizes_are_equal_and_all_are_primes_but_for_those_that_cannot_be(name):
    stated = CASES[name][0](**CASES[name][1]).to_dict()
    config = family_for_hf(stated).config_from_hf(stated)
    heads, kv_heads = config.num_heads, config.num_kv_heads
    free = [config.vocab_size, config.mlp_dim, config.num_layers, kv_heads, config.context_window]
    free += [len(LENGTHS), max(LENGTHS), SHORT_LENGTH]
    if config.sliding_window is not None:
        free.append(config.sliding_window)
        assert config.sliding_window < SHORT_LENGTH
    primes = [*free, config.head_dim // 2, heads if heads == kv_heads else heads // kv_heads]
    primes.append(config.embed_dim if name.startswith("qwen") else config.embed_dim // heads)
    assert all(map(is_prime, primes)), primes
    sizes = [*free, config.embed_dim, config.head_dim, *([] if heads == kv_heads else [heads])]
    assert len(set(sizes)) == len(sizes), sizes


def ragged_tokens() -> np.ndarray:
    rng, tokens = np.random.default_rng(3), np.zeros((len(LENGTHS), max(LENGTHS)), np.int32)
    for row, length in enumerate(LENGTHS):
        tokens[row, :length] = rng.integers(0, VOCAB_SIZE, length)
    return tokens


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_torch_on_a_ragged_batch(name):
    torch_model, tokens = make_torch(name), ragged_tokens()
    logits = our_logits(load_hf(torch_model), tokens)
    for row, length in enumerate(LENGTHS):
        expected = torch_logits(torch_model, tokens[row : row + 1, :length])[0]
        assert np.abs(expected).max() > 1  # the comparison below means something
        np.testing.assert_allclose(logits[row, :length], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("cap", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_soft_caps_of_this_size_change_the_logits_of_torch(cap):
    """Else the comparisons above would hold without them."""
    torch_model, tokens = make_torch("gemma3 attention and logits capped"), ragged_tokens()[:1]
    capped = torch_logits(torch_model, tokens)
    setattr(torch_model.config, cap, None)
    assert np.abs(torch_logits(torch_model, tokens) - capped).max() > 0.1


@jax.jit
def read_all(model: DecoderModel, tokens):
    logits, cache = model.module()(tokens)
    return logits, resize_cache(cache, 17)


@jax.jit
def read_one(model: DecoderModel, token, position, cache):
    return model.module()(token, position, cache)


@pytest.mark.parametrize("name", CASES)
def test_incremental_logits_equal_the_full_forward_at_every_split(name):
    model = load_hf(make_torch(name))
    tokens = np.random.default_rng(13).integers(0, VOCAB_SIZE, (2, SHORT_LENGTH)).astype(np.int32)
    expected, _ = read_all(model, tokens)
    for split in range(1, SHORT_LENGTH):
        # What pads the prompt is written to the cache too, and must never be seen.
        _, cache = read_all(model, np.where(np.arange(SHORT_LENGTH) < split, tokens, 41))
        for at in range(split, SHORT_LENGTH):
            logits, cache = read_one(model, tokens[:, at : at + 1], np.full((2, 1), at, np.int32), cache)
            np.testing.assert_allclose(logits[:, 0], expected[:, at], atol=1e-4, rtol=0, err_msg=f"{split=} {at=}")


def gguf_permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Interleave the two rotary halves of every head's rows, row by row: what GGUF files of llama hold."""
    permuted = np.empty_like(weight)
    head_dim = weight.shape[0] // num_heads
    for head in range(num_heads):
        for pair in range(head_dim // 2):
            permuted[head * head_dim + 2 * pair] = weight[head * head_dim + pair]
            permuted[head * head_dim + 2 * pair + 1] = weight[head * head_dim + head_dim // 2 + pair]
    return permuted


GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "model.norm.weight": "output_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_tensors(model: torch.nn.Module, family: str) -> dict[str, np.ndarray]:
    """Rewrite a state dict as a GGUF file names and stores it."""
    config, tensors = model.config, {}
    after_attention = "post_attention_norm" if family == "gemma3" else "ffn_norm"
    for name, tensor in state_arrays(model).items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if family == "gemma3" and "norm" in name:
            tensor = tensor + 1
        if family == "llama" and "q_proj" in name:
            tensor = gguf_permuted(tensor, config.num_attention_heads)
        if family == "llama" and "k_proj" in name:
            tensor = gguf_permuted(tensor, config.num_key_value_heads)
        name = name.replace("model.layers.", "blk.").replace("post_attention_layernorm", after_attention)
        for theirs, gguf in GGUF_NAMES.items():
            name = name.replace(theirs, gguf)
        tensors[name] = tensor
    return tensors


def gguf_metadata(model: torch.nn.Module, family: str) -> dict[str, object]:
    config = model.config
    metadata = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    if family != "qwen2":
        metadata |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if family == "gemma3":
        metadata |= {"attention.sliding_window": config.sliding_window}
        metadata |= {"rope.freq_base": config.rope_parameters["full_attention"]["rope_theta"]}
    else:
        metadata |= {"rope.freq_base": config.rope_parameters["rope_theta"]}
    tokens = [str(index) for index in range(config.vocab_size)]
    keyed = {f"{family}.{key}": value for key, value in metadata.items()}
    return {"general.architecture": family, "tokenizer.ggml.tokens": tokens, **keyed}


@pytest.mark.parametrize("name", ["llama", "llama tied, grouped", "qwen2", "qwen3", "gemma3"])
def test_gguf_and_hugging_face_files_of_one_model_give_the_same_leaves(name):
    torch_model = make_torch(name)
    if name == "gemma3":  # GGUF states no query scale: it is that of the head
        torch_model.config.query_pre_attn_scalar = torch_model.config.head_dim
    expected = load_hf(torch_model)
    family = name.split()[0]
    tensors, metadata = gguf_tensors(torch_model, family), gguf_metadata(torch_model, family)
    rules_of = family_for_gguf(metadata)
    config = rules_of.config_from_gguf(metadata, tensors)
    assert config.attention_scale == pytest.approx(expected.config.attention_scale)
    assert dataclasses.replace(config, query_scale=expected.config.query_scale) == expected.config
    actual = load(config, rules_of.gguf_rules, tensors)
    tokens = np.random.default_rng(5).integers(0, VOCAB_SIZE, (2, 13))
    # The leaves are equal, but for gemma3's norms, where 1 was added and subtracted in float32.
    np.testing.assert_allclose(our_logits(actual, tokens), our_logits(expected, tokens), atol=1e-5, rtol=0)


def test_rope_divisors_of_a_gguf_file_compute_the_scaling_that_hugging_face_states():
    torch_model = make_torch("llama scaled as Llama 3")
    config, rope = torch_model.config, torch_model.model.rotary_emb
    unscaled = config.rope_parameters["rope_theta"] ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    divisors = (unscaled / rope.inv_freq.numpy()).astype(np.float32)
    assert (divisors.min(), divisors.max()) == pytest.approx((1, 7))
    tensors = {**gguf_tensors(torch_model, "llama"), "rope_freqs.weight": divisors}
    metadata = gguf_metadata(torch_model, "llama")
    family = family_for_gguf(metadata)
    model = load(family.config_from_gguf(metadata, tensors), family.gguf_rules, tensors)
    tokens = np.random.default_rng(11).integers(0, VOCAB_SIZE, (2, 61))
    np.testing.assert_allclose(our_logits(model, tokens), torch_logits(torch_model, tokens), atol=1e-4)


def test_a_tied_model_may_repeat_its_embedding_but_an_untied_one_needs_its_output():
    tied, untied = make_torch("llama tied, grouped"), make_torch("llama")
    assert "lm_head.weight" in state_arrays(tied)
    assert load_hf(tied).config.has_tied_output
    tensors = state_arrays(untied)
    del tensors["lm_head.weight"]
    family = family_for_hf(untied.config.to_dict())
    with pytest.raises(WeightsError, match=r"lm_head\.weight is missing"):
        load(family.config_from_hf(untied.config.to_dict()), family.hf_rules, tensors, family.ignorable_tensors)


def test_configs_written_in_the_old_form_read_the_same():
    scaling = {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_theta"}
    old = {"model_type": "llama", **GROUPED, "rope_theta": 500.0, "rope_scaling": scaling}
    new = {"model_type": "llama", **GROUPED, "rope_parameters": LLAMA3_ROPE}
    family = family_for_hf(old)
    assert family.config_from_hf(old) == family.config_from_hf(new)
    assert family.config_from_hf(old).rope_scaling == RopeScaling(
        kind="llama3", factor=7.0, low_freq_factor=1.0, high_freq_factor=3.0, original_context=53
    )
    old = {"model_type": "gemma3_text", **GEMMA3, "rope_theta": 1009.0, "rope_local_base_freq": 31.0}
    old |= {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "sliding_window_pattern": 6}
    kinds = transformers.Gemma3TextConfig(**GEMMA3).layer_types
    new = {"model_type": "gemma3_text", **GEMMA3, "rope_parameters": GEMMA3_ROPES, "layer_types": kinds}
    family = family_for_hf(old)
    assert family.config_from_hf(old) == family.config_from_hf(new)
    assert family.config_from_hf(old).local_layers == (True,) * 5 + (False, True)


REAL_GGUF = {  # sizes that the files of the real models state
    "llama": {"block_count": 30, "embedding_length": 576, "head_count": 9, "head_count_kv": 3, "rope": 1e5},
    "qwen2": {"block_count": 24, "embedding_length": 896, "head_count": 14, "head_count_kv": 2, "rope": 1e6},
}


@pytest.mark.parametrize("arch", REAL_GGUF)
def test_a_head_size_that_gguf_leaves_out_follows_from_the_embedding(arch):
    sizes = REAL_GGUF[arch]
    metadata = {
        "general.architecture": arch,
        f"{arch}.block_count": sizes["block_count"],
        f"{arch}.context_length": 8192,
        f"{arch}.embedding_length": sizes["embedding_length"],
        f"{arch}.feed_forward_length": [1536] * sizes["block_count"],
        f"{arch}.attention.head_count": sizes["head_count"],
        f"{arch}.attention.head_count_kv": sizes["head_count_kv"],
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{arch}.rope.freq_base": sizes["rope"],
        f"{arch}.vocab_size": 49152,
    }
    config = family_for_gguf(metadata).config_from_gguf(metadata, ["output.weight"])
    assert (config.head_dim, config.mlp_dim, config.vocab_size) == (64, 1536, 49152)
    assert not config.has_tied_output
    assert config.has_qkv_bias == (arch == "qwen2")


def test_gemma3_of_27b_scales_queries_by_its_embedding_not_by_its_heads():
    torch_model = make_torch("gemma3")
    metadata = {**gguf_metadata(torch_model, "gemma3"), "gemma3.block_count": 62}
    config = family_for_gguf(metadata).config_from_gguf(metadata, [])
    assert config.attention_scale == pytest.approx((130 / 10) ** -0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused_by_name(change, message):
    config = {"model_type": "llama", **SIZES, **change}
    with pytest.raises(WeightsError, match=message):
        family_for_hf(config).config_from_hf(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "rwkv7"}, "rwkv7"),
        ({"llama.rope.scaling.type": "yarn"}, "yarn"),
        ({"llama.rope.dimension_count": 10}, "dimension_count"),
        ({"llama.attention.head_count_kv": [5, 5, 1]}, "head_count_kv"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"llama.block_count": None}, "block_count"),
    ],
)
def test_gguf_files_that_the_decoder_does_not_compute_are_refused_by_name(change, message):
    metadata = {**gguf_metadata(make_torch("llama"), "llama"), **change}
    with pytest.raises(WeightsError, match=message):
        family_for_gguf(metadata).config_from_gguf(metadata, [])


def test_every_family_has_a_rule_for_every_leaf_its_models_have():
    for name in CASES:
        config_dict = CASES[name][0](**CASES[name][1]).to_dict()
        family = family_for_hf(config_dict)
        leaves = set(abstract_leaves(family.config_from_hf(config_dict)))
        for rules in (family.hf_rules, family.gguf_rules):
            filled = {rule.leaf.replace("{layer}", "0") for rule in rules}
            assert {leaf for leaf in leaves if not leaf.startswith(("layers.1", "layers.2"))} - filled <= {
                leaf for leaf in leaves if leaf.startswith("layers.") and not leaf.startswith("layers.0")
            }
    assert {family.name for family in FAMILIES} == {"llama", "qwen2", "qwen3", "gemma3"}
