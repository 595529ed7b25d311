"""Collection killed with SIGKILL at random moments goes on where it was.

What is demanded. After any number of kills and one run to the end, the store equals that of an undisturbed run. No
response that had been committed is generated again: after each kill the committed keys are read from the store, and
none of them may ever appear in the log of generated requests afterwards. Generated twice can only be what was in
flight at a kill, finished by the engine and not yet committed: at most one request a kill for an engine that streams,
at most one chunk for an engine that does not.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest
from scripted_collection import ChunkEngine, last_word_score, make_engine, make_rows

from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.tree_file import load_tree, save_tree
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.store.request_keys import request_key
from hierrouter_jax.store.response_store import ResponseStore

NUM_MODELS, CHUNK_SIZE, DELAY_S = 3, 5, 0.012
SPLITS = {"train": make_rows(5, 3, prefix="train"), "test": make_rows(3, 2, prefix="test")}


class LoggedEngine:
    """A slow engine that appends the key of each request to a file the moment its response exists."""

    def __init__(self, log_path: Path, delay_s: float) -> None:
        self._engine = make_engine(NUM_MODELS, delay_s=delay_s)
        self.cards, self.encode = self._engine.cards, self._engine.encode
        self._log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def generate(self, requests):
        return [response for _, response in self.generate_iter(requests)]

    def generate_iter(self, requests):
        for index, response in self._engine.generate_iter(requests):
            os.write(self._log, request_key(self.encode(requests[index])).encode() + b"\n")
            yield index, response


def collect(folder: Path, is_streaming: bool, delay_s: float, started=None) -> None:
    """Collect into `folder` and write the tree file; what a killed process runs."""
    engine = LoggedEngine(folder / "generated.log", delay_s)
    with ResponseStore(folder / "responses.sqlite") as store:
        if started is not None:
            started.set()
        file = collect_tree(
            engine if is_streaming else ChunkEngine(engine),
            SPLITS,
            store,
            num_stages=2,
            encoder=HashingEncoder(dim=13),
            chunk_size=CHUNK_SIZE,
            scorer=last_word_score,
            scorer_version="last-word",
            is_quiet=True,
        )
    save_tree(folder / "tree.npz", file)


def store_contents(path: Path) -> dict[str, list[tuple]]:
    """Every row of every table, without the times."""
    with sqlite3.connect(path) as connection:
        contents = {
            "responses": connection.execute("SELECT key, weights_digest, request, response FROM responses").fetchall(),
            "scores": connection.execute("SELECT key, score FROM scores").fetchall(),
        }
    connection.close()
    return {table: sorted(rows) for table, rows in contents.items()}


def logged_keys(folder: Path) -> list[str]:
    log = folder / "generated.log"
    return log.read_text().split() if log.exists() else []


def wait_for_responses(folder: Path, num_responses: int) -> None:
    deadline_s = time.monotonic() + 120
    while len(logged_keys(folder)) < num_responses:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    collect(folder, True, 0.0)
    return folder


@pytest.fixture(scope="module")
def processes():
    """Processes forked from a server that has imported everything: a run starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hierrouter_jax.collect.collect_tree", "sqlite3", "numpy"])
    return context


@pytest.mark.parametrize(("is_streaming", "num_kills", "in_flight"), [(True, 10, 1), (False, 5, CHUNK_SIZE)])
def test_killed_collection_ends_as_an_undisturbed_one(
    tmp_path, undisturbed, processes, is_streaming, num_kills, in_flight
):
    num_requests = len(store_contents(undisturbed / "responses.sqlite")["responses"])
    moments = random.Random(11 + num_kills)
    committed: set[str] = set()
    num_logged = num_kills_amid = 0
    for _ in range(num_kills):
        started = processes.Event()
        process = processes.Process(target=collect, args=(tmp_path, is_streaming, DELAY_S, started))
        process.start()
        assert started.wait(120)
        # Some responses later, counted and not timed, so that a slow machine is killed amid its work too.
        wait_for_responses(tmp_path, num_logged + moments.randint(0, num_requests // (num_kills + 1)))
        time.sleep(moments.uniform(0, 2 * DELAY_S))
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL  # it had not finished
        keys = logged_keys(tmp_path)
        assert not committed & set(keys[num_logged:])  # no committed response was generated again
        assert len(set(keys[num_logged:])) == len(keys[num_logged:])
        stored = {key for key, *_ in store_contents(tmp_path / "responses.sqlite")["responses"]}
        assert committed <= stored  # nothing committed is lost
        uncommitted = [key for key in keys[num_logged:] if key not in stored]
        assert uncommitted == keys[len(keys) - len(uncommitted) :]  # only the last ones, in flight at the kill
        assert len(uncommitted) <= in_flight
        num_kills_amid += len(stored) > len(committed)
        committed, num_logged = stored, len(keys)
    assert num_kills_amid >= num_kills // 2  # the kills fell amid the work, not before it
    assert len(committed) < num_requests
    collect(tmp_path, is_streaming, 0.0)
    keys = logged_keys(tmp_path)
    assert not committed & set(keys[num_logged:])
    twice = [key for key, count in Counter(keys).items() if count > 1]
    assert len(twice) <= num_kills * in_flight
    assert store_contents(tmp_path / "responses.sqlite") == store_contents(undisturbed / "responses.sqlite")
    assert (tmp_path / "tree.npz").read_bytes() == (undisturbed / "tree.npz").read_bytes()
    report = json.loads((tmp_path / "tree.report.json").read_text())
    assert report["num_stored_before"] == len(committed)
    print(f"{num_kills} kills, {len(keys)} generated for {num_requests} requests, {len(twice)} twice")


def test_killed_while_writing_the_tree_leaves_the_old_one(tmp_path, undisturbed, processes):
    """Processes that write the tree again and again are killed; the file is whole at every moment."""
    path = tmp_path / "tree.npz"
    path.write_bytes((undisturbed / "tree.npz").read_bytes())
    moments = random.Random(5)
    for _ in range(4):
        started = processes.Event()
        process = processes.Process(target=write_for_ever, args=(path, started))
        process.start()
        assert started.wait(120)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert path.read_bytes() == (undisturbed / "tree.npz").read_bytes()


def write_for_ever(path: Path, started) -> None:
    file = load_tree(path)
    started.set()
    while True:
        save_tree(path, file)
