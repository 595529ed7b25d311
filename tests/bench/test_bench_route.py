"""Routing overhead: what is timed and in which order, percentiles, the share of a hop; the command on scripts."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scripted_collection import make_engine, make_rows
from scripted_trees import save_scripted_tree

from hierrouter_jax.bench import route
from hierrouter_jax.bench.route import HopTimes, RouteBench, bench_route, hop_rows, measure_hops
from hierrouter_jax.cli import bench as bench_command
from hierrouter_jax.cli import main
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.encoder.hashing import HashingEncoder


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """A tree, an engine and an encoder of scripts."""
    save_scripted_tree(tmp_path / "tree.npz")
    monkeypatch.setattr(route, "load_pool", lambda path: path)
    monkeypatch.setattr(route, "FlaxEngine", lambda pool, limits: make_engine(3))
    monkeypatch.setattr(route, "open_encoder", lambda *source: HashingEncoder(13))
    monkeypatch.delenv("HIERROUTER_BENCHMARKS", raising=False)
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    return tmp_path


def test_percentiles_and_the_share_of_a_hop():
    encode, policy = np.arange(1, 102) / 1e3, np.full(101, 0.5e-3)
    times = HopTimes(encode_s=tuple(encode), policy_s=tuple(policy), generation_s=0.4635)
    rows = {row.what: row.ours for row in hop_rows(times, batch=7)}
    assert rows == pytest.approx(
        {
            "encoder, p50": 51, "encoder, p99": 100, "policy, p50": 0.5, "policy, p99": 0.5,
            "encoder + policy, p50": 51.5, "encoder + policy, p99": 100.5, "generation of the hop": 463.5,
            "overhead, share of a hop (p50)": 10.0,
        }
    )  # fmt: skip


class CountingEncoder(HashingEncoder):
    """Says what it was given, and lets a clock run two seconds a text."""

    def __init__(self, dim, seen, now):
        super().__init__(dim)
        object.__setattr__(self, "seen", seen)
        object.__setattr__(self, "now", now)

    def encode(self, texts):
        self.seen.append(tuple(texts))
        self.now[0] += 2.0 * len(texts)
        return super().encode(texts)


def test_contexts_with_and_without_an_answer_are_decided_in_turn(scripted, monkeypatch):
    seen, now = [], [0.0]
    queries = make_rows(3, 2)
    tree = scripted / "tree.npz"
    with route._router(RouteBench(tree=tree, pool=tree, num_updates=1)) as router:
        times = measure_hops(
            router, make_engine(3), CountingEncoder(13, seen, now), [queries], num_repetitions=5, clock=lambda: now[0]
        )
    assert times.encode_s == (10.0,) * 5
    assert times.policy_s == (0.0,) * 5
    bare, answered = seen[0], seen[2]
    assert seen == [bare, bare, answered, bare, answered, bare, answered, bare]
    assert all("Answer 1:" in text for text in answered)
    assert not any("Answer 1:" in text for text in bare)


def test_the_command_writes_its_rows(scripted, capsys):
    out = scripted / "route.json"
    given = ["--tree", scripted / "tree.npz", "--pool", scripted / "pool.toml", "--json", out, "--batch", "1", "5"]
    arguments = ["bench", "route", *given, "--repetitions", "11", "--num-updates", "1"]
    assert main.main([str(argument) for argument in arguments]) == 0
    stated = json.loads(out.read_text())
    assert [row["batch"] for row in stated["rows"]] == [1] * 8 + [5] * 8
    assert {row["unit"] for row in stated["rows"]} == {"ms", "%"}
    assert stated["repetitions"] == 11
    assert stated["load_average_at_start"] >= 0
    assert "questions of the quickstart" in capsys.readouterr().out
    assert main.main(["bench", "route", "--repetitions", "0"]) == main.BAD_INPUT


def test_every_subcommand_has_its_benchmark():
    assert len(bench_command.BENCHMARKS) >= 3
    for options in bench_command.BENCHMARKS:
        assert options().json is None
        assert dataclasses.is_dataclass(options)


def test_nothing_to_route(scripted):
    options = RouteBench(tree=scripted / "tree.npz", pool=scripted / "pool.toml")
    with pytest.raises(ConfigError, match="Something must be routed"):
        bench_route(options)
    with pytest.raises(ConfigError, match="batch must be sizes"):
        RouteBench(batch=())
