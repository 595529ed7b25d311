"""Values between the judge's and the candidate's interpreter: frames of JSON in which only plain data has a form.

What arrives is built anew from its description, so no method of the sender's objects ever runs in the receiver: an
instance of a subclass arrives as the plain value it holds, and an object of any other class stays where it is and
travels as a numbered reference.

A frame is a length of four bytes, big-endian, and that many bytes of JSON. None, booleans, texts, numbers and lists are
themselves; everything else is a one-key object that names its kind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

MAX_FRAME_BYTES = 4 * 2**20
_MAX_PLAIN_INT = 2**512  # a longer one travels in hexadecimal: decimal digits take quadratic time

Refer = Callable[[object], object]  # how an object that has no plain form is described
Resolve = Callable[[str, int], object]  # what a reference of the sender's stands for; kind is "here" or "there"


class FrameError(Exception):
    """The other side is gone, or sent something that is not a frame."""


def write_frame(fd: int, message: object) -> None:
    """Send one message."""
    body = json.dumps(message).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a value of {len(body)} bytes is too large to hand over (at most {MAX_FRAME_BYTES})")
    view = memoryview(len(body).to_bytes(4, "big") + body)
    while view:
        view = view[os.write(fd, view) :]


def read_frame(fd: int, read: Callable[[int, int], bytes] = os.read) -> Any:
    """Receive one message, and not a byte beyond it. Raises `FrameError`."""
    size = int.from_bytes(_read_exactly(fd, 4, read), "big")
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size} bytes is too large (at most {MAX_FRAME_BYTES})")
    body = _read_exactly(fd, size, read)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not a frame: {error}") from error


def encode(value: object, refer: Refer) -> object:
    """Describe a value as JSON. Raises `RecursionError` for one that holds itself."""
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    for base, describe in _PLAIN:
        if isinstance(value, base):
            return describe(value, refer)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in _STANDARD:
        return {"object": [name, encode(_STANDARD[name][0](value), refer)]}
    return refer(value)


def decode(data: Any, resolve: Resolve) -> Any:
    """Build the value that JSON describes. Raises `FrameError` when it describes none."""
    try:
        return _decode(data, resolve)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise FrameError(f"not a value: {type(error).__name__}: {error}") from error


def _decode(data: Any, resolve: Resolve) -> Any:
    if isinstance(data, list):
        return [_decode(part, resolve) for part in data]
    if not isinstance(data, dict):
        return data
    ((kind, body),) = data.items()
    if kind in ("here", "there"):
        return resolve(kind, int(body))
    if kind == "dict":
        return {_decode(key, resolve): _decode(value, resolve) for key, value in body}
    if kind == "object":
        name, arguments = body
        return _STANDARD[name][1](_decode(arguments, resolve))
    if kind in _SCALARS:
        return _SCALARS[kind](body)
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](_decode(part, resolve) for part in body)


def _read_exactly(fd: int, size: int, read: Callable[[int, int], bytes]) -> bytes:
    parts: list[bytes] = []
    while size:
        part = read(fd, min(size, 2**16))
        if not part:
            raise FrameError("the process ended")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _sequence(name: str, plain: Callable[[Any], Any]) -> Callable[[Any, Refer], object]:
    return lambda value, refer: {name: [encode(part, refer) for part in plain(value)]}


# The base classes whose instances, subclasses included, arrive as plain values. bool is handled before int.
_PLAIN: tuple[tuple[type, Callable[[Any, Refer], object]], ...] = (
    (str, lambda value, refer: str.__str__(value)),
    (int, lambda value, refer: int(value) if abs(value) < _MAX_PLAIN_INT else {"int": hex(value)}),
    (float, lambda value, refer: float.__float__(value)),
    (list, lambda value, refer: [encode(part, refer) for part in list.__iter__(value)]),
    (tuple, _sequence("tuple", tuple.__iter__)),
    (dict, lambda value, refer: {"dict": [[encode(k, refer), encode(v, refer)] for k, v in dict.items(value)]}),
    (set, _sequence("set", set.__iter__)),
    (frozenset, _sequence("frozenset", frozenset.__iter__)),
    (bytes, lambda value, refer: {"bytes": bytes(value).decode("latin-1")}),
    (bytearray, lambda value, refer: {"bytearray": bytes(value).decode("latin-1")}),
    (complex, lambda value, refer: {"complex": [value.real, value.imag]}),
)

_SCALARS: dict[str, Callable[[Any], object]] = {
    "int": lambda body: int(body, 16),
    "bytes": lambda body: body.encode("latin-1"),
    "bytearray": lambda body: bytearray(body.encode("latin-1")),
    "complex": lambda body: complex(*body),
}


def _make(module: str, name: str) -> Callable[[Any], object]:
    """Return a constructor that imports its module when it is first needed: start-up is paid a thousand times."""

    def construct(arguments: Any) -> object:
        made = getattr(__import__(module), name)
        return made(*arguments) if isinstance(arguments, tuple) else made(arguments)

    return construct


# Classes that compare by value, and those of an index: (arguments of an instance, instance from the arguments).
_STANDARD: dict[str, tuple[Callable[[Any], Any], Callable[[Any], object]]] = {
    "builtins.range": (lambda v: (v.start, v.stop, v.step), lambda arguments: range(*arguments)),
    "builtins.slice": (lambda v: (v.start, v.stop, v.step), lambda arguments: slice(*arguments)),
    "builtins.ellipsis": (lambda v: None, lambda nothing: ...),
    "builtins.dict_keys": (lambda v: set(v), set),  # compares like a set
    "collections.deque": (lambda v: list(v), _make("collections", "deque")),
    "decimal.Decimal": (lambda v: str(v), _make("decimal", "Decimal")),
    "fractions.Fraction": (lambda v: (v.numerator, v.denominator), _make("fractions", "Fraction")),
    "datetime.date": (lambda v: (v.year, v.month, v.day), _make("datetime", "date")),
    "datetime.timedelta": (lambda v: (v.days, v.seconds, v.microseconds), _make("datetime", "timedelta")),
    "datetime.time": (lambda v: (v.hour, v.minute, v.second, v.microsecond), _make("datetime", "time")),
    "datetime.datetime": (
        lambda v: (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond),
        _make("datetime", "datetime"),
    ),
}
