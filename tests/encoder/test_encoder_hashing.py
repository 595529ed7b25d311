"""Properties of hashed words, and figures that hold in every process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.encoder.text_encoder import TextEncoder


@given(st.lists(st.text(max_size=40), max_size=7))
def test_vectors_are_unit_and_belong_to_their_text_alone(texts):
    encoder = HashingEncoder(17)
    vectors = encoder.encode(texts)
    assert vectors.shape == (len(texts), 17)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.ones(len(texts)), rtol=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(encoder.encode([text])[0], vector)


def test_order_and_case_are_lost_and_words_are_not():
    encoder = HashingEncoder(101)
    first, second, third = encoder.encode(["the cat sat", "Sat the CAT", "the dog sat"])
    np.testing.assert_array_equal(first, second)
    assert first @ first > first @ third + 0.1


def test_inner_products_estimate_word_overlap():
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(3001)]
    shared, own, other = np.split(rng.permutation(words)[:900], 3)
    left, right = HashingEncoder(4099).encode([" ".join([*shared, *own]), " ".join([*shared, *other])])
    assert abs(left @ right - 0.5) < 0.05


def test_a_word_has_one_coordinate_in_every_process():
    # The 8-byte blake2b of b"router" as a big-endian number n: coordinate (n // 2) mod 13 is 10, and n is odd.
    np.testing.assert_array_equal(HashingEncoder(13).encode(["router"])[0], np.eye(13, dtype=np.float32)[10])


def test_identity():
    assert isinstance(HashingEncoder(5), TextEncoder)
    assert HashingEncoder(5).digest == HashingEncoder(5).digest != HashingEncoder(7).digest
    with pytest.raises(ConfigError, match="dim >= 1"):
        HashingEncoder(0)
