"""Many trainings as one program: every cost weight with every seed, `vmap` of the one training function.

A sweep over cost weights is how a Pareto front is made: each weight asks for another trade-off. Runs share tree and
program, and nothing else: the run of a weight and a seed is, up to rounding, `make_train(config)` with that weight
and the key of that seed, whatever else is in the sweep. Runs go through the device in chunks, side by side within a
chunk, one chunk after the other: on a CPU a few at a time, so that their weights and Adam's moments stay in its cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from hierrouter_jax.core.errors import ConfigError, raise_all
from hierrouter_jax.core.keys import MAX_SEED
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.make_train import TrainFn, make_train
from hierrouter_jax.train.presets import DEFAULT_PRESET, preset
from hierrouter_jax.train.state import TrainOutput

# 0, then three a decade from 0.001 to 10, closer where routes change: 16 in all.
DEFAULT_COST_WEIGHTS = (
    *(0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.0),
)
CPU_CHUNK_SIZE, CPU_CHUNKS_AT_A_TIME = 4, 2
SweepFn = Callable[[], TrainOutput]


def sweep_config(preset_name: str = DEFAULT_PRESET) -> TrainConfig:
    """Return the config that sweeps start from: the preset's, of a quarter of the episodes for `ppo`.

    On trees of a few hundred queries that learns as well; a tree of thousands wants the episodes of `TrainConfig`.
    """
    config = preset(preset_name)
    if config.learner != "ppo":
        return config
    return dataclasses.replace(config, num_envs=64, ppo=dataclasses.replace(config.ppo, num_minibatches=2))


def make_sweep(
    config: TrainConfig,
    tree: RouteTree,
    cost_weights: Sequence[float] = DEFAULT_COST_WEIGHTS,
    num_seeds: int = 4,
    *,
    chunk_size: int | None = None,
) -> SweepFn:
    """Return `sweep() -> TrainOutput`, pure; every leaf leads with [cost_weight seed].

    Seeds are `config.seed`, `config.seed + 1`, ... Raises `ConfigError` for cost weights and seeds that are none, and
    for a conditioned router, which needs one training for all cost weights (`make_train` over keys).
    """
    check_sweep(config, cost_weights, num_seeds)
    weights, keys = sweep_grid(config, cost_weights, num_seeds)
    size = default_chunk_size(len(weights)) if chunk_size is None else chunk_size
    train = make_train(config, tree)

    def sweep() -> TrainOutput:
        outputs = jax.lax.map(lambda run: train(run[0], run[1]), (keys, weights), batch_size=min(size, len(weights)))
        return _as_grid(outputs, len(cost_weights))

    return sweep


def run_sweep(
    config: TrainConfig,
    tree: RouteTree,
    cost_weights: Sequence[float],
    num_seeds: int,
    *,
    advance: Callable[[int], None] = lambda count: None,
    chunk_size: int | None = None,
) -> TrainOutput:
    """Return what `make_sweep` returns, coming back to the host after every chunk to say how many runs are done.

    A conditioned router is trained once a seed, for all cost weights, and its leaves lead with [seed] alone. On a CPU
    two chunks run at a time: one fills the cores while the other is in an operation too small to be spread over them.
    """
    check_sweep(config, cost_weights, num_seeds, may_be_conditioned=True)
    weights, keys = sweep_grid(config, cost_weights, num_seeds)
    train: TrainFn | Callable[..., TrainOutput] = make_train(config, tree)
    arguments: tuple[Array, ...] = (keys, weights)
    if config.network.is_conditioned:
        arguments = (keys[:num_seeds],)
    num_runs = len(arguments[0])
    size = min(default_chunk_size(num_runs) if chunk_size is None else chunk_size, num_runs)
    program = jax.jit(jax.vmap(train))

    def run_chunk(start: int) -> TrainOutput:
        # The last chunk is filled up with runs done before: one shape, one program.
        runs = jnp.minimum(jnp.arange(start, start + size), num_runs - 1)
        return jax.block_until_ready(program(*(each[runs] for each in arguments)))

    outputs = []
    starts = range(0, num_runs, size)
    with ThreadPoolExecutor(CPU_CHUNKS_AT_A_TIME if jax.default_backend() == "cpu" else 1) as workers:
        for start, output in zip(starts, workers.map(run_chunk, starts), strict=True):
            outputs.append(output)
            advance(min(size, num_runs - start))
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num_runs], *outputs)
    return joined if config.network.is_conditioned else _as_grid(joined, len(cost_weights))


def sweep_grid(config: TrainConfig, cost_weights: Sequence[float], num_seeds: int) -> tuple[Array, Key[Array, " run"]]:
    """Return cost weight and key of every run, all seeds of the first weight first."""
    seeds = np.arange(num_seeds, dtype=np.uint32) + np.uint32(config.seed)
    keys = jax.vmap(jax.random.key)(jnp.asarray(np.tile(seeds, len(cost_weights))))
    return jnp.asarray(np.repeat(np.asarray(cost_weights, np.float32), num_seeds)), keys


def default_chunk_size(num_runs: int) -> int:
    """Return how many runs go side by side: on a CPU those that fit its cache, on an accelerator all."""
    return min(CPU_CHUNK_SIZE, num_runs) if jax.default_backend() == "cpu" else num_runs


def check_sweep(
    config: TrainConfig, cost_weights: Sequence[float], num_seeds: int, *, may_be_conditioned: bool = False
) -> None:
    """Raise one `ConfigError` that lists everything wrong with the grid."""
    problems = []
    if not cost_weights:
        problems.append("cost_weights must name at least one, but are empty")
    if any(not (np.isfinite(weight) and weight >= 0) for weight in cost_weights):
        problems.append(f"cost_weights must be finite and >= 0, but are {tuple(cost_weights)}")
    if len(set(cost_weights)) < len(cost_weights):
        problems.append(f"cost_weights must differ, but are {tuple(cost_weights)}")
    if num_seeds < 1:
        problems.append(f"num_seeds must be >= 1, but is {num_seeds}")
    if config.seed + num_seeds - 1 > MAX_SEED:
        problems.append(f"the last seed must be below 2**32, but is {config.seed + num_seeds - 1}; lower seed")
    if config.network.is_conditioned and not may_be_conditioned:
        problems.append("a conditioned router has one training for all cost weights; use make_train over keys")
    raise_all(ConfigError, "The sweep cannot be run:", problems)


def conditioned_config(config: TrainConfig, cost_weights: Sequence[float], *, num_times_envs: int = 8) -> TrainConfig:
    """Return the config of one router for all of the cost weights: the same updates, of more episodes.

    Its episodes' cost weights reach from the smallest above 0 to the largest. Raises `ConfigError` where fewer than
    two of them are above 0.
    """
    positive = sorted(weight for weight in cost_weights if weight > 0)
    if len(positive) < 2:
        raise ConfigError(
            f"A conditioned router needs a range of cost weights, at least two above 0, but they are "
            f"{tuple(cost_weights)}; give more."
        )
    return dataclasses.replace(
        config,
        num_envs=config.num_envs * num_times_envs,
        cost_weight_range=(positive[0], positive[-1]),
        network=dataclasses.replace(config.network, is_conditioned=True),
    )


def _as_grid(outputs: TrainOutput, num_cost_weights: int) -> TrainOutput:
    return jax.tree.map(lambda leaf: leaf.reshape((num_cost_weights, -1, *leaf.shape[1:])), outputs)
