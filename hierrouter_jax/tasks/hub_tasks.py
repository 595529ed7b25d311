"""The six hub datasets, as data: where their rows are and how their columns become a `TaskRow`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.tasks.task_files import field_problems, quiet_datasets, row_from_fields
from hierrouter_jax.tasks.task_row import LETTERS, TaskRow

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class HubTask:
    """One dataset of the hub. `to_fields(columns, split, row_index)` gives the fields of a `TaskRow`."""

    task: str
    config: str | None
    train_splits: tuple[str, ...]
    test_split: str
    to_fields: Callable[[Mapping[str, Any], str, int], Fields]


def read_hub_task(repo: str) -> tuple[list[TaskRow] | None, list[TaskRow]]:
    """Download (or find in the hub's cache) one dataset and return its train rows, or None, and its test rows.

    Raises `DataError` when the hub cannot be reached or a row cannot be used.
    """
    spec = HUB_TASKS[repo]
    train = [row for split in spec.train_splits for row in _read_split(repo, spec, split)]
    return train or None, _read_split(repo, spec, spec.test_split)


def rows_from_columns(repo: str, split: str, records: list[Mapping[str, Any]]) -> list[TaskRow]:
    """Turn rows as the hub holds them into task rows. Raises `DataError` listing the rows that cannot be used."""
    spec = HUB_TASKS[repo]
    rows: list[TaskRow] = []
    problems: list[str] = []
    for index, columns in enumerate(records):
        try:
            fields = {**spec.to_fields(columns, split, index), "task": spec.task}
        except (KeyError, TypeError, ValueError, IndexError) as error:
            problems.append(f"row {index}: columns are not as expected ({type(error).__name__}: {error})")
            continue
        found = field_problems(fields)
        problems.extend(f"row {index}: {problem}" for problem in found)
        if not found:
            rows.append(row_from_fields(fields))
    raise_all(
        DataError, f"{repo}, split {split}: rows cannot be used; the dataset's columns may have changed:", problems
    )
    return rows


def _read_split(repo: str, spec: HubTask, split: str) -> list[TaskRow]:
    """Load one split through `datasets`."""
    with quiet_datasets() as datasets:
        try:
            dataset = datasets.load_dataset(repo, spec.config, split=split)
        except Exception as error:  # the hub client raises many kinds; each means that the rows are not to be had
            raise DataError(
                f"The dataset {repo} (split {split}) could not be loaded from the hub: {error}. "
                "Check the connection, or give a folder of task files NAME.jsonl instead."
            ) from error
    return rows_from_columns(repo, split, list(dataset))


def _mmlu(columns: Mapping[str, Any], split: str, index: int) -> Fields:
    return {
        "id": f"mmlu/{split}/{columns['subject']}/{index}",
        "question": columns["question"],
        "choices": list(columns["choices"]),
        "answer": LETTERS[int(columns["answer"])],
    }


def _lettered(prefix: str) -> Callable[[Mapping[str, Any], str, int], Fields]:
    """Columns of ARC and CommonsenseQA: choices as parallel lists of labels and texts, labels letters or digits."""

    def to_fields(columns: Mapping[str, Any], split: str, index: int) -> Fields:
        labels = list(columns["choices"]["label"])
        return {
            "id": f"{prefix}/{columns['id']}",
            "question": columns["question"],
            "choices": list(columns["choices"]["text"]),
            "answer": LETTERS[labels.index(columns["answerKey"])],
        }

    return to_fields


def _mbpp(columns: Mapping[str, Any], split: str, index: int) -> Fields:
    called = re.search(r"assert\s+\(*(?:not\s+)?(?:\w+\()*?(\w+)\s*\(", columns["test_list"][0])
    defined = re.findall(r"^def\s+(\w+)", columns["code"], flags=re.MULTILINE)
    inside = [name for name in defined if any(f"{name}(" in test for test in columns["test_list"])]
    setup = [columns["test_setup_code"]] if columns.get("test_setup_code") else []
    return {
        "id": f"mbpp/{columns['task_id']}",
        "question": columns["text"],
        "answer": columns["code"],
        "tests": [*setup, *columns["test_list"]],
        "entry_point": inside[-1] if inside else called and called.group(1),
    }


def _humaneval(columns: Mapping[str, Any], split: str, index: int) -> Fields:
    return {
        "id": columns["task_id"],
        "question": columns["prompt"],
        "answer": columns["canonical_solution"],
        "tests": [f"{columns['test']}\ncheck({columns['entry_point']})\n"],
        "entry_point": columns["entry_point"],
    }


def _gsm8k(columns: Mapping[str, Any], split: str, index: int) -> Fields:
    return {
        "id": f"gsm8k/{split}/{index}",
        "question": columns["question"],
        "answer": columns["answer"].rsplit("####", 1)[1].strip().replace(",", ""),
    }


HUB_TASKS: dict[str, HubTask] = {
    # The auxiliary train split of MMLU is other exams; dev and validation are its own.
    "cais/mmlu": HubTask(
        task="mmlu", config="all", train_splits=("dev", "validation"), test_split="test", to_fields=_mmlu
    ),
    "allenai/ai2_arc": HubTask(
        task="arc_challenge",
        config="ARC-Challenge",
        train_splits=("train",),
        test_split="test",
        to_fields=_lettered("arc_challenge"),
    ),
    # The test answers of CommonsenseQA are not published: its validation split is everybody's test.
    "tau/commonsense_qa": HubTask(
        task="commonsenseqa",
        config=None,
        train_splits=("train",),
        test_split="validation",
        to_fields=_lettered("commonsenseqa"),
    ),
    "google-research-datasets/mbpp": HubTask(
        task="mbpp", config="full", train_splits=("train",), test_split="test", to_fields=_mbpp
    ),
    "openai/openai_humaneval": HubTask(
        task="humaneval", config=None, train_splits=(), test_split="test", to_fields=_humaneval
    ),
    "openai/gsm8k": HubTask(task="gsm8k", config="main", train_splits=("train",), test_split="test", to_fields=_gsm8k),
}
