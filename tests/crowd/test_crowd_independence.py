"""Independence: figures by hand, what must hold of them, and what a run has asked, found again from its journal."""

from __future__ import annotations

import dataclasses
import itertools
import random
import sqlite3

import pytest
from crowd_runs import run_crew, run_scripted, scripted
from hypothesis import given, settings
from hypothesis import strategies as st

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.algorithms.arithmetic import ArithmeticConfig
from hierrouter_jax.crowd.budget import Budget
from hierrouter_jax.crowd.crew import CrewConfig, MixConfig, PeopleConfig, PoolConfig
from hierrouter_jax.crowd.independence import (
    Question,
    distance,
    diversity,
    independence,
    kin_agreement,
    questions_of,
    run_independence,
    share_of_copies,
)
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.output_schemas import YES_NO, NumberSchema, TextSchema
from hierrouter_jax.crowd.registry import algorithm
from hierrouter_jax.crowd.run_records import RunRecord
from hierrouter_jax.crowd.runner import Crew
from hierrouter_jax.crowd.subtasks import Contribution, SubTask, SubTaskFailedError, Together, contributors
from hierrouter_jax.crowd.votes import Candidate, vote
from hierrouter_jax.crowd.workers.mix import Mix
from hierrouter_jax.crowd.workers.worker import People


def question(kind, *answers, subtask="one"):
    given_by = [
        Contribution(contributor=f"{kin}#{slot}", kin=kin, value=value, slot=slot)
        for slot, (kin, value) in enumerate(answers)
    ]
    return Question(subtask=subtask, kind=kind, answers=tuple(given_by))


@pytest.mark.parametrize(
    ("kind", "first", "second", "expected"),
    [
        ("choice", "very good", "good", 1.0),
        ("choice", "good", "good", 0.0),
        ("number", 3, 3.0, 0.0),
        ("number", 3, 4, 1.0),
        ("text", "The red fox.", "the red hen", 1 - 2 / 4),
        ("text", "?!", "...", 1.0),
        ("text", "?!", "?!", 0.0),
        ("items", ["red fox", "hen"], ["hen"], 1 - 1 / 3),
        ("items", [], [], 0.0),
        ("fields", {"kind": "red", "what": "old fox"}, {"kind": "red", "what": "fox"}, (0 + 1 / 2) / 2),
        ("spans", [[0, 5]], [[3, 8], [10, 12]], 1 - 2 / 10),
        ("spans", [[0, 5], [3, 8]], [[0, 8]], 0.0),
        ("spans", [], [[2, 3]], 1.0),
        ("spans", [], [], 0.0),
    ],
)
def test_distances_by_hand(kind, first, second, expected):
    assert distance(first, second, kind) == distance(second, first, kind) == pytest.approx(expected)


def test_diversity_by_hand():
    assert diversity(["a", "a", "b"], "choice") == pytest.approx(2 / 3)
    assert diversity(["the old bridge", "the new bridge", "the old bridge"]) == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    with pytest.raises(DataError, match="of two or more answers, but there is 1"):
        diversity(["a"])


def test_a_copy_repeats_an_earlier_answer_of_its_kin_word_for_word():
    answers = question("text", ("ann", "x y"), ("ann", "x y"), ("bo", "x y"), ("ann", "x Y"), ("ann", "x y")).answers
    assert share_of_copies(answers) == pytest.approx(2 / 5)


def test_agreement_of_kin_by_hand():
    answers = question("choice", ("ann", "A"), ("ann", "A"), ("ann", "B"), ("bo", "B")).answers
    assert kin_agreement(answers, "choice") == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert kin_agreement(answers[:2], "choice") == (1.0, None)
    assert kin_agreement(answers[2:], "choice") == (None, 1.0)


