"""Configs: frozen dataclasses to and from JSON, strictly.

An unknown key, a missing value or a value of the wrong type is an error that names the key. The digest of a config
is that of its canonical JSON, so two configs that read the same have the same digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import dacite

from hierrouter_jax.core.errors import ConfigError, DataError, raise_all

C = TypeVar("C")


def to_json_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as a dict of JSON values (tuples as lists, paths as strings)."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_json_dict(cls: type[C], data: Mapping[str, Any], *, what: str = "config") -> C:
    """Build the dataclass `cls` from a dict.

    Raises `ConfigError` naming every key that is unknown, at any depth, and every value that is no list, object or
    path where one is wanted; then the first that is missing or of another wrong type; then what the class refuses.
    """
    raise_all(ConfigError, f"{what} does not fit:", _misfits(cls, data, ""))
    try:
        return dacite.from_dict(cls, data, config=dacite.Config(strict=True, cast=[tuple, Path], check_types=True))
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


def _misfits(cls: type[Any], data: Mapping[str, Any], prefix: str) -> list[str]:
    """Name unknown keys, and values that a cast to tuple or path would take for what they are not.

    A text is a sequence of letters to Python, so a cast makes ("a", "b") of "ab"; and a number is no sequence.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    problems = [
        f"unknown key {prefix + str(key)!r}; {cls.__name__} knows: {', '.join(known)}"
        for key in data
        if key not in known
    ]
    for name in known:
        if name in data:
            problems += _misfit(_without_none(hints[name]), data[name], prefix + name, hints[name])
    return problems


def _misfit(hint: Any, value: Any, where: str, declared: Any) -> list[str]:
    if value is None and hint is not declared:
        return []
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            return [f"{where!r} must be an object, but is {value!r}"]
        return _misfits(hint, value, f"{where}.")
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            return [f"{where!r} must be a list, but is {value!r}"]
        item = typing.get_args(hint)[0]
        return [one for index, entry in enumerate(value) for one in _misfit(item, entry, f"{where}[{index}]", item)]
    if hint is Path and not isinstance(value, (str, Path)):
        return [f"{where!r} must be a path, but is {value!r}"]
    return []


def _without_none(hint: Any) -> Any:
    """Return T for T | None, and anything else as it is."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        others = [one for one in typing.get_args(hint) if one is not type(None)]
        return others[0] if len(others) == 1 else hint
    return hint
