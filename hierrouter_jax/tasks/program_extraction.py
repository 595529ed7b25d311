"""Finding the program in a model's text, and making it one that can be run against the tests.

Candidates are tried in a fixed order and the first that defines the row's entry point is taken: fenced blocks, then
the whole text; for a row that asks for the rest of a function, each also as a continuation of the question. Prose or a
half line after the code is cut by dropping lines from the end until Python can parse what is left. Top-level asserts
and calls that try the function out (usage examples of the model's own) are removed: they say nothing about it.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator

from hierrouter_jax.tasks.task_row import TaskRow

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_MAX_LINES = 400  # of an answer; a longer one is cut there, so that a runaway answer costs no time


def extract_program(row: TaskRow, text: str) -> str | None:
    """Return the program that the tests run against, or None when no text in it is a program with the entry point."""
    for candidate in _candidates(row, text):
        program = _longest_parsable(candidate)
        if program is not None and _defines(program, row.entry_point):
            return _without_usage(program, row.entry_point)
    return None


def question_helpers(row: TaskRow) -> str:
    """Return what a question says before the function to write: imports and functions that answer and tests may use."""
    if row.form != "completion":
        return ""
    header = re.search(rf"^def {row.entry_point}\(", row.question, flags=re.MULTILINE)
    before = row.question[: header.start()].rstrip() if header else ""
    return before + "\n\n\n" if before else ""


def without_docstring(program: str, entry_point: str | None) -> str:
    """Return the program without the entry point's docstring: where the question holds it, it is only length."""
    tree = _parse(program)
    for node in tree.body if tree is not None else []:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point and len(node.body) > 1:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.end_lineno is not None:
                lines = program.split("\n")
                return "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])
    return program


def code_blocks(text: str) -> list[str]:
    """Return the fenced blocks of a text, Python ones first; the last may be cut short."""
    found = [(match.group(1).lower(), match.group(2)) for match in _FENCE.finditer(text)]
    python = [body for language, body in found if language in ("python", "py", "python3")]
    return python + [body for language, body in found if language not in ("python", "py", "python3")]


def _candidates(row: TaskRow, text: str) -> Iterator[str]:
    """Yield the texts that may be the program, likeliest first."""
    is_completion = row.form == "completion"
    prelude = question_helpers(row)
    pieces = [*code_blocks(text), re.split(r"^[ \t]*```", text, flags=re.MULTILINE)[0], _from_first_code_line(text)]
    for piece in pieces:
        if is_completion and not re.search(rf"^\s*def\s+{row.entry_point}\b", piece, flags=re.MULTILINE):
            yield from _continuations(row.question, piece)
        else:
            yield prelude + textwrap.dedent(piece)


def _continuations(question: str, piece: str) -> Iterator[str]:
    """Yield the question followed by a function body, its indentation as it is, then as it may have been meant."""
    bodies = (piece, "    " + piece.lstrip(), textwrap.indent(textwrap.dedent(piece), "    "))
    header = question.rstrip("\n") + "\n"
    programs = [_longest_parsable(header + body.lstrip("\n"), min_lines=header.count("\n") + 1) for body in bodies]
    # The reading that loses the fewest lines is the one that was meant; sorting is stable.
    yield from sorted((program for program in programs if program is not None), key=lambda text: -text.count("\n"))


def _from_first_code_line(text: str) -> str:
    """Return the text from its first line that looks like code, for answers that begin with prose and use no fence."""
    match = re.search(r"^(?:def|class|import|from|@)\s*\w", text, flags=re.MULTILINE)
    return text[match.start() :] if match else ""


def _longest_parsable(source: str, *, min_lines: int = 1) -> str | None:
    """Return the longest run of lines from the start that Python can parse, or None when there is none."""
    lines = source.split("\n")[:_MAX_LINES]
    for num_lines in range(len(lines), min_lines - 1, -1):
        candidate = "\n".join(lines[:num_lines])
        tree = _parse(candidate)
        if tree is not None:
            return candidate if tree.body else None
    return None


def _parse(source: str) -> ast.Module | None:
    """Return the syntax tree, or None when there is none."""
    try:
        with warnings.catch_warnings():  # the candidate's own "invalid escape sequence" is not ours to report
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            compile(tree, "<answer>", "exec", dont_inherit=True)  # finds more, such as a return outside a function
            return tree
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _defines(program: str, entry_point: str | None) -> bool:
    """Whether the program's top level binds the entry point with a body that does something."""
    tree = _parse(program)
    if tree is None or entry_point is None:
        return tree is not None
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == entry_point:
            return not all(isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) for part in node.body)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == entry_point for target in targets):
                return True
        if isinstance(node, (ast.Import, ast.ImportFrom)) and any(
            (alias.asname or alias.name) == entry_point for alias in node.names
        ):
            return True
    return False


def _without_usage(program: str, entry_point: str | None) -> str:
    """Return the program without the top-level statements that only try it out."""
    tree = _parse(program)
    if tree is None:
        return program
    kept = [node for node in tree.body if not _is_usage(node, entry_point)]
    if len(kept) == len(tree.body):
        return program
    try:
        return ast.unparse(ast.Module(body=kept, type_ignores=[]))
    except (RecursionError, ValueError):  # deep nesting; a number too long to be written in decimal digits
        return program


def _is_usage(node: ast.stmt, entry_point: str | None) -> bool:
    """Whether a statement is an assert, a print or call of the answer, or an `if __name__ == ...` block."""
    if isinstance(node, ast.Assert):
        return True
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    if isinstance(node, ast.If):
        return "__name__" in {part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)}
    return isinstance(node, ast.Expr) and bool(names & {"print", "input", entry_point})
