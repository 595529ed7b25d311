"""What a training run is told: the problem (cost weight, STOP), its size, PPO, the network, and when to save.

`num_envs` counts the episodes of one update over ALL devices, so a config means the same training on one device and
on eight. An episode is one query routed to its end, so an update sees `num_envs * num_stages` steps at most, and a
minibatch is `num_envs / num_minibatches` whole episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.core.errors import ConfigError, raise_all
from hierrouter_jax.core.keys import MAX_SEED

Schedule = Literal["constant", "linear"]


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347)."""

    num_epochs: int = 4
    """Passes over the episodes of one update."""
    num_minibatches: int = 4
    """Optimizer steps in one pass."""
    learning_rate: float = 1e-3
    """Adam's step size at the first update."""
    schedule: Schedule = "linear"
    """How the learning rate goes on: `constant`, or `linear` down to zero at the last update."""
    adam_epsilon: float = 1e-5
    """Added to Adam's denominator."""
    clip_epsilon: float = 0.2
    """The probability ratio earns nothing outside 1 +- this."""
    value_clip_epsilon: float | None = 0.2
    """The same for the change of a value estimate; None leaves values unclipped."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    entropy_coefficient: float = 0.2
    """Weight of the entropy bonus, beside advantages of unit variance. With much less, long routes go undiscovered."""
    discount: float = 1.0
    """Gamma. Routes are short and finite, so nothing is discounted unless asked."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation (arXiv:1506.02438)."""
    max_grad_norm: float = 0.5
    """Global norm the gradient is clipped to."""
    weight_decay: float = 0.0
    """Decoupled decay of the weights, times the learning rate, at every step (AdamW); not of a task mixture's gate."""
    task_penalty: float = 3e-5
    """Ridge on a task mixture's gate, beside the mean of -log p(task): times half the sum of squares of the weights by
    which it reads a unit context."""

    def __post_init__(self) -> None:
        """Refuse values outside the meaning of each field, all at once."""
        problems = [
            *_out_of_range(self, ("num_epochs", "num_minibatches"), low=1),
            *_out_of_range(
                self, ("learning_rate", "adam_epsilon", "clip_epsilon", "max_grad_norm"), low=0, is_open=True
            ),
            *_out_of_range(self, ("value_coefficient", "entropy_coefficient", "weight_decay", "task_penalty"), low=0),
            *_out_of_range(self, ("discount", "gae_lambda"), low=0, high=1.0),
        ]
        if self.value_clip_epsilon is not None:
            problems += _out_of_range(self, ("value_clip_epsilon",), low=0, is_open=True)
        raise_all(ConfigError, "PPOConfig cannot be used:", problems)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults suit a tree of a few hundred queries, three models and two or three stages."""

    cost_weight: float = 0.1
    """Quality one gives up for one call of the dearest model. For a conditioned router, the one taken unless asked."""
    cost_weight_range: tuple[float, float] = (0.01, 1.0)
    """For a conditioned router: each training episode draws its cost weight between the two, or 0."""
    allow_stop: bool = True
    """May the router end a route early? False is the paper's MDP of fixed length."""
    num_updates: int = 300
    """Updates in the whole run."""
    num_envs: int = 256
    """Episodes of one update, over all devices."""
    seed: int = 0
    """Seed of parameters, queries, actions and minibatches; below 2**32."""
    validation_interval: int = 25
    """Updates between two evaluations of the greedy policy on the validation split."""
    checkpoint_interval: int = 50
    """Updates between two checkpoints."""
    num_checkpoints_kept: int = 3
    """Older checkpoints are deleted. At least 2: the one before must outlive the writing of the newest."""
    learner: Literal["ppo", "exact", "regression"] = "ppo"
    """What an update knows and fits: `ppo` the action that an episode took, `exact` what the tree says of every action,
    both by a policy gradient; `regression` fits those values themselves."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """The learner's numbers; the others use those that have a meaning for them, clipping and GAE have none."""
    network: RouterNetConfig = field(default_factory=RouterNetConfig)
    """The policy and value network."""

    def __post_init__(self) -> None:
        """Refuse values outside the meaning of each field, all at once."""
        counts = ("num_updates", "num_envs", "validation_interval", "checkpoint_interval")
        problems = [
            *_out_of_range(self, ("cost_weight",), low=0),
            *_out_of_range(self, ("seed",), low=0, high=MAX_SEED),
            *_out_of_range(self, counts, low=1),
            *_out_of_range(self, ("num_checkpoints_kept",), low=2),
        ]
        low, high = self.cost_weight_range
        if not 0 < low < high < math.inf:
            problems.append(f"cost_weight_range must be two rising, finite numbers above 0, but is {(low, high)}")
        if not problems and self.num_envs % self.ppo.num_minibatches != 0:
            problems.append(
                f"num_envs must be a multiple of num_minibatches, but {self.num_envs} is not one of "
                f"{self.ppo.num_minibatches}"
            )
        raise_all(ConfigError, "TrainConfig cannot be used:", problems)


def _out_of_range(
    config: object, names: tuple[str, ...], *, low: int, high: int | float = math.inf, is_open: bool = False
) -> list[str]:
    """Name the fields that are not finite numbers in [low, high], or in (low, high] where `is_open`."""
    problems = []
    for name in names:
        value = getattr(config, name)
        # Not math.isfinite: it overflows on an integer that no float can hold.
        is_inside = abs(value) < math.inf and value <= high and (value > low if is_open else value >= low)
        if not is_inside:
            bound = f"> {low}" if is_open else f">= {low}"
            upper = "" if math.isinf(high) else f" and <= {high}"
            problems.append(f"{name} must be finite, {bound}{upper}, but is {value}")
    return problems
