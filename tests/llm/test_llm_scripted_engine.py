"""The scripted engine honours what a real engine honours, and answers as a pure function of the request."""

from __future__ import annotations

import dataclasses
import math

import pytest

from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.core.text import GREEDY, GenerationRequest, Message, Sampling
from hierrouter_jax.llm.engine import StreamingEngine, TextEngine
from hierrouter_jax.llm.scripted_engine import ScriptedEngine, hashed_words, scripted_card

CARDS = (scripted_card("a"), scripted_card("b", context_window=23))
REQUEST = GenerationRequest(model="a", prompt="how many birds are there", max_new_tokens=11)


def test_it_is_an_engine_of_both_kinds():
    engine = ScriptedEngine(CARDS)
    assert isinstance(engine, TextEngine)
    assert isinstance(engine, StreamingEngine)


def test_responses_depend_on_the_request_alone():
    requests = [dataclasses.replace(REQUEST, model=model, prompt=f"bird {n}") for model in "ab" for n in range(7)]
    responses = ScriptedEngine(CARDS).generate(requests)
    engine = ScriptedEngine(CARDS)
    assert [engine.generate([request])[0] for request in requests[::-1]] == responses[::-1]
    assert len({response.text for response in responses}) > 7  # models and prompts give different answers
    assert engine.num_calls == 14
    assert engine.requests == requests[::-1]
    assert list(engine.generate_iter(requests)) == [[pair] for pair in enumerate(responses)]


def test_what_is_ready_together_comes_together_and_nothing_is_begun_before_it_is_asked_for():
    requests = [dataclasses.replace(REQUEST, prompt=f"bird {n}") for n in range(7)]
    pairs = list(enumerate(ScriptedEngine(CARDS).generate(requests)))
    engine = ScriptedEngine(CARDS, batch_size=3)
    batches = engine.generate_iter(requests)
    for batch in (pairs[:3], pairs[3:6], pairs[6:]):
        assert next(batches) == batch
        assert len(engine.requests) == batch[-1][0] + 1
    assert next(batches, None) is None
    assert engine.generate(requests) == [response for _, response in pairs]
    with pytest.raises(ConfigError, match="batch_size must be >= 1, but is 0"):
        ScriptedEngine(CARDS, batch_size=0)


def test_tokens_are_words_and_equal_texts_have_equal_ids():
    engine = ScriptedEngine(CARDS)
    encoded = engine.encode(REQUEST)
    assert len(encoded.token_ids) == 5
    longer = engine.encode(dataclasses.replace(REQUEST, prompt=REQUEST.prompt + " today"))
    assert longer.token_ids[:5] == encoded.token_ids
    assert (
        engine.encode(dataclasses.replace(REQUEST, prompt="how many  birds are there")).token_ids != encoded.token_ids
    )
    assert encoded.weights_digest == CARDS[0].weights_digest
    assert (encoded.max_new_tokens, encoded.stop, encoded.options, encoded.sampling) == (11, (), (), GREEDY)
    sampled = Sampling(temperature=0.5, seed=3)
    assert engine.encode(dataclasses.replace(REQUEST, sampling=sampled)).sampling == sampled


def test_budget_and_stops_end_the_text():
    written = "one two three\nfour five"
    engine = ScriptedEngine(CARDS, lambda card, request: written)

    def answer(**changes):
        response = engine.generate([dataclasses.replace(REQUEST, **changes)])[0]
        return response.text, response.num_new_tokens, response.finish_reason

    assert answer() == (written, 6, "stop")
    assert answer(max_new_tokens=5) == (written, 5, "length")
    assert answer(max_new_tokens=2) == ("one two", 2, "length")
    assert answer(stop=("five", "\n")) == ("one two three", 4, "stop")
    assert answer(stop=("\n",), max_new_tokens=3) == ("one two three", 3, "length")
    assert answer(stop=("one",)) == ("", 1, "stop")


def test_options_are_ranked():
    request = dataclasses.replace(REQUEST, options=(" A", " B", " C"))
    engine = ScriptedEngine(CARDS, lambda card, request: " B")
    (response,) = engine.generate([request])
    assert (response.text, response.finish_reason, response.num_new_tokens) == (" B", "option", 1)
    assert sum(map(math.exp, response.option_logprobs)) == pytest.approx(1)
    assert response.logprob == response.option_logprobs[1]
    assert len(set(response.option_logprobs)) == 3
    assert hashed_words(CARDS[0], request) in request.options
    with pytest.raises(ConfigError, match="one of the options"):
        ScriptedEngine(CARDS, lambda card, request: "B").generate([request])


def test_window_and_names_are_checked():
    engine = ScriptedEngine(CARDS)
    fits = dataclasses.replace(REQUEST, model="b", prompt="word " * 11 + "word")
    assert len(engine.encode(fits).token_ids) == 12
    with pytest.raises(PromptTooLongError, match=r"b, 23 tokens, but need 13 \+ 11"):
        engine.encode(dataclasses.replace(fits, prompt="word " * 12 + "word"))
    with pytest.raises(ConfigError, match=r"\(a, b\), but names 'c'"):
        engine.encode(dataclasses.replace(REQUEST, model="c"))


def test_messages_are_part_of_the_prompt():
    engine = ScriptedEngine(CARDS)
    prompts = [(Message(role=role, content=text),) for role in ("user", "system") for text in ("hello", "hello you")]
    ids = [engine.encode(dataclasses.replace(REQUEST, prompt=prompt)).token_ids for prompt in prompts]
    assert len(set(ids)) == 4
