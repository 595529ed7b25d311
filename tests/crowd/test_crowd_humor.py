"""Jokes step by step: orders, what each step is shown, votes on requirements, jokes written anew."""

from __future__ import annotations

import random

import pytest
from crowd_runs import asked_names, run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.humor import HumorConfig, humor, one_prompt
from hierrouter_jax.crowd.output_schemas import FieldsSchema, Refused
from hierrouter_jax.crowd.subtasks import SubTask

HEADLINE = "Town hires goat to mow its lawns"
ANSWERS = {
    "aspects": "thing: the lawns\n- Person: the mayor\nACTION: hiring a goat",
    "reactions": "Laughter because a goat is no clerk",
    "associations": "object: lawn mower\nsaying: to get one's goat",
    "belief": "Kind: motive\nBelief: the town saves money",
    "violation": "kind: Sarcasm\nviolation: the goat is its best clerk",
    "write": "At last a clerk who works through lunch.",
}
KNOWN = {
    "aspects": ["thing: the lawns", "Person: the mayor", "ACTION: hiring a goat"],
    "reactions": ["Laughter because a goat is no clerk"],
    "associations": ["object: lawn mower", "saying: to get one's goat"],
    "belief": ["motive: the town saves money"],
    "violation": ["sarcasm: the goat is its best clerk"],
}
STEPS = [*KNOWN, "write"]
VOTES = ["has-violation"] * 5 + ["has-belief"] * 5 + ["has-connections"] * 5


def jokers(votes, **answers):
    """Workers whose joke number k (from 0) is "joke k"; `votes` says, of joke k, how many say yes to each question."""
    written = []

    def respond(ask):
        name = ask.subtask.name
        if name == "write":
            written.append(ask)
            return answers.get("write", lambda ask: f"joke {len(written) - 1}")(ask)
        if name.startswith("has-"):
            own = votes[int(ask.subtask.inputs["joke"].removeprefix("joke "))]
            return "yes" if ask.slot < own[["has-violation", "has-belief", "has-connections"].index(name)] else "no"
        return answers.get(name, ANSWERS.get(name))

    return respond


def test_perfect_workers_write_a_complete_joke_in_the_published_order(tmp_path):
    worker = scripted(ANSWERS | dict.fromkeys(VOTES, "yes"))
    outcome = run_scripted(humor(HEADLINE, HumorConfig()), worker, tmp_path)
    assert asked_names(worker) == STEPS + VOTES
    assert [ask.subtask.role for ask in worker.asked] == STEPS + ["evaluate"] * 15
    assert outcome.result == {
        "joke": "At last a clerk who works through lunch.",
        "is_complete": True,
        "missing": [],
        **KNOWN,
        "left_out": [],
    }


def test_each_step_is_shown_all_that_is_known(tmp_path):
    worker = scripted(ANSWERS | dict.fromkeys(VOTES, "yes"))
    run_scripted(humor(HEADLINE, HumorConfig(min_connections=3)), worker, tmp_path)
    shown = {"headline": HEADLINE}
    for ask in worker.asked[:6]:
        assert ask.subtask.inputs_of(0) == shown
        if ask.subtask.name in KNOWN:
            shown |= {ask.subtask.name: KNOWN[ask.subtask.name]}
    joke = {"headline": HEADLINE, "joke": ANSWERS["write"]}
    assert [worker.asked[place].subtask.inputs_of(0) for place in (6, 11, 16)] == [
        joke,
        joke,
        joke | {"connections needed": "at least 3"},
    ]


def test_another_order_with_repeated_steps(tmp_path):
    """A second round of associations sees the first one, adds what is new, and sees the joke so far."""
    order = ("belief", "associations", "write", "associations", "associations", "write", "evaluate")
    lists = iter(["object: hay", "OBJECT:  Hay\nevent: a county fair", "person: a shepherd"])
    found_by = {}

    def respond(ask):
        if ask.subtask.name == "associations":
            found_by[len(found_by)] = dict(ask.subtask.inputs)
            return next(lists)
        return jokers([(0, 0, 0), (3, 4, 5)])(ask) if ask.subtask.name != "write" else write(ask)

    def write(ask):
        return "joke 1" if "joke so far" in ask.subtask.inputs else "joke 0"

    worker = scripted(respond)
    outcome = run_scripted(humor(HEADLINE, HumorConfig(order=order)), worker, tmp_path)
    assert asked_names(worker) == list(order[:-1]) + VOTES
    belief = {"headline": HEADLINE, "belief": KNOWN["belief"]}
    assert list(found_by.values()) == [
        {"headline": HEADLINE} | {"belief": KNOWN["belief"]},
        belief | {"associations": ["object: hay"], "joke so far": "joke 0"},
        belief | {"associations": ["object: hay", "event: a county fair"], "joke so far": "joke 0"},
    ]
    assert outcome.result["associations"] == ["object: hay", "event: a county fair", "person: a shepherd"]
    assert (outcome.result["joke"], outcome.result["is_complete"]) == ("joke 1", True)
    assert (outcome.result["aspects"], outcome.result["reactions"]) == ([], [])


