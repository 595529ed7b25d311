"""Map-reduce articles: who is asked what and when, ratings and ties, facts with sources, headings that fail."""

from __future__ import annotations

import random

import pytest
from crowd_runs import asked_names, run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.map_reduce import (
    FACT,
    FACT_FORM,
    SAMPLE_FACT,
    MapReduceConfig,
    map_reduce,
    one_prompt,
    unused_facts,
)
from hierrouter_jax.crowd.output_schemas import ChoiceSchema, ItemsSchema, Refused, schema_from_json, schema_to_json

OUTLINE = ["Roots", "Bark", "Leaves", "Fruit", "Uses"]
TOPIC = "the walnut tree"
FACTS = ItemsSchema(max_items=3, must_match=FACT, form=FACT_FORM)


def fact_of(section, number):
    return f"Walnut {section.lower()} number{number} grow steadily (source: Orchard Book {number})"


def good_answer(ask):
    """What a perfect worker says."""
    inputs = ask.subtask.inputs_of(ask.slot)
    match ask.subtask.name:
        case "partition" | "combine":
            return "\n".join(OUTLINE)
        case "map":
            return fact_of(inputs["section"], ask.slot)
        case "reduce":
            return " ".join(fact.split(" (source:")[0] + "." for fact in inputs["facts"])
        case "rate":
            return "3"
    raise AssertionError(ask.subtask.name)


def test_perfect_workers_make_a_whole_article_stage_by_stage(tmp_path):
    worker = scripted(good_answer)
    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig(facts_per_heading=2)), worker, tmp_path)
    assert asked_names(worker) == ["partition"] + ["map"] * 10 + ["reduce"] * 5
    assert outcome.result["headings"] == OUTLINE
    assert outcome.result["facts"] == {heading: [fact_of(heading, 0), fact_of(heading, 1)] for heading in OUTLINE}
    assert (outcome.result["unused"], outcome.result["left_out"]) == ([], [])
    paragraph = "Walnut {0} number0 grow steadily. Walnut {0} number1 grow steadily."
    assert outcome.result["text"] == "\n\n".join(f"{one}\n{paragraph.format(one.lower())}" for one in OUTLINE)


def test_what_each_worker_is_shown(tmp_path):
    worker = scripted(good_answer)
    run_scripted(map_reduce(f"  {TOPIC}", MapReduceConfig(facts_per_heading=2, max_facts=3)), worker, tmp_path)
    partition, first_map, last_reduce = worker.asked[0], worker.asked[1], worker.asked[-1]
    assert partition.subtask.inputs_of(0) == {"topic": f"  {TOPIC}"}
    assert partition.subtask.schema.format_line().startswith("Answer with 4 to 8 lines")
    assert [ask.subtask.inputs["section"] for ask in worker.asked[1:11]] == [one for one in OUTLINE for _ in range(2)]
    assert (first_map.subtask.role, first_map.subtask.schema.max_items) == ("map", 3)
    assert "(source: Harbour Almanac)" in first_map.subtask.schema.format_line()
    assert last_reduce.subtask.inputs["facts"] == [fact_of("Uses", 0), fact_of("Uses", 1)]
    assert last_reduce.subtask.role == "reduce"


def test_facts_that_only_repeat_those_of_the_examples_are_none(tmp_path):
    """One of two repeats a fact, in other case; of one heading both do, so that it is left out."""
    shown = (SAMPLE_FACT, "HENS eat grain, greens and insects (source: The Garden Hen).")

    def lazy(ask):
        if ask.subtask.name != "map" or (ask.slot and ask.subtask.inputs["section"] != "Bark"):
            return good_answer(ask)
        return shown[ask.slot]

    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig(facts_per_heading=2)), scripted(lazy), tmp_path)
    assert outcome.result["facts"] == {heading: [fact_of(heading, 1)] for heading in OUTLINE if heading != "Bark"}
    assert outcome.result["left_out"] == ["Bark"]


def test_no_reduce_begins_before_every_map_has_ended(tmp_path):
    """One heading's worker fails twice and is asked again; the others wait for it."""

    def slow(ask):
        is_slow = ask.subtask.name == "map" and ask.subtask.inputs["section"] == "Bark"
        return "no source here" if is_slow and len(ask.refusals) < 2 else good_answer(ask)

    worker = scripted(slow)
    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig(facts_per_heading=1)), worker, tmp_path)
    assert asked_names(worker) == ["partition"] + ["map"] * 7 + ["reduce"] * 5
    assert outcome.result["left_out"] == []
    (reason, again) = worker.asked[7].refusals
    assert reason == again
    assert reason.startswith("each item must be a sentence and then its source in brackets")
    assert "but one is 'no source here'" in reason


