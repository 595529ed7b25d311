"""Tokenizers: rebuilt from small GGUF vocabularies made in the test, from folders, and those of the real models."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from hierrouter_jax.core.errors import ConfigError, StorageError, WeightsError
from hierrouter_jax.core.text import Message
from hierrouter_jax.llm import tokenizer as tokenizer_module
from hierrouter_jax.llm.gguf_tokenizer import build_tokenizer
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.llm.tokenizer import load_tokenizer
from hierrouter_jax.weights.gguf_reader import GGUFReader
from hierrouter_jax.weights.sources import ResolvedFiles, resolve

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = (
    "",
    "a\n\n12 a",
    "  ab  abc   de",
    "1234 it's 12.\n\n\n x",
    "Ünïcödé 日本 ä 😀",
    "abc<b>c</b>",
    "abcde. cde\t\n",
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_alphabet():
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def write_vocabulary(path, *, pre="smollm", chat_template=TEMPLATE, extra=(), merges=("Ċ Ċ", "Ġ a", "1 2")):
    """A GGUF file with a byte-level vocabulary and hardly any weights."""
    tokens = [*CONTROL, *byte_alphabet(), *(merge.replace(" ", "") for merge in merges), *extra]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    write_rest(writer, len(tokens))
    return tokens


def write_sentence_pieces(path, *, architecture):
    """A GGUF file with a small vocabulary of sentence pieces, every byte among them."""
    pieces = [*"▁abcde.1\n<>", "▁a", "ab", "bc", "abc", "▁▁", "de", "cde", "▁abc", "▁d"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<b>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types([3, 3, 3, 2, 4] + [6] * 256 + [1] * len(pieces))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(architecture == "llama")
    write_rest(writer, len(tokens))


def write_rest(writer, vocab_size):
    """What transformers asks of a model before it looks at the vocabulary, and the end of the file."""
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_key_length(4)
    writer.add_value_length(4)
    writer.add_rope_freq_base(10000.0)
    writer.add_sliding_window(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((vocab_size, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def load(tmp_path):
    def load_file(**kwargs):
        tokens = write_vocabulary(tmp_path / "m.gguf", **kwargs)
        files = resolve(str(tmp_path / "m.gguf"), cache_dir=tmp_path / "cache", is_quiet=True)
        return load_tokenizer(files, cache_dir=tmp_path / "cache"), tokens, files

    return load_file


def spelled(tokenizer, tokens, text):
    return [tokens[index] for index in tokenizer.encode(text, add_special_tokens=True)]


def test_digits_are_cut_off_before_everything_else_where_the_vocabulary_learned_it_so(load):
    tokenizer, tokens, _ = load(pre="smollm")
    # A pattern that keeps digits together would cut the two line ends apart, and join 1 and 2.
    assert spelled(tokenizer, tokens, "a\n\n12 a") == ["a", "ĊĊ", "1", "2", "Ġa"]
    other, tokens, _ = load(pre="gpt-2")
    assert spelled(other, tokens, "a\n\n12 a") == ["a", "Ċ", "Ċ", "12", "Ġa"]


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2", "llama-bpe"])
def test_byte_level_vocabularies_agree_with_transformers(load, tmp_path, pre):
    merges = ("Ċ Ċ", "Ġ a", "1 2", "12 3", "' s", "Ġ Ġ", "ĠĠ Ġ", "a b", "Ã ¤", ". Ċ")
    ours, _, _ = load(pre=pre, merges=merges)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="m.gguf")
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
def test_sentence_pieces_agree_with_transformers(tmp_path, architecture):
    write_sentence_pieces(tmp_path / "m.gguf", architecture=architecture)
    metadata = GGUFReader(tmp_path / "m.gguf").metadata
    ours = build_tokenizer(metadata)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="m.gguf")
    # Where every text gets a space in front, transformers gives none to a text that begins with one (sentencepiece
    # does), and none to what follows a token that was matched whole.
    texts = [text for text in TEXTS if architecture == "gemma3" or not (text.startswith(" ") or "<" in text)]
    assert len(texts) >= 5
    for text in texts:
        expected = theirs.encode(text, add_special_tokens=True)
        assert ours.encode(text).ids == expected, text
        assert expected[0] == metadata["tokenizer.ggml.bos_token_id"]
        assert ours.decode(expected).strip() == text.strip()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tokenizer.ggml.pre": "chameleon"}, r"must be one of gpt-2, llama-bpe.*is 'chameleon'"),
        ({"tokenizer.ggml.pre": None}, r"is None"),
        ({"tokenizer.ggml.model": "t5"}, r"gpt2 or llama, but this one's is 't5'"),
        ({"tokenizer.ggml.tokens": None}, r"with 0 tokens"),
    ],
)
def test_a_vocabulary_that_is_not_known_is_named(tmp_path, changed, words):
    write_vocabulary(tmp_path / "m.gguf")
    metadata = GGUFReader(tmp_path / "m.gguf").metadata | changed
    with pytest.raises(WeightsError, match=words):
        build_tokenizer(metadata)


def test_the_frame_of_a_text_is_what_the_file_says(load, tmp_path):
    _, tokens, _ = load()
    metadata = GGUFReader(tmp_path / "m.gguf").metadata
    bos, eos, a = tokens.index("<|im_start|>"), tokens.index("<|im_end|>"), tokens.index("a")
    for has_bos, has_eos, expected in [(False, False, [a]), (True, False, [bos, a]), (True, True, [bos, a, eos])]:
        framed = {"tokenizer.ggml.add_bos_token": has_bos, "tokenizer.ggml.add_eos_token": has_eos}
        assert build_tokenizer(metadata | framed).encode("a").ids == expected
    # Where the file says nothing: Llama 3 begins texts with a token, GPT-2 does not.
    silent = {key: value for key, value in metadata.items() if "add_bos" not in key}
    assert build_tokenizer(silent | {"tokenizer.ggml.pre": "llama3"}).encode("a").ids == [bos, a]
    assert build_tokenizer(silent | {"tokenizer.ggml.pre": "gpt-2"}).encode("a").ids == [a]


def test_llama_3_takes_a_piece_of_the_vocabulary_as_it_is(load, tmp_path):
    # "ba" is a token, but no merge makes it.
    _, tokens, _ = load(extra=("ba",))
    metadata = GGUFReader(tmp_path / "m.gguf").metadata
    whole = build_tokenizer(metadata | {"tokenizer.ggml.pre": "llama-bpe"}).encode("ba", add_special_tokens=False)
    pieces = build_tokenizer(metadata | {"tokenizer.ggml.pre": "gpt-2"}).encode("ba", add_special_tokens=False)
    assert [tokens[index] for index in whole.ids] == ["ba"]
    assert [tokens[index] for index in pieces.ids] == ["b", "a"]


@pytest.mark.parametrize("text", ["", " ", "\n\n1. x\t", "Ünïcödé 日本 😀", "  two  spaces  ", "\x00\x7f"])
def test_text_comes_back(load, text):
    tokenizer, _, _ = load()
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_conversation_ends_where_the_answer_begins(load):
    tokenizer, tokens, _ = load()
    ids = tokenizer.apply_chat([Message(role="system", content="a"), Message(role="user", content="b")])
    text = "".join(tokens[index] for index in ids).replace("Ċ", "\n")
    assert text == ("<|im_start|>system\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n")
    assert ids[0] == tokens.index("<|im_start|>")  # one token, not its letters


def test_control_tokens_end_answers_and_are_not_text(load):
    tokenizer, tokens, _ = load(extra=("<eos>",))
    # <eos> is an ordinary token of this vocabulary, so it ends nothing.
    assert tokenizer.stop_token_ids == (tokens.index("<|endoftext|>"), tokens.index("<|im_end|>"))
    ids = [tokens.index("a"), tokens.index("<|im_end|>")]
    assert tokenizer.decode(ids) == "a"


def test_a_base_model_refuses_a_conversation(load):
    tokenizer, _, _ = load(chat_template=None)
    assert not tokenizer.has_chat_template
    with pytest.raises(ConfigError, match='prompt_style = "plain"'):
        tokenizer.apply_chat([Message(role="user", content="a")])


def test_a_template_that_refuses_says_so(load):
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}x"
    tokenizer, _, _ = load(chat_template=template)
    with pytest.raises(ConfigError, match=r"roles system, user: no system here"):
        tokenizer.apply_chat([Message(role="system", content="a"), Message(role="user", content="b")])


def test_a_conversation_is_the_same_on_every_day_and_without_thinking(load):
    # The lines of the templates of Llama 3.2 and of Qwen3 that depend on more than the messages.
    template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "a {{ date_string }}{% if enable_thinking is defined and not enable_thinking %} b{% endif %}"
    )
    tokenizer, _, _ = load(chat_template=template)
    ids = tokenizer.apply_chat([Message(role="user", content="c")])
    assert tokenizer.decode(ids) == "a 26 Jul 2024 b"


def test_a_rebuilt_tokenizer_is_kept(load, tmp_path, monkeypatch):
    first, _, files = load()
    monkeypatch.setattr(tokenizer_module, "_rebuild", None)  # calling it again would be an error
    again = load_tokenizer(files, cache_dir=tmp_path / "cache")
    text = "a\n\n12 a 日本"
    assert again.encode(text, add_special_tokens=True) == first.encode(text, add_special_tokens=True)
    assert again.stop_token_ids == first.stop_token_ids
    assert not list((tmp_path / "cache" / "tokenizers").glob("*.partial"))


def test_half_a_kept_tokenizer_is_never_taken_for_a_whole(load, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer_module, "_write_config", fail)
    with pytest.raises(StorageError, match="disk full"):
        load()
    assert list((tmp_path / "cache" / "tokenizers").iterdir()) == []


def test_a_folder_brings_its_own_tokenizer_and_ends(tmp_path):
    vocabulary = {token: index for index, token in enumerate([*CONTROL, "<eos>", *byte_alphabet()])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(CONTROL)
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 2]}))
    files = ResolvedFiles(source="x", folder=tmp_path, weights=(tmp_path / "model.safetensors",), sha256="0")
    (tmp_path / "model.safetensors").write_bytes(b"not a gguf")
    tokenizer = load_tokenizer(files)
    assert tokenizer.stop_token_ids == (0, 2, 3)
    assert tokenizer.decode(tokenizer.encode("a b 日", add_special_tokens=True)) == "a b 日"
    assert tokenizer.apply_chat([Message(role="user", content="a")])[0] == 1


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not a gguf")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    files = ResolvedFiles(source="x", folder=tmp_path, weights=(tmp_path / "model.safetensors",), sha256="0")
    with pytest.raises(WeightsError, match=r"must hold a tokenizer"):
        load_tokenizer(files)


def test_torch_is_not_needed(tmp_path):
    write_vocabulary(tmp_path / "m.gguf")
    program = f"""