@pytest.mark.parametrize(
    ("votes", "missing"),
    [
        ((3, 3, 3), []),
        ((2, 3, 3), ["violation"]),
        ((5, 2, 5), ["belief"]),
        ((5, 5, 2), ["connections"]),
        ((0, 5, 0), ["violation", "connections"]),
    ],
)
def test_a_requirement_needs_more_than_half_of_its_votes(tmp_path, votes, missing):
    outcome = run_scripted(humor(HEADLINE, HumorConfig(max_rounds=1)), scripted(jokers([votes])), tmp_path)
    assert outcome.result["missing"] == missing
    assert outcome.result["is_complete"] == (not missing)


def test_half_of_an_even_number_of_votes_is_not_enough(tmp_path):
    config = HumorConfig(num_evaluators=4, max_rounds=1)
    assert run_scripted(humor(HEADLINE, config), scripted(jokers([(2, 3, 4)])), tmp_path).result["missing"] == [
        "violation"
    ]


def test_of_n_evaluators_one_usable_one_decides(tmp_path):
    def respond(ask):
        is_garbage = ask.subtask.name.startswith("has-") and ask.slot != 3
        return "hm" if is_garbage else jokers([(5, 5, 5)], write=lambda ask: "joke 0")(ask)

    assert run_scripted(humor(HEADLINE, HumorConfig()), scripted(respond), tmp_path).result["is_complete"]


def test_a_joke_that_lacks_something_is_written_again_with_what_it_lacks(tmp_path):
    worker = scripted(jokers([(5, 0, 2), (5, 5, 5)]))
    outcome = run_scripted(humor(HEADLINE, HumorConfig()), worker, tmp_path)
    assert asked_names(worker) == STEPS + VOTES + ["write"] + VOTES
    again = worker.asked[21].subtask
    assert again.inputs["joke so far"] == "joke 0"
    assert again.inputs["it lacks"] == [
        "a belief that it leads readers to",
        "at least 2 connections to the headline",
    ]
    assert again.inputs["aspects"] == KNOWN["aspects"]
    assert (outcome.result["joke"], outcome.result["is_complete"]) == ("joke 1", True)
    with pytest.raises(Refused, match="must differ"):
        again.schema.parse("joke 0")


@pytest.mark.parametrize(
    ("votes", "best", "missing"),
    [
        ([(5, 0, 0), (5, 5, 0), (3, 0, 3)], 1, ["connections"]),  # 1, 2, 2 met, and 10 votes against 6
        ([(5, 0, 3), (4, 4, 0), (4, 5, 0)], 2, ["connections"]),  # 2 met each: 8, 8, 9 votes
        ([(3, 3, 2), (2, 3, 3), (3, 2, 3)], 0, ["connections"]),  # all the same: the first
        ([(2, 2, 2), (3, 0, 0), (2, 2, 2)], 1, ["belief", "connections"]),  # more met beats more votes
    ],
)
def test_after_the_last_round_the_best_joke_so_far_is_returned(tmp_path, votes, best, missing):
    worker = scripted(jokers(votes))
    outcome = run_scripted(humor(HEADLINE, HumorConfig()), worker, tmp_path)
    assert asked_names(worker).count("write") == 3
    assert asked_names(worker)[-15:] == VOTES
    assert (outcome.result["joke"], outcome.result["missing"]) == (f"joke {best}", missing)
    assert outcome.result["is_complete"] is False


