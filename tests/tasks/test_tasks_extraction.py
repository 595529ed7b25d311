"""Extraction: every usual way of giving an answer, against answers written down by hand."""

from fractions import Fraction

import pytest

from hierrouter_jax.tasks.extraction import extract_letter, extract_number, is_same_number, parse_number
from hierrouter_jax.tasks.program_extraction import extract_program, question_helpers, without_docstring
from hierrouter_jax.tasks.task_row import TaskRow

QUIZ = TaskRow(id="q", task="quiz", question="?", answer="B", choices=("a stone", "Plum", "chair", "sea", "old moon"))


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" C", "C"),
        ("(d)", "D"),
        ("**E**", "E"),
        ("B.", "B"),
        ("B. Plum", "B"),
        ("A) a stone, because", "A"),
        ("plum", "B"),
        ("An old moon? No.\nThe answer is E.", "E"),
        ("Answer: (C)", "C"),
        ("First I thought the answer is A. But the correct answer is **D**", "D"),
        (r"So \boxed{C}.", "C"),
        (r"\boxed{\text{D}}", "D"),
        ("I choose option D", "D"),
        ("C\nbecause it is so", "C"),
        ("A stone is hard.", None),
        ("F", None),
        ("I do not know", None),
        ("", None),
        ("Chairs are not fruit", None),
    ],
)
def test_letters(text, letter):
    assert extract_letter(QUIZ, text) == letter


def test_choices_that_differ_by_case_or_stop_alone():
    row = TaskRow(id="q", task="quiz", question="?", answer="B", choices=("CO", "Co", "co.", "B"))
    assert [extract_letter(row, f" {text}") for text in ("CO", "Co", "co.", "B")] == ["A", "B", "C", "D"]
    assert extract_letter(row, "cO") == "A"


def test_letters_beyond_the_choices_do_not_count():
    short = TaskRow(id="q", task="quiz", question="?", answer="B", choices=("x", "y", "z"))
    assert extract_letter(short, "D") is None
    assert extract_letter(QUIZ, "D") == "D"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("She has 3 + 4 = 7 left. The answer is 7.", "7"),
        (r"First \boxed{3}, then finally \boxed{42}. That took 5 steps.", "42"),
        (r"\boxed{\$1,234.50}", "1234.5"),
        (r"\boxed{\frac{3}{4}}", "0.75"),
        (r"\boxed{-\dfrac{1}{8}}", "-0.125"),
        (r"\boxed{18 \text{ dollars}}", "18"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{20\%}", "20"),
        (r"\boxed{} so the answer is 9", "9"),
        (r"cut off in \boxed{12", "12"),
        ("2 * 3 = 6\n#### 6", "6"),
        ("#### $1,000", "1000"),
        ("The answer is 2 * 9 = $18. He paid with 20.", "18"),
        ("The answer is: 5. Wait. The final answer is -6.", "-6"),
        ("Answer: 3/4 of the cake", "3/4"),
        ("It is 1 1/2 hours", "3/2"),
        ("10 - 4 is 10 -4 is 10-4", "4"),
        ("It falls to -4", "-4"),
        ("costs €3.75", "3.75"),
        ("one of 3,4,5", "5"),
        ("1.5e3 metres", "1500"),
        ("in all .5 litres", "0.5"),
        ("The answer is unclear, perhaps 11", "11"),
        ("The answer is 8.\n\nQuestion: How many are 3 of 9?\nAnswer: 27", "8"),
        ("no number at all", None),
        ("", None),
    ],
)
def test_numbers(text, number):
    found = extract_number(text)
    if number is None:
        assert found is None
    else:
        assert is_same_number(found, number), found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Fraction(7)),
        ("-1,234,567.5", Fraction(-2469135, 2)),
        ("$18", Fraction(18)),
        ("6/8", Fraction(3, 4)),
        ("1e-2", Fraction(1, 100)),
        ("3/0", None),
        ("3 and 4", None),
        ("none", None),
    ],
)
def test_parse_number(text, value):
    assert parse_number(text) == value


def test_numbers_are_equal_up_to_a_millionth():
    assert is_same_number("33.3333333", "100/3")
    assert not is_same_number("33.33", "100/3")
    assert is_same_number("-18.00", "-18")
    assert not is_same_number("18", "-18")
    assert not is_same_number("x", "x")


