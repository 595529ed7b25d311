"""Tiny torch encoders made in the test, saved as a hub would publish them. Sizes are primes where possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel, PreTrainedTokenizerFast

WORDS = tuple(f"w{number}" for number in range(47))
SIZES = {
    "hidden_size": 21,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "vocab_size": 53,
    "layer_norm_eps": 1e-5,
}


def make_torch_encoder(family: str, *, seed: int = 0, window_tokens: int = 29) -> torch.nn.Module:
    """Return an encoder whose every parameter is random, biases and norms too, with room for `window_tokens`."""
    if family == "bert":
        model = BertModel(BertConfig(**SIZES, max_position_embeddings=window_tokens, pad_token_id=0))
    else:
        model = MPNetModel(MPNetConfig(**SIZES, max_position_embeddings=window_tokens + 2, pad_token_id=1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
    return model.eval()


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, framed as the family frames texts."""
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if family == "bert" else ["<s>", "<pad>", "</s>", "<unk>"]
    pad, start, end, unknown = (specials[index] for index in ((0, 1, 2, 3) if family == "bert" else (1, 0, 2, 3)))
    vocab = {word: index for index, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocab[start]), (end, vocab[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=start, sep_token=end, pad_token=pad, unk_token=unknown
    )


@pytest.fixture
def save_encoder(tmp_path: Path) -> Callable[..., tuple[Path, torch.nn.Module]]:
    """Return a function that writes a checkpoint folder and gives its path and the torch model."""

    def save(family: str, *, seed: int = 0, window_tokens: int = 29) -> tuple[Path, torch.nn.Module]:
        folder = tmp_path / f"{family}-{seed}"
        model = make_torch_encoder(family, seed=seed, window_tokens=window_tokens)
        model.save_pretrained(folder)
        make_tokenizer(family).save_pretrained(folder)
        return folder, model

    return save
