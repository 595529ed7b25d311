"""Grades of transcriptions, questions and lists: worked out by hand, perfect workers, gold that is not there."""

from __future__ import annotations

import pytest
from crowd_runs import run_crew, run_scripted, scripted

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput
from hierrouter_jax.crowd.comparison.grading import can_grade, perfect_answer, result_score, step_score
from hierrouter_jax.crowd.comparison.matrix import compare_workers, perfect_crew
from hierrouter_jax.crowd.output_schemas import ChoiceSchema, TextSchema
from hierrouter_jax.crowd.registry import algorithm
from hierrouter_jax.crowd.runner import Crew
from hierrouter_jax.crowd.subtasks import SubTask

GARBLED = "Tne old brigde wos closed\nin tne spring, and tne boat wos late"
MEANT = "The old bridge was closed\nin the spring, and the boat was late"
ONE = GradedInput(text=GARBLED, gold={"text": MEANT})
TRANSCRIPTION, QUESTION = "transcription", "justify_reconsider"


def piece(text, **around):
    inputs = {name.replace("_", " "): words for name, words in around.items()} | {"piece": text}
    schema = TextSchema(is_one_line=True)
    return SubTask(name="transcribe", role="transcribe", instructions="?", schema=schema, inputs=inputs)


def runner_in(folder):
    return lambda pipeline, crew, label: run_crew(pipeline, crew, folder, run=label)


# -- transcription --


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The old bridge was closed", 1.0),
        ("The  old\nbridge was closed ", 1.0),  # spaces are no words
        ("The old brigde was closed", 4 / 5),
        ("The old bridge closed", 4 / 5),
        ("The old bridge, it was closed", 3 / 5),  # one replaced, one too many
        ("the old bridge was closed.", 3 / 5),  # case and signs count
        ("Tne old brigde wos closed", 2 / 5),
        ("Nothing at all is right here, and it is too long by far", 0.0),
        ("", 0.0),
    ],
)
def test_a_piece_is_graded_by_its_words(text, score):
    asked = piece("Tne old brigde wos closed", text_after="in tne")
    assert step_score(TRANSCRIPTION, asked, 0, text, ONE) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (MEANT, 1.0),
        (MEANT.replace("\n", " "), 1.0),
        (GARBLED, 1 - 6 / 13),
        (MEANT.replace("bridge", "brigde").replace("was late", "is late"), 1 - 2 / 13),
        (f"{MEANT} {MEANT}", 0.0),  # as many too many as there are
        (f"{MEANT} {MEANT} {MEANT}", 0.0),
    ],
)
def test_a_transcription_is_graded_by_its_words(text, score):
    assert result_score(TRANSCRIPTION, {"text": text, "num_failed": 0}, ONE) == pytest.approx(score)


@pytest.mark.parametrize("piece_words", [1, 2, 3, 5, 7, 13])
@pytest.mark.parametrize("around_words", [1, 2, 5])
def test_perfect_workers_restore_a_text_whatever_its_pieces(piece_words, around_words, tmp_path):
    found = algorithm(TRANSCRIPTION)
    config = found.config(piece_words=piece_words, around_words=around_words)
    crew = perfect_crew(found)(ONE)
    outcome = run_crew(found.make(ONE.text, config), crew, tmp_path)
    assert outcome.result == {"text": MEANT, "num_failed": 0}
    (worker,) = crew.workers.values()
    for ask in worker.asked:
        right = perfect_answer(TRANSCRIPTION, ask.subtask, ask.slot, ONE)
        assert step_score(TRANSCRIPTION, ask.subtask, ask.slot, right, ONE) == 1.0


def test_a_piece_that_occurs_twice_is_told_by_the_words_around_it():
    """A scanner makes one word of two: `bat` is now `bad`, now `bat`, and once `boat`."""
    one = GradedInput(text="a bat man saw a bat fly by a bat", gold={"text": "a bad man saw a bat fly by a boat"})

    def restored(text, **around):
        return perfect_answer(TRANSCRIPTION, piece(text, **around), 0, one)

    assert restored("a bat", text_after="man saw") == "a bad"
    assert restored("a bat", text_before="man saw", text_after="fly by") == "a bat"
    assert restored("a bat", text_before="saw", text_after="fly") == "a bat"
    assert restored("a bat", text_before="fly by") == "a boat"
    assert restored("bat", text_before="a", text_after="fly") == "bat"
    assert restored("bat", text_before="a") == "boat"  # nothing behind it, so it is the last
    assert restored("bat", text_before="a", text_after="man") == "bad"
    grades = [
        step_score(TRANSCRIPTION, piece("bat", text_before="a", text_after=after), 0, "bad", one)
        for after in ("man", "fly")
    ]
    assert grades == [1.0, 0.0]


@pytest.mark.parametrize(("text", "num"), [(f"{MEANT} indeed", 14), (MEANT.replace("old ", ""), 12)])
def test_a_right_text_of_another_number_of_words_is_refused(text, num):
    one = GradedInput(text=GARBLED, gold={"text": text})
    message = rf"as many words as the garbled one \(13\), but has {num}: 'The "
    for grade in (
        lambda: result_score(TRANSCRIPTION, {"text": MEANT}, one),
        lambda: step_score(TRANSCRIPTION, piece("Tne old", text_after="brigde"), 0, "The old", one),
        lambda: perfect_answer(TRANSCRIPTION, piece("Tne old", text_after="brigde"), 0, one),
    ):
        with pytest.raises(DataError, match=message):
            grade()


