"""How `hierrouter crowd` opens what workers need: pools, trained runs, endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hierrouter_jax.cli.accelerator import keep_compiled_programs
from hierrouter_jax.cli.output import print_note
from hierrouter_jax.cli.packaged import SMALL_POOL, packaged_file
from hierrouter_jax.core.text import ModelCard
from hierrouter_jax.costs import CostModel, hop_cost
from hierrouter_jax.crowd.crew import EndpointConfig, RouterConfig
from hierrouter_jax.crowd.open_crew import Openers
from hierrouter_jax.crowd.workers.endpoint_worker import EndpointWorker
from hierrouter_jax.crowd.workers.pool_worker import TOKENS_OF_ONE
from hierrouter_jax.crowd.workers.router_worker import RouterWorker
from hierrouter_jax.crowd.workers.worker import Worker
from hierrouter_jax.evaluate.routes import ROUTE_ARROW
from hierrouter_jax.llm.engine import TextEngine
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool

WRITTEN_SHARE = (
    0.1  # of a sub-task's tokens, where a cost model counts those that are written otherwise than those read
)


@contextmanager
def openers(store: Path) -> Iterator[Openers]:
    """Yield how workers are opened on this machine; what they opened is closed when the block ends.

    Routers answer through the response store at `store`, as pools do. Compiled programs are kept, as other commands
    keep them.
    """
    keep_compiled_programs()
    with ExitStack() as opened:

        def engine(pool: str | None) -> TextEngine:
            return FlaxEngine(load_pool(packaged_file(SMALL_POOL) if pool is None else Path(pool)))

        def router(config: RouterConfig) -> Worker:
            from hierrouter_jax.cli.live_session import open_session  # imports all of training; `work` needs none of it

            pool = None if config.pool is None else Path(config.pool)
            session = opened.enter_context(
                open_session(Path(config.run_dir), pool=pool, encoder=config.encoder, store=store)
            )
            factor = crowd_cost_factor(
                session.engine.cards,
                cost_model=session.terms.cost_model,
                raw_cost_of_one=session.terms.raw_cost_of_one,
            )
            worker = RouterWorker(session.answer, personas=config.personas, cost_factor=factor)
            opened.callback(_tell_routes, config, worker)
            return worker

        def endpoint(config: EndpointConfig) -> Worker:
            worker = EndpointWorker(config)
            opened.callback(worker.close)
            return worker

        yield Openers(engine=engine, router=router, endpoint=endpoint)


def crowd_cost_factor(cards: Sequence[ModelCard], *, cost_model: CostModel, raw_cost_of_one: float) -> float:
    """Return what brings a router's normalised cost to a crowd's, where 1 is a thousand tokens of the dearest model.

    Exact by base rate, in which pools count; by another cost model the thousand tokens are priced by that one, with
    `WRITTEN_SHARE` of them written.
    """
    read, written = TOKENS_OF_ONE * (1 - WRITTEN_SHARE), TOKENS_OF_ONE * WRITTEN_SHARE
    return raw_cost_of_one / max(float(hop_cost(card, read, written, cost_model=cost_model)) for card in cards)


def _tell_routes(config: RouterConfig, worker: RouterWorker) -> None:
    if worker.routes:
        routes = ", ".join(f"{ROUTE_ARROW.join(route)} {count}" for route, count in worker.routes.most_common())
        print_note(f"router of {config.run_dir}, routes taken: {routes}")
