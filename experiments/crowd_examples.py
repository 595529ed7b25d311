"""One worked example of every crowd algorithm on the packaged pool: the command, who was asked what, what came out.

    python experiments/crowd_examples.py --out docs/crowd_examples.md

Every command runs as it is printed, and its output is shown as it came. A call that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import run

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.crowd.journal import Answer, Journal

COMMAND = (sys.executable, "-m", "hierrouter_jax.cli.main")
INTRODUCTION = """# One worked example of every crowd algorithm

Made by `python experiments/crowd_examples.py --out docs/crowd_examples.md`: the commands ran as they stand here, from
the root of a checkout, on models of the packaged pool (Qwen2.5 Coder 0.5B, and SmolLM2 135M where passages are
rewritten), and what came out is shown as it came, good or bad. What models of this size can and cannot do is counted in
[crowd.md](crowd.md); a crew file with larger models, an endpoint or people runs the same commands. *Asked* counts the
answers of each sub-task, and how many of them were refused and asked for again.
"""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A run of an algorithm. `looks_at` says what the reader sees in it, whatever came out."""

    algorithm: str
    text: str
    looks_at: str
    options: tuple[str, ...] = ()


EXAMPLES = (
    Example(
        algorithm="iterative",
        text="An invitation to a reading evening in a village library, in one sentence.",
        options=("num_creations=3", "num_votes=3"),
        looks_at="Three writers, each shown the best so far; after each, votes between best and new by other samples.",
    ),
    Example(
        algorithm="find_fix_verify",
        text="My uncle have an old boat. On sunny days he row across the lake, and we waits for him with the tea.",
        options=("num_finders=6", "num_fixers=3", "num_verifiers=3"),
        looks_at="Passages that two of six mark become patches; each is rewritten, and checked by those who did not "
        "rewrite it. A patch without a rewrite that passes stays as it was.",
    ),
    Example(
        algorithm="map_reduce",
        text="How to look after a bicycle",
        options=("min_headings=2", "max_headings=3", "max_facts=1", "max_chars=300"),
        looks_at="An outline; facts for every heading, side by side; of each heading's facts a paragraph.",
    ),
    Example(
        algorithm="price_divide_solve",
        text="Plan a treasure hunt in a garden for six children.",
        options=("max_depth=1", "num_solutions=2", "num_divisions=2", "num_merges=2", "max_chars=300"),
        looks_at="Three say whether one can do the task in two minutes; if not it is divided, and its steps are "
        "solved and merged, each by vote.",
    ),
    Example(
        algorithm="humor",
        text="Town hall clock stops, and nobody notices for a year",
        options=("max_rounds=2", "num_evaluators=3"),
        looks_at="Aspects, reactions, associations, a belief, a violation; then jokes that are judged, and written "
        "again with the verdict.",
    ),
    Example(
        algorithm="arithmetic",
        text="31 8 24 5",
        options=("redundancy=3",),
        looks_at="Each addition is asked of three, and the answer given most often goes on.",
    ),
    Example(
        algorithm="sorting",
        text="pear\nfig\nkiwi\nlime",
        options=("num_votes=3",),
        looks_at="The comparisons of a merge sort, by three votes each.",
    ),
    Example(
        algorithm="transcription",
        text="Tbe 0ld mi11 by the r1ver grinds f1our on Saturdays, and visitors may taste tbe bread.",
        looks_at="Pieces of seven words, each with the words around it.",
    ),
    Example(
        algorithm="justify_reconsider",
        text="Is a tomato a fruit?",
        looks_at="Five answer; one of each side argues; the others are shown the argument of the other side, and keep "
        "their answer or change it.",
    ),
)


def command_of(example: Example, crew: Path) -> list[str]:
    """Return the command's words; the input is piped in where it has several lines."""
    words = ["hierrouter", "crowd", "run", example.algorithm]
    if "\n" not in example.text:
        words += ["--text", example.text]
    words += ["--options", *example.options] if example.options else []
    return [*words, "--crew", str(crew)]


def command_line(example: Example, crew: Path) -> str:
    """Return the command as it is typed."""
    line = shlex.join(command_of(example, crew))
    return line if "\n" not in example.text else f"printf '{example.text}\n' | {line}".replace("\n", "\\n")


def asked_line(answers: Mapping[tuple[str, int], Sequence[Answer]]) -> str:
    """Return how many answers each sub-task got, and how many were refused; one branch's sub-tasks in their order."""
    asked: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for (step, _), attempts in sorted(answers.items(), key=lambda one: _numbers(one[0][0])):
        name = step.rsplit(":", 1)[1]
        asked[name] += len(attempts)
        refused[name] += sum(one.refusal is not None for one in attempts)
    parts = [f"{name} {asked[name]}" + (f" ({refused[name]} refused)" if refused[name] else "") for name in asked]
    return f"Asked: {', '.join(parts)}."


def _numbers(step: str) -> list[int]:
    return [int(part.split(":", 1)[0]) for part in step.split("/")]


def section(example: Example, command_line: str, printed: str, asked: str) -> str:
    """Return an example as it stands on the page."""
    title = example.algorithm.replace("_", "-")
    command = ["```bash", command_line, "```"]
    output = ["```text", *printed.rstrip().splitlines(), "```"]
    return "\n".join([f"## {title}", "", example.looks_at, "", *command, "", asked, "", *output, ""])


def worked(example: Example, store: Path, crew: Path) -> str:
    """Run an example; return its section. `DataError` with what the command said when it could not run."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "outcome.json"
        done = subprocess.run(
            [*COMMAND, *command_of(example, crew)[1:], "--store", str(store), "--json", str(written)],
            input=example.text + "\n",
            capture_output=True,
            text=True,
        )
        if not written.exists():
            raise DataError(f"{command_line(example, crew)} must run, but ended with {done.returncode}: {done.stderr}")
        outcome: dict[str, Any] = json.loads(written.read_text())
    with Journal(store) as journal:
        answers = journal.answers(outcome["run"])
    return section(example, command_line(example, crew), done.stdout, asked_line(answers))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("runs/crowd.sqlite"), help="response store with the journal")
    parser.add_argument("--crew", type=Path, default=Path("experiments/crowd/crews/by_skill.toml"), help="crew file")
    parser.add_argument("--out", type=Path, required=True, help="the page")
    options = parser.parse_args(arguments)
    options.store.parent.mkdir(parents=True, exist_ok=True)
    sections = []
    with progress_bar("examples", len(EXAMPLES)) as advance:
        for example in EXAMPLES:
            sections.append(worked(example, options.store, options.crew))
            advance(1)
    write_text_atomically(options.out, "\n".join([INTRODUCTION, *sections]).rstrip() + "\n")


if __name__ == "__main__":
    run(main)
