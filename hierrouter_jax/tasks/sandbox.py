"""Runs generated Python against tests, in a sandbox.

Two processes a run. The *judge* holds the tests; the *candidate*, forked before the judge reads them, holds the
generated program behind walls (`sandboxed.walls`). Every value that the tests look at is built anew in the judge from
plain data, so the verdict rests on what the program computes and on nothing else. "Passed" means that the tests ran to
their end in the judge, which then returned the nonce of the run.

What is promised, on Linux with namespaces, Landlock or seccomp (`SandboxResult.walls` says which there were):
- Passing cannot be forged by ending the process, patching asserts or builtins, `__eq__`, `atexit`, or looking for the
  tests or the nonce in memory: they are not in the candidate's process.
- Endless loops, fork bombs and memory bombs end at their limit, and no process outlives its run. Output beyond a cap
  is thrown away as it comes, kept neither in memory nor on disk; it counts neither for an answer nor against it.
- No file outside a scratch folder is written; only Python's and the system's libraries are read.
- The environment is empty but for what Python needs. With seccomp no socket can be opened; without it, behind
  namespaces, one can, but reaches nobody: by TCP, UDP, or a Unix socket with an abstract name or a path.
- The same program gets the same verdict: hash seed and `random` are seeded.

What is not promised:
- Protection from a hole in the kernel: this keeps the mistakes and the mischief of small models in, and is no
  fortress to run strangers' code in.
- That tests see a change the program makes to an argument in place, hand it functions of their own, or catch an
  exception class that it defines. Two objects of the program's own classes are equal when it says so.
- A bound on the sum of all files of the scratch folder where there are no mount namespaces: there it holds for each.
- Any of the walls where the system grants none (macOS; a container that forbids all three): limits, time-outs and the
  verdict still hold; `SandboxResult.is_network_isolated` and `.is_file_isolated` are then False.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hierrouter_jax.core.errors import ConfigError, DataError, SandboxError

Status = Literal["passed", "failed", "error", "timeout", "crashed"]

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_GRACE_S = 5.0  # for the judge to start and to clean up, on top of the wall time
_START = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from hierrouter_jax.tasks.sandboxed.judge import main; sys.path.remove({root!r}); main()"
)


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What one run may use. CPU time is the limit that counts; wall time is generous, because machines are busy."""

    cpu_s: int = 4
    wall_s: float = 30.0
    memory_bytes: int = 512 * 2**20  # address space of each process
    scratch_bytes: int = 16 * 2**20
    num_processes: int = 8
    max_output_bytes: int = 4096

    def __post_init__(self) -> None:
        """Refuse limits that let nothing run."""
        for name in ("cpu_s", "wall_s", "memory_bytes", "scratch_bytes", "num_processes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, but is {getattr(self, name)}.")
        if self.max_output_bytes < 0:
            raise ConfigError(f"max_output_bytes must be >= 0, but is {self.max_output_bytes}.")


@dataclass(frozen=True, kw_only=True)
class SandboxResult:
    """How a run ended. `output` is the beginning of what the program printed; `walls` are those that stood."""

    status: Status
    detail: str
    output: str
    walls: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        """Whether every test ran and held."""
        return self.status == "passed"

    @property
    def is_network_isolated(self) -> bool:
        """Whether the program could reach no network."""
        return bool({"network", "seccomp"} & set(self.walls))

    @property
    def is_file_isolated(self) -> bool:
        """Whether the program could write nothing outside its scratch folder."""
        return bool({"root", "landlock"} & set(self.walls))


DEFAULT_LIMITS = SandboxLimits()


def run_program(
    program: str,
    tests: Sequence[str],
    *,
    entry_point: str | None = None,
    support: str = "",
    limits: SandboxLimits = DEFAULT_LIMITS,
    without_walls: Sequence[str] = (),
) -> SandboxResult:
    """Run `tests` against `program` and say how it ended.

    `support` is trusted source that the tests may use (the helpers a question defines). `without_walls` leaves walls
    out by name, to see what the others hold. Raises `DataError` when the tests themselves cannot be run, and
    `SandboxError` when the sandbox cannot be set up.
    """
    if os.name != "posix":
        raise SandboxError("Generated code runs on Linux and macOS only: this system has no process limits.")
    nonce = secrets.token_hex(16)
    scratch = tempfile.mkdtemp(prefix="hierrouter-sandbox-")
    try:
        os.chmod(scratch, 0o755)  # the candidate has another user id
        settings = {
            "scratch": scratch,
            "wall_s": limits.wall_s,
            "cpu_s": limits.cpu_s,
            "memory_bytes": limits.memory_bytes,
            "scratch_bytes": limits.scratch_bytes,
            "num_processes": limits.num_processes,
            "max_output_bytes": limits.max_output_bytes,
            "without": list(without_walls),
        }
        secret = {"tests": "\n".join(tests), "support": support, "entry_point": entry_point or "", "nonce": nonce}
        frames = _frame({"program": program, "settings": settings}) + _frame(secret)
        raw, errors = _run_judge(frames, limits.wall_s + _GRACE_S)
    finally:
        _remove(scratch)
    return _result(raw, errors, nonce)


def _run_judge(frames: bytes, timeout_s: float) -> tuple[bytes, str]:
    """Start the judge in a session of its own, and see to it that nothing of it is left."""
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
    # Not -I: it would ignore the hash seed, and a set's order would make one answer score differently each time.
    command = [sys.executable, "-s", "-S", "-P", "-c", _START.format(root=_PACKAGE_ROOT)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,
    ) as judge:
        try:
            raw, errors = judge.communicate(frames, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return b"", ""
        finally:
            if judge.poll() is None:
                os.killpg(judge.pid, signal.SIGKILL)
    return raw, errors.decode("utf-8", "replace")


def _remove(folder: str) -> None:
    """Remove a scratch folder, however deep a program has nested folders in it."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)


def _result(raw: bytes, errors: str, nonce: str) -> SandboxResult:
    """Read the verdict; without this run's nonce it is none."""
    if not raw:
        if errors:
            raise RuntimeError(f"The judge of the sandbox failed:\n{errors}")
        return SandboxResult(status="timeout", detail="the judge had to be killed", output="", walls=())
    verdict = json.loads(raw[4:])
    if verdict["nonce"] != nonce:
        raise RuntimeError("The verdict of the sandbox belongs to another run.")
    status, detail = verdict["status"], verdict["detail"]
    if status == "broken":
        raise SandboxError(f"The sandbox must be set up before generated code runs, but that failed: {detail}.")
    if status == "unusable":
        raise DataError(f"The tests of this row cannot be run: {detail}. Mend or remove the row.")
    if status not in get_args(Status):
        raise RuntimeError(f"The verdict of the sandbox has no known status: {status!r}")
    return SandboxResult(status=status, detail=detail, output=verdict["output"], walls=tuple(verdict["walls"]))


def _frame(message: object) -> bytes:
    body = json.dumps(message).encode()
    return len(body).to_bytes(4, "big") + body
