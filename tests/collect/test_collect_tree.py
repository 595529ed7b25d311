"""Collection against a brute force that walks every route of every query by itself, one request at a time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import threading

import numpy as np
import pytest
from scripted_collection import ChunkEngine, last_word_score, make_engine, make_rows

from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.hop_prompts import context_text, hop_request
from hierrouter_jax.collect.outcomes import row_id_hash
from hierrouter_jax.core.errors import ConfigError, DataError, PromptTooLongError, StorageError
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.store.request_keys import request_key
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.scoring import score_answer

ENCODER = HashingEncoder(dim=13)
CARDS = make_engine(2).cards
SPLITS = {
    "train": make_rows(3, 2, prefix="train"),
    "validation": make_rows(1, 1, prefix="validation"),
    "test": make_rows(2, 1, prefix="test"),
}


def collect(engine, store, *, splits=SPLITS, num_stages=2, **options):
    options = {"scorer": last_word_score, "scorer_version": "last-word", "is_quiet": True} | options
    return collect_tree(engine, splits, store, num_stages=num_stages, encoder=ENCODER, **options)


@pytest.fixture
def store(tmp_path):
    with ResponseStore(tmp_path / "responses.sqlite") as opened:
        yield opened


@dataclasses.dataclass
class Walked:
    """What the brute force saw at one node."""

    response: object
    score: object
    context: np.ndarray
    key: str
    options: tuple[str, ...]


def walk(engine, row, path) -> Walked | None:
    """Ask the models of one path in turn; None where a prompt does not fit."""
    texts, response, key, options = [], None, "", ()
    for model in path:
        request = hop_request(engine.cards[model], row, texts)
        try:
            key = request_key(engine.encode(request))
        except PromptTooLongError:
            return None
        (response,) = engine.generate([request])
        texts.append(response.text)
        options = request.options
    context = ENCODER.encode([context_text(row, texts)])[0]
    score = last_word_score(row, texts[-1]) if texts else None
    return Walked(response=response, score=score, context=context, key=key, options=options)


@functools.cache
def walk_all(num_models, num_stages, row, **engine_options) -> list[Walked | None]:
    """Every node of a query in the house's numbering: stages one after the other, paths in lexicographic order."""
    engine = make_engine(num_models, **engine_options)
    paths = [path for t in range(num_stages + 1) for path in itertools.product(range(num_models), repeat=t)]
    return [walk(engine, row, path) for path in paths]


def assert_split_is_as_walked(file, split, walked_rows, *, num_models, last_stage_start):
    outcomes, tree = file.outcomes[split], getattr(file, split)
    for query, walked in enumerate(walked_rows):
        assert len(walked) == tree.num_nodes
        for node, seen in enumerate(walked):
            at = (query, node)
            assert bool(tree.valid[at]) == (seen is not None), at
            if seen is None:
                assert outcomes.quality[at] == outcomes.num_prompt_tokens[at] == tree.step_cost[at] == 0
                continue
            if node < last_stage_start:
                np.testing.assert_array_equal(np.asarray(tree.context)[int(tree.context_row[at])], seen.context)
            if node == 0:
                assert tree.quality[at] == tree.step_cost[at] == outcomes.num_prompt_tokens[at] == 0
                continue
            response = seen.response
            assert outcomes.num_prompt_tokens[at] == response.num_prompt_tokens
            assert outcomes.num_new_tokens[at] == response.num_new_tokens
            assert tree.quality[at] == seen.score.quality
            assert outcomes.is_parsed[at] == seen.score.is_parsed
            assert outcomes.is_truncated[at] == (response.finish_reason == "length")
            sure = response.logprob / response.num_new_tokens
            if response.option_logprobs:
                sure = response.option_logprobs[seen.options.index(response.text)]
            assert outcomes.mean_logprob[at] == np.float32(sure)
            np.testing.assert_allclose(
                tree.signals[at], signals_by_loop(walked, node, num_models, tree.num_stages), rtol=1e-6
            )
            rate = 1.0 + (node - 1) % num_models
            cost = rate * (response.num_prompt_tokens + response.num_new_tokens) / unit_of(file, num_models)
            assert float(tree.step_cost[at]) == pytest.approx(cost, rel=1e-6)


