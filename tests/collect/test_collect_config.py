"""The config of a collection: JSON there and back, wrong values named, rows drawn as it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hierrouter_jax.collect.collect_config import CollectConfig, TaskSplitConfig, load_collect_rows
from hierrouter_jax.core.configs import from_json_dict, to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.tasks.rows import SplitConfig


def write_task(path, task, ids):
    rows = [{"id": f"{task}/{number}", "task": task, "question": f"{number}?", "answer": str(number)} for number in ids]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def tasks_dir(tmp_path):
    write_task(tmp_path / "sums.jsonl", "sums", range(11))
    write_task(tmp_path / "sums.train.jsonl", "sums", range(11, 34))
    write_task(tmp_path / "more.jsonl", "more", range(53))
    return tmp_path


def make_config(tasks_dir, **changes):
    fields = {
        "pool": Path("pools/small.toml"),
        "encoder": "pypi:encoder",
        "tasks": (str(tasks_dir),),
        "splits": SplitConfig(num_train=7, num_validation=2, num_test=5, seed=3),
        "task_splits": (TaskSplitConfig(task="more", splits=SplitConfig(num_train=3, num_test=2)),),
    }
    return CollectConfig(**(fields | changes))


def test_json_there_and_back(tasks_dir):
    config = make_config(tasks_dir)
    assert from_json_dict(CollectConfig, json.loads(json.dumps(to_json_dict(config)))) == config
    assert len({config, make_config(tasks_dir)}) == 1  # hashable, equal by value
    with pytest.raises(ConfigError, match="unknown key"):
        from_json_dict(CollectConfig, to_json_dict(config) | {"stages": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "tasks must name"),
        ({"num_stages": 0}, "num_stages must be >= 1"),
        ({"chunk_size": 0}, "chunk_size must be >= 1"),
        ({"task_splits": (TaskSplitConfig(task="a", splits=SplitConfig()),) * 2}, "must name a task once"),
    ],
)
def test_values_out_of_range(tasks_dir, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_config(tasks_dir, **changes)


def test_rows_are_drawn_by_task_and_split(tasks_dir):
    rows = load_collect_rows(make_config(tasks_dir))
    sizes = {
        (split, task): sum(row.task == task for row in own) for split, own in rows.items() for task in ("sums", "more")
    }
    assert sizes == {
        ("train", "sums"): 7,
        ("train", "more"): 3,
        ("validation", "sums"): 2,
        ("validation", "more"): 0,
        ("test", "sums"): 5,
        ("test", "more"): 2,
    }
    ids = [row.id for own in rows.values() for row in own]
    assert len(set(ids)) == len(ids)
    assert rows == load_collect_rows(make_config(tasks_dir))
    with pytest.raises(DataError, match="no source holds this task"):
        load_collect_rows(make_config(tasks_dir, task_splits=(TaskSplitConfig(task="gone", splits=SplitConfig()),)))
