"""Every crowd algorithm, end to end, by each model of the small pool alone: which sub-tasks can it do at all?

    python experiments/crowd_algorithms.py --out experiments/crowd/results --tables docs/results/crowd

A model fills every role of an algorithm; redundant answers are samples of it. Counted is what fits the format of each
sub-task, at the first attempt and after re-asks; where the inputs say what is right, results are graded too. The
inputs are short, and were written for this package (experiments/crowd/inputs). A call that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import run
from rich.console import Console

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.crowd.comparison.chain_or_prompt import graded_result
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput, read_inputs
from hierrouter_jax.crowd.comparison.grading import result_text
from hierrouter_jax.crowd.journal import Answer, Journal
from hierrouter_jax.crowd.registry import algorithm
from hierrouter_jax.crowd.run_records import run_identity
from hierrouter_jax.crowd.runner import Crew, Runner
from hierrouter_jax.crowd.subtasks import SubTaskFailedError, side_by_side
from hierrouter_jax.crowd.workers.pool_worker import PoolWorker
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.report.tables import Table, markdown_table, rich_table
from hierrouter_jax.store.response_store import ResponseStore

HERE = Path(__file__).resolve().parent
MAX_SHOWN_CHARS = 600  # of a result, in the record


@dataclass(frozen=True, kw_only=True)
class Case:
    """An algorithm in one variant, on the first inputs of a file."""

    algorithm: str
    inputs: str
    num_inputs: int = 3
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The algorithm and its variant."""
        return " ".join([self.algorithm, *(str(value) for _, value in self.options)])


CASES = (
    Case(algorithm="iterative", inputs="goals"),
    Case(algorithm="iterative", inputs="goals", options=(("variant", "parallel"),)),
    Case(algorithm="iterative", inputs="ideas", options=(("variant", "brainstorm"),)),
    Case(algorithm="find_fix_verify", inputs="proofread", num_inputs=6),
    Case(algorithm="find_fix_verify", inputs="wordy", options=(("mode", "shorten"),)),
    Case(algorithm="map_reduce", inputs="topics"),
    Case(algorithm="map_reduce", inputs="topics", num_inputs=1, options=(("variant", "rated"),)),
    Case(algorithm="map_reduce", inputs="topics", num_inputs=1, options=(("variant", "combined"),)),
    Case(algorithm="price_divide_solve", inputs="tasks", options=(("max_depth", 1),)),
    Case(algorithm="humor", inputs="headlines"),
    Case(algorithm="arithmetic", inputs="sums", num_inputs=6),
    Case(algorithm="sorting", inputs="lists", num_inputs=3),
    Case(algorithm="transcription", inputs="garbled", num_inputs=6),
    Case(algorithm="justify_reconsider", inputs="questions", num_inputs=16),
)


def answers_by_subtask(answers: Mapping[tuple[str, int], Sequence[Answer]]) -> dict[str, dict[str, Any]]:
    """Return, by sub-task, how many slots were asked, filled at once and filled at last, and some reasons why not."""
    counts: dict[str, dict[str, Any]] = {}
    for (step, _), attempts in answers.items():
        name = step.rsplit(":", 1)[1]
        own = counts.setdefault(name, {"asked": 0, "at_once": 0, "at_last": 0, "refusals": []})
        own["asked"] += 1
        own["at_once"] += attempts[0].refusal is None
        own["at_last"] += attempts[-1].refusal is None
        own["refusals"] += [one.refusal for one in attempts if one.refusal is not None][:1]
    for own in counts.values():
        own["refusals"] = list(dict.fromkeys(own["refusals"]))[:3]
    return counts


def records_of(
    case: Case, inputs: Sequence[GradedInput], crew: Crew, journal: Journal, label: str
) -> list[dict[str, Any]]:
    """Run an algorithm and its one prompt on inputs side by side; return what came of each."""
    found = algorithm(case.algorithm)
    config = found.config(**dict(case.options))
    records: list[dict[str, Any]] = [{"text": one.text} for one in inputs]
    for side, make in (("chain", found.make), ("prompt", found.one_prompt)):
        name = f"algorithms/{run_identity(config, [one.text for one in inputs], label, side)[:12]}"
        outcome = Runner(crew, journal, name).run(side_by_side([make(one.text, config) for one in inputs]))
        answers = journal.answers(name)
        for place, (one, result) in enumerate(zip(inputs, outcome.result, strict=True)):
            own = {at: found for at, found in answers.items() if at[0].startswith(f"0:together/{place}/")}
            attempts = [attempt for found in own.values() for attempt in found]
            is_done = not isinstance(result, SubTaskFailedError)
            records[place][side] = {
                "reason": None if is_done else str(result),
                "result": result_text(result)[:MAX_SHOWN_CHARS] if is_done else None,
                "score": graded_result(case.algorithm, result, one),
                "calls": len(attempts),
                "cost": round(sum(attempt.cost for attempt in attempts), 4),
                "subtasks": answers_by_subtask(own),
            }
    return records


