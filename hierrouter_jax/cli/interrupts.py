"""Ctrl-C that is not lost: an interrupt at a moment when Python drops exceptions is delivered again.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. In a destructor or in a callback of the
garbage collector, and JAX has one, an exception goes nowhere: the command would go on as if nobody had pressed a key.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

AGAIN_AFTER_S = 0.05  # by then the callback has returned


def keep_interrupts() -> None:
    """From now on, deliver a dropped interrupt of this process again; whatever else is dropped is told as before."""
    following = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            following(unraisable)
            return
        again = threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), signal.SIGINT))  # wakes a sleep too
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
