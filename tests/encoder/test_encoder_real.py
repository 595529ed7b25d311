"""The pinned encoders against torch on the same files, mean pooling written out."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertModel, MPNetModel

from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2, ALL_MPNET_BASE_V2, load_encoder
from hierrouter_jax.weights.sources import resolve

TEXTS = (
    "How many eggs are left after breakfast?",
    "",
    "def add(a, b):\n    return a + b\n\nassert add(2, 3) == 5",
    "Ångström-scale naïveté in 東京 🙂 costs $3.50",
    "Step by step, the train covers the same distance each hour. " * 13,
    "The robe takes two bolts of blue fibre and half as much white fibre, so how many in all? " * 31,
)


def torch_vector(model, tokenizer, text, window_tokens):
    """Cut by a loop, encode each segment alone, and average over all tokens of all segments."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    tokens = []
    for start in range(0, max(len(ids), 1), window_tokens - 2):
        cut = ids[start : start + window_tokens - 2]
        segment = torch.tensor([[tokenizer.cls_token_id, *cut, tokenizer.sep_token_id]])
        with torch.no_grad():
            tokens.append(model(segment).last_hidden_state[0])
    mean = torch.cat(tokens).double().mean(dim=0).numpy()
    return mean / np.linalg.norm(mean), len(tokens)


@pytest.mark.real_weights
@pytest.mark.parametrize(
    ("spec", "torch_class", "dim", "window_tokens", "num_segments"),
    [
        pytest.param(ALL_MINILM_L6_V2, BertModel, 384, 256, (1, 1, 1, 1, 1, 3), id="minilm"),
        pytest.param(ALL_MPNET_BASE_V2, MPNetModel, 768, 384, (1, 1, 1, 1, 1, 2), id="mpnet"),
    ],
)
def test_vectors_of_the_pinned_encoders_equal_torch(spec, torch_class, dim, window_tokens, num_segments):
    encoder = load_encoder(spec, is_quiet=True)
    folder = resolve(spec.source, is_quiet=True).folder
    model, tokenizer = torch_class.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert (encoder.dim, encoder.window_tokens) == (dim, window_tokens)
    expected, received_segments = zip(
        *(torch_vector(model, tokenizer, text, window_tokens) for text in TEXTS), strict=True
    )
    assert received_segments == num_segments  # texts below and above one window
    vectors = encoder.encode(TEXTS)
    assert (vectors * np.stack(expected)).sum(axis=1).min() >= 0.99999
    np.testing.assert_allclose(vectors, np.stack(expected), atol=1e-5)


@pytest.mark.real_weights
def test_minilm_knows_what_is_alike():
    question, alike, other = load_encoder(is_quiet=True).encode(
        ["Which planet is the largest?", "What is the biggest planet of all?", "Sort a list of integers in Python."]
    )
    assert question @ alike > 0.8 > 0.3 > question @ other
