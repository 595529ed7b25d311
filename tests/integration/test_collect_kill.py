"""Collection killed with SIGKILL at random moments goes on where it was.

What is demanded, and checked after every kill from two logs that the killed process wrote and from the store:

- A request whose response was committed is never asked again, and what was committed is there as it was.
- What an engine hands over together is committed together: all of it is stored, or nothing.
- What was in flight, at most one batch, is lost and asked again. Nothing else is ever generated twice: in the end each
  key was generated once, and once more for every kill that caught it in flight.
- The store then equals that of an undisturbed run.

The engines are scripted ones, which stream batches or hand over whole chunks, and, in the real command, a pool of
tiny models, whose rows come and go one by one. What is begun together is written to `begun.log` before it is
generated, and, by an engine that streams, what ended together to `handed_over.log` when more is asked for, so what
stands in the second must be stored.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from scripted_collection import ChunkEngine, last_word_score, make_engine, make_rows
from tiny_pools import write_tiny_encoder, write_tiny_pool

from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.tree_file import load_tree, save_tree
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.llm.batching import BatchLimits
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.reading_queue import ReadingQueue
from hierrouter_jax.store.request_keys import request_key
from hierrouter_jax.store.response_store import ResponseStore

NUM_MODELS, CHUNK_SIZE, BATCH_SIZE, DELAY_S = 3, 5, 2, 0.007
MOST_IN_FLIGHT = 3  # of the real engine
SPLITS = {"train": make_rows(11, 3, prefix="train"), "test": make_rows(7, 2, prefix="test")}
BEGUN, HANDED_OVER = "begun.log", "handed_over.log"


def log_batch(path: Path, encoded) -> None:
    """Append one line with the keys of a batch, in one call, so that a kill leaves no half of it."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(log, (" ".join(request_key(one) for one in encoded) + "\n").encode())
    os.close(log)


def logged_batches(folder: Path, name: str = BEGUN) -> list[list[str]]:
    return [line.split() for line in (folder / name).read_text().splitlines()] if (folder / name).exists() else []


def logged_keys(folder: Path, name: str = BEGUN) -> list[str]:
    return [key for batch in logged_batches(folder, name) for key in batch]


class LoggedScript:
    """A slow scripted engine that streams batches and keeps the logs."""

    def __init__(self, folder: Path, delay_s: float) -> None:
        self._engine, self._folder = make_engine(NUM_MODELS, delay_s=delay_s), folder
        self.cards, self.encode = self._engine.cards, self._engine.encode

    def generate(self, requests):
        log_batch(self._folder / BEGUN, map(self.encode, requests))
        return self._engine.generate(requests)

    def generate_iter(self, requests):
        for start in range(0, len(requests), BATCH_SIZE):
            batch = requests[start : start + BATCH_SIZE]
            yield list(enumerate(self.generate(batch), start))
            log_batch(self._folder / HANDED_OVER, map(self.encode, batch))


class LoggedFlaxEngine(FlaxEngine):
    """The engine of real models, with logs."""

    def __init__(self, pool, folder: Path) -> None:
        super().__init__(pool, limits=BatchLimits(max_batch=MOST_IN_FLIGHT, chunk=3))
        self._folder = folder

    def generate_iter(self, requests):
        for batch in super().generate_iter(requests):
            yield batch
            log_batch(self._folder / HANDED_OVER, [self.encode(requests[index]) for index, _ in batch])

    def _answer(self, model, answer, indices, encoded):
        read_next, by_ids = ReadingQueue.read_next, {}
        for index in indices:
            by_ids.setdefault(encoded[index].token_ids, []).append(encoded[index])

        def logged_read(queue, max_rows):
            before = list(queue)
            group = read_next(queue, max_rows)
            asked = before[: len(group.items)]
            log_batch(self._folder / BEGUN, [one for item in asked for one in by_ids[tuple(item.prompt)]])
            return group

        ReadingQueue.read_next = logged_read
        yield from super()._answer(model, answer, indices, encoded)
        ReadingQueue.read_next = read_next


def read_rows(path: Path, columns: str) -> list[tuple]:
    connection = sqlite3.connect(path)
    try:
        return sorted(connection.execute(f"SELECT {columns}"))
    finally:
        connection.close()


def store_contents(path: Path) -> dict[str, list[tuple]]:
    """Every row of every table, without the times."""
    return {
        "responses": read_rows(path, "key, weights_digest, request, response FROM responses"),
        "scores": read_rows(path, "key, score FROM scores"),
    }


