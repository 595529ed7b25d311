"""`bench route`: what a routing decision costs, encoder and policy apart, and beside the generation of its hop.

A hop of live routing (`evaluate.live`) encodes the contexts of all queries that go on, asks the policy for an action of
each, and lets the chosen models answer. The first two are the router's overhead. They are timed as live routing calls
them, on contexts of both kinds that it meets: the question alone, and the question with a first answer, which the
chosen model has just given. The generation of the first hop of the same queries is timed beside them, so the share
is of one run on one machine. Times are of one call for the whole batch, in milliseconds.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hierrouter_jax.agent.router import Router, live_legal, next_action
from hierrouter_jax.bench.report import BenchReport, PoolOptions
from hierrouter_jax.bench.rows import BenchRow
from hierrouter_jax.bench.tree_requests import rows_folder, train_rows
from hierrouter_jax.collect.hop_prompts import context_text, hop_request
from hierrouter_jax.collect.tree_file import load_tree
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.encoder.joint import open_encoder
from hierrouter_jax.encoder.text_encoder import TextEncoder
from hierrouter_jax.evaluate.live import as_row
from hierrouter_jax.evaluate.origins import require_router_fits, run_origins
from hierrouter_jax.llm.batching import device_limits
from hierrouter_jax.llm.engine import TextEngine
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.routing.signals import route_signals
from hierrouter_jax.tasks.task_row import TaskRow
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.loop import load_router, train_run

PERCENTILES = (50, 99)
LEAST_QUERIES = 12  # of small batches several are taken: one question may be short or long
CUM_COST = 0.5  # of a second decision; the policy's time does not depend on it


@dataclass(frozen=True, kw_only=True)
class RouteBench(PoolOptions):
    """Measure what a routing decision costs, and its share of a hop's generation."""

    batch: tuple[int, ...] = (1, 64)
    """Queries routed together."""
    repetitions: int = 200
    """Timed decisions of each batch size."""
    rows: Path | None = None
    """Folder of benchmark rows whose train questions are routed; by default that of HIERROUTER_BENCHMARKS."""
    questions: tuple[str, ...] = ()
    """What is routed where there are no rows; by default the quickstart's questions."""
    run_dir: Path | None = None
    """The run whose router decides; without one, a router is trained shortly on the tree."""
    tree: Path | None = None
    """Tree file to train on; by default the packaged one."""
    encoder: str | None = None
    """The router's encoder: a name (all-MiniLM-L6-v2, the default, or all-mpnet-base-v2), hf:, pypi: or a path."""
    num_updates: int = 8
    """Updates of that short training; the time of a decision does not depend on them."""
    seed: int = 0
    """Which rows are drawn."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not self.batch or min(self.batch) < 1:
            raise ConfigError(f"batch must be sizes >= 1, but is {self.batch}.")
        for name in ("repetitions", "num_updates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class HopTimes:
    """Seconds of every repetition, one call for a whole batch, and of generating a batch's first hop, in the mean."""

    encode_s: tuple[float, ...]
    policy_s: tuple[float, ...]
    generation_s: float

    @property
    def overhead_s(self) -> tuple[float, ...]:
        """Encoder and policy together, by repetition."""
        return tuple(encode + policy for encode, policy in zip(self.encode_s, self.policy_s, strict=True))


