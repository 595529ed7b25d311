"""Training configs that are starting points, by name.

`task-mixture` infers the task and fits, for every task, what each action earns (`TaskMixtureNet`,
`train/regression.py`): on trees of hundreds or thousands of queries it generalises best of what was tried
(docs/RESULTS.md). `ppo` is the paper's: a network that reads the whole context, and proximal policy optimisation
(arXiv:2511.09873).
"""

from __future__ import annotations

from typing import Literal

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.train.config import PPOConfig, TrainConfig

Preset = Literal["task-mixture", "ppo"]
DEFAULT_PRESET: Preset = "task-mixture"
PRESETS: dict[str, TrainConfig] = {
    "task-mixture": TrainConfig(
        learner="regression",
        num_updates=100,
        num_envs=512,
        network=RouterNetConfig(is_task_mixture=True, reads_signals=True, hidden_sizes=(), norm="none"),
        ppo=PPOConfig(num_epochs=1, learning_rate=1e-2, weight_decay=0.3, max_grad_norm=10.0),
    ),
    "ppo": TrainConfig(),
}


def preset(name: str) -> TrainConfig:
    """Return the config of that name; `ConfigError` when there is none."""
    if name not in PRESETS:
        raise ConfigError(f"A preset is one of {', '.join(PRESETS)}, but {name!r} was asked for.")
    return PRESETS[name]
