"""A training run that lasts: on any number of devices, recorded in a run directory, stopped and resumed at will.

The run directory holds `config.json`, `metrics.jsonl`, TensorBoard events and `checkpoints/`. Updates run on the
devices in blocks of at most `MAX_UPDATES_PER_VISIT`; between blocks the host writes metrics, evaluates the greedy
policy, and saves. One compiled program runs blocks of any length, so where the host's visits fall changes nothing
about the result: a run that was killed and resumed ends with the same bits as one left alone (on one kind of
machine; a GPU's compiler may choose other kernels in another process).

With several processes all of them run this, on the same config and tree, and see one run directory. The first writes
config and metrics, all save checkpoints; what stops one of them stops all, after the same update.
"""

from __future__ import annotations

import dataclasses
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
from hierrouter_jax.core.configs import digest, to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.routing.route_tree import RouteTree, check_same_pool, check_tree
from hierrouter_jax.routing.scores import RouteBatch, score_routes
from hierrouter_jax.train.checkpoint import CheckpointFolder, abstract_of, restore_checkpoint
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.distributed import (
    DEFAULT_WORKER_TIMEOUT_S,
    Preempted,
    agree,
    decide,
    is_first_process,
    require_equal,
    together,
    waiting_for_others,
)
from hierrouter_jax.train.learners import make_learner
from hierrouter_jax.train.make_train import init_train_state, make_environment
from hierrouter_jax.train.metrics_log import MetricsLog, SilentLog
from hierrouter_jax.train.parallel import (
    AXIS_NAME,
    REPLICATED,
    SHARDED,
    Backend,
    PlacedTree,
    check_devices,
    choose_devices,
    global_sharding,
    parallelise,
    parallelise_routes,
    place_shards,
    replicate,
    replicate_globally,
    shard_rows,
    unreplicate,
)
from hierrouter_jax.train.ppo import UpdateFn
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
    is_tree_sharded: bool = False,
    is_stop_asked: Callable[[], bool] = lambda: False,
    worker_timeout_s: float = DEFAULT_WORKER_TIMEOUT_S,
    is_quiet: bool = False,
) -> Router:
    """Train on `tree`, leaving everything in `run_dir`, and return the trained router.

    `resume` goes on from the newest checkpoint, or begins when there is nothing yet. `origins` names the digests of
    what the tree was made from (`pool_digest`, `encoder_digest`); a resumed run must have the same. `devices` are
    used as given; without them, as many of this machine's as the episodes of a minibatch split evenly over. Raises
    `ConfigError`, `DataError`, `CheckpointError` or `StorageError`. On Ctrl-C the checkpoints stay whole, and the
    `KeyboardInterrupt` says how to go on.

    `is_tree_sharded` puts a block of the queries on each device instead of the whole tree (`tree_shards.py` says what
    that changes); the tree may then lie in host memory. `is_stop_asked` is asked at each visit: when it says so to any
    process, all save a checkpoint of the same update and raise `Preempted`. `WorkerLost` is raised when another process
    is lost; where that shows in nothing but silence, the process ends after `worker_timeout_s` (`distributed.py`).
    """
    is_quiet = is_quiet or not is_first_process()
    devices = _default_devices(config, is_quiet=is_quiet) if devices is None else devices
    check_devices(devices, backend=backend, num_rows=config.num_envs, num_minibatches=config.ppo.num_minibatches)
    placement = _Placement(devices=tuple(devices), backend=backend, is_tree_sharded=is_tree_sharded)
    with waiting_for_others("The start of the run", timeout_s=worker_timeout_s):
        agree(lambda: _check_trees(tree, validation))
        record = make_record(config, tree, {} if origins is None else origins)
        require_equal("options, tree and version", _program_digest(record, placement, resume=resume))
        has_checkpoint = decide(lambda: "yes" if open_run_dir(run_dir, record, resume=resume) else "no") == "yes"
        state = _initial_state(record, run_dir if has_checkpoint else None)
    visits = _Visits(is_stop_asked=is_stop_asked, worker_timeout_s=worker_timeout_s, is_quiet=is_quiet)
    try:
        params = _drive(config, tree, validation, record, run_dir, state, placement, visits)
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
    is_tree_sharded: bool

    def replicate(self, tree: Any) -> Any:
        return replicate(tree, self.devices, backend=self.backend)

    def unreplicate(self, tree: Any) -> Any:
        return unreplicate(tree, backend=self.backend)

    def place_environment(self, environment: Environment) -> Environment:
        if not self.is_tree_sharded:
            return self.replicate(environment)
        placed = place_shards(environment.tree, self.devices, backend=self.backend)
        without_tree: Any = {"tree": None}
        prices = self.replicate(dataclasses.replace(environment, **without_tree))
        return dataclasses.replace(prices, tree=placed.tree)

    def savable(self, state: TrainState) -> TrainState:
        """Return the state as Orbax takes it: of several processes, as global arrays."""
        return state if jax.process_count() == 1 else replicate_globally(state, self.devices)


@dataclass(frozen=True, kw_only=True)
class _Visits:
    is_stop_asked: Callable[[], bool]
    worker_timeout_s: float
    is_quiet: bool


