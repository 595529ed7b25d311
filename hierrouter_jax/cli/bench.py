"""`hierrouter bench ...`: throughput and latency, each beside a named peer in the same run.

A benchmark is a frozen dataclass of options and a function from them to a `BenchReport`, both in `bench/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import tyro

from hierrouter_jax.bench.collect import CollectBench, bench_collect
from hierrouter_jax.bench.generate import GenerateBench, bench_generate
from hierrouter_jax.bench.report import BenchOptions, BenchReport, PoolOptions
from hierrouter_jax.bench.route import RouteBench, bench_route
from hierrouter_jax.bench.rows import busy_note
from hierrouter_jax.bench.train import TrainBench, bench_train
from hierrouter_jax.cli.output import print_lines, print_table, write_json
from hierrouter_jax.cli.packaged import SMALL_POOL, SMALL_TREE, packaged_file
from hierrouter_jax.cli.quickstart import QUESTIONS
from hierrouter_jax.core.atomic_files import require_writable

Command = (
    Annotated[GenerateBench, tyro.conf.subcommand("generate")]
    | Annotated[CollectBench, tyro.conf.subcommand("collect")]
    | Annotated[RouteBench, tyro.conf.subcommand("route")]
    | Annotated[TrainBench, tyro.conf.subcommand("train")]
)
BENCHMARKS: dict[type[BenchOptions], Callable[[Any], BenchReport]] = {
    GenerateBench: bench_generate,
    CollectBench: bench_collect,
    RouteBench: bench_route,
    TrainBench: bench_train,
}


def run(command: BenchOptions) -> None:
    """Measure what the subcommand says, print the table and the notes, write the JSON."""
    if command.json is not None:  # minutes of measuring are not lost to a folder that cannot be written
        require_writable(command.json)
    load_average = os.getloadavg()[0]
    report = BENCHMARKS[type(command)](_with_packaged(command))
    note = busy_note(load_average)
    print_table(report.table())
    print_lines([*report.notes, *([] if note is None else [note])])
    write_json(command.json, report.as_json() | {"load_average_at_start": load_average})


def _with_packaged(command: BenchOptions) -> BenchOptions:
    """Return the options with what comes with the package where nothing else was given."""
    if isinstance(command, PoolOptions) and command.pool is None:
        command = replace(command, pool=packaged_file(SMALL_POOL))
    if isinstance(command, RouteBench):
        if command.run_dir is None and command.tree is None:
            command = replace(command, tree=packaged_file(SMALL_TREE))
        if not command.questions:
            command = replace(command, questions=QUESTIONS)
    return command
