"""`hierrouter collect` by two hosts, each with its shard and store, one of them killed on the way; the merge of their
stores is what one host would have collected, and the last collection asks nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_collect_kill import command_arguments, read_rows, write_tasks
from tiny_pools import write_tiny_encoder, write_tiny_pool

from hierrouter_jax.collect.tree_file import load_tree


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_tiny_pool(folder, max_new_tokens=17)
    write_tiny_encoder(folder / "encoder")
    write_tasks(folder / "tasks")
    return folder


def command(inputs, *arguments):
    return [sys.executable, "-m", "hierrouter_jax.cli.main", *map(str, arguments)]


def environment(inputs):
    return {**os.environ, "HIERROUTER_CACHE": str(inputs / "cache"), "XLA_FLAGS": ""}


def run(inputs, *arguments):
    done = subprocess.run(command(inputs, *arguments), env=environment(inputs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shard_arguments(inputs, folder, index):
    """The arguments of a collection, for one shard of two: no tree, a store of its own."""
    words = command_arguments(inputs, folder)
    del words[words.index("--out") : words.index("--out") + 2]
    for option in ("--store", "--json"):
        words[words.index(option) + 1] += f".{index}"
    return [*words, "--shard", f"{index}/2"]


def kill_amid(inputs, arguments, store):
    """Kill a collection once it has stored something; it then has more to do."""
    process = subprocess.Popen(
        command(inputs, *arguments), env=environment(inputs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 600
    while not (store.exists() and read_rows(store, "name FROM sqlite_master WHERE name = 'responses'")
               and read_rows(store, "key FROM responses")):  # fmt: skip
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_two_hosts_collect_what_one_does(inputs, tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
    run(inputs, *command_arguments(inputs, one))
    stores = [many / f"responses.sqlite.{index}" for index in range(2)]
    kill_amid(inputs, shard_arguments(inputs, many, 1), stores[1])
    num_before = len(read_rows(stores[1], "key FROM responses"))
    for index in range(2):
        run(inputs, *shard_arguments(inputs, many, index))
    told = [json.loads((many / f"summary.json.{index}").read_text()) for index in range(2)]
    assert told[1]["num_stored_before"] == num_before > 0 < told[1]["num_generated"]

    said = run(inputs, "store", "merge", *stores, "--store", many / "responses.sqlite")
    assert said.count(" are new") == 2
    run(inputs, *command_arguments(inputs, many))
    report = json.loads((many / "summary.json").read_text())["report"]
    assert (report["num_generated"], report["num_scored"]) == (0, 0)
    ours, theirs = load_tree(many / "tree.npz"), load_tree(one / "tree.npz")
    assert ours.manifest == theirs.manifest
    for split, outcomes in theirs.outcomes.items():
        for name in outcomes.__dataclass_fields__:
            atol = 1e-3 if name == "mean_logprob" else 1e-6  # rounded otherwise in batches of other requests
            np.testing.assert_allclose(getattr(ours.outcomes[split], name), getattr(outcomes, name), atol=atol)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "3/2"], "but is 3/2"),
        (["--shard", "half"], "is written I/N, such as 0/4"),
        (["--shard", "0/2", "--out", "tree.npz"], "a shard makes no tree"),
        ([], "--out must name the tree file"),
    ],
)
def test_bad_shards_are_told(inputs, tmp_path, arguments, message):
    words = ["collect", "--tasks", inputs / "tasks", "--store", tmp_path / "store.sqlite", *arguments]
    done = subprocess.run(command(inputs, *words), env=environment(inputs), capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store.sqlite").exists()
