"""Stable-Baselines3 as a peer: MaskablePPO of sb3-contrib on the same tree, with the same sizes and coefficients.

Illegal actions exist, so the masked variant is the fair one. Environments are given to it in two forms: `sb3` steps
them all in one call over NumPy arrays, faster than anything its documentation shows; `sb3-gym` is its usual
DummyVecEnv of one Gymnasium environment each. Torch uses one thread or all cores, whichever is faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hierrouter_jax.bench.extras import import_extra
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.config import TrainConfig

PACKAGES = ("torch", "gymnasium", "stable_baselines3", "sb3_contrib")


def make_sb3(config: TrainConfig, tree: RouteTree, *, is_vectorised: bool) -> Any:
    """Return a MaskablePPO learner; raises `ConfigError` where a package is missing."""
    torch, sb3_contrib = import_extra("torch"), import_extra("sb3_contrib")
    activations = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "gelu": torch.nn.GELU}
    sizes, ppo = list(config.network.hidden_sizes), config.ppo
    envs = _vectorised_envs(config, tree) if is_vectorised else _dummy_envs(config, tree)
    num_steps_of_update = config.num_envs * tree.num_stages

    def learning_rate(_: Any) -> float:
        # By finished updates of the whole run, as ours is: the share that SB3 hands in is of one call of learn().
        if ppo.schedule == "constant" or not learners:
            return ppo.learning_rate
        finished = learners[0].num_timesteps / num_steps_of_update - 1
        return ppo.learning_rate * max(0.0, 1 - finished / config.num_updates)

    learners: list[Any] = []
    learner = sb3_contrib.MaskablePPO(
        "MlpPolicy",
        envs,
        n_steps=tree.num_stages,
        batch_size=num_steps_of_update // ppo.num_minibatches,
        n_epochs=ppo.num_epochs,
        learning_rate=learning_rate,
        gamma=ppo.discount,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_epsilon,
        clip_range_vf=ppo.value_clip_epsilon,
        ent_coef=ppo.entropy_coefficient,
        vf_coef=0.5 * ppo.value_coefficient,  # its value loss is a mean square, ours is half of one
        max_grad_norm=ppo.max_grad_norm,
        policy_kwargs={
            "net_arch": {"pi": sizes, "vf": sizes},
            "activation_fn": activations[config.network.activation],
            "optimizer_kwargs": {"eps": ppo.adam_epsilon},
        },
        seed=config.seed,
        device="cpu",
        verbose=0,
    )
    learners.append(learner)
    return learner


def greedy_utility(model: Any, config: TrainConfig, tree: RouteTree) -> float:
    """Return the mean utility of the likeliest legal actions over all queries of the tree."""
    walkers = _walkers(config, tree, tree.num_queries)
    walkers.reset(np.arange(tree.num_queries), np.arange(tree.num_queries))
    total, is_done = np.zeros(tree.num_queries), np.zeros(tree.num_queries, bool)
    for _ in range(tree.num_stages):
        actions, _ = model.predict(walkers.observe(), deterministic=True, action_masks=walkers.legal())
        rewards, is_end = walkers.step(np.where(is_done, tree.stop, actions))
        total += np.where(is_done, 0.0, rewards)
        is_done |= is_end
    return float(total.mean())


def fastest_threads(learn: Callable[[int], None]) -> int:
    """Return 1 or the number of cores: with how many of torch's threads the second `learn(num_threads)` is faster."""
    seconds = {}
    for num_threads in sorted({1, os.cpu_count() or 1}):
        learn(num_threads)
        began_s = time.perf_counter()
        learn(num_threads)
        seconds[num_threads] = time.perf_counter() - began_s
    return min(seconds, key=lambda count: seconds[count])


def use_threads(num_threads: int) -> None:
    """Let torch use that many threads from now on."""
    import_extra("torch").set_num_threads(num_threads)


def _walkers(config: TrainConfig, tree: RouteTree, num_routes: int) -> Any:
    from hierrouter_jax.routing.gymnasium_env import RouteWalkers

    return RouteWalkers(tree, num_routes, cost_weight=config.cost_weight, allow_stop=config.allow_stop)


def _dummy_envs(config: TrainConfig, tree: RouteTree) -> Any:
    from hierrouter_jax.routing.gymnasium_env import RoutingEnv

    vec_env = import_extra("stable_baselines3.common.vec_env")
    make = [lambda: RoutingEnv(tree, cost_weight=config.cost_weight, allow_stop=config.allow_stop)]
    return vec_env.DummyVecEnv(make * config.num_envs)


def _vectorised_envs(config: TrainConfig, tree: RouteTree) -> Any:
    gymnasium = import_extra("gymnasium")
    vec_env = import_extra("stable_baselines3.common.vec_env")

    class WalkersVecEnv(vec_env.VecEnv):  # type: ignore[name-defined]
        """All environments as one: resets itself where a route has ended, as SB3 expects."""

        def __init__(self) -> None:
            self.walkers = _walkers(config, tree, config.num_envs)
            self.random = np.random.default_rng(config.seed)
            self.actions = np.zeros(config.num_envs, np.int64)
            self.render_mode = None
            box = gymnasium.spaces.Box(-np.inf, np.inf, (self.walkers.observation_size,), np.float32)
            super().__init__(config.num_envs, box, gymnasium.spaces.Discrete(tree.num_models + 1))

        def reset(self) -> np.ndarray:
            self._restart(np.ones(self.num_envs, bool))
            return self.walkers.observe()

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            rewards, is_end = self.walkers.step(self.actions)
            self._restart(is_end)
            # "terminal_observation" and "TimeLimit.truncated" matter to truncated episodes only; none is.
            return self.walkers.observe(), rewards, is_end, [{} for _ in range(self.num_envs)]

        def _restart(self, mask: np.ndarray) -> None:
            self.walkers.reset(mask, self.random.integers(self.walkers.num_queries, size=int(mask.sum())))

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return list(self.walkers.legal())  # action_masks is the one method that is asked for

        def has_attr(self, attr_name: str) -> bool:
            return attr_name == "action_masks"

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            pass

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

        def close(self) -> None:
            pass

    return WalkersVecEnv()
