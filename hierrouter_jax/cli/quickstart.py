"""`hierrouter quickstart`: the whole line on the packaged real tree, then three questions to the real pool.

The tree holds real outcomes of the small pool's models, so training and evaluation need no language model; the last
step downloads the pool once and answers live.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from hierrouter_jax.cli.evaluate import print_comparison
from hierrouter_jax.cli.live_session import open_session, result_json, result_lines
from hierrouter_jax.cli.output import print_lines, print_note, write_json
from hierrouter_jax.cli.packaged import SMALL_TREE, packaged_file
from hierrouter_jax.cli.report import PAGE_NAME, read_run, write_report
from hierrouter_jax.collect.tree_file import TreeFile, load_tree
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.evaluate.evaluate_run import RESULTS_NAME, evaluate_run
from hierrouter_jax.evaluate.live import RouteResult
from hierrouter_jax.evaluate.origins import run_origins
from hierrouter_jax.evaluate.results import Comparison, save_comparison
from hierrouter_jax.train.loop import train_run
from hierrouter_jax.train.presets import DEFAULT_PRESET, preset

STORE_NAME = "responses.sqlite"
QUESTIONS = (
    "A train leaves at 9:40 and arrives at 12:15. How many minutes does the journey take?",
    "Write a Python function that returns the second largest number of a list.",
    "Why does a metal spoon feel colder than a wooden one in the same room?",
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `quickstart`."""

    out: Path = Path("runs/quickstart")
    """The run directory; an earlier quickstart there is gone on with."""
    live: bool = True
    """Whether questions are answered by the real pool at the end (its weights are downloaded once)."""
    num_updates: int = preset(DEFAULT_PRESET).num_updates
    """Updates of training."""
    json: Path | None = None
    """Write everything that was found there as JSON."""
    tree: Path | None = None
    """Another tree file than the packaged one."""
    questions: tuple[str, ...] = QUESTIONS
    """What is asked at the end."""


def run(command: Command) -> None:
    """Train, evaluate, report, and answer."""
    tree_path = packaged_file(SMALL_TREE) if command.tree is None else command.tree
    tree_file = load_tree(tree_path)
    comparison = _train_and_evaluate(command, tree_file)
    print_comparison(comparison)
    page = command.out / PAGE_NAME
    write_report(page, [read_run(command.out)], figures_dir=command.out / "figures")
    print_lines([f"report: {page}", f"figures: {command.out / 'figures'}"])
    results = _answer(command) if command.live else []
    write_json(
        command.json,
        {
            "run_dir": str(command.out),
            "report": str(page),
            "comparison": to_json_dict(comparison),
            "answers": [result_json(result) for result in results],
        },
    )


def _train_and_evaluate(command: Command, tree_file: TreeFile) -> Comparison:
    config = dataclasses.replace(preset(DEFAULT_PRESET), num_updates=command.num_updates)
    print_note(
        f"1/3 training a router on {tree_file.train.num_queries} queries x {tree_file.train.num_nodes - 1} routes"
    )
    train_run(
        config,
        tree_file.train,
        command.out,
        validation=tree_file.validation,
        resume=True,
        origins=run_origins(tree_file),
    )
    print_note(f"2/3 evaluating it on {tree_file.test.num_queries} other queries, beside every baseline")
    comparison = evaluate_run(command.out, tree_file)
    save_comparison(command.out / RESULTS_NAME, comparison)
    return comparison


def _answer(command: Command) -> list[RouteResult]:
    print_note(f"3/3 answering {len(command.questions)} questions live; the first time, about 0.9 GB are downloaded")
    with open_session(command.out, pool=None, encoder=None, store=command.out / STORE_NAME) as session:
        results = session.answer(command.questions)
    for result in results:
        print_lines(["", *result_lines(result)])
    return results