def test_the_matrix_grades_pieces(tmp_path):
    """One worker restores all, one leaves all as it is: 6 of 13 words are garbled, in pieces of 5, 5 and 3."""
    found = algorithm(TRANSCRIPTION)
    workers = {
        "right": scripted(lambda ask: perfect_answer(TRANSCRIPTION, ask.subtask, ask.slot, ONE)),
        "lazy": scripted(lambda ask: ask.subtask.inputs["piece"]),
    }
    matrix = compare_workers(
        found,
        found.config(piece_words=5),
        [ONE],
        reference=perfect_crew(found),
        workers=Crew(workers=workers, roles={"*": "right"}),
        names=("right", "lazy"),
        run=runner_in(tmp_path),
    )
    assert matrix.calls == {"transcribe": 3.0}
    cells = matrix.cells["transcribe"]
    assert cells["right"].score.mean == 1.0
    assert cells["lazy"].score.mean == pytest.approx((2 / 5 + 3 / 5 + 2 / 3) / 3)


# -- questions --

WHALE = GradedInput(text="Is a whale a fish?", gold={"answer": "no"})


def question(name):
    return SubTask(name=name, role=name, instructions="?", schema=ChoiceSchema(options=("yes", "no")))


@pytest.mark.parametrize("name", ["assess", "reconsider"])
def test_answers_to_a_question_are_right_or_wrong(name):
    scores = [step_score(QUESTION, question(name), slot, value, WHALE) for slot in (0, 2) for value in ("no", "yes")]
    assert scores == [1.0, 0.0, 1.0, 0.0]
    assert perfect_answer(QUESTION, question(name), 1, WHALE) == "no"
    assert step_score(QUESTION, question("justify"), 0, "It has fins.", WHALE) is None
    with pytest.raises(DataError, match="Nothing says what a perfect worker answers at justify"):
        perfect_answer(QUESTION, question("justify"), 0, WHALE)


def test_the_last_answer_is_graded_whatever_was_said_before():
    counts = {"yes": 3, "no": 2}
    assert result_score(QUESTION, {"answer": "no", "before": counts, "after": counts}, WHALE) == 1.0
    assert result_score(QUESTION, {"answer": "yes"}, WHALE) == 0.0
    other = GradedInput(text="Which?", gold={"answer": "the second"})
    assert result_score(QUESTION, {"answer": "the second"}, other) == 1.0


def test_perfect_assessors_agree_and_argue_nothing(tmp_path):
    found = algorithm(QUESTION)
    crew = perfect_crew(found)(WHALE)
    outcome = run_crew(found.make(WHALE.text, found.config()), crew, tmp_path)
    assert result_score(QUESTION, outcome.result, WHALE) == 1.0
    assert outcome.result["before"] == {"yes": 0, "no": 5}
    (worker,) = crew.workers.values()
    assert {ask.subtask.name for ask in worker.asked} == {"assess"}


# -- gold that is not there --


@pytest.mark.parametrize(
    ("name", "gold", "subtask", "result", "message"),
    [
        (TRANSCRIPTION, "text", piece("Tne old", text_after="brigde"), {"text": "x"}, "but has 0"),
        (QUESTION, "answer", question("assess"), {"answer": "yes"}, "must have its answer in its gold"),
        (
            "sorting",
            "order",
            SubTask(
                name="compare",
                role="compare",
                instructions="?",
                schema=ChoiceSchema(options=("A", "B")),
                inputs={"A": "fig", "B": "kiwi"},
            ),
            {"items": ["fig", "kiwi"]},
            "'fig' is not there",
        ),
    ],
)
def test_without_gold_nothing_is_right_or_wrong_and_nobody_is_perfect(name, gold, subtask, result, message):
    one = GradedInput(text=GARBLED, gold={f"another {gold}": "x"})
    assert not can_grade(name, one)
    assert step_score(name, subtask, 0, "A", one) is None
    assert result_score(name, result, one) is None
    with pytest.raises(DataError, match=message):
        perfect_answer(name, subtask, 0, one)


def test_an_order_without_an_item_of_the_list_is_refused(tmp_path):
    one = GradedInput(text="pear\nfig\nkiwi", gold={"order": ["fig", "kiwi"]})
    with pytest.raises(DataError, match="must hold every item of its list, but 'pear' is not there"):
        result_score("sorting", {"items": ["fig", "pear", "kiwi"]}, one)
    found = algorithm("sorting")
    pipeline = found.make(one.text, found.config())
    with pytest.raises(DataError, match="but 'pear' is not there"):
        run_scripted(pipeline, scripted(lambda ask: perfect_answer("sorting", ask.subtask, ask.slot, one)), tmp_path)


def test_what_can_be_graded():
    assert can_grade(TRANSCRIPTION, ONE)
    assert can_grade(QUESTION, WHALE)
    assert can_grade("arithmetic", GradedInput(text="1 2"))
    assert not can_grade("iterative", ONE)
    assert result_score("iterative", {"text": MEANT}, ONE) is None