import importlib.abc, importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name.split(".")[0] == "torch" else find_spec(name, *args)
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from pathlib import Path
from hierrouter_jax.core.text import Message
from hierrouter_jax.llm.tokenizer import load_tokenizer
from hierrouter_jax.weights.sources import resolve
cache = Path({str(tmp_path / "cache")!r})
tokenizer = load_tokenizer(resolve({str(tmp_path / "m.gguf")!r}, cache_dir=cache), cache_dir=cache)
assert tokenizer.decode(tokenizer.encode("a b", add_special_tokens=True)) == "a b"
assert tokenizer.apply_chat([Message(role="user", content="a")])
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.real_weights
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"])
def test_real_tokenizers_agree_with_llama_cpp(name):
    """The golden ids were made by llama.cpp on the same files; its tokenizers share no code with ours."""
    tokenizer = load_pool("experiments/pools/small.toml", is_quiet=True).tokenizer(name)
    golden = Path(__file__).parents[1] / "golden" / "llama_cpp_token_ids.jsonl"
    for row in map(json.loads, golden.read_text(encoding="utf-8").splitlines()):
        expected = row["ids"][name]
        assert tokenizer.encode(row["text"], add_special_tokens=True) == expected, row["text"]
        assert tokenizer.decode(expected) == row["text"]