class Account:
    """What a folder's logs and store say, kill after kill; each check asserts what is demanded."""

    def __init__(self, folder: Path, *, most_in_flight: int | None = None) -> None:
        """With `most_in_flight`, rows are begun and end one by one; without, as whole batches."""
        self.folder, self.stored, self.lost = folder, {}, Counter()
        self.num_batches, self.most_in_flight = 0, most_in_flight

    def check(self) -> int:
        """Account for the run that has ended; return how many of its responses were committed."""
        path = self.folder / "responses.sqlite"
        before, self.stored = self.stored, {}
        if path.exists() and read_rows(path, "name FROM sqlite_master WHERE name = 'responses'"):
            self.stored = {key: rest for key, *rest in read_rows(path, "key, response, created_s FROM responses")}
        batches = logged_batches(self.folder)[self.num_batches :]
        self.num_batches += len(batches)
        keys = [key for batch in batches for key in batch]
        assert not set(keys) & set(before)  # no committed response was generated again
        assert len(set(keys)) == len(keys)
        assert self.stored.items() >= before.items()  # and none was lost or written anew
        assert set(logged_keys(self.folder, HANDED_OVER)) <= set(self.stored)
        assert set(self.stored) <= set(before) | set(keys)
        lost = set(keys) - set(self.stored)
        if self.most_in_flight is None:
            assert not lost or lost == set(batches[-1])  # one batch, the last, whole
        assert len(lost) <= (self.most_in_flight or len(keys))
        self.lost.update(lost)
        return len(self.stored) - len(before)

    def check_end(self) -> None:
        """Account for the run that went to its end: nothing was in flight, and nothing is unaccounted for."""
        num_lost = self.lost.total()
        self.check()
        assert self.lost.total() == num_lost
        assert Counter(logged_keys(self.folder)) == Counter(self.stored.keys()) + self.lost


def collect(folder: Path, is_streaming: bool, delay_s: float, started=None) -> None:
    """Collect into `folder` and write the tree file; what a killed process runs."""
    engine = LoggedScript(folder, delay_s)
    with ResponseStore(folder / "responses.sqlite") as store:
        if delay_s:  # a slow disk: about as many kills fall amid a transaction as amid generation
            store._connection.set_trace_callback(lambda statement: time.sleep(delay_s))
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


def kill_after(process, folder: Path, num_keys: int, delay_s: float) -> None:
    """Kill a process once the log holds that many keys and some time more; counted, so a slow machine is as random."""
    deadline_s = time.monotonic() + 300
    while len(logged_keys(folder)) < num_keys:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL  # it had not finished


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    collect(folder, True, 0.0)
    return folder


