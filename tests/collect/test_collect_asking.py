"""Asking through the store: the same answers as the engine alone, each distinct request once, errors not hidden."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scripted_collection import ChunkEngine, few_answers, make_engine

from hierrouter_jax.collect.asking import answer_requests, chunks_by_model, encode_request, generate_missing
from hierrouter_jax.core.errors import DataError, PromptTooLongError
from hierrouter_jax.core.text import GenerationRequest
from hierrouter_jax.llm.scripted_engine import ScriptedEngine
from hierrouter_jax.store.response_store import ResponseStore


def make_requests(numbers, num_models=3):
    return [
        GenerationRequest(
            model=f"model_{number % num_models}",
            prompt=f"question {number} " * (1 + number % 5),
            max_new_tokens=(7, 11)[number % 2],
            options=(" A", " B") if number % 7 == 0 else (),
        )
        for number in numbers
    ]


@pytest.fixture
def store(tmp_path):
    with ResponseStore(tmp_path / "responses.sqlite") as opened:
        yield opened


@pytest.mark.parametrize("wrap", [lambda engine: engine, ChunkEngine], ids=["streaming", "chunks"])
def test_answers_are_the_engines_in_order_and_asked_once(store, wrap):
    rng = np.random.default_rng(2)
    engine, seen = make_engine(3), set()
    for _ in range(5):
        numbers = rng.integers(0, 41, size=23).tolist()
        requests = make_requests(numbers)
        assert answer_requests(wrap(engine), store, requests, chunk_size=3) == make_engine(3).generate(requests)
        seen |= set(numbers)
        assert len(engine.requests) == len(seen) == len(store)


def test_chunks_are_of_one_model_in_the_pools_order_and_cover_everything():
    engine = make_engine(3)
    asked = [encode_request(engine, request) for request in make_requests(range(50, 9, -1))]
    assert [len(chunk) for chunk in chunks_by_model(engine, asked, 5)] == [13, 14, 14]  # it streams: all at once
    chunks = list(chunks_by_model(ChunkEngine(engine), asked, 5))
    assert sorted(one.key for chunk in chunks for one in chunk) == sorted(one.key for one in asked)
    models = [{one.request.model for one in chunk} for chunk in chunks]
    assert all(len(names) == 1 for names in models)
    assert [name for name, _ in itertools.groupby(min(names) for names in models)] == ["model_0", "model_1", "model_2"]
    for chunk in chunks:
        kinds = [(bool(one.encoded.options), one.encoded.max_new_tokens, len(one.encoded.token_ids)) for one in chunk]
        assert kinds == sorted(kinds)
        assert len(chunk) <= 5


class OddEngine:
    """Answers in the given batches, which may hold a request twice, or not at all."""

    def __init__(self, batches, change=lambda index, response: response):
        engine = make_engine(1)
        self.cards, self.encode, self.generate, self._engine = engine.cards, engine.encode, engine.generate, engine
        self._batches, self._change = batches, change

    def generate_iter(self, requests):
        responses = self._engine.generate(requests)
        for batch in self._batches:
            yield [(index, self._change(index, responses[index])) for index in batch]


@pytest.mark.parametrize(
    ("batches", "error", "num_stored"),
    [
        ([(0, 1)], RuntimeError, 2),  # found out at the end: what was handed over is right and stays
        ([(0,), (0, 1, 2)], KeyError, 1),
        ([(2,), (0, 1, 1)], KeyError, 1),
        ([(-1,)], KeyError, 0),
        ([(3,)], IndexError, 0),
    ],
)
def test_an_engine_that_does_not_answer_each_request_once_is_a_defect(store, batches, error, num_stored):
    with pytest.raises(error):
        answer_requests(OddEngine(batches), store, make_requests([1, 2, 3], num_models=1))
    assert len(store) == num_stored


@pytest.mark.parametrize("batches", [[(2,), (0,), (1,)], [(2, 0), (1,)], [(1, 2, 0)], [(1,), (), (2, 0)]])
def test_any_order_and_any_batches_of_a_streaming_engine_are_right(store, batches):
    requests = make_requests([1, 2, 3], num_models=1)
    assert answer_requests(OddEngine(batches), store, requests) == make_engine(1).generate(requests)


def test_a_batch_is_stored_before_it_is_reported_and_before_the_next_is_begun(store):
    engine = ScriptedEngine(make_engine(3).cards, few_answers, batch_size=3)
    asked = {one.key: one for one in (encode_request(engine, request) for request in make_requests(range(23)))}
    num_stored = []

    def on_response(key, response):
        assert store.get_many([key]) == {key: response}
        num_stored.append(len(store))
        assert len(store) == len(engine.requests)  # all that was generated is stored, the batch's last one too

    responses = generate_missing(engine, store, asked, chunk_size=7, on_response=on_response)
    assert sorted(responses) == sorted(asked)
    # A model has 8, 8 or 7 requests, which an engine that streams gets at once: batches of 3, 3, 2 and 3, 3, 1.
    assert num_stored == [3] * 3 + [6] * 3 + [8] * 2 + [11] * 3 + [14] * 3 + [16] * 2 + [19] * 3 + [22] * 3 + [23]


def test_a_batch_of_which_one_response_cannot_be_stored_leaves_nothing(store):
    def break_last(index, response):
        return dataclasses.replace(response, logprob=math.nan) if index == 2 else response

    with pytest.raises(DataError, match="NaN"):
        answer_requests(OddEngine([(1,), (0, 2)], break_last), store, make_requests([1, 2, 3], num_models=1))
    assert len(store) == 1


def test_a_prompt_too_long_is_told_before_anything_is_asked(store):
    engine = make_engine(3, context_window=20)
    with pytest.raises(PromptTooLongError, match="20 tokens"):
        answer_requests(engine, store, make_requests([2]) + make_requests([9]))
    assert engine.requests == []