def bench_route(options: RouteBench) -> BenchReport:
    """Return p50 and p99 of every batch size. Raises `DataError` for a run of another pool or encoder."""
    if options.pool is None:
        raise ConfigError("A pool file is needed; give --pool.")
    encoder = open_encoder() if options.encoder is None else open_encoder(options.encoder)
    # Hops are generated more than once: a prompt that was kept would be read for nothing the second time.
    engine = FlaxEngine(load_pool(options.pool), limits=dataclasses.replace(device_limits(), max_prefix_bytes=0))
    with _router(options) as router:
        require_router_fits(router, engine.cards, encoder)
        rows: list[BenchRow] = []
        queries, origin = _queries(options, max(*options.batch, LEAST_QUERIES))
        for batch in options.batch:
            starts = range(0, max(1, LEAST_QUERIES // batch) * batch, batch)
            batches = [queries[start : start + batch] for start in starts]
            times = measure_hops(router, engine, encoder, batches, num_repetitions=options.repetitions)
            rows += hop_rows(times, batch=batch)
    title = f"Routing a hop: encoder and policy, {options.repetitions} repetitions"
    return BenchReport(title=title, rows=tuple(rows), notes=(origin,), more={"repetitions": options.repetitions})


def measure_hops(
    router: Router,
    engine: TextEngine,
    encoder: TextEncoder,
    batches: Sequence[Sequence[TaskRow]],
    *,
    num_repetitions: int,
    clock: Callable[[], float] = time.perf_counter,
) -> HopTimes:
    """Time the decisions on batches of one size, before and after their first hop in turn, and that hop's answers.

    The first hop of every batch is generated twice and the second time counts; every decision is made once untimed.
    """
    kinds: list[tuple[int, list[str]]] = []
    generation_s: list[float] = []
    with progress_bar(f"first hops, batch {len(batches[0])}", len(batches)) as advance:
        for queries in batches:
            contexts = encoder.encode([context_text(row, ()) for row in queries])
            models = [_action(router, context, 0) for context in contexts]
            requests = [hop_request(engine.cards[model], row, ()) for model, row in zip(models, queries, strict=True)]
            engine.generate(requests)
            began_s = clock()
            responses = engine.generate(requests)
            generation_s.append(clock() - began_s)
            answered = [context_text(row, [one.text]) for row, one in zip(queries, responses, strict=True)]
            kinds += [(0, [context_text(row, ()) for row in queries]), (1, answered)][: router.num_stages]
            advance(1)
    for stage, texts in kinds:
        _time_decision(router, encoder, texts, stage, clock)
    pairs = []
    with progress_bar(f"decisions, batch {len(batches[0])}", num_repetitions) as advance:
        for repetition in range(num_repetitions):
            stage, texts = kinds[repetition % len(kinds)]
            pairs.append(_time_decision(router, encoder, texts, stage, clock))
            advance(1)
    return HopTimes(
        encode_s=tuple(encode for encode, _ in pairs),
        policy_s=tuple(policy for _, policy in pairs),
        generation_s=float(np.mean(generation_s)),
    )


def hop_rows(times: HopTimes, *, batch: int) -> list[BenchRow]:
    """Return the percentiles in milliseconds, and the overhead's share of a hop."""
    parts = {"encoder": times.encode_s, "policy": times.policy_s, "encoder + policy": times.overhead_s}
    rows = [
        BenchRow(
            what=f"{name}, p{percentile}",
            model="router",
            batch=batch,
            ours=float(np.percentile(seconds, percentile)) * 1e3,
            unit="ms",
        )
        for name, seconds in parts.items()
        for percentile in PERCENTILES
    ]
    overhead_s = float(np.median(times.overhead_s))
    generation = BenchRow(
        what="generation of the hop", model="pool", batch=batch, ours=times.generation_s * 1e3, unit="ms"
    )
    share = overhead_s / (overhead_s + times.generation_s)
    part = BenchRow(what="overhead, share of a hop (p50)", model="router", batch=batch, ours=100 * share, unit="%")
    return [*rows, generation, part]


def _time_decision(
    router: Router, encoder: TextEncoder, texts: Sequence[str], stage: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Return the seconds of encoding the texts, and of choosing an action for each."""
    began_s = clock()
    contexts = encoder.encode(texts)
    encoded_s = clock()
    for context in contexts:
        _action(router, context, stage)
    return encoded_s - began_s, clock() - encoded_s


def _action(router: Router, context: Any, stage: int) -> int:
    signals = route_signals([], num_models=len(router.model_names), num_stages=router.num_stages)
    return next_action(router, context, stage, CUM_COST * stage, live_legal(router, stage), signals=signals)[0]


def _queries(options: RouteBench, num_queries: int) -> tuple[list[TaskRow], str]:
    """Return as many queries, tasks mixed, and a word on where they are from; few questions are repeated."""
    folder = rows_folder(options.rows)
    if folder is None:
        rows = [as_row(question) for question in options.questions]
        origin = f"Routed: {len(rows)} questions of the quickstart, repeated; give --rows for real benchmark questions."
    else:
        rows = list(train_rows(folder, queries_per_task=num_queries, seed=options.seed))
        tasks = {row.task: None for row in rows}
        by_task = [[row for row in rows if row.task == task] for task in tasks]
        rows = [row for group in zip(*by_task, strict=True) for row in group]
        origin = f"Routed: train questions of {', '.join(tasks)}."
    if not rows:
        raise ConfigError("Something must be routed; give --rows or --questions.")
    return [rows[index % len(rows)] for index in range(num_queries)], origin


@contextmanager
def _router(options: RouteBench) -> Iterator[Router]:
    """Yield the run's router, or one that is trained shortly on the tree in a folder that is thrown away."""
    if options.run_dir is not None:
        yield load_router(options.run_dir)
        return
    if options.tree is None:
        raise ConfigError("A router is needed; give --run-dir, or a --tree to train one on.")
    tree_file = load_tree(options.tree)
    config = dataclasses.replace(TrainConfig(), num_updates=options.num_updates)
    with tempfile.TemporaryDirectory() as folder:
        yield train_run(config, tree_file.train, Path(folder) / "run", origins=run_origins(tree_file))
