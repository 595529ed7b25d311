"""Crew files: which worker fills which role, as TOML.

    max_attempts = 3

    [workers.models]
    kind = "pool"                     # models of the pool; without `models`, all of them
    temperature = 0.7

    [workers.people]
    kind = "people"                   # whoever works on the queue: hierrouter crowd work
    lease_s = 900

    [workers.both]
    kind = "mix"                      # members first; where they disagree, the decider
    members = ["models", "router"]
    decider = "people"

    [roles]
    vote = "both"
    "*" = "models"                    # every other role

Other kinds are `router` (a trained run picks the model or route for each sub-task) and `endpoint` (anything that
speaks OpenAI's protocol). A crew is data until it is opened with what its workers need.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from hierrouter_jax.core.configs import from_json_dict, to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.runner import MAX_ATTEMPTS


def _check_number(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} must be finite and >= 0, but is {value}.")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Models of a pool, by default the packaged one (`PoolWorker`)."""

    kind: ClassVar[str] = "pool"
    pool: str | None = None
    models: tuple[str, ...] = ()
    temperature: float = 0.7
    personas: tuple[str, ...] = ()
    bars_kin: bool = False
    counterbalances: bool = True

    def __post_init__(self) -> None:
        """Refuse a temperature that nothing can be drawn at, before any model is opened."""
        _check_number("temperature", self.temperature)


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """The router of a training run; redundant answers differ by persona alone, because a router is greedy."""

    kind: ClassVar[str] = "router"
    run_dir: str
    pool: str | None = None
    encoder: str | None = None
    personas: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """A server that speaks OpenAI's protocol. The key is read from the environment, and is not written down."""

    kind: ClassVar[str] = "endpoint"
    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float = 0.7
    timeout_s: float = 60.0
    max_parallel: int = 8
    cost_per_1k_tokens: float = 0.0
    personas: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PeopleConfig:
    """People who work on the queue; `cost` is that of one answer."""

    kind: ClassVar[str] = "people"
    lease_s: float = 900.0
    cost: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a lease that has no end, or has ended when it begins."""
        _check_number("cost", self.cost)
        if not (math.isfinite(self.lease_s) and self.lease_s > 0):
            raise ConfigError(f"lease_s must be finite and > 0, but is {self.lease_s}.")


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Members first; where they disagree, the decider."""

    kind: ClassVar[str] = "mix"
    members: tuple[str, ...]
    decider: str

    def __post_init__(self) -> None:
        """Refuse a mix that cannot disagree."""
        if len(self.members) < 2:
            raise ConfigError(f"A mix needs two or more members who may disagree, but has {self.members}.")


WorkerConfig = PoolConfig | RouterConfig | EndpointConfig | PeopleConfig | MixConfig
KINDS: dict[str, type] = {one.kind: one for one in (PoolConfig, RouterConfig, EndpointConfig, PeopleConfig, MixConfig)}


@dataclass(frozen=True, kw_only=True)
class CrewConfig:
    """A crew file."""

    workers: Mapping[str, WorkerConfig]
    roles: Mapping[str, str] = field(default_factory=dict)
    max_attempts: int = MAX_ATTEMPTS

    def to_json(self) -> dict[str, Any]:
        """Return the crew as JSON values."""
        return {
            "workers": {name: {"kind": one.kind} | to_json_dict(one) for name, one in self.workers.items()},
            "roles": dict(self.roles),
            "max_attempts": self.max_attempts,
        }


DEFAULT_CREW = CrewConfig(workers={"models": PoolConfig()}, roles={"*": "models"})


def crew_from_json(data: Mapping[str, Any], *, what: str = "crew") -> CrewConfig:
    """Return the crew of JSON (or TOML) values; `ConfigError` naming what does not fit."""
    unknown = sorted(set(data) - {"workers", "roles", "max_attempts"})
    if unknown:
        raise ConfigError(f"{what} has workers, roles and max_attempts, but also has {unknown}.")
    given, roles = data.get("workers", {}), data.get("roles", {})
    if not isinstance(given, dict) or not given or not all(isinstance(one, dict) for one in given.values()):
        raise ConfigError(f"{what} must have at least one worker, a table [workers.NAME] each.")
    if not isinstance(roles, dict) or not roles or not all(isinstance(one, str) for one in roles.values()):
        raise ConfigError(f'{what} must map roles to workers under [roles], such as "*" = "{next(iter(given))}".')
    workers = {name: _worker(name, dict(one), what) for name, one in given.items()}
    named = {*roles.values()}
    for name, one in workers.items():
        if isinstance(one, MixConfig):
            parts = {*one.members, one.decider}
            named |= parts
            if mixes := sorted(part for part in parts if isinstance(workers.get(part), MixConfig)):
                raise ConfigError(f"{what}: a mix is made of workers that are no mix, but {name} has {mixes}.")
    if missing := sorted(named - set(workers)):
        raise ConfigError(f"{what} names workers {missing}, but has {', '.join(workers)}.")
    attempts = data.get("max_attempts", MAX_ATTEMPTS)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        raise ConfigError(f"{what}: max_attempts must be a whole number >= 1, but is {attempts!r}.")
    return CrewConfig(workers=workers, roles=roles, max_attempts=attempts)


def load_crew(path: Path) -> CrewConfig:
    """Read a crew file; `DataError` when it is missing or no TOML, `ConfigError` when it does not fit."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"There is no crew file at {path}; give the path of an existing one.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} must be a TOML file, but reading it failed: {error}.") from error
    return crew_from_json(data, what=str(path))


def _worker(name: str, fields: dict[str, Any], what: str) -> WorkerConfig:
    where = f"{what}: worker {name}"
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{where} must be of kind {', '.join(KINDS)}, but is of {kind!r}.")
    hints = get_type_hints(KINDS[kind])
    numbers = {name: float(one) for name, one in fields.items() if hints.get(name) is float and type(one) is int}
    try:
        return from_json_dict(KINDS[kind], fields | numbers, what=where)
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from error