TWICE = TaskRow(
    id="p", task="mbpp", question="Write it.", answer="", tests=("assert twice(2) == 4",), entry_point="twice"
)
BODY = "def twice(x):\n    return 2 * x"


def value_of(program, name="twice", argument=7):
    namespace = {"__name__": "answer"}
    exec(program, namespace)
    return namespace[name](argument)


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        f"```python\n{BODY}\n```",
        f"Here is the function:\n\n```python\n{BODY}\n```\nIt doubles x.",
        f"```\n{BODY}\n```",
        f"```py\n{BODY}",  # cut before the closing fence
        f"```python\n{BODY}\n\nprint(tw",  # cut inside a line
        f"```bash\npip install x\n```\n```python\n{BODY}\n```",
        f"```python\nprint('an example')\n```\nand now\n```python\n{BODY}\n```",
        f"Sure! {'words ' * 5}\n{BODY}\nThat is all there is to it.",
        "  ```python\n    def twice(x):\n        return 2 * x\n  ```",
        f"```python\n{BODY}\nassert twice(2) == 5\nprint(twice(3))\n```",
        f"```python\n{BODY}\nif __name__ == '__main__':\n    raise SystemExit\n```",
        "twice = lambda x: 2 * x",
        f"{BODY}\n```\n\nQuestion: another one?",
    ],
)
def test_programs(text):
    assert value_of(extract_program(TWICE, text)) == 14


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot.",
        "def thrice(x):\n    return 3 * x",
        "```python\ndef twice(x):\n```",
        'def twice(x):\n    """Doc."""',
    ],
)
def test_no_program(text):
    assert extract_program(TWICE, text) is None


def test_statements_that_matter_stay():
    program = extract_program(TWICE, f"import sys\nsys.setrecursionlimit(5000)\nK = 2\nassert K\n{BODY}")
    assert "sys.setrecursionlimit(5000)" in program
    assert "assert" not in program


REST = TaskRow(
    id="h",
    task="humaneval",
    question="from math import floor\n\n\ndef half(x):\n    return x / 2\n\n\ndef low(x):\n"
    '    """Floor of half of x.\n\n    >>> low(5)\n    2\n    """\n',
    answer="    return floor(half(x))\n",
    tests=("assert low(5) == 2",),
    entry_point="low",
)


@pytest.mark.parametrize(
    "text",
    [
        "    return floor(half(x))\n",
        "\n    return floor(half(x))\n",
        "return floor(half(x))",  # lost its indentation
        " y = half(x)\n    return floor(y)",  # lost part of it
        "y = half(x)\nreturn floor(y)",
        "    y = half(x)\n    if y < 0:\n        return floor(y)\n    return floor(y)\n\nThis returns",
        "```python\n    return floor(half(x))\n```",
        "```python\nreturn floor(half(x))\n```",
        "Of course.\n```python\ndef low(x):\n    return floor(half(x))\n```",
        '```python\nfrom math import floor\n\ndef low(x):\n    """Floor."""\n    return floor(half(x))\n```',
        "```python\ndef low(x: int) -> int:\n    return floor(half(x))\n```",
        "    return floor(half(x))\n\n\nprint(low(3))\nassert low(1) == 7",
    ],
)
def test_completions(text):
    assert value_of(extract_program(REST, text), "low", 7) == 3


@pytest.mark.parametrize("text", ["", "    # nothing", "No.", "```python\n```"])
def test_no_completion(text):
    assert extract_program(REST, text) is None


def test_helpers_of_the_question():
    namespace = {}
    exec(question_helpers(REST), namespace)
    assert namespace["half"](3) == 1.5
    assert "low" not in namespace
    assert question_helpers(TWICE) == ""


def test_docstring_goes_and_the_rest_stays():
    program = 'import re\n\n\ndef low(x):\n    """One.\n\n    Two."""\n    return x  # as it was\n'
    assert without_docstring(program, "low") == "import re\n\n\ndef low(x):\n    return x  # as it was\n"
    only_doc = 'def low(x):\n    """Doc."""\n'
    assert without_docstring(only_doc, "low") == only_doc
    assert without_docstring("not python at all", "low") == "not python at all"


def test_long_answers_are_cut_not_parsed_for_ever():
    import time

    start = time.process_time()
    assert value_of(extract_program(TWICE, BODY + "\n" + "garbage that is no python (\n" * 3000)) == 14
    assert time.process_time() - start < 5.0
