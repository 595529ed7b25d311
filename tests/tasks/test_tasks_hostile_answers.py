"""No text of a model's is an error: whatever an answer says, does or returns, it scores, and one row's tests that
cannot be run are told apart from it.

The texts are made of what breaks parsers; the programs return what breaks tests; the bounds are on what arrives.
"""

import itertools
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.tasks import sandbox
from hierrouter_jax.tasks.extraction import _NUMBER, extract_letter, extract_number
from hierrouter_jax.tasks.program_extraction import extract_program
from hierrouter_jax.tasks.prompts import shown_answer
from hierrouter_jax.tasks.sandbox import SandboxLimits, run_program
from hierrouter_jax.tasks.scoring import score_answer, score_answers
from hierrouter_jax.tasks.task_row import TaskRow

LIMITS = SandboxLimits(cpu_s=1, wall_s=20.0)
NAMESPACES = ("user_namespace", "processes", "network", "root")
CHOICE = TaskRow(id="q", task="quiz", question="?", answer="B", choices=("red", "green", "blue"))
NUMBER = TaskRow(id="n", task="sums", question="?", answer="1/2")


def code_row(*tests):
    return TaskRow(id="c", task="code", question="Write f.", answer="", tests=tests, entry_point="f")


# Python turns no more than 4,300 digits into a number, and the reverse; a product of two numbers has more than either.
FRAGMENTS = [
    *("1", "7" * 4301, "3" * 2500, "0", " ", "\n", "/", ",", ".", "-", "$", "%", "e5", "½", "٣", "\ud800", "\0"),
    *(
        "\\frac{",
        "}{",
        "}",
        "\\boxed{",
        "answer is",
        "answer:",
        "####",
        "=",
        "A",
        "(B)",
        "option",
        "```",
        "```python\n",
    ),
    *(
        "def f(x):\n",
        "    return ",
        "x",
        "f(1)\n",
        "print(",
        ")",
        "0x" + "f" * 5000,
        "(" * 300,
        "lambda: ",
        "\t",
        '"""',
    ),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=13).map("".join)


@settings(max_examples=307, deadline=None)
@given(TEXTS)
def test_every_text_can_be_read(text):
    for row in (CHOICE, NUMBER):
        assert score_answer(row, text).quality in (0.0, 1.0)
    for row in (CHOICE, NUMBER, code_row("assert f(1)")):
        assert isinstance(shown_answer(row, text), str)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("7" * 5000 + " 1/2", "1/2"),
        ("7" * 2500 + " 1/" + "3" * 2500, "1/" + "3" * 2500),
        ("2 1/2", "5/2"),
    ],
)
def test_mixed_number_with_more_digits_than_python_reads(text, read):
    assert extract_number(text) == read
    assert score_answer(NUMBER, text).quality == float(read == "1/2")


def test_usage_is_kept_where_the_program_cannot_be_written_anew():
    program = "f(1)\ndef f(x):\n    return 0x" + "f" * 5000
    assert extract_program(code_row("assert f(1)"), program) == program
    assert score_answer(code_row("assert f(1) > 1"), "def f(x):\n    return 0x" + "f" * 4000 + "\nf(1)").quality == 1.0


@pytest.mark.parametrize("blank", [" ", "\n", "\t"])
@pytest.mark.parametrize("before", ["x", "7", "-", "$", "answer:", "answer is", "option", "\\boxed{", "```", "def f"])
def test_long_white_space_takes_no_time(before, blank):
    # The patterns took the third power of the length: 2,000 blanks took over a minute, and a model may write 10,000.
    text = before + blank * 2003 + "x"
    start = time.monotonic()
    extract_number(text)
    extract_letter(CHOICE, text)
    extract_program(code_row("assert f(1)"), text)
    assert time.monotonic() - start < 5


# The patterns as they were first written: plainer, and slow on white space.
PLAIN_NUMBER = re.compile(
    r"(?P<sign>-?)\s*(?:\\?[$€£])?\s*" + _NUMBER.pattern[_NUMBER.pattern.index("(?P<body>") :],
)
GROUP = r"[(\[*\s]*([ABC])(?![\w'])"
PLAIN_LETTER = re.compile(
    rf"(?i:answer(?:\s+is|\s*:)\s*:?|(?:option|choice)(?:\s+is)?:?)\s*{GROUP}",
)
PLAIN_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*\(?([ABC])\)?\s*\}")


