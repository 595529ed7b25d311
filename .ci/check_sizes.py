"""Refuse a source file over 400 lines, a test file over 800, a function over 80: it wanted a split before that."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_SOURCE_LINES, MAX_TEST_LINES, MAX_FUNCTION_LINES = 400, 800, 80


def problems_of(path: Path) -> list[str]:
    """Return what is too long in one file."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    num_lines = text.count("\n")
    limit = MAX_TEST_LINES if name.parts[0] == "tests" else MAX_SOURCE_LINES
    problems = [f"{name}: {num_lines} lines, the limit is {limit}"] if num_lines > limit else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                problems.append(f"{name}:{node.lineno} {node.name}: {length} lines, the limit is {MAX_FUNCTION_LINES}")
    return problems


def main() -> int:
    """Check the package, the experiments and the tests."""
    folders = ("hierrouter_jax", "experiments", "tests")
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    problems = [problem for path in files for problem in problems_of(path)]
    print("\n".join(problems) if problems else f"sizes: {len(files)} files within the limits")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
