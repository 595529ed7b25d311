"""The config of a collection, as experiments write it down."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hierrouter_jax.collect.asking import DEFAULT_CHUNK_SIZE
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.costs import CostModel
from hierrouter_jax.tasks.prompt_texts import LATEST_PROMPT_VERSION, prompt_set
from hierrouter_jax.tasks.rows import SplitConfig, load_splits
from hierrouter_jax.tasks.task_row import TaskRow


@dataclass(frozen=True, kw_only=True)
class TaskSplitConfig:
    """Sizes for one task that differ from those of the rest."""

    task: str
    splits: SplitConfig


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Everything that determines a tree file, and how the asking is batched.

    `pool` is a pool file, `encoder` a name or source as `open_encoder` takes them, `tasks` folders, task files or hub
    dataset ids. The seed that draws the rows is that of `splits`. `routes` makes a partial tree: of the routes longer
    than one hop only these, each the names of models in order, and the ways to them; empty means every route.
    """

    pool: Path
    encoder: str
    tasks: tuple[str, ...]
    splits: SplitConfig = field(default_factory=SplitConfig)
    task_splits: tuple[TaskSplitConfig, ...] = ()
    num_stages: int = 2
    routes: tuple[tuple[str, ...], ...] = ()
    prompt_version: str = LATEST_PROMPT_VERSION
    cost_model: CostModel = "base_rate"
    chunk_size: int = DEFAULT_CHUNK_SIZE

    def __post_init__(self) -> None:
        """Refuse what no collection can do."""
        if not self.tasks:
            raise ConfigError("tasks must name at least one folder, task file or hub dataset.")
        for name in ("num_stages", "chunk_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")
        prompt_set(self.prompt_version)
        long = [route for route in self.routes if not 0 < len(route) <= self.num_stages]
        if long:
            raise ConfigError(
                f"routes must have 1 to {self.num_stages} models (num_stages), but are among them {long}."
            )
        names = [one.task for one in self.task_splits]
        if len(set(names)) != len(names):
            raise ConfigError(f"task_splits must name a task once, but names {names}.")


def load_collect_rows(config: CollectConfig) -> dict[str, tuple[TaskRow, ...]]:
    """Return the rows of each split, as `collect_tree` takes them.

    Raises `DataError` when a source is missing or malformed, or has fewer rows than asked.
    """
    own = {one.task: one.splits for one in config.task_splits}
    splits = load_splits(config.tasks, config.splits, task_configs=own)
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}
