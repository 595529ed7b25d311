"""The identity of a run: what changes it, and what must not."""

import dataclasses

import pytest

from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.run_record import RunRecord


def digest_of(config):
    return RunRecord(config=config, tree_digest="", model_names=("a", "b"), num_stages=2, context_dim=3).config_digest


def test_every_value_that_is_not_a_default_changes_the_digest():
    ppo = dataclasses.replace(TrainConfig().ppo, num_epochs=TrainConfig().ppo.num_epochs + 1)
    configs = [
        TrainConfig(),
        TrainConfig(seed=5),
        TrainConfig(seed=7),
        TrainConfig(ppo=ppo),
        TrainConfig(seed=5, ppo=ppo),
        TrainConfig(cost_weight=TrainConfig().cost_weight + 0.25),
    ]
    assert len({digest_of(config) for config in configs}) == len(configs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterPPO(PPOConfig):
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterConfig(TrainConfig):
    """The config of a later version, with a field more here and there."""

    ppo: PPOConfig = dataclasses.field(default_factory=LaterPPO)
    num_teachers: int = 0


@pytest.mark.parametrize("changes", [{}, {"seed": 11, "num_envs": 64}])
def test_a_field_that_a_later_version_adds_leaves_earlier_runs_readable(changes):
    assert digest_of(LaterConfig(**changes)) == digest_of(TrainConfig(**changes))
    assert digest_of(LaterConfig(**changes, num_teachers=3)) != digest_of(TrainConfig(**changes))
