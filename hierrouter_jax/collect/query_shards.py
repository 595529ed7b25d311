"""Which host collects which queries: each query, with all its stages, belongs to one of N shards by the hash of its id.

So the shards of a collection share nothing but its config, a host that is started again has the queries it had, and
rows that are added later move none of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hierrouter_jax.collect.outcomes import row_id_hash
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.tasks.task_row import TaskRow


@dataclass(frozen=True, kw_only=True)
class QueryShard:
    """One of `count` shards, numbered from 0."""

    index: int
    count: int

    def __post_init__(self) -> None:
        """Refuse a shard that is none of them."""
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"A shard I/N is one of N >= 1, with I from 0 to N - 1, but is {self.index}/{self.count}."
            )

    def has(self, row: TaskRow) -> bool:
        """Return whether the query belongs to this shard."""
        return row_id_hash(row.id) % self.count == self.index


def read_shard(text: str) -> QueryShard:
    """Return the shard written as I/N; `ConfigError` when it is no shard."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if found is None:
        raise ConfigError(f"A shard is written I/N, such as 0/4, but is {text!r}.")
    return QueryShard(index=int(found[1]), count=int(found[2]))


def rows_of_shard(splits: Mapping[str, Sequence[TaskRow]], shard: QueryShard) -> dict[str, tuple[TaskRow, ...]]:
    """Return the queries of a shard, split by split; a split may be left without any."""
    return {split: tuple(row for row in rows if shard.has(row)) for split, rows in splits.items()}
