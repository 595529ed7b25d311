"""The engine of Flax models on a pool of two tiny ones of random weights: words in, words out, whatever the batch.

Oracles: each request alone; greedy text and the log-probabilities of options by full forwards without cache or batch;
stop strings by a look at the text that was written without them.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest
from tiny_pools import HUB, TOKENS, WINDOW, write_tiny_pool

from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.core.text import GREEDY, GenerationRequest, Message, Sampling
from hierrouter_jax.llm import flax_engine
from hierrouter_jax.llm.batching import BatchLimits
from hierrouter_jax.llm.engine import StreamingEngine, TextEngine
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.generation import generate_tokens
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.llm.programs import bound_programs, count_programs

MODELS = ("tiny-hub", "tiny-gguf")
MAX_BATCH = 3
LIMITS = BatchLimits(max_batch=MAX_BATCH, chunk=7)
# Two batches of three, by length; every size is seen once full and once alone, or compiling would take a minute.
QUESTIONS = ("a", "The thing is in the thicket.", "Which of these is a bird?", "2 + 3 =", "Where and when?", "in")
BUDGETS = (23, 5, 29, 1, 19, 13)
SAMPLINGS = (
    Sampling(temperature=1.0, top_k=31, seed=3),
    Sampling(temperature=1.7, top_k=7, seed=5),
    GREEDY,
    Sampling(temperature=1.3, top_p=0.9, seed=3),
    Sampling(temperature=1.0, top_k=31, seed=3),
    Sampling(temperature=0.9, top_k=19, top_p=0.8, seed=2**33),
)
OPTIONS = (" in", " a be", " é", " the")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    return load_pool(write_tiny_pool(folder), cache_dir=folder / "cache", is_quiet=True)


@pytest.fixture(scope="module")
def engine(pool):
    return FlaxEngine(pool, limits=LIMITS)


def text_requests(model, samplings=(GREEDY,) * 6):
    return [
        GenerationRequest(model=model, prompt=prompt, max_new_tokens=budget, sampling=sampling)
        for prompt, budget, sampling in zip(QUESTIONS, BUDGETS, samplings, strict=True)
    ]


def option_requests(model):
    return [
        GenerationRequest(model=model, prompt=prompt, max_new_tokens=1, options=OPTIONS[turn:] + OPTIONS[:turn])
        for turn, prompt in enumerate(QUESTIONS[:3])
    ]


def assert_same(actual, expected):
    """Equal but for the rounding of log-probabilities, which another batch may change."""
    assert actual.option_logprobs == pytest.approx(expected.option_logprobs, abs=1e-4)
    assert actual.logprob == pytest.approx(expected.logprob, abs=1e-3)
    same = {"logprob": expected.logprob, "option_logprobs": expected.option_logprobs}
    assert dataclasses.replace(actual, **same) == expected


@jax.jit
def padded_logprobs(model, tokens):
    return jax.nn.log_softmax(model.module()(tokens)[0][0], axis=-1)


def logprobs_by_full_forward(pool, model, ids):
    """The log-probabilities of every next token after each of `ids`, read alone and without a cache."""
    tokens = np.zeros((1, 127), np.int32)
    tokens[0, : len(ids)] = ids
    return np.asarray(padded_logprobs(pool.decoder(model), tokens))[: len(ids)]


def test_it_is_an_engine_of_both_kinds(pool, engine):
    assert isinstance(engine, TextEngine)
    assert isinstance(engine, StreamingEngine)
    assert tuple(card.name for card in engine.cards) == MODELS


@pytest.mark.parametrize("model", MODELS)
def test_greedy_text_is_that_of_repeated_full_forwards(pool, engine, model):
    tokenizer = pool.tokenizer(model)
    for request, response in zip(text_requests(model), engine.generate(text_requests(model)), strict=True):
        prompt = tokenizer.encode(request.prompt, add_special_tokens=True)
        new_ids, logprob = [], 0.0
        while len(new_ids) < request.max_new_tokens and not set(new_ids) & set(tokenizer.stop_token_ids):
            row = logprobs_by_full_forward(pool, model, prompt + new_ids)[-1]
            new_ids.append(int(row.argmax()))
            logprob += float(row.max())
        assert response.text == tokenizer.decode(new_ids)
        assert (response.num_prompt_tokens, response.num_new_tokens) == (len(prompt), len(new_ids))
        assert response.finish_reason == ("stop" if new_ids[-1] in tokenizer.stop_token_ids else "length")
        assert response.logprob == pytest.approx(logprob, abs=1e-3)
        assert response.option_logprobs == ()


@pytest.mark.parametrize("samplings", [(GREEDY,) * 6, SAMPLINGS], ids=["greedy", "sampled"])
@pytest.mark.parametrize("model", MODELS)
def test_a_batch_equals_each_request_alone(engine, model, samplings):
    requests = text_requests(model, samplings)
    responses = engine.generate(requests)
    assert len({response.text for response in responses}) == len(requests)
    for request, response in zip(requests, responses, strict=True):
        [alone] = engine.generate([request])
        assert_same(response, alone)


def test_an_answer_may_end_by_itself(pool, engine):
    samplings = [Sampling(temperature=1.3, top_k=HUB["vocab"], seed=seed) for seed in range(6)]
    requests = [
        GenerationRequest(model=MODELS[0], prompt="a", max_new_tokens=97, sampling=sampling) for sampling in samplings
    ]
    prompt = pool.tokenizer(MODELS[0]).encode("a", add_special_tokens=True)
    ids = generate_tokens(
        pool.decoder(MODELS[0]), [prompt] * 6, max_new_tokens=[97] * 6, samplings=samplings, limits=LIMITS
    )  # fmt: skip
    end = TOKENS.index("<|im_end|>")
    assert 0 < sum(end in one.token_ids for one in ids) < 6
    for one, response in zip(ids, engine.generate(requests), strict=True):
        num_new = one.token_ids.index(end) + 1 if end in one.token_ids else 97
        assert (response.num_new_tokens, response.finish_reason) == (num_new, "stop" if num_new < 97 else "length")
        assert response.text == pool.tokenizer(MODELS[0]).decode(one.token_ids[:num_new])
        assert "<|im_end|>" not in response.text


def test_options_are_ranked_by_their_log_probability_per_byte(pool, engine):
    num_other_than_likeliest = 0
    for model in MODELS:
        tokenizer, requests = pool.tokenizer(model), option_requests(model)
        for request, response in zip(requests, engine.generate(requests), strict=True):
            prompt, sums = tokenizer.encode(request.prompt, add_special_tokens=True), []
            for option in request.options:
                ids = tokenizer.encode(option, add_special_tokens=False)
                rows = logprobs_by_full_forward(pool, model, [*prompt, *ids])[len(prompt) - 1 : -1]
                sums.append(sum(float(row[token]) for row, token in zip(rows, ids, strict=True)))
            num_bytes = [len(option.strip().encode()) for option in request.options]
            best = int(np.argmax(np.array(sums) / num_bytes))
            total = math.log(math.fsum(map(math.exp, sums)))
            assert response.text == request.options[best]
            assert response.logprob == pytest.approx(sums[best], abs=1e-3)
            assert response.option_logprobs == pytest.approx([one - total for one in sums], abs=1e-3)
            assert (response.finish_reason, response.num_new_tokens) == ("option", 1)
            assert response.num_prompt_tokens == len(prompt)
            num_other_than_likeliest += best != int(np.argmax(sums))
    assert num_other_than_likeliest > 0  # the division by length was seen to matter


def test_a_stop_string_cuts_the_text_and_ends_its_row_alone(pool, engine):
    model = MODELS[0]
    tokenizer, requests = pool.tokenizer(model), text_requests(model)
    free = engine.generate(requests)
    # Row 2 has two that are complete with the same token, the one that begins later first, and one that comes too late.
    stops = {
        0: (free[0].text[17:20],),
        2: tuple(free[2].text[start:end] for start, end in ((24, 26), (10, 12), (9, 12))),
    }
    stops[4] = ("never written",)
    assert [free[2].text.index(stop) for stop in stops[2]] == [24, 10, 9]
    stopped = engine.generate([dataclasses.replace(one, stop=stops.get(n, ())) for n, one in enumerate(requests)])
    for row, (request, before, after) in enumerate(zip(requests, free, stopped, strict=True)):
        if row not in (0, 2):
            assert_same(after, before)
            continue
        [tokens] = generate_tokens(
            pool.decoder(model), [tokenizer.encode(request.prompt, add_special_tokens=True)],
            max_new_tokens=[request.max_new_tokens], samplings=[GREEDY], limits=LIMITS,
        )  # fmt: skip
        written = [tokenizer.decode(tokens.token_ids[:count]) for count in range(len(tokens.token_ids) + 1)]
        needed = next(count for count, text in enumerate(written) if any(stop in text for stop in stops[row]))
        assert after.text == min((written[needed].split(stop)[0] for stop in stops[row]), key=len)
        assert before.text.startswith(after.text)
        assert (after.finish_reason, after.num_new_tokens) == ("stop", needed)
        assert needed < before.num_new_tokens
        assert after.logprob == pytest.approx(sum(tokens.logprobs[:needed]), abs=1e-3)


def mixed_requests():
    """Both models, text and options, chats and plain prompts, greedy and sampled, in an order of no kind."""
    requests = [one for model in MODELS for one in (*text_requests(model, SAMPLINGS), *option_requests(model))]
    requests += [
        GenerationRequest(model=model, prompt=(Message(role="user", content=text),), max_new_tokens=11, stop=("3",))
        for model in MODELS
        for text in ("a", "2 + 3 =", "in")
    ]
    return [requests[index] for index in np.random.default_rng(5).permutation(len(requests))]


def test_answers_come_in_the_order_of_the_requests_whatever_their_models_and_kinds(engine):
    requests = mixed_requests()
    for request, response in zip(requests, engine.generate(requests), strict=True):
        assert bool(response.option_logprobs) == bool(request.options)
        [alone] = engine.generate([request])
        assert_same(response, alone)


def test_batches_are_of_one_model_and_kind_and_hold_every_request_once(engine):
    requests = mixed_requests()
    batches = list(engine.generate_iter(requests))
    assert sorted(index for batch in batches for index, _ in batch) == list(range(len(requests)))
    kinds = []
    for batch in batches:
        assert 1 <= len(batch) <= MAX_BATCH
        [kind] = {(MODELS.index(requests[index].model), bool(requests[index].options)) for index, _ in batch}
        kinds.append(kind)
    assert kinds == sorted(kinds)  # each model is loaded once, in the pool's order
    assert len(batches) > 2 * (3 + 1)  # a model writes 9 texts, which end when they end, and ranks 3 times at once
    responses = engine.generate(requests)
    for index, response in (pair for batch in batches for pair in batch):
        assert_same(response, responses[index])


def test_no_batch_is_begun_before_the_one_before_it_is_taken(tmp_path):
    pool = load_pool(write_tiny_pool(tmp_path), cache_dir=tmp_path / "cache", is_quiet=True)
    requests = [text_requests(model)[3] for model in MODELS]
    batches = FlaxEngine(pool, limits=LIMITS).generate_iter(requests)
    assert pool.resident == ()
    assert [index for index, _ in next(batches)] == [0]
    assert pool.resident == MODELS[:1]
    assert [index for index, _ in next(batches)] == [1]
    assert pool.resident == MODELS


def test_a_request_becomes_all_that_determines_its_response(pool, engine):
    request = dataclasses.replace(text_requests(MODELS[1])[1], stop=("\n",), sampling=SAMPLINGS[1])
    encoded = engine.encode(request)
    assert encoded.weights_digest == pool.card(MODELS[1]).weights_digest
    assert pool.tokenizer(MODELS[1]).decode(encoded.token_ids) == request.prompt
    assert (encoded.max_new_tokens, encoded.stop, encoded.options) == (5, ("\n",), ())
    assert encoded.sampling == SAMPLINGS[1]
    chat = (Message(role="user", content="a"),)
    begun = list(engine.encode(dataclasses.replace(request, prompt=chat)).token_ids)
    assert begun == pool.tokenizer(MODELS[1]).apply_chat(chat)
    assert engine.encode(dataclasses.replace(request, options=OPTIONS)).options == OPTIONS


def test_prompt_and_answer_must_fit_the_window(engine):
    fits = GenerationRequest(model=MODELS[0], prompt="b" * (WINDOW - 7), max_new_tokens=7)
    assert len(engine.encode(fits).token_ids) == WINDOW - 7
    too_long = dataclasses.replace(fits, prompt="b" * (WINDOW - 6))
    with pytest.raises(PromptTooLongError, match=rf"tiny-hub, {WINDOW} tokens, but need {WINDOW - 6} \+ 7; shorten"):
        engine.encode(too_long)
    with pytest.raises(PromptTooLongError, match="tiny-hub"):
        engine.generate([text_requests(MODELS[1])[3], too_long])
    # Of ranked options the longest must fit, whatever the budget: " bbb" has 4 tokens.
    ranked = dataclasses.replace(fits, prompt="b" * (WINDOW - 4), options=(" b", " bbb"))
    assert len(engine.encode(ranked).token_ids) == WINDOW - 4
    with pytest.raises(PromptTooLongError, match=rf"need {WINDOW - 3} \+ 4"):
        engine.encode(dataclasses.replace(ranked, prompt="b" * (WINDOW - 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model": "other"}, "tiny-hub, tiny-gguf.*'other'"), ({"options": (" a", " ")}, "visible text, but is ' '")],
)
def test_requests_that_cannot_be_answered_are_refused(engine, change, message):
    with pytest.raises(ConfigError, match=message):
        engine.generate([dataclasses.replace(text_requests(MODELS[0])[0], **change)])


def test_nothing_asked_is_nothing_answered(engine):
    assert engine.generate([]) == []
    assert list(engine.generate_iter([])) == []


def test_programs_are_let_go_when_they_are_too_many_and_answers_stay(pool, engine, monkeypatch):
    cleared = []

    def watched(max_programs):
        before = count_programs()
        bound_programs(max_programs)
        if count_programs() < before:
            cleared.append(before)

    monkeypatch.setattr(flax_engine, "bound_programs", watched)
    requests = [*text_requests(MODELS[0]), *option_requests(MODELS[0])]
    expected = engine.generate(requests)
    held = count_programs()
    bound_programs(held)
    assert count_programs() == held  # as many as may be
    bounded = FlaxEngine(pool, limits=dataclasses.replace(LIMITS, max_programs=1))
    again = bounded.generate(requests)
    assert cleared
    assert min(cleared) > 1
    for response, before in zip(again, expected, strict=True):
        assert_same(response, before)
