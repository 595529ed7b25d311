"""A pool of tiny models with random weights, a folder of the hub and a GGUF file, and a tiny encoder.

The sizes of a model are different primes where the decoder lets them: head_dim is twice a prime, and the query heads
are a multiple of the key-value heads. Every byte is a token, but only printable ASCII and the end of text
can have a logit above 0, so that what a model writes can be searched, and some of its answers end by themselves.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ a", "t h", "th e", "i n")
TOKENS = (*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES))
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WINDOW = 1009
HUB = {"vocab": 263, "embed": 23, "mlp": 31, "layers": 2, "heads": 3 * 5, "kv_heads": 3, "head_dim": 2 * 7}
GGUF = {"vocab": 263, "embed": 29, "mlp": 37, "layers": 2, "heads": 3 * 5, "kv_heads": 3, "head_dim": 2 * 11}
assert len(TOKENS) == HUB["vocab"] == GGUF["vocab"]


def write_tiny_pool(folder: Path, *, max_new_tokens: int = 41) -> Path:
    """Write the models and the pool file of `tiny-hub` and `tiny-gguf`; return the pool file's path."""
    write_hub_model(folder / "tiny-hub")
    write_gguf_model(folder / "tiny.gguf")
    entries = [
        f'[[model]]\nname = "{name}"\nsource = "{source}"\nmax_new_tokens = {max_new_tokens}\n'
        for name, source in (("tiny-hub", "tiny-hub"), ("tiny-gguf", "tiny.gguf"))
    ]
    (folder / "pool.toml").write_text("\n".join(entries))
    return folder / "pool.toml"


def write_hub_model(folder: Path, *, seed: int = 3) -> None:
    """A qwen3, which has a head size of its own and norms on queries and keys."""
    folder.mkdir()
    config = {
        "model_type": "qwen3", "vocab_size": HUB["vocab"], "hidden_size": HUB["embed"], "intermediate_size": HUB["mlp"],
        "num_hidden_layers": HUB["layers"], "num_attention_heads": HUB["heads"], "head_dim": HUB["head_dim"],
        "num_key_value_heads": HUB["kv_heads"], "max_position_embeddings": WINDOW, "rms_norm_eps": 1e-5,
        "rope_theta": 10007.0, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    names = {
        "embed": "model.embed_tokens", "unembed": "lm_head", "norm": "model.norm", "q": "self_attn.q_proj",
        "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
        "up": "mlp.up_proj", "down": "mlp.down_proj", "norm_1": "input_layernorm",
        "norm_2": "post_attention_layernorm", "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
    }  # fmt: skip
    save_file(_random_tensors(HUB, names, "model.layers.{}.", seed), folder / "model.safetensors")
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in MERGES]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(list(CONTROL))
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": CONTROL[2], "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_gguf_model(path: Path, *, seed: int = 5) -> None:
    """A llama."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(GGUF["layers"])
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(GGUF["embed"])
    writer.add_feed_forward_length(GGUF["mlp"])
    writer.add_head_count(GGUF["heads"])
    writer.add_head_count_kv(GGUF["kv_heads"])
    writer.add_key_length(GGUF["head_dim"])
    writer.add_value_length(GGUF["head_dim"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10007.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(TOKENS))
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(list(MERGES))
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    names = {
        "embed": "token_embd", "unembed": "output", "norm": "output_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v",
        "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down", "norm_1": "attn_norm",
        "norm_2": "ffn_norm",
    }  # fmt: skip
    for name, values in _random_tensors(GGUF, names, "blk.{}.", seed).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _random_tensors(sizes: dict[str, int], names: dict[str, str], prefix: str, seed: int) -> dict[str, np.ndarray]:
    """Tensors of a decoder by their full names, (out, in) as both kinds of file hold them."""
    embed, mlp, head_dim = sizes["embed"], sizes["mlp"], sizes["head_dim"]
    query, key = sizes["heads"] * head_dim, sizes["kv_heads"] * head_dim
    whole = {"embed": (sizes["vocab"], embed), "unembed": (sizes["vocab"], embed), "norm": (embed,)}
    layer = {"q": (query, embed), "k": (key, embed), "v": (key, embed), "o": (embed, query), "gate": (mlp, embed),
             "up": (mlp, embed), "down": (embed, mlp), "norm_1": (embed,), "norm_2": (embed,),
             "q_norm": (head_dim,), "k_norm": (head_dim,)}  # fmt: skip
    rng = np.random.default_rng(seed)
    tensors = {}
    for part, shape in whole.items():
        tensors[f"{names[part]}.weight"] = rng.normal(size=shape)
    for index in range(sizes["layers"]):
        for part, shape in layer.items():
            if part in names:
                scale = 1.0 if len(shape) == 1 else shape[1] ** -0.5
                tensors[f"{prefix.format(index)}{names[part]}.weight"] = rng.normal(size=shape) * scale
    is_written = [token.isascii() and (token not in CONTROL or token == "<|im_end|>") for token in TOKENS]
    tensors[f"{names['unembed']}.weight"] *= np.array(is_written)[:, None]
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def write_tiny_encoder(folder: Path) -> None:
    """Write a sentence encoder: a BERT of whole words that knows next to none, so most words are the unknown one."""
    import torch
    from tokenizers import normalizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=11, hidden_size=3 * 5, intermediate_size=19, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=61, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "what", "which", "is", "of", "these", "answer", "the"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