@pytest.fixture(scope="module")
def processes():
    """Processes forked from a server that has imported everything: a run starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["hierrouter_jax.collect.collect_tree", "hierrouter_jax.cli.collect", "sqlite3", "numpy", "tyro", "datasets",
         "transformers"]
    )  # fmt: skip
    return context


@pytest.mark.parametrize(("is_streaming", "num_kills"), [(True, 10), (False, 5)])
def test_killed_collection_ends_as_an_undisturbed_one(tmp_path, undisturbed, processes, is_streaming, num_kills):
    num_requests = len(store_contents(undisturbed / "responses.sqlite")["responses"])
    moments, account, num_kills_amid = random.Random(11 + num_kills), Account(tmp_path), 0
    unit_s = 3 * (BATCH_SIZE if is_streaming else CHUNK_SIZE) * DELAY_S  # about what it takes to generate and commit
    for _ in range(num_kills):
        started = processes.Event()
        process = processes.Process(target=collect, args=(tmp_path, is_streaming, DELAY_S, started))
        process.start()
        assert started.wait(120)
        num_keys = len(logged_keys(tmp_path)) + moments.randint(0, num_requests // (2 * num_kills))
        kill_after(process, tmp_path, num_keys, moments.uniform(0, unit_s))
        num_kills_amid += account.check() > 0
    assert num_kills_amid >= num_kills // 2  # the kills fell amid the work, not before it
    num_committed = len(account.stored)
    assert num_committed < num_requests
    assert account.lost  # some kills caught a batch, or the check of what was in flight would be an empty one
    collect(tmp_path, is_streaming, 0.0)
    account.check_end()
    assert store_contents(tmp_path / "responses.sqlite") == store_contents(undisturbed / "responses.sqlite")
    assert (tmp_path / "tree.npz").read_bytes() == (undisturbed / "tree.npz").read_bytes()
    report = json.loads((tmp_path / "tree.report.json").read_text())
    assert report["num_stored_before"] == num_committed
    assert report["num_generated"] == num_requests - num_committed
    print(f"{num_kills} kills, {num_requests} requests, {account.lost.total()} lost in flight and asked again")


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


def write_tasks(folder: Path) -> None:
    """Task files of the two forms, 4 train and 2 test rows a task."""
    folder.mkdir()
    for suffix, num_rows in (("train.jsonl", 4), ("jsonl", 2)):
        for row in make_rows(num_rows, num_rows, prefix=suffix.split(".")[0]):
            fields = {name: value for name, value in dataclasses.asdict(row).items() if value}
            with (folder / f"{row.task}.{suffix}").open("a") as file:
                file.write(json.dumps(fields) + "\n")


def command_arguments(inputs: Path, folder: Path) -> list[str]:
    options = {
        "tasks": inputs / "tasks", "pool": inputs / "pool.toml", "encoder": inputs / "encoder", "num-train": 4,
        "num-test": 2, "chunk-size": 3, "store": folder / "responses.sqlite", "out": folder / "tree.npz",
        "json": folder / "summary.json",
    }  # fmt: skip
    return ["collect", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


def run_logged_command(inputs: Path, folder: Path) -> None:
    """The command itself, but for logs of what its engine does; what a killed process runs."""
    from hierrouter_jax.cli import collect as collect_command
    from hierrouter_jax.cli.main import main

    os.environ["HIERROUTER_CACHE"] = str(inputs / "cache")
    os.environ["XLA_FLAGS"] = ""  # one device: as the command is run, and with its compiled programs
    collect_command.FlaxEngine = partial(LoggedFlaxEngine, folder=folder)
    sys.exit(main(command_arguments(inputs, folder)))


def interrupt_when_something_is_stored(command, environment, store: Path) -> int:
    """Press Ctrl-C once a response more is stored; return how many are stored after the command's own end."""
    num_before = len(read_rows(store, "key FROM responses"))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(read_rows(store, "key FROM responses")) == num_before:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=300)
    assert process.returncode == 130, message
    assert "run the same command again" in message
    assert "Traceback" not in message
    return len(read_rows(store, "key FROM responses"))


def test_killed_command_with_real_models_ends_as_an_undisturbed_one(tmp_path, processes):
    """`hierrouter collect` on a pool of tiny random models, killed three times, then interrupted by Ctrl-C once; a
    plain process takes it to the end."""
    inputs, killed, undisturbed = (tmp_path / name for name in ("inputs", "killed", "undisturbed"))
    for folder in (inputs, killed, undisturbed):
        folder.mkdir()
    write_tiny_pool(inputs, max_new_tokens=17)
    write_tiny_encoder(inputs / "encoder")
    write_tasks(inputs / "tasks")
    process = processes.Process(target=run_logged_command, args=(inputs, undisturbed))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    expected = read_rows(undisturbed / "responses.sqlite", "key, request, response FROM responses")
    assert max(map(len, logged_batches(undisturbed))) > 1  # what is begun together is more than one response

    moments, account = random.Random(3), Account(killed, most_in_flight=MOST_IN_FLIGHT)
    for _ in range(3):
        num_keys = len(logged_keys(killed)) + moments.randint(1, len(expected) // 5)
        process = processes.Process(target=run_logged_command, args=(inputs, killed))
        process.start()
        kill_after(process, killed, num_keys, moments.uniform(0, 0.05))
        account.check()
    assert 0 < len(account.stored) < len(expected)
    environment = {**os.environ, "HIERROUTER_CACHE": str(inputs / "cache"), "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "hierrouter_jax.cli.main", *command_arguments(inputs, killed)]
    num_stored = interrupt_when_something_is_stored(command, environment, killed / "responses.sqlite")
    assert len(account.stored) < num_stored < len(expected)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    report = json.loads((killed / "summary.json").read_text())["report"]
    assert report["num_stored_before"] == num_stored
    assert report["num_generated"] == len(expected) - num_stored
    actual = read_rows(killed / "responses.sqlite", "key, request, response FROM responses")
    assert [row[:2] for row in actual] == [row[:2] for row in expected]
    for (*_, ours), (*_, theirs) in zip(actual, expected, strict=True):
        ours, theirs = json.loads(ours), json.loads(theirs)
        for name in ("logprob", "option_logprobs"):  # rounded otherwise where a kill made another batch of the rest
            assert ours.pop(name) == pytest.approx(theirs.pop(name), abs=1e-3)
        assert ours == theirs
    print(f"3 kills, {len(expected)} requests, {account.lost.total()} lost in flight and asked again")