def signals_by_loop(walked, node, num_models, num_stages) -> list[float]:
    """What the route to a node has measured of its responses, the newest first, zeros where there is none yet."""
    way = []  # the nodes of the route, the newest first
    while node:
        way.append(node)
        node = (node - 1) // num_models
    numbers = []
    for place in range(num_stages - 1):
        if place >= len(way):
            numbers += [0.0] * (7 + num_models)
            continue
        seen = walked[way[place]]
        reading, response = seen.score.reading, seen.response
        earlier = [walked[other].score.reading.identity for other in way[place + 1 :]]
        num_equal = sum(reading.identity is not None and reading.identity == other for other in earlier)
        sure = response.logprob / response.num_new_tokens
        if response.option_logprobs:
            sure = response.option_logprobs[seen.options.index(response.text)]
        numbers += [
            math.exp(sure),
            float(reading.extracted is not None),
            float(response.finish_reason == "length"),
            math.log(1 + response.num_new_tokens) / math.log(1025),
            num_equal / len(earlier) if earlier else 0.0,
            0.0,
            0.0,
            *(float((way[place] - 1) % num_models == model) for model in range(num_models)),
        ]
    return numbers


def unit_of(file, num_models) -> float:
    """The dearest model's mean first hop over the train queries, by loop."""
    train, means = file.outcomes["train"], []
    for model in range(num_models):
        costs = [
            (1.0 + model)
            * (int(train.num_prompt_tokens[query, 1 + model]) + int(train.num_new_tokens[query, 1 + model]))
            for query in range(len(train.task))
            if train.valid[query, 1 + model]
        ]
        means.append(sum(costs) / len(costs))
    return max(means)


@pytest.mark.parametrize(("num_models", "num_stages"), [(3, 2), (5, 2), (2, 3), (1, 2)])
def test_every_node_is_as_walked(store, num_models, num_stages):
    file = collect(make_engine(num_models), store, num_stages=num_stages)
    last_stage_start = sum(num_models**t for t in range(num_stages))
    for split, rows in SPLITS.items():
        walked = [walk_all(num_models, num_stages, row) for row in rows]
        assert_split_is_as_walked(file, split, walked, num_models=num_models, last_stage_start=last_stage_start)
        assert file.outcomes[split].row_id_hash.tolist() == [row_id_hash(row.id) for row in rows]
        tasks = [file.manifest.task_names[index] for index in file.outcomes[split].task]
        assert tasks == [row.task for row in rows]
    assert file.train.num_nodes == sum(num_models**t for t in range(num_stages + 1))
    assert file.validation is not None


def test_last_stage_contexts_on_demand(store):
    """Off, the nodes of the last stage share the root's row; on, each has its own text's."""
    without = collect(make_engine(3), store)
    file = collect(make_engine(3), store, with_last_stage_contexts=True)
    for split, rows in SPLITS.items():
        walked = [walk_all(3, 2, row) for row in rows]
        assert_split_is_as_walked(file, split, walked, num_models=3, last_stage_start=99)
        plain = without.outcomes[split]
        np.testing.assert_array_equal(plain.context_row[:, 4:], np.repeat(plain.context_row[:, :1], 9, axis=1))


