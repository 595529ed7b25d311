"""The store against a plain dict, and against what can go wrong: full disk, other files, other versions, kills."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from hierrouter_jax.core.errors import DataError, StorageError
from hierrouter_jax.core.text import GREEDY, EncodedRequest, Response
from hierrouter_jax.store.request_keys import request_key
from hierrouter_jax.store.response_store import APPLICATION_ID, SCHEMA_VERSION, ResponseStore


def make_entry(number: int, text: str | None = None) -> tuple[str, EncodedRequest, Response]:
    request = EncodedRequest(
        weights_digest=f"w{number % 3}", token_ids=(number, 2), max_new_tokens=7, stop=(), options=(), sampling=GREEDY
    )
    response = Response(
        text=f"answer {number}" if text is None else text,
        num_prompt_tokens=2,
        num_new_tokens=number % 7,
        finish_reason="stop",
        logprob=-number / 3,
        option_logprobs=(-1.5, float("-inf")) if number % 2 else (),
    )
    return request_key(request), request, response


def make_entries(numbers) -> dict[str, tuple[EncodedRequest, Response]]:
    return {key: (request, response) for key, request, response in map(make_entry, numbers)}


def contents(path) -> dict[str, tuple[str, str, str]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT key, weights_digest, request, response FROM responses").fetchall()
    connection.close()
    return {key: tuple(rest) for key, *rest in rows}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "responses.sqlite"


def test_store_behaves_as_a_dict_that_survives(path):
    """Random puts and gets against a dict, the store closed and reopened all the time."""
    rng = np.random.default_rng(0)
    oracle: dict[str, Response] = {}
    for _ in range(17):
        entries = make_entries(rng.integers(0, 101, size=rng.integers(0, 13)).tolist())
        with ResponseStore(path) as store:
            assert store.put_many(entries) == len(entries.keys() - oracle.keys())
            oracle |= {key: response for key, (_, response) in entries.items()}
            asked = [make_entry(int(number))[0] for number in rng.integers(0, 101, size=31)]
            assert store.get_many(asked) == {key: oracle[key] for key in asked if key in oracle}
            assert store.missing(asked) == [key for key in dict.fromkeys(asked) if key not in oracle]
            assert len(store) == len(oracle)
            assert all((key in store) == (key in oracle) for key in asked)


def test_more_keys_than_a_statement_takes(path):
    entries = make_entries(range(1301))
    with ResponseStore(path) as store:
        assert store.put_many(entries) == 1301
        assert store.get_many(entries) == {key: response for key, (_, response) in entries.items()}


@pytest.mark.parametrize(
    "text", ["", "\x00 zero", "zwölf 漢字 🙂", "lone \ud800 surrogate", "'; DROP TABLE responses; --"]
)
def test_every_text_comes_back_as_it_was(path, text):
    key, request, response = make_entry(5, text)
    with ResponseStore(path) as store:
        store.put_many({key: (request, response)})
    with ResponseStore(path) as store:
        assert store.get_many([key]) == {key: response}


def test_first_response_stays(path):
    key, request, response = make_entry(1)
    with ResponseStore(path) as store:
        store.put_many({key: (request, response)})
        assert store.put_many({key: (request, dataclasses.replace(response, text="another"))}) == 0
        assert store.get_many([key]) == {key: response}


def test_scores_are_kept_beside(path):
    with ResponseStore(path) as store:
        assert store.put_scores({"a": {"quality": 0.5, "is_parsed": True}, "b": {"quality": 0.0}}) == 2
    with ResponseStore(path) as store:
        assert store.get_scores(["b", "a", "c"]) == {"a": {"quality": 0.5, "is_parsed": True}, "b": {"quality": 0.0}}


def test_a_broken_models_nan_is_refused_and_nothing_of_the_batch_stored(path):
    entries = make_entries(range(3))
    key, request, response = make_entry(3)
    with ResponseStore(path) as store:
        with pytest.raises(DataError, match="NaN"):
            store.put_many(entries | {key: (request, dataclasses.replace(response, logprob=float("nan")))})
        assert len(store) == 0


def test_merge_is_the_union_and_the_first_wins(path, tmp_path):
    other_path = tmp_path / "other.sqlite"
    key, request, response = make_entry(4)
    with ResponseStore(other_path) as other:
        other.put_many(make_entries(range(2, 11)))
        other.put_scores({"s": {"quality": 1.0}})
    with ResponseStore(path) as store:
        store.put_many(make_entries(range(4)) | {key: (request, dataclasses.replace(response, text="mine"))})
        assert store.merge(other_path).num_new_responses == 6
        assert store.merge(other_path).num_new_responses == 0
        assert store.get_scores(["s"]) == {"s": {"quality": 1.0}}
        expected = {k: r for k, (_, r) in make_entries(range(11)).items()}
        expected[key] = dataclasses.replace(response, text="mine")
        assert store.get_many(expected) == expected
    with ResponseStore(path) as store, pytest.raises(DataError, match="no response store"):
        store.merge(tmp_path / "absent.sqlite")


def interrupted_write(store) -> None:
    with store._transaction():
        store._connection.execute("INSERT INTO scores VALUES ('a', '{}', 0)")
        raise KeyboardInterrupt


def test_ctrl_c_amid_a_transaction_leaves_nothing_of_it(path):
    with ResponseStore(path) as store:
        with pytest.raises(KeyboardInterrupt):
            interrupted_write(store)
        assert store.get_scores(["a"]) == {}
        assert store.put_many(make_entries(range(3))) == 3


def write_slice(path, start, barrier):
    for number in range(17):  # the moment of making a store is the one when processes can be in each other's way
        barrier.wait()
        ResponseStore(path.with_name(f"{number}.sqlite")).close()
    barrier.wait()
    with ResponseStore(path) as store:
        for number in range(start, start + 40):
            store.put_many(make_entries([number]))


def test_several_processes_write_one_store(path):
    """Three processes start at once, on a store that none has made, with overlapping keys."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [context.Process(target=write_slice, args=(path, start, barrier)) for start in (0, 20, 40)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with ResponseStore(path) as store:
        expected = make_entries(range(80))
        assert store.get_many(expected) == {key: response for key, (_, response) in expected.items()}