def plain_letter(text):
    for pattern in (PLAIN_BOXED, PLAIN_LETTER):
        found = pattern.findall(text)
        if found:
            return found[-1]
    return None


@settings(max_examples=499, deadline=None)
@given(st.lists(st.sampled_from([*"0123456789,./-$€ \n\\eE%x", "frac{1}{2}", "--", " - "]), max_size=17).map("".join))
def test_numbers_are_those_of_the_plain_pattern(text):
    for found, plain in itertools.zip_longest(_NUMBER.finditer(text), PLAIN_NUMBER.finditer(text)):
        assert (found["sign"] or "", found["body"], found.end()) == (plain["sign"], plain["body"], plain.end())
        assert not plain["sign"] or found.start() == plain.start()


def test_letters_are_those_of_the_plain_patterns():
    pieces = ["", " ", "\n", ":", " is", "(", "*", "\\text{", "x"]
    endings = ["A", "C.", "B)", "C}", "Ax", "B's", "c"]
    starts = ["Answer", "option", "Choice", "\\boxed{"]
    for start, *middle, end in itertools.product(starts, pieces, pieces, pieces, endings):
        text = f"so {start}{''.join(middle)}{end}"
        assert extract_letter(CHOICE, text) == plain_letter(text), text


# What an answer may return where the tests expect a list. Every one of them can be a model's mistake or its mischief.
RETURNS = {
    "generator": "def f(x): return (i for i in range(5))",
    "dictionary view": "def f(x): return {1: 2}.values()",
    "index": "def f(x): return [slice(1, None), ...]",
    "function": "def f(x): return lambda *a, **k: a\ng = f",
    "itself": "def f(*a, **k): return f",
    "takes everything": """
class T:
    def __getattr__(self, name): return self
    def __call__(self, *arguments, **named): return self
    def __getitem__(self, key): return self
    def __contains__(self, item): return True
def f(x): return T()
""",
    "list of what takes everything": """
class T:
    def __getattr__(self, name): return self
    def __call__(self, *arguments, **named): return self
def f(x): return [T()]
""",
    "refuses everything": """
class T:
    def __getattr__(self, name): raise SystemExit
    __call__ = __str__ = __len__ = __bool__ = __eq__ = __iter__ = lambda *arguments: [][0]
def f(x): return T()
""",
    "ends when it is printed": "import os\nclass T:\n    def __str__(self): os._exit(0)\ndef f(x): return T()",
    "is printed as a number": "class T:\n    def __str__(self): return 3\ndef f(x): return T()",
    "holds itself": "def f(x):\n    x = []\n    x.append(x)\n    return x",
    "half a character": "def f(x): return '\\ud800' + chr(0)",
}
# What tests do with it; where they hand a function over, it is a method of a list that they mean.
USES = [
    "assert f(3)[1:] == [2]",
    "assert f(3)[::2, ...] == 7",
    "assert f(3)(lambda: 0) == 7",
    "x = f(3)\nx.sort(key=lambda v: -v)\nassert x == [2, 1]",
    "f(3).attribute = len\nassert False",
    "assert len in f(3) and False",
    "assert f(f(3).values()) == 7",
    "assert f(map(lambda v: v.sort(key=len), f(3))) == 7",
    "assert False, f(3)",
    "raise LookupError(f(3))",
    "assert g(lambda: 3) and False",
]


def test_no_answer_makes_its_row_an_error():
    pairs = list(itertools.product(USES, RETURNS))
    rows = [code_row(use) for use, _ in pairs]
    limits = SandboxLimits(cpu_s=1, wall_s=20.0, memory_bytes=2**28)
    scores = score_answers(rows, [RETURNS[name] for _, name in pairs], num_workers=2, limits=limits, is_quiet=True)
    assert [pair for pair, score in zip(pairs, scores, strict=True) if score.quality or not score.is_parsed] == []


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("class T(list):\n    pass\ndef f(x): return T", "assert f(3)([5, 7, 11, 13])[1:3] == [7, 11]"),
        (
            "class T:\n    def __getitem__(self, key): return [key]\ndef f(x): return T()",
            "assert f(3)[1:, ...] == [(slice(1, None), ...)]",
        ),
        ("def f(x): return sum(x) if isinstance(x, list) else {1: 5, 2: 7}", "assert f(f(3).values()) == 12"),
    ],
)
def test_indices_and_views_are_plain(program, tests):
    assert score_answer(code_row(tests), program).quality == 1.0


