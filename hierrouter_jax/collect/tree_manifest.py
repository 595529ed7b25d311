"""The manifest of a tree file: which pool, prompts, encoder, rows and program its numbers come from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.core.text import ModelCard, pool_digest

FORMAT_VERSION = 2
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class TreeManifest:
    """What a tree file says of itself, beside its arrays."""

    format_version: int = FORMAT_VERSION
    created_by: str  # name and version of the program
    cards: tuple[ModelCard, ...]  # in the order of the actions
    pool_digest: str
    num_stages: int
    prompt_version: str
    scorer_version: str
    encoder_digest: str
    encoder_dim: int
    task_names: tuple[str, ...]
    split_sizes: dict[str, dict[str, int]]  # split -> task -> number of queries
    row_ids_digests: dict[str, str]  # split -> digest of the hashed row ids, in their order
    seed: int  # that drew the splits

    def __post_init__(self) -> None:
        """Refuse a manifest that contradicts itself."""
        splits = set(self.split_sizes)
        tasks = {task for sizes in self.split_sizes.values() for task in sizes}
        problems = {
            f"splits must be train and test, perhaps validation, but are {sorted(splits)}": not {"train", "test"}
            <= splits
            <= set(SPLITS),
            f"row_ids_digests must have the splits {sorted(splits)}, but has {sorted(self.row_ids_digests)}": set(
                self.row_ids_digests
            )
            != splits,
            f"split_sizes name tasks that task_names lack: {sorted(tasks - set(self.task_names))}": not tasks
            <= set(self.task_names),
            f"num_stages must be >= 1, but is {self.num_stages}": self.num_stages < 1,
            "the pool must have a model": not self.cards,
            "pool_digest must be that of the model cards": self.pool_digest != pool_digest(self.cards),
        }
        raise_all(
            DataError,
            "The manifest of a tree file contradicts itself:",
            [problem for problem, is_broken in problems.items() if is_broken],
        )


def created_by() -> str:
    """Return the name and version of this program."""
    return f"hierrouter_jax {version('hierrouter_jax')}"
