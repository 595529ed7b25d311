"""The candidate's interpreter: walls first, then the generated program, then one request of the judge after another.

Nothing here is trusted by the judge. The program may do to this process what it likes: it can only ever change which
values it sends, and the tests that judge those values are in another process.
"""

from __future__ import annotations

import os
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from hierrouter_jax.tasks.sandboxed import walls
from hierrouter_jax.tasks.sandboxed.values import FrameError, decode, encode, read_frame, write_frame

MODULE_NAME = "answer"
_MAX_ITEMS = 10**6  # of an iterator that is read to its end
_MAX_NAME = 100  # of an exception's class, in characters


class Candidate:
    """The program's module and the objects of it that the judge refers to."""

    def __init__(self) -> None:
        """Start with an empty module, importable under its name as `dataclasses` and `pickle` expect."""
        self.module = types.ModuleType(MODULE_NAME)
        sys.modules[MODULE_NAME] = self.module
        self.objects: list[object] = []

    def refer(self, value: object) -> object:
        """Keep an object here and describe it by its number."""
        self.objects.append(value)
        return {"here": len(self.objects) - 1}

    def resolve(self, kind: str, number: int) -> object:
        """Return the object that the judge refers to; the judge's own objects never come here."""
        if kind != "there":
            raise FrameError("the tests hand over an object that cannot leave them")
        return self.objects[number]

    def perform(self, request: dict[str, Any]) -> object:
        """Do what the judge asks and return the value."""
        operation = request["operation"]
        if operation == "defined":
            return [name for name in request["names"] if name in self.module.__dict__]
        if operation == "global":
            return self.module.__dict__[request["name"]]
        target: Any = self.objects[request["target"]]
        arguments = [decode(part, self.resolve) for part in request.get("arguments", [])]
        named = {name: decode(part, self.resolve) for name, part in request.get("named", {}).items()}
        if operation == "call":
            return target(*arguments, **named)
        if operation == "iterate":
            return [item for item, _ in zip(target, range(_MAX_ITEMS), strict=False)]
        operations: dict[str, Callable[..., object]] = {
            "getattr": getattr,
            "setattr": setattr,
            "getitem": lambda value, key: value[key],
            "contains": lambda value, item: bool(item in value),
            "equal": lambda value, other: bool(value == other),
            "len": len,
            "bool": bool,
            "str": str,
        }
        return operations[operation](target, *arguments)


def run_candidate(
    program: str, settings: walls.WallSettings, entered: list[str], user_id: int, fds: tuple[int, int, int]
) -> None:
    """Become the candidate; does not return. `fds` are requests to read, responses to write, output to write."""
    requests, responses, output = fds
    candidate = Candidate()
    try:
        in_force = walls.close_in(settings, entered, user_id=user_id, keep_fds=(requests, responses), output_fd=output)
    except BaseException as error:
        write_frame(responses, {"broken": f"{type(error).__name__}: {error}"})
        os._exit(1)
    write_frame(responses, {"walls": in_force})
    random.seed(0)  # the same answer scores the same, whatever dice it throws
    try:
        code = compile(program, f"<{MODULE_NAME}>", "exec", dont_inherit=True)
        exec(code, candidate.module.__dict__)
        opening: object = {"value": None}
    except BaseException as error:
        opening = _described(error)
    _flush_output()
    write_frame(responses, opening)
    while True:
        try:
            request = read_frame(requests)
        except FrameError:
            os._exit(0)
        try:
            message: object = {"value": encode(candidate.perform(request), candidate.refer)}
        except BaseException as error:
            message = _described(error)
        _flush_output()
        try:
            write_frame(responses, message)
        except FrameError as error:  # too large: the judge still gets an answer
            write_frame(responses, _described(error))


def _flush_output() -> None:
    """Let the judge see what was printed so far; the program may have put anything in the place of its streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            continue


def _described(error: BaseException) -> dict[str, object]:
    try:
        text = str(error)[:500]
    except BaseException:
        text = "?"
    return {"raised": [type(error).__name__[:_MAX_NAME], text]}
