"""The judge's side of the conversation: requests to the candidate, and stand-ins for the objects that stay with it."""

from __future__ import annotations

import builtins
import os
import select
from collections.abc import ItemsView, Iterator, ValuesView
from typing import Any

from hierrouter_jax.tasks.sandboxed.values import FrameError, decode, encode, read_frame, write_frame

_MAX_LATE_READS = 64  # of output that is still in the pipe when the candidate has ended


class CandidateRaisedError(Exception):
    """The candidate raised something that is not a standard exception."""


class UnusableTestsError(Exception):
    """The tests themselves cannot be run, whatever the answer is."""


class NotPlainError(Exception):
    """A value of the tests has no plain form, and so cannot be handed over."""


class Channel:
    """The judge's end of the conversation, and of the candidate's output."""

    def __init__(self, requests: int, responses: int, output: int, max_output_bytes: int) -> None:
        """Take the descriptors; at most `max_output_bytes` of output are kept, the rest is thrown away."""
        self.requests, self.responses, self.output_fd = requests, responses, output
        self.output = bytearray()
        self.max_output_bytes = max_output_bytes

    def receive(self) -> dict[str, Any]:
        """Return the candidate's next message."""
        message = read_frame(self.responses, self._read)
        if not isinstance(message, dict):
            raise FrameError("not a message")
        return message

    def ask(self, operation: str, **details: object) -> Any:
        """Return the value of one request; a standard exception is raised here under its own name."""
        try:
            write_frame(self.requests, {"operation": operation, **details})
        except BrokenPipeError as error:
            raise FrameError("the process ended") from error
        message = self.receive()
        if "raised" in message:
            raise as_exception(message["raised"])
        return decode(message.get("value"), self.resolve)

    def take(self, name: str, *, is_tested: bool) -> object:
        """Return what the candidate has under a name that the tests use; `is_tested` when they are of that name."""
        value = self.ask("global", name=name)
        if isinstance(value, Remote):
            object.__setattr__(value, "_is_tested", is_tested)
        return value

    def resolve(self, kind: str, number: int) -> object:
        """Return the stand-in for an object that stayed with the candidate."""
        if kind != "here":
            raise FrameError("the answer names an object of the tests, which have handed none over")
        return Remote(self, number)

    def encode(self, value: object) -> object:
        """Describe a value of the tests for the candidate. Raises `NotPlainError` when it has no plain form."""
        return encode(value, _describe)

    def drain(self) -> None:
        """Take what output is there, without waiting."""
        for _ in range(_MAX_LATE_READS):
            if self.output_fd < 0 or not select.select([self.output_fd], [], [], 0)[0]:
                return
            self._take_output()

    def _read(self, fd: int, size: int) -> bytes:
        """Read from the candidate, taking its output meanwhile, so that a full pipe stops nobody."""
        while True:
            watched = [fd] if self.output_fd < 0 else [fd, self.output_fd]
            ready = select.select(watched, [], [])[0]
            if self.output_fd in ready:
                self._take_output()
            if fd in ready:
                return os.read(fd, size)

    def _take_output(self) -> None:
        part = os.read(self.output_fd, 2**16)
        if not part:
            self.output_fd = -1
        self.output += part[: max(self.max_output_bytes - len(self.output), 0)]


class Remote:
    """Stands for an object of the candidate's. It equals no plain value, whatever the object says of itself."""

    def __init__(self, channel: Channel, number: int) -> None:
        """Remember which object this is, and take it for one that the candidate came up with."""
        object.__setattr__(self, "_remote", (channel, number))
        object.__setattr__(self, "_is_tested", False)

    def __call__(self, *arguments: object, **named: object) -> Any:
        """Call the object in its own interpreter."""
        return _ask(
            self,
            "call",
            arguments=[_handed(self, part) for part in arguments],
            named={name: _handed(self, part) for name, part in named.items()},
        )

    def __getattr__(self, name: str) -> Any:
        """Return the object's attribute."""
        if name.startswith("__"):
            raise AttributeError(name)
        return _ask(self, "getattr", arguments=[name])

    def __setattr__(self, name: str, value: object) -> None:
        """Set the object's attribute."""
        _ask(self, "setattr", arguments=[name, _handed(self, value)])

    def __eq__(self, other: object) -> bool:
        """Ask the candidate only where both sides are its own objects."""
        if not isinstance(other, Remote):
            return False
        return _ask(self, "equal", arguments=[{"there": other._remote[1]}]) is True

    __hash__ = object.__hash__

    def __iter__(self) -> Any:
        """Read an iterator of the candidate's to its end."""
        return iter(_ask(self, "iterate"))

    def __getitem__(self, key: object) -> Any:
        """Return an item."""
        return _ask(self, "getitem", arguments=[_handed(self, key)])

    def __contains__(self, item: object) -> bool:
        """Whether the object says that it holds the item."""
        return _ask(self, "contains", arguments=[_handed(self, item)]) is True

    def __len__(self) -> int:
        """Return the object's length."""
        return _ask(self, "len")

    def __bool__(self) -> bool:
        """Return the object's truth."""
        return _ask(self, "bool") is True

    def __str__(self) -> str:
        """Return the object's text."""
        return _ask(self, "str")


def as_exception(raised: Any) -> Exception:
    """Return the exception that the candidate raised, where it is one of the standard ones."""
    name, text = (str(part) for part in raised)
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and its like want more than a text
            pass
    return CandidateRaisedError(f"{name}: {text}")


def _ask(remote: Remote, operation: str, **details: object) -> Any:
    channel, number = remote._remote
    return channel.ask(operation, target=number, **details)


def _handed(receiver: Remote, value: object) -> object:
    """Describe a value of the tests for an object of the candidate's that takes it.

    What has no plain form is the fault of the tests where they hand it to the entry point, which every answer has. Any
    other receiver is an object that this one answer gave where another might have given a list, so there it is the
    answer that fails: no answer may make its row an error.
    """
    try:
        return receiver._remote[0].encode(value)
    except NotPlainError as error:
        message = f"they hand a {error} to the code under test, but only plain values can be"
        if receiver._is_tested:
            raise UnusableTestsError(message) from error
        raise TypeError(f"of the tests, {message}") from error


def _describe(value: object) -> object:
    """Describe an object of the tests that is not plain: the candidate's own by number, an iterator as a list."""
    if isinstance(value, Remote):
        return {"there": value._remote[1]}
    if isinstance(value, Iterator | ValuesView | ItemsView):
        return encode(list(value), _describe)
    raise NotPlainError(type(value).__name__)
