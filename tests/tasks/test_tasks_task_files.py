"""Task files: what would only break after all models have answered is found when the file is read, with its line."""

import json

import pytest

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.tasks.rows import SplitConfig, load_rows, load_splits
from hierrouter_jax.tasks.scoring import score_answer
from hierrouter_jax.tasks.task_files import field_problems, read_task_file, row_from_fields

NUMBER = {"id": "n", "task": "sums", "question": "2 + 5?", "answer": "7"}
LETTER = {"id": "q", "task": "quiz", "question": "Which?", "choices": ["stone", "plum"], "answer": "B"}
CODE = {
    "id": "c",
    "task": "code",
    "question": "Write a function that doubles.",
    "answer": "def double(x):\n    return 2 * x",
    "tests": ["assert double(3) == 6"],
    "entry_point": "double",
}


def write_lines(path, lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def write_task(path, records):
    return write_lines(path, [json.dumps(record) for record in records])


def problems_by_line(path):
    """Return line number -> problems, from the message of the error that reading the file must be."""
    with pytest.raises(DataError) as raised:
        read_task_file(path)
    told = [line.removeprefix("  - line ").split(": ", 1) for line in str(raised.value).split("\n")[1:]]
    found = {}
    for number, problem in told:
        found.setdefault(int(number), []).append(problem)
    return found


def numbers(task, *ids):
    return [{**NUMBER, "id": f"{task}/{index}", "task": task} for index in ids]


BAD_CODE = {
    "not closed": ({"tests": ["assert double(1) == 2", "assert double((1"]}, "'(' was never closed (line 2)"),
    "outside a function": ({"tests": ["return 3"]}, "'return' outside function (line 1)"),
    "zero byte": ({"tests": ["assert double(1) == 2 \0"]}, "null bytes"),
    "nested too deeply": ({"tests": ["assert double(3) == " + "-" * 3000 + "6"]}, "RecursionError"),
    "future in the middle": ({"tests": ["import math", "from __future__ import annotations"]}, "beginning of the file"),
    "prose before the function": ({"question": "Complete this:\ndef double(x):\n"}, "question must be Python above"),
}


def test_tests_that_cannot_be_run_are_told_with_their_lines(tmp_path):
    rows = [CODE, *({**CODE, "id": name, **change} for name, (change, _) in BAD_CODE.items())]
    found = problems_by_line(write_task(tmp_path / "t.jsonl", rows))
    assert sorted(found) == list(range(2, 2 + len(BAD_CODE)))
    for (name, (change, words)), told in zip(BAD_CODE.items(), found.values(), strict=True):
        assert len(told) == 1, name
        assert words in told[0], name
        assert ("tests must be Python" in told[0]) == ("tests" in change), name


@pytest.mark.parametrize("name", sorted(set(BAD_CODE) - {"prose before the function"}))
def test_tests_refused_in_a_file_are_those_that_no_answer_can_be_judged_by(name):
    row = row_from_fields({**CODE, **BAD_CODE[name][0]})
    with pytest.raises(DataError, match=r"Row 'c' of task 'code' [\s\S]*cannot be run"):
        score_answer(row, CODE["answer"])


@pytest.mark.parametrize(
    "change",
    [
        {"tests": ["def check(candidate):", "    assert candidate(3) == 6", "check(double)"]},
        {"tests": ["assert double(3) is 6"]},  # of which Python warns
        {"question": "import math\n\n\ndef double(x):\n    '''Twice x.'''\n", "answer": "    return 2 * x"},
        {"question": "Write `def double(x)`, please."},
    ],
)
def test_tests_and_questions_that_can_be_run_are_taken(change):
    assert field_problems({**CODE, **change}) == []
    assert score_answer(row_from_fields({**CODE, **change}), change.get("answer", CODE["answer"])).quality == 1.0


HALF = "a\ud800b"


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({**NUMBER, "id": HALF}, "id"),
        ({**NUMBER, "task": HALF}, "task"),
        ({**NUMBER, "question": HALF}, "question"),
        ({**CODE, "answer": "\udfff"}, "answer"),
        ({**LETTER, "choices": ["plum", HALF]}, "choices"),
        ({**CODE, "tests": ["assert double('\udc00')"]}, "tests"),
    ],
)
def test_half_a_character_is_refused_with_its_line(tmp_path, record, field):
    path = write_task(tmp_path / "t.jsonl", [{**NUMBER, "id": "good", "task": record["task"]}, record])
    (told,) = problems_by_line(path)[2]
    assert told.startswith(f"{field} must be whole characters, but holds the lone surrogate '\\ud")


