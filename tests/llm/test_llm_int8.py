"""Products in int8, and decoders whose kernels are int8, beside plain arithmetic and beside float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_leaves import leaves_of
from test_llm_decoder import CONFIG

from hierrouter_jax.core.text import GREEDY
from hierrouter_jax.llm.decoder import abstract_leaves, decoder_from_leaves, int8_leaves, random_model
from hierrouter_jax.llm.generation import generate_tokens
from hierrouter_jax.llm.int8 import int8_product, quantize_outputs

TOKENS = np.random.default_rng(0).integers(0, 59, (5, 17)).astype(np.int32)


def test_weights_are_rounded_to_127_steps_of_each_output():
    weights = np.random.default_rng(1).normal(size=(7, 13)).astype(np.float32) * np.arange(7)[:, None]
    rounded, scale = map(np.asarray, quantize_outputs(weights))
    assert rounded.dtype == np.int8
    for row in range(1, 7):
        step = np.abs(weights[row]).max() / 127
        np.testing.assert_allclose(scale[row], step, rtol=1e-6)
        assert np.abs(rounded[row]).max() == 127
        np.testing.assert_allclose(rounded[row] * step, weights[row], atol=0.501 * step)
    assert not rounded[0].any()  # an output of zeros stays one
    assert np.isfinite(scale).all()


@pytest.mark.parametrize("shape", [(1, 13), (5, 13), (1, 1, 13), (2, 3, 13)])
def test_a_product_is_the_sum_of_rounded_inputs_times_rounded_weights(shape):
    rng = np.random.default_rng(2)
    x, weights = rng.normal(size=shape).astype(np.float32), rng.normal(size=(7, 13)).astype(np.float32)
    rounded, scale = quantize_outputs(weights)
    actual = np.asarray(int8_product(jnp.asarray(x), rounded, scale))
    expected = np.zeros((*shape[:-1], 7))
    for place in np.ndindex(*shape[:-1]):
        step = np.abs(x[place]).max() / np.float32(127)
        inputs = [round(value / step) for value in x[place]]
        for out in range(7):
            total = sum(one * int(other) for one, other in zip(inputs, np.asarray(rounded)[out], strict=True))
            expected[(*place, out)] = total * float(step) * float(scale[out])
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual, x @ weights.T, atol=0.15)  # about what float32 gives


def test_a_token_of_zeros_gives_zeros():
    rounded, scale = quantize_outputs(np.ones((3, 5), np.float32))
    np.testing.assert_array_equal(int8_product(jnp.zeros((2, 5)), rounded, scale), np.zeros((2, 3)))


@pytest.mark.parametrize("has_tied_output", [True, False])
def test_leaves_of_float32_become_those_of_an_int8_decoder(has_tied_output):
    config = dataclasses.replace(CONFIG, has_tied_output=has_tied_output)
    wide, narrow = random_model(config, seed=3), random_model(config, seed=3, dtype="int8")
    leaves = {name: part for own, leaf in leaves_of(wide).items() for name, part in int8_leaves(own, leaf).items()}
    expected = leaves_of(narrow)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in abstract_leaves(config, dtype="int8").items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()
    }
    made = leaves_of(decoder_from_leaves(config, leaves, dtype="int8"))
    assert made.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(made[name], leaf, err_msg=name)
    int8_names = {name.rsplit(".", 1)[1] for name, leaf in expected.items() if leaf.dtype == np.int8}
    assert int8_names == {"table", "int8_kernel"}
    assert all(leaf.dtype == np.float32 for leaf in expected.values() if leaf.dtype != np.int8)
    assert narrow.dtype == jnp.float32  # of states and caches


@pytest.mark.parametrize("has_tied_output", [True, False])
def test_an_int8_decoder_says_about_what_its_float32_one_says(has_tied_output):
    config = dataclasses.replace(CONFIG, has_tied_output=has_tied_output)
    wide, narrow = (random_model(config, seed=3, dtype=dtype) for dtype in ("float32", "int8"))
    expected, cache = wide.module()(jnp.asarray(TOKENS))
    actual, narrow_cache = narrow.module()(jnp.asarray(TOKENS))
    assert actual.dtype == jnp.float32
    error, size = np.std(actual - expected), np.std(expected)
    assert 1e-4 * size < error < 0.1 * size
    assert jax.tree.map(jnp.shape, narrow_cache) == jax.tree.map(jnp.shape, cache)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(narrow.params)) < 0.4 * sum(
        leaf.nbytes for leaf in jax.tree.leaves(wide.params)
    )


def test_answers_of_an_int8_decoder_do_not_depend_on_the_batch():
    model = random_model(CONFIG, seed=5, dtype="int8")
    prompts = [row[:size].tolist() for row, size in zip(TOKENS, (17, 3, 11, 7, 5), strict=True)]
    together = generate_tokens(model, prompts, max_new_tokens=[13] * 5, samplings=[GREEDY] * 5)
    for prompt, produced in zip(prompts, together, strict=True):
        (alone,) = generate_tokens(model, [prompt], max_new_tokens=[13], samplings=[GREEDY])
        assert alone.token_ids == produced.token_ids
        np.testing.assert_allclose(alone.logprobs, produced.logprobs, atol=1e-4)
