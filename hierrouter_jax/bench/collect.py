"""`bench collect`: a complete tree of real queries, ours beside a straightforward loop of transformers.

Both sides answer the same distinct requests, every route of up to `num_stages` hops over the pool, under the same
budgets and stops. Rows: seconds of generation (see `tree_requests` for what is counted), tokens computed, tokens
billed. With `--check`, responses are compared with one-by-one greedy decoding (see `identity`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax

from hierrouter_jax.bench.collect_peer import PeerRun, read_peer, run_peer
from hierrouter_jax.bench.extras import require_extras
from hierrouter_jax.bench.identity import Identity, check_identity
from hierrouter_jax.bench.report import BenchReport, PoolOptions, announce
from hierrouter_jax.bench.rows import BenchRow, Number
from hierrouter_jax.bench.tree_requests import ROWS_VARIABLE, TreeRun, collect_run, rows_folder, stored_run, train_rows
from hierrouter_jax.core.configs import read_json
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.llm.token_counts import TokenCounts
from hierrouter_jax.tasks.task_row import TaskRow

PEER_NAME = "transformers, static batches"


@dataclass(frozen=True, kw_only=True)
class CollectBench(PoolOptions):
    """Measure the collection of a two-stage tree of real queries beside a loop of transformers' generate."""

    rows: Path | None = None
    """Folder of task files; by default that of the environment variable HIERROUTER_BENCHMARKS. Train rows are used."""
    queries_per_task: int = 10
    """Queries of each task."""
    num_stages: int = 2
    """Models asked in a row at most."""
    seed: int = 0
    """Which rows are drawn."""
    against: tuple[Literal["transformers"], ...] = ("transformers",)
    """The peers; none measures ours alone."""
    peer_json: Path | None = None
    """Outcome of an earlier run on this machine whose peer is taken instead of running it again."""
    before: Path | None = None
    """Outcome of an earlier version of ours, put beside this one."""
    store: Path | None = None
    """Keep the responses of our tree there, for a later --peer-only."""
    peer_only: bool = False
    """Run the peer alone, on the requests of the tree in --store; its outcome can be another run's --peer-json."""
    check: int = 0
    """Compare so many responses with one-by-one greedy decoding."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("queries_per_task", "num_stages"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")
        if self.check < 0:
            raise ConfigError(f"check must be >= 0, but is {self.check}.")
        if self.peer_only and (self.store is None or not self.against or self.peer_json is not None):
            raise ConfigError("--peer-only needs a --store and a peer to run, not one of --peer-json; give those.")


def bench_collect(options: CollectBench) -> BenchReport:
    """Collect, let the peer answer the same requests, compare.

    Raises `DataError` without rows, `ConfigError` without torch where the peer is to be run.
    """
    folder = rows_folder(options.rows)
    if folder is None:
        raise DataError(
            f"Rows of real benchmarks are needed: give their folder as --rows, or set {ROWS_VARIABLE}; docs/data.md "
            "says how such a folder looks."
        )
    rows = train_rows(folder, queries_per_task=options.queries_per_task, seed=options.seed)
    before = None if options.before is None else read_json(options.before)
    if options.against and options.peer_json is None:
        require_extras("torch", "accelerate")
    names, ours, identity = _run_ours(rows, options)
    gc.collect()  # our weights and programs make room for the peer's
    jax.clear_caches()
    peer = _run_peer(ours, options)
    sizes = f"{len(rows)} queries, {options.num_stages} stages, {len(ours.requests)} distinct requests"
    title = f"{sizes}; models: {', '.join(names)}"
    notes = [] if identity is None else [identity.note()]
    notes += _peer_notes(peer, ours)
    more = {
        "requests_digest": ours.digest,
        "request_keys": [one.key for one in ours.requests],
        "peer": None if peer is None else peer.as_json(),
        "identity": None if identity is None else identity.as_json(),
    }
    return BenchReport(title=title, rows=tuple(_rows(ours, peer, before)), notes=tuple(notes), more=more)


def _run_ours(rows: Sequence[TaskRow], options: CollectBench) -> tuple[tuple[str, ...], TreeRun, Identity | None]:
    """Collect, and check where asked; return the models' names too. The weights are let go."""
    pool = load_pool(_path(options.pool))
    engine = FlaxEngine(pool)
    if options.peer_only and options.store is not None:
        run = stored_run(engine, rows, num_stages=options.num_stages, store_path=options.store)
    else:
        for name in pool.names:  # reading weights is not counted, on either side
            pool.decoder(name)
        run = collect_run(engine, rows, num_stages=options.num_stages, store_path=options.store)
        announce(
            f"ours: {run.generation_s:.1f} s for {len(run.requests)} requests, {run.compile_s:.1f} s of it compiling"
        )
    identity = check_identity(pool, run, num_requests=options.check) if options.check else None
    return pool.names, run, identity