def outline_number(number):
    return "\n".join(f"Part {number}{letter}" for letter in "abcd")


def rated(ratings):
    """Workers who write outline 0, 1, ... by slot and rate them as `ratings` says: outline -> slot -> text."""

    def respond(ask):
        if ask.subtask.name == "partition":
            return outline_number(ask.slot)
        if ask.subtask.name == "rate":
            outline = ask.subtask.inputs["outline"]
            return ratings[int(outline[0].removeprefix("Part ")[0])][ask.slot]
        return good_answer(ask)

    return respond


@pytest.mark.parametrize(
    ("ratings", "winner"),
    [
        (["11111", "12345", "33332"], 1),  # means 1, 3, 2.8
        (["22222", "31222", "11115"], 0),  # 2, 2, 1.8: a tie goes to the first
        (["11111", "45454", "54545"], 2),  # 1, 4.4, 4.6
        (["22222", "x3xxx", "11111"], 1),  # 2, 3 of one usable rating, 1
        (["xxxxx", "11111", "xxxxx"], 1),  # whoever is rated beats whoever is not
    ],
)
def test_rated_outlines_highest_mean_wins_and_a_tie_goes_to_the_first(tmp_path, ratings, winner):
    worker = scripted(rated(ratings))
    config = MapReduceConfig(variant="rated", facts_per_heading=1)
    outcome = run_scripted(map_reduce(TOPIC, config), worker, tmp_path)
    assert outcome.result["headings"] == outline_number(winner).split("\n")


def test_whoever_made_an_outline_rates_none(tmp_path):
    worker = scripted(rated(["11111", "22222", "33333"]), kins=("ann", "bo"))
    run_scripted(map_reduce(TOPIC, MapReduceConfig(variant="rated", facts_per_heading=1)), worker, tmp_path)
    assert asked_names(worker)[: 3 + 15] == ["partition"] * 3 + ["rate"] * 15
    makers = [ask.contributor.name for ask in worker.asked[:3]]
    raters = {ask.contributor.name for ask in worker.asked[3:18]}
    assert makers == ["ann#0", "bo#0", "ann#1"]
    assert raters == {"bo#1", "ann#2", "bo#2", "ann#3", "bo#3"}
    assert worker.asked[3].subtask.inputs == {"topic": TOPIC, "outline": outline_number(0).split("\n")}


@pytest.mark.parametrize(("least", "most", "options"), [(1, 5, "12345"), (0, 1, "01"), (3, 7, "34567")])
def test_a_rating_is_one_of_the_numbers_of_the_scale(tmp_path, least, most, options):
    worker = scripted(rated([str(most) * 5, str(least) * 5, str(most) * 5]))
    config = MapReduceConfig(variant="rated", facts_per_heading=1, min_rating=least, max_rating=most)
    outcome = run_scripted(map_reduce(TOPIC, config), worker, tmp_path)
    schemas = [ask.subtask.schema for ask in worker.asked if ask.subtask.name == "rate"]
    assert schemas == [ChoiceSchema(options=tuple(options))] * 15
    assert outcome.result["headings"] == outline_number(0).split("\n")


def test_a_rating_outside_the_scale_is_refused(tmp_path):
    worker = scripted(rated(["66666", "11111", "00000"]))
    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig(variant="rated", facts_per_heading=1)), worker, tmp_path)
    assert outcome.result["headings"] == outline_number(1).split("\n")


def test_without_any_rating_the_run_fails_with_the_reason(tmp_path):
    worker = scripted(rated(["good", "fair", "poor!"]), kins=("ann",), bars_kin=True)
    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig(variant="rated")), worker, tmp_path)
    assert outcome.status == "failed"
    assert "All 3 branches failed" in outcome.reason
    assert "set bars_kin to false" in outcome.reason


def test_combined_outlines_are_all_shown_to_one_worker(tmp_path):
    def respond(ask):
        return outline_number(ask.slot) if ask.subtask.name == "partition" else good_answer(ask)

    worker = scripted(respond)
    config = MapReduceConfig(variant="combined", facts_per_heading=1, num_outlines=2)
    outcome = run_scripted(map_reduce(TOPIC, config), worker, tmp_path)
    assert asked_names(worker)[:4] == ["partition", "partition", "combine", "map"]
    assert worker.asked[2].subtask.inputs == {
        "topic": TOPIC,
        "outline 1": outline_number(0).split("\n"),
        "outline 2": outline_number(1).split("\n"),
    }
    assert outcome.result["headings"] == OUTLINE


