"""Trees of other prompts for the second hop: refine, verify, solve anew; on some train rows of the six-benchmark tree.

    HIERROUTER_BENCHMARKS=path/to/benchmarks python experiments/collect_later_hops.py --prompts v2-refine \
        --store six.sqlite --out later_hops_refine.npz

The first hop is that of the packaged tree, so answers in its store are not asked again. Only train rows are asked,
because prompts are a choice, and test rows choose nothing; that a tree file has a train and a test split is a matter
of form, and `experiments/later_hops.py` joins them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from collect_six_benchmarks import CONFIG
from command import run

from hierrouter_jax.collect.collect_config import load_collect_rows
from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.collection_report import summary_lines
from hierrouter_jax.collect.tree_file import save_tree
from hierrouter_jax.core.atomic_files import require_writable
from hierrouter_jax.encoder.joint import open_encoder
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.task_row import TaskRow

NUM_CHOICE, NUM_GENERATED = 60, 30  # rows a benchmark: options are ranked at a fraction of the work
TEST_SHARE = 3  # every third row


def some_rows(rows: Sequence[TaskRow], num_choice: int, num_generated: int) -> list[TaskRow]:
    """Return the first rows of every task, in their order."""
    counts: dict[str, int] = {}
    chosen = []
    for row in rows:
        counts[row.task] = counts.get(row.task, 0) + 1
        if counts[row.task] <= (num_choice if row.form == "choice" else num_generated):
            chosen.append(row)
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose, ask, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", required=True, help="prompt version, such as v2-refine, v2-verify, v2-anew")
    parser.add_argument("--store", type=Path, required=True, help="response store")
    parser.add_argument("--out", type=Path, required=True, help="the tree")
    parser.add_argument("--num-choice", type=int, default=NUM_CHOICE, help="rows a benchmark of multiple choice")
    parser.add_argument("--num-generated", type=int, default=NUM_GENERATED, help="rows a benchmark of other kind")
    options = parser.parse_args(arguments)
    require_writable(options.out)
    rows = some_rows(load_collect_rows(CONFIG)["train"], options.num_choice, options.num_generated)
    engine, encoder = FlaxEngine(load_pool(CONFIG.pool)), open_encoder(CONFIG.encoder)
    with ResponseStore(options.store) as store:
        found = collect_tree(
            engine,
            {
                "train": [row for place, row in enumerate(rows) if place % TEST_SHARE],
                "test": [row for place, row in enumerate(rows) if not place % TEST_SHARE],
            },
            store,
            num_stages=CONFIG.num_stages,
            encoder=encoder,
            prompt_version=options.prompts,
            chunk_size=CONFIG.chunk_size,
            seed=CONFIG.splits.seed,
        )
    save_tree(options.out, found)
    assert found.report is not None
    print("\n".join([*summary_lines(found.report), f"tree: {options.out}"]))


if __name__ == "__main__":
    run(main)
