"""Configs: frozen dataclasses to and from JSON, strictly.

An unknown key, a missing value or a value of the wrong type is an error that names the key. The digest of a config
is that of its canonical JSON, so two configs that read the same have the same digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import dacite

from hierrouter_jax.core.errors import ConfigError, DataError

C = TypeVar("C")


def to_json_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as a dict of JSON values (tuples as lists, paths as strings)."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_json_dict(cls: type[C], data: Mapping[str, Any], *, what: str = "config") -> C:
    """Build the dataclass `cls` from a dict.

    Raises `ConfigError` when a key is unknown or missing, when a value has the wrong type, or when the class itself
    refuses the value.
    """
    try:
        return dacite.from_dict(cls, data, config=dacite.Config(strict=True, cast=[tuple, Path], check_types=True))
    except dacite.UnexpectedDataError as error:
        known = ", ".join(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]
        raise ConfigError(f"{what}: unknown key {sorted(error.keys)}; {cls.__name__} knows: {known}.") from error
    except dacite.DaciteError as error:
        raise ConfigError(f"{what}: {error}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; `DataError` when it is missing or is not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give the path of an existing file.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} must be a JSON file, but reading it failed: {error}.") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} must hold a JSON object, but holds a {type(data).__name__}.")
    return data


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
