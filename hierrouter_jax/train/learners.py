"""The learners by name: what one update does with its episodes."""

from __future__ import annotations

from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.exact import make_exact_update
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.ppo import UpdateFn, make_update


def make_learner(config: TrainConfig, *, axis_name: str | None = None) -> UpdateFn:
    """Return the update of the config's learner; `axis_name` as in `make_update`."""
    make = {"ppo": make_update, "exact": make_exact_update}[config.learner]
    return make(make_optimizer(config), config.ppo, allow_stop=config.allow_stop, axis_name=axis_name)
