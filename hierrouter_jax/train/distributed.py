"""Several processes, on one host or many, as one computation: joining, agreeing, and ending together.

Every process runs the same program; none is asked to do without the others. What only one of them may do (writing
metrics, looking into the run directory) is done by the first process inside `decide` or `agree`, which tell all of
them the outcome: they go on together or raise the same error. What waits for others runs inside `waiting_for_others`,
whose watchdog ends this process when they do not come in time, because a collective cannot be cancelled.

JAX's own preemption service stays off. It proposes the step after that of the process which is furthest, and blocks
of many updates need not visit it; here a SIGTERM sets a flag (`sigterm_noticed`) that all processes share at the end
of every block, so all of them save after the same update. JAX's abort of the survivors of a lost process stays off as
well (`jax_enable_recoverability`): the watchdog and the failed collective tell more. Of the loss of process 0, where
JAX's coordinator lives, it makes an abort all the same, which is given a message and an exit code like the other
losses. With one process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from hierrouter_jax.core import errors
from hierrouter_jax.core.errors import ConfigError, HierRouterError, raise_all

T = TypeVar("T")
PREEMPTED_CODE = 75  # exit code: stopped by request, a checkpoint was saved; "temporary failure" of sysexits.h
WORKER_LOST_CODE = 76  # exit code: another process was lost; the checkpoints are whole
DEFAULT_WORKER_TIMEOUT_S = 300.0
_REPORT_BYTES = 4096
_ADVICE = "The checkpoints are whole: resume the run, with as many processes as are there."
_GRACE_S = 30.0
_NEVER_S = 10**6  # of JAX's own time-outs, where ours come first
_LOST_SIGNS = re.compile(r"gloo|nccl|collective|coordination|connection|socket|unavailable|deadline", re.IGNORECASE)


class Preempted(Exception):
    """Training was asked to end early, by SIGTERM to some process; the checkpoint is saved."""


class WorkerLost(Exception):
    """Another process of the computation ended or went silent."""


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """How this process finds the others. Without a coordinator and without `detect` it is alone."""

    coordinator: str | None = None
    """HOST:PORT of process 0, a free port there."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    detect: Literal["auto"] | None = None
    """`auto`: on a TPU pod, in a Slurm step or under Open MPI, JAX finds the three above by itself."""
    connect_timeout_s: float = 120.0
    """How long to wait for all of them to be there."""
    worker_timeout_s: float = DEFAULT_WORKER_TIMEOUT_S
    """How long to wait for the others at each visit of the host, compilation included."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a place among several processes, all at once."""
        given = {
            "coordinator": self.coordinator,
            "num_processes": self.num_processes,
            "process_id": self.process_id,
        }
        missing = [name for name, value in given.items() if value is None]
        problems = []
        if self.detect is None and 0 < len(missing) < len(given):
            problems.append(
                f"coordinator, num_processes and process_id go together, but {', '.join(missing)} is missing"
            )
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", self.coordinator):
            problems.append(f"coordinator must be HOST:PORT, but is {self.coordinator!r}")
        if self.num_processes is not None and self.num_processes < 1:
            problems.append(f"num_processes must be >= 1, but is {self.num_processes}")
        elif self.num_processes is not None and not 0 <= (self.process_id or 0) < self.num_processes:
            problems.append(
                f"process_id must lie in [0, {self.num_processes}) (num_processes), but is {self.process_id}"
            )
        for name in ("connect_timeout_s", "worker_timeout_s"):
            if not 0 < getattr(self, name) < _NEVER_S:
                problems.append(f"{name} must be > 0 and below {_NEVER_S}, but is {getattr(self, name)}")
        raise_all(ConfigError, "The processes cannot be joined:", problems)

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to join."""
        return self.coordinator is None and self.detect is None


def join_processes(config: ProcessConfig) -> None:
    """Make this process one of the computation's; must come before any other use of JAX's devices.

    Raises `ConfigError` when the coordinator cannot be reached, its port is taken, or nothing is detected. Where the
    others do not come within `connect_timeout_s`, the process ends with a message and exit code 2, because the wait
    cannot be cancelled.
    """
    if config.is_alone:
        return
    began_s = time.monotonic()
    if config.coordinator is not None:
        _try_coordinator(config)
    _on_abort(f"error: JAX gave up this process: most likely process 0 was lost. {_ADVICE}", WORKER_LOST_CODE)
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)
    left_s = config.connect_timeout_s - (time.monotonic() - began_s)
    absent = (
        f"All processes must join within {config.connect_timeout_s:g} s (connect_timeout_s), but some did not. Start "
        f"{config.num_processes or 'all'} processes with one coordinator ({config.coordinator or 'found by itself'}) "
        "and ids 0, 1, ..."
    )
    with _ending_after(max(left_s, 1.0), absent, exit_code=2):
        try:
            jax.distributed.initialize(
                config.coordinator,
                config.num_processes,
                config.process_id,
                cluster_detection_method="deactivate" if config.detect is None else None,
                initialization_timeout=_NEVER_S,
                heartbeat_timeout_seconds=_NEVER_S,
            )
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"Joining the other processes failed: {_first_line(error)}. Give --coordinator HOST:PORT, "
                "--num-processes and --process-id; only TPU pods, Slurm and Open MPI are found by themselves."
            ) from error


def leave_processes(exit_code: int, *, timeout_s: float) -> None:
    """Part in good order, all at once, before this process exits with `exit_code`: nobody leaves before all are here.

    Where the others do not come within `timeout_s`, because they know nothing of this end, this process ends alone.
    """
    if jax.process_count() == 1:
        return
    with _ending_after(timeout_s, "", exit_code=exit_code):
        try:
            exchange("done")
        except (ValueError, RuntimeError):
            end_process("", exit_code)
        _on_abort("", exit_code)  # from here on, the coordinator may go
        if is_first_process():
            time.sleep(0.5)  # the coordinator lives here: let the others hang up first
        jax.distributed.shutdown()


def end_process(message: str, exit_code: int) -> NoReturn:
    """End at once, with a message. No clean-up: with several processes it would wait for one that is lost."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.write(f"{message}\n" if message else "")
        sys.stderr.flush()
    os._exit(exit_code)


