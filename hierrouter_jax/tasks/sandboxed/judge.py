"""The judge's interpreter: starts the candidate in another process, then runs the tests here, on the values it sends.

The candidate is forked before the tests and the nonce are read, so it has neither in its memory, and it shares no
interpreter with them: it cannot patch an assert, end the test run, or hand over an object whose `==` always agrees.
Names that the tests use and do not define are the candidate's; a function or class is used through a `Remote`.
"""

from __future__ import annotations

import ast
import builtins
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any

from hierrouter_jax.tasks.sandboxed import walls
from hierrouter_jax.tasks.sandboxed.candidate import run_candidate
from hierrouter_jax.tasks.sandboxed.values import FrameError, decode, encode, read_frame, write_frame


class CandidateRaisedError(Exception):
    """The candidate raised something that is not a standard exception."""


class UnusableTestsError(Exception):
    """The tests themselves cannot be run."""


class WallTimeError(BaseException):
    """The wall time is over. Not an Exception, so that no test catches it."""


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
            raise _as_exception(message["raised"])
        return decode(message.get("value"), self.resolve)

    def resolve(self, kind: str, number: int) -> object:
        """Return the stand-in for an object that stayed with the candidate."""
        if kind != "here":
            raise FrameError("the answer names an object of the tests, which have handed none over")
        return Remote(self, number)

    def encode(self, value: object) -> object:
        """Describe a value of the tests for the candidate."""
        return encode(value, _describe)

    def drain(self) -> None:
        """Take what output is there, without waiting."""
        while self.output_fd >= 0 and select.select([self.output_fd], [], [], 0)[0]:
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
        """Remember which object this is."""
        object.__setattr__(self, "_remote", (channel, number))

    def __call__(self, *arguments: object, **named: object) -> Any:
        """Call the object in its own interpreter."""
        channel, _ = self._remote
        return _ask(
            self,
            "call",
            arguments=[channel.encode(part) for part in arguments],
            named={name: channel.encode(part) for name, part in named.items()},
        )

    def __getattr__(self, name: str) -> Any:
        """Return the object's attribute."""
        if name.startswith("__"):
            raise AttributeError(name)
        return _ask(self, "getattr", arguments=[name])

    def __setattr__(self, name: str, value: object) -> None:
        """Set the object's attribute."""
        _ask(self, "setattr", arguments=[name, self._remote[0].encode(value)])

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
        return _ask(self, "getitem", arguments=[self._remote[0].encode(key)])

    def __contains__(self, item: object) -> bool:
        """Whether the object says that it holds the item."""
        return _ask(self, "contains", arguments=[self._remote[0].encode(item)]) is True

    def __len__(self) -> int:
        """Return the object's length."""
        return _ask(self, "len")

    def __bool__(self) -> bool:
        """Return the object's truth."""
        return _ask(self, "bool") is True

    def __str__(self) -> str:
        """Return the object's text."""
        return _ask(self, "str")


def main() -> None:
    """Judge one program: read the job from descriptor 0, write the verdict to what was descriptor 1."""
    verdict_fd = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)  # what the tests print is no part of the verdict
    os.dup2(nowhere, 2)
    signal.signal(signal.SIGALRM, _on_alarm)
    job = read_frame(0)
    settings = walls.WallSettings(**job["settings"])
    child, channel = _start_candidate(job["program"], settings)
    try:
        secret = read_frame(0)  # only now: the candidate was forked without it
        verdict = _judge(channel, secret, settings.wall_s)
    finally:
        cpu_s = walls.kill_all(child)
    if verdict["status"] == "crashed" and cpu_s >= settings.cpu_s:
        verdict.update(status="timeout", detail=f"more than {settings.cpu_s} s of CPU time")
    channel.drain()
    verdict["output"] = channel.output.decode("utf-8", "replace")
    write_frame(verdict_fd, {**verdict, "nonce": secret["nonce"]})