def test_two_halves_of_one_character_are_a_character(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [json.dumps(NUMBER).replace("2 + 5?", "\\ud83d\\ude00")])
    assert [row.question for row in read_task_file(path)] == ["\N{GRINNING FACE}"]


def test_bytes_that_are_no_text_are_told_with_their_lines(tmp_path):
    good, other = (json.dumps({**NUMBER, "id": name}) for name in "ab")
    lines = [good, b'{"id": "caf\xe9"}', other, b"\xff\xfe", "[" * 100_000]
    found = problems_by_line(write_lines(tmp_path / "t.jsonl", lines))
    assert sorted(found) == [2, 4, 5]
    assert found[2][0].startswith("not UTF-8: 'utf-8' codec can't decode byte 0xe9")
    assert found[4][0].startswith("not UTF-8")
    assert found[5][0].startswith("not JSON")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_as_on_any_system(tmp_path, end):
    path = tmp_path / "t.jsonl"
    path.write_bytes(end.join(json.dumps(record).encode() for record in numbers("sums", 1, 2, 3)))
    assert [row.id for row in read_task_file(path)] == ["sums/1", "sums/2", "sums/3"]


def test_file_that_mixes_tasks_is_refused_with_its_lines(tmp_path):
    path = write_task(tmp_path / "t.jsonl", [*numbers("one", 1, 2), *numbers("two", 3), *numbers("one", 4), LETTER])
    found = problems_by_line(path)
    assert sorted(found) == [3, 5]
    assert found[3] == [
        "task is 'two', but that of line 1 is 'one': a file holds one task, so give each a file of its own"
    ]
    assert "task is 'quiz'" in found[5][0]


def test_train_rows_of_another_task_are_refused(tmp_path):
    write_task(tmp_path / "t.jsonl", numbers("one", 1, 2))
    write_task(tmp_path / "t.train.jsonl", numbers("two", 3, 4))
    with pytest.raises(
        DataError, match=r"t\.train\.jsonl must hold rows of the task of t\.jsonl[\s\S]*'one'[\s\S]*'two'"
    ):
        load_rows(tmp_path)


def test_train_rows_without_test_rows_are_refused(tmp_path):
    write_task(tmp_path / "whole.jsonl", numbers("whole", 1, 2))
    write_task(tmp_path / "whole.train.jsonl", numbers("whole", 3, 4))
    config = SplitConfig(num_train=1, num_test=1)
    assert len(load_splits(tmp_path, config).train) == 1
    for name in ("half", "third"):
        write_task(tmp_path / f"{name}.train.jsonl", numbers(name, 5, 6))
    for load in (load_rows, lambda folder: load_splits(folder, config)):
        with pytest.raises(DataError) as raised:
            load(tmp_path)
        assert str(raised.value).split("\n")[1:] == ["  - half.train.jsonl", "  - third.train.jsonl"]
        assert "or rename the train file to NAME.jsonl" in str(raised.value)


def test_folder_of_train_rows_alone_becomes_a_task_as_the_message_says(tmp_path):
    alone = write_task(tmp_path / "half.train.jsonl", numbers("half", *range(23)))
    with pytest.raises(DataError, match=r"half\.train\.jsonl"):
        load_rows(tmp_path)
    alone.rename(tmp_path / "half.jsonl")
    assert len(load_rows(tmp_path, split="train")) + len(load_rows(tmp_path, split="test")) == 23