def is_first_process() -> bool:
    """Return whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def exchange(text: str) -> list[str]:
    """Return the texts of all processes, in their order; each at most about 4,000 bytes (the rest is cut off)."""
    if jax.process_count() == 1:
        return [text]
    data = np.zeros((1, _REPORT_BYTES), np.uint8)
    encoded = text.encode("utf-8", "replace")[: _REPORT_BYTES - 1]
    data[0, : len(encoded)] = np.frombuffer(encoded, np.uint8)
    mesh, gather = _gather_program()
    sharding = NamedSharding(mesh, Spec("process"))
    rows = jax.make_array_from_process_local_data(sharding, data, (jax.process_count(), _REPORT_BYTES))
    gathered = np.asarray(gather(rows).addressable_data(0))
    return [bytes(row).rstrip(b"\0").decode("utf-8", "ignore") for row in gathered]


def agree(action: Callable[[], object], *, notice: bool = False) -> bool:
    """Do `action` here as the others do theirs; return whether `notice` was given to any process.

    When it raises a `HierRouterError` on any process, all processes raise that error. Where the others do not come to
    hear of it within 30 s, this process ends alone, with the error's message and exit code 2.
    """
    mine: HierRouterError | None = None
    try:
        action()
    except HierRouterError as error:
        mine = error
    if jax.process_count() == 1:
        if mine is not None:
            raise mine
        return notice
    report = {"notice": notice, "error": None if mine is None else [type(mine).__name__, str(mine)[:1000]]}
    if mine is not None:
        # The others may be waiting inside the very action that failed here, and never come.
        with _ending_after(_GRACE_S, str(mine), exit_code=2):
            exchange(json.dumps(report))
        raise mine
    reports = [json.loads(one) for one in exchange(json.dumps(report))]
    for index, one in enumerate(reports):
        if one["error"] is not None:
            _raise_others(index, *one["error"])
    return any(one["notice"] for one in reports)


def together(action: Callable[[], T]) -> T:
    """Return what `action` gives here, once it has gone well on every process; else raise as `agree` does."""
    results: list[T] = []
    agree(lambda: results.append(action()))
    return results[0]


def decide(question: Callable[[], str]) -> str:
    """Ask the first process alone and return its answer on all; its `HierRouterError` is raised on all."""
    answers: list[str] = []

    def ask() -> None:
        if is_first_process():
            answers.append(question())

    agree(ask)
    return exchange("".join(answers))[0]


def require_equal(what: str, value: str) -> None:
    """Raise `ConfigError` on all processes unless `value` is the same on all."""
    values = exchange(value)
    odd = [index for index, one in enumerate(values) if one != values[0]]
    if odd:
        raise ConfigError(
            f"All processes must be started with the same {what}, but process {', '.join(map(str, odd))} differs from "
            f"process 0 (digests {values[odd[0]][:12]} and {values[0][:12]}). Run one command everywhere, on the same "
            "files and version."
        )


@contextlib.contextmanager
def waiting_for_others(what: str, *, timeout_s: float) -> Iterator[None]:
    """End this process, by message and exit code, when `what` takes longer than `timeout_s`: a process was lost.

    Raises `WorkerLost` where the loss is noticed earlier, by a broken connection. Alone, nothing is waited for.
    """
    if jax.process_count() == 1:
        yield
        return
    silent = f"{what} did not end within {timeout_s:g} s (worker_timeout_s): another process ended or hangs. {_ADVICE}"
    with _ending_after(timeout_s, silent, exit_code=WORKER_LOST_CODE):
        try:
            yield
        except (ValueError, RuntimeError) as error:  # JAX reports a broken collective as either
            if not is_loss(error):
                raise
            raise WorkerLost(f"{what} failed: another process was lost ({_first_line(error)}). {_ADVICE}") from error


def is_loss(error: BaseException) -> bool:
    """Return whether JAX or Orbax, with several processes, reports by `error` that another one was lost."""
    return jax.process_count() > 1 and not isinstance(error, HierRouterError) and bool(_LOST_SIGNS.search(str(error)))


@contextlib.contextmanager
def sigterm_noticed() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come since; the signal ends nothing by itself meanwhile.

    Nor does a second one: a scheduler and a launch script may both send it. Only the main thread may enter.
    """
    seen = threading.Event()

    def note(number: int, frame: Any) -> None:
        seen.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _ending_after(timeout_s: float, message: str, *, exit_code: int) -> Iterator[None]:
    watchdog = threading.Timer(timeout_s, end_process, (f"error: {message}" if message else "", exit_code))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