def test_each_distinct_request_is_asked_once_and_model_by_model(store):
    engine = make_engine(3)
    file = collect(engine, store)
    stage_keys = [set(), set(), set()]
    for row in itertools.chain.from_iterable(SPLITS.values()):
        for node, seen in enumerate(walk_all(3, 2, row)):
            stage_keys[(node > 0) + (node > 3)].add(seen.key)
    expected = stage_keys[1] | stage_keys[2]
    asked = [request_key(engine.encode(request)) for request in engine.requests]
    assert sorted(asked) == sorted(expected)
    num_nodes = 12 * sum(map(len, SPLITS.values()))
    assert len(expected) < num_nodes  # the world is one in which texts are often equal
    models = [request.model for request in engine.requests]
    runs = [model for model, _ in itertools.groupby(models)]
    assert runs == ["model_0", "model_1", "model_2"] * 2  # each model once a stage
    assert (file.report.num_nodes, file.report.num_requests) == (num_nodes, len(expected))
    assert (file.report.num_generated, file.report.num_stored_before) == (len(expected), 0)
    assert file.report.computed_tokens is None  # a script computes nothing


def test_equal_contexts_share_a_row(store):
    file = collect(make_engine(3), store)
    for split, rows in SPLITS.items():
        rows_by_text = {}
        for query, row in enumerate(rows):
            for node, seen in enumerate(walk_all(3, 2, row)[:4]):
                rows_by_text.setdefault(seen.context.tobytes(), set()).add(
                    int(file.outcomes[split].context_row[query, node])
                )
        assert all(len(shared) == 1 for shared in rows_by_text.values())
        assert file.outcomes[split].context.shape == (len(rows_by_text), 13)


def test_second_collection_asks_and_scores_nothing(store):
    first = collect(make_engine(3), store)
    engine, num_scored = make_engine(3), []

    def counting(row, text):
        num_scored.append(row.id)
        return last_word_score(row, text)

    second = collect(engine, store, scorer=counting)
    assert engine.requests == []
    assert num_scored == []
    assert second.report.num_stored_before == first.report.num_requests
    assert_same_outcomes(first, second)
    collect(engine, store, scorer=counting, scorer_version="newer")
    assert engine.requests == []
    assert len(num_scored) == first.report.num_scored > 0


def assert_same_outcomes(first, second):
    assert first.manifest == second.manifest
    for split, outcomes in first.outcomes.items():
        for field in dataclasses.fields(outcomes):
            one, other = getattr(outcomes, field.name), getattr(second.outcomes[split], field.name)
            np.testing.assert_array_equal(one, other, err_msg=f"{split} {field.name}")


@pytest.mark.parametrize(("is_streaming", "chunk_size"), [(True, 1), (True, 7), (False, 7), (False, 1000)])
def test_batching_changes_nothing(tmp_path, is_streaming, chunk_size):
    other = make_engine(3) if is_streaming else ChunkEngine(make_engine(3))
    files = []
    for name, engine, size in (("a", make_engine(3), 64), ("b", other, chunk_size)):
        with ResponseStore(tmp_path / name) as store:
            files.append(collect(engine, store, chunk_size=size))
    assert_same_outcomes(*files)


def test_partial_tree_by_mask_and_by_predicate(tmp_path):
    """Wanted leaves bring the way to them; nothing else is asked; the values are those of the whole tree."""
    rng = np.random.default_rng(7)
    masks = {split: rng.random((len(rows), 13)) < 0.2 for split, rows in SPLITS.items()}
    for mask in masks.values():
        mask[:, 2] = True  # every query has a route
    masks["train"][:, 1:4] = True  # the unit of cost needs a first hop of each model
    engine = make_engine(3)
    with ResponseStore(tmp_path / "whole") as store:
        whole = collect(make_engine(3), store)
    with ResponseStore(tmp_path / "mask") as store:
        partial = collect(engine, store, nodes=masks)
    with ResponseStore(tmp_path / "predicate") as store:
        by_predicate = collect(make_engine(3), store, nodes=lambda split, query, node: masks[split][query, node])
    assert_same_outcomes(partial, by_predicate)
    expected_keys = set()
    for split, rows in SPLITS.items():
        valid = masks[split].copy()
        valid[:, 0] = True
        for model in range(3):
            valid[:, 1 + model] |= masks[split][:, 4 + 3 * model : 7 + 3 * model].any(axis=1)
        np.testing.assert_array_equal(partial.outcomes[split].valid, valid)
        for name in ("quality", "num_prompt_tokens", "num_new_tokens"):
            full = getattr(whole.outcomes[split], name)
            np.testing.assert_array_equal(getattr(partial.outcomes[split], name), np.where(valid, full, 0))
        for query, row in enumerate(rows):
            expected_keys |= {seen.key for node, seen in enumerate(walk_all(3, 2, row)) if node and valid[query, node]}
    assert {request_key(engine.encode(request)) for request in engine.requests} == expected_keys
    assert len(engine.requests) == len(expected_keys)


