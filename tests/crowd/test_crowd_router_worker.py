"""A router as a worker: what it is asked, what its answers cost; and a real one, trained on a tree of scripts."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass

import jax
import pytest
from crowd_runs import run_scripted
from scripted_collection import make_engine
from scripted_trees import scripted_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.cli import live_session, main
from hierrouter_jax.cli.crowd_openers import crowd_cost_factor, openers
from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.costs import hop_cost
from hierrouter_jax.crowd.crew import RouterConfig
from hierrouter_jax.crowd.output_schemas import YES_NO, ChoiceSchema, NumberSchema, TextSchema
from hierrouter_jax.crowd.subtasks import Example, SubTask, contributors
from hierrouter_jax.crowd.workers.router_worker import RouterWorker, subtask_row
from hierrouter_jax.crowd.workers.worker import Ask, Contributor
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.evaluate.origins import run_origins
from hierrouter_jax.llm.scripted_engine import scripted_card
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.loop import train_run


@dataclass(frozen=True)
class Routed:
    answer: str
    route: tuple[str, ...] = ("small",)
    cost: float = 0.5


class FakeRouter:
    """Answers rows by a function; `batches` lists what was asked together. Long questions fit no model."""

    def __init__(self, respond, *, max_chars=10_000):
        self.respond, self.max_chars, self.batches = respond, max_chars, []

    def __call__(self, rows):
        self.batches.append(list(rows))
        if long := [row for row in rows if len(row.question) > self.max_chars]:
            raise PromptTooLongError(f"{len(long)} too long")
        return [self.respond(row) for row in rows]


def ask(instructions, schema, *, slot=0, persona="", refusals=(), **fields):
    subtask = SubTask(name="say", role="say", instructions=instructions, schema=schema, redundancy=17, **fields)
    who = Contributor(name=f"router#{slot}", kin="router", persona=persona)
    return Ask(subtask=subtask, slot=slot, contributor=who, seed=0, refusals=refusals)


def answer(worker, asks):
    replies = {}
    worker.answer(asks, lambda index, reply: replies.setdefault(index, reply))
    return [replies[index] for index in range(len(asks))]


@pytest.mark.parametrize("schema", [TextSchema(), NumberSchema(), YES_NO])
def test_a_router_is_asked_without_examples_as_it_was_trained(schema):
    examples = (Example(inputs={"goal": "y"}, answer="yes 7"),)
    asked = subtask_row(ask("Say.", schema, inputs={"goal": "x"}, examples=examples))
    assert asked == subtask_row(ask("Say.", schema, inputs={"goal": "x"}))
    assert asked.question.startswith("Say.\n\ngoal: x\n\nAnswer with ")


def test_a_sub_task_is_an_open_question_in_words():
    row = subtask_row(ask("Say.", TextSchema(), persona="You are terse.", refusals=("too long",), inputs={"goal": "x"}))
    assert (row.task, row.form, row.answer) == ("open", "open", "")
    assert row.question == (
        "You are terse.\n\nSay.\n\ngoal: x\n\nAn earlier answer was refused: too long.\n\n"
        "Answer with the text alone, without quotes and without remarks."
    )


def test_a_choice_is_asked_as_multiple_choice_as_long_as_there_are_letters():
    row = subtask_row(ask("So?", YES_NO))
    assert (row.form, row.choices) == ("choice", ("yes", "no"))
    for num_options, form in ((10, "choice"), (11, "open")):
        options = tuple(f"option {n}" for n in range(num_options))
        row = subtask_row(ask("Which?", ChoiceSchema(options=options)))
        assert (row.form, row.choices) == (form, options if form == "choice" else ())
        assert "option 9" in row.question


def test_all_asks_go_in_one_batch_and_costs_are_brought_to_the_crowds_unit():
    router = FakeRouter(
        lambda row: Routed(row.question[:3], ("small", "large") if "five" in row.question else ("small",))
    )
    worker = RouterWorker(router, cost_factor=0.25)
    asks = [ask(word, NumberSchema(), slot=slot) for slot, word in enumerate(("one", "five5", "two"))]
    replies = answer(worker, asks)
    assert [(reply.text, reply.cost, reply.failure) for reply in replies] == [
        ("one", 0.125, None),
        ("fiv", 0.125, None),
        ("two", 0.125, None),
    ]
    assert [len(batch) for batch in router.batches] == [3]
    assert worker.routes == {("small",): 2, ("small", "large"): 1}


def test_a_sub_task_that_fits_no_model_fails_alone():
    router = FakeRouter(lambda row: Routed("7"), max_chars=200)
    first, second, third = answer(
        RouterWorker(router), [ask(text, NumberSchema()) for text in ("one", "two " * 100, "three")]
    )
    assert (first.text, second.failure, third.text) == ("7", "1 too long", "7")
    assert [len(batch) for batch in router.batches] == [3, 1, 1, 1]


def test_a_router_that_answers_too_little_is_a_defect():
    with pytest.raises(ValueError, match="shorter"):
        answer(RouterWorker(lambda rows: []), [ask("one", NumberSchema())])
    for factor in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="cost_factor must be finite and >= 0"):
            RouterWorker(lambda rows: [], cost_factor=factor)


def test_redundant_answers_differ_by_persona_and_refused_ones_are_asked_again(tmp_path):
    def respond(row):
        number = len(router.batches)
        if row.question.startswith("You count."):
            return Routed("13" if "refused" in row.question else "no idea")
        return Routed(f"{number}")

    def pipeline():
        made = yield SubTask(name="made", role="any", instructions="How many?", schema=NumberSchema(), redundancy=3)
        judged = yield SubTask(
            name="judged", role="any", instructions="So?", schema=NumberSchema(), barred=contributors(made)
        )
        return [(one.contributor, one.kin, one.value) for one in (*made, *judged)]

    router = FakeRouter(respond)
    worker = RouterWorker(router, personas=("You add.", "You count."))
    outcome = run_scripted(pipeline(), worker, tmp_path)
    assert outcome.result == [
        ("router#0", "router", 1),
        ("router#1", "router", 13),
        ("router#2", "router", 1),
        ("router#3", "router", 13),  # persona of the fourth sample, refused once
    ]
    assert [len(batch) for batch in router.batches] == [3, 1, 1, 1]
    assert outcome.spent.cost == pytest.approx(0.5 * 6)
    assert run_scripted(pipeline(), RouterWorker(FakeRouter(respond)), tmp_path).result == outcome.result


# -- a real one --


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run trained on a tree of scripted models, which are also the pool that answers. `engines` are those opened."""
    place, engines = tmp_path_factory.mktemp("routers"), []

    def engine(pool):
        engines.append(make_engine(3))
        return engines[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIERROUTER_CACHE", str(place / "cache"))
        patch.setattr(main, "keep_compiled_programs", lambda: None)
        patch.setattr(live_session, "load_pool", lambda path: path)
        patch.setattr(live_session, "FlaxEngine", engine)
        patch.setattr(live_session, "open_encoder", lambda *source: HashingEncoder(13))
        file = scripted_tree(place)
        config = TrainConfig(num_updates=2, num_envs=8, network=RouterNetConfig(hidden_sizes=(7,)))
        train_run(config, file.train, place / "run", devices=jax.devices()[:1], origins=run_origins(file))
        yield place, engines


def hierrouter(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main.main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


def test_what_a_trained_router_costs_is_what_its_hops_cost(place, tmp_path):
    """By the rule of pools: tokens times base rate, over a thousand tokens of the dearest model."""
    folder, engines = place
    asks = [ask(f"Is it {n}?", YES_NO if n % 2 else TextSchema(), slot=n) for n in range(7)]
    with openers(tmp_path / "store.sqlite") as opening:
        worker = opening.router(RouterConfig(run_dir=str(folder / "run")))
        for one in asks:
            engines[-1].requests.clear()
            (reply,) = answer(worker, [one])
            requests = list(engines[-1].requests)
            hops = [engines[-1].generate([request])[0] for request in requests]
            raw = sum(
                (1.0 + int(request.model[-1])) * (hop.num_prompt_tokens + hop.num_new_tokens)
                for request, hop in zip(requests, hops, strict=True)
            )
            assert reply.cost == pytest.approx(raw / (3.0 * 1000))
            assert reply.text == hops[-1].text.strip()
            assert sum(worker.routes.values()) == one.slot + 1
        assert {len(route) for route in worker.routes} <= {1, 2}
        replies = answer(worker, asks)
    with openers(tmp_path / "store.sqlite") as opening:
        assert answer(opening.router(RouterConfig(run_dir=str(folder / "run"))), asks) == replies
        assert engines[-1].requests == []  # all were in the store


@pytest.mark.parametrize("cost_model", ["base_rate", "flops", "latency", "price"])
def test_a_thousand_tokens_of_the_dearest_model_cost_1_by_every_cost_model(cost_model):
    cards = [
        scripted_card(f"m{rate}", base_rate=rate, num_parameters=int(1e6 * rate), prefill_s_per_token=0.001 * rate,
                      decode_s_per_token=0.1 * rate, price_in_usd_per_mtok=rate, price_out_usd_per_mtok=3.0 * rate)
        for rate in (1.0, 5.0, 2.0)
    ]  # fmt: skip
    raw = hop_cost(cards[1], 900, 100, cost_model=cost_model)
    factor = crowd_cost_factor(cards, cost_model=cost_model, raw_cost_of_one=7.0)
    assert raw / 7.0 * factor == pytest.approx(1.0)
    if cost_model == "base_rate":
        assert factor == pytest.approx(7.0 / (5.0 * 1000))


def test_a_run_of_the_command_by_a_trained_router(place, tmp_path, capfd):
    folder, engines = place
    crew = tmp_path / "crew.toml"
    crew.write_text(
        f'[workers.router]\nkind = "router"\nrun_dir = "{folder / "run"}"\npersonas = ["You add.", "You count."]\n'
        '[roles]\n"*" = "router"\n'
    )
    words = ["crowd", "run", "iterative", "--text", "A goal.", "--crew", crew, "--store", tmp_path / "store.sqlite"]
    words += ["--options", "variant=parallel", "num_creations=3", "num_votes=3"]
    hierrouter(*words, "--json", tmp_path / "first.json")
    outcome = json.loads((tmp_path / "first.json").read_text())
    assert outcome["status"] == "done"
    assert outcome["result"]["text"]
    assert 3 + 2 * 2 <= outcome["num_calls"] <= 3 + 2 * 3
    assert outcome["cost"] > 0
    assert "routes taken: " in capfd.readouterr().err
    hierrouter(*words, "--json", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == outcome
    assert engines[-1].requests == []
    assert "routes taken" not in capfd.readouterr().err
