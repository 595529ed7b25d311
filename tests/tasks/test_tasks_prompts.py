"""Prompts: what each style sees of each form, and few-shot examples that are right and our own."""

import dataclasses
import json
import re

import pytest

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.text import Message, ModelCard
from hierrouter_jax.tasks.extraction import extract_number
from hierrouter_jax.tasks.prompt_texts import PROMPT_SETS, prompt_set
from hierrouter_jax.tasks.prompts import shown_answer, task_prompt, task_request, trim_answer
from hierrouter_jax.tasks.sandbox import run_program
from hierrouter_jax.tasks.task_row import TaskRow

QUIZ = TaskRow(id="q", task="commonsenseqa", question=" Which {one}? ", answer="B", choices=("x{0}", "y", "z"))
SUM = TaskRow(id="n", task="gsm8k", question="How many in {all}?", answer="7")
PROGRAM = TaskRow(
    id="p",
    task="mbpp",
    question="Write {it}.",
    answer="",
    tests=("assert f({1}) == 1", "assert f({2}) == 2"),
    entry_point="f",
)
REST = TaskRow(
    id="h",
    task="humaneval",
    question='\ndef f(x):\n    """Of {x}."""\n',
    answer="",
    tests=("check(f)",),
    entry_point="f",
)
OPEN = TaskRow(id="o", task="open", question="Why {so}?", answer="")
ROWS = {"choice": QUIZ, "number": SUM, "program": PROGRAM, "completion": REST, "open": OPEN}
every_form = pytest.mark.parametrize("form", list(ROWS))
every_style = pytest.mark.parametrize("style", ["chat", "plain"])


def card(style, max_new_tokens=997):
    return ModelCard(
        name="m",
        weights_digest="d",
        prompt_style=style,
        num_parameters=1,
        base_rate=1.0,
        context_window=2048,
        max_new_tokens=max_new_tokens,
    )


def as_text(prompt):
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)


@every_form
@every_style
@pytest.mark.parametrize("version", sorted(PROMPT_SETS))
def test_question_is_in_the_prompt_word_for_word(form, style, version):
    row = ROWS[form]
    prompt = task_prompt(card(style), row, prompt_version=version)
    text = as_text(prompt)
    assert row.question.strip() in text
    assert all(test in text for test in row.tests) == (form != "completion")
    if style == "chat" and form != "choice":
        assert isinstance(prompt[-1], Message)
        assert prompt[-1].role == "user"
    else:
        assert isinstance(prompt, str)


@every_form
@every_style
def test_requests_have_the_budget_of_the_form_and_the_model(form, style):
    request = task_request(card(style), ROWS[form])
    assert request.model == "m"
    assert request.max_new_tokens == {"choice": 1, "number": 480, "program": 256, "completion": 512, "open": 256}[form]
    assert request.max_new_tokens == 1 or task_request(card(style, 101), ROWS[form]).max_new_tokens == 101
    assert bool(request.options) == (form == "choice")
    assert bool(request.stop) == (form in ("program", "completion") or (style == "plain" and form != "choice"))


@pytest.mark.parametrize("form", ["program", "completion"])
@pytest.mark.parametrize("before", ["", "Here it is:\n\n"])
def test_chat_answer_ends_where_its_block_does(form, before):
    program = "def f(x):\n    return x"
    answer = f"{before}```python\n{program}\n```\nThis function returns x, as asked.\n"
    (stop,) = task_request(card("chat"), ROWS[form]).stop
    kept = answer.split(stop)[0]
    assert "This function" not in kept
    assert shown_answer(ROWS[form], kept) == program


@every_style
@pytest.mark.parametrize("num_choices", [3, 4, 5])
def test_options_are_the_choices_as_continuations(num_choices, style):
    row = TaskRow(
        id="q", task="quiz", question="What? ", answer="A", choices=("one", " two ", "3", "a b", "V")[:num_choices]
    )
    request = task_request(card(style), row)
    assert request.options == (" one", " two", " 3", " a b", " V")[:num_choices]
    assert request.prompt == "Question: What?\nAnswer:"  # no space at its end: that is the option's
    later = task_request(card(style), row, (" two", "nothing of the sort"))
    assert later.options == request.options
    assert later.prompt.startswith("Question: What?\n")
    assert later.prompt.endswith("\nAnswer:")
    assert later.prompt.index("two") < later.prompt.index("nothing of the sort")


@every_form
def test_plain_prompt_is_few_shot_text_that_its_stops_end(form):
    request = task_request(card("plain"), ROWS[form])
    num_examples = {"choice": 0, "number": 4, "program": 2, "completion": 2, "open": 2}[form]
    assert request.prompt.count("Question:") == (0 if form == "completion" else num_examples + 1)
    if form == "program":
        assert request.prompt.endswith("```python\n")
        assert "```" in request.stop
    if form == "completion":
        assert request.prompt.endswith('\n\n\ndef f(x):\n    """Of {x}."""')
        assert request.prompt.count("def ") == num_examples + 1
        compile(request.prompt + "\n    return x", "prompt", "exec")
        as_before = task_request(card("plain"), ROWS[form], prompt_version="v1")
        assert as_before.prompt == 'def f(x):\n    """Of {x}."""'