@cache
def _on_abort(message: str, exit_code: int) -> object:
    """Give a message and an exit code to the abort by which JAX's C++ ends this process when the coordinator is lost.

    Python's own signal handlers run between byte codes, which an aborting process does not reach.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: end_process(message, exit_code))
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
    return handler  # kept by the cache: C holds no reference


@cache
def _gather_program() -> tuple[Mesh, Callable[[Any], Any]]:
    """Return a mesh of one device a process, and the program that shows every row to all."""
    firsts = [next(one for one in jax.devices() if one.process_index == i) for i in range(jax.process_count())]
    mesh = Mesh(np.array(firsts), ("process",), axis_types=(AxisType.Auto,))
    return mesh, jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, Spec()))


def _try_coordinator(config: ProcessConfig) -> None:
    """Raise `ConfigError` where JAX would abort: the port of process 0 is taken, or nobody answers there."""
    host, port = str(config.coordinator).rsplit(":", 1)
    if config.process_id == 0:
        try:
            with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", int(port)))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"Process 0 must open port {port} of the coordinator {config.coordinator}, but: {error}. "
                "Choose a free port."
            ) from error
        return
    deadline_s = time.monotonic() + config.connect_timeout_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline_s:
                raise ConfigError(
                    f"The coordinator (process 0) must answer at {config.coordinator} within "
                    f"{config.connect_timeout_s:g} s (connect_timeout_s), but: {error}. Start process 0, or correct "
                    "the address."
                ) from error
            time.sleep(0.2)


def _raise_others(index: int, kind: str, message: str) -> NoReturn:
    found = getattr(errors, kind, None)
    if not (isinstance(found, type) and issubclass(found, HierRouterError)):
        found = HierRouterError
    raise found(f"Process {index}: {message}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
