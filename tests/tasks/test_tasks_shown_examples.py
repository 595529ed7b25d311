"""The examples that a question shows, in every spelling there is, and what is no example."""

from __future__ import annotations

import pytest

from hierrouter_jax.tasks.rows import load_rows
from hierrouter_jax.tasks.scoring import read_answer
from hierrouter_jax.tasks.shown_examples import shown_examples
from hierrouter_jax.tasks.task_row import TaskRow


def completion(docstring, *, name="twice", parameter="x"):
    question = f'def {name}({parameter}):\n    """{docstring}\n    """\n'
    return TaskRow(id="c", task="t", question=question, answer="", tests=(f"assert {name}(3) == 6",), entry_point=name)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Double x.\n    >>> twice(4)\n    8", ["assert (twice(4)) == (8)"]),
        ("Double x.\n    >>> twice(4)  # as said\n    8\n    >>> twice('ab')\n    'abab'", 2),
        ("twice(4) => 8", ["assert (twice(4)) == (8)"]),
        ("For example, twice((1, 2)) ➞ (1, 2, 1, 2).", ["assert (twice((1, 2))) == ((1, 2, 1, 2))"]),
        ("twice([1]) returns [1, 1]", ["assert (twice([1])) == ([1, 1])"]),
        ("twice('a)') should return 'a)a)'", ["assert (twice('a)')) == ('a)a)')"]),
        ("twice(-1) == -2\n    twice(-1) == -2", ["assert (twice(-1)) == (-2)"]),
        ("twice(x=3) -> 6", ["assert (twice(x=3)) == (6)"]),
        ("twice(4) = 4 + 4 = 8", []),  # no value but a calculation
        ("twice(y) = 8", []),  # no value goes in
        ("twice(4) is large", []),
        ("twice(4) = eight", []),
        ("other(4) = 8", []),
        ("Double it.\n    >>> print(1)\n    1", []),
        ("Double it.", []),
        ("\n".join(f"twice({n}) = {2 * n}" for n in range(11)), 8),
    ],
)
def test_examples_of_a_docstring(docstring, expected):
    found = shown_examples(completion(docstring))
    assert (len(found) if isinstance(expected, int) else list(found)) == expected


def test_other_forms():
    program = TaskRow(id="p", task="t", question="Double.", answer="", tests=("assert f(1) == 2", "assert f(2) == 4"))
    assert shown_examples(program) == ("assert f(1) == 2",)
    lines = TaskRow(id="p", task="t", question="Double.", answer="", tests=("def check(f):", "    assert f(1) == 2"))
    assert shown_examples(lines) == ()
    assert shown_examples(TaskRow(id="n", task="t", question="f(1) = 2?", answer="2")) == ()
    assert shown_examples(TaskRow(id="q", task="t", question="?", answer="A", choices=("f(1) = 2", "b"))) == ()


@pytest.mark.parametrize(
    ("body", "passes"),
    [("    return 2 * x", True), ("    return x", False), ("    while True: pass", False), ("no code here (", None)],
)
def test_reading_a_program_runs_the_examples_and_not_the_tests(body, passes):
    row = completion("twice(4) -> 8")
    assert read_answer(row, body).passes_examples is passes
    hidden = TaskRow(**{**vars(row), "tests": ("assert twice(3) == 7",)})
    assert read_answer(hidden, body) == read_answer(row, body)
    assert read_answer(completion("Double x."), body).passes_examples is None


def test_equal_answers_have_one_identity_and_others_another():
    number = TaskRow(id="n", task="t", question="?", answer="1")
    assert len({read_answer(number, text).identity for text in ("it is 1,250", r"\boxed{1250.0}", "so 2500/2")}) == 1
    assert read_answer(number, "1251").identity != read_answer(number, "1250").identity
    assert read_answer(number, "none").identity is None
    choice = TaskRow(id="q", task="t", question="?", answer="A", choices=("red", "blue", "red"))
    assert read_answer(choice, "A").identity == read_answer(choice, "C").identity == read_answer(choice, "red").identity
    assert read_answer(choice, "B").identity != read_answer(choice, "A").identity
    program = completion("Double x.")
    assert (
        read_answer(program, "    return 2 * x").identity
        == read_answer(program, 'def twice(x):\n    """Words."""\n    return 2 * x\n').identity
    )
    assert read_answer(TaskRow(id="o", task="open", question="Why?", answer=""), "Because.").identity is None


def test_examples_of_real_questions_agree_with_their_reference(benchmarks_dir):
    """4 of HumanEval's docstrings contradict their own reference solution; no other example may."""
    rows = [row for split in ("train", "test") for row in load_rows(benchmarks_dir / "humaneval.jsonl", split=split)]
    shown = [row for row in rows if shown_examples(row)]
    assert (len(rows), len(shown)) == (164, 136)
    failing = [row.id for row in shown if read_answer(row, row.answer).passes_examples is not True]
    assert failing == [f"HumanEval/{number}" for number in (47, 116, 148, 130)]
