"""Rows: formats, splits that depend on ids alone, and every problem of a bad file told with its line."""

import json
import random

import datasets
import pytest

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.tasks.hub_tasks import HUB_TASKS, rows_from_columns
from hierrouter_jax.tasks.rows import SplitConfig, TaskRow, load_rows, load_splits, rank_rows, sample_rows
from hierrouter_jax.tasks.task_files import read_dataset

LETTER = {
    "id": "q/1",
    "task": "quiz",
    "question": "Which is a fruit?",
    "choices": ["stone", "plum", "chair"],
    "answer": "B",
}
NUMBER = {"id": "n/1", "task": "sums", "question": "2 + 5?", "answer": "7"}
CODE = {
    "id": "c/1",
    "task": "code",
    "question": "Write a function that doubles.",
    "answer": "def double(x):\n    return 2 * x",
    "tests": ["assert double(3) == 6"],
    "entry_point": "double",
}


def write_task(folder, name, records):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def many(count, prefix="n"):
    return [{**NUMBER, "id": f"{prefix}/{index}"} for index in range(count)]


def ids(rows):
    return [row.id for row in rows]


@pytest.mark.parametrize(
    ("record", "form"),
    [
        (LETTER, "choice"),
        (NUMBER, "number"),
        (CODE, "program"),
        ({**CODE, "question": 'def double(x):\n    """Twice x."""\n'}, "completion"),
    ],
)
def test_form_follows_from_the_fields(tmp_path, record, form):
    write_task(tmp_path, "t.train", [{**record, "id": "other"}])
    (row,) = load_rows(write_task(tmp_path, "t", [record]))
    assert row.form == form
    assert row == TaskRow(
        **{
            **record,
            "choices": tuple(record.get("choices", ())),
            "tests": tuple(record.get("tests", ())),
        }
    )
    assert row.letters == (("A", "B", "C") if form == "choice" else ())


def test_folder_reads_every_task_and_its_train_rows(tmp_path):
    write_task(tmp_path, "b", [LETTER])
    write_task(tmp_path, "b.train", [{**LETTER, "id": "q/2"}])
    write_task(tmp_path, "a", [NUMBER])
    write_task(tmp_path, "a.train", [{**NUMBER, "id": "n/2"}])
    assert ids(load_rows(tmp_path)) == ["n/1", "q/1"]
    assert ids(load_rows(tmp_path, split="train")) == ["n/2", "q/2"]


def test_sample_depends_on_neither_order_nor_size(tmp_path):
    records = many(31)
    random.Random(5).shuffle(records)
    first = load_rows(write_task(tmp_path, "t", records), num_rows=7, seed=3)
    random.Random(6).shuffle(records)
    second = load_rows(write_task(tmp_path, "t", records), num_rows=11, seed=3)
    assert ids(second)[:7] == ids(first)
    assert ids(load_rows(write_task(tmp_path, "t", records), num_rows=7, seed=4)) != ids(first)


def test_task_without_train_rows_is_divided_for_ever(tmp_path):
    small = write_task(tmp_path, "t", many(97))
    train, test = load_rows(small, split="train", train_share=0.3), load_rows(small, split="test", train_share=0.3)
    assert sorted(ids(train) + ids(test)) == sorted(record["id"] for record in many(97))
    assert 15 < len(train) < 45  # 97 * 0.3 = 29, more than four standard deviations (4.5) either way
    grown = load_rows(write_task(tmp_path, "t", many(193)), split="train", train_share=0.3)
    assert set(ids(train)) <= set(ids(grown))
    assert not set(ids(test)) & set(ids(grown))


def test_splits_do_not_meet_and_grow_without_moving(tmp_path):
    write_task(tmp_path, "t", many(13, "test"))
    write_task(tmp_path, "t.train", many(29, "train"))
    small = load_splits(tmp_path, SplitConfig(num_train=5, num_validation=3, num_test=7))
    large = load_splits(tmp_path, SplitConfig(num_train=None, num_validation=3, num_test=None))
    assert [len(part) for part in (small.train, small.validation, small.test)] == [5, 3, 7]
    assert [len(part) for part in (large.train, large.validation, large.test)] == [26, 3, 13]
    assert ids(large.train)[:5] == ids(small.train)
    assert ids(large.validation) == ids(small.validation)
    assert not set(ids(large.train)) & set(ids(large.validation))


def test_split_sizes_can_differ_by_task(tmp_path):
    for name, record in (("quiz", LETTER), ("sums", NUMBER)):
        write_task(tmp_path, name, [{**record, "id": f"{name}/{i}", "task": name} for i in range(5)])
        write_task(tmp_path, f"{name}.train", [{**record, "id": f"{name}/t{i}", "task": name} for i in range(5)])
    config = SplitConfig(num_train=2, num_test=3)
    splits = load_splits(tmp_path, config, task_configs={"sums": SplitConfig(num_train=5, num_test=1)})
    assert [row.task for row in splits.train] == ["quiz"] * 2 + ["sums"] * 5
    assert [row.task for row in splits.test] == ["quiz"] * 3 + ["sums"] * 1
    with pytest.raises(DataError, match="summs: configured, but no source holds this task"):
        load_splits(tmp_path, config, task_configs={"summs": config})