def test_a_report_by_hand():
    questions = [
        question("choice", ("ann", "A"), ("ann", "A"), ("bo", "B"), subtask="vote"),
        question("text", ("ann", "one two"), ("bo", "two three"), subtask="write"),
        question("text", ("bo", "one"), ("bo", "one"), subtask="write"),
        question("text", ("ann", "x"), subtask="alone"),
    ]
    found = independence(questions)
    assert found.overall.num_questions == 3
    assert found.overall.num_answers == 7
    assert found.overall.diversity == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found.overall.copies == pytest.approx((0 + 1 / 2) / 2)
    assert found.overall.agreement_within_kin == pytest.approx((1 + 1) / 2)
    assert found.overall.agreement_between_kins == pytest.approx((0 + 1 / 3) / 2)
    assert found.overall.kin_gap == 1.0  # the vote alone has pairs of both sorts
    assert list(found.by_subtask) == ["vote", "write"]
    vote_alone, write = found.by_subtask.values()
    assert (vote_alone.num_questions, vote_alone.copies, vote_alone.diversity) == (1, None, pytest.approx(2 / 3))
    assert (write.copies, write.kin_gap) == (pytest.approx(1 / 4), None)


def test_without_redundancy_there_are_no_figures():
    found = independence([question("text", ("ann", "x"))])
    figures = dataclasses.asdict(found.overall)
    assert (figures.pop("num_questions"), figures.pop("num_answers"), found.by_subtask) == (0, 0, {})
    assert set(figures.values()) == {None}


ANSWERS = {
    "choice": st.sampled_from(["yes", "no", "yes please"]),
    "number": st.integers(0, 3),
    "text": st.text("ab ,", max_size=7),
    "items": st.lists(st.text("ab c", max_size=5), max_size=3),
    "fields": st.dictionaries(st.sampled_from("xyz"), st.text("ab ", max_size=5), max_size=3),
    "spans": st.lists(st.tuples(st.integers(0, 7), st.integers(1, 5)).map(lambda a: [a[0], a[0] + a[1]]), max_size=3),
}


@pytest.mark.parametrize("kind", ANSWERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99))
def test_what_holds_of_the_figures(kind, data, seed):
    answers = data.draw(st.lists(st.tuples(st.sampled_from(["ann", "bo"]), ANSWERS[kind]), min_size=2, max_size=7))
    found = independence([question(kind, *answers)]).overall
    for figure in (found.diversity, found.copies, found.agreement_within_kin, found.agreement_between_kins):
        assert figure is None or 0.0 <= figure <= 1.0
    order = random.Random(seed).sample(answers, len(answers))
    assert independence([question(kind, *order)]).overall == found
    copied = independence([question(kind, *answers[:1] * 5)]).overall
    assert (copied.diversity, copied.agreement_within_kin) == (0.0, 1.0)
    assert copied.copies == (None if kind in ("choice", "number", "spans") else pytest.approx(4 / 5))
    for first, second in itertools.combinations([value for _, value in answers], 2):
        assert distance(first, second, kind) == distance(second, first, kind)
        assert distance(first, first, kind) == 0.0


# -- what a run has asked --


def read_again(pipeline, crew, folder, run="run"):
    """The questions of a run; the journal must be as it was, and nobody is asked."""
    tables = ("crowd_answers", "crowd_tickets", "crowd_runs")

    def rows():
        connection = sqlite3.connect(folder / "store.sqlite")
        found = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
        connection.close()
        return found

    before = rows()
    with Journal(folder / "store.sqlite") as journal:
        found = questions_of(journal, run, pipeline, crew)
    assert rows() == before
    return found


def crew_of(worker):
    return Crew(workers={"script": worker}, roles={"*": "script"})


def votes(num_votes=7, **options):
    return vote(
        [Candidate(text="the fox"), Candidate(text="the hen")],
        name="vote",
        role="vote",
        instructions="Which is better?",
        num_votes=num_votes,
        seed=3,
        **options,
    )


def answers_of(found):
    return [[(one.contributor, one.value) for one in own.answers] for own in found]