def _start_candidate(program: str, settings: walls.WallSettings) -> tuple[int, Channel]:
    """Fork the candidate behind its walls."""
    requests, responses, output = os.pipe(), os.pipe(), os.pipe()
    entered = walls.enter_namespaces(settings)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            run_candidate(program, settings, entered, (requests[0], responses[1], output[1]))
        finally:
            os._exit(1)
    for fd in (requests[0], responses[1], output[1]):
        os.close(fd)
    return child, Channel(requests[1], responses[0], output[0], settings.max_output_bytes)


def _judge(channel: Channel, secret: dict[str, Any], wall_s: float) -> dict[str, Any]:
    """Return the verdict on a candidate that was just started; "passed" only when every test ran to its end."""
    in_force: list[str] = []
    try:
        signal.setitimer(signal.ITIMER_REAL, wall_s)
        opening = channel.receive()
        in_force = opening.get("walls", [])
        status, detail = _outcome(channel, opening, secret)
    except WallTimeError:
        status, detail = "timeout", f"no end after {wall_s} s"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"status": status, "detail": detail, "walls": in_force}


def _outcome(channel: Channel, opening: dict[str, Any], secret: dict[str, Any]) -> tuple[str, str]:
    """Return status and detail of loading the program and running the tests."""
    try:
        if "broken" in opening:
            return "broken", str(opening["broken"])
        loaded = channel.receive()
        if "raised" in loaded:
            raise _as_exception(loaded["raised"])
        _run_tests(channel, secret)
    except WallTimeError:
        raise
    except FrameError as error:
        return "crashed", str(error)
    except UnusableTestsError as error:
        return "unusable", str(error)
    except AssertionError as error:
        return "failed", str(error)[:500]
    except BaseException as error:
        return "error", f"{type(error).__name__}: {error}"[:500]
    return "passed", ""


def _run_tests(channel: Channel, secret: dict[str, Any]) -> None:
    """Run the tests in this interpreter, with the candidate's names standing in for its objects."""
    namespace: dict[str, Any] = {"__name__": "__tests__"}
    try:
        tree = ast.parse(secret["tests"])
        code = compile(tree, "<tests>", "exec", dont_inherit=True)
        exec(compile(secret["support"], "<question>", "exec", dont_inherit=True), namespace)
    except (SyntaxError, ValueError) as error:
        raise UnusableTestsError(f"{type(error).__name__}: {error}") from error
    used = _free_names(tree) - set(namespace)
    # A builtin or a module is ours, even where the candidate has redefined it, unless the tests are of that name.
    modules = used & (set(sys.stdlib_module_names) - {secret["entry_point"]})
    namespace.update({name: __import__(name) for name in modules})
    theirs = (used - modules - set(vars(builtins))) | {secret["entry_point"]}
    for name in channel.ask("defined", names=sorted(theirs)):
        if name in theirs:
            namespace[name] = channel.ask("global", name=name)
    exec(code, namespace)


def _free_names(tree: ast.AST) -> set[str]:
    """Return the names that the tests read and bind nowhere."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {node.id for node in names} - bound


def _ask(remote: Remote, operation: str, **details: object) -> Any:
    channel, number = remote._remote
    return channel.ask(operation, target=number, **details)


def _describe(value: object) -> object:
    """Describe an object of the tests that is not plain: one of the candidate's own goes back to it, an iterator whole."""
    if isinstance(value, Remote):
        return {"there": value._remote[1]}
    if isinstance(value, Iterator):
        return encode(list(value), _describe)
    raise UnusableTestsError(f"the tests hand a {type(value).__name__} to the code under test; only plain values can be")


def _as_exception(raised: Any) -> Exception:
    """Return the exception that the candidate raised, where it is one of the standard ones."""
    name, text = (str(part) for part in raised)
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and its like want more than a text
            pass
    return CandidateRaisedError(f"{name}: {text}")


def _on_alarm(signum: int, frame: object) -> None:
    raise WallTimeError