def test_every_task_with_too_few_rows_is_named(tmp_path):
    for name in ("one", "two"):
        write_task(tmp_path, name, [{**NUMBER, "id": f"{name}/{i}", "task": name} for i in range(3)])
        write_task(tmp_path, f"{name}.train", [{**NUMBER, "id": f"{name}/t{i}", "task": name} for i in range(2)])
    with pytest.raises(DataError) as raised:
        load_splits(tmp_path, SplitConfig(num_train=2, num_validation=1, num_test=4))
    for name in ("one", "two"):
        assert f"{name}: 2 train and 1 validation rows asked, 2 there" in str(raised.value)
        assert f"{name}: 4 test rows asked, 3 there" in str(raised.value)


def test_ranking_is_the_sha256_of_seed_and_id():
    import hashlib

    rows = [TaskRow(**{**NUMBER, "id": f"r{index}"}) for index in range(17)]
    expected = sorted(ids(rows), key=lambda row_id: hashlib.sha256(f"11:{row_id}".encode()).hexdigest())
    assert ids(rank_rows(rows, seed=11)) == expected
    with pytest.raises(DataError, match="18 rows are asked for, but there are 17"):
        sample_rows(rows, 18, seed=11)


BAD_LINES = [
    ("{not json", "not JSON"),
    ("[1, 2]", "a row must be a JSON object, but is a list"),
    (json.dumps({**NUMBER, "question": " "}), "question must be a text that is not empty"),
    (json.dumps({key: NUMBER[key] for key in ("id", "task", "question")}), "answer must be a text"),
    (json.dumps({**NUMBER, "answer": 7}), "answer must be a text that is not empty, but is 7"),
    (json.dumps({**NUMBER, "answer": "many"}), "answer must be a number"),
    (json.dumps({**LETTER, "answer": "D"}), "answer must be one of ABC, but is 'D'"),
    (json.dumps({**LETTER, "answer": "AB"}), "answer must be one of ABC"),
    (json.dumps({**LETTER, "choices": "plum"}), "choices must be a list of texts, none empty, or null"),
    (json.dumps({**LETTER, "choices": ["plum", " "]}), "choices must be a list of texts, none empty"),
    (json.dumps({**LETTER, "choices": ["plum"]}), "there must be 2 to 10 choices, but there are 1"),
    (json.dumps({**LETTER, "tests": ["assert f()"]}), "not both"),
    (json.dumps({**CODE, "entry_point": None}), "entry_point is missing"),
    (json.dumps({**CODE, "entry_point": "not a name"}), "entry_point must be a Python name"),
    (json.dumps({**CODE, "tests": [3]}), "tests must be a list of texts, none empty, or null"),
]


def test_all_problems_of_a_file_are_told_with_their_lines(tmp_path):
    path = tmp_path / "bad.jsonl"
    good = [json.dumps({**NUMBER, "id": f"good/{index}"}) for index in range(2)]
    lines = [good[0], "", *(line for line, _ in BAD_LINES), good[1], good[0]]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as raised:
        load_rows(path)
    message = str(raised.value)
    assert str(path) in message
    for number, (_, problem) in enumerate(BAD_LINES, start=3):
        assert any(line.startswith(f"  - line {number}: ") and problem in line for line in message.split("\n")), problem
    assert f"line {len(lines)}: id 'good/0' is already on line 1" in message
    assert f"line {len(lines) - 1}:" not in message