def test_full_database_keeps_what_was_there(path):
    with ResponseStore(path) as store:
        store.put_many(make_entries(range(5)))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(StorageError, match="full"):
            store.put_many(make_entries(range(5, 500)))
        assert len(store) == 5
        store._connection.execute("PRAGMA max_page_count = 1000000")
        assert store.put_many(make_entries(range(5, 500))) == 495  # the same store goes on once there is room


def fill_in_fifties(store: ResponseStore) -> None:
    for start in range(5, 5000, 50):
        store.put_many(make_entries(range(start, start + 50)))


def test_full_disk_keeps_what_was_there(path, small_disk):
    """The real thing: a file system of 256 KiB."""
    with ResponseStore(small_disk / "responses.sqlite") as store:
        store.put_many(make_entries(range(5)))
        with pytest.raises(StorageError, match="Free space"):
            fill_in_fifties(store)
        count = len(store)
        assert count >= 5
        assert (count - 5) % 50 == 0  # whole transactions only
    shutil.copytree(small_disk, path.parent)  # with the log beside it, which a full disk leaves unmerged
    with ResponseStore(path) as store:
        assert len(store) == count
        assert store.put_many(make_entries(range(count, count + 500))) == 500


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small_disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here; the page limit test covers the rest")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("content", [b"not a database, but long enough to have a header" * 50, b"short"])
def test_a_file_that_is_no_database(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match="must be a response store"):
        ResponseStore(path)
    assert path.read_bytes() == content


def test_another_programs_database(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE responses (something)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="another SQLite database"):
        ResponseStore(path)
    assert path.read_bytes() == before


def test_another_schema_version(path):
    with ResponseStore(path) as store:
        store.put_many(make_entries(range(3)))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(DataError, match=f"version {SCHEMA_VERSION + 1}"):
        ResponseStore(path)
    assert len(contents(path)) == 3


def test_a_place_that_cannot_hold_a_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be made"):
        ResponseStore(tmp_path / "file" / "store.sqlite")
    with pytest.raises(StorageError, match="Opening"):
        ResponseStore(tmp_path)


READ_ONLY_OPENING = """
import os, sys
from hierrouter_jax.core.errors import StorageError
from hierrouter_jax.store.response_store import ResponseStore
if os.geteuid() == 0:
    os.setuid(65534)  # a user whom permissions bind
try:
    ResponseStore(sys.argv[1])
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize(("folder_mode", "message"), [(0o777, "readonly"), (0o555, "readonly|unable to open")])
def test_a_store_that_may_only_be_read(folder_mode, message):
    """Said when it is opened, not after an hour of generation."""
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, whose parents other users may not enter
        path = Path(name) / "responses.sqlite"
        with ResponseStore(path) as store:
            store.put_many(make_entries(range(3)))
        path.chmod(0o444)
        path.parent.chmod(folder_mode)
        arguments = [sys.executable, "-c", READ_ONLY_OPENING, str(path)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
        path.parent.chmod(0o755)
        assert re.search(f"Opening the response store .* failed: .*({message})", done.stdout), done
        assert len(contents(path)) == 3


def test_a_killed_writer_leaves_whole_transactions(path):
    """SIGKILL a process that commits seven at a time: the store holds a multiple of seven, all readable."""
    code = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[2])
        from test_store_response_store import make_entries
        from hierrouter_jax.store.response_store import ResponseStore
        with ResponseStore(sys.argv[1]) as store:
            print("open", flush=True)
            for start in range(0, 10**6, 7):
                store.put_many(make_entries(range(start, start + 7)))
    """)
    arguments = [sys.executable, "-c", code, str(path), os.path.dirname(__file__)]
    writer = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"open\n"
    time.sleep(0.31)
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    writer.stdout.close()
    with ResponseStore(path) as store:
        count = len(store)
        assert count > 0
        assert count % 7 == 0
        expected = make_entries(range(count))
        assert store.get_many(expected) == {key: response for key, (_, response) in expected.items()}


def test_a_damaged_response_names_itself(path):
    key, request, response = make_entry(1)
    with ResponseStore(path) as store:
        store.put_many({key: (request, response)})
        store._connection.execute("UPDATE responses SET response = '{\"text\": 3}'")
        with pytest.raises(DataError, match=key[:12]):
            store.get_many([key])
