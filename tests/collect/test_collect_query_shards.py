"""Shards of queries: a partition, the same every time; several hosts' stores merged make the tree of one host."""

import pytest
from scripted_collection import last_word_score, make_engine, make_rows

from hierrouter_jax.collect.collect_tree import collect_responses, collect_tree
from hierrouter_jax.collect.query_shards import QueryShard, read_shard, rows_of_shard
from hierrouter_jax.collect.tree_file import save_tree
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.store.response_store import ResponseStore

SPLITS = {"train": make_rows(31, 23), "validation": (), "test": make_rows(11, 7, prefix="test")}
SCORING = {"scorer": last_word_score, "scorer_version": "last-word", "is_quiet": True}


class CountingEngine:
    """An engine that counts what it is asked for."""

    def __init__(self, num_models):
        engine = make_engine(num_models)
        self.cards, self.encode, self._engine, self.num_asked = engine.cards, engine.encode, engine, 0

    def generate(self, requests):
        self.num_asked += len(requests)
        return self._engine.generate(requests)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_query_is_in_one_shard_and_stays_there(count):
    shards = [rows_of_shard(SPLITS, QueryShard(index=index, count=count)) for index in range(count)]
    for split, rows in SPLITS.items():
        placed = [row.id for shard in shards for row in shard[split]]
        assert sorted(placed) == sorted(row.id for row in rows)
    # Rows that come and go move none of the others.
    few = rows_of_shard({"train": SPLITS["train"][::3]}, QueryShard(index=0, count=count))
    assert set(few["train"]) == set(SPLITS["train"][::3]) & set(shards[0]["train"])
    sizes = [len(shard["train"]) for shard in shards]
    assert min(sizes) >= 54 / count / 3


@pytest.mark.parametrize("text", ["3/2", "2/2", "0/0", "1", "-1/2", "a/b", "1/2/3", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ConfigError, match="shard"):
        read_shard(text)
    assert read_shard(" 1/2 ") == QueryShard(index=1, count=2)


def tree_of(store, engine):
    return collect_tree(engine, SPLITS, store, num_stages=2, encoder=HashingEncoder(13), **SCORING)


def test_merged_shards_are_the_collection_of_one_host_and_nothing_is_asked_again(tmp_path):
    with ResponseStore(tmp_path / "one.sqlite") as store:
        save_tree(tmp_path / "one.npz", tree_of(store, make_engine(3)))
        num_responses = len(store)
    num_generated = 0
    for index in range(5):
        with ResponseStore(tmp_path / f"{index}.sqlite") as store:
            rows = rows_of_shard(SPLITS, QueryShard(index=index, count=5))
            counts = collect_responses(make_engine(3), rows, store, num_stages=2, **SCORING)
            num_generated += counts.num_generated
            assert collect_responses(make_engine(3), rows, store, num_stages=2, **SCORING).num_generated == 0
    engine = CountingEngine(3)
    with ResponseStore(tmp_path / "merged.sqlite") as store:
        for index in (3, 0, 4, 1, 2):
            assert store.merge(tmp_path / f"{index}.sqlite").conflicts == ()
        assert len(store) == num_responses <= num_generated
        tree_file = tree_of(store, engine)
    assert engine.num_asked == tree_file.report.num_generated == tree_file.report.num_scored == 0
    save_tree(tmp_path / "merged.npz", tree_file)
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


def test_a_shard_without_queries_does_nothing(tmp_path):
    with ResponseStore(tmp_path / "none.sqlite") as store:
        counts = collect_responses(make_engine(2), {"train": (), "test": ()}, store, num_stages=2, **SCORING)
        assert (counts.num_generated, len(store)) == (0, 0)
