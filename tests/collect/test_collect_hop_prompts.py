"""Hop prompts: functions of row and texts alone, the first hop the task's own prompt."""

import pytest

from hierrouter_jax.collect.hop_prompts import context_text, hop_request
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.text import ModelCard
from hierrouter_jax.tasks.prompts import task_request
from hierrouter_jax.tasks.task_row import TaskRow

QUIZ = TaskRow(id="q", task="quiz", question="Which?", answer="B", choices=("stone", "plum", "chair"))
SUM = TaskRow(id="n", task="sums", question="How many?", answer="7")
PROGRAM = TaskRow(id="p", task="code", question="Write f.", answer="", tests=("assert f(1) == 1",), entry_point="f")
REST = TaskRow(
    id="h",
    task="rest",
    question='def f(x):\n    """Same."""\n',
    answer="",
    tests=("assert f(1) == 1",),
    entry_point="f",
)
ROWS = [QUIZ, SUM, PROGRAM, REST]


def card(style):
    return ModelCard(
        name=style,
        weights_digest="d",
        prompt_style=style,
        num_parameters=1,
        base_rate=1.0,
        context_window=2048,
        max_new_tokens=512,
    )


@pytest.mark.parametrize("style", ["chat", "plain"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.form)
def test_first_hop_is_the_task_prompt_and_later_hops_differ(row, style):
    first = hop_request(card(style), row, ())
    assert first == task_request(card(style), row)
    second = hop_request(card(style), row, ["an answer"])
    third = hop_request(card(style), row, ["an answer", "another answer"])
    assert len({first.prompt, second.prompt, third.prompt}) == 3
    for request in (second, third):
        assert (request.options, request.stop, request.max_new_tokens) == (
            first.options,
            first.stop,
            first.max_new_tokens,
        )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.form)
def test_equal_texts_ask_equal_requests(row):
    for style in ("chat", "plain"):
        one = hop_request(card(style), row, ["the " + "answer", "b"])
        assert one == hop_request(card(style), row, ("the answer", "b"))
        assert one != hop_request(card(style), row, ("b", "the answer"))
    assert context_text(row, ["the " + "answer"]) == context_text(row, ("the answer",))


def test_context_is_the_query_and_then_each_response():
    assert context_text(QUIZ, ()) == "Which?\nA. stone\nB. plum\nC. chair"
    assert context_text(QUIZ, (" B", "C")) == "Which?\nA. stone\nB. plum\nC. chair\n\nAnswer 1: plum\n\nAnswer 2: chair"
    assert context_text(SUM, ("It is 7.",)) == "How many?\n\nAnswer 1: It is 7."
    assert context_text(PROGRAM, ()) == "Write f.\nassert f(1) == 1"
    assert context_text(REST, ()) == 'def f(x):\n    """Same."""'  # the tests are hidden from every model


def test_context_is_not_cut():
    long = "word " * 5000 + "end"
    assert context_text(SUM, (long,)).endswith(long)


def test_context_never_holds_the_right_answer():
    row = TaskRow(id="n", task="sums", question="How many?", answer="918273")
    assert "918273" not in context_text(row, ("7",))
    for style in ("chat", "plain"):
        assert "918273" not in str(hop_request(card(style), row, ("7",)).prompt)


def test_unknown_version():
    with pytest.raises(ConfigError, match="prompt_version"):
        hop_request(card("chat"), SUM, (), prompt_version="none")
