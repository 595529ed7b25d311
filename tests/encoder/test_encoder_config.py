"""What is read from config.json, and what is refused by name."""

import pytest

from hierrouter_jax.core.errors import ConfigError, WeightsError
from hierrouter_jax.encoder.config import EncoderConfig, config_from_hf

HF = {
    "model_type": "bert",
    "vocab_size": 53,
    "hidden_size": 21,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 29,
    "layer_norm_eps": 1e-5,
}


def test_sizes_and_windows():
    assert config_from_hf(HF) == EncoderConfig(
        family="bert", vocab_size=53, embed_dim=21, mlp_dim=37, num_layers=2, num_heads=3, num_positions=29,
        norm_epsilon=1e-5,
    )  # fmt: skip
    assert config_from_hf(HF).window_tokens == 29
    assert config_from_hf({**HF, "model_type": "mpnet"}).window_tokens == 27


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "roberta"}, "roberta"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "gelu_new"}, "gelu_new"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"model_type": "mpnet", "relative_attention_num_buckets": 31}, "31"),
    ],
)
def test_other_architectures_are_refused_by_name(changes, named):
    with pytest.raises(WeightsError, match=named):
        config_from_hf({**HF, **changes})


def test_all_missing_keys_are_named():
    with pytest.raises(WeightsError) as error:
        config_from_hf({"model_type": "bert", "vocab_size": 53})
    assert all(key in str(error.value) for key in ("hidden_size", "num_hidden_layers", "max_position_embeddings"))


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        config_from_hf({**HF, "num_attention_heads": 2})
    with pytest.raises(ConfigError, match="num_layers must be >= 1"):
        config_from_hf({**HF, "num_hidden_layers": 0})
    with pytest.raises(ConfigError, match="num_positions must be > 2"):
        config_from_hf({**HF, "model_type": "mpnet", "max_position_embeddings": 2})
