"""Task rows: one question with what is needed to score an answer, and the splits an experiment is made on.

A source is a folder of task files, one task file, or the id of a known hub dataset. A task file is JSONL:
NAME.jsonl holds the test rows of one task and NAME.train.jsonl, where there is one, its train rows. A task without
train rows is divided by a hash of each row's id, so a row is on the same side for ever.

Which rows a split of a given size takes depends on the ids and a seed alone, never on the order of the file:
rows are ranked by sha256(seed, id), and a larger sample contains every smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hierrouter_jax.core.errors import ConfigError, DataError, raise_all
from hierrouter_jax.tasks.hub_tasks import HUB_TASKS, read_hub_task
from hierrouter_jax.tasks.task_files import read_task_file
from hierrouter_jax.tasks.task_row import TaskRow

__all__ = ["SplitConfig", "TaskRow", "TaskSplits", "load_rows", "load_splits", "rank_rows", "sample_rows"]

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How many rows of each task go where. None takes all there are.

    Validation rows come out of the train rows. `train_share` divides a task that has no train rows of its own.
    """

    num_train: int | None = 24
    num_validation: int = 0
    num_test: int | None = 16
    train_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes below zero and a share that leaves one side empty."""
        for name in ("num_train", "num_validation", "num_test"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} must be >= 0 or absent, but is {value}.")
        if not 0 < self.train_share < 1:
            raise ConfigError(f"train_share must be between 0 and 1, but is {self.train_share}.")


@dataclass(frozen=True, kw_only=True)
class TaskSplits:
    """The rows of one task or of several, by use. No row is in two of them."""

    train: tuple[TaskRow, ...]
    validation: tuple[TaskRow, ...]
    test: tuple[TaskRow, ...]


def load_rows(
    source: str | Path,
    *,
    split: Split = "test",
    num_rows: int | None = None,
    seed: int = 0,
    train_share: float = 0.5,
) -> tuple[TaskRow, ...]:
    """Return the rows of one split of a source, in the order of the seed when sampled, else in the file's order.

    Raises `DataError` naming file and lines when a row is wrong, and when fewer than `num_rows` rows are there.
    """
    rows: list[TaskRow] = []
    for task_source in _task_sources(source):
        train, test = _both_sides(task_source, train_share)
        side = train if split == "train" else test
        rows.extend(side if num_rows is None else sample_rows(side, num_rows, seed=seed, what=f"{task_source} {split}"))
    return tuple(rows)


def load_splits(
    sources: Sequence[str | Path] | str | Path,
    config: SplitConfig,
    *,
    task_configs: dict[str, SplitConfig] | None = None,
) -> TaskSplits:
    """Return train, validation and test rows of all tasks of the sources; sizes count rows a task.

    `task_configs` overrides `config` for the tasks it names (a file's stem, a hub dataset's task name).
    """
    listed = [sources] if isinstance(sources, (str, Path)) else list(sources)
    parts: list[TaskSplits] = []
    problems: list[str] = []
    seen: set[str] = set()
    for task_source in [found for source in listed for found in _task_sources(source)]:
        train, test = _both_sides(task_source, config.train_share)
        name = train[0].task if train else test[0].task
        seen.add(name)
        parts.append(_split_task(name, train, test, (task_configs or {}).get(name, config), problems))
    problems.extend(f"{name}: configured, but no source holds this task" for name in set(task_configs or {}) - seen)
    raise_all(DataError, "The splits asked for cannot be made; ask for fewer rows or other tasks:", sorted(problems))
    return TaskSplits(
        train=tuple(row for part in parts for row in part.train),
        validation=tuple(row for part in parts for row in part.validation),
        test=tuple(row for part in parts for row in part.test),
    )


def sample_rows(rows: Sequence[TaskRow], num_rows: int, *, seed: int, what: str = "rows") -> tuple[TaskRow, ...]:
    """Return the `num_rows` rows that come first in the order of sha256(seed, id)."""
    if num_rows > len(rows):
        raise DataError(f"{what}: {num_rows} rows are asked for, but there are {len(rows)}; ask for fewer.")
    return tuple(rank_rows(rows, seed=seed)[:num_rows])


def rank_rows(rows: Sequence[TaskRow], *, seed: int) -> list[TaskRow]:
    """Return the rows in the order of sha256(seed, id), which no order of the file can change."""
    return sorted(rows, key=lambda row: hash_share(row.id, seed))


def hash_share(row_id: str, seed: int) -> tuple[float, str]:
    """Return a number in [0, 1) that depends on id and seed alone, and the id to break ties."""
    raw = hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:8]
    return int.from_bytes(raw, "big") / 2**64, row_id


def _split_task(
    name: str, train: Sequence[TaskRow], test: Sequence[TaskRow], config: SplitConfig, problems: list[str]
) -> TaskSplits:
    """Take train rows from the front of the ranking and validation rows from its end: neither size moves the other."""
    num_train = len(train) - config.num_validation if config.num_train is None else config.num_train
    num_test = len(test) if config.num_test is None else config.num_test
    if num_train < 0 or num_train + config.num_validation > len(train):
        problems.append(
            f"{name}: {num_train} train and {config.num_validation} validation rows asked, {len(train)} there"
        )
    if num_test > len(test):
        problems.append(f"{name}: {num_test} test rows asked, {len(test)} there")
    ranked = rank_rows(train, seed=config.seed)
    return TaskSplits(
        train=tuple(ranked[: max(num_train, 0)]),
        validation=tuple(ranked[len(ranked) - config.num_validation :]),
        test=tuple(rank_rows(test, seed=config.seed)[:num_test]),
    )


def _task_sources(source: str | Path) -> list[str | Path]:
    """Return the test file or hub id of every task that a source holds."""
    path = Path(source)
    if path.is_dir():
        return _task_files(path)
    if path.is_file():
        return [path]
    if str(source) in HUB_TASKS:
        return [str(source)]
    known = ", ".join(sorted(HUB_TASKS))
    raise DataError(f"{source} is neither a folder of task files, nor a task file, nor a known hub dataset ({known}).")


def _task_files(folder: Path) -> list[str | Path]:
    """Return the test files of a folder. Train rows without test rows are an error: nothing else would tell of them."""
    found = sorted(folder.glob("*.jsonl"))
    files: list[str | Path] = [file for file in found if not file.stem.endswith(".train")]
    alone = [file.name for file in found if file not in files and _test_file(file) not in files]
    raise_all(
        DataError,
        f"{folder} must hold a task's test rows in NAME.jsonl beside its NAME.train.jsonl; add them, or rename the "
        "train file to NAME.jsonl and let it be divided. These stand alone:",
        alone,
    )
    if not files:
        raise DataError(f"{folder} must hold task files NAME.jsonl, but holds none.")
    return files


def _test_file(train_file: Path) -> Path:
    return train_file.with_name(f"{train_file.stem.removesuffix('.train')}.jsonl")


def _both_sides(source: str | Path, train_share: float) -> tuple[list[TaskRow], list[TaskRow]]:
    """Return (train, test) rows of one task, divided by hash where the source has no train rows."""
    if isinstance(source, str):
        train, test = read_hub_task(source)
    else:
        train_path = source.with_name(f"{source.stem}.train.jsonl")
        train = read_task_file(train_path) if train_path.is_file() else None
        test = read_task_file(source)
        if train is not None and train[0].task != test[0].task:
            raise DataError(
                f"{train_path} must hold rows of the task of {source.name}, which is {test[0].task!r}, but holds those "
                f"of {train[0].task!r}; rename the file or the task."
            )
    if train is None:
        share = {row.id: hash_share(row.id, 0)[0] for row in test}  # seed 0: the sides outlive every experiment's seed
        train = [row for row in test if share[row.id] < train_share]
        return train, [row for row in test if share[row.id] >= train_share]
    both = sorted({row.id for row in train} & {row.id for row in test})
    raise_all(DataError, f"{source}: no row may be in train and in test, but these ids are in both:", both)
    return train, test