@pytest.mark.parametrize("variant", ["rated", "combined"])
def test_one_usable_outline_of_three_is_taken_as_it_is(tmp_path, variant):
    def respond(ask):
        return "too\nfew" if ask.subtask.name == "partition" and ask.slot != 1 else good_answer(ask)

    worker = scripted(respond)
    config = MapReduceConfig(variant=variant, facts_per_heading=1)
    outcome = run_scripted(map_reduce(TOPIC, config), worker, tmp_path)
    assert outcome.result["headings"] == OUTLINE
    assert set(asked_names(worker)) == {"partition", "map", "reduce"}


def test_headings_that_fail_are_left_out_and_named(tmp_path):
    def respond(ask):
        section = ask.subtask.inputs.get("section")
        if (ask.subtask.name, section) in (("map", "Bark"), ("reduce", "Fruit")):
            return "" if ask.subtask.name == "reduce" else "just a claim"
        return good_answer(ask)

    worker = scripted(respond)
    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig(facts_per_heading=2)), worker, tmp_path)
    assert outcome.status == "done"
    assert outcome.result["left_out"] == ["Bark", "Fruit"]
    assert list(outcome.result["facts"]) == ["Roots", "Leaves", "Fruit", "Uses"]
    assert [part.split("\n")[0] for part in outcome.result["text"].split("\n\n")] == ["Roots", "Leaves", "Uses"]
    assert outcome.result["headings"] == OUTLINE


@pytest.mark.parametrize("stage", ["partition", "map", "reduce"])
def test_a_stage_that_fails_everywhere_fails_the_run(tmp_path, stage):
    worker = scripted(lambda ask: "" if ask.subtask.name == stage else good_answer(ask))
    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig(facts_per_heading=1)), worker, tmp_path)
    assert outcome.status == "failed"
    assert f"Sub-task {stage} needs 1 usable answers" in outcome.reason


def test_of_n_workers_a_heading_one_good_one_is_enough(tmp_path):
    """With n - 1 of n garbage collectors the article has the n-th one's facts."""

    def respond(ask):
        return "garbage" if ask.subtask.name == "map" and ask.slot != 4 else good_answer(ask)

    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig(facts_per_heading=7)), scripted(respond), tmp_path)
    assert outcome.result["facts"] == {heading: [fact_of(heading, 4)] for heading in OUTLINE}
    assert outcome.result["left_out"] == []


def test_the_same_fact_of_two_workers_stands_once(tmp_path):
    answers = ["Nuts float (source: A).", "nuts  float (Source: a)\nNuts fall (source: B)", "Nuts fall (source: B)"]

    def respond(ask):
        return answers[ask.slot] if ask.subtask.name == "map" else good_answer(ask)

    outcome = run_scripted(map_reduce(TOPIC, MapReduceConfig()), scripted(respond), tmp_path)
    assert outcome.result["facts"]["Roots"] == ["Nuts float (source: A).", "Nuts fall (source: B)"]


def test_facts_that_a_paragraph_leaves_out_are_reported(tmp_path):
    def respond(ask):
        if ask.subtask.name == "reduce" and ask.subtask.inputs["section"] == "Leaves":
            return "Walnut leaves number1 grow steadily."
        return good_answer(ask)

    config = MapReduceConfig(facts_per_heading=3, min_used_share=1.0)
    outcome = run_scripted(map_reduce(TOPIC, config), scripted(respond), tmp_path)
    assert outcome.result["unused"] == [fact_of("Leaves", 0), fact_of("Leaves", 2)]


@pytest.mark.parametrize(
    ("text", "is_used"),
    [
        ("Harvest begins in September close to Grenoble.", True),
        ("HARVEST, they say; and GRENOBLE.", True),  # 2 of 4: just enough
        ("Grenoble is far.", False),  # 1 of 4
        ("Grenobles harvesters begin.", False),  # other words
        ("In Cahors, with this very Almanac, September.", False),  # the source's words and small words do not count
    ],
)
def test_a_fact_is_used_where_half_of_its_content_words_stand(text, is_used):
    fact = "In this September, with much ado, the harvest begins in Grenoble (source: Almanac of Cahors)."
    assert unused_facts(text, [fact]) == ([] if is_used else [fact])


def test_the_share_of_words_that_makes_a_use():
    fact = "Harvest begins, September, Grenoble, baskets (source: A)"
    text = "Harvest begins: September, Grenoble."
    assert unused_facts(text, [fact], min_used_share=0.8) == []
    assert unused_facts(text, [fact], min_used_share=0.81) == [fact]


