"""Reading task files: JSONL in the format of `TaskRow`, checked whole before a row is used.

Every problem of a file is found and told at once, with its line number. Rows go through `datasets` in memory, so no
cache is written anywhere.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.tasks.extraction import parse_number
from hierrouter_jax.tasks.task_row import LETTERS, TaskRow

if TYPE_CHECKING:
    import datasets

MAX_PROBLEMS_SHOWN = 20
_TEXT_FIELDS = ("id", "task", "question", "answer")


def read_task_file(path: Path) -> list[TaskRow]:
    """Return the rows of a task file, in its order. Raises `DataError` listing every problem with its line."""
    return [row_from_fields(fields) for fields in read_dataset(path).to_list()]


def read_dataset(path: Path) -> datasets.Dataset:
    """Return a checked task file as an in-memory `datasets.Dataset`, for those who want to map or filter it."""
    records = _checked_records(path)
    with quiet_datasets() as datasets_module:
        text = datasets_module.Value("string")
        columns = dict.fromkeys((*_TEXT_FIELDS, "entry_point"), text)
        lists = {name: datasets_module.List(text) for name in ("choices", "tests")}
        return datasets_module.Dataset.from_list(records, features=datasets_module.Features({**columns, **lists}))


def row_from_fields(fields: Mapping[str, Any]) -> TaskRow:
    """Build a row from checked fields; a missing list is an empty one."""
    return TaskRow(
        **{name: fields[name] for name in _TEXT_FIELDS},
        choices=tuple(fields.get("choices") or ()),
        tests=tuple(fields.get("tests") or ()),
        entry_point=fields.get("entry_point"),
    )


def field_problems(record: object) -> list[str]:
    """Return what is wrong with the fields of one row, in words."""
    if not isinstance(record, dict):
        return [f"a row must be a JSON object, but is a {type(record).__name__}"]
    problems = [
        f"{name} must be a text that is not empty, but is {record.get(name)!r:.60}"
        for name in _TEXT_FIELDS
        if not (isinstance(record.get(name), str) and record[name].strip())
    ]
    for name in ("choices", "tests"):
        value = record.get(name)
        is_list = isinstance(value, list) and bool(value)
        if value is not None and not (is_list and all(isinstance(part, str) and part.strip() for part in value)):
            problems.append(f"{name} must be a list of texts, none empty, or null, but is {value!r:.60}")
    entry_point = record.get("entry_point")
    if entry_point is not None and not (isinstance(entry_point, str) and entry_point.isidentifier()):
        problems.append(f"entry_point must be a Python name or null, but is {entry_point!r:.60}")
    return problems or _answer_problems(record)


def _answer_problems(record: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the answer, given the fields around it."""
    choices, tests, answer = record.get("choices"), record.get("tests"), record["answer"]
    if choices and tests:
        return ["choices and tests are both given: a row asks for a letter or for code, not both"]
    if choices:
        letters = LETTERS[: len(choices)]
        if not 2 <= len(choices) <= len(LETTERS):
            return [f"there must be 2 to {len(LETTERS)} choices, but there are {len(choices)}"]
        return (
            []
            if len(answer) == 1 and answer in letters
            else [f"answer must be one of {letters}, but is {answer!r:.60}"]
        )
    if tests:
        return [] if record.get("entry_point") else ["entry_point is missing: tests need the name they call"]
    if parse_number(answer) is None:
        return [f"answer must be a number (the row has neither choices nor tests), but is {answer!r:.60}"]
    return []


def _checked_records(path: Path) -> list[dict[str, Any]]:
    """Read and check every line of a file."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON strings may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a readable UTF-8 file: {error}.") from error
    records: list[dict[str, Any]] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            problems.append(f"line {number}: not JSON: {error}")
            continue
        found = field_problems(record)
        problems.extend(f"line {number}: {problem}" for problem in found)
        if not found and record["id"] in first_line:
            problems.append(f"line {number}: id {record['id']!r} is already on line {first_line[record['id']]}")
        if not found:
            first_line.setdefault(record["id"], number)
            records.append({name: record.get(name) for name in (*_TEXT_FIELDS, "entry_point", "choices", "tests")})
    if len(problems) > MAX_PROBLEMS_SHOWN:
        problems = [*problems[:MAX_PROBLEMS_SHOWN], f"and {len(problems) - MAX_PROBLEMS_SHOWN} more"]
    raise_all(DataError, f"{path} has rows that cannot be used; mend or remove them:", problems)
    if not records:
        raise DataError(f"{path} must hold at least one row, but is empty.")
    return records


@contextmanager
def quiet_datasets() -> Iterator[Any]:
    """Yield the `datasets` module with its bars and log lines off, and put them back afterwards."""
    import datasets

    level = datasets.logging.get_verbosity()
    had_bars = datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        datasets.logging.set_verbosity(level)
        if not had_bars:
            datasets.enable_progress_bars()