def _drive(
    config: TrainConfig,
    tree: RouteTree,
    validation: RouteTree | None,
    record: RunRecord,
    run_dir: Path,
    state: TrainState,
    placement: _Placement,
    visits: _Visits,
) -> Params:
    """Run the remaining updates and return the final weights."""
    run_block = _block_program(config, placement)
    finished = int(state.step)
    with ExitStack() as stack:
        with waiting_for_others("The set-up of the run", timeout_s=visits.worker_timeout_s):
            validate = _make_validation(config, validation, placement)
            rows = shard_rows(jnp.arange(config.num_envs), placement.devices, backend=placement.backend)
            environment = placement.place_environment(make_environment(config, tree))
            checkpoints = stack.enter_context(_open_checkpoints(record, run_dir))
            checkpoints.save(finished, placement.savable(state), is_forced=True)
            log = together(partial(_enter_log, stack, run_dir, finished))
        advance = stack.enter_context(progress_bar("training", config.num_updates, is_quiet=visits.is_quiet))
        advance(finished)
        spread = placement.replicate(state)
        while finished < config.num_updates:
            began_s, hops_before = time.perf_counter(), count_of(state.num_hops)
            until = next_visit(config, finished)
            with waiting_for_others(f"Training updates {finished + 1} to {until}", timeout_s=visits.worker_timeout_s):
                spread, columns = run_block(
                    spread, rows, environment, placement.replicate(jnp.asarray(until - finished, jnp.int32))
                )
                state, columns = placement.unreplicate((spread, columns))
                lines = _metric_lines(columns, finished, until)
                speed = _speed(count_of(state.num_hops) - hops_before, until - finished, began_s)
                lines[-1].update(validate(spread.params, until))
                is_stopped = agree(partial(log.append, lines, speed), notice=visits.is_stop_asked())
                is_forced = is_stopped or until == config.num_updates
                checkpoints.save(until, placement.savable(state), is_forced=is_forced)
            advance(until - finished, f"utility {lines[-1]['utility']:.3f}")
            finished = until
            if is_stopped and finished < config.num_updates:
                raise Preempted(
                    f"Training stopped by request after update {finished} of {config.num_updates}, whose checkpoint is "
                    f"saved in {run_dir}. Resume the run to go on."
                )
    return state.params


def _enter_log(stack: ExitStack, run_dir: Path, finished: int) -> MetricsLog | SilentLog:
    if not is_first_process():
        return SilentLog()
    return stack.enter_context(MetricsLog(run_dir, num_finished=finished))


def _speed(num_hops: int, num_updates: int, began_s: float) -> dict[str, float]:
    elapsed_s = time.perf_counter() - began_s
    return {"hops_per_s": num_hops / elapsed_s, "updates_per_s": num_updates / elapsed_s}


def _program_digest(record: RunRecord, placement: _Placement, *, resume: bool) -> str:
    """Return the digest of all that every process must have been given alike."""
    options = [placement.backend, placement.is_tree_sharded, len(placement.devices), resume, jax.__version__]
    return digest([to_json_dict(record), *options])


@lru_cache(maxsize=8)
def _block_program(config: TrainConfig, placement: _Placement) -> Callable[..., tuple[TrainState, UpdateMetrics]]:
    """Return the program that trains; kept, so that a second run of a config in one process compiles nothing."""
    update = make_learner(config, axis_name=AXIS_NAME)
    block = make_update_block(update, MAX_UPDATES_PER_VISIT)
    specs: tuple[Any, ...] = ()
    if placement.is_tree_sharded:
        bounds = REPLICATED if config.network.is_conditioned else None
        spec: dict[str, Any] = {"tree": SHARDED, "cost_weight": REPLICATED, "cost_weight_range": bounds}
        specs = (Environment(**spec),)
    return parallelise(block, placement.devices, backend=placement.backend, shared_specs=specs)


@lru_cache(maxsize=8)
def _route_program(allow_stop: bool, placement: _Placement) -> Callable[[Params, PlacedTree], RouteBatch]:
    """Return the program that routes a tree's queries greedily."""
    route = partial(greedy_routes, allow_stop=allow_stop)
    return parallelise_routes(route, placement.devices, backend=placement.backend)


def _make_validation(
    config: TrainConfig, validation: RouteTree | None, placement: _Placement
) -> Callable[[Params, int], dict[str, int | float]]:
    """Return `validate(params, update)`: scores of the greedy policy where the interval says so, else nothing."""
    placed = None if validation is None else place_shards(validation, placement.devices, backend=placement.backend)

    def validate(params: Params, update: int) -> dict[str, int | float]:
        is_due = update % config.validation_interval == 0 or update == config.num_updates
        if validation is None or placed is None or not is_due:
            return {}
        routes = _route_program(config.allow_stop, placement)(params, placed)
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
    sizes = {
        "num_models": len(record.model_names),
        "num_stages": record.num_stages,
        "num_signals": record.num_signals,
        "num_tasks": record.num_tasks,
    }
    return init_train_state(record.config, context_dim=record.context_dim, key=key, **sizes)


def _restore(record: RunRecord, run_dir: Path, step: int | None) -> TrainState:
    is_alone = jax.process_count() == 1
    sharding = None if is_alone else global_sharding(jax.devices())
    abstract = abstract_of(jax.eval_shape(partial(_fresh_state, record), key=jax.random.key(0)), sharding)
    folder = run_dir / CHECKPOINTS_NAME
    state = restore_checkpoint(folder, abstract, config_digest=record.config_digest, step=step)
    return state if is_alone else unreplicate(state, backend="shard_map")


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
