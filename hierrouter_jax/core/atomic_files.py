"""Files that are either the old version or the new one, never half of it, whatever kills the process."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hierrouter_jax.core.errors import StorageError


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces `path` when the block ends, and vanishes when it raises.

    Raises `StorageError` when the disk is full or the folder cannot be written; `path` is then as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        # Exclusive, and with the permissions that the user's umask gives any new file.
        with open(fresh, "xb") as file:
            temporary = fresh
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise StorageError(
            f"Writing {path} failed: {error}. Free space or choose another place; the file is as it was before."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a whole text file, UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def require_writable(path: Path) -> None:
    """Raise `StorageError` where a file at `path` could not be written, before hours of work are spent on it."""
    if path.is_dir():
        raise StorageError(f"{path} must be a file, but is a folder; choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise StorageError(f"{path} must be a place that can be written, but: {error}. Choose another.") from error
