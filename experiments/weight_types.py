"""What narrower weights do to answers and to speed: the tables of docs/generation.md.

    python experiments/weight_types.py --rows path/to/benchmarks --json weight_types.json

Each model of a pool answers train questions of every task as a first hop, greedily, once with weights of each type, in
one process a type. Beside the first type (float32): the difference in mean quality with its interval (95%, paired
bootstrap over questions), the share of answers that stayed the same to the letter, and how much less likely the first
type's own written answers have become, in nats a token. Seconds are of generation, compiling taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hierrouter_jax.bench.compile_seconds import CompileSeconds
from hierrouter_jax.bench.tree_requests import ROWS_VARIABLE, rows_folder, train_rows
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval

POOL = Path(__file__).parent / "pools" / "small.toml"


def measure(options: argparse.Namespace, dtype: str, first_path: Path) -> dict:
    """Return each model's sizes, seconds, answers, qualities and likelihoods with weights of one type.

    What the first type answered is read from `first_path`, unless this is the first, for its answers' likelihoods.
    """
    import jax
    import numpy as np

    from hierrouter_jax.cli.accelerator import keep_compiled_programs
    from hierrouter_jax.llm.flax_engine import FlaxEngine
    from hierrouter_jax.llm.generation import score_continuations
    from hierrouter_jax.llm.pool import load_pool, read_pool_spec
    from hierrouter_jax.tasks.prompts import task_request
    from hierrouter_jax.tasks.scoring import score_answers

    keep_compiled_programs()
    spec = read_pool_spec(options.pool)
    pool = load_pool(replace(spec, models=tuple(replace(one, dtype=dtype) for one in spec.models)), is_quiet=True)
    rows = train_rows(options.rows, queries_per_task=options.queries_per_task, seed=0)
    first = json.loads(first_path.read_text()) if first_path.exists() else None
    outcome = {}
    for card in pool.cards:
        decoder, engine = pool.decoder(card.name), FlaxEngine(pool)
        requests = [task_request(card, row) for row in rows]
        began_s = time.perf_counter()
        with CompileSeconds() as compiled:
            texts = [answer.text for answer in engine.generate(requests)]
        seconds = time.perf_counter() - began_s - compiled.total_s
        own = texts if first is None else first[card.name]["texts"]
        encode = pool.tokenizer(card.name).encode
        written = [
            (engine.encode(request).token_ids, encode(text, add_special_tokens=False))
            for request, text in zip(requests, own, strict=True)
            if not request.options and text.strip()
        ]
        scores = score_continuations(decoder, [prompt for prompt, _ in written], [answer for _, answer in written])
        outcome[card.name] = {
            "parameter_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(decoder.params)),
            "generation_s": seconds,
            "texts": texts,
            "quality": [one.quality for one in score_answers(rows, texts, is_quiet=True)],
            "logprob_a_token": float(np.sum(scores) / sum(len(answer) for _, answer in written)),
        }
    return outcome


def compare(name: str, dtype: str, first: dict, other: dict) -> dict:
    """Return one row: a model with weights of one type beside the same with the first type."""
    import numpy as np

    quality, reference = np.array(other["quality"]), np.array(first["quality"])
    low, high = difference_interval(quality, reference, BootstrapConfig())
    same = [a == b for a, b in zip(first["texts"], other["texts"], strict=True)]
    return {
        "model": name,
        "dtype": dtype,
        "num_questions": len(quality),
        "parameter_mb": other["parameter_bytes"] / 1e6,
        "generation_s": other["generation_s"],
        "speed_ratio": first["generation_s"] / other["generation_s"],
        "quality": float(quality.mean()),
        "quality_difference": [float(quality.mean() - reference.mean()), low, high],
        "same_answers": statistics.mean(same),
        "logprob_change_a_token": other["logprob_a_token"] - first["logprob_a_token"],
    }


def lines_of(rows: list[dict]) -> list[str]:
    """Return the table in Markdown."""
    lines = [
        "| model | weights | parameters, MB | generation, s | right | difference [95%] | same answers | nats a token |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        middle, low, high = (100 * one for one in row["quality_difference"])
        lines.append(
            f"| {row['model']} | {row['dtype']} | {row['parameter_mb']:,.0f} | {row['generation_s']:.0f} "
            f"({row['speed_ratio']:.2f}x) | {100 * row['quality']:.1f}% | {middle:+.1f} [{low:+.1f}, {high:+.1f}] | "
            f"{100 * row['same_answers']:.0f}% | {row['logprob_change_a_token']:+.4f} |"
        )
    return lines


def main() -> None:
    """Measure every type in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=rows_folder(None), help="folder of task files")
    parser.add_argument("--pool", type=Path, default=POOL)
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "int8"], help="the first is what others stand beside"
    )
    parser.add_argument("--queries-per-task", type=int, default=20)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rows is None:
        parser.error(f"the folder of task files must be given: --rows, or {ROWS_VARIABLE} in the environment")
    if options.one is not None:
        print(json.dumps(measure(options, options.one[0], Path(options.one[1]))))
        return
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        first_path = Path(folder) / "first.json"
        for dtype in options.dtypes:
            print(f"answering with {dtype}", file=sys.stderr)
            words = [sys.executable, *sys.argv, "--one", dtype, str(first_path)]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            outcomes[dtype] = json.loads(done.stdout.splitlines()[-1])
            first_path.write_text(json.dumps(outcomes[options.dtypes[0]]))
    first = outcomes[options.dtypes[0]]
    rows = [compare(name, dtype, first[name], outcomes[dtype][name]) for name in first for dtype in options.dtypes]
    if options.json is not None:
        options.json.write_text(json.dumps({"num_cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")
    print("\n".join(lines_of(rows)))


if __name__ == "__main__":
    main()
