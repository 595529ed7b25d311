"""How a sub-task is put to workers: the exact words, with and without examples, for every format."""

from __future__ import annotations

import pytest

from hierrouter_jax.core.text import Message
from hierrouter_jax.crowd.output_schemas import (
    YES_NO,
    ChoiceSchema,
    FieldsSchema,
    ItemsSchema,
    NumberSchema,
    SpansSchema,
    TextSchema,
)
from hierrouter_jax.crowd.prompts import (
    CROWD_PROMPT_VERSION,
    is_continued,
    plain_stop,
    subtask_prompt,
    subtask_text,
    without_cue,
)
from hierrouter_jax.crowd.subtasks import Example, SubTask

EXAMPLES = (
    Example(inputs={"goal": "a song", "ideas": ["one", "two"]}, answer="La la."),
    Example(inputs={"goal": "a list"}, answer="first\nsecond"),
)
SHOWN_EXAMPLES = "goal: a song\nideas:\n1. one\n2. two\nAnswer: La la.\n\ngoal: a list\nAnswer: first\nsecond"
CHOICE, NUMBER, TEXT, LINE = YES_NO, NumberSchema(), TextSchema(), TextSchema(is_one_line=True)
ITEMS, SPANS, FIELDS = ItemsSchema(), SpansSchema(text="a b"), FieldsSchema(names=("kind", "why"))
FORMATS = [
    (CHOICE, "Answer with one of: yes, no."),
    (NUMBER, "Answer with the number alone."),
    (TEXT, "Answer with the text alone, without quotes and without remarks."),
    (LINE, "Answer with the text alone on one line, without quotes and without remarks."),
    (ITEMS, "Answer with 1 to 10 lines, one item a line, without remarks."),
    (
        SPANS,
        "Quote 1 to 5 passages word for word, one a line. If a passage occurs more than once, add # and which "
        "occurrence you mean, as in: the passage #2",
    ),
    (FIELDS, "Answer with these lines and no others:\nkind: ...\nwhy: ..."),
]
IDS = ["choice", "number", "text", "line", "items", "spans", "fields"]


def task(schema, *, examples=(), **fields):
    inputs = {"goal": "a poem", "ideas": ["three", "four"]}
    return SubTask(
        name="n", role="r", instructions="Say it.", schema=schema, inputs=inputs, examples=examples, **fields
    )


# What continues a text, by format: without examples.
CUES = {
    "choice": "\n\nAnswer:",
    "number": "\n\nAnswer:",
    "text": '\n\nAnswer: "',
    "items": "\n\nAnswer:\n",
    "spans": "\n\nAnswer:\n",
    "fields": "\n\nAnswer:\n",
}


@pytest.mark.parametrize(("schema", "form"), FORMATS, ids=IDS)
def test_without_examples_the_format_comes_last(schema, form):
    words = f"Say it.\n\ngoal: a poem\n\nideas:\n1. three\n2. four\n\n{form}"
    asked = task(schema)
    assert subtask_text(asked, 0) == words
    assert subtask_prompt("plain", asked, 0) == words + CUES[schema.kind]
    is_text = schema.kind in ("choice", "number")
    message = (Message(role="user", content=words),)
    assert subtask_prompt("chat", asked, 0) == (words + CUES[schema.kind] if is_text else message)
    assert is_continued("chat", asked) is is_text


@pytest.mark.parametrize("style", ["chat", "plain"])
@pytest.mark.parametrize(("schema", "form"), FORMATS, ids=IDS)
def test_with_examples_the_format_comes_first_and_the_inputs_look_like_theirs(schema, form, style):
    words = f"Say it.\n\n{form}\n\n{SHOWN_EXAMPLES}\n\ngoal: a poem\nideas:\n1. three\n2. four"
    asked = task(schema, examples=EXAMPLES)
    assert subtask_text(asked, 0) == words
    assert subtask_prompt(style, asked, 0) == f"{words}\nAnswer:"
    assert is_continued("chat", asked)


def test_an_example_is_written_as_the_question_and_its_answer_are():
    """The prompt of a question that is one of the examples, and its answer, is what an example is."""
    (first, second) = EXAMPLES
    asked = SubTask(name="n", role="r", instructions="Say it.", schema=TEXT, inputs=second.inputs, examples=(first,))
    shown = SubTask(name="n", role="r", instructions="Say it.", schema=TEXT, inputs={"x": "y"}, examples=EXAMPLES)
    assert subtask_text(shown, 0).startswith(f"{subtask_prompt('plain', asked, 0)} {second.answer}\n\n")


