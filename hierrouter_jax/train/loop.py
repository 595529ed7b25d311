"""A training run that lasts: on any number of devices, recorded in a run directory, stopped and resumed at will.

The run directory holds `config.json`, `metrics.jsonl`, TensorBoard events and `checkpoints/`. Updates run on the
devices in blocks of at most `MAX_UPDATES_PER_VISIT`; between blocks the host writes metrics, evaluates the greedy
policy, and saves. One compiled program runs blocks of any length, so where the host's visits fall changes nothing
about the result: a run that was killed and resumed ends with the same bits as one left alone (on one kind of
machine; a GPU's compiler may choose other kernels in another process).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from hierrouter_jax.agent.router import Router, greedy_routes
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.routing.route_tree import RouteTree, check_same_pool, check_tree
from hierrouter_jax.routing.scores import RouteBatch, score_routes
from hierrouter_jax.train.checkpoint import CheckpointFolder, abstract_of, restore_checkpoint
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.make_train import init_train_state, make_environment, make_optimizer
from hierrouter_jax.train.metrics_log import MetricsLog
from hierrouter_jax.train.parallel import (
    AXIS_NAME,
    Backend,
    check_devices,
    choose_devices,
    parallelise,
    parallelise_routes,
    replicate,
    shard_rows,
    unreplicate,
)
from hierrouter_jax.train.ppo import UpdateFn, make_update
from hierrouter_jax.train.run_record import CHECKPOINTS_NAME, RunRecord, make_record, open_run_dir, read_record
from hierrouter_jax.train.state import Environment, Params, TrainState, UpdateMetrics, count_of

MAX_UPDATES_PER_VISIT = 25


def train_run(
    config: TrainConfig,
    tree: RouteTree,
    run_dir: Path,
    *,
    validation: RouteTree | None = None,
    resume: bool = False,
    devices: Sequence[jax.Device] | None = None,
    backend: Backend = "pmap",
    origins: Mapping[str, str] | None = None,
    is_quiet: bool = False,
) -> Router:
    """Train on `tree`, leaving everything in `run_dir`, and return the trained router.

    `resume` goes on from the newest checkpoint, or begins when there is nothing yet. `origins` names the digests of
    what the tree was made from (`pool_digest`, `encoder_digest`); a resumed run must have the same. `devices` are
    used as given; without them, as many of this machine's as the episodes of a minibatch split evenly over. Raises
    `ConfigError`, `DataError`, `CheckpointError` or `StorageError`. On Ctrl-C the checkpoints stay whole, and the
    `KeyboardInterrupt` says how to go on.
    """
    devices = _default_devices(config, is_quiet=is_quiet) if devices is None else devices
    check_devices(devices, backend=backend, num_rows=config.num_envs, num_minibatches=config.ppo.num_minibatches)
    _check_trees(tree, validation)
    record = make_record(config, tree, {} if origins is None else origins)
    has_checkpoint = open_run_dir(run_dir, record, resume=resume)
    state = _initial_state(record, run_dir if has_checkpoint else None)
    placement = _Placement(devices=tuple(devices), backend=backend)
    try:
        params = _drive(config, tree, validation, record, run_dir, state, placement, is_quiet)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"Training stopped by request; the checkpoints in {run_dir} are whole. Resume the run to go on from the "
            "newest."
        ) from interrupt
    return _router_of(record, params)


def load_router(run_dir: Path, *, step: int | None = None) -> Router:
    """Return the router of a run, from its newest checkpoint or that of `step` updates."""
    record = read_record(run_dir)
    return _router_of(record, _restore(record, run_dir, step).params)


def make_update_block(update: UpdateFn, max_updates: int) -> Callable[..., tuple[TrainState, UpdateMetrics]]:
    """Return `run(state, row_ids, environment, num_updates)`: that many updates in one program, whatever the number.

    The metrics have `max_updates` rows, of which the first `num_updates` are filled.
    """

    def run_block(
        state: TrainState, row_ids: Int[Array, " batch"], environment: Environment, num_updates: Int[Array, ""]
    ) -> tuple[TrainState, UpdateMetrics]:
        def one_update(
            index: Int[Array, ""], carry: tuple[TrainState, UpdateMetrics]
        ) -> tuple[TrainState, UpdateMetrics]:
            state, rows = carry
            state, metrics = update(state, row_ids, environment)
            return state, jax.tree.map(lambda column, value: column.at[index].set(value), rows, metrics)

        empty = UpdateMetrics(**{field.name: jnp.zeros(max_updates) for field in fields(UpdateMetrics)})
        return jax.lax.fori_loop(0, num_updates, one_update, (state, empty))

    return run_block


def next_visit(config: TrainConfig, num_finished: int) -> int:
    """Return after which update the host looks in again."""
    marks = [num_finished + MAX_UPDATES_PER_VISIT, config.num_updates]
    for interval in (config.checkpoint_interval, config.validation_interval):
        marks.append((num_finished // interval + 1) * interval)
    return min(marks)


def _default_devices(config: TrainConfig, *, is_quiet: bool) -> list[jax.Device]:
    """Return the devices to train on when none are named; say so when some have to stay idle."""
    num_minibatches = config.ppo.num_minibatches
    devices = choose_devices(num_rows=config.num_envs, num_minibatches=num_minibatches)
    num_there = jax.device_count()
    if len(devices) < num_there and not is_quiet:
        sys.stderr.write(
            f"training on {len(devices)} of {num_there} devices: the {config.num_envs // num_minibatches} episodes of "
            f"a minibatch split evenly over no more; with num_envs a multiple of {num_there * num_minibatches} all "
            "take part\n"
        )
    return devices


def _check_trees(tree: RouteTree, validation: RouteTree | None) -> None:
    """Raise `DataError` unless both are route trees, over one pool and in embeddings of one width."""
    check_tree(tree, what="The training tree")
    if validation is None:
        return
    check_tree(validation, what="The validation tree")
    check_same_pool(tree, validation)
    widths = [one.context.shape[1] for one in (tree, validation)]
    if widths[0] != widths[1]:
        raise DataError(
            "The training and the validation tree must hold embeddings of one width, but theirs are "
            f"{widths[0]} and {widths[1]}. Use the splits of one tree file."
        )


@dataclass(frozen=True, kw_only=True)
class _Placement:
    devices: tuple[jax.Device, ...]
    backend: Backend

    def replicate(self, tree: Any) -> Any:
        return replicate(tree, self.devices, backend=self.backend)

    def unreplicate(self, tree: Any) -> Any:
        return unreplicate(tree, backend=self.backend)


def _drive(
    config: TrainConfig,
    tree: RouteTree,
    validation: RouteTree | None,
    record: RunRecord,
    run_dir: Path,
    state: TrainState,
    placement: _Placement,
    is_quiet: bool,
) -> Params:
    """Run the remaining updates and return the final weights."""
    run_block = _block_program(config, placement)
    validate = _make_validation(config, validation, placement)
    rows = shard_rows(jnp.arange(config.num_envs), placement.devices, backend=placement.backend)
    environment = placement.replicate(make_environment(config, tree))
    finished = int(state.step)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(_open_checkpoints(record, run_dir))
        checkpoints.save(finished, state, is_forced=True)
        log = stack.enter_context(MetricsLog(run_dir, num_finished=finished))
        advance = stack.enter_context(progress_bar("training", config.num_updates, is_quiet=is_quiet))
        advance(finished)
        spread = placement.replicate(state)
        while finished < config.num_updates:
            began_s, hops_before = time.perf_counter(), count_of(state.num_hops)
            until = next_visit(config, finished)
            spread, columns = run_block(
                spread, rows, environment, placement.replicate(jnp.asarray(until - finished, jnp.int32))
            )
            state, columns = placement.unreplicate((spread, columns))
            lines = _metric_lines(columns, finished, until)
            num_hops = count_of(state.num_hops) - hops_before
            elapsed_s = time.perf_counter() - began_s
            lines[-1].update(validate(spread.params, until))
            log.append(lines, {"hops_per_s": num_hops / elapsed_s, "updates_per_s": (until - finished) / elapsed_s})
            checkpoints.save(until, state, is_forced=until == config.num_updates)
            advance(until - finished, f"utility {lines[-1]['utility']:.3f}")
            finished = until
    return state.params


@lru_cache(maxsize=8)
def _block_program(config: TrainConfig, placement: _Placement) -> Callable[..., tuple[TrainState, UpdateMetrics]]:
    """Return the program that trains; kept, so that a second run of a config in one process compiles nothing."""
    update = make_update(make_optimizer(config), config.ppo, allow_stop=config.allow_stop, axis_name=AXIS_NAME)
    block = make_update_block(update, MAX_UPDATES_PER_VISIT)
    return parallelise(block, placement.devices, backend=placement.backend)


@lru_cache(maxsize=8)
def _route_program(allow_stop: bool, placement: _Placement) -> Callable[[Params, RouteTree], RouteBatch]:
    """Return the program that routes a tree's queries greedily."""
    route = partial(greedy_routes, allow_stop=allow_stop)
    return parallelise_routes(route, placement.devices, backend=placement.backend)