def _run_peer(ours: TreeRun, options: CollectBench) -> PeerRun | None:
    if options.peer_json is not None:
        return read_peer(options.peer_json, ours)
    return run_peer(load_pool(_path(options.pool), is_quiet=True), ours) if options.against else None


def _rows(ours: TreeRun, peer: PeerRun | None, before: dict[str, Any] | None) -> list[BenchRow]:
    """Return wall time and tokens.

    Multiple choice is read, not written, so what it computes is told apart from what a written answer computes.
    """
    billed, ranked = ours.billed(is_ranked=False), ours.billed(is_ranked=True)
    extra: dict[str, Any] = {"compile_s": ours.compile_s, "cpu_s": ours.cpu_s}
    if ours.generation_s is not None:
        extra["billed_tokens_per_s"] = (billed.billed + ranked.billed) / ours.generation_s
    if peer is not None:
        extra["peer_cpu_s"] = peer.cpu_s
    rows = [_row("wall time", "s", ours.generation_s, peer, lambda one: one.wall_s, extra)]
    if ours.written is not None and ours.ranked is not None:
        rows += [
            _computed_row("written answers", ours.written, peer, lambda one: one.written),
            _computed_row("ranked options", ours.ranked, peer, lambda one: one.ranked),
        ]
    rows += [
        _row("tokens billed, written answers", "tokens", billed.billed, peer, lambda one: one.written.billed,
             asdict(billed)),
        _row("tokens billed, ranked options", "tokens", ranked.billed, peer, lambda one: one.ranked.billed,
             asdict(ranked)),
    ]  # fmt: skip
    if before is not None:
        earlier = next(one["ours"] for one in before["rows"] if one["what"] == "wall time")
        rows.append(replace(rows[0], what="wall time, before and after", peer=earlier, peer_name="ours, before"))
    return rows


def _computed_row(
    what: str, ours: TokenCounts, peer: PeerRun | None, of_peer: Callable[[PeerRun], TokenCounts]
) -> BenchRow:
    counts = {"ours_counts": asdict(ours)} | ({} if peer is None else {"peer_counts": asdict(of_peer(peer))})
    title = f"tokens computed, {what}"
    return _row(title, "tokens", ours.computed, peer, lambda one: of_peer(one).computed, counts)


def _row(
    what: str,
    unit: str,
    ours: Number | None,
    peer: PeerRun | None,
    of_peer: Callable[[PeerRun], Number],
    extra: dict[str, Any],
) -> BenchRow:
    if peer is None:
        return BenchRow(what=what, model="pool", batch=None, ours=ours, unit=unit, extra=extra)
    name = f"{PEER_NAME} (measured before)" if peer.reused_from else PEER_NAME
    return BenchRow(
        what=what, model="pool", batch=None, ours=ours, unit=unit, peer=of_peer(peer), peer_name=name, extra=extra
    )


def _peer_notes(peer: PeerRun | None, ours: TreeRun) -> list[str]:
    if peer is None:
        return []
    notes = [f"{peer.num_equal} of the peer's {len(peer.keys)} answers are letter for letter those of the tree"]
    if peer.reused_from is not None:
        shared = len(set(peer.keys) & {one.key for one in ours.requests})
        notes.append(
            f"the peer was measured before ({peer.reused_from}); {shared} of {len(peer.keys)} requests are the same"
        )
    return notes


def _path(pool: Path | None) -> Path:
    if pool is None:
        raise ConfigError("A pool file is needed; give --pool.")
    return pool
