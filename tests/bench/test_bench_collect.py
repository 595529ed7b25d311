"""Collection beside transformers: same requests, same answers, tokens counted, peers of earlier runs checked."""

from __future__ import annotations

import gc
import json

import pytest
from tiny_pools import write_hub_model

from hierrouter_jax.bench import collect, identity
from hierrouter_jax.bench.collect import CollectBench, bench_collect
from hierrouter_jax.bench.tree_requests import collect_run, train_rows
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.llm.stop_strings import make_stop_test, until_stop

NUM_QUERIES = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny pool whose models can be read by transformers, and rows of two tasks."""
    place = tmp_path_factory.mktemp("collect")
    for seed, name in enumerate(("one", "two"), start=3):
        write_hub_model(place / name, seed=seed)
    entries = [f'[[model]]\nname = "{name}"\nsource = "{name}"\nmax_new_tokens = 19\n' for name in ("one", "two")]
    (place / "pool.toml").write_text("\n".join(entries))
    rows = place / "rows"
    rows.mkdir()
    sums = [{"id": f"s{n}", "task": "sums", "question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(23)]
    picks = [
        {"id": f"p{n}", "task": "picks", "question": f"Is {n} odd?", "choices": ["yes", "not at all"], "answer": "A"}
        for n in range(23)
    ]
    for name, own in (("sums", sums), ("picks", picks)):
        (rows / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own[:11]))
        (rows / f"{name}.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own[11:]))
    return place


@pytest.fixture(scope="module")
def measured(place):
    """One benchmark with everything."""
    options = CollectBench(
        pool=place / "pool.toml", rows=place / "rows", queries_per_task=NUM_QUERIES, check=1000, json=None
    )
    report = bench_collect(options)
    path = place / "outcome.json"
    path.write_text(json.dumps(report.as_json()))
    gc.collect()
    return report, path


def test_peer_and_one_by_one_decoding_give_our_answers(measured):
    report, path = measured
    stated = json.loads(path.read_text())
    num_requests = len(stated["request_keys"])
    # 6 queries, 2 first hops and 4 second hops each, fewer where responses are equal
    assert 6 * 2 < num_requests <= 6 * 6
    assert stated["identity"]["num_checked"] == stated["identity"]["num_identical"] == num_requests
    assert stated["peer"]["num_equal"] == num_requests
    assert f"{num_requests} of {num_requests} checked" in report.notes[0]


def test_rows_are_wall_time_and_tokens_of_both_sides(measured):
    _, path = measured
    stated = json.loads(path.read_text())
    rows = {row["what"]: row for row in stated["rows"]}
    wall = rows["wall time"]
    assert wall["ratio"] == pytest.approx(wall["peer"] / wall["ours"])
    assert wall["unit"] == "s"
    assert wall["compile_s"] > 0
    for what in ("tokens billed, written answers", "tokens billed, ranked options"):
        assert rows[what]["ours"] == rows[what]["peer"] > 0
    written = stated["peer"]["written"]
    assert written["computed_prompt"] >= written["billed_prompt"] > 0  # padding
    computed = rows["tokens computed, written answers"]
    assert computed["peer"] == written["computed_prompt"] + written["computed_new"]
    assert computed["ours_counts"]["billed_new"] == written["billed_new"]
    ranked = rows["tokens computed, ranked options"]
    assert 0 < ranked["ours"] < ranked["peer"]  # a prompt is read once for all its options
    assert ranked["ours_counts"]["billed_prompt"] == stated["peer"]["ranked"]["billed_prompt"]
    assert {"num_cores", "cpu", "device_kind", "versions"} <= stated["machine"].keys()


def test_a_peer_of_an_earlier_run_is_taken_where_machine_and_requests_are_the_same(measured, place, tmp_path):
    _, path = measured
    given = {"pool": place / "pool.toml", "rows": place / "rows", "queries_per_task": NUM_QUERIES}
    report = bench_collect(CollectBench(**given, peer_json=path, before=path))
    stated = json.loads(path.read_text())
    assert report.rows[0].peer == stated["peer"]["wall_s"]
    assert report.rows[0].peer_name.endswith("(measured before)")
    assert report.rows[-1].what == "wall time, before and after"
    assert report.rows[-1].peer == stated["rows"][0]["ours"]
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps(stated | {"peer": stated["peer"] | {"machine": stated["machine"] | {"cpu": "?"}}}))
    with pytest.raises(DataError, match="another machine"):
        bench_collect(CollectBench(**given, peer_json=elsewhere))
    with pytest.raises(DataError, match="same requests"):
        bench_collect(CollectBench(**(given | {"queries_per_task": 1}), peer_json=path))
    with pytest.raises(DataError, match="has none"):
        bench_collect(CollectBench(**given, peer_json=_without_peer(tmp_path)))


def _without_peer(folder):
    path = folder / "alone.json"
    path.write_text(json.dumps({"rows": [], "peer": None}))
    return path


def test_a_changed_response_is_found_with_the_gap_at_its_first_token(place):
    pool = load_pool(place / "pool.toml", is_quiet=True)
    rows = train_rows(place / "rows", queries_per_task=1, seed=0)
    run = collect_run(FlaxEngine(pool), rows, num_stages=1)
    key, response = next((k, r) for k, r in run.responses.items() if r.finish_reason != "option" and len(r.text) > 5)
    asked = next(one for one in run.requests if one.key == key)
    changed = type(response)(**(vars(response) | {"text": response.text[:3] + "\x00" + response.text[4:]}))
    run.responses[key] = changed
    found = identity.check_identity(pool, run, num_requests=100)
    assert [one.key for one in found.differences] == [key]
    (difference,) = found.differences
    tokenizer, decoder = pool.tokenizer(asked.request.model), pool.decoder(asked.request.model)
    ids = tokenizer.encode(response.text, add_special_tokens=False)
    assert (
        len(tokenizer.decode(ids[: difference.token_index]))
        <= 3
        < len(tokenizer.decode(ids[: difference.token_index + 1]))
    )
    gap = identity.top_gap(decoder, [*asked.encoded.token_ids, *ids[: difference.token_index]])
    assert difference.gap == pytest.approx(gap)
    assert gap > identity.NEAR_TIE
    assert found.num_near_ties == 0
    assert found.num_identical == len(run.requests) - 1


def test_the_peer_runs_alone_on_a_kept_tree(place, tmp_path):
    given = {"pool": place / "pool.toml", "rows": place / "rows", "queries_per_task": 1, "num_stages": 1}
    store = tmp_path / "store.sqlite"
    with pytest.raises(DataError, match="does not exist"):
        bench_collect(CollectBench(**given, store=store, peer_only=True))
    ours = bench_collect(CollectBench(**given, store=store, against=()))
    alone = bench_collect(CollectBench(**given, store=store, peer_only=True))
    assert alone.more["request_keys"] == ours.more["request_keys"]
    assert (alone.rows[0].ours, ours.rows[0].peer) == (None, None)
    assert alone.rows[0].peer > 0
    path = tmp_path / "peer.json"
    path.write_text(json.dumps(alone.as_json()))
    fresh = tmp_path / "fresh.sqlite"
    both = bench_collect(CollectBench(**given, store=fresh, peer_json=path))
    assert both.rows[0].peer == alone.rows[0].peer
    with pytest.raises(ConfigError, match="begins from nothing"):
        bench_collect(CollectBench(**given, store=fresh, peer_json=path))
    with pytest.raises(DataError, match="lacks"):
        bench_collect(CollectBench(**(given | {"queries_per_task": 3}), store=store, peer_only=True))
    with pytest.raises(ConfigError, match="--peer-only needs"):
        CollectBench(peer_only=True)


def test_only_train_rows_are_drawn(place):
    rows = train_rows(place / "rows", queries_per_task=5, seed=0)
    assert len(rows) == 10
    assert all(int(row.id[1:]) >= 11 for row in rows)


def test_stop_strings():
    assert until_stop("one\n\ntwo", ("\n\n", "ne")) == "o"
    assert until_stop("one", ("x",)) == until_stop("one", ()) == "one"
    assert make_stop_test(str, [(), ()]) is None
    is_complete = make_stop_test(lambda ids: "".join(map(chr, ids)), [("ab",), ()])
    assert is_complete(0, [97, 98])
    assert not is_complete(0, [98, 97])
    assert not is_complete(1, [97, 98])


def test_missing_torch_and_missing_rows_are_told_before_anything_is_measured(place, monkeypatch):
    given = {"pool": place / "pool.toml", "rows": place / "rows"}

    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("hierrouter_jax.bench.extras.import_module", absent)
    monkeypatch.setattr(collect, "collect_run", None)
    with pytest.raises(ConfigError, match=r"pip install 'hierrouter_jax\[bench\]'"):
        bench_collect(CollectBench(**given))
    monkeypatch.delenv("HIERROUTER_BENCHMARKS", raising=False)
    with pytest.raises(DataError, match="HIERROUTER_BENCHMARKS"):
        bench_collect(CollectBench(pool=place / "pool.toml"))
    with pytest.raises(ConfigError, match="queries_per_task must be >= 1"):
        CollectBench(queries_per_task=0)
    with pytest.raises(ConfigError, match="check must be >= 0"):
        CollectBench(check=-1)
