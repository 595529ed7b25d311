"""The requests of a complete tree over real queries, and how long our own collection takes to answer them.

The tree is collected by `collect_tree`, as the command `collect` does it, into a store that is thrown away; what is
timed is its generation alone, not scoring and not encoding. Weights are read beforehand. Programs are compiled within
the measured time, or come from the cache on disk where the command line keeps one; the seconds compiled are counted.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hierrouter_jax.bench.compile_seconds import CompileSeconds
from hierrouter_jax.collect.asking import AskedRequest
from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.frontier import Frontier
from hierrouter_jax.collect.hop_prompts import hop_request
from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.text import Response
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.llm.engine import TextEngine
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.token_counts import TokenCounts
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.rows import SplitConfig, load_splits
from hierrouter_jax.tasks.scoring import AnswerScore
from hierrouter_jax.tasks.task_row import TaskRow

ENCODER = HashingEncoder(8)  # nothing is learned from the tree
ROWS_VARIABLE = "HIERROUTER_BENCHMARKS"


@dataclass(frozen=True, kw_only=True)
class TreeRun:
    """What collecting a tree took: the distinct requests of each stage in the order asked, and their responses."""

    stages: tuple[tuple[AskedRequest, ...], ...]
    responses: dict[str, Response]
    generation_s: float | None  # None where the tree was collected by an earlier run
    cpu_s: float | None  # of all cores, scoring and building the tree included: a busy machine changes it little
    compile_s: float
    written: TokenCounts | None  # as the engine counts
    ranked: TokenCounts | None

    @property
    def requests(self) -> tuple[AskedRequest, ...]:
        """All requests, stage after stage."""
        return tuple(one for stage in self.stages for one in stage)

    def billed(self, *, is_ranked: bool) -> TokenCounts:
        """Return the tokens that the responses state, of ranked options or of written answers."""
        answers = [self.responses[one.key] for one in self.requests if bool(one.encoded.options) == is_ranked]
        return TokenCounts(
            billed_prompt=sum(one.num_prompt_tokens for one in answers),
            billed_new=sum(one.num_new_tokens for one in answers),
        )

    @property
    def digest(self) -> str:
        """Identity of the requests."""
        return digest([[one.key for one in stage] for stage in self.stages])


def rows_folder(given: Path | None) -> Path | None:
    """Return the folder of benchmark rows: the one given, else that of the environment variable, else None."""
    stated = os.environ.get(ROWS_VARIABLE)
    return Path(stated) if given is None and stated else given


def train_rows(folder: Path, *, queries_per_task: int, seed: int) -> tuple[TaskRow, ...]:
    """Return that many train rows of every task of a folder; test rows stay unseen."""
    config = SplitConfig(num_train=queries_per_task, num_test=0, seed=seed)
    rows = load_splits([folder], config).train
    if len(rows) < 2:
        raise DataError(f"A tree needs 2 queries at least, but {folder} gave {len(rows)}; ask for more a task.")
    return rows


def collect_run(
    engine: FlaxEngine, rows: Sequence[TaskRow], *, num_stages: int, store_path: Path | None = None
) -> TreeRun:
    """Collect the tree of `rows` from nothing, and say what it took; the responses are kept at `store_path`.

    Raises `ConfigError` where there is a store already: stored responses are not generated, and so not measured.
    """
    if store_path is not None and store_path.exists():
        raise ConfigError(f"A measured collection begins from nothing, but {store_path} exists; give another --store.")
    written, ranked = engine.written_counts, engine.ranked_counts
    compiled, cpu_s = CompileSeconds(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, ResponseStore(store_path or Path(folder) / "store.sqlite") as store:
        with compiled:
            # A tree file wants a train and a test split; which rows are in which has no meaning here.
            tree_file = collect_tree(
                engine,
                {"train": rows[:-1], "test": rows[-1:]},
                store,
                num_stages=num_stages,
                encoder=ENCODER,
                scorer=lambda row, text: AnswerScore(quality=0.0),  # scoring is not measured
                scorer_version="none",
            )
        cpu_s = time.process_time() - cpu_s
        stages, responses = _read_back(engine, rows, store, num_stages)
    return TreeRun(
        stages=stages,
        responses=responses,
        generation_s=None if tree_file.report is None else tree_file.report.generation_s,
        cpu_s=cpu_s,
        compile_s=compiled.total_s,
        written=engine.written_counts - written,
        ranked=engine.ranked_counts - ranked,
    )


def stored_run(engine: TextEngine, rows: Sequence[TaskRow], *, num_stages: int, store_path: Path) -> TreeRun:
    """Return the tree that an earlier `collect_run` left in a store; nothing is generated.

    Raises `DataError` where responses are missing.
    """
    if not store_path.is_file():
        raise DataError(f"{store_path} does not exist; run once with the same --store and without --peer-only.")
    with ResponseStore(store_path) as store:
        stages, responses = _read_back(engine, rows, store, num_stages)
    missing = [one.key for stage in stages for one in stage if one.key not in responses]
    if missing:
        raise DataError(
            f"{store_path} must hold the whole tree, but lacks {len(missing)} responses; give the rows, queries a task "
            "and stages of the run that made it."
        )
    return TreeRun(
        stages=stages, responses=responses, generation_s=None, cpu_s=None, compile_s=0.0, written=None, ranked=None
    )


def _read_back(
    engine: TextEngine, rows: Sequence[TaskRow], store: ResponseStore, num_stages: int
) -> tuple[tuple[tuple[AskedRequest, ...], ...], dict[str, Response]]:
    """Return the requests of each stage in the order they were asked, and all responses by key."""
    frontier = Frontier(rows, engine, hop_request, num_stages=num_stages)
    stages: list[tuple[AskedRequest, ...]] = []
    for stage in range(1, num_stages + 1):
        asked = frontier.ask_stage(stage)
        seen = {one.key for earlier in stages for one in earlier}
        stages.append(tuple(one for key, one in asked.items() if key not in seen))
        found = store.get_many(asked)
        frontier.take(found)
        if len(found) < len(asked):  # the next stage's prompts are made of these
            break
    return tuple(stages), dict(frontier.responses)
