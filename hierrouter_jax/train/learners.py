"""The learners by name: what one update does with its episodes."""

from __future__ import annotations

from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.exact import exact_loss
from hierrouter_jax.train.full_information import LossFn, make_full_information_update
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.ppo import UpdateFn, make_update
from hierrouter_jax.train.regression import regression_loss


def make_learner(config: TrainConfig, *, axis_name: str | None = None) -> UpdateFn:
    """Return the update of the config's learner; `axis_name` as in `make_update`."""
    optimizer = make_optimizer(config)
    if config.learner == "ppo":
        return make_update(optimizer, config.ppo, allow_stop=config.allow_stop, axis_name=axis_name)
    loss_fn: LossFn = {"exact": exact_loss, "regression": regression_loss}[config.learner]
    return make_full_information_update(
        loss_fn, optimizer, config.ppo, allow_stop=config.allow_stop, axis_name=axis_name
    )
