"""A sum as a chain of two-number additions (Cheng et al. 2015, macrotask and microtasks).

    total = a; for each further number b: total = add(total, b)

With `is_tree` numbers are added in pairs, side by side, until one is left: fewer steps in a row, as many in all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.examples import ADD, ADD_ALL, MAX_EXAMPLES, require_num_examples
from hierrouter_jax.crowd.output_schemas import NumberSchema
from hierrouter_jax.crowd.subtasks import Pipeline, SubTask, Together, checked_text, values
from hierrouter_jax.crowd.votes import most_frequent

MAX_DIGITS = 250  # of a number; answers may have 300, and a sum is longer than what it is made of
_BETWEEN = re.compile(r"[\s,;+]+")


@dataclass(frozen=True, kw_only=True)
class ArithmeticConfig:
    """Each addition is asked `redundancy` times; the most frequent answer counts, of equals the one given first."""

    redundancy: int = 1
    is_tree: bool = False
    num_examples: int = MAX_EXAMPLES  # that a worker is shown at most
    add: str = "Add the two numbers."
    add_all: str = "Add all of the numbers."

    def __post_init__(self) -> None:
        """Refuse a step that nobody is asked."""
        if self.redundancy < 1:
            raise ConfigError(f"redundancy must be >= 1, but is {self.redundancy}.")
        require_num_examples(self.num_examples)


ROLES = ("add",)


def numbers_of(text: str) -> list[int]:
    """Return the whole numbers of a text, which holds nothing else than spaces, commas and plus signs beside them.

    A comma ends a number. Raises `DataError` naming what is no number or too long a one, and for fewer than two.
    """
    parts = [part for part in _BETWEEN.split(checked_text(text)) if part]
    if strange := [part for part in parts if not re.fullmatch(r"[-\u2212]?\d+", part)]:
        raise DataError(f"The numbers to add must be whole numbers, but among them is {strange[0]!r}.")
    if long := [part for part in parts if len(part) > MAX_DIGITS]:
        raise DataError(f"A number to add must have at most {MAX_DIGITS} digits, but one has {len(long[0])}.")
    if len(parts) < 2:
        raise DataError(f"There must be two or more numbers to add, but there is {len(parts)}.")
    return [int(part.replace("\u2212", "-")) for part in parts]


def arithmetic(text: str, config: ArithmeticConfig) -> Pipeline:
    """Return the pipeline that adds the numbers of a text; its result has the `sum` and all `steps`, [a, b, answer]."""
    numbers = numbers_of(text)
    steps: list[list[int]] = []
    while len(numbers) > 1:
        if config.is_tree:
            pairs = [(numbers[place], numbers[place + 1]) for place in range(0, len(numbers) - 1, 2)]
            rest = numbers[2 * len(pairs) :]
        else:
            pairs, rest = [(numbers[0], numbers[1])], numbers[2:]
        found = yield Together([_added(first, second, config) for first, second in pairs])
        steps += [[first, second, answer] for (first, second), answer in zip(pairs, found, strict=True)]
        numbers = [*found, *rest]
    return {"sum": numbers[0], "steps": steps}


def one_prompt(text: str, config: ArithmeticConfig) -> Pipeline:
    """Return the baseline: all numbers in one prompt."""
    numbers = numbers_of(text)
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.add_all,
        inputs={"sum": _shown(numbers)},
        schema=NumberSchema(),
        examples=ADD_ALL[: config.num_examples],
    )
    return {"sum": found.value}


def _added(first: int, second: int, config: ArithmeticConfig) -> Pipeline:
    found = yield SubTask(
        name="add",
        role="add",
        instructions=config.add,
        inputs={"sum": _shown([first, second])},
        schema=NumberSchema(),
        examples=ADD[: config.num_examples],
        redundancy=config.redundancy,
    )
    return most_frequent(values(found))


def _shown(numbers: Sequence[int]) -> str:
    return " + ".join(str(number) for number in numbers)
