"""Counterbalanced votes: every candidate under every label, so that a model's taste for labels decides nothing."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from hierrouter_jax.core.text import Response
from hierrouter_jax.crowd.crew import crew_from_json
from hierrouter_jax.crowd.open_crew import Openers, open_crew
from hierrouter_jax.crowd.output_schemas import YES_NO, ChoiceSchema, TextSchema
from hierrouter_jax.crowd.subtasks import SubTask
from hierrouter_jax.crowd.votes import LABELS, is_vote, mean_over_rotations, rotations
from hierrouter_jax.crowd.workers.pool_worker import PoolWorker
from hierrouter_jax.crowd.workers.worker import Ask, Contributor
from hierrouter_jax.llm.scripted_engine import ScriptedEngine, scripted_card
from hierrouter_jax.store.response_store import ResponseStore

WORTH = {"pear": 0.0, "fig": 0.7, "kiwi": -0.3, "lime": 0.2, "plum": -1.1}
ITEMS = tuple(WORTH)


class FondOfA(ScriptedEngine):
    """Ranks options by what they stand for, and by `fondness` of the first label, which outweighs it."""

    def __init__(self, *, fondness=5.0):
        super().__init__([scripted_card("judge", base_rate=2.0)], lambda card, request: request.options[0])
        self._fondness = fondness

    def generate_iter(self, requests):
        for batch in super().generate_iter(requests):
            yield [(place, self._ranked(requests[place], response)) for place, response in batch]

    def _ranked(self, request, response: Response) -> Response:
        shown = dict(line.split(": ", 1) for line in request.prompt.split("\n\n") if line[1:3] == ": ")
        values = [WORTH[shown[option.strip()]] for option in request.options]
        values[0] += self._fondness
        total = math.log(sum(map(math.exp, values)))
        logprobs = tuple(value - total for value in values)
        best = max(range(len(logprobs)), key=logprobs.__getitem__)
        return replace(response, text=request.options[best], option_logprobs=logprobs, logprob=logprobs[best])


@pytest.fixture
def store(tmp_path):
    with ResponseStore(tmp_path / "store.sqlite") as opened:
        yield opened


def voting(*orders):
    labels = LABELS[: len(orders[0])]
    return SubTask(
        name="vote",
        role="vote",
        instructions="Which is best?",
        schema=ChoiceSchema(options=tuple(labels)),
        inputs_by_slot=tuple(dict(zip(labels, order, strict=True)) for order in orders),
        redundancy=len(orders),
    )


def chosen(worker, subtask, *, seed=3):
    """What the slots' labels stand for, and what the answers cost."""
    contributor = Contributor(name="judge#0", kin="judge", persona="")
    asks = [
        Ask(subtask=subtask, slot=slot, contributor=contributor, seed=seed + slot, refusals=())
        for slot in range(subtask.redundancy)
    ]
    replies = {}
    worker.answer(asks, replies.__setitem__)
    found = [replies[slot] for slot in range(subtask.redundancy)]
    return [subtask.inputs_of(slot)[reply.text] for slot, reply in enumerate(found)], [one.cost for one in found]


@pytest.mark.parametrize("num", [2, 3, 5])
def test_every_candidate_stands_once_under_every_label_and_other_slots_stay(num):
    subtask = voting(ITEMS[:num], ITEMS[:num][::-1])
    views = rotations(subtask, 1)
    assert views[0] == subtask
    for view in views:
        assert (view.inputs_of(0), view.schema) == (subtask.inputs_of(0), subtask.schema)
    for label in subtask.schema.options:
        assert {view.inputs_of(1)[label] for view in views} == set(ITEMS[:num])


@pytest.mark.parametrize("num", [2, 3, 5, 7])
def test_what_is_thought_of_labels_is_the_same_for_all_candidates(num):
    """An identity: with log-probability taste(label) + worth(candidate), the means differ by worth alone."""
    draw = random.Random(num)
    for _ in range(31):
        worth, taste = ([draw.gauss(0, 3) for _ in range(num)] for _ in range(2))
        found = mean_over_rotations(
            [[taste[label] + worth[(label + shift) % num] for label in range(num)] for shift in range(num)]
        )
        taste_of_all = sum(taste) / num
        assert found == pytest.approx([one + taste_of_all for one in worth])


def test_one_view_alone_is_its_own_mean():
    assert mean_over_rotations([[-1.5, -0.25, -3.0]]) == [-1.5, -0.25, -3.0]


