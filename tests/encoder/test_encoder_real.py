"""The pinned all-MiniLM-L6-v2 against torch on the same files, mean pooling written out."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2, load_encoder
from hierrouter_jax.weights.sources import resolve

TEXTS = (
    "How many eggs are left after breakfast?",
    "",
    "def add(a, b):\n    return a + b\n\nassert add(2, 3) == 5",
    "Ångström-scale naïveté in 東京 🙂 costs $3.50",
    "Step by step, the train covers the same distance each hour. " * 13,
    "The robe takes two bolts of blue fibre and half as much white fibre, so how many in all? " * 17,
)


@pytest.mark.real_weights
def test_minilm_equals_torch():
    encoder = load_encoder(is_quiet=True)
    folder = resolve(ALL_MINILM_L6_V2.source, is_quiet=True).folder
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert (encoder.dim, encoder.window_tokens) == (384, 256)
    vectors = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        cuts = [ids[start : start + 254] for start in range(0, max(len(ids), 1), 254)]
        tokens = []
        for cut in cuts:
            with torch.no_grad():
                tokens.append(model(torch.tensor([[101, *cut, 102]])).last_hidden_state[0])
        mean = torch.cat(tokens).double().mean(dim=0).numpy()
        assert vector @ mean / np.linalg.norm(mean) >= 0.99999
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.real_weights
def test_minilm_knows_what_is_alike():
    question, alike, other = load_encoder(is_quiet=True).encode(
        ["Which planet is the largest?", "What is the biggest planet of all?", "Sort a list of integers in Python."]
    )
    assert question @ alike > 0.8 > 0.3 > question @ other
