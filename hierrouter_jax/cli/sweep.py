"""`hierrouter sweep`: every cost weight with every seed, trained as one program, becomes a Pareto front.

Into the folder go `sweep.json` (every run on every split, what was picked and how), `sweep.png` and `sweep.html`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from hierrouter_jax.cli.output import print_lines, print_note, print_table, write_json
from hierrouter_jax.cli.packaged import SMALL_TREE, packaged_file
from hierrouter_jax.cli.preset_option import with_preset
from hierrouter_jax.collect.tree_file import TreeFile, load_tree
from hierrouter_jax.core.atomic_files import atomic_write, require_writable, write_text_atomically
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.costs import CostModel
from hierrouter_jax.evaluate.sweep_results import SweepResults, sweep_results
from hierrouter_jax.report.sweep_report import sweep_figure, sweep_page, sweep_table
from hierrouter_jax.report.themes import LIGHT, png_bytes
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.presets import DEFAULT_PRESET, Preset
from hierrouter_jax.train.sweep import (
    DEFAULT_COST_WEIGHTS,
    check_sweep,
    conditioned_config,
    run_sweep,
    sweep_config,
)

JSON_NAME, PICTURE_NAME, PAGE_NAME = "sweep.json", "sweep.png", "sweep.html"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `sweep`."""

    out: Path = Path("runs/sweep")
    """The folder for sweep.json, sweep.png and sweep.html."""
    tree: Path | None = None
    """Tree file to learn from; by default the packaged one."""
    cost_weights: tuple[float, ...] = DEFAULT_COST_WEIGHTS
    """The trade-offs, each the quality one gives up for one call of the dearest model."""
    num_seeds: int = 4
    """Trainings of each cost weight; their seeds are --seed and those after it."""
    conditioned: bool = False
    """Besides, train one router for all cost weights, which is told the one that is asked of it."""
    cost_model: CostModel = "base_rate"
    """The unit in which hops cost."""
    picture: Path | None = None
    """Write the picture there besides, for a page of documentation."""
    json: Path | None = None
    """Write the outcome there besides, as JSON."""
    preset: Preset = DEFAULT_PRESET
    """The config that the options below change."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: sweep_config(DEFAULT_PRESET))
    """What each run trains, and how; cost_weight, intervals and checkpoints play no part in a sweep."""


def command_for(arguments: Sequence[str]) -> type[Command]:
    """Return the options, with the defaults of the preset that the command line asks for."""
    return with_preset(Command, arguments, sweep_config)


def run(command: Command) -> None:
    """Train, evaluate, draw, and say where everything lies."""
    check_sweep(command.config, command.cost_weights, command.num_seeds)
    for path in (command.out / JSON_NAME, command.json, command.picture):
        if path is not None:  # minutes of training are not lost to a folder that cannot be written
            require_writable(path)
    path = packaged_file(SMALL_TREE) if command.tree is None else command.tree
    outcome = sweep_on(load_tree(path, cost_model=command.cost_model), command)
    results = outcome.pop("results")
    record = outcome | to_json_dict(results)
    for target in (command.out / JSON_NAME, command.json):
        write_json(target, record)
    picture = png_bytes(sweep_figure(results, theme=LIGHT))
    for target in (command.out / PICTURE_NAME, command.picture):
        if target is not None:
            with atomic_write(target) as file:
                file.write(picture)
    write_text_atomically(command.out / PAGE_NAME, sweep_page(results, name=path.stem))
    print_table(sweep_table(results))
    print_lines([f"trained {outcome['num_runs']} runs in {outcome['wall_s']:.1f} s -> {command.out}"])


def sweep_on(tree_file: TreeFile, command: Command) -> dict[str, Any]:
    """Train and score all runs on a loaded tree file; return what the JSON says of the work, and the results."""
    began_s = time.monotonic()
    config, weights = command.config, command.cost_weights
    seeds = range(config.seed, config.seed + command.num_seeds)
    shared = conditioned_config(config, weights) if command.conditioned else None
    trees = {"train": tree_file.train, "validation": tree_file.validation, "test": tree_file.test}
    num_runs = len(weights) * len(seeds)
    print_note(f"{len(weights)} cost weights x {len(seeds)} seeds on {tree_file.train.num_queries} train queries")
    with progress_bar("training", num_runs) as advance:
        separate = run_sweep(config, tree_file.train, weights, len(seeds), advance=advance)
    conditioned_params = None
    if shared is not None:
        with progress_bar("training one for all", len(seeds)) as advance:
            conditioned_params = run_sweep(shared, tree_file.train, weights, len(seeds), advance=advance).params
    trained_s = time.monotonic()
    results: SweepResults = sweep_results(
        {name: tree for name, tree in trees.items() if tree is not None},
        separate.params,
        weights,
        tuple(seeds),
        allow_stop=config.allow_stop,
        conditioned_params=conditioned_params,
    )
    _refuse_diverged(separate.metrics.utility)
    return {
        "results": results,
        "num_runs": num_runs + (0 if shared is None else len(seeds)),
        "train_s": trained_s - began_s,
        "wall_s": time.monotonic() - began_s,
        "config": to_json_dict(config),
        "conditioned_config": None if shared is None else to_json_dict(shared),
    }


def _refuse_diverged(utilities: Any) -> None:
    num_broken = int((~np.isfinite(np.asarray(utilities)).all(axis=-1)).sum())
    if num_broken:
        raise ConfigError(
            f"Training must stay finite, but {num_broken} runs did not. Lower ppo.learning_rate or ppo.max_grad_norm."
        )
