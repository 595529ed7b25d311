"""Outcome tables: what anybody's models made of which questions, as it was recorded. `outcome_tree.py` makes a tree.

An outcome table is JSONL, or a dataset of `datasets`, in one of two shapes:

- wide, one line a question: `query`, `scores` {model: score in [0, 1]}, and perhaps `tokens` {model: [prompt, new]};
- long, one line a question and model: `query`, `model`, `score` or a `response` that is scored against `answer` (with
  `choices`, or `tests` and `entry_point`), and perhaps `num_prompt_tokens`, `num_new_tokens`, `mean_logprob`.

Both may say `id` (else the query names itself), `task` and `split` (train, validation or test). Without token counts
every answer counts as one token, so that its cost is the model's rate or price alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hierrouter_jax.collect.tree_manifest import SPLITS
from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.core.text import is_unicode
from hierrouter_jax.tasks.scoring import AnswerReading, score_answer
from hierrouter_jax.tasks.task_row import TaskRow

_UNKNOWN_TASK = "queries"


@dataclass(frozen=True, kw_only=True)
class RecordedAnswer:
    """What is known of one model's answer to one question."""

    score: float
    num_prompt_tokens: int = 1
    num_new_tokens: int = 0
    mean_logprob: float = 0.0
    reading: AnswerReading | None = None  # of the response, where the table holds it


@dataclass(kw_only=True)
class RecordedQuery:
    """One question of a table with the answers of the models that were asked."""

    id: str
    query: str
    task: str = _UNKNOWN_TASK
    split: str | None = None
    answers: dict[str, RecordedAnswer] = field(default_factory=dict)


def read_outcome_table(path: str | Path) -> list[RecordedQuery]:
    """Return the questions of a JSONL file, or of a folder that `datasets` saved, in the order of their first lines.

    Raises one `DataError` that names what is wrong, line by line.
    """
    return outcome_table(_lines_of(Path(path)), what=str(path))


def models_asked(queries: Iterable[RecordedQuery]) -> list[str]:
    """Return the models that answered any of the questions, in the order of their first answers."""
    return list(dict.fromkeys(name for query in queries for name in query.answers))


def read_split_tables(paths: Mapping[str, Path | None]) -> list[RecordedQuery]:
    """Return the questions of all tables; with a test table, those of each table are of its split.

    Raises `DataError` when a question is in two tables.
    """
    tables = {split: read_outcome_table(path) for split, path in paths.items() if path is not None}
    if set(tables) == {"train"}:
        return tables["train"]
    seen: dict[str, str] = {}
    problems = []
    for split, queries in tables.items():
        problems += [f"{query.id}: in {seen[query.id]} and in {split}" for query in queries if query.id in seen]
        seen |= {query.id: split for query in queries}
    raise_all(DataError, "A question must be in one table only, but these ids are in two:", problems)
    return [dataclasses.replace(query, split=split) for split, queries in tables.items() for query in queries]


def outcome_table(lines: Iterable[Any], *, what: str = "the table") -> list[RecordedQuery]:
    """Return the questions of a table's lines (dicts of either shape). Raises one `DataError` as the reader does."""
    queries: dict[str, RecordedQuery] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            _add_line(queries, line)
        except DataError as error:
            problems.append(f"line {number}: {error}")
    raise_all(DataError, f"{what} must be an outcome table:", problems)
    if not queries:
        raise DataError(f"{what} must hold at least one question with a score, but is empty.")
    return list(queries.values())


def _lines_of(path: Path) -> Iterable[Mapping[str, Any]]:
    if path.is_dir():
        return _saved_dataset(path)
    if not path.is_file():
        raise DataError(f"There is no outcome table at {path}; give a JSONL file, or a folder that `datasets` saved.")
    lines = []
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text) if text.strip() else None
            except ValueError as error:
                raise DataError(f"{path} must hold JSON objects, but line {number} is none: {error}.") from error
            if line is not None:
                lines.append(line)
    return lines


