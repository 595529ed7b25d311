"""Locks below the cache: one process at a time makes a thing, and what a killed process left half made is removed.

A lock is the kernel's, so it ends with its process however that ends: half-made work whose lock is free is nobody's.
A process id would not tell: ids are used again, and in another container they belong to other processes. The empty
lock files stay, because removing one would let two processes hold two locks of one name.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout


def make_lock(path: Path, *, is_quiet: bool) -> FileLock:
    """Return the lock at `path`, to be entered; says so when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:
        if not is_quiet:
            print(f"Another process is fetching {path.stem}; waiting for it.", file=sys.stderr)
    return lock


def remove_abandoned(folder: Path, lock_path_of: Callable[[Path], Path]) -> None:
    """Remove every `*.partial` folder inside `folder` whose lock nobody holds.

    A `.partial` folder must only ever be made and filled under its lock, which `lock_path_of` names.
    """
    for partial in sorted(folder.glob("*.partial")):
        lock_path = lock_path_of(partial)
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock_path).acquire(timeout=0):
                shutil.rmtree(partial, ignore_errors=True)
        except Timeout:
            continue  # a living process works there