def test_nobody_who_wrote_on_a_joke_votes_on_it(tmp_path):
    worker = scripted(jokers([(0, 0, 0), (0, 0, 0)]), kins=("ann", "bo"))

    class Alternating:
        """Writes are given to ann#0 and bo#0 in turn, as a pool gives its steps to models in turn."""

        def __init__(self):
            self.turn = 0

        def assign(self, subtask, step):
            found = worker.assign(subtask, step)
            if subtask.name != "write":
                return found
            self.turn += 1
            return worker.assign(subtask, step) if self.turn % 2 else scripted(str, kins=("bo",)).assign(subtask, step)

        def answer(self, asks, on_reply):
            worker.answer(asks, on_reply)

    run_scripted(humor(HEADLINE, HumorConfig(max_rounds=2)), Alternating(), tmp_path)
    writers = [ask.contributor.name for ask in worker.asked if ask.subtask.name == "write"]
    assert writers == ["ann#0", "bo#0"]
    votes = [ask for ask in worker.asked if ask.subtask.name.startswith("has-")]
    assert {ask.subtask.barred for ask in votes[:15]} == {("ann#0",)}
    assert {ask.subtask.barred for ask in votes[15:]} == {("ann#0", "bo#0")}
    assert not {ask.contributor.name for ask in votes[15:]} & set(writers)


def test_an_order_that_evaluates_twice_goes_on_with_what_was_missing(tmp_path):
    order = ("write", "evaluate", "violation", "write", "evaluate", "reactions", "write", "evaluate")
    worker = scripted(jokers([(0, 5, 5), (5, 5, 5)]))
    outcome = run_scripted(humor(HEADLINE, HumorConfig(order=order, max_rounds=1)), worker, tmp_path)
    assert asked_names(worker) == ["write", *VOTES, "violation", "write", *VOTES]  # complete: the rest is not needed
    lacking = {"headline": HEADLINE, "joke so far": "joke 0", "it lacks": ["something that breaks what readers expect"]}
    assert worker.asked[16].subtask.inputs == lacking
    assert worker.asked[17].subtask.inputs == lacking | {"violation": KNOWN["violation"]}
    assert outcome.result["joke"] == "joke 1"


def test_a_better_joke_of_an_earlier_evaluation_is_kept(tmp_path):
    order = ("write", "evaluate", "write", "evaluate")
    outcome = run_scripted(
        humor(HEADLINE, HumorConfig(order=order, max_rounds=1)), scripted(jokers([(5, 5, 0), (5, 0, 0)])), tmp_path
    )
    assert (outcome.result["joke"], outcome.result["missing"]) == ("joke 0", ["connections"])


def test_a_step_that_fails_is_left_out_and_the_others_go_on(tmp_path):
    worker = scripted(jokers([(5, 5, 5)], aspects="the lawns", belief="kind: whim\nbelief: none"))
    outcome = run_scripted(humor(HEADLINE, HumorConfig()), worker, tmp_path)
    assert asked_names(worker)[:9] == ["aspects"] * 3 + ["reactions", "associations"] + ["belief"] * 3 + ["violation"]
    assert outcome.result["left_out"] == ["aspects", "belief"]
    assert (outcome.result["aspects"], outcome.result["belief"]) == ([], [])
    assert outcome.result["is_complete"]
    refusal = worker.asked[1].refusals[0]
    assert "a kind (thing, person, action, belief), a colon and the aspect" in refusal


def test_without_a_joke_or_a_judge_the_run_fails(tmp_path):
    outcome = run_scripted(humor(HEADLINE, HumorConfig()), scripted(jokers([], write=lambda ask: "")), tmp_path)
    assert outcome.status == "failed"
    assert "Sub-task write needs 1 usable answers" in outcome.reason
    alone = scripted(jokers([(5, 5, 5)]), kins=("ann",), bars_kin=True)
    outcome = run_scripted(humor(HEADLINE, HumorConfig()), alone, tmp_path, run="alone")
    assert outcome.status == "failed"
    assert "set bars_kin to false" in outcome.reason


@pytest.mark.parametrize("order", [HumorConfig().order, ("write", "evaluate", "write", "evaluate")])
def test_where_no_other_joke_can_be_written_the_first_is_returned(tmp_path, order):
    worker = scripted(jokers([(5, 0, 5)], write=lambda ask: "joke 0"))
    outcome = run_scripted(humor(HEADLINE, HumorConfig(order=order)), worker, tmp_path)
    assert (outcome.result["joke"], outcome.result["missing"]) == ("joke 0", ["belief"])
    assert outcome.result["left_out"] == (["write"] if order.count("write") == 2 else [])


