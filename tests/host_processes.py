"""The real `hierrouter train` as several processes of this machine: started, watched, signalled and waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 600  # for what has no bound of its own; a slow machine is no failure


@dataclass
class Ended:
    """How a process ended."""

    code: int
    output: str


class Job:
    """Processes of one computation, each with its log; whatever still runs when the block ends is killed."""

    def __init__(
        self, folder: Path, run_dir: Path, num_processes: int, *options: str, cache: Path, max_file_kib: int = 0
    ) -> None:
        self.run_dir, self._folder = run_dir, folder
        folder.mkdir(parents=True, exist_ok=True)
        place = ["--coordinator", f"localhost:{free_port()}", "--num-processes", num_processes]
        self.processes = []
        for index in range(num_processes):
            joined = [*place, "--process-id", index] if num_processes > 1 else []
            words = ["--run-dir", run_dir, *joined, *options]
            self.processes.append(
                start_command(
                    "train",
                    words,
                    log=folder / f"{index}.log",
                    cache=cache,
                    max_file_kib=max_file_kib if index == 0 else 0,
                )
            )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def wait_until(self, is_reached: Callable[[], object]) -> None:
        """Wait until something is reached, while all processes are there."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_reached():
            assert not self.has_ended(), f"ended too soon\n{self.logs()}"
            assert time.monotonic() < deadline_s, self.logs()
            time.sleep(0.005)

    def has_ended(self) -> bool:
        """Return whether some process has."""
        return any(process.poll() is not None for process in self.processes)

    def send(self, index: int, number: int) -> None:
        self.processes[index].send_signal(number)

    def ends(self, *, but: tuple[int, ...] = (), within_s: float = PATIENCE_S) -> list[Ended]:
        """Return how the processes ended, those in `but` left out."""
        deadline_s = time.monotonic() + within_s
        ended = []
        for index, process in enumerate(self.processes):
            if index not in but:
                try:
                    code = process.wait(max(deadline_s - time.monotonic(), 0.1))
                except subprocess.TimeoutExpired:
                    raise AssertionError(f"process {index} still runs after {within_s} s\n{self.logs()}") from None
                ended.append(Ended(code, self.log(index)))
        return ended

    def log(self, index: int) -> str:
        return (self._folder / f"{index}.log").read_text()

    def logs(self) -> str:
        return "\n".join(f"--- process {index}\n{self.log(index)}" for index in range(len(self.processes)))


def start_command(command: str, arguments, *, log: Path, cache: Path, max_file_kib: int = 0) -> subprocess.Popen:
    """Start `hierrouter COMMAND ARGUMENTS` on one CPU device; no file that it writes may exceed a size, if given."""
    words = [sys.executable, "-m", "hierrouter_jax.cli.main", command, *map(str, arguments)]
    if max_file_kib:
        words = ["bash", "-c", f'ulimit -f {max_file_kib}; exec "$@"', "limited", *words]
    with log.open("w") as file:
        return subprocess.Popen(words, env=command_environment(cache), stdout=file, stderr=subprocess.STDOUT)


def command_environment(cache: Path) -> dict[str, str]:
    """Return the environment of a command on one CPU device, with its compiled programs in `cache`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return environment | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of what these runs do
        "HIERROUTER_CACHE": str(cache),
        "PYTHONPATH": str(without_torch(cache)),
    }


def without_torch(folder: Path) -> Path:
    """Return a folder that hides torch, as where only the package is installed; loading it takes seconds a process."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "torch.py").write_text("raise ImportError('hidden')\n")
    return folder


def run_to_end(folder: Path, run_dir: Path, num_processes: int, *options: str, cache: Path) -> None:
    """Run a job that must go well; one whose port somebody took in the meantime is started again."""
    for attempt in range(3):
        with Job(folder / f"attempt{attempt}", run_dir, num_processes, *options, cache=cache) as job:
            ended = job.ends()
            if any("Choose a free port" in one.output for one in ended):
                continue
            assert [one.code for one in ended] == [0] * num_processes, job.logs()
            return
    raise AssertionError("no port was free, three times")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
