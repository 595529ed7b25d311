"""What live commands open together: a run's router, the pool it routes over, and the encoder it reads with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierrouter_jax.agent.router import Router, asked_for
from hierrouter_jax.cli.output import print_note
from hierrouter_jax.cli.packaged import SMALL_POOL, packaged_file
from hierrouter_jax.encoder.joint import open_encoder
from hierrouter_jax.encoder.text_encoder import TextEncoder
from hierrouter_jax.evaluate.live import RouteResult, require_queries_fit, route
from hierrouter_jax.evaluate.origins import HopTerms, require_router_fits, terms_of_run
from hierrouter_jax.evaluate.routes import ROUTE_ARROW
from hierrouter_jax.llm.engine import TextEngine
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.task_row import TaskRow
from hierrouter_jax.train.loop import load_router
from hierrouter_jax.train.run_record import read_record


@dataclass(frozen=True, kw_only=True)
class LiveSession:
    """Everything a live answer needs."""

    router: Router
    engine: TextEngine
    encoder: TextEncoder
    terms: HopTerms
    store: ResponseStore | None

    def answer(self, queries: Sequence[str | TaskRow]) -> list[RouteResult]:
        """Answer queries in one batch."""
        return route(self.router, self.engine, queries, encoder=self.encoder, terms=self.terms, store=self.store)

    def answer_in_batches(
        self, queries: Sequence[str | TaskRow], *, batch_size: int
    ) -> Iterable[Sequence[RouteResult]]:
        """Answer many queries, yielding each batch when it is done; all are checked before the first is answered."""
        require_queries_fit(self.engine, queries, self.terms)
        for start in range(0, len(queries), batch_size):
            yield self.answer(queries[start : start + batch_size])


@contextmanager
def open_session(
    run_dir: Path,
    *,
    pool: Path | None,
    encoder: str | None,
    store: Path | None = None,
    cost_weight: float | None = None,
) -> Iterator[LiveSession]:
    """Open a run for live answers; weights that are not on this machine are fetched, with progress.

    `cost_weight` is asked of a conditioned router; `ConfigError` when the run's is none. The default pool and encoder
    are those of the packaged tree. Raises `DataError` when the run was trained with others than those given.
    """
    terms = terms_of_run(read_record(run_dir))
    router = asked_for(load_router(run_dir), cost_weight)
    print_note("opening the encoder and the pool; what is not on this machine yet is downloaded once")
    text_encoder = open_encoder() if encoder is None else open_encoder(encoder)
    engine = FlaxEngine(load_pool(packaged_file(SMALL_POOL) if pool is None else pool))
    require_router_fits(router, engine.cards, text_encoder)
    opened = None if store is None else ResponseStore(store)
    try:
        yield LiveSession(router=router, engine=engine, encoder=text_encoder, terms=terms, store=opened)
    finally:
        if opened is not None:
            opened.close()


def result_json(result: RouteResult) -> dict[str, Any]:
    """Return a result as JSON values."""
    return {
        "question": result.query,
        "answer": result.answer,
        "route": list(result.route),
        "probabilities": list(result.probabilities),
        "cost": result.cost,
        "num_prompt_tokens": result.num_prompt_tokens,
        "num_new_tokens": result.num_new_tokens,
        "is_truncated": result.is_truncated,
        "responses": list(result.responses),
    }


def result_lines(result: RouteResult) -> list[str]:
    """Return a result as lines for people."""
    chances = "; then ".join(
        ", ".join(f"{name} {share:.0%}" for name, share in sorted(step.items(), key=lambda item: -item[1]) if share > 0)
        for step in result.probabilities
    )
    cut = " (cut off by its budget)" if result.is_truncated else ""
    return [
        f"question: {result.query}",
        f"answer{cut}: {result.answer}",
        f"route: {ROUTE_ARROW.join(result.route)}   [{chances}]",
        f"cost: {result.cost:.3f}   tokens: {result.num_prompt_tokens} in, {result.num_new_tokens} out",
    ]
