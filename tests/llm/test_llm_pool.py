"""Pools of tiny models written in the test: specs, identity, loading, residency, and every kind of bad input."""

import json
from dataclasses import replace
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_pools import write_tiny_pool

from hierrouter_jax.core.errors import ConfigError, WeightsError
from hierrouter_jax.core.text import pool_digest
from hierrouter_jax.llm.loading import load_decoder, open_checkpoint
from hierrouter_jax.llm.pool import ModelSpec, PoolSpec, load_pool, read_pool_spec
from hierrouter_jax.weights.sources import resolve

EMBED, MLP, NUM_HEADS, NUM_KV_HEADS, NUM_LAYERS, VOCAB = 10, 11, 5, 1, 3, 13
HEAD_DIM = EMBED // NUM_HEADS
CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": EMBED,
    "intermediate_size": MLP,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "max_position_embeddings": 97,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def hf_tensors(seed=0):
    """The tensors of a tiny llama, under the names of the hub."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (VOCAB, EMBED), "model.norm.weight": (EMBED,)}
    for layer in range(NUM_LAYERS):
        prefix = f"model.layers.{layer}."
        for name, width in (("q", NUM_HEADS), ("k", NUM_KV_HEADS), ("v", NUM_KV_HEADS)):
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (width * HEAD_DIM, EMBED)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (EMBED, EMBED)
        shapes[f"{prefix}mlp.gate_proj.weight"] = shapes[f"{prefix}mlp.up_proj.weight"] = (MLP, EMBED)
        shapes[f"{prefix}mlp.down_proj.weight"] = (EMBED, MLP)
        shapes[f"{prefix}input_layernorm.weight"] = shapes[f"{prefix}post_attention_layernorm.weight"] = (EMBED,)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_hf(folder, *, config=CONFIG, tensors=None, seed=0):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(hf_tensors(seed) if tensors is None else tensors, folder / "model.safetensors")
    return folder


def write_gguf_twin(path, *, architecture="llama"):
    """The same model as `write_hf` makes, as a GGUF file."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(NUM_LAYERS)
    writer.add_context_length(97)
    writer.add_embedding_length(EMBED)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_token_list([f"t{index}" for index in range(VOCAB)])
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for name, values in hf_tensors().items():
        if name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", values)
        elif name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", values)
        else:
            _, _, layer, *middle, _ = name.split(".")
            short = names[".".join(middle)]
            heads = {"attn_q": NUM_HEADS, "attn_k": NUM_KV_HEADS}.get(short)
            if heads is not None:  # the converter of llama.cpp interleaves the halves of each head
                values = values.reshape(heads, 2, HEAD_DIM // 2, EMBED).swapaxes(1, 2).reshape(values.shape)
            writer.add_tensor(f"blk.{layer}.{short}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_pool(folder, text):
    path = folder / "pool.toml"
    path.write_text(text)
    return path


def model_toml(name, source, *, extra=""):
    return f'[[model]]\nname = "{name}"\nsource = "{source}"\nmax_new_tokens = 7\n{extra}\n'


@pytest.fixture
def pool_path(tmp_path):
    """Three models of different weights and equal size."""
    for index in range(3):
        write_hf(tmp_path / f"m{index}", seed=index)
    return write_pool(tmp_path, "".join(model_toml(f"model-{index}", f"m{index}") for index in range(3)))


def open_pool(path, **kwargs):
    return load_pool(path, cache_dir=Path(path).parent / "cache", is_quiet=True, **kwargs)


def count_parameters():
    return sum(values.size for values in hf_tensors().values())


def test_cards_say_what_is_in_the_files(tmp_path, pool_path):
    text = pool_path.read_text() + model_toml(
        "priced", "m0", extra='prompt_style = "plain"\nbase_rate = 3\ncontext_window = 31\nprice_in_usd_per_mtok = 1\n'
        "decode_s_per_token = 0.5\n",
    )  # fmt: skip
    pool = open_pool(write_pool(tmp_path, text))
    card = pool.card("model-1")
    assert (card.num_parameters, card.base_rate) == (count_parameters(), count_parameters())
    assert (card.context_window, card.max_new_tokens, card.prompt_style) == (97, 7, "chat")
    assert card.attention_width == NUM_LAYERS * NUM_HEADS * HEAD_DIM
    priced = pool.card("priced")
    assert (priced.base_rate, priced.context_window, priced.prompt_style) == (3.0, 31, "plain")
    assert (priced.price_in_usd_per_mtok, priced.decode_s_per_token) == (1.0, 0.5)
    assert pool.names == ("model-0", "model-1", "model-2", "priced")
    assert pool.digest == pool_digest(pool.cards)
    assert pool.resident == ()  # nothing was read for any of this


def test_an_embedding_that_makes_no_logits_is_not_active(tmp_path):
    tensors = hf_tensors() | {"lm_head.weight": np.ones((VOCAB, EMBED), np.float32)}
    write_hf(tmp_path / "m", config=CONFIG | {"tie_word_embeddings": False}, tensors=tensors)
    pool = open_pool(write_pool(tmp_path, model_toml("a", "m")))
    assert pool.card("a").num_parameters == count_parameters()


def test_identity_follows_files_and_dtype(tmp_path, pool_path):
    digests = [card.weights_digest for card in open_pool(pool_path).cards]
    assert len(set(digests)) == 3
    text = model_toml("a", "m0") + model_toml("b", "m0") + model_toml("c", "m0", extra='dtype = "bfloat16"')
    again = [card.weights_digest for card in open_pool(write_pool(tmp_path, text)).cards]
    assert again[0] == again[1] == digests[0]
    assert again[2] != digests[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_are_those_of_the_file(tmp_path, dtype):
    write_hf(tmp_path / "m")
    pool = open_pool(write_pool(tmp_path, model_toml("a", "m", extra=f'dtype = "{dtype}"')))
    params, tensors = pool.decoder("a").params, hf_tensors()
    attention = params["layers"][1]["attention"]
    prefix = "model.layers.1.self_attn."
    qkv = np.concatenate([tensors[f"{prefix}{name}_proj.weight"].T for name in "qkv"], axis=1)
    assert attention["qkv"]["kernel"].dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(attention["qkv"]["kernel"][...], qkv.astype(jnp.dtype(dtype)))
    np.testing.assert_array_equal(
        params["embed"]["table"][...], tensors["model.embed_tokens.weight"].astype(jnp.dtype(dtype))
    )


def test_int8_parameters_are_those_of_the_file_rounded(tmp_path):
    write_hf(tmp_path / "m")
    pool = open_pool(write_pool(tmp_path, model_toml("a", "m", extra='dtype = "int8"') + model_toml("b", "m")))
    model, tensors = pool.decoder("a"), hf_tensors()
    down = model.params["layers"][1]["mlp"]["down"]
    weights = tensors["model.layers.1.mlp.down_proj.weight"]  # (out, in), as int8 kernels are
    np.testing.assert_allclose(
        down["int8_kernel"][...] * down["scale"][...][:, None], weights, atol=0.51 * np.abs(weights).max() / 127
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {np.dtype("int8"), np.dtype("float32")}
    checkpoint = open_checkpoint(pool.files("a"), dtype="int8")
    assert checkpoint.size_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    assert pool.card("a").num_parameters == pool.card("b").num_parameters == count_parameters()
    assert pool.card("a").weights_digest != pool.card("b").weights_digest


def test_the_same_model_as_safetensors_and_as_gguf_gives_the_same_logits(tmp_path):
    cache = tmp_path / "cache"
    hf_files = resolve(str(write_hf(tmp_path / "m")), cache_dir=cache)
    gguf_files = resolve(str(write_gguf_twin(tmp_path / "m.gguf")), cache_dir=cache)
    tokens = jnp.array([[3, 1, 4, 1, 5]])
    logits = []
    for files in (hf_files, gguf_files):
        model = load_decoder(open_checkpoint(files), is_quiet=True)
        logits.append(model.module()(tokens)[0])
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    assert np.abs(logits[0]).max() > 0.1


def test_models_are_loaded_once_and_the_least_recent_makes_room(tmp_path, pool_path):
    size_gib = 4 * count_parameters() / 2**30
    limited = write_pool(tmp_path, f"memory_budget_gib = {2.5 * size_gib:.12f}\n" + pool_path.read_text())
    pool = open_pool(limited)
    first = pool.decoder("model-0")
    assert pool.decoder("model-0") is first
    pool.decoder("model-1")
    pool.decoder("model-0")  # used again, so model-1 goes first
    pool.decoder("model-2")
    assert pool.resident == ("model-0", "model-2")
    assert pool.decoder("model-0") is first
    pool.decoder("model-1")
    assert pool.resident == ("model-0", "model-1")
    jax.tree.map(np.testing.assert_array_equal, first.params, pool.decoder("model-0").params)


def test_a_dropped_model_comes_back_the_same(tmp_path, pool_path):
    size_gib = 4 * count_parameters() / 2**30
    pool = open_pool(write_pool(tmp_path, f"memory_budget_gib = {1.2 * size_gib:.12f}\n" + pool_path.read_text()))
    before = jax.tree.map(np.array, pool.decoder("model-0").params)
    pool.decoder("model-1")
    assert pool.resident == ("model-1",)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, pool.decoder("model-0").params))


def test_a_model_larger_than_the_budget_is_refused_on_opening(tmp_path, pool_path):
    path = write_pool(tmp_path, "memory_budget_gib = 1e-9\n" + pool_path.read_text())
    with pytest.raises(ConfigError, match=r"(?s)must fit memory_budget_gib.*model-0.*model-1.*model-2"):
        open_pool(path)


def test_tokenizers_are_loaded_once(tmp_path):
    pool = load_pool(write_tiny_pool(tmp_path), cache_dir=tmp_path / "cache", is_quiet=True)
    for name in pool.names:  # of a folder and of a GGUF file
        tokenizer = pool.tokenizer(name)
        assert pool.tokenizer(name) is tokenizer
        assert tokenizer.decode(tokenizer.encode("a b", add_special_tokens=False)) == "a b"


def test_a_name_that_is_not_in_the_pool_is_refused(pool_path):
    pool = open_pool(pool_path)
    for ask in (pool.card, pool.tokenizer, pool.decoder, pool.files):
        with pytest.raises(ConfigError, match=r"model-0, model-1, model-2.*is 'other'"):
            ask("other")


def test_all_mistakes_of_a_pool_file_are_said_at_once(tmp_path):
    text = (
        "memory = 3\n"
        + model_toml("a", "m", extra="temperature = 0.5")
        + '[[model]]\nname = "b"\nsource = "m"\n'
        + model_toml("c", "pypi:floating")
        + model_toml("d", "m", extra='sha256 = "abc"\ncontext_window = 0\nbase_rate = nan')
        + model_toml("e", "m", extra='dtype = "int4"')
    )
    with pytest.raises(ConfigError) as caught:
        read_pool_spec(write_pool(tmp_path, text))
    message = str(caught.value)
    for words in (
        "unknown key 'memory'",
        "[[model]] 1 does not fit",
        "unknown key 'temperature'",
        "[[model]] 2",
        "max_new_tokens",
        "pypi:NAME==VERSION",
        "sha256 must be 64 hexadecimal digits, but is 'abc'",
        "context_window must be >= 1, but is 0",
        "base_rate must be finite",
        "[[model]] 5",
        "dtype",
    ):
        assert words in message, words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one model"),
        ("[[model]\n", "must be a TOML file"),
        ('model = "a"\n', r"\[\[model\]\] tables"),
        ("memory_budget_gib = true\n" + model_toml("a", "m"), "must be a number, but is True"),
        ("memory_budget_gib = 0\n" + model_toml("a", "m"), "must be finite and > 0"),
        ("memory_budget_gib = inf\n" + model_toml("a", "m"), "must be finite and > 0"),
        (model_toml("a", "m") + model_toml("a", "n"), "'a' is used 2 times"),
        (model_toml(" ", "m"), "name must not be empty"),
    ],
)
def test_a_pool_file_that_is_none_is_refused(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        read_pool_spec(write_pool(tmp_path, text))


def test_a_pool_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        load_pool(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CONFIG | {"model_type": "mamba"}, "'mamba'"),
        (CONFIG | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({key: value for key, value in CONFIG.items() if key != "hidden_size"}, "hidden_size"),
    ],
)
def test_an_architecture_that_is_not_supported_is_named(tmp_path, config, words):
    write_hf(tmp_path / "m", config=config)
    with pytest.raises(WeightsError, match=words):
        open_pool(write_pool(tmp_path, model_toml("a", "m")))