def _saved_dataset(path: Path) -> Iterable[Mapping[str, Any]]:
    """Return the rows of a dataset on disk; the splits of a dataset dictionary become the rows' own."""
    import datasets  # it takes a second to import, and most tables are JSONL

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever is wrong with the folder, it is for the user
        raise DataError(f"{path} must be a folder that `datasets` saved, but loading it failed: {error}.") from error
    if isinstance(loaded, datasets.DatasetDict):
        return [{"split": split, **row} for split, rows in loaded.items() for row in rows]
    return list(loaded)


def _add_line(queries: dict[str, RecordedQuery], line: Any) -> None:
    """Add one line of either shape; `DataError` says what of it is wrong."""
    if not isinstance(line, Mapping):
        raise DataError(f"it must be an object, but is {type(line).__name__}")
    text = line.get("query")
    if not isinstance(text, str) or not text.strip() or not is_unicode(text):
        raise DataError(f"query must be text, but is {text!r}")
    name = str(line["id"]) if line.get("id") is not None else text
    split = line.get("split")
    if split is not None and split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, but is {split!r}")
    task = _UNKNOWN_TASK if line.get("task") is None else str(line["task"])
    query = queries.setdefault(name, RecordedQuery(id=name, query=text, task=task, split=split))
    if (query.query, query.task, query.split) != (text, task, split):
        raise DataError(f"id {name!r} stands for another query, task or split before")
    found = _wide_answers(line) if "scores" in line else {_model_of(line): _long_answer(line)}
    doubled = sorted(set(found) & set(query.answers))
    if doubled:
        raise DataError(f"id {name!r} has an answer of {', '.join(doubled)} already")
    query.answers |= found


def _wide_answers(line: Mapping[str, Any]) -> dict[str, RecordedAnswer]:
    scores, tokens = line["scores"], line.get("tokens") or {}
    if not isinstance(scores, Mapping) or not isinstance(tokens, Mapping):
        raise DataError("scores and tokens must be objects by model")
    found = {}
    for model, score in scores.items():
        if score is None:  # a column that `datasets` filled: this model was not asked
            continue
        counts = tokens.get(model)
        if counts is not None and (not isinstance(counts, Sequence) or len(counts) != 2):
            raise DataError(f"tokens of {model} must be [prompt, new], but are {counts!r}")
        prompt, new = (1, 0) if counts is None else (_count_of(counts[0], "prompt"), _count_of(counts[1], "new"))
        found[model] = RecordedAnswer(score=_score_of(score, model), num_prompt_tokens=prompt, num_new_tokens=new)
    return found


def _model_of(line: Mapping[str, Any]) -> str:
    model = line.get("model")
    if not isinstance(model, str) or not model:
        raise DataError("it must have scores by model, or a model with its score or response, but has neither")
    return model


def _long_answer(line: Mapping[str, Any]) -> RecordedAnswer:
    model, response, reading = _model_of(line), line.get("response"), None
    score = line.get("score")
    if response is not None and line.get("answer") is not None:
        row = TaskRow(
            id=str(line.get("id", "")),
            task=str(line.get("task", _UNKNOWN_TASK)),
            question=line["query"],
            answer=str(line["answer"]),
            choices=tuple(line.get("choices") or ()),
            tests=tuple(line.get("tests") or ()),
            entry_point=line.get("entry_point"),
        )
        scored = score_answer(row, str(response))
        reading, score = scored.reading, scored.quality if score is None else score
    if score is None:
        raise DataError(f"the answer of {model} needs a score, or a response and the answer that it is scored against")
    has_counts = line.get("num_prompt_tokens") is not None
    logprob = line.get("mean_logprob")
    return RecordedAnswer(
        score=_score_of(score, model),
        num_prompt_tokens=_count_of(line["num_prompt_tokens"], "prompt") if has_counts else 1,
        num_new_tokens=_count_of(line.get("num_new_tokens") or 0, "new"),
        mean_logprob=0.0 if logprob is None else min(float(logprob), 0.0),
        reading=reading,
    )


def _score_of(score: Any, model: str) -> float:
    is_number = isinstance(score, (int, float)) and 0 <= score <= 1
    if not is_number:
        raise DataError(f"the score of {model} must be a number in [0, 1], but is {score!r}")
    return float(score)


def _count_of(count: Any, what: str) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise DataError(f"the number of {what} tokens must be a whole number >= 0, but is {count!r}")
    return int(count)