@pytest.mark.parametrize("use", ["f(lambda: 3)", "f([len])", "f(key=map(lambda v: int, [1]))", "f(0) + f(object())"])
def test_tests_that_hand_over_what_cannot_be_are_an_error_naming_the_row(use):
    for program in ("def f(x=0, key=0): return x", "f = abs"):
        with pytest.raises(DataError, match=r"Row 'c' of task 'code' [\s\S]*they hand a [\s\S]*Mend or remove the row"):
            score_answer(code_row(f"assert {use} == 3"), program)


def test_helper_of_the_question_that_fails_is_an_error_naming_the_row():
    row = TaskRow(**{**vars(code_row("assert f(3) == 3")), "question": "import no_such_module\ndef f(x):\n"})
    with pytest.raises(DataError, match=r"Row 'c' of task 'code' [\s\S]*ModuleNotFoundError"):
        score_answer(row, "    return x")


HUGE = {
    "text of an exception": "def f(x): raise ValueError('x' * 10 ** 7)",
    "name of an exception": "def f(x): raise type('E' * 10 ** 7, (Exception,), {})('x')",
    "at import": "raise type('E' * 10 ** 7, (Exception,), {})('x' * 10 ** 7)",
    "text of an object": "class T:\n    def __str__(self): return 'x' * 10 ** 7\ndef f(x): return T()",
    "repr of a key": "def f(x): raise KeyError('\\x00' * 10 ** 6)",
    "output": "def f(x):\n    for _ in range(64):\n        print('\\x00' * 2 ** 20)\n    return 4",
    "errors": "import sys\ndef f(x):\n    sys.stderr.write('\\ud83d' * 10 ** 6)\n    return 4",
    "frame": """
import os
for fd in range(3, 64):
    try:
        os.write(fd, b'\\xff' * 2 ** 16)
    except OSError:
        pass
""",
    "list": "def f(x): return [[]] * 10 ** 6",
    "range": "def f(x): return range(10 ** 12)",
}


@pytest.mark.parametrize("name", sorted(HUGE))
def test_little_arrives_however_much_an_answer_says(name, monkeypatch):
    sizes = []

    def measured(frames, timeout_s):
        raw, errors = run_judge(frames, timeout_s)
        sizes.append(len(raw) + len(errors))
        return raw, errors

    run_judge = sandbox._run_judge
    monkeypatch.setattr(sandbox, "_run_judge", measured)
    tests = "x = f(3)\nlist(x) if isinstance(x, range) else None\nassert x == 5, x"
    result = run_program(HUGE[name], [tests], entry_point="f", limits=LIMITS)
    assert result.status in ("failed", "error", "crashed")
    # The verdict is all that the parent reads: a detail and an output, each of whose characters is six at most in JSON.
    assert 0 < sizes[0] <= 6 * (500 + LIMITS.max_output_bytes) + 500
    assert len(result.detail) <= 500


def test_name_of_an_exception_is_cut_and_its_text_kept():
    result = run_program("def f(x): raise type('E' * 1000, (Exception,), {})('why')", ["f(3)"], entry_point="f")
    assert (result.status, result.detail) == ("error", f"CandidateRaisedError: {'E' * 100}: why")


def test_folders_nested_deeper_than_python_recurses_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    program = "import os\nfor _ in range(1013):\n    os.mkdir('d')\n    os.chdir('d')\ndef f(x):\n    return 5"
    try:
        assert run_program(program, ["assert f(3) == 5"], entry_point="f", without_walls=NAMESPACES).is_passed
        assert list(tmp_path.iterdir()) == []
    finally:  # what is left would break pytest's own cleaning up, in this run and in later ones
        subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are set by a call of Linux")
def test_process_whose_name_is_no_text_disturbs_no_verdict():
    name_it = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff) \\xfe'); print('named', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", name_it], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"named\n"
        assert run_program("def f(x):\n    return 5", ["assert f(3) == 5"], entry_point="f").is_passed
        process.communicate(b"\n")
