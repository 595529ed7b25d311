"""A crew that can work: every worker of a crew file with the pool, router or endpoint behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.crew import (
    CrewConfig,
    EndpointConfig,
    MixConfig,
    PeopleConfig,
    PoolConfig,
    RouterConfig,
    WorkerConfig,
)
from hierrouter_jax.crowd.runner import AnyWorker, Crew, missing_role
from hierrouter_jax.crowd.workers.mix import Mix
from hierrouter_jax.crowd.workers.pool_worker import PoolWorker
from hierrouter_jax.crowd.workers.worker import People, Worker
from hierrouter_jax.llm.engine import TextEngine
from hierrouter_jax.store.response_store import ResponseStore


@dataclass(frozen=True, kw_only=True)
class Openers:
    """How to open what workers need; each is called only when a worker in use needs it.

    `engine` opens the pool of a pool file (None: the packaged one), `router` and `endpoint` a whole worker.
    """

    engine: Callable[[str | None], TextEngine]
    router: Callable[[RouterConfig], Worker]
    endpoint: Callable[[EndpointConfig], Worker]


def open_crew(config: CrewConfig, store: ResponseStore, openers: Openers, *, roles: Collection[str]) -> Crew:
    """Return the crew with the workers that `roles` need (`@NAME`: that worker); raises what opening them raises."""
    wanted: set[str] = set()
    for role in roles:
        name = role[1:] if role.startswith("@") else config.roles.get(role, config.roles.get("*"))
        if name is None:
            raise missing_role(role, config.roles)
        one = config.workers.get(name)
        wanted |= {name, *one.members, one.decider} if isinstance(one, MixConfig) else {name}
    if unknown := sorted(wanted - set(config.workers)):
        raise ConfigError(f"Workers must be of the crew ({', '.join(config.workers)}), but are {unknown}.")
    engines: dict[str | None, TextEngine] = {}

    def engine_of(pool: str | None) -> TextEngine:
        if pool not in engines:
            engines[pool] = openers.engine(pool)
        return engines[pool]

    workers = {name: _opened(one, store, openers, engine_of) for name, one in config.workers.items() if name in wanted}
    crew = Crew(workers=workers, roles=config.roles, max_attempts=config.max_attempts)
    crew.check_roles(list(roles))
    return crew


def _opened(
    config: WorkerConfig, store: ResponseStore, openers: Openers, engine_of: Callable[[str | None], TextEngine]
) -> AnyWorker:
    match config:
        case PoolConfig():
            return PoolWorker(
                engine_of(config.pool),
                store,
                models=config.models,
                temperature=config.temperature,
                personas=config.personas,
                bars_kin=config.bars_kin,
                counterbalances=config.counterbalances,
            )
        case RouterConfig():
            return openers.router(config)
        case EndpointConfig():
            return openers.endpoint(config)
        case PeopleConfig():
            return People(lease_s=config.lease_s, cost=config.cost)
        case MixConfig():
            return Mix(members=config.members, decider=config.decider)
