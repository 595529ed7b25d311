"""Oracle: a loop over texts and segments with the torch model. Properties of batches; identity; refusals."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hierrouter_jax.core.errors import ConfigError, WeightsError
from hierrouter_jax.encoder import sentence_encoder
from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2, ALL_MPNET_BASE_V2, EncoderSpec, load_encoder
from hierrouter_jax.encoder.text_encoder import TextEncoder

NUM_WORDS = (3, 0, 61, 1, 17, 9, 16, 15, 131)
WINDOW = 19


def texts_of(num_words, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(f"W{number}" for number in rng.integers(0, 43, count)) for count in num_words]


def load(folder, tmp_path, window_tokens=WINDOW):
    spec = EncoderSpec(source=str(folder), window_tokens=window_tokens)
    return load_encoder(spec, cache_dir=tmp_path / "cache", is_quiet=True)


def torch_vector(model, text, window_tokens, family):
    """Cut, encode each segment alone, and average over all tokens, one by one."""
    pad, start, end, first_word = (0, 1, 2, 4) if family == "bert" else (1, 0, 2, 4)
    ids = [int(number) + first_word for number in re.findall(r"W(\d+)", text)]
    vectors = []
    while True:
        segment, ids = [start, *ids[: window_tokens - 2], end], ids[window_tokens - 2 :]
        with torch.no_grad():
            vectors.extend(model(torch.tensor([segment])).last_hidden_state[0].numpy())
        if not ids:
            break
    assert pad not in segment
    mean = np.mean(np.stack(vectors).astype(np.float64), axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_vectors_equal_torch_segment_by_segment(save_encoder, tmp_path, family):
    folder, model = save_encoder(family)
    encoder = load(folder, tmp_path)
    assert isinstance(encoder, TextEncoder)
    texts = texts_of(NUM_WORDS)

    received = encoder.encode(texts)

    assert received.shape == (len(texts), encoder.dim) == (9, 21)
    assert received.dtype == np.float32
    expected = np.stack([torch_vector(model, text, WINDOW, family) for text in texts])
    np.testing.assert_allclose(received, expected, atol=1e-5)
    assert (received * expected).sum(axis=1).min() >= 0.99999


def test_the_end_of_a_long_text_counts(save_encoder, tmp_path):
    encoder = load(save_encoder("bert")[0], tmp_path)
    (text,) = texts_of([97])
    first, second = encoder.encode([text + " W1", text + " W2"])
    assert np.abs(first - second).max() > 1e-4


def test_a_vector_is_the_same_in_any_batch_and_order(save_encoder, tmp_path):
    encoder = load(save_encoder("mpnet")[0], tmp_path)
    texts = texts_of(NUM_WORDS * 3, seed=1)
    together = encoder.encode(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_array_equal(encoder.encode([texts[index] for index in order]), together[order])
    np.testing.assert_array_equal(np.concatenate([encoder.encode([text]) for text in texts]), together)


def test_no_texts_and_empty_texts(save_encoder, tmp_path):
    encoder = load(save_encoder("bert")[0], tmp_path)
    assert encoder.encode([]).shape == (0, 21)
    vectors = encoder.encode(["", " \n\t", "W5"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.ones(3), rtol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


def test_text_that_is_no_valid_unicode_is_encoded(save_encoder, tmp_path):
    encoder = load(save_encoder("bert")[0], tmp_path)
    broken, mended = encoder.encode(["W1 \ud800 W2", "W1 ? W2"])
    np.testing.assert_array_equal(broken, mended)


def test_digest_changes_with_weights_window_and_tokenizer_and_nothing_else(save_encoder, tmp_path):
    folder, _ = save_encoder("bert")
    first = load(folder, tmp_path).digest
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load(moved, tmp_path).digest == first
    assert load(moved, tmp_path, window_tokens=17).digest != first

    cased = shutil.copytree(folder, tmp_path / "cased")
    tokenizer = json.loads((cased / "tokenizer.json").read_text())
    (cased / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": None}))
    assert load(cased, tmp_path).digest != first

    tensors = load_file(moved / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"][3] += 1e-3
    save_file(tensors, moved / "model.safetensors", metadata={"format": "pt"})
    assert load(moved, tmp_path).digest != first


def test_the_window_is_the_tuned_one_unless_told(save_encoder, tmp_path):
    folder, _ = save_encoder("mpnet")
    assert load(folder, tmp_path, window_tokens=None).window_tokens == 29
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 23, "do_lower_case": false}')
    assert load(folder, tmp_path, window_tokens=None).window_tokens == 23
    assert load(folder, tmp_path, window_tokens=7).window_tokens == 7
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": "long"}')
    with pytest.raises(WeightsError, match=r"max_seq_length.*'long'"):
        load(folder, tmp_path, window_tokens=None)
    with pytest.raises(ConfigError, match="window_tokens must be <= 29"):
        load(folder, tmp_path, window_tokens=30)
    with pytest.raises(ConfigError, match="window_tokens must be >= 3"):
        EncoderSpec(source=str(folder), window_tokens=2)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("all-MiniLM-L6-v2", ALL_MINILM_L6_V2),
        ("all-mpnet-base-v2", ALL_MPNET_BASE_V2),
        (ALL_MPNET_BASE_V2.source, ALL_MPNET_BASE_V2),
        (
            "hf:sentence-transformers/all-mpnet-base-v2",
            EncoderSpec(source="hf:sentence-transformers/all-mpnet-base-v2"),
        ),
        ("./all-mpnet-base-v2", EncoderSpec(source="./all-mpnet-base-v2")),
    ],
)
def test_the_digest_of_a_pinned_encoder_is_asked_for_however_it_is_named(monkeypatch, text, spec):
    asked = []

    def refuse(source, *, sha256, **kwargs):
        asked.append((source, sha256))
        raise WeightsError("not fetched in a test")

    monkeypatch.setattr(sentence_encoder, "resolve", refuse)
    with pytest.raises(WeightsError, match="not fetched"):
        load_encoder(text)
    assert asked == [(spec.source, spec.sha256)]


def write_pooling(folder, **modes):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))


def test_another_pooling_is_refused_by_name(save_encoder, tmp_path):
    folder, _ = save_encoder("bert")
    write_pooling(folder, pooling_mode_mean_tokens=True, pooling_mode_cls_token=False)
    load(folder, tmp_path)
    write_pooling(folder, pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    modules = [{"type": "sentence_transformers.models.Pooling"}, {"type": "sentence_transformers.models.Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(WeightsError, match=r"(?s)models\.Dense.*pooling_mode_cls_token"):
        load(folder, tmp_path)


def test_a_folder_without_tokenizer_is_refused(save_encoder, tmp_path):
    folder, _ = save_encoder("bert")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(WeightsError, match="must hold a tokenizer"):
        load(folder, tmp_path)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(save_encoder, tmp_path):
    folder, _ = save_encoder("bert")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["beyond"] = 53
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WeightsError, match="must be < 53"):
        load(folder, tmp_path)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(WeightsError, match="reading it failed"):
        load(folder, tmp_path)
