"""Put tables where pages show them.

    python experiments/fill_tables.py

A line `<!-- table: docs/results/six_benchmarks/limits.md -->` in README.md or a page of docs/ is followed by that
file's table; what followed it before, to the next blank line, goes.
"""

from __future__ import annotations

import re
from pathlib import Path

from command import run

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"<!-- table: (\S+) -->")


def pages() -> list[Path]:
    """Return the pages that may show tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str, root: Path) -> str:
    """Return a page with the tables as they are in their files now; `DataError` for a file that is not there."""
    lines: list[str] = []
    is_old = False
    for line in text.splitlines():
        if is_old and line.strip():
            continue
        is_old = False
        lines.append(line)
        mark = MARK.fullmatch(line.strip())
        if mark:
            path = root / mark[1]
            if not path.is_file():
                raise DataError(f"A page shows the table {mark[1]}, which is not there; run what makes it first.")
            lines += path.read_text().strip().splitlines()
            is_old = True
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fill every page that shows a table."""
    for page in pages():
        text = page.read_text()
        if MARK.search(text):
            write_text_atomically(page, filled(text, ROOT))
            print(f"{page.relative_to(ROOT)}: {len(MARK.findall(text))} tables")


if __name__ == "__main__":
    run(main)
