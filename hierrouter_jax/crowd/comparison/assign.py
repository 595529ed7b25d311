"""Which sub-tasks to give to people, at a budget: from the matrix of workers by sub-task.

A pipeline comes out right when each of its steps does; with steps that err independently, the chance is the product of
the steps' scores. Each sub-task goes to its best model or to people, and every division whose people fit the budget is
tried: the one with the highest product wins, of equals the one that costs people less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.comparison.matrix import Matrix

MAX_SUBTASKS = 16  # 2**16 divisions


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Who does each sub-task, what people cost a run, and the chance that all steps are right."""

    worker_of: Mapping[str, str]
    people_cost: float
    expected: float
    expected_by_models: float


def assign_people(
    matrix: Matrix,
    *,
    budget: float,
    people: str = "people",
    people_score: float | Mapping[str, float] = 1.0,
    people_cost: float | Mapping[str, float] = 1.0,
) -> Assignment:
    """Return the best division of sub-tasks between models and people.

    `budget` is what people may cost a run, `people_cost` the cost of one answer of theirs and `people_score` how well
    they do, for all sub-tasks or by name. A worker of the matrix named `people` gives their scores instead. Raises
    `ConfigError` for numbers that mean nothing, `DataError` for a matrix without models or with too many sub-tasks.
    """
    if not (math.isfinite(budget) and budget >= 0):
        raise ConfigError(f"The budget must be finite and >= 0, but is {budget}.")
    names = list(matrix.cells)
    if not names or len(names) > MAX_SUBTASKS:
        raise DataError(f"A matrix to assign from must have 1 to {MAX_SUBTASKS} sub-tasks, but has {len(names)}.")
    best, score, price = {}, {}, {}
    for name in names:
        models = {worker: cell.score.mean for worker, cell in matrix.cells[name].items() if worker != people}
        if not models:
            raise DataError(f"Sub-task {name} must have been asked of a model, but was of none.")
        best[name] = max(models, key=lambda worker: models[worker])
        measured = matrix.cells[name].get(people)
        score[name] = (models[best[name]], _of(people_score, name) if measured is None else measured.score.mean)
        price[name] = _of(people_cost, name) * matrix.calls[name]
        if not 0 <= score[name][1] <= 1 or not (math.isfinite(price[name]) and price[name] >= 0):
            raise ConfigError(
                f"People's score must lie in [0, 1] and their cost be finite and >= 0, but at {name} they are "
                f"{score[name][1]} and {_of(people_cost, name)}."
            )
    divisions = []
    for chosen in itertools.product((False, True), repeat=len(names)):
        cost = math.fsum(price[name] for name, by_people in zip(names, chosen, strict=True) if by_people)
        if cost <= budget:
            expected = math.prod(score[name][by_people] for name, by_people in zip(names, chosen, strict=True))
            divisions.append((-expected, cost, chosen))
    expected, cost, chosen = min(divisions)
    return Assignment(
        worker_of={name: people if by_people else best[name] for name, by_people in zip(names, chosen, strict=True)},
        people_cost=cost,
        expected=-expected,
        expected_by_models=math.prod(score[name][0] for name in names),
    )


def _of(value: float | Mapping[str, float], name: str) -> float:
    if isinstance(value, Mapping):
        if name not in value:
            raise ConfigError(
                f"A number for sub-task {name} is wanted, but there are some for {', '.join(value)} alone."
            )
        return value[name]
    return value
