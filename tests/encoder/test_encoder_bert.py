"""Oracle: the torch models of transformers, with the same weights, on ragged batches."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.encoder.bert import relative_position_buckets
from hierrouter_jax.encoder.checkpoint import load_params
from hierrouter_jax.encoder.config import config_from_hf
from hierrouter_jax.weights.readers import open_reader

encode_tokens = nnx.jit(lambda encoder, token_ids, num_tokens: encoder(token_ids, num_tokens))

LENGTHS = (29, 2, 11, 1, 17)


def load(folder, model):
    return load_params(
        config_from_hf(model.config.to_dict()), open_reader([folder / "model.safetensors"]), is_quiet=True
    )


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_token_vectors_equal_torch(save_encoder, family):
    folder, model = save_encoder(family)
    graphdef, params, _ = load(folder, model)
    token_ids = np.random.default_rng(0).integers(4, 51, (len(LENGTHS), max(LENGTHS)))
    mask = np.arange(max(LENGTHS))[None] < np.array(LENGTHS)[:, None]
    token_ids = np.where(mask, token_ids, model.config.pad_token_id)
    with torch.no_grad():
        expected = model(torch.tensor(token_ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()

    received = np.asarray(encode_tokens(nnx.merge(graphdef, params), jnp.asarray(token_ids), jnp.asarray(LENGTHS)))

    np.testing.assert_allclose(received[mask], expected[mask], atol=1e-5, rtol=1e-5)
    norms = np.linalg.norm(received, axis=-1) * np.linalg.norm(expected, axis=-1)
    assert ((received * expected).sum(-1) / norms)[mask].min() >= 0.99999


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_padding_changes_no_token(save_encoder, family):
    folder, model = save_encoder(family)
    graphdef, params, _ = load(folder, model)
    encoder = nnx.merge(graphdef, params)
    token_ids = np.random.default_rng(1).integers(4, 51, (1, 13)).astype(np.int32)
    alone = encode_tokens(encoder, jnp.asarray(token_ids[:, :7]), jnp.array([7]))
    padded = encode_tokens(encoder, jnp.asarray(token_ids), jnp.array([7]))
    np.testing.assert_allclose(alone, padded[:, :7], atol=1e-6)
    assert np.abs(alone - encode_tokens(encoder, jnp.asarray(token_ids), jnp.array([13]))[:, :7]).max() > 1e-3


def test_relative_position_buckets_equal_torch():
    positions = torch.arange(521)
    expected = MPNetEncoder.relative_position_bucket(positions[None, :] - positions[:, None])
    np.testing.assert_array_equal(relative_position_buckets(521), expected.numpy())


def test_keys_beyond_the_last_bucket_of_mpnet_weigh_as_in_torch(save_encoder):
    num_tokens = 311  # most pairs are in the last bucket of either half, which begins at distance 91
    folder, model = save_encoder("mpnet", window_tokens=num_tokens)
    graphdef, params, _ = load(folder, model)
    # Every bucket is used but 16, which would be a later key at distance 0.
    assert set(np.unique(relative_position_buckets(num_tokens))) == {*range(32)} - {16}
    token_ids = np.random.default_rng(2).integers(4, 51, (1, num_tokens))
    with torch.no_grad():
        expected = model(torch.tensor(token_ids)).last_hidden_state.numpy()
    encoder = nnx.merge(graphdef, params)

    received = np.asarray(encode_tokens(encoder, jnp.asarray(token_ids), jnp.array([num_tokens])))

    np.testing.assert_allclose(received, expected, atol=2e-5, rtol=1e-5)


def test_every_tensor_that_does_not_fit_is_named_at_once(save_encoder):
    folder, model = save_encoder("bert")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"] = np.zeros((21, 41), np.float32)
    del tensors["embeddings.LayerNorm.bias"]
    save_file({**tensors, "extra.weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(WeightsError) as error:
        load(folder, model)
    message = str(error.value)
    assert "embeddings.LayerNorm.bias" in message
    assert "extra.weight" in message
    assert "encoder.layer.1.output.dense.weight" in message
    assert "pooler" not in message