@every_style
def test_later_prompt_shows_earlier_answers_in_order(style):
    first = "First, 3 and 4 make 8. The answer is 8."
    second = "No: 3 and 4 make 7. The answer is 7."
    text = as_text(task_prompt(card(style), SUM, (first, second)))
    assert 0 < text.index(first) < text.index(second)
    assert SUM.question in text
    if style == "plain":
        assert text.endswith("Answer:")
        assert text.count("Earlier attempt 1:") == 5
        assert text.count("Earlier attempt 2:") == 1


def test_later_completion_stays_source_code():
    text = task_prompt(card("plain"), REST, ("    y = x\n    return y",))
    assert text.endswith('def f(x):\n    """Of {x}."""')
    earlier = text[: text.index("\ndef f")].split("\n\n\n")[-1]
    assert "return y" in earlier
    assert all(line.startswith("#") for line in earlier.strip().split("\n"))
    assert text.count("# Earlier attempt 1:") == 3  # each example has one as well
    compile(text + "\n    return x", "prompt", "exec")


@pytest.mark.parametrize(
    ("row", "text", "shown"),
    [
        (QUIZ, " B", "y"),
        (QUIZ, " z", "z"),
        (QUIZ, "nothing", "nothing"),
        (SUM, "  so 7 \n", "so 7"),
        (PROGRAM, "Here:\n```python\ndef f(x):\n    return x\nprint(f(1))\n```\nDone.", "def f(x):\n    return x"),
        (PROGRAM, "I cannot. ", "I cannot."),
        (REST, "    return x\n", "def f(x):\n    return x"),
    ],
)
def test_shown_answers(row, text, shown):
    assert shown_answer(row, text) == shown


def test_long_answers_lose_their_middle():
    text = "".join(f"{index:05d} " for index in range(1000))
    short = trim_answer(text, 101)
    assert len(short) <= 101
    assert short.startswith("00000 00001")
    assert short.endswith("00999 ")
    assert "\n...\n" in short
    assert trim_answer(text, len(text)) == text


@every_form
@every_style
def test_prompt_length_is_bounded(form, style):
    row = ROWS[form]
    empty = len(as_text(task_prompt(card(style), row, ("", "", ""))))
    endless = len(as_text(task_prompt(card(style), row, ("word " * 9999,) * 3)))
    limit = prompt_set("v1").forms[form].max_earlier_chars
    assert endless - empty <= 3 * (limit + 2 * limit // 5)  # a comment line adds two characters


def test_unknown_version():
    with pytest.raises(ConfigError, match=r"prompt_version must be one of \['v1'.*but is 'v0'"):
        task_request(card("chat"), SUM, prompt_version="v0")


def all_examples():
    for prompts in PROMPT_SETS.values():
        for form, texts in prompts.forms.items():
            for example in {*texts.examples, *(texts.later_examples or ())}:
                yield form, example


def test_examples_answer_themselves_rightly():
    for form, example in all_examples():
        if form == "number":
            working, final = example.response.rsplit("The answer is ", 1)
            assert extract_number(example.response) == final.rstrip(".")
            for step in re.findall(r"([\d+*/ -]+)= (\d+)", working):
                assert eval(step[0]) == int(step[1]), step
        elif form == "choice":
            assert {example.response, example.draft} <= set(example.choices)
        elif form != "open":
            begin = f"{example.question}\n" if form == "completion" else ""
            assert run_program(begin + example.response, example.tests).is_passed
            compile(example.draft, "draft", "exec")
            assert not run_program("x = 0", example.tests).is_passed


def test_examples_show_right_and_wrong_drafts():
    for version, prompts in PROMPT_SETS.items():
        for form in ("number", "program", "completion"):
            same = [example.draft.endswith(example.response) for example in prompts.forms[form].examples]
            assert (any(same) and not all(same)) or (not same and form == "completion"), (version, form)


LATER_HOP_VERSIONS = ["v2-anew", "v2-refine", "v2-verify"]


@every_form
@every_style
@pytest.mark.parametrize("version", LATER_HOP_VERSIONS)
def test_versions_of_later_hops_share_the_first_hop_and_nothing_else(form, style, version):
    row, first = ROWS[form], "an earlier answer"
    assert task_request(card(style), row, prompt_version=version) == task_request(card(style), row, prompt_version="v2")
    later = task_request(card(style), row, (first,), prompt_version=version)
    text = as_text(later.prompt)
    assert (first in text) == (version != "v2-anew")
    assert row.question.strip() in text
    assert all(test in text for test in row.tests) == (form != "completion")
    others = [task_request(card(style), row, (first,), prompt_version=other).prompt for other in PROMPT_SETS]
    assert sum(other == later.prompt for other in others) == 1
    if form == "choice":
        assert later.prompt.count("Options:") == 5
        assert "A. x{0}\nB. y\nC. z\n" in later.prompt
        assert later.prompt.endswith(":")


def test_examples_of_choices_keep_and_replace_the_draft():
    for version in LATER_HOP_VERSIONS:
        same = [one.draft == one.response for one in prompt_set(version).forms["choice"].later_examples]
        assert any(same)
        assert not all(same)


def test_examples_are_no_benchmark_rows(benchmarks_dir):
    lines = [line for path in benchmarks_dir.glob("*.jsonl") for line in path.read_text(encoding="utf-8").split("\n")]
    questions = {json.loads(line)["question"].strip() for line in lines if line}
    assert len(questions) > 5000
    assert not [example.question for _, example in all_examples() if example.question in questions]


def test_versions_are_data_that_cannot_be_changed_in_place():
    texts = prompt_set("v1").forms["number"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        texts.max_new_tokens = 1
