"""What a run is, as it stands in the journal: an algorithm with options, an input, a crew; resuming needs no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.core.configs import digest, from_json_dict, to_json_dict
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.crew import CrewConfig, crew_from_json
from hierrouter_jax.crowd.prompts import CROWD_PROMPT_VERSION
from hierrouter_jax.crowd.registry import ONE_PROMPT_ROLE, Algorithm, algorithm
from hierrouter_jax.crowd.subtasks import Pipeline


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. `config` is the algorithm's own; `is_one_prompt` runs its baseline in its place."""

    algorithm: Algorithm
    config: Any
    text: str
    crew: CrewConfig
    is_one_prompt: bool = False

    @property
    def name(self) -> str:
        """Return a name that the content decides: the same run again goes on with it."""
        return f"{self.algorithm.name}-{digest(self.to_json())[:10]}"

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles that are asked."""
        return (ONE_PROMPT_ROLE,) if self.is_one_prompt else self.algorithm.roles_of(self.config)

    def pipeline(self) -> Pipeline:
        """Return the pipeline, from its start."""
        make = self.algorithm.one_prompt if self.is_one_prompt else self.algorithm.make
        return make(self.text, self.config)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "algorithm": self.algorithm.name,
            "config": to_json_dict(self.config),
            "text": self.text,
            "crew": self.crew.to_json(),
            "is_one_prompt": self.is_one_prompt,
            "prompts": CROWD_PROMPT_VERSION,
        }


def record_from_json(data: Mapping[str, Any]) -> RunRecord:
    """Return the record of JSON values; `ConfigError` when this version cannot go on with it."""
    if data.get("prompts") != CROWD_PROMPT_VERSION:
        raise ConfigError(
            f"The run was begun with crowd prompts {data.get('prompts')}, but this version of hierrouter_jax has "
            f"{CROWD_PROMPT_VERSION}; use the version that began it, or begin anew."
        )
    found = algorithm(data["algorithm"])
    return RunRecord(
        algorithm=found,
        config=from_json_dict(found.config, data["config"], what=f"options of {found.name}"),
        text=data["text"],
        crew=crew_from_json(data["crew"]),
        is_one_prompt=data["is_one_prompt"],
    )


def run_identity(config: Any, *asked: Any) -> str:
    """Return the digest of what runs without a record depend on: config, JSON values of what is asked, the prompts."""
    return digest([CROWD_PROMPT_VERSION, to_json_dict(config), *asked])


def config_of(found: Algorithm, options: Sequence[str]) -> Any:
    """Return an algorithm's config with `name=value` options set; `ConfigError` naming those that do not fit."""
    defaults = found.config()
    fields = to_json_dict(defaults)
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in fields:
            raise ConfigError(
                f"An option of {found.name} is NAME=VALUE with one of {', '.join(fields)}, but is {option!r}."
            )
        fields[name] = _like(getattr(defaults, name), value, option)
    return from_json_dict(found.config, fields, what=f"options of {found.name}")


def _like(default: Any, value: str, option: str) -> Any:
    """Return a value of the type of the default."""
    try:
        match default:
            case bool():
                return {"true": True, "false": False}[value.lower()]
            case int():
                return int(value)
            case float():
                if not math.isfinite(number := float(value)):
                    raise ValueError(number)
                return number
            case tuple():
                return [part.strip() for part in value.split(",")] if value.strip() else []
            case _:
                return value
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{option!r} must have a value like {default!r}.") from error