def _make_validation(
    config: TrainConfig, validation: RouteTree | None, placement: _Placement
) -> Callable[[Params, int], dict[str, int | float]]:
    """Return `validate(params, update)`: scores of the greedy policy where the interval says so, else nothing."""

    def validate(params: Params, update: int) -> dict[str, int | float]:
        if validation is None or (update % config.validation_interval != 0 and update != config.num_updates):
            return {}
        routes = _route_program(config.allow_stop, placement)(params, validation)
        scores = score_routes(validation, routes, cost_weight=config.cost_weight)
        return {
            f"validation/{field.name}": _rounded(np.mean(np.asarray(getattr(scores, field.name))))
            for field in fields(scores)
        }

    return validate


def _metric_lines(columns: UpdateMetrics, finished: int, until: int) -> list[dict[str, int | float]]:
    """Return one dict an update; `ConfigError` when training has diverged."""
    table = {field.name: np.asarray(getattr(columns, field.name)) for field in fields(columns)}
    lines = []
    for row in range(until - finished):
        line = {name: _rounded(column[row]) for name, column in table.items()}
        broken = [name for name, value in line.items() if not math.isfinite(value)]
        if broken:
            raise ConfigError(
                f"Training must stay finite, but {', '.join(broken)} is not at update {finished + row + 1}. Lower "
                "ppo.learning_rate or ppo.max_grad_norm in a new run."
            )
        lines.append({"update": finished + row + 1, **line})
    return lines


