"""Lines that a person types at a terminal, or that come through a pipe."""

from __future__ import annotations

import io
import os
import select
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Protocol, TextIO, runtime_checkable


@runtime_checkable
class Lines(Protocol):
    """Where lines come from."""

    def read(self, prompt: str) -> str | None:
        """Return the next line without its end, or None when there are no more."""
        ...

    def ends_within(self, seconds: float, *, words: Collection[str]) -> bool:
        """Wait while nothing is asked; return, at once, whether the end comes or a line that is one of the words."""
        ...


def open_lines() -> Lines:
    """Return the lines of standard input."""
    return TerminalLines() if sys.stdin.isatty() else PipedLines(sys.stdin)


class TerminalLines:
    """Lines of a terminal, with editing and history where Python has readline.

    What is typed while nothing is asked answers nothing, and is dropped.
    """

    def __init__(self) -> None:
        with suppress(ImportError):
            import readline  # noqa: F401  (importing it gives `input` line editing)

    def read(self, prompt: str) -> str | None:
        """Return the next line; Ctrl-D is the end."""
        try:
            return input(prompt)
        except EOFError:
            return None

    def ends_within(self, seconds: float, *, words: Collection[str]) -> bool:
        """Wait for the Enter key or Ctrl-D."""
        if not select.select([sys.stdin], [], [], seconds)[0]:
            return False
        line = self.read("")
        return line is None or line.strip() in words


class PipedLines:
    """Lines of a pipe or a file, kept until they are asked for. What is no UTF-8 becomes replacement characters."""

    def __init__(self, stream: TextIO | io.TextIOBase) -> None:
        self._buffer, self._is_over = b"", False
        try:
            self._descriptor = stream.fileno()
        except io.UnsupportedOperation:  # text in memory
            self._descriptor, self._buffer, self._is_over = -1, stream.read().encode("utf-8", "replace"), True

    def read(self, prompt: str) -> str | None:
        """Return the next line; the last one needs no line end. The prompt is for terminals, and is not shown."""
        del prompt
        while not self._has_line(3600.0):
            pass
        if not self._buffer:
            return None
        line, self._buffer = self._next(), self._buffer.partition(b"\n")[2]
        return line

    def ends_within(self, seconds: float, *, words: Collection[str]) -> bool:
        """Look at the next line without using it up."""
        until_s = time.monotonic() + seconds
        if self._has_line(seconds) and (not self._buffer or self._next().strip() in words):
            return True
        time.sleep(max(until_s - time.monotonic(), 0.0))
        return False

    def _next(self) -> str:
        return self._buffer.partition(b"\n")[0].decode("utf-8", "replace").removesuffix("\r")

    def _has_line(self, wait_s: float) -> bool:
        """Wait for a whole line or the end of all."""
        until_s = time.monotonic() + wait_s
        while b"\n" not in self._buffer and not self._is_over:
            if not select.select([self._descriptor], [], [], max(until_s - time.monotonic(), 0.0))[0]:
                return False
            part = os.read(self._descriptor, 1 << 16)
            self._buffer, self._is_over = self._buffer + part, not part
        return True