def test_unused_facts_without_content_words_and_with_numbers():
    assert unused_facts("It is so.", ["It is so (source: X)", "We go up (source: Y)"]) == ["We go up (source: Y)"]
    assert unused_facts("In 83 towns.", ["It is up by 83 (source: Z)", "It is in by 89 (source: Z)"]) == [
        "It is in by 89 (source: Z)"
    ]
    assert unused_facts("", ["Nuts float (source: A)"]) == ["Nuts float (source: A)"]
    assert unused_facts("anything", []) == []


def test_a_second_run_asks_nothing_and_order_of_arrival_does_not_matter(tmp_path):
    class Shuffled:
        def __init__(self, seed):
            self.random, self.inner = random.Random(seed), scripted(rated(["12121", "55455", "55555"]))

        def assign(self, subtask, step):
            return self.inner.assign(subtask, step)

        def answer(self, asks, on_reply):
            replies = []
            self.inner.answer(asks, lambda index, reply: replies.append((index, reply)))
            self.random.shuffle(replies)
            for index, reply in replies:
                on_reply(index, reply)

    config = MapReduceConfig(variant="rated", facts_per_heading=2)
    results = [
        run_scripted(map_reduce(TOPIC, config), Shuffled(seed), tmp_path, run=f"run-{seed}").result for seed in range(3)
    ]
    assert results[0]["headings"] == outline_number(2).split("\n")
    assert results[0] == results[1] == results[2]
    silent = scripted(lambda ask: "")
    again = run_scripted(map_reduce(TOPIC, config), silent, tmp_path, run="run-0")
    assert (again.result, silent.asked) == (results[0], [])


def test_one_prompt(tmp_path):
    worker = scripted({"one-prompt": "Walnuts are nuts."})
    outcome = run_scripted(one_prompt(TOPIC, MapReduceConfig()), worker, tmp_path)
    assert outcome.result == {"text": "Walnuts are nuts."}
    assert [(ask.subtask.name, ask.subtask.role) for ask in worker.asked] == [("one-prompt", "one_prompt")]
    with pytest.raises(DataError, match="topic must hold text"):
        next(map_reduce(" \n", MapReduceConfig()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_outlines": 0}, "num_outlines must be >= 1, but is 0"),
        ({"facts_per_heading": 0}, "facts_per_heading must be >= 1"),
        ({"max_facts": -3}, "max_facts must be >= 1, but is -3"),
        ({"min_headings": 9}, r"min_headings must lie between 1 and max_headings \(8\), but is 9"),
        ({"min_headings": 0}, "min_headings must lie between 1"),
        ({"min_rating": 5}, r"min_rating must be < max_rating \(5\), but is 5"),
        ({"min_used_share": 0.0}, r"min_used_share must be in \(0, 1\], but is 0.0"),
    ],
)
def test_numbers_that_leave_nothing_to_do_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        MapReduceConfig(**fields)


@pytest.mark.parametrize(
    "item",
    [
        "Nuts float (source: Harbour Almanac)",
        "Nuts float in water (Source: https://nuts.example/walnut_(tree)).",
        "(In 1907) nuts fell. (source: a letter)",
    ],
)
def test_a_fact_with_a_source_is_taken(item):
    assert FACTS.parse(f"1. {item}\n") == [item]


@pytest.mark.parametrize(
    "item",
    [
        "Nuts float.",
        "Nuts float (source: )",
        "Nuts float (source: ...)",
        "(source: Harbour Almanac)",
        "Nuts float source: Harbour Almanac",
        "Nuts float (source: Harbour Almanac) and so do I",
    ],
)
def test_a_fact_without_a_source_is_refused_even_among_good_ones(item):
    with pytest.raises(Refused, match="each item must be a sentence and then its source in brackets, as in"):
        FACTS.parse(f"Nuts fall (source: A)\n{item}")


def test_items_beyond_the_limit_need_no_form():
    good = [f"Nut {number} floats (source: A)" for number in range(3)]
    assert FACTS.parse("\n".join([*good, "a remark"])) == good


def test_the_form_of_items_is_told_and_travels_as_data():
    assert schema_from_json(schema_to_json(FACTS)) == FACTS
    assert FACTS.format_line().endswith(f"without remarks. Each must be {FACT_FORM}.")
    assert ItemsSchema(max_items=3).format_line().endswith("without remarks.")
    assert ItemsSchema().parse("anything") == ["anything"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"must_match": "a+"}, "need a form in words"),
        ({"form": "an a"}, "need a form in words"),
        ({"must_match": "(", "form": "a bracket"}, r"must_match must be a regular expression, but is '\('"),
    ],
)
def test_a_form_that_cannot_be_checked_or_told_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ItemsSchema(**fields)