def test_voters_for_one_option_agree_whatever_its_label(tmp_path):
    def for_the_fox(ask):
        return next(label for label, text in ask.subtask.inputs_of(ask.slot).items() if text == "the fox")

    worker = scripted(for_the_fox, kins=("ann", "bo"))
    run_scripted(votes(), worker, tmp_path)
    with Journal(tmp_path / "store.sqlite") as journal:
        assert {one.value for (one,) in journal.answers("run").values()} == {"A", "B"}
    (found,) = read_again(votes(), crew_of(worker), tmp_path)
    assert [one.value for one in found.answers] == ["the fox"] * 7
    assert independence([found]).overall.diversity == 0.0
    always_a = scripted(lambda ask: "A", kins=("ann", "bo"))
    run_scripted(votes(), always_a, tmp_path, run="a")
    assert independence(read_again(votes(), crew_of(always_a), tmp_path, "a")).overall.diversity > 0.4


def test_rounds_of_a_vote_are_one_question(tmp_path):
    def split(ask):
        wanted = "the fox" if ask.contributor.name.endswith(("0", "2", "4")) else "the hen"
        return next(label for label, text in ask.subtask.inputs_of(ask.slot).items() if text == wanted)

    worker = scripted(split)
    run_scripted(votes(num_votes=5, is_first_to=True), worker, tmp_path)
    assert len({ask.subtask.digest() for ask in worker.asked}) == 3  # three voters, then one, then one more
    (found,) = read_again(votes(num_votes=5, is_first_to=True), crew_of(worker), tmp_path)
    assert [one.value for one in found.answers] == ["the fox", "the hen", "the fox", "the hen", "the fox"]


def test_slots_that_saw_different_things_answer_different_questions(tmp_path):
    def pipeline():
        shown = ({"text": "one"}, {"text": "two"}, {"text": "one"})
        yield SubTask(
            name="say", role="any", instructions="Say.", schema=TextSchema(), inputs_by_slot=shown, redundancy=3
        )
        yield SubTask(name="say", role="any", instructions="Shout.", schema=TextSchema(), inputs={"text": "one"})

    worker = scripted(lambda ask: f"word {ask.slot}")
    run_scripted(pipeline(), worker, tmp_path)
    found = answers_of(read_again(pipeline(), crew_of(worker), tmp_path))
    assert found == [
        [("script#0", "word 0"), ("script#2", "word 2")],
        [("script#1", "word 1")],
        [("script#0", "word 0")],
    ]


def test_refused_answers_do_not_count(tmp_path):
    def pipeline():
        yield SubTask(name="n", role="any", instructions="N?", schema=NumberSchema(), redundancy=3)

    worker = scripted(lambda ask: "none" if ask.slot == 0 or (ask.slot == 1 and not ask.refusals) else "7")
    run_scripted(pipeline(), worker, tmp_path)
    assert answers_of(read_again(pipeline(), crew_of(worker), tmp_path)) == [[("script#1", 7), ("script#2", 7)]]


def judged():
    found = yield SubTask(name="judge", role="judge", instructions="Is it so?", schema=YES_NO, redundancy=2)
    return [one.contributor for one in found]


def test_members_of_a_mix_and_its_decider_answer_one_question(tmp_path):
    workers = {
        "a": scripted(lambda ask: "yes", kins=("ann",)),
        "b": scripted(lambda ask: "no" if ask.slot else "yes", kins=("bo",)),
        "c": scripted(lambda ask: "no", kins=("cy",)),
        "both": Mix(members=("a", "b"), decider="c"),
    }
    crew = Crew(workers=workers, roles={"judge": "both"})
    assert run_crew(judged(), crew, tmp_path).result == ["ann#0 & bo#0", "cy#0"]
    (found,) = read_again(judged(), crew, tmp_path)
    assert found.subtask == "judge"
    assert answers_of([found]) == [
        [("ann#0", "yes"), ("ann#1", "yes"), ("bo#0", "yes"), ("bo#1", "no"), ("cy#0", "no")]
    ]


def with_a_step_for_nobody():
    def made():
        found = yield SubTask(name="make", role="any", instructions="Make.", schema=TextSchema())
        try:
            yield SubTask(
                name="judge", role="any", instructions="Judge.", schema=YES_NO, barred=contributors(found), redundancy=2
            )
        except SubTaskFailedError:
            yield SubTask(name="mourn", role="any", instructions="Mourn.", schema=TextSchema(), redundancy=2)

    yield Together([made(), made()])