def _rounded(value: Any) -> float:
    return float(f"{float(value):.7g}")  # what float32 can tell apart


def _initial_state(record: RunRecord, run_dir: Path | None) -> TrainState:
    """Return the state of the newest checkpoint, or a fresh one where there is no directory to read."""
    if run_dir is not None:
        return _restore(record, run_dir, None)
    return jax.jit(partial(_fresh_state, record))(key=jax.random.key(record.config.seed))


def _fresh_state(record: RunRecord, *, key: Any) -> TrainState:
    sizes = {"num_models": len(record.model_names), "num_stages": record.num_stages}
    return init_train_state(record.config, context_dim=record.context_dim, key=key, **sizes)


def _restore(record: RunRecord, run_dir: Path, step: int | None) -> TrainState:
    abstract = abstract_of(jax.eval_shape(partial(_fresh_state, record), key=jax.random.key(0)))
    folder = run_dir / CHECKPOINTS_NAME
    return restore_checkpoint(folder, abstract, config_digest=record.config_digest, step=step)


def _open_checkpoints(record: RunRecord, run_dir: Path) -> CheckpointFolder:
    return CheckpointFolder(
        run_dir / CHECKPOINTS_NAME,
        config_digest=record.config_digest,
        save_interval=record.config.checkpoint_interval,
        num_kept=record.config.num_checkpoints_kept,
    )


def _router_of(record: RunRecord, params: Params) -> Router:
    return Router(
        params=params,
        config=record.config.network,
        model_names=record.model_names,
        num_stages=record.num_stages,
        allow_stop=record.config.allow_stop,
        encoder_digest=record.origins.get("encoder_digest", ""),
        pool_digest=record.origins.get("pool_digest", ""),
    )
