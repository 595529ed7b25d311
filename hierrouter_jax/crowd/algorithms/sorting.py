"""Sorting by pairwise votes (Cheng et al. 2015): the comparisons of a sorting algorithm are microtasks.

`merge` merges the halves of a level side by side; `insertion` puts one item after the other in its place by binary
search. Both ask n log n comparisons, and trust every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.examples import MAX_EXAMPLES, SORT_ALL, require_num_examples
from hierrouter_jax.crowd.output_schemas import ItemsSchema
from hierrouter_jax.crowd.subtasks import Pipeline, SubTask, Together, checked_text
from hierrouter_jax.crowd.votes import Candidate, vote


@dataclass(frozen=True, kw_only=True)
class SortingConfig:
    """`criterion` is what a comparison asks. Of equal votes the item that stands first in the input wins."""

    method: Literal["merge", "insertion"] = "merge"
    criterion: str = "Which of the two comes first in alphabetical order?"
    num_votes: int = 1
    num_examples: int = MAX_EXAMPLES  # that the baseline is shown at most, where `criterion` is the default
    sort_all: str = "Sort these items. Comparing two of them, the question is: "
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a comparison without a vote."""
        if self.num_votes < 1:
            raise ConfigError(f"num_votes must be >= 1, but is {self.num_votes}.")
        require_num_examples(self.num_examples)
        if not self.criterion.strip():
            raise ConfigError("criterion must be a question, but is empty.")


ROLES = ("compare",)


def items_of(text: str) -> list[str]:
    """Return the items of a text, one a line; `DataError` where one stands twice, or there are fewer than two."""
    items = [line.strip() for line in checked_text(text).split("\n") if line.strip()]
    if double := [item for place, item in enumerate(items) if item in items[:place]]:
        raise DataError(f"The items to sort must differ, but {double[0]!r} stands twice.")
    if len(items) < 2:
        raise DataError(f"There must be two or more items to sort, one a line, but there is {len(items)}.")
    return items


def sorting(text: str, config: SortingConfig) -> Pipeline:
    """Return the pipeline that sorts the lines of a text; its result has the `items` and `num_comparisons`."""
    items = items_of(text)
    sort = _merged if config.method == "merge" else _inserted
    ordered, num_comparisons = yield from sort(items, range(len(items)), config)
    return {"items": [items[place] for place in ordered], "num_comparisons": num_comparisons}


def one_prompt(text: str, config: SortingConfig) -> Pipeline:
    """Return the baseline: all items in one prompt. Items that it leaves out follow in the order of the input."""
    items = items_of(text)
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.sort_all + config.criterion,
        inputs={"items": items},
        schema=ItemsSchema(max_items=len(items), max_item_chars=max(300, *map(len, items))),
        examples=SORT_ALL[: config.num_examples] if config.criterion == SortingConfig.criterion else (),
    )
    given = _named(found.value, items)
    missing = [item for item in items if item not in given]
    return {"items": given + missing, "num_missing": len(missing)}


def _named(lines: Sequence[str], items: Sequence[str]) -> list[str]:
    """Return the items that lines name, each once: literally, else as a schema reads it, else apart from case."""
    left = list(items)
    found: list[str] = []
    for line in lines:
        forms = ((item, form) for form in (str, _as_read, _folded) for item in left)
        named = next((item for item, form in forms if form(item) == form(line)), None)
        if named is not None:
            left.remove(named)
            found.append(named)
    return found


def _merged(items: Sequence[str], places: Sequence[int], config: SortingConfig) -> Pipeline:
    """Sort places by merges: the places in order, and the number of comparisons."""
    if len(places) < 2:
        return list(places), 0
    middle = len(places) // 2
    halves = yield Together([_merged(items, half, config) for half in (places[:middle], places[middle:])])
    (left, left_count), (right, right_count) = halves
    merged: list[int] = []
    count = left_count + right_count
    while left and right:
        is_left = yield from _is_first(items, left[0], right[0], config)
        merged.append((left if is_left else right).pop(0))
        count += 1
    return merged + left + right, count


def _inserted(items: Sequence[str], places: Sequence[int], config: SortingConfig) -> Pipeline:
    """Sort places by binary insertion."""
    ordered: list[int] = []
    count = 0
    for place in places:
        low, high = 0, len(ordered)
        while low < high:
            middle = (low + high) // 2
            is_before = yield from _is_first(items, ordered[middle], place, config)
            low, high = (middle + 1, high) if is_before else (low, middle)
            count += 1
        ordered.insert(low, place)
    return ordered, count


def _is_first(items: Sequence[str], left: int, right: int, config: SortingConfig) -> Pipeline:
    """Vote whether the item at `left` comes before that at `right`; a tie goes to the earlier of the input."""
    pair = sorted((left, right))
    result = yield from vote(
        [Candidate(text=items[place]) for place in pair],
        name="compare",
        role="compare",
        instructions=config.criterion,
        num_votes=config.num_votes,
        seed=config.seed,
    )
    return pair[result.winner] == left


def _as_read(item: str) -> str:
    """Return an item as a schema reads it: without a bullet or quotes that it begins with."""
    return next(iter(ItemsSchema(min_items=0, max_item_chars=len(item)).parse(item)), item)


def _folded(item: str) -> str:
    return " ".join(_as_read(item).casefold().split()).strip(" .,;:")
