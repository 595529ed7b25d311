"""`--preset`: which config the other options of a training change; read before them, for it decides their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import tyro

from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.presets import DEFAULT_PRESET, preset

C = TypeVar("C")


def with_preset(
    command: type[C], arguments: Sequence[str], config_of: Callable[[str], TrainConfig] = preset
) -> type[C]:
    """Return the command with the config of the preset that the command line asks for as the default of `config`.

    Raises `ConfigError` for a preset that does not exist.
    """
    config = config_of(preset_name(arguments))
    changed = ("config", Annotated[TrainConfig, tyro.conf.arg(name="")], dataclasses.field(default=config))
    return dataclasses.make_dataclass(command.__name__, [changed], bases=(command,), frozen=True, kw_only=True)


def preset_name(arguments: Sequence[str]) -> str:
    """Return the name of the preset that a command line asks for."""
    name: str = DEFAULT_PRESET
    for place, argument in enumerate(arguments):
        if argument == "--preset" and place + 1 < len(arguments):
            name = arguments[place + 1]
        elif argument.startswith("--preset="):
            name = argument.removeprefix("--preset=")
    return name
