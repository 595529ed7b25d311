"""Instructions against each other: one sub-task, asked in several phrasings of the same workers.

Success of a pipeline depends on its instructions (arXiv:2307.10168); the probe says how much. Everything before the
sub-task is frozen, as in the matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput
from hierrouter_jax.crowd.comparison.matrix import Cell, Reference, RunPipeline, compare_subtasks, subtasks_of
from hierrouter_jax.crowd.registry import Algorithm
from hierrouter_jax.crowd.runner import Crew


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Cells by phrasing, then by worker. `spread` is, by worker, the best mean score less the worst."""

    algorithm: str
    subtask: str
    cells: Mapping[str, Mapping[str, Cell]]
    spread: Mapping[str, float]


def probe_instructions(
    found: Algorithm,
    config: Any,
    inputs: Sequence[GradedInput],
    phrasings: Mapping[str, str],
    *,
    subtask: str,
    reference: Reference,
    workers: Crew,
    names: Sequence[str],
    run: RunPipeline,
    redundancy: int = 1,
) -> Probe:
    """Return how well the workers do the sub-tasks named `subtask` under each phrasing of their instructions.

    The phrasing "as it is" is always among them. Raises `ConfigError` when the algorithm has no such sub-task.
    """
    frozen = [subtasks_of(found, config, one, reference, run, index) for index, one in enumerate(inputs)]
    own = [[one for one in row if one.name == subtask] for row in frozen]
    if not any(own):
        known = dict.fromkeys(one.name for row in frozen for one in row)
        raise ConfigError(f"{found.name} has sub-tasks {', '.join(known)}, but {subtask!r} was asked for.")
    cells: dict[str, dict[str, Cell]] = {}
    for phrasing, words in {"as it is": None, **phrasings}.items():
        said = [[_worded(one, words) for one in row] for row in own]
        cells[phrasing] = {
            name: compare_subtasks(
                found,
                inputs,
                said,
                worker=name,
                workers=workers,
                run=run,
                redundancy=redundancy,
                label=f"probe/{phrasing}",
            )
            for name in names
        }
    means = {name: [row[name].score.mean for row in cells.values()] for name in names}
    spread = {name: max(values) - min(values) for name, values in means.items()}
    return Probe(algorithm=found.name, subtask=subtask, cells=cells, spread=spread)


def _worded(subtask: Any, words: str | None) -> Any:
    return subtask if words is None else dataclasses.replace(subtask, instructions=words)
