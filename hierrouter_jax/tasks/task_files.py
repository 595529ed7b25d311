"""Reading task files: JSONL in the format of `TaskRow`, checked whole before a row is used.

Every problem of a file is found and told at once, with its line number. Rows go through `datasets` in memory, so no
cache is written anywhere.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.tasks.extraction import parse_number
from hierrouter_jax.tasks.program_extraction import question_helpers
from hierrouter_jax.tasks.task_row import LETTERS, TaskRow

if TYPE_CHECKING:
    import datasets

MAX_PROBLEMS_SHOWN = 20
_TEXT_FIELDS = ("id", "task", "question", "answer")
_SURROGATE = re.compile("[\ud800-\udfff]")


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
    return problems or _surrogate_problems(record) or _answer_problems(record)


def _surrogate_problems(record: Mapping[str, Any]) -> list[str]:
    """Return the fields that hold half a character: JSON can escape one, but no file or tokenizer can take it."""
    problems: list[str] = []
    for name in (*_TEXT_FIELDS, "choices", "tests", "entry_point"):
        value = record.get(name)
        found = _SURROGATE.search("\n".join(value) if isinstance(value, list) else value or "")
        if found:
            problems.append(f"{name} must be whole characters, but holds the lone surrogate {found.group()!r}")
    return problems


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
        return _test_problems(record)
    if parse_number(answer) is None:
        return [f"answer must be a number (the row has neither choices nor tests), but is {answer!r:.60}"]
    return []


def _test_problems(record: Mapping[str, Any]) -> list[str]:
    """Return why the tests of a row cannot be run: found before any model is asked, not after all have answered."""
    if not record.get("entry_point"):
        return ["entry_point is missing: tests need the name they call"]
    row = row_from_fields(record)
    # Joined, as they are run: one list entry may go on with the block of the one before.
    problems = [
        f"tests must be Python, but together they are not: {why}" for why in _compile_problems("\n".join(row.tests))
    ]
    # Where the question holds the first line of the function it begins the program, and prose would break every answer.
    return problems + [
        f"question must be Python above its line 'def {row.entry_point}(', prose in the docstring, but is not: {why}"
        for why in _compile_problems(question_helpers(row))
    ]


def _compile_problems(source: str) -> list[str]:
    """Return why a source cannot be compiled, if it cannot; by the steps of the sandbox's judge."""
    try:
        with warnings.catch_warnings():  # what Python merely frowns upon can be run
            warnings.simplefilter("ignore")
            compile(ast.parse(source), "<tests>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return [f"{error.msg} (line {error.lineno})"]
    except (ValueError, MemoryError, RecursionError) as error:
        return [f"{type(error).__name__}: {error}"]
    return []


def _checked_records(path: Path) -> list[dict[str, Any]]:
    """Read and check every line of a file."""
    try:
        lines = path.read_bytes().splitlines()  # of bytes: those of a text split at U+2028, which JSON strings may hold
    except OSError as error:
        raise DataError(f"{path} must be a readable file: {error}.") from error
    records: list[dict[str, Any]] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}  # id -> line
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record, found = _read_line(line)
        found = found or field_problems(record) or _conflicts(record, records, first_line)
        problems.extend(f"line {number}: {problem}" for problem in found)
        if not found:
            first_line.setdefault(record["id"], number)
            records.append({name: record.get(name) for name in (*_TEXT_FIELDS, "entry_point", "choices", "tests")})
    if len(problems) > MAX_PROBLEMS_SHOWN:
        problems = [*problems[:MAX_PROBLEMS_SHOWN], f"and {len(problems) - MAX_PROBLEMS_SHOWN} more"]
    raise_all(DataError, f"{path} has rows that cannot be used; mend or remove them:", problems)
    if not records:
        raise DataError(f"{path} must hold at least one row, but is empty.")
    return records


def _read_line(line: bytes) -> tuple[Any, list[str]]:
    """Return what a line holds, and why it cannot be read."""
    try:
        return json.loads(line.decode("utf-8")), []
    except UnicodeDecodeError as error:
        return None, [f"not UTF-8: {error}"]
    except (ValueError, RecursionError) as error:
        return None, [f"not JSON: {error}"]


def _conflicts(record: Mapping[str, Any], records: list[dict[str, Any]], line_of: Mapping[str, int]) -> list[str]:
    """Return in what a row and those before it cannot be of one file."""
    problems: list[str] = []
    row_id, task = record["id"], record["task"]
    if row_id in line_of:
        problems.append(f"id {row_id!r} is already on line {line_of[row_id]}")
    if records and task != records[0]["task"]:
        first = f"that of line {line_of[records[0]['id']]} is {records[0]['task']!r}"
        problems.append(f"task is {task!r}, but {first}: a file holds one task, so give each a file of its own")
    return problems


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
