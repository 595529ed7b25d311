"""The decoder and its parts: cache against full forward, attention and rotation against NumPy loops."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.llm.cache import empty_cache, resize_cache, slot_bytes, take_rows
from hierrouter_jax.llm.config import DecoderConfig, RopeScaling
from hierrouter_jax.llm.decoder import abstract_leaves, decoder_from_leaves, random_model
from hierrouter_jax.llm.layers import RMSNorm, attend, attend_within, attention_mask, rope_frequencies, rotate, turns_by

CONFIG = DecoderConfig(
    vocab_size=59,
    num_layers=3,
    embed_dim=23,
    mlp_dim=31,
    num_heads=6,
    num_kv_heads=3,
    head_dim=10,
    context_window=97,
    norm_eps=1e-6,
    rope_base=1009.0,
    local_rope_base=31.0,
    sliding_window=5,
    local_layers=(True, False, True),
    activation="gelu_tanh",
    has_qkv_bias=True,
    has_query_key_norms=True,
    has_post_norms=True,
    norm_offset=1,
    embed_scale=4.7,
    attention_soft_cap=3.0,
    final_soft_cap=7.0,
)
MODEL = random_model(CONFIG, seed=3)
NUM_TOKENS, NUM_ROWS, NUM_SLOTS = 19, 2, 29


@jax.jit
def full_forward(model, tokens):
    return model.module()(tokens)


@jax.jit
def cached_forward(model, tokens, positions, cache):
    return model.module()(tokens, positions, cache)


def random_tokens(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, CONFIG.vocab_size, shape), jnp.int32)


def test_incremental_logits_equal_the_full_forward_at_every_split():
    """With everything switched on at once; `test_llm_families` does the same with the config of each family."""
    tokens = random_tokens((NUM_ROWS, NUM_TOKENS))
    expected, _ = full_forward(MODEL, tokens)
    for split in range(1, NUM_TOKENS):
        # What pads the prompt is written to the cache too, and must never be seen.
        _, cache = full_forward(MODEL, jnp.where(jnp.arange(NUM_TOKENS)[None] < split, tokens, 41))
        cache = resize_cache(cache, NUM_SLOTS)
        for position in range(split, NUM_TOKENS):
            positions = np.full((NUM_ROWS, 1), position, np.int32)
            logits, cache = cached_forward(MODEL, tokens[:, position : position + 1], positions, cache)
            np.testing.assert_allclose(logits[:, 0], expected[:, position], atol=1e-4)
            np.testing.assert_array_equal(cache.lengths, [position + 1] * NUM_ROWS)


@pytest.mark.parametrize("split", [4, 18])  # shorter than the window, and one token left
def test_a_prompt_read_in_pieces_gives_the_logits_of_the_whole(split):
    tokens = random_tokens((NUM_ROWS, NUM_TOKENS))
    expected, _ = full_forward(MODEL, tokens)
    cache = empty_cache(CONFIG, NUM_ROWS, NUM_SLOTS)
    for start, end in ((0, split), (split, NUM_TOKENS)):
        positions = np.broadcast_to(np.arange(start, end, dtype=np.int32), (NUM_ROWS, end - start))
        logits, cache = cached_forward(MODEL, tokens[:, start:end], positions, cache)
        np.testing.assert_allclose(logits, expected[:, start:end], atol=1e-4)


def test_rows_at_different_positions_do_not_disturb_each_other():
    tokens = random_tokens((NUM_ROWS, NUM_TOKENS), seed=1)
    expected, cache = full_forward(MODEL, tokens)
    # Row 0 goes on from position 4 and row 1 from position 11: what the cache holds behind is never seen.
    cache = resize_cache(cache, NUM_SLOTS)
    for step in range(5):
        positions = jnp.array([[4 + step], [11 + step]])
        logits, cache = cached_forward(MODEL, jnp.take_along_axis(tokens, positions, axis=1), positions, cache)
        np.testing.assert_allclose(logits[0, 0], expected[0, 4 + step], atol=1e-4)
        np.testing.assert_allclose(logits[1, 0], expected[1, 11 + step], atol=1e-4)


def test_padding_behind_a_row_changes_nothing_before_it():
    tokens = random_tokens((1, NUM_TOKENS))
    expected, _ = full_forward(MODEL, tokens[:, :7])
    actual, _ = full_forward(MODEL, tokens)
    np.testing.assert_allclose(actual[:, :7], expected, atol=1e-5)


def test_the_cache_keeps_its_rows_when_it_grows_and_when_rows_are_taken():
    _, cache = full_forward(MODEL, random_tokens((3, 7)))
    grown = resize_cache(cache, 11)
    assert grown.num_slots == 11
    np.testing.assert_array_equal(grown.keys[1][..., :7], cache.keys[1])
    np.testing.assert_array_equal(grown.values[2][:, :, 7:], 0)
    np.testing.assert_array_equal(take_rows(grown, jnp.array([2, 0])).values[0], grown.values[0][np.array([2, 0])])
    cut = resize_cache(cache, 5)
    np.testing.assert_array_equal(cut.keys[0], cache.keys[0][..., :5])
    np.testing.assert_array_equal(cut.values[0], cache.values[0][:, :, :5])
    assert sum(x.nbytes for x in (*cache.keys, *cache.values)) == 3 * 7 * slot_bytes(CONFIG)


def test_ends_and_layers_are_the_whole_decoder_in_parts():
    tokens = jnp.asarray(random_tokens((2, 7)))
    expected, _ = full_forward(MODEL, tokens)
    positions = jnp.broadcast_to(jnp.arange(7), (2, 7))
    ends = MODEL.ends.module()
    x, turns = ends.embed_tokens(tokens, positions)
    for index, (graphdef, params) in enumerate(MODEL.layers):
        window = CONFIG.layer_window(index)
        x, _ = nnx.merge(graphdef, params)(x, positions, turns[CONFIG.is_local(index)], window, None)
    np.testing.assert_allclose(ends.logits(ends.final_norm(x)), expected, atol=1e-5)
    num_parts = [len(jax.tree.leaves(part)) for part in (MODEL.ends.params, *(params for _, params in MODEL.layers))]
    assert sum(num_parts) == len(jax.tree.leaves(MODEL.params))


def test_a_cache_that_is_given_up_is_freed_layer_by_layer():
    _, cache = full_forward(MODEL, random_tokens((3, 7)))
    kept = jax.tree.map(np.asarray, cache)
    assert resize_cache(cache, 7, gives_up=True) is cache  # nothing to do, nothing to free
    grown = resize_cache(cache, 11, gives_up=True)
    assert all(array.is_deleted() for array in (*cache.keys, *cache.values))
    np.testing.assert_array_equal(grown.keys[1][..., :7], kept.keys[1])
    taken = take_rows(grown, np.array([2, 0, 0]), gives_up=True)
    assert all(array.is_deleted() for array in (*grown.keys, *grown.values))
    np.testing.assert_array_equal(taken.values[1][:, :, :7], kept.values[1][[2, 0, 0]])
    np.testing.assert_array_equal(taken.lengths, kept.lengths[[2, 0, 0]])


def expected_attention(query, keys, values, positions, window, scale, soft_cap):
    """Attend one query at a time, in float64."""
    num_rows, num_tokens, num_kv_heads, num_groups, _ = query.shape
    output = np.zeros(query.shape)
    for b, t, k, g in np.ndindex(num_rows, num_tokens, num_kv_heads, num_groups):
        here = positions[b, t]
        first = 0 if window is None else max(0, here - window + 1)
        scores = np.array([np.dot(query[b, t, k, g], keys[b, k, s]) * scale for s in range(first, here + 1)])
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        weights = np.exp(scores - scores.max())
        output[b, t, k, g] = (weights / weights.sum()) @ values[b, k, first : here + 1]
    return output


@pytest.mark.parametrize("window", [None, 3, 1])
@pytest.mark.parametrize("soft_cap", [None, 0.5])
def test_attention_equals_a_loop_over_queries(window, soft_cap):
    rng = np.random.default_rng(2)
    query, keys, values = (rng.normal(size=shape) for shape in ((2, 3, 5, 2, 7), (2, 5, 11, 7), (2, 5, 11, 7)))
    positions = np.array([[2, 3, 4], [7, 8, 9]])
    mask = attention_mask(jnp.asarray(positions), jnp.arange(11), window)
    arrays = (jnp.asarray(x, jnp.float32) for x in (query, keys.swapaxes(2, 3), values))
    actual = jax.jit(partial(attend, scale=0.7, soft_cap=soft_cap))(*arrays, mask)
    expected = expected_attention(query, keys, values, positions, window, 0.7, soft_cap)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("window", [None, 2, 5])
def test_blocks_of_queries_change_nothing(window, monkeypatch):
    monkeypatch.setattr("hierrouter_jax.llm.layers.QUERY_BLOCK", 3)
    rng = np.random.default_rng(4)
    query, keys, values = (rng.normal(size=shape) for shape in ((2, 11, 3, 2, 5), (2, 3, 11, 5), (2, 3, 11, 5)))
    arrays = (jnp.asarray(x, jnp.float32) for x in (query, keys.swapaxes(2, 3), values))
    actual = jax.jit(partial(attend_within, window=window, scale=1.3, soft_cap=None))(*arrays)
    positions = np.broadcast_to(np.arange(11), (2, 11))
    np.testing.assert_allclose(actual, expected_attention(query, keys, values, positions, window, 1.3, None), atol=1e-5)


def test_rotation_turns_each_pair_by_its_angle_as_a_complex_number():
    rng = np.random.default_rng(6)
    x, angles = rng.normal(size=(2, 3, 5, 14)), rng.normal(size=(2, 3, 7))
    turned = (x[..., :7] + 1j * x[..., 7:]) * np.exp(1j * angles)[:, :, None]
    actual = rotate(jnp.asarray(x, jnp.float32), turns_by(jnp.asarray(angles, jnp.float32)))
    np.testing.assert_allclose(actual, np.concatenate((turned.real, turned.imag), axis=-1), atol=1e-5)


def test_products_of_rotated_vectors_depend_on_distance_alone():
    rng = np.random.default_rng(8)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 10)), jnp.float32) for _ in range(2))
    frequencies = rope_frequencies(10, base=100.0, scaling=None)

    def product(query_position, key_position):
        rotated = [
            rotate(x, turns_by((frequencies * position)[None, None]))
            for x, position in ((query, query_position), (key, key_position))
        ]
        return float(jnp.vdot(*rotated))

    assert product(17, 12) == pytest.approx(product(6, 1), abs=1e-5)
    assert abs(product(17, 12) - product(17, 11)) > 1e-3


def test_llama3_scaling_leaves_fast_pairs_and_divides_slow_ones():
    scaling = RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    plain = np.asarray(rope_frequencies(64, base=500_000.0, scaling=None))
    ratio = plain / np.asarray(rope_frequencies(64, base=500_000.0, scaling=scaling))
    wavelengths = 2 * np.pi / plain
    np.testing.assert_allclose(ratio[wavelengths < 8192 / 4], 1, rtol=1e-5)
    np.testing.assert_allclose(ratio[wavelengths > 8192], 8, rtol=1e-5)
    assert (np.diff(ratio) > -1e-4).all()


def test_norms_of_both_conventions_are_one_formula():
    x = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    plain, offset = RMSNorm(7, eps=1e-3, offset=0), RMSNorm(7, eps=1e-3, offset=1)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-3)
    for norm in (plain, offset):  # fresh norms multiply by one
        np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-5)
    plain.scale[...], offset.scale[...] = jnp.full(7, 1.5), jnp.full(7, 0.5)
    np.testing.assert_allclose(plain(jnp.asarray(x)), offset(jnp.asarray(x)), rtol=1e-6)
    np.testing.assert_allclose(plain(jnp.asarray(x)), 1.5 * expected, rtol=1e-5)


def test_leaves_go_out_and_in_by_their_names():
    state = jax.tree.leaves_with_path(MODEL.params)
    leaves = {".".join(str(key.key) for key in path if hasattr(key, "key")): value for path, value in state}
    assert set(leaves) == set(abstract_leaves(CONFIG))
    for name, abstract in abstract_leaves(CONFIG).items():
        assert leaves[name].shape == abstract.shape
    again = decoder_from_leaves(CONFIG, leaves)
    tokens = random_tokens((2, 7))
    np.testing.assert_array_equal(full_forward(again, tokens)[0], full_forward(MODEL, tokens)[0])
    del leaves["final_norm.scale"]
    with pytest.raises(ValueError, match=r"final_norm\.scale"):
        decoder_from_leaves(CONFIG, leaves)


def test_models_of_one_architecture_share_their_programs():
    other = random_model(CONFIG, seed=5)
    tokens = random_tokens((1, 13))
    full_forward(MODEL, tokens)
    num_programs = full_forward._cache_size()
    logits, _ = full_forward(other, tokens)
    assert full_forward._cache_size() == num_programs
    assert np.abs(logits - full_forward(MODEL, tokens)[0]).max() > 0.1


def test_half_precision_stays_near_full_precision():
    half = random_model(CONFIG, seed=3, dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    logits, cache = full_forward(half, random_tokens((1, 7)))
    assert logits.dtype == jnp.float32
    assert cache.keys[0].dtype == jnp.bfloat16
    rounded = jax.tree.map(lambda x: x.astype(jnp.float32), half.params)
    expected, _ = full_forward(dataclasses.replace(MODEL, params=rounded), random_tokens((1, 7)))
    assert np.abs(logits - expected).max() < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 9}, "head_dim must be even"),
        ({"num_heads": 7}, "multiple of num_kv_heads"),
        ({"local_layers": (True,)}, "needs 3 flags"),
        ({"sliding_window": None}, "sliding_window"),
        ({"vocab_size": 0, "norm_eps": float("nan")}, r"vocab_size(.|\n)*norm_eps"),
        ({"rope_scaling": RopeScaling(kind="linear", factor=2.0), "final_soft_cap": -1.0}, "final_soft_cap"),
    ],
)
def test_configs_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    "arguments", [{"kind": "linear", "factor": 0.0}, {"kind": "llama3", "factor": 2.0, "low_freq_factor": 4.0}]
)
def test_rotary_scalings_without_meaning_are_refused(arguments):
    with pytest.raises(ConfigError, match="factor"):
        RopeScaling(**arguments)
