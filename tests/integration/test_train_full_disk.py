"""`hierrouter train` on a disk that fills during a checkpoint: exit code 2, a message alone, nothing earlier lost."""

import os
import resource
import shutil
import subprocess
import sys

import pytest
from full_disk import file_size_limit
from scripted_trees import save_scripted_tree

from hierrouter_jax.train.checkpoint import finished_steps
from hierrouter_jax.train.loop import load_router
from hierrouter_jax.train.run_record import arrays_digest

OPTIONS = ["--tree", "tree.npz", "--num-updates", "9", "--checkpoint-interval", "3", "--num-envs", "8"]
OPTIONS += ["--hidden-sizes", "7", "--validation-interval", "100"]
SECONDS = 600  # a command that takes longer hangs; a busy machine is slow


def train(place, run_dir, *more, max_file_bytes=resource.RLIM_INFINITY):
    """The command in a process of its own, whose files may not grow past a size: there a write ends half done."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    with file_size_limit(max_file_bytes):  # the new process inherits it
        process = subprocess.Popen(
            [sys.executable, "-m", "hierrouter_jax.cli.main", "train", "--run-dir", run_dir, *OPTIONS, *more],
            cwd=place,
            env={**environment, "JAX_PLATFORMS": "cpu", "HIERROUTER_CACHE": str(place / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            _, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()  # has no effect on one that has ended
    return process.returncode, errors


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tree, a run left alone, and the same run as it was after its checkpoint of update 6."""
    place = tmp_path_factory.mktemp("place")
    save_scripted_tree(place / "tree.npz")
    code, errors = train(place, "alone")
    assert code == 0, errors
    shutil.copytree(place / "alone", place / "stopped")
    shutil.rmtree(place / "stopped" / "checkpoints" / "9")
    return place


def file_sizes(folder):
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def test_a_disk_that_fills_during_a_checkpoint(place):
    largest = max(file_sizes(place / "alone" / "checkpoints" / "9"))
    record = (place / "alone" / "metrics.jsonl").stat().st_size
    assert largest > record + 200
    # One file that is cut at its end; and almost every file, whose writers in many threads fail one by one.
    for max_file_bytes in (largest - 1, record + 100):
        code, errors = train(place, "stopped", "--resume", max_file_bytes=max_file_bytes)
        assert code == 2, errors
        assert "Traceback" not in errors
        assert "error: Writing the checkpoint of update 9 to" in errors
        assert "File too large" in errors
        assert "then resume: the earlier checkpoints are as they were" in errors
        assert finished_steps(place / "stopped" / "checkpoints") == [3, 6]
    code, errors = train(place, "stopped", "--resume")
    assert code == 0, errors
    alone, stopped = place / "alone", place / "stopped"
    assert (stopped / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()
    assert arrays_digest(load_router(stopped).params) == arrays_digest(load_router(alone).params)