def test_an_architecture_of_a_gguf_file_that_is_not_supported_is_named(tmp_path):
    write_gguf_twin(tmp_path / "m.gguf", architecture="rwkv6")
    with pytest.raises(WeightsError, match="rwkv6"):
        open_pool(write_pool(tmp_path, model_toml("a", "m.gguf")))


def test_a_missing_tensor_is_named_before_anything_is_read(tmp_path):
    tensors = hf_tensors()
    del tensors["model.layers.2.mlp.up_proj.weight"], tensors["model.norm.weight"]
    write_hf(tmp_path / "m", tensors=tensors)
    path = write_pool(tmp_path, model_toml("a", "m"))
    with pytest.raises(WeightsError, match=r"(?s)layers\.2\.mlp\.up_proj\.weight is missing.*norm\.weight is missing"):
        open_pool(path)


def test_a_model_without_heads_is_refused(tmp_path):
    config = {name: value for name, value in CONFIG.items() if name != "head_dim"} | {"num_attention_heads": 0}
    write_hf(tmp_path / "m", config=config)
    with pytest.raises(ConfigError, match="num_heads must be >= 1, but is 0"):
        open_pool(write_pool(tmp_path, model_toml("a", "m")))


def test_weights_without_a_config_or_with_another_digest_are_refused(tmp_path):
    folder = write_hf(tmp_path / "m")
    path = write_pool(tmp_path, model_toml("a", "m", extra=f'sha256 = "{"0" * 64}"'))
    with pytest.raises(WeightsError, match="must have sha256 000"):
        open_pool(path)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"must come with its config.*config\.json"):
        open_pool(write_pool(tmp_path, model_toml("a", "m")))


def test_the_small_pool_is_a_valid_spec():
    spec = read_pool_spec(Path(__file__).parents[2] / "experiments" / "pools" / "small.toml")
    assert [model.prompt_style for model in spec.models] == ["chat", "plain", "chat"]
    assert all(model.sha256 is not None for model in spec.models)


def test_specs_can_be_made_in_python(tmp_path):
    write_hf(tmp_path / "m")
    model = ModelSpec(name="a", source="m", max_new_tokens=5)
    spec = PoolSpec(models=(model, replace(model, name="b")), base_dir=tmp_path)
    assert load_pool(spec, cache_dir=tmp_path / "cache", is_quiet=True).names == ("a", "b")
