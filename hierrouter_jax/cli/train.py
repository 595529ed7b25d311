"""`hierrouter train`: a tree file becomes a run directory with a trained router.

One process or many run the same command (`ProcessOptions`). SIGTERM to any of them makes all save a checkpoint of the
same update and exit with code 75; `--resume` goes on, with as many processes as there are then.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from hierrouter_jax.cli.output import print_lines, print_note, write_json
from hierrouter_jax.cli.packaged import SMALL_TREE, packaged_file
from hierrouter_jax.cli.preset_option import with_preset
from hierrouter_jax.cli.processes import ProcessOptions, joined_processes
from hierrouter_jax.collect.tree_file import TreeFile, load_tree
from hierrouter_jax.costs import CostModel
from hierrouter_jax.evaluate.origins import run_origins
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.distributed import is_first_process, sigterm_noticed, together, waiting_for_others
from hierrouter_jax.train.kinds import with_kinds
from hierrouter_jax.train.loop import train_run
from hierrouter_jax.train.metrics_log import read_metrics
from hierrouter_jax.train.presets import DEFAULT_PRESET, Preset, preset


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `train`."""

    run_dir: Path
    """Where config, metrics and checkpoints go."""
    tree: Path | None = None
    """Tree file to learn from; by default the packaged one."""
    resume: bool = False
    """Go on from the run's newest checkpoint; the other options must be those it began with."""
    cost_model: CostModel = "base_rate"
    """The unit in which hops cost."""
    backend: Literal["pmap", "shard_map"] = "pmap"
    """How an update is spread over the devices."""
    json: Path | None = None
    """Write the outcome there as JSON."""
    shard_tree: bool = False
    """Put a block of the queries on each device, for trees that exceed one device's memory; draws differ."""
    context_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """How contexts are kept on the devices; 16 bits halve the memory of a tree."""
    preset: Preset = DEFAULT_PRESET
    """The config that the options below change."""
    kinds: int = 0
    """How many kinds of question a task mixture tells apart, found by clustering; 0: the tasks that the tree names."""
    processes: Annotated[ProcessOptions, tyro.conf.arg(name="")] = field(default_factory=ProcessOptions)
    """Several processes, or hosts, as one computation."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: preset(DEFAULT_PRESET))
    """What is trained, and how."""


def command_for(arguments: Sequence[str]) -> type[Command]:
    """Return the options, with the defaults of the preset that the command line asks for."""
    return with_preset(Command, arguments)


def run(command: Command) -> None:
    """Train, and say where everything lies."""
    path = packaged_file(SMALL_TREE) if command.tree is None else command.tree
    with joined_processes(command.processes) as processes, sigterm_noticed() as is_stop_asked:
        with waiting_for_others("Loading the tree", timeout_s=processes.worker_timeout_s):
            tree_file = together(lambda: _load(path, command))
        outcome = train_on(tree_file, command, is_stop_asked)
        if is_first_process():
            print_lines([f"trained {outcome['num_updates']} updates in {outcome['wall_s']:.1f} s -> {command.run_dir}"])
            write_json(command.json, outcome)


def train_on(
    tree_file: TreeFile, command: Command, is_stop_asked: Callable[[], bool] = lambda: False
) -> dict[str, object]:
    """Train on a loaded tree file and return the outcome as JSON values."""
    began_s = time.monotonic()
    sizes = {name: sum(tasks.values()) for name, tasks in tree_file.manifest.split_sizes.items()}
    if is_first_process():
        print_note(
            f"tree: {tree_file.manifest.num_stages} stages, queries {sizes}, models {tree_file.train.model_names}"
        )
    tree = tree_file.train
    if command.kinds:
        tree = with_kinds(tree, command.kinds)
    elif command.config.network.is_task_mixture and len(tree.task_names) == 1 and is_first_process():
        print_note(
            "all queries of this tree are of one task by name, so a task mixture treats all alike; --kinds 8, say, "
            "lets it find kinds of question by itself"
        )
    train_run(
        command.config,
        tree,
        command.run_dir,
        validation=tree_file.validation,
        resume=command.resume,
        backend=command.backend,
        origins=run_origins(tree_file),
        is_tree_sharded=command.shard_tree,
        is_stop_asked=is_stop_asked,
        worker_timeout_s=command.processes.worker_timeout,
    )
    rows = read_metrics(command.run_dir)
    return {
        "run_dir": str(command.run_dir),
        "num_updates": command.config.num_updates,
        "wall_s": time.monotonic() - began_s,
        "config": dataclasses.asdict(command.config),
        "last_metrics": rows[-1] if rows else {},
    }


def _load(path: Path, command: Command) -> TreeFile:
    """Read the tree; one that is sharded later stays in host memory until then."""
    place = jax.default_device(jax.local_devices(backend="cpu")[0]) if command.shard_tree else nullcontext()
    with place:
        tree_file = load_tree(path, cost_model=command.cost_model)
        if command.context_dtype == "float32":
            return tree_file
        return dataclasses.replace(
            tree_file,
            train=_with_contexts_of(tree_file.train, command.context_dtype),
            validation=tree_file.validation and _with_contexts_of(tree_file.validation, command.context_dtype),
        )


def _with_contexts_of(tree: RouteTree, dtype: str) -> RouteTree:
    return dataclasses.replace(tree, context=tree.context.astype(dtype))
