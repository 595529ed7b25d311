"""Models of a pool as workers: the requests that they are asked, what is asked once, costs, drawn choices."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from crowd_runs import run_crew

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.text import Message, Sampling
from hierrouter_jax.crowd.output_schemas import (
    YES_NO,
    ChoiceSchema,
    FieldsSchema,
    ItemsSchema,
    NumberSchema,
    SpansSchema,
    TextSchema,
)
from hierrouter_jax.crowd.prompts import subtask_prompt, subtask_text, token_budget
from hierrouter_jax.crowd.runner import Crew
from hierrouter_jax.crowd.subtasks import Example, SubTask, values
from hierrouter_jax.crowd.workers.pool_worker import PoolWorker, drawn_option
from hierrouter_jax.crowd.workers.worker import Ask, Contributor
from hierrouter_jax.llm.scripted_engine import ScriptedEngine, scripted_card
from hierrouter_jax.store.response_store import ResponseStore

CARDS = (
    scripted_card("chatty", base_rate=2.0, max_new_tokens=401),
    scripted_card("plain", prompt_style="plain", base_rate=5.0, max_new_tokens=401),
)


TEXT = TextSchema()
EXAMPLES = (Example(inputs={"goal": "a song"}, answer="La la."),)


@pytest.fixture
def store(tmp_path):
    with ResponseStore(tmp_path / "store.sqlite") as opened:
        yield opened


def task(schema=TEXT, **fields):
    return SubTask(name="n", role="r", instructions="Say it.", schema=schema, inputs={"goal": "a poem"}, **fields)


def ask(subtask, *, kin="chatty", slot=0, seed=11, persona="", refusals=()):
    contributor = Contributor(name=f"{kin}#{slot}", kin=kin, persona=persona)
    return Ask(subtask=subtask, slot=slot, contributor=contributor, seed=seed, refusals=refusals)


def replies(worker, asks):
    found = {}
    worker.answer(asks, found.__setitem__)
    assert sorted(found) == list(range(len(asks)))
    return [found[index] for index in range(len(asks))]


# -- requests --


def test_a_chat_model_is_sent_a_message_and_a_base_model_text_that_an_answer_continues(store):
    engine = ScriptedEngine(CARDS)
    replies(PoolWorker(engine, store), [ask(task()), ask(task(), kin="plain")])
    chatty, plain = engine.requests
    words = "Say it.\n\ngoal: a poem\n\nAnswer with the text alone, without quotes and without remarks."
    assert chatty.prompt == (Message(role="user", content=words),)
    assert (chatty.stop, chatty.options) == ((), ())
    assert plain.prompt == f'{words}\n\nAnswer: "'
    assert (plain.stop, plain.options) == (('"\n', "\n\n"), ())


@pytest.mark.parametrize(
    ("schema", "examples"),
    [(NumberSchema(), ()), (NumberSchema(), EXAMPLES), (TEXT, EXAMPLES), (ItemsSchema(), EXAMPLES)],
    ids=["number", "number with examples", "text with examples", "items with examples"],
)
def test_a_number_and_whatever_has_examples_is_text_for_a_chat_model_too(store, schema, examples):
    engine = ScriptedEngine(CARDS)
    replies(PoolWorker(engine, store), [ask(task(schema, examples=examples), kin=kin) for kin in ("chatty", "plain")])
    chatty, plain = engine.requests
    assert (chatty.model, plain.model) == ("chatty", "plain")
    assert chatty.prompt == plain.prompt == subtask_prompt("plain", task(schema, examples=examples), 0)
    assert chatty.stop == plain.stop == ("\n" if schema == NumberSchema() else "\n\n",)


@pytest.mark.parametrize("schema", [ItemsSchema(), SpansSchema(text="a"), FieldsSchema(names=("a",))])
def test_other_formats_are_messages_for_a_chat_model(store, schema):
    engine = ScriptedEngine(CARDS)
    replies(PoolWorker(engine, store), [ask(task(schema))])
    assert engine.requests[0].prompt == (Message(role="user", content=subtask_text(task(schema), 0)),)
    assert engine.requests[0].stop == ()


@pytest.mark.parametrize(
    ("kin", "examples", "expected"),
    [
        ("plain", (), "It is done."),  # the prompt has opened the quote
        ("plain", EXAMPLES, 'It is done."'),
        ("chatty", (), 'It is done."'),
        ("chatty", EXAMPLES, 'It is done."'),
    ],
)
def test_what_ends_a_quote_that_the_prompt_began_is_no_part_of_the_answer(store, kin, examples, expected):
    engine = ScriptedEngine(CARDS, lambda card, request: ' It is done."\n')
    (reply,) = replies(PoolWorker(engine, store), [ask(task(examples=examples), kin=kin)])
    assert reply.text == expected


def test_a_choice_is_ranked_after_text_by_every_model(store):
    engine = ScriptedEngine(CARDS, lambda card, request: " no")
    found = replies(PoolWorker(engine, store, temperature=0.0), [ask(task(YES_NO)), ask(task(YES_NO), kin="plain")])
    assert [reply.text for reply in found] == ["no", "no"]
    for request in engine.requests:
        assert request.options == (" yes", " no")
        assert request.prompt.endswith("Answer with one of: yes, no.\n\nAnswer:")
        assert request.max_new_tokens == 1
        assert request.sampling == Sampling()


@pytest.mark.parametrize(
    ("schema", "budget", "stop"),
    [
        (NumberSchema(), 96, ("\n",)),
        (TextSchema(max_chars=60), 28, ('"\n', "\n\n")),
        (TextSchema(max_chars=100_000), 384, ('"\n', "\n\n")),
        (TextSchema(max_chars=60, is_one_line=True), 28, ('"\n', "\n")),
        (ItemsSchema(max_items=3, max_item_chars=50), 58, ("\n\n",)),
        (ItemsSchema(max_items=30, max_item_chars=1000), 384, ("\n\n",)),
        (SpansSchema(text="a" * 31), 18, ("\n\n",)),
        (SpansSchema(text="a" * 3100), 256, ("\n\n",)),
        (FieldsSchema(names=("a", "b", "c")), 160, ("\n\n",)),
    ],
)
def test_budget_and_stop_depend_on_the_schema(store, schema, budget, stop):
    engine = ScriptedEngine(CARDS)
    replies(PoolWorker(engine, store), [ask(task(schema), kin="plain")])
    (request,) = engine.requests
    assert (request.max_new_tokens, request.stop) == (budget, stop)
    assert token_budget(schema) == budget


def test_no_budget_is_beyond_the_model_s_own(store):
    engine = ScriptedEngine([scripted_card("short", max_new_tokens=7)])
    replies(PoolWorker(engine, store), [ask(task(), kin="short")])
    assert engine.requests[0].max_new_tokens == 7


def test_text_is_sampled_with_the_ask_s_seed_and_without_temperature_not_at_all(store):
    engine = ScriptedEngine(CARDS)
    replies(PoolWorker(engine, store, temperature=0.3), [ask(task(), seed=17)])
    replies(PoolWorker(engine, store, temperature=0.0), [ask(task(), seed=17)])
    assert [request.sampling for request in engine.requests] == [Sampling(temperature=0.3, seed=17), Sampling()]


def test_persona_inputs_of_the_slot_and_the_last_refusal_are_said(store):
    engine = ScriptedEngine(CARDS)
    subtask = task(redundancy=2, inputs_by_slot=({"ideas": ["one", "two"]}, {"ideas": ["two", "one"]}))
    asked = ask(subtask, slot=1, persona="You are kind.", refusals=("it was too long", "it was empty"))
    replies(PoolWorker(engine, store), [asked])
    (message,) = engine.requests[0].prompt
    assert message.content == (
        "You are kind.\n\nSay it.\n\ngoal: a poem\n\nideas:\n1. two\n2. one\n\n"
        "An earlier answer was refused: it was empty.\n\n"
        "Answer with the text alone, without quotes and without remarks."
    )


def test_long_inputs_and_those_of_several_lines_stand_below_their_name():
    def shown(value):
        subtask = SubTask(name="n", role="r", instructions="?", schema=YES_NO, inputs={"goal": value})
        return subtask_text(subtask, 0).split("\n\n")[1]

    assert shown("a" * 60) == "goal: " + "a" * 60
    assert shown("a" * 61) == "goal:\n" + "a" * 61
    assert shown("a\nb") == "goal:\na\nb"


# -- what is asked --


def test_equal_requests_are_asked_once_and_what_is_stored_not_at_all(store):
    engine = ScriptedEngine(CARDS)
    worker = PoolWorker(engine, store, temperature=0.7)
    asks = [ask(task(), seed=3), ask(task(), seed=5), ask(task(), seed=3), ask(task(), kin="plain", seed=3)]
    found = replies(worker, asks)
    assert len(engine.requests) == 3
    assert found[0] == found[2]
    again = replies(worker, [*asks, ask(task(), seed=7)])
    assert again[:4] == found
    assert len(engine.requests) == 4
    fresh = ScriptedEngine(CARDS)
    assert replies(PoolWorker(fresh, store, temperature=0.7), asks) == found
    assert fresh.requests == []


def test_slots_with_one_order_of_options_share_a_request_and_draw_by_themselves(store):
    engine = ScriptedEngine(CARDS)
    asks = [ask(task(YES_NO, redundancy=97), slot=slot, seed=slot) for slot in range(97)]
    found = replies(PoolWorker(engine, store, temperature=1.0), asks)
    assert len(engine.requests) == 1
    assert {reply.text for reply in found} == {"yes", "no"}


def test_a_prompt_that_is_too_long_is_a_refused_answer_and_no_crash(tmp_path, store):
    cards = [scripted_card("tiny", context_window=29), scripted_card("wide")]
    engine = ScriptedEngine(cards, lambda card, request: card.name)
    long = SubTask(name="n", role="r", instructions="Say " * 53, schema=TextSchema(max_chars=17), redundancy=2)

    def pipeline():
        return values((yield long))

    outcome = run_crew(pipeline(), Crew(workers={"m": PoolWorker(engine, store)}, roles={"*": "m"}), tmp_path)
    assert outcome.result == ["wide"]
    assert {request.model for request in engine.requests} == {"wide"}
    assert outcome.spent.num_calls == 1 + 3
    only = PoolWorker(engine, store, models=("tiny",))
    outcome = run_crew(pipeline(), Crew(workers={"m": only}, roles={"*": "m"}), tmp_path, run="tiny")
    assert outcome.status == "failed"
    assert "must fit the context window of tiny, 29 tokens" in outcome.reason
    assert outcome.spent.cost == 0


def test_cost_is_in_thousands_of_tokens_of_the_dearest_model(store):
    engine = ScriptedEngine(CARDS, lambda card, request: " yes" if request.options else " three words here")
    worker = PoolWorker(engine, store)
    asks = [ask(task()), ask(task(), kin="plain"), ask(task(YES_NO), kin="plain")]
    chatty, plain, choice = replies(worker, asks)
    prompts = [len(engine.encode(request).token_ids) for request in engine.requests]
    by_kind = {(one.model, bool(one.options)): num for one, num in zip(engine.requests, prompts, strict=True)}
    assert chatty.text == plain.text == "three words here"
    assert chatty.cost == pytest.approx((by_kind["chatty", False] + 4) * 2.0 / 5.0 / 1000)
    assert plain.cost == pytest.approx((by_kind["plain", False] + 4) / 1000)
    assert choice.cost == pytest.approx((by_kind["plain", True] + 1) / 1000)


# -- drawn options --


def test_options_are_drawn_with_their_probabilities():
    probabilities = {"a": 0.1, "b": 0.3, "c": 0.6}
    logprobs = [math.log(one) for one in probabilities.values()]
    num = 10_007
    drawn = Counter(drawn_option(list(probabilities), logprobs, 1.0, seed=seed) for seed in range(num))
    for option, probability in probabilities.items():
        assert drawn[option] / num == pytest.approx(
            probability, abs=4 * math.sqrt(probability * (1 - probability) / num)
        )
    sharper = {option: one**2 / sum(p**2 for p in probabilities.values()) for option, one in probabilities.items()}
    drawn = Counter(drawn_option(list(probabilities), logprobs, 0.5, seed=seed) for seed in range(num))
    for option, probability in sharper.items():
        assert drawn[option] / num == pytest.approx(
            probability, abs=4 * math.sqrt(probability * (1 - probability) / num)
        )


def test_draws_depend_on_the_seed_alone_and_stand_extremes():
    assert {drawn_option(["a", "b"], [-1.0, -1.0], 1.0, seed=7) for _ in range(11)} in ({"a"}, {"b"})
    assert {drawn_option(["a", "b"], [-1.0, -1e5], 1.0, seed=seed) for seed in range(97)} == {"a"}
    assert {drawn_option(["a", "b"], [-2.0, -1.0], 1e-308, seed=seed) for seed in range(97)} == {"b"}
    assert {drawn_option(["a", "b"], [-1e5, -1e5 - 1], 1e9, seed=seed) for seed in range(97)} == {"a", "b"}
    assert {drawn_option(["a", "b"], [-math.inf, -1.0], 1.0, seed=seed) for seed in range(97)} == {"b"}
    assert {drawn_option(["a", "b"], [-math.inf, -math.inf], 1e-3, seed=seed) for seed in range(97)} == {"a", "b"}


def test_a_worker_draws_at_its_temperature_and_takes_what_the_engine_chose_at_zero(store):
    engine = ScriptedEngine(CARDS, lambda card, request: request.options[1])
    schema = ChoiceSchema(options=("first", "second", "third"))
    asks = [ask(task(schema), seed=seed) for seed in range(997)]
    assert {reply.text for reply in replies(PoolWorker(engine, store, temperature=0.0), asks)} == {"second"}
    (response,) = ScriptedEngine(CARDS, lambda card, request: request.options[1]).generate(engine.requests)
    drawn = Counter(reply.text for reply in replies(PoolWorker(engine, store, temperature=1.0), asks))
    assert len(engine.requests) == 1
    for option, logprob in zip(schema.options, response.option_logprobs, strict=True):
        expected = math.exp(logprob)
        assert drawn[option] / 997 == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 997))


# -- who is asked --


def names(worker, subtask, step="step"):
    return [one.name for one in worker.assign(subtask, step)]


def test_models_take_turns_from_one_that_the_step_decides(store):
    cards = [scripted_card(name) for name in ("ada", "bo", "cy")]
    worker = PoolWorker(ScriptedEngine(cards), store)
    firsts = Counter()
    for number in range(97):
        found = names(worker, task(redundancy=7), f"{number}:n")
        assert found == names(worker, task(redundancy=7), f"{number}:n")
        assert {name[:-2] for name in found[:3]} == {"ada", "bo", "cy"}
        assert [name[-1] for name in found] == list("0001112")
        assert [name[:-2] for name in found[:3]] * 2 == [name[:-2] for name in found[:6]]
        firsts[found[0]] += 1
    assert set(firsts) == {"ada#0", "bo#0", "cy#0"}
    assert min(firsts.values()) > 15


def test_barred_samples_are_passed_over_and_with_bars_kin_their_model(store):
    engine = ScriptedEngine(CARDS)
    subtask = task(redundancy=3, barred=("chatty#0", "plain#1"), asked_before=("plain#2",))
    assert sorted(names(PoolWorker(engine, store), subtask)) == ["chatty#1", "chatty#2", "plain#0"]
    subtask = task(redundancy=3, barred=("chatty#7",), asked_before=("plain#0",))
    assert names(PoolWorker(engine, store, bars_kin=True), subtask) == ["plain#1", "plain#2", "plain#3"]


def test_a_worker_may_be_some_of_the_pool_s_models_with_personas(store):
    engine = ScriptedEngine(CARDS)
    assert PoolWorker(engine, store).models == ("chatty", "plain")
    worker = PoolWorker(engine, store, models=("plain",), personas=("Kind.", "Brief."))
    found = worker.assign(task(redundancy=3), "step")
    assert [(one.name, one.kin, one.persona) for one in found] == [
        ("plain#0", "plain", "Kind."),
        ("plain#1", "plain", "Brief."),
        ("plain#2", "plain", "Kind."),
    ]
    both = PoolWorker(engine, store, personas=("Kind.", "Brief.", "Odd."))
    assert [one.persona for one in both.assign(task(redundancy=5), "step")] == [
        "Kind.",
        "Brief.",
        "Odd.",
        "Kind.",
        "Brief.",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("plain", "huge")}, r"of the pool \(chatty, plain\), but are \['huge'\]"),
        ({"models": ("plain", "plain")}, "each be named once, but are plain, plain"),
        ({"temperature": -0.5}, r"temperature must be finite and >= 0, but is -0\.5"),
        ({"temperature": math.nan}, "temperature must be finite and >= 0, but is nan"),
    ],
)
def test_workers_that_cannot_be(store, options, message):
    with pytest.raises(ConfigError, match=message):
        PoolWorker(ScriptedEngine(CARDS), store, **options)


def test_a_run_of_redundant_text_differs_by_model_and_sample_and_is_refused_anew(tmp_path, store):
    """Samples of one model have seeds of their own; a refused answer is asked again with another."""

    def respond(card, request):
        return "none" if request.sampling.seed % 3 == 0 else str(request.sampling.seed)

    engine = ScriptedEngine(CARDS, respond)

    def pipeline():
        return values((yield task(NumberSchema(), redundancy=11, min_contributions=0)))

    crew = Crew(workers={"m": PoolWorker(engine, store)}, roles={"*": "m"}, max_attempts=5)
    outcome = run_crew(pipeline(), crew, tmp_path)
    assert len(set(outcome.result)) == len(outcome.result) == 11
    seeds = [request.sampling.seed for request in engine.requests]
    assert len(set(seeds)) == len(seeds) == 11 + sum(seed % 3 == 0 for seed in seeds)
    assert len(seeds) > 11
