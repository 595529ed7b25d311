"""Ending the candidate, with everything it has started, however it tried to hide it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_MAX_CLEANUP_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The CPU time of the candidate's first process, and whether a limit (or the judge) killed it."""

    cpu_s: float
    is_killed: bool


def kill_all(child: int, *, user_id: int) -> Ending:
    """End the candidate and everything it started, and say how the candidate itself ended.

    The first process of a namespace takes all others with it. Without a namespace, orphans become children of the
    judge (a subreaper) and whatever runs as the candidate's own user is its doing: both are ended, round after round,
    until none is left.
    """
    ending = Ending(cpu_s=0.0, is_killed=False)
    _kill(-child)
    _kill(child)
    deadline = time.monotonic() + _MAX_CLEANUP_S
    while time.monotonic() < deadline:
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == child:
            is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU)
            ending = Ending(cpu_s=used.ru_utime + used.ru_stime, is_killed=is_killed)
        if pid == 0:
            for straggler in _stragglers(user_id):
                _kill(straggler)
            time.sleep(0.002)
    for straggler in _stragglers(user_id):
        _kill(straggler)
    return ending


def _stragglers(user_id: int) -> list[int]:
    """Return the processes whose parent is this one, or that run as the candidate's user."""
    found: list[int] = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        with contextlib.suppress(OSError):
            if entry.isdigit() and _is_straggler(Path("/proc", entry), user_id):
                found.append(int(entry))
    return found


def _is_straggler(folder: Path, user_id: int) -> bool:
    if os.getuid() == 0 and folder.stat().st_uid == user_id:
        return True
    after_name = (folder / "stat").read_bytes().rsplit(b")", 1)[1]  # bytes: a process may have any name
    return int(after_name.split()[1]) == os.getpid()


def _kill(pid: int) -> None:
    """Kill a process, or with a negative number its group, if it is there."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