def test_long_inputs_of_examples_stand_below_their_name_too():
    example = Example(inputs={"short": "a" * 60, "long": "b" * 61, "lines": "c\nd"}, answer="e")
    (shown,) = subtask_text(task(NUMBER, examples=(example,)), 0).split("\n\n")[2:3]
    assert shown == f"short: {'a' * 60}\nlong:\n{'b' * 61}\nlines:\nc\nd\nAnswer: e"


def test_a_persona_comes_first_and_the_last_refusal_just_before_what_is_asked_for():
    said = {"persona": "You are kind.", "refusals": ("it was too long", "it was empty")}
    refused = "An earlier answer was refused: it was empty."
    slots = ({"mine": "x"}, {"mine": "y"})
    asked = task(LINE, redundancy=2, inputs_by_slot=slots)
    form = FORMATS[3][1]
    words = f"You are kind.\n\nSay it.\n\ngoal: a poem\n\nideas:\n1. three\n2. four\n\nmine: y\n\n{refused}\n\n{form}"
    assert subtask_text(asked, 1, **said) == words
    assert subtask_prompt("chat", asked, 1, **said) == (Message(role="user", content=words),)
    assert subtask_prompt("plain", asked, 1, **said) == f'{words}\n\nAnswer: "'
    asked = task(LINE, redundancy=2, inputs_by_slot=slots, examples=EXAMPLES)
    shown = "goal: a poem\nideas:\n1. three\n2. four\nmine: y"
    words = f"You are kind.\n\nSay it.\n\n{form}\n\n{SHOWN_EXAMPLES}\n\n{refused}\n\n{shown}"
    assert subtask_text(asked, 1, **said) == words
    assert subtask_prompt("chat", asked, 1, **said) == f"{words}\nAnswer:"


def test_what_is_not_there_leaves_no_empty_lines():
    bare = SubTask(name="n", role="r", instructions="Say it.", schema=NUMBER)
    assert subtask_prompt("chat", bare, 0) == "Say it.\n\nAnswer with the number alone.\n\nAnswer:"


@pytest.mark.parametrize(
    ("schema", "stop", "with_examples"),
    [
        (CHOICE, ("\n\n",), ("\n\n",)),
        (NUMBER, ("\n",), ("\n",)),
        (TEXT, ('"\n', "\n\n"), ("\n\n",)),
        (LINE, ('"\n', "\n"), ("\n",)),
        (ITEMS, ("\n\n",), ("\n\n",)),
        (SPANS, ("\n\n",), ("\n\n",)),
        (FIELDS, ("\n\n",), ("\n\n",)),
    ],
    ids=IDS,
)
def test_where_an_answer_ends(schema, stop, with_examples):
    assert plain_stop(task(schema)) == stop
    assert plain_stop(task(schema, examples=EXAMPLES)) == with_examples


@pytest.mark.parametrize(
    ("schema", "text", "expected", "with_examples"),
    [
        (TEXT, ' Good day."', "Good day.", 'Good day."'),
        (TEXT, ' He said "no"."\n', 'He said "no".', 'He said "no"."'),
        (TEXT, ' Good "day ""', 'Good "day "', 'Good "day ""'),
        (LINE, " Good day. ", "Good day.", "Good day."),
        (LINE, '"', "", '"'),
        (ITEMS, '\n"one"\n"two"\n', '"one"\n"two"', '"one"\n"two"'),
        (NUMBER, ' 17"', '17"', '17"'),
        (FIELDS, ' kind: "a"', 'kind: "a"', 'kind: "a"'),
        (ITEMS, " one\ntwo\nAnswer: three\nfour", "one\ntwo", "one\ntwo"),
        (TEXT, ' The Answer: 7"\nAnswer: "8"', "The Answer: 7", 'The Answer: 7"'),
    ],
)
def test_an_answer_without_what_the_cue_had_it_end_with(schema, text, expected, with_examples):
    assert without_cue(task(schema), text) == expected
    assert without_cue(task(schema, examples=EXAMPLES), text) == with_examples


def test_the_text_is_what_people_and_endpoints_read_without_a_cue():
    asked = task(ChoiceSchema(options=("a", "b")))
    assert "Answer:" not in subtask_text(asked, 0)
    assert not subtask_text(task(TEXT, examples=EXAMPLES), 0).endswith("Answer:")


def test_the_version_of_the_words():
    """Raised when one of the texts above changes."""
    assert CROWD_PROMPT_VERSION == 3
