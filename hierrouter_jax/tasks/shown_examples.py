"""The examples that a programming question shows, as tests that a live system may run: they are part of the question.

A row of the program form shows its tests in the prompt; the first of them, where it is an assert, is its example (the
others stay unseen by everything but the score). A function to complete shows examples in its docstring, as doctest
lines or as `call(...) -> value` in one of the usual spellings. Other questions show none.
"""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator

from hierrouter_jax.tasks.task_row import TaskRow

_BECOMES = re.compile(r"\s*(?:==>|=>|->|==|➞|→|=|(?:should\s+)?returns?\b:?)\s*")
_MAX_EXAMPLES = 8


def shown_examples(row: TaskRow) -> tuple[str, ...]:
    """Return the examples of the question as asserts, at most eight; () where it shows none."""
    if row.form == "program":
        return row.tests[:1] if _is_assert(row.tests[0]) else ()
    if row.form != "completion" or row.entry_point is None:
        return ()
    found = [*_doctest_examples(row.question, row.entry_point), *_written_examples(row.question, row.entry_point)]
    return tuple(dict.fromkeys(found))[:_MAX_EXAMPLES]


def _is_assert(test: str) -> bool:
    """Say whether a test stands by itself: a row's tests may also be the lines of one program."""
    try:
        return any(isinstance(node, ast.Assert) for node in ast.parse(test).body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _doctest_examples(question: str, entry_point: str) -> Iterator[str]:
    try:
        # The closing quotes would count as the last line of what is expected.
        examples = doctest.DocTestParser().get_examples(re.sub(r"\"{3}|'{3}", "\n", question))
    except ValueError:  # prompts of uneven indentation: what they show is no doctest
        return
    for example in examples:
        call, wanted = _call(example.source, entry_point), _literal(example.want)
        if call is not None and wanted is not None:
            yield f"assert ({call}) == ({wanted})"


def _written_examples(question: str, entry_point: str) -> Iterator[str]:
    """Yield the examples written as a call, a sign that says "becomes", and a value, on one line."""
    for line in question.splitlines():
        if line.lstrip().startswith("def "):
            continue
        for start in (match.start() for match in re.finditer(rf"\b{re.escape(entry_point)}\(", line)):
            ends = (match.end() for match in re.finditer(r"\)", line) if match.start() > start)
            end = next((end for end in ends if _call(line[start:end], entry_point) is not None), None)
            becomes = None if end is None else _BECOMES.match(line, end)
            wanted = None if becomes is None else _leading_literal(line[becomes.end() :])
            if wanted is not None:
                yield f"assert ({_call(line[start:end], entry_point)}) == ({wanted})"


def _leading_literal(text: str) -> str | None:
    """Return the longest beginning of the text that is a literal, None where an operator goes on after it."""
    ends = [match.end() for match in re.finditer(r"[\w\"')\]}]", text)]
    end = next((end for end in reversed(ends) if _literal(text[:end]) is not None), None)
    return None if end is None or re.match(r"\s*[-+*/%=<>^]|\w", text[end:]) else _literal(text[:end])


def _literal(text: str) -> str | None:
    """Return the text of a literal in Python's own spelling, or None when it is none."""
    try:
        return repr(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _call(text: str, entry_point: str) -> str | None:
    """Return a call of the entry point with literals, in Python's own spelling; None when the text is another thing."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)] if isinstance(call, ast.Call) else []
        is_own = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == entry_point
        if is_own and all(_literal(ast.unparse(argument)) is not None for argument in arguments):
            return ast.unparse(call)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        pass
    return None