def test_long_lists_of_problems_are_cut(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("nothing\n" * 53)
    with pytest.raises(DataError, match="and 33 more"):
        load_rows(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\n\n", "is empty"), (b"\xff\xfe{}", "line 1: not UTF-8")]
)
def test_unreadable_files(tmp_path, content, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_rows(path)


def test_line_separators_inside_a_text_do_not_end_a_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        json.dumps({**NUMBER, "question": "one\u2028two\x85three"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert [row.question for split in ("train", "test") for row in load_rows(path, split=split)] == [
        "one\u2028two\x85three"
    ]


def test_row_in_train_and_test_is_refused(tmp_path):
    write_task(tmp_path, "t.train", [NUMBER])
    with pytest.raises(DataError, match=r"in train and in test[\s\S]*n/1"):
        load_rows(write_task(tmp_path, "t", [NUMBER]))


def test_sources_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"neither a folder of task files[\s\S]*openai/gsm8k"):
        load_rows(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"must hold task files NAME\.jsonl"):
        load_rows(tmp_path)


@pytest.mark.parametrize("bad", [{"num_train": -1}, {"num_test": -3}, {"num_validation": -1}, {"train_share": 1.0}])
def test_split_config_refuses(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SplitConfig(**bad)


def test_dataset_view_leaves_no_cache(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    dataset = read_dataset(write_task(tmp_path, "t", [LETTER, {**LETTER, "id": "q/2"}]))
    assert isinstance(dataset, datasets.Dataset)
    assert dataset["id"][:] == ["q/1", "q/2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.jsonl"]
    assert capfd.readouterr() == ("", "")


HUB_ROWS = {
    "cais/mmlu": (
        {"question": "Q?", "subject": "logic", "choices": ["w", "x", "y", "z"], "answer": 2},
        TaskRow(id="mmlu/test/logic/0", task="mmlu", question="Q?", choices=("w", "x", "y", "z"), answer="C"),
    ),
    "allenai/ai2_arc": (
        {
            "id": "K7",
            "question": "Q?",
            "choices": {"text": ["w", "x", "y"], "label": ["1", "2", "3"]},
            "answerKey": "3",
        },
        TaskRow(id="arc_challenge/K7", task="arc_challenge", question="Q?", choices=("w", "x", "y"), answer="C"),
    ),
    "tau/commonsense_qa": (
        {
            "id": "ab",
            "question": "Q?",
            "question_concept": "c",
            "choices": {"label": list("ABCDE"), "text": list("vwxyz")},
            "answerKey": "E",
        },
        TaskRow(id="commonsenseqa/ab", task="commonsenseqa", question="Q?", choices=tuple("vwxyz"), answer="E"),
    ),
    "google-research-datasets/mbpp": (
        {
            "task_id": 3,
            "text": "Sort twice.",
            "code": "def part(x):\n    return x\ndef twice(x):\n    return part(x)",
            "test_list": ["assert set(twice([1])) == {1}"],
            "test_setup_code": "import math",
            "challenge_test_list": [],
        },
        TaskRow(
            id="mbpp/3",
            task="mbpp",
            question="Sort twice.",
            answer="def part(x):\n    return x\ndef twice(x):\n    return part(x)",
            tests=("import math", "assert set(twice([1])) == {1}"),
            entry_point="twice",
        ),
    ),
    "openai/openai_humaneval": (
        {
            "task_id": "HumanEval/9",
            "prompt": "def f(x):\n",
            "canonical_solution": "    return x\n",
            "test": "def check(candidate):\n    assert candidate(1) == 1\n",
            "entry_point": "f",
        },
        TaskRow(
            id="HumanEval/9",
            task="humaneval",
            question="def f(x):\n",
            answer="    return x\n",
            tests=("def check(candidate):\n    assert candidate(1) == 1\n\ncheck(f)\n",),
            entry_point="f",
        ),
    ),
    "openai/gsm8k": (
        {"question": "How many?", "answer": "5 + 6 = <<5+6=11>>11\n#### 1,011"},
        TaskRow(id="gsm8k/test/0", task="gsm8k", question="How many?", answer="1011"),
    ),
}


def test_every_hub_dataset_has_an_example_here():
    assert set(HUB_ROWS) == set(HUB_TASKS)


@pytest.mark.parametrize("repo", sorted(HUB_ROWS))
def test_hub_columns_become_rows(repo, monkeypatch):
    columns, expected = HUB_ROWS[repo]
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        fresh = {**columns, **{key: f"{columns[key]}-{split}" for key in ("id", "task_id") if key in columns}}
        return datasets.Dataset.from_list([fresh if split != HUB_TASKS[repo].test_split else columns])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    # HumanEval has no train rows: its only row is on the side its hash says.
    rows = [row for split in ("train", "test") for row in load_rows(repo, split=split)]
    assert expected in rows
    assert {name for name, _, _ in asked} == {repo}
    assert {split for _, _, split in asked} == {*HUB_TASKS[repo].train_splits, HUB_TASKS[repo].test_split}


def test_changed_hub_columns_are_an_error():
    with pytest.raises(DataError, match=r"row 0: columns are not as expected \(KeyError: 'question'\)"):
        rows_from_columns("openai/gsm8k", "test", [{"text": "?", "answer": "#### 3"}])
    with pytest.raises(DataError, match="row 0: answer must be a number"):
        rows_from_columns("openai/gsm8k", "test", [{"question": "?", "answer": "#### three"}])


def test_unreachable_hub_is_a_clear_error():
    with pytest.raises(
        DataError, match=r"openai/gsm8k \(split train\) could not be loaded from the hub[\s\S]*give a folder"
    ):
        load_rows("openai/gsm8k")


def test_real_rows_load_whole(benchmarks_dir):
    rows = load_rows(benchmarks_dir)
    forms = {task: {row.form for row in rows if row.task == task} for task in {row.task for row in rows}}
    assert forms == {
        "mmlu": {"choice"},
        "arc_challenge": {"choice"},
        "commonsenseqa": {"choice"},
        "mbpp": {"program"},
        "humaneval": {"completion"},
        "gsm8k": {"number"},
    }
