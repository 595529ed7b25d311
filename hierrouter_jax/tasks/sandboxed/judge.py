"""The judge's interpreter: starts the candidate in another process, then runs the tests here, on the values it sends.

The candidate is forked before the tests and the nonce are read, so it has neither in its memory, and it shares no
interpreter with them: it cannot patch an assert, end the test run, or hand over an object whose `==` always agrees.
Names that the tests use and do not define are the candidate's; a function or class is used through a `Remote`.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import os
import resource
import signal
import sys
import types
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.tasks.sandboxed import walls
from hierrouter_jax.tasks.sandboxed.candidate import run_candidate
from hierrouter_jax.tasks.sandboxed.endings import kill_all
from hierrouter_jax.tasks.sandboxed.remote import Channel, UnusableTestsError, as_exception
from hierrouter_jax.tasks.sandboxed.values import FrameError, read_frame, write_frame

_MAX_DETAIL = 500  # of a verdict, in characters


class WallTimeError(BaseException):
    """The wall time is over. Not an Exception, so that no test catches it."""


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
    _bound_own_memory(settings.memory_bytes)
    try:
        secret = read_frame(0)  # only now: the candidate was forked without it
        verdict = _judge(channel, secret, settings.wall_s)
    finally:
        ending = kill_all(child, user_id=walls.candidate_user(os.getpid()))
    # The kernel counts the limit in ticks and the time used more finely: the two are not the same number.
    if verdict["status"] == "crashed" and ending.is_killed and ending.cpu_s > settings.cpu_s / 2:
        verdict.update(status="timeout", detail=f"more than {settings.cpu_s} s of CPU time")
    channel.drain()
    verdict["output"] = channel.output.decode("utf-8", "replace")
    write_frame(verdict_fd, {**verdict, "nonce": secret["nonce"]})


def _start_candidate(program: str, settings: walls.WallSettings) -> tuple[int, Channel]:
    """Fork the candidate behind its walls."""
    requests, responses, output = os.pipe(), os.pipe(), os.pipe()
    entered = walls.enter_namespaces(settings)
    user_id = walls.candidate_user(os.getpid())
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            run_candidate(program, settings, entered, user_id, (requests[0], responses[1], output[1]))
        finally:
            os._exit(1)
    for fd in (requests[0], responses[1], output[1]):
        os.close(fd)
    return child, Channel(requests[1], responses[0], output[0], settings.max_output_bytes)


def _bound_own_memory(memory_bytes: int) -> None:
    """Let an answer that takes much room when it is built fail here, not fill the machine."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with contextlib.suppress(ValueError, OSError):  # macOS has no working address-space limit
        resource.setrlimit(resource.RLIMIT_AS, (2 * memory_bytes, hard))


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
        tests = _prepared(secret)  # before the program is looked at: what fails here is the row's fault
        loaded = channel.receive()
        if "raised" in loaded:
            raise as_exception(loaded["raised"])
        _run_tests(channel, tests, secret["entry_point"])
    except WallTimeError:
        raise
    except FrameError as error:
        return "crashed", str(error)
    except UnusableTestsError as error:
        return "unusable", str(error)
    except AssertionError as error:
        return "failed", _text_of(error)[:_MAX_DETAIL]
    except BaseException as error:
        return "error", f"{type(error).__name__}: {_text_of(error)}"[:_MAX_DETAIL]
    return "passed", ""


def _text_of(error: BaseException) -> str:
    """Return the text of an exception. It may hold a stand-in, whose text the candidate gives, or does not."""
    try:
        return str(error)
    except WallTimeError:
        raise
    except BaseException as other:
        return f"its text cannot be had ({type(other).__name__})"


@dataclass(frozen=True, kw_only=True)
class PreparedTests:
    """Tests that can be run, and the names that they find: what the question defines for them."""

    tree: ast.Module
    code: types.CodeType
    namespace: dict[str, Any]


def _prepared(secret: dict[str, Any]) -> PreparedTests:
    """Compile the tests and run what they may use. Raises `UnusableTestsError`."""
    namespace: dict[str, Any] = {"__name__": "__tests__"}
    try:
        tree = ast.parse(secret["tests"])
        code = compile(tree, "<tests>", "exec", dont_inherit=True)
        exec(compile(secret["support"], "<question>", "exec", dont_inherit=True), namespace)
    except Exception as error:
        raise UnusableTestsError(f"{type(error).__name__}: {error}") from error
    return PreparedTests(tree=tree, code=code, namespace=namespace)


def _run_tests(channel: Channel, tests: PreparedTests, entry_point: str) -> None:
    """Run the tests in this interpreter, with the candidate's names standing in for its objects."""
    namespace = tests.namespace
    used = _free_names(tests.tree) - set(namespace)
    # A builtin or a module is ours, even where the candidate has redefined it, unless the tests are of that name.
    modules = used & (set(sys.stdlib_module_names) - {entry_point})
    namespace.update({name: __import__(name) for name in modules})
    theirs = (used - modules - set(vars(builtins))) | {entry_point}
    for name in channel.ask("defined", names=sorted(theirs)):
        if name in theirs:
            namespace[name] = channel.take(name, is_tested=name == entry_point)
    exec(tests.code, namespace)


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


def _on_alarm(signum: int, frame: object) -> None:
    raise WallTimeError