def narrow_engine_options():
    """A window that the longest answers overflow on the second hop."""
    return {"context_window": 150}


def test_prompts_too_long_are_invalid_and_counted(store):
    file = collect(make_engine(3, **narrow_engine_options()), store)
    reasons = {f"prompt too long for the window of model_{model}": 0 for model in range(3)}
    num_below = 0
    for split, rows in SPLITS.items():
        walked = [walk_all(3, 2, row, **narrow_engine_options()) for row in rows]
        assert_split_is_as_walked(file, split, walked, num_models=3, last_stage_start=4)
        for nodes in walked:
            for node in range(1, 13):
                is_below = node > 3 and nodes[(node - 1) // 3] is None
                num_below += is_below
                if nodes[node] is None and not is_below:
                    reasons[f"prompt too long for the window of model_{(node - 1) % 3}"] += 1
    expected = {reason: count for reason, count in reasons.items() if count}
    assert expected  # the window is narrow enough to matter
    assert file.report.invalid_nodes == expected | ({"below an invalid node": num_below} if num_below else {})


def test_a_query_that_nobody_can_be_asked_is_left_out(store):
    long_row = dataclasses.replace(SPLITS["train"][0], id="train/long", question="word " * 5000)
    rows = SPLITS["train"]
    file = collect(make_engine(3), store, splits=SPLITS | {"train": [*rows[:2], long_row, *rows[2:]]})
    assert file.report.num_left_out == {"train": 1, "validation": 0, "test": 0}
    assert file.outcomes["train"].row_id_hash.tolist() == [row_id_hash(row.id) for row in rows]
    assert file.manifest.split_sizes["train"] == {"sums": 3, "letters": 2}
    with pytest.raises(DataError, match=r"(?s)prompt too long .* test: none of its 1 queries"):
        collect(make_engine(3), store, splits=SPLITS | {"test": [long_row]})


class StoppedEngine:
    """Hands over responses until a given one, then raises as Ctrl-C or a device would."""

    def __init__(self, engine, num_responses, error):
        self.cards, self.encode, self.engine = engine.cards, engine.encode, engine
        self.left, self.error = num_responses, error

    def generate(self, requests):
        raise AssertionError("a streaming engine is streamed")

    def generate_iter(self, requests):
        for pair in self.engine.generate_iter(requests):
            if self.left == 0:
                raise self.error
            self.left -= 1
            yield pair


def test_ctrl_c_says_what_is_kept_and_the_next_run_goes_on(store):
    with pytest.raises(
        KeyboardInterrupt, match=r"Stopped\. 11 responses .* are stored in .*run the same command again"
    ):
        collect(StoppedEngine(make_engine(3), 11, KeyboardInterrupt()), store)
    assert len(store) == 11
    engine = make_engine(3)
    file = collect(engine, store)
    assert file.report.num_stored_before == 11
    assert len(engine.requests) == file.report.num_requests - 11


def test_an_engines_error_passes_and_what_came_before_is_kept(store):
    with pytest.raises(RuntimeError, match="device lost"):
        collect(StoppedEngine(make_engine(3), 5, RuntimeError("device lost")), store)
    assert len(store) == 5


def test_ctrl_c_while_scoring(store):
    def scorer(row, text):
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("scoring is parallel")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        collect(make_engine(3), store, scorer=scorer)
    engine = make_engine(3)
    collect(engine, store)
    assert engine.requests == []


def test_full_store_is_a_clear_error_and_the_next_run_goes_on(store):
    collect(make_engine(3), store, splits={"train": SPLITS["train"][:1], "test": SPLITS["test"][:1]})
    before = len(store)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(StorageError, match="Free space"):
        collect(make_engine(3), store)
    kept = len(store)
    assert kept >= before
    store._connection.execute("PRAGMA max_page_count = 1000000")
    engine = make_engine(3)
    file = collect(engine, store)
    assert len(engine.requests) == file.report.num_requests - kept


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": SPLITS["train"]}, "split test must have rows"),
        ({"train": [], "test": SPLITS["test"]}, "split train must have rows"),
        (SPLITS | {"dev": SPLITS["test"]}, "there is no split 'dev'"),
        (SPLITS | {"test": SPLITS["train"][1:2]}, "row train/sums/1 of test is already in train"),
    ],
)
def test_unusable_splits(store, splits, message):
    engine = make_engine(2)
    with pytest.raises(DataError, match=message):
        collect(engine, store, splits=splits)
    assert engine.requests == []