def test_candidates_that_look_alike_are_one_request_and_one_answer(store):
    engine = FondOfA()
    found, _ = chosen(PoolWorker(engine, store), voting(("fig", "fig")))
    assert (found, len(engine.requests)) == (["fig"], 1)


@pytest.mark.parametrize("num", [2, 3, 5])
def test_a_model_that_says_a_whatever_it_stands_for_chooses_by_worth_when_counterbalanced(store, num):
    best = max(ITEMS[:num], key=WORTH.__getitem__)
    orders = [ITEMS[shift:num] + ITEMS[:shift] for shift in range(num)]
    fair, _ = chosen(PoolWorker(FondOfA(), store, temperature=0.0), voting(*orders))
    assert fair == [best] * num
    fond, _ = chosen(PoolWorker(FondOfA(), store, temperature=0.0, counterbalances=False), voting(*orders))
    assert fond == [order[0] for order in orders]


def test_draws_follow_the_means(store):
    worker = PoolWorker(FondOfA(), store, temperature=1.0)
    num = 1009
    found, _ = chosen(worker, voting(*[ITEMS[:2]] * num))
    expected = math.exp(WORTH["fig"]) / (math.exp(WORTH["pear"]) + math.exp(WORTH["fig"]))
    deviation = math.sqrt(expected * (1 - expected) / num)
    assert found.count("fig") / num == pytest.approx(expected, abs=4 * deviation)


def test_orders_that_are_rotations_of_each_other_share_requests_and_each_answer_pays_for_all(store):
    engine = FondOfA()
    _, costs = chosen(PoolWorker(engine, store), voting(ITEMS[:3], ITEMS[1:3] + ITEMS[:1]))
    assert len(engine.requests) == 3
    tokens = sum(len(engine.encode(request).token_ids) + 1 for request in engine.requests)
    assert costs == [pytest.approx(tokens / 1000)] * 2
    once = FondOfA()
    chosen(PoolWorker(once, store, counterbalances=False), voting(ITEMS[:3], ITEMS[1:3] + ITEMS[:1]))
    assert once.requests == []  # both orders stood among the rotations


def test_what_is_half_stored_is_asked_for_the_other_half(store):
    first = FondOfA()
    chosen(PoolWorker(first, store, counterbalances=False), voting(ITEMS[:2]))
    assert len(first.requests) == 1
    second = FondOfA()
    assert chosen(PoolWorker(second, store, temperature=0.0), voting(ITEMS[:2]))[0] == ["fig"]
    assert len(second.requests) == 1
    assert second.requests != first.requests


def test_a_vote_that_does_not_fit_is_refused_once(store):
    engine = ScriptedEngine([scripted_card("judge", context_window=23)])
    asks = [
        Ask(subtask=voting(ITEMS), slot=0, contributor=Contributor(name="judge#0", kin="judge"), seed=1, refusals=())
    ]
    found = []
    PoolWorker(engine, store).answer(asks, lambda index, reply: found.append((index, reply)))
    ((index, reply),) = found
    assert index == 0
    assert "must fit the context window of judge" in reply.failure


def test_what_is_no_choice_between_shown_candidates_is_no_vote():
    shown = ({"text": "a"}, {"text": "b"})
    yes_no = SubTask(name="n", role="r", instructions="?", schema=YES_NO, inputs_by_slot=shown, redundancy=2)
    text = SubTask(name="n", role="r", instructions="?", schema=TextSchema(), inputs_by_slot=shown, redundancy=2)
    fixed = SubTask(name="n", role="r", instructions="?", schema=YES_NO, inputs={"yes": "a", "no": "b"})
    assert not any(is_vote(one, 0) for one in (yes_no, text, fixed))
    assert is_vote(voting(ITEMS), 0)


@pytest.mark.parametrize(("given", "num_requests"), [({}, 2), ({"counterbalances": False}, 1)])
def test_a_crew_file_says_whether_votes_are_counterbalanced(store, given, num_requests):
    engine = FondOfA()
    config = crew_from_json({"workers": {"w": {"kind": "pool"} | given}, "roles": {"*": "w"}})
    openers = Openers(engine=lambda pool: engine, router=pytest.fail, endpoint=pytest.fail)
    crew = open_crew(config, store, openers, roles=["vote"])
    chosen(crew.workers["w"], voting(ITEMS[:2]))
    assert len(engine.requests) == num_requests