def subtask_table(records: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Table:
    """Return a line a sub-task of each case: of each model, the slots filled at once and at last, of those asked."""
    models = list(dict.fromkeys(model for by_model in records.values() for model in by_model))
    rows = []
    for case, by_model in records.items():
        totals: dict[str, dict[str, list[int]]] = defaultdict(dict)
        for model, runs in by_model.items():
            for one in runs:
                for name, own in one["chain"]["subtasks"].items():
                    sums = totals[name].setdefault(model, [0, 0, 0])
                    for place, key in enumerate(("at_once", "at_last", "asked")):
                        sums[place] += own[key]
        for name, by in totals.items():
            cells = [" / ".join(map(str, by[model])) if model in by else "not reached" for model in models]
            rows.append((case, name, *cells))
    title = "Answers that fit their sub-task: at once / after re-asks / asked"
    return Table(title=title, header=("algorithm", "sub-task", *models), rows=tuple(rows))


def result_table(records: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Table:
    """Return a line a case and model: runs that came through, scores where there is gold, calls and cost of a run."""
    rows = []
    for case, by_model in records.items():
        for model, runs in by_model.items():
            cells = [case, model]
            for side in ("chain", "prompt"):
                own = [one[side] for one in runs]
                scores = [one["score"] for one in own if one["score"] is not None]
                cells += [
                    f"{sum(one['reason'] is None for one in own)} of {len(own)}",
                    f"{100 * sum(scores) / len(scores):.0f}" if scores else "",
                    f"{sum(one['calls'] for one in own) / len(own):.0f}",
                    f"{sum(one['cost'] for one in own) / len(own):.2f}",
                ]
            rows.append(tuple(cells))
    header = ("algorithm", "model", "chain: done", "right %", "calls", "cost")
    return Table(
        title="Whole runs: the chain, and its one prompt",
        header=(*header, "prompt: done", "right % ", "calls ", "cost "),
        rows=tuple(rows),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, default=HERE / "pools" / "small.toml")
    parser.add_argument("--inputs", type=Path, default=HERE / "crowd" / "inputs", help="folder of JSONL files")
    parser.add_argument("--store", type=Path, default=Path("runs/crowd.sqlite"), help="response store with the journal")
    parser.add_argument("--out", type=Path, required=True, help="folder for a record an algorithm")
    parser.add_argument("--tables", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--only", nargs="*", default=[], help="these algorithms; no tables are written then")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if not options.only or case.algorithm in options.only]
    engine = FlaxEngine(load_pool(options.pool))
    models = [card.name for card in engine.cards]
    for folder in (options.out, options.tables, options.store.parent):
        folder.mkdir(parents=True, exist_ok=True)
    records: dict[str, dict[str, list[dict[str, Any]]]] = {case.name: {} for case in cases}
    total = sum(case.num_inputs for case in cases) * len(models)
    with (
        ResponseStore(options.store) as store,
        Journal(options.store) as journal,
        progress_bar("runs", total) as advance,
    ):
        for case in cases:
            inputs = read_inputs(options.inputs / f"{case.inputs}.jsonl")[: case.num_inputs]
            for model in models:
                crew = Crew(workers={"model": PoolWorker(engine, store, models=(model,))}, roles={"*": "model"})
                records[case.name][model] = records_of(case, inputs, crew, journal, model)
                advance(len(inputs))
    for case in cases:
        data = json.dumps(records[case.name], indent=1, ensure_ascii=False)
        write_text_atomically(options.out / f"{case.name.replace(' ', '_')}.json", data + "\n")
    tables = {"subtasks": subtask_table(records), "runs": result_table(records)}
    for name, table in tables.items():
        Console().print(rich_table(table))
        if not options.only:
            write_text_atomically(options.tables / f"algorithms_{name}.md", markdown_table(table))


if __name__ == "__main__":
    run(main)
