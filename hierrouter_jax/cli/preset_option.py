"""`--preset`: which config the other options of a training change; read before them, for it decides their defaults."""

from __future__ import annotations

from collections.abc import Sequence

from hierrouter_jax.train.presets import DEFAULT_PRESET, Preset, preset


def preset_name(arguments: Sequence[str]) -> Preset:
    """Return the preset that a command line asks for; `ConfigError` for one that does not exist."""
    name: str = DEFAULT_PRESET
    for place, argument in enumerate(arguments):
        if argument == "--preset" and place + 1 < len(arguments):
            name = arguments[place + 1]
        elif argument.startswith("--preset="):
            name = argument.removeprefix("--preset=")
    preset(name)
    return name  # type: ignore[return-value]