@pytest.mark.parametrize(
    ("step", "text", "reason"),
    [
        ("aspects", "thing: the lawn\nweather: rain", "each item must be a kind"),
        ("aspects", "thing: ...", "each item must be a kind"),
        ("associations", "synonym: turf", r"each item must be a kind \(object, person, place, event, saying, opposite"),
        ("reactions", "They will laugh", 'the word "because"'),
        ("reactions", "because it is funny", 'the word "because"'),
        ("belief", "kind: magic\nbelief: yes", "must be one of motive, character"),
        ("belief", "the town saves money", "must be a line for kind, belief"),
        ("violation", "kind: pun\nviolation: a goat", "must be one of sarcasm, angle"),
    ],
)
def test_what_a_step_refuses(tmp_path, step, text, reason):
    worker = scripted(jokers([(5, 5, 5)], write=lambda ask: "joke 0", **{step: text}))
    run_scripted(humor(HEADLINE, HumorConfig(order=(step, "write", "evaluate"))), worker, tmp_path)
    assert asked_names(worker)[:4] == [step] * 3 + ["write"]
    with pytest.raises(Refused, match=reason):
        worker.asked[0].subtask.schema.parse(text)


def test_fields_come_from_the_journal_in_the_order_in_which_they_came_first(tmp_path):
    def pipeline():
        schema = FieldsSchema(names=("why", "how", "what"))
        (found,) = yield SubTask(name="say", role="any", instructions="Say.", schema=schema)
        return list(found.value.items())

    said = scripted({"say": "what: 3\nhow: 2\nwhy: 1"})
    first = run_scripted(pipeline(), said, tmp_path).result
    assert first == [("why", "1"), ("how", "2"), ("what", "3")]
    assert run_scripted(pipeline(), scripted(str), tmp_path).result == first


def test_the_numbers_of_the_paper_are_the_defaults():
    config = HumorConfig()
    kinds = (config.aspect_kinds, config.association_kinds, config.belief_kinds, config.violation_kinds)
    assert [len(own) for own in kinds] == [4, 6, 8, 2]
    assert (config.min_connections, config.num_evaluators, config.max_rounds) == (2, 5, 3)
    assert config.order == (*STEPS, "evaluate")


def test_a_second_run_asks_nothing_and_order_of_arrival_does_not_matter(tmp_path):
    class Shuffled:
        def __init__(self, seed):
            self.random = random.Random(seed)
            self.inner = scripted(jokers([(3, 2, 5), (5, 4, 1), (5, 5, 0)]))

        def assign(self, subtask, step):
            return self.inner.assign(subtask, step)

        def answer(self, asks, on_reply):
            replies = []
            self.inner.answer(asks, lambda index, reply: replies.append((index, reply)))
            self.random.shuffle(replies)
            for index, reply in replies:
                on_reply(index, reply)

    results = [
        run_scripted(humor(HEADLINE, HumorConfig()), Shuffled(seed), tmp_path, run=f"run-{seed}").result
        for seed in range(3)
    ]
    assert results[0]["joke"] == "joke 0"  # two of three met, with 10 votes
    assert results[0] == results[1] == results[2]
    silent = scripted(lambda ask: "")
    again = run_scripted(humor(HEADLINE, HumorConfig()), silent, tmp_path, run="run-1")
    assert (again.result, silent.asked) == (results[0], [])


def test_one_prompt(tmp_path):
    worker = scripted({"one-prompt": '"A goat walks into a town hall."'})
    outcome = run_scripted(one_prompt(HEADLINE, HumorConfig()), worker, tmp_path)
    assert outcome.result == {"joke": "A goat walks into a town hall."}
    assert [ask.subtask.role for ask in worker.asked] == ["one_prompt"]
    with pytest.raises(DataError, match="headline must hold text"):
        next(humor(" ", HumorConfig()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_evaluators": 0}, "num_evaluators must be >= 1, but is 0"),
        ({"max_rounds": 0}, "max_rounds must be >= 1"),
        ({"min_connections": 0}, "min_connections must be >= 1"),
        ({"aspect_kinds": ("thing",)}, "aspect_kinds must be two or more"),
        ({"belief_kinds": ("skill", "Skill ")}, "belief_kinds must be two or more different words"),
        ({"association_kinds": ("a", "")}, "association_kinds must be"),
        ({"violation_kinds": ("a:b", "c")}, "without a colon"),
        ({"order": ("write", "laugh", "evaluate")}, r"but \['laugh'\] are among them"),
        ({"order": ()}, "but is empty"),
        ({"order": ("aspects", "evaluate")}, "must write before it evaluates"),
        ({"order": ("aspects", "write")}, "evaluate after it last writes, but is aspects, write"),
        ({"order": ("evaluate", "write", "evaluate")}, "must write before it evaluates"),
        ({"order": ("write", "evaluate", "write")}, "evaluate after it last writes"),
    ],
)
def test_configs_that_judge_nothing_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        HumorConfig(**fields)