def test_a_step_that_nobody_might_take_is_passed_over_again(tmp_path):
    worker = scripted(lambda ask: "word", bars_kin=True)
    assert run_scripted(with_a_step_for_nobody(), worker, tmp_path).status == "done"
    found = read_again(with_a_step_for_nobody(), crew_of(worker), tmp_path)
    assert [(one.subtask, len(one.answers)) for one in found] == [("make", 2), ("mourn", 4)]


@pytest.mark.parametrize("num_calls", range(1, 7))
def test_of_an_unfinished_run_the_answers_that_are_there_count(tmp_path, num_calls):
    worker = scripted(lambda ask: "word", bars_kin=True)
    run_scripted(with_a_step_for_nobody(), worker, tmp_path, budget=Budget(max_calls=num_calls))
    found = read_again(with_a_step_for_nobody(), crew_of(worker), tmp_path)
    assert sum(len(one.answers) for one in found) == num_calls


def test_a_run_that_waits_for_people_stays_as_it_is(tmp_path):
    crew = Crew(workers={"p": People(), "a": scripted(lambda ask: "yes")}, roles={"judge": "p", "vote": "a"})

    def pipeline():
        yield Together([judged(), votes(num_votes=2)])

    assert run_crew(pipeline(), crew, tmp_path).num_waiting == 2
    with Journal(tmp_path / "store.sqlite") as journal:
        journal.submit(journal.take_ticket("eve"), "eve", text="no", value="no")
    found = read_again(pipeline(), crew, tmp_path)
    assert answers_of(found) == [[("eve", "no")]]


def test_a_run_without_answers_and_one_of_another_pipeline(tmp_path):
    worker = scripted(lambda ask: "yes")
    run_scripted(judged(), worker, tmp_path)
    assert read_again(judged(), crew_of(worker), tmp_path, run="none") == []
    with pytest.raises(DataError, match="one at 0:judge, which that pipeline does not reach"):
        read_again(votes(), crew_of(worker), tmp_path)

    def changed():
        yield SubTask(name="judge", role="judge", instructions="Is it?", schema=YES_NO, redundancy=2)

    with pytest.raises(DataError, match="answer to another sub-task at 0:judge"):
        read_again(changed(), crew_of(worker), tmp_path)


def test_a_run_of_the_journal_from_its_record_alone(tmp_path):
    """Two members add, a person decides; of 3 + 4 they say the same, of 7 + 5 they do not."""
    config = CrewConfig(
        workers={
            "one": PoolConfig(models=("ann",)),
            "two": PoolConfig(models=("bo",)),
            "people": PeopleConfig(),
            "both": MixConfig(members=("one", "two"), decider="people"),
        },
        roles={"*": "both"},
    )
    record = RunRecord(algorithm=algorithm("arithmetic"), config=ArithmeticConfig(), text="3 4 5", crew=config)

    def adds(off):
        def respond(ask):
            first, second = map(int, ask.subtask.inputs["sum"].split(" + "))
            return str(first + second + (off if second == 5 else 0))

        return respond

    workers = {"one": scripted(adds(0), kins=("ann",)), "two": scripted(adds(1), kins=("bo",))}
    workers |= {"people": scripted(adds(0), kins=("eve",)), "both": Mix(members=("one", "two"), decider="people")}
    with Journal(tmp_path / "store.sqlite") as journal:
        journal.begin(record.name, record.to_json())
    crew = Crew(workers=workers, roles=config.roles)
    assert run_crew(record.pipeline(), crew, tmp_path, run=record.name).result["sum"] == 12
    with Journal(tmp_path / "store.sqlite") as journal:
        found = run_independence(journal, record.name)
        with pytest.raises(DataError, match="no run 'other'"):
            run_independence(journal, "other")
    assert list(found.by_subtask) == ["add"]
    assert (found.overall.num_questions, found.overall.num_answers) == (2, 2 + 3)
    assert found.overall.diversity == pytest.approx((0 + 2 / 3) / 2)
    assert (found.overall.agreement_within_kin, found.overall.copies) == (None, None)
    assert found.overall.agreement_between_kins == pytest.approx((1 + 1 / 3) / 2)
