"""What a perfect worker would say: grades of answers at every sub-task, and of whole results, from an input's gold.

| algorithm         | gold                                                          |
|-------------------|---------------------------------------------------------------|
| `find_fix_verify` | `errors`: [[wrong, right], ...], each wrong passage once in the text (mode proofread) |
| `arithmetic`      | none: sums are computed                                       |
| `sorting`         | `order`: the items in their right order                       |
| `transcription`   | `text`: the right text, as many words a line as the garbled one |
| `justify_reconsider` | `answer`: the right option                                 |

For other algorithms nothing is right or wrong of itself; their results are compared by votes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.algorithms.arithmetic import numbers_of
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput
from hierrouter_jax.crowd.output_schemas import NO, YES, SpansSchema
from hierrouter_jax.crowd.subtasks import SubTask

Errors = list[tuple[str, str]]


def step_score(algorithm: str, subtask: SubTask, slot: int, value: Any, one: GradedInput) -> float | None:
    """Return how right an answer to one slot of a sub-task is, in [0, 1]; None where nothing is right or wrong.

    Find: the F1 of marked passages and errors (a passage that touches an error hits it). Fix: whether the passage is
    as it should be. Verify: whether the verdict is. Transcribe: the share of the piece's words that are right. Add,
    compare, assess, reconsider: whether the answer is right.
    """
    grade = _STEPS.get((algorithm, subtask.name))
    return None if grade is None else grade(subtask, slot, value, one)


def result_score(algorithm: str, result: Any, one: GradedInput) -> float | None:
    """Return how right a whole result is, in [0, 1]; None where nothing is right or wrong.

    A proofread text: the share of the way from the text to the right one, in words to be changed (0 where it is no
    nearer). A sum, the answer to a question: right or wrong. A sorted list: the share of pairs in the right order. A
    transcription: the share of words that are right.
    """
    return _RESULTS[algorithm](result, one) if can_grade(algorithm, one) else None


def can_grade(algorithm: str, one: GradedInput) -> bool:
    """Say whether a result for this input can be graded."""
    needed = _NEEDED.get(algorithm)
    return algorithm in _RESULTS and (needed is None or bool(one.gold.get(needed)))


def perfect_answer(algorithm: str, subtask: SubTask, slot: int, one: GradedInput) -> str:
    """Return what a perfect worker writes; `DataError` where the gold does not say it."""
    say = _PERFECT.get((algorithm, subtask.name))
    if say is None:
        raise DataError(
            f"Nothing says what a perfect worker answers at {subtask.name} of {algorithm}; give a reference crew."
        )
    return say(subtask, slot, one)


def result_text(result: Any) -> str:
    """Return a result as a reader sees it: its text, its items one a line, else its JSON."""
    if isinstance(result, Mapping):
        for name in ("text", "joke", "answer", "sum"):
            if name in result:
                return str(result[name])
        if "items" in result:
            return "\n".join(str(item) for item in result["items"])
    return json.dumps(result, ensure_ascii=False)


# -- find-fix-verify --


def _errors(one: GradedInput) -> Errors:
    pairs = [(wrong, right) for wrong, right in one.gold.get("errors", [])]
    for wrong, _ in pairs:
        if one.text.count(wrong) != 1:
            raise DataError(
                f"A wrong passage must occur once in its text, but {wrong!r} occurs {one.text.count(wrong)} times."
            )
    return pairs


def corrected(text: str, errors: Errors) -> str:
    """Return a text, or a passage of it, with the errors in it mended."""
    for wrong, right in errors:
        text = text.replace(wrong, right)
    return text


def _find(subtask: SubTask, slot: int, value: Any, one: GradedInput) -> float | None:
    del slot
    schema = subtask.schema
    assert isinstance(schema, SpansSchema)
    places = [(schema.text.index(wrong), len(wrong)) for wrong, _ in _errors(one) if wrong in schema.text]
    if not places:
        return None
    wanted = [(start, start + length) for start, length in places]
    hits = sum(any(_touch(span, error) for error in wanted) for span in value)
    found = sum(any(_touch(span, error) for span in value) for error in wanted)
    if not hits:
        return 0.0
    precision, recall = hits / len(value), found / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _touch(span: Sequence[int], other: Sequence[int]) -> bool:
    return span[0] < other[1] and other[0] < span[1]


def _fix(subtask: SubTask, slot: int, value: Any, one: GradedInput) -> float | None:
    passage = str(subtask.inputs_of(slot)["passage"])
    expected = corrected(passage, _errors(one))
    return None if expected == passage else float(_same(value, expected))


def _is_right_version(subtask: SubTask, slot: int, one: GradedInput) -> bool:
    shown = subtask.inputs_of(slot)
    return _same(str(shown["new version"]), corrected(str(shown["original passage"]), _errors(one)))


def _verify(subtask: SubTask, slot: int, value: Any, one: GradedInput) -> float | None:
    return float((value == YES) == _is_right_version(subtask, slot, one))


def _perfect_find(subtask: SubTask, slot: int, one: GradedInput) -> str:
    del slot
    schema = subtask.schema
    assert isinstance(schema, SpansSchema)
    found = [wrong for wrong, _ in _errors(one) if wrong in schema.text]
    if not found:
        raise DataError(f"A text to be proofread must have errors in its gold, but {one.text[:60]!r} has none.")
    return "\n".join(found)


def _perfect_fix(subtask: SubTask, slot: int, one: GradedInput) -> str:
    return corrected(str(subtask.inputs_of(slot)["passage"]), _errors(one))


def _perfect_verify(subtask: SubTask, slot: int, one: GradedInput) -> str:
    return YES if _is_right_version(subtask, slot, one) else NO


def _proofread(result: Any, one: GradedInput) -> float:
    errors = _errors(one)
    right = corrected(one.text, errors).split()
    before = word_distance(one.text.split(), right)
    return max(0.0, 1.0 - word_distance(result["text"].split(), right) / before)


def word_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the fewest words to insert, delete or replace that lead from one text to the other (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for number, word in enumerate(first, start=1):
        previous, row[0] = row[0], number
        for place, other in enumerate(second, start=1):
            previous, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, previous + (word != other))
    return row[-1]


# -- microtasks --


def _add(subtask: SubTask, slot: int, value: Any, one: GradedInput) -> float | None:
    return float(str(value) == _perfect_add(subtask, slot, one))


def _perfect_add(subtask: SubTask, slot: int, one: GradedInput) -> str:
    del one
    return str(sum(int(number) for number in str(subtask.inputs_of(slot)["sum"]).split(" + ")))


def _sum(result: Any, one: GradedInput) -> float:
    return float(result["sum"] == sum(numbers_of(one.text)))


def _compare(subtask: SubTask, slot: int, value: Any, one: GradedInput) -> float | None:
    return float(value == _perfect_compare(subtask, slot, one)) if one.gold.get("order") else None


def _perfect_compare(subtask: SubTask, slot: int, one: GradedInput) -> str:
    shown = subtask.inputs_of(slot)
    place = _places(one, [str(shown[label]) for label in "AB"])
    return min("AB", key=lambda label: place[str(shown[label])])


def _places(one: GradedInput, items: Sequence[str]) -> dict[str, int]:
    """Return which item stands where in the right order; `DataError` where one of those given does not."""
    place = {item: index for index, item in enumerate(one.gold.get("order", []))}
    if lost := [item for item in items if item not in place]:
        raise DataError(f"The order in the gold must hold every item of its list, but {lost[0]!r} is not there.")
    return place


def _sorted(result: Any, one: GradedInput) -> float:
    place = _places(one, result["items"])
    pairs = list(itertools.combinations(result["items"], 2))
    return sum(place[first] < place[second] for first, second in pairs) / len(pairs) if pairs else 1.0


# -- transcription --


def _right_words(one: GradedInput) -> list[str]:
    """Return the words of the right text; `DataError` where they are not as many as those of the garbled one."""
    garbled, right = one.text.split(), str(one.gold.get("text", "")).split()
    if len(garbled) != len(right):
        raise DataError(
            f"The right text must have as many words as the garbled one ({len(garbled)}), but has {len(right)}: "
            f"{' '.join(right)[:60]!r}."
        )
    return right


def _perfect_transcribe(subtask: SubTask, slot: int, one: GradedInput) -> str:
    """Return the right words of a piece, found by the words around it: the first place where all stand.

    A piece with nothing behind it is the last one.
    """
    shown = {name: str(value).split() for name, value in subtask.inputs_of(slot).items()}
    before, piece = shown.get("text before", []), shown["piece"]
    wanted = [*before, *piece, *shown.get("text after", [])]
    garbled = one.text.split()
    starts = range(len(garbled) - len(wanted) + 1)[:: 1 if "text after" in shown else -1]
    start = next(start for start in starts if garbled[start : start + len(wanted)] == wanted) + len(before)
    return " ".join(_right_words(one)[start : start + len(piece)])


def _transcribe(subtask: SubTask, slot: int, value: Any, one: GradedInput) -> float | None:
    return _share_of_words(str(value), _perfect_transcribe(subtask, slot, one)) if one.gold.get("text") else None


def _transcribed(result: Any, one: GradedInput) -> float:
    return _share_of_words(str(result["text"]), " ".join(_right_words(one)))


def _share_of_words(text: str, right: str) -> float:
    """Return one less the words to be changed, as a share of the right ones; 0 where more are wrong than there are."""
    wanted = right.split()
    return max(0.0, 1.0 - word_distance(text.split(), wanted) / len(wanted))


# -- justify-reconsider --


def _answered(subtask: SubTask, slot: int, value: Any, one: GradedInput) -> float | None:
    del subtask, slot
    return float(value == one.gold["answer"]) if "answer" in one.gold else None


def _perfect_answered(subtask: SubTask, slot: int, one: GradedInput) -> str:
    del subtask, slot
    if "answer" not in one.gold:
        raise DataError(f"A question must have its answer in its gold, but {one.text[:60]!r} has none.")
    return str(one.gold["answer"])


def _final_answer(result: Any, one: GradedInput) -> float:
    return float(result["answer"] == one.gold["answer"])


def _same(first: str, second: str) -> bool:
    return " ".join(first.split()) == " ".join(second.split())


StepGrade = Callable[[SubTask, int, Any, GradedInput], float | None]
_STEPS: dict[tuple[str, str], StepGrade] = {
    ("find_fix_verify", "find"): _find,
    ("find_fix_verify", "fix"): _fix,
    ("find_fix_verify", "verify"): _verify,
    ("arithmetic", "add"): _add,
    ("sorting", "compare"): _compare,
    ("transcription", "transcribe"): _transcribe,
    ("justify_reconsider", "assess"): _answered,
    ("justify_reconsider", "reconsider"): _answered,
}
_PERFECT: dict[tuple[str, str], Callable[[SubTask, int, GradedInput], str]] = {
    ("find_fix_verify", "find"): _perfect_find,
    ("find_fix_verify", "fix"): _perfect_fix,
    ("find_fix_verify", "verify"): _perfect_verify,
    ("arithmetic", "add"): _perfect_add,
    ("sorting", "compare"): _perfect_compare,
    ("transcription", "transcribe"): _perfect_transcribe,
    ("justify_reconsider", "assess"): _perfect_answered,
    ("justify_reconsider", "reconsider"): _perfect_answered,
}
_NEEDED = {  # the part of gold without which nothing is right or wrong
    "find_fix_verify": "errors",
    "sorting": "order",
    "transcription": "text",
    "justify_reconsider": "answer",
}
_RESULTS: dict[str, Callable[[Any, GradedInput], float]] = {
    "find_fix_verify": _proofread,
    "arithmetic": _sum,
    "sorting": _sorted,
    "transcription": _transcribed,
    "justify_reconsider": _final_answer,
}
