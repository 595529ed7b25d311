"""Ctrl-C that waits for what may not be cut in two.

Orbax saves in threads that wait for word of the main thread, ten minutes long. An exception that leaves the main thread
in the middle of a save leaves them waiting, and the process with them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold the first SIGINT that comes until the block has ended, then deliver it; a second one comes at once.

    Outside the main thread, where no signal is handled, and beside a handler that is not Python's this does nothing.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    is_held = False

    def hold(number: int, frame: Any) -> None:
        nonlocal is_held
        is_held = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if is_held:
            signal.raise_signal(signal.SIGINT)
