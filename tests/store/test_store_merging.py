"""Merging stores: against unions of dicts, and against kills, damage, conflicts and stores in use."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from test_store_response_store import contents, make_entries, make_entry

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.store.merging import Conflict, differing_fields
from hierrouter_jax.store.response_store import ResponseStore


def write_store(path, numbers, scores=()):
    with ResponseStore(path) as store:
        store.put_many(make_entries(numbers))
        store.put_scores({name: {"quality": quality} for name, quality in scores})


def scores_of(path):
    with ResponseStore(path) as store:
        return {key: value["quality"] for key, value in store.get_scores("abcdef").items()}


def test_merges_in_any_order_and_number_make_the_union(tmp_path):
    rng = random.Random(3)
    parts = [rng.sample(range(211), size) for size in (37, 0, 101, 53)]
    for index, numbers in enumerate(parts):
        write_store(tmp_path / f"{index}.sqlite", numbers, [("abcdef"[index], index / 7)])
    for attempt in range(3):
        path, order = tmp_path / f"merged{attempt}.sqlite", [*rng.choices(range(4), k=9), 0, 1, 2, 3]
        seen = set()
        with ResponseStore(path) as store:
            for index in order:
                report = store.merge(tmp_path / f"{index}.sqlite")
                assert report.num_new_responses == len(set(parts[index]) - seen)
                assert report.num_already_there == len(set(parts[index]) & seen)
                assert report.conflicts == ()
                seen |= set(parts[index])
        write_store(tmp_path / f"union{attempt}.sqlite", sorted(seen))
        assert contents(path) == contents(tmp_path / f"union{attempt}.sqlite")
        assert scores_of(path) == {"abcdef"[index]: pytest.approx(index / 7) for index in range(4)}
    assert len(contents(tmp_path / "0.sqlite")) == 37  # sources are not changed


def test_conflicts_are_named_and_the_first_stays(tmp_path):
    entries = make_entries(range(5))
    key, request, response = make_entry(3)
    other_key, other_request, other_response = make_entry(4)
    write_store(tmp_path / "ours.sqlite", range(5), [("a", 1.0), ("b", 0.5)])
    with ResponseStore(tmp_path / "theirs.sqlite") as theirs:
        theirs.put_many(
            {
                key: (request, dataclasses.replace(response, text="another", num_new_tokens=11)),
                other_key: (other_request, dataclasses.replace(other_response, logprob=-1.3333334)),
            }
        )
        theirs.put_many(make_entries([0, 7]))
        theirs.put_scores({"a": {"quality": 0.0}, "b": {"quality": 0.5}})
    with ResponseStore(tmp_path / "ours.sqlite") as ours:
        report = ours.merge(tmp_path / "theirs.sqlite")
        assert (report.num_new_responses, report.num_already_there, report.num_new_scores) == (1, 3, 0)
        assert set(report.conflicts) == {
            Conflict(table="responses", key=key, fields=("num_new_tokens", "text")),
            Conflict(table="responses", key=other_key, fields=("logprob",)),
            Conflict(table="scores", key="a", fields=("quality",)),
        }
        assert ours.get_many(entries) == {key: response for key, (_, response) in entries.items()}
    assert scores_of(tmp_path / "ours.sqlite") == {"a": 1.0, "b": 0.5}


def test_fields_that_differ():
    assert differing_fields('{"a": 1, "b": [2]}', '{"b": [2], "a": 2, "c": null}') == ("a", "c")
    assert differing_fields('{"a": 1}', "{") == differing_fields("[]", "{}") == ("unreadable",)


def test_a_store_that_is_being_written_gives_what_is_committed(tmp_path):
    with ResponseStore(tmp_path / "theirs.sqlite") as theirs, ResponseStore(tmp_path / "ours.sqlite") as ours:
        theirs.put_many(make_entries(range(13)))  # in its log, not yet in the file
        assert ours.merge(theirs.path).num_new_responses == 13
        theirs.put_many(make_entries(range(17)))
        assert ours.merge(theirs.path).num_new_responses == 4


def test_what_cannot_be_merged_is_told_and_nothing_is_taken(tmp_path):
    write_store(tmp_path / "ours.sqlite", range(3))
    write_store(tmp_path / "theirs.sqlite", range(400))
    cut = (tmp_path / "theirs.sqlite").read_bytes()
    (tmp_path / "cut.sqlite").write_bytes(cut[: len(cut) // 2 // 4096 * 4096])
    (tmp_path / "text.sqlite").write_text("no store")
    before = contents(tmp_path / "ours.sqlite")
    with ResponseStore(tmp_path / "ours.sqlite") as ours:
        for name, message in (
            ("ours", "cannot be merged into itself"),
            ("cut", "damaged|must be a response store"),
            ("text", "must be a response store"),
            ("absent", "no response store"),
        ):
            with pytest.raises(DataError, match=message):
                ours.merge(tmp_path / f"{name}.sqlite")
    assert contents(tmp_path / "ours.sqlite") == before


def test_killed_merges_lose_nothing(tmp_path):
    """Merges killed ever later are run again until one ends; each found all of a source, or nothing."""
    sizes = (4001, 3001, 2003)
    start = 0
    for index, size in enumerate(sizes):
        write_store(tmp_path / f"{index}.sqlite", range(start, start + size))
        start += size - 101  # they overlap
    code = textwrap.dedent("""
        import sys
        from hierrouter_jax.cli.main import main
        print("open", flush=True)
        sys.exit(main(["store", "merge", *sys.argv[2:], "--store", sys.argv[1]]))
    """)
    words = [sys.executable, "-c", code, *(str(tmp_path / f"{name}.sqlite") for name in ("merged", 0, 1, 2))]
    moments_s, num_killed, path = (0.0, 0.01, 0.03, 0.07, 0.13, 0.29), 0, tmp_path / "merged.sqlite"
    whole = {0, 4001, 4001 + 2900, start + 101}
    for moment_s in moments_s:
        merge = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert merge.stdout.readline() == b"open\n"
        deadline_s = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline_s:
            time.sleep(0.001)
        time.sleep(moment_s)
        merge.send_signal(signal.SIGKILL)
        merge.communicate()
        num_killed += merge.returncode == -signal.SIGKILL
        with ResponseStore(path) as store:
            assert len(store) in whole
    assert num_killed
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    write_store(tmp_path / "union.sqlite", range(start + 101))
    assert contents(path) == contents(tmp_path / "union.sqlite")
