"""Hashed n-grams against counts by plain loops, and encoders joined side by side."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.encoder import joint
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.encoder.joint import JointEncoder, open_encoder
from hierrouter_jax.encoder.ngrams import NgramEncoder
from hierrouter_jax.encoder.text_encoder import TextEncoder


def half_by_loops(grams, dim):
    row = np.zeros(dim)
    for gram in grams:
        number = murmurhash3_32(gram, seed=0)
        row[abs(number) % dim] += 1 if number >= 0 else -1
    row = np.sign(row) * np.log(1 + np.abs(row))
    if not row.any():
        row[0] = 1.0
    return row / np.sqrt(row @ row)


def grams_of(parts, sizes, joined):
    return [joined.join(parts[at : at + size]) for size in sizes for at in range(len(parts) - size + 1)]


@pytest.mark.parametrize("text", ["Sum $x^2$ over x = 1 .. 7, for x in x", "who sings it", "?", ""])
def test_n_grams_by_loops(text):
    words = grams_of(re.findall(r"\b\w\w+\b", text.lower()), (1, 2), " ")
    characters = grams_of(re.sub(r"\s\s+", " ", text), (1, 2, 3, 4), "")
    expected = np.concatenate([half_by_loops(words, 11), half_by_loops(characters, 11)]) / np.sqrt(2)
    np.testing.assert_allclose(NgramEncoder(22).encode([text])[0], expected, atol=1e-6)


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=23), max_size=5))
def test_vectors_are_unit_and_belong_to_their_text_alone(texts):
    encoder = NgramEncoder(14)
    vectors = encoder.encode(texts)
    assert vectors.shape == (len(texts), 14)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.ones(len(texts)), rtol=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(encoder.encode([text])[0], vector)


def test_letter_case_and_order_are_kept():
    rows = NgramEncoder(202).encode(["the cat sat", "The Cat sat", "sat the cat"])
    assert all(first @ second < 0.99 for first, second in itertools.combinations(rows, 2))


def test_joined_encoders_have_equal_shares_of_the_norm():
    parts = (HashingEncoder(7), NgramEncoder(26), HashingEncoder(3))
    encoder = JointEncoder(parts=parts)
    assert isinstance(encoder, TextEncoder)
    assert encoder.dim == 36
    texts = ["one two", "three", ""]
    rows = encoder.encode(texts)
    np.testing.assert_allclose(rows[:, 7:33] * np.sqrt(3), parts[1].encode(texts), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.ones(3), rtol=1e-6)
    assert encoder.digest == JointEncoder(parts=parts).digest != JointEncoder(parts=parts[::-1]).digest
    with pytest.raises(ConfigError, match="at least one"):
        JointEncoder(parts=())


def test_an_encoder_is_opened_by_name_with_n_grams_behind_it(monkeypatch):
    opened = []

    def load(source, **_):
        opened.append(source)
        return HashingEncoder(5)

    monkeypatch.setattr(joint, "load_encoder", load)
    assert open_encoder("a+folder") == HashingEncoder(5)
    assert open_encoder("pypi:x==1#m/+ngrams-12") == JointEncoder(parts=(HashingEncoder(5), NgramEncoder(12)))
    assert opened == ["a+folder", "pypi:x==1#m/"]
    with pytest.raises(ConfigError, match="even dim >= 2, but got 7"):
        open_encoder("x+ngrams-7")
    assert len(opened) == 2  # nothing is fetched for a name that is wrong
