import json

import jax
import pytest

from hierrouter_jax.core.configs import digest, from_json_dict, to_json_dict
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.keys import MAX_SEED
from hierrouter_jax.train.config import PPOConfig, TrainConfig


def test_a_config_survives_json():
    config = TrainConfig(cost_weight=0.25, num_envs=48, ppo=PPOConfig(value_clip_epsilon=None, num_minibatches=3))
    read_back = from_json_dict(TrainConfig, json.loads(json.dumps(to_json_dict(config))))
    assert read_back == config
    assert digest(to_json_dict(read_back)) == digest(to_json_dict(config))
    assert hash(read_back) == hash(config)


@pytest.mark.parametrize("cost_weight", [-0.1, float("nan"), float("inf")])
def test_a_cost_weight_must_be_a_price(cost_weight):
    with pytest.raises(ConfigError, match="cost_weight must be finite, >= 0"):
        TrainConfig(cost_weight=cost_weight)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_epochs", 0),
        ("num_minibatches", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("clip_epsilon", -0.1),
        ("value_clip_epsilon", 0.0),
        ("entropy_coefficient", -1e-3),
        ("discount", 1.01),
        ("gae_lambda", -0.01),
        ("max_grad_norm", 0.0),
    ],
)
def test_ppo_values_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be"):
        PPOConfig(**{name: value})


@pytest.mark.parametrize("name", ["num_updates", "num_envs", "validation_interval", "checkpoint_interval"])
def test_counts_begin_at_one(name):
    with pytest.raises(ConfigError, match=f"{name} must be finite, >= 1, but is 0"):
        TrainConfig(**{name: 0})


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63, pytest.param(10**400, id="huge")])
def test_a_seed_must_be_one_that_a_key_can_hold(seed):
    with pytest.raises(ConfigError, match="seed must be finite, >= 0 and <= 4294967295, but is"):
        TrainConfig(seed=seed)


def test_every_allowed_seed_makes_a_key_of_its_own():
    """And the next one does not, which is why it is refused."""
    seeds = (0, 1, 2**31 - 1, 2**31, TrainConfig(seed=MAX_SEED).seed)
    keys = {tuple(jax.random.key_data(jax.random.key(seed)).tolist()) for seed in seeds}
    assert len(keys) == len(seeds)
    assert tuple(jax.random.key_data(jax.random.key(MAX_SEED + 1)).tolist()) in keys


def test_two_checkpoints_are_kept_at_least():
    with pytest.raises(ConfigError, match="num_checkpoints_kept must be finite, >= 2, but is 1"):
        TrainConfig(num_checkpoints_kept=1)


def test_episodes_split_evenly_into_minibatches():
    with pytest.raises(ConfigError, match="multiple of num_minibatches, but 30 is not one of 4"):
        TrainConfig(num_envs=30)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        PPOConfig(learning_rate=-1.0, num_epochs=0, discount=2.0)
    assert str(caught.value).count("  - ") == 3