def test_unusable_options(store):
    for error, message, options in [
        (DataError, "mask of shape", {"nodes": {split: np.ones((2, 2), bool) for split in SPLITS}}),
        (ConfigError, "chunk_size must be >= 1", {"chunk_size": 0}),
        (ConfigError, "num_stages must be >= 1", {"num_stages": 0}),
        (ConfigError, "needs a scorer_version", {"scorer_version": None}),
    ]:
        with pytest.raises(error, match=message):
            collect(make_engine(2), store, **options)


def test_report_counts_as_a_loop_does(store):
    file = collect(make_engine(3), store)
    for task, models in file.report.answers.items():
        for model, counts in models.items():
            seen, alone = [], []
            for row in itertools.chain.from_iterable(SPLITS.values()):
                nodes = walk_all(3, 2, row)
                own = [node for node in range(1, 13) if f"model_{(node - 1) % 3}" == model]
                seen += [nodes[node] for node in own if row.task == task]
                alone += [nodes[own[0]].score.quality for _ in range(row.task == task)]
            assert counts.num_nodes == len(seen)
            assert counts.num_prompt_tokens == sum(one.response.num_prompt_tokens for one in seen)
            assert counts.num_new_tokens == sum(one.response.num_new_tokens for one in seen)
            assert counts.truncated_share == np.mean([one.response.finish_reason == "length" for one in seen])
            assert counts.unparsed_share == np.mean([not one.score.is_parsed for one in seen])
            assert counts.mean_quality == pytest.approx(np.mean([one.score.quality for one in seen]))
            assert counts.first_hop_quality == pytest.approx(np.mean(alone))
    assert {counts.truncated_share > 0 for counts in file.report.answers["sums"].values()} == {True}


def test_the_packages_own_scorer(store):
    """Scores of letters and numbers by the rules of `tasks`, kept under the digest of their source."""
    file = collect(make_engine(2), store, scorer=score_answer, scorer_version=None)
    for query, row in enumerate(SPLITS["test"]):
        for node, seen in enumerate(walk_all(2, 2, row)[1:], start=1):
            answer = seen.response.text.split()[-1]
            if row.choices:  # the place of the chosen option, whatever form the options have
                options = hop_request(CARDS[(node - 1) % 2], row, ()).options
                answer = "ABC"[options.index(seen.response.text)]
            assert file.outcomes["test"].quality[query, node] == float(answer == row.answer)
    assert len(file.manifest.scorer_version) == 16
