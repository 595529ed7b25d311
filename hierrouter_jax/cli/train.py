"""`hierrouter train`: a tree file becomes a run directory with a trained router."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hierrouter_jax.cli.output import print_lines, print_note, write_json
from hierrouter_jax.cli.packaged import SMALL_TREE, packaged_file
from hierrouter_jax.collect.tree_file import TreeFile, load_tree
from hierrouter_jax.costs import CostModel
from hierrouter_jax.evaluate.origins import run_origins
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.loop import train_run
from hierrouter_jax.train.metrics_log import read_metrics


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
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """What is trained, and how."""


def run(command: Command) -> None:
    """Train, and say where everything lies."""
    path = packaged_file(SMALL_TREE) if command.tree is None else command.tree
    outcome = train_on(load_tree(path, cost_model=command.cost_model), command)
    print_lines([f"trained {outcome['num_updates']} updates in {outcome['wall_s']:.1f} s -> {command.run_dir}"])
    write_json(command.json, outcome)


def train_on(tree_file: TreeFile, command: Command) -> dict[str, object]:
    """Train on a loaded tree file and return the outcome as JSON values."""
    began_s = time.monotonic()
    sizes = {name: sum(tasks.values()) for name, tasks in tree_file.manifest.split_sizes.items()}
    print_note(f"tree: {tree_file.manifest.num_stages} stages, queries {sizes}, models {tree_file.train.model_names}")
    train_run(
        command.config,
        tree_file.train,
        command.run_dir,
        validation=tree_file.validation,
        resume=command.resume,
        backend=command.backend,
        origins=run_origins(tree_file),
    )
    rows = read_metrics(command.run_dir)
    return {
        "run_dir": str(command.run_dir),
        "num_updates": command.config.num_updates,
        "wall_s": time.monotonic() - began_s,
        "config": dataclasses.asdict(command.config),
        "last_metrics": rows[-1] if rows else {},
    }
