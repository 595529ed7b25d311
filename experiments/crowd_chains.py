"""Microtasks against one prompt, for every model of the small pool: sums of twelve numbers, lists of twenty words.

    python experiments/crowd_chains.py --out docs/results/crowd --store runs/crowd.sqlite

Results are graded, not voted on; intervals are over inputs. Everything goes through the store and its journal, so a
call that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command import run
from rich.console import Console

from hierrouter_jax.core.atomic_files import atomic_write, write_text_atomically
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.crowd.comparison.chain_or_prompt import ChainComparison, compare_chain
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput, read_inputs
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.registry import algorithm
from hierrouter_jax.crowd.run_records import run_identity
from hierrouter_jax.crowd.runner import Crew, Runner, RunOutcome
from hierrouter_jax.crowd.subtasks import Pipeline
from hierrouter_jax.crowd.workers.pool_worker import PoolWorker
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.report.crowd_report import chain_figure, chain_table
from hierrouter_jax.report.tables import markdown_table, rich_table
from hierrouter_jax.report.themes import png_bytes
from hierrouter_jax.store.response_store import ResponseStore

HERE = Path(__file__).resolve().parent
INPUTS = {"arithmetic": "sums.jsonl", "sorting": "lists.jsonl"}
TEMPERATURE = 0.0  # one answer is asked of each worker: the likeliest


def compared(
    name: str, model: str, inputs: Sequence[GradedInput], worker: PoolWorker, journal: Journal
) -> ChainComparison:
    """Return one model's chain against its one prompt."""
    found = algorithm(name)
    config = found.config()
    crew = Crew(workers={"model": worker}, roles={"*": "model"})
    identity = run_identity(config, [one.text for one in inputs], model, TEMPERATURE)[:10]

    def run_pipeline(pipeline: Pipeline, own: Crew, label: str) -> RunOutcome:
        return Runner(own, journal, f"{identity}/{label}").run(pipeline)

    return compare_chain(found, config, inputs, crew=crew, run=run_pipeline, num_judges=0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, default=HERE / "pools" / "small.toml")
    parser.add_argument("--inputs", type=Path, default=HERE / "crowd" / "inputs", help="folder of JSONL files")
    parser.add_argument("--store", type=Path, required=True, help="response store with the journal")
    parser.add_argument("--out", type=Path, required=True, help="folder for a table and a picture an algorithm")
    options = parser.parse_args(arguments)
    engine = FlaxEngine(load_pool(options.pool))
    models = [card.name for card in engine.cards]
    options.out.mkdir(parents=True, exist_ok=True)
    with ResponseStore(options.store) as store, Journal(options.store) as journal:
        for name, file in INPUTS.items():
            inputs = read_inputs(options.inputs / file)
            rows: list[tuple[str, ChainComparison]] = []
            with progress_bar(f"{name}: models", len(models)) as advance:
                for model in models:
                    worker = PoolWorker(engine, store, models=(model,), temperature=TEMPERATURE)
                    rows.append((model, compared(name, model, inputs, worker, journal)))
                    advance(1)
            table = chain_table(rows)
            Console().print(rich_table(table))
            write_text_atomically(options.out / f"chain_{name}.md", markdown_table(table))
            with atomic_write(options.out / f"chain_{name}.png") as picture:
                picture.write(png_bytes(chain_figure(rows)))
            data: dict[str, Any] = {model: to_json_dict(one) for model, one in rows}
            write_text_atomically(options.out / f"chain_{name}.json", json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
