"""Seconds that JAX says it spent on compiling, or on reading compiled programs from disk."""

from __future__ import annotations

from types import TracebackType

import jax

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileSeconds:
    """Adds them up within a `with` block."""

    def __init__(self) -> None:
        """Start at zero."""
        self.total_s = 0.0

    def __enter__(self) -> CompileSeconds:
        """Begin to listen."""
        jax.monitoring.register_event_duration_secs_listener(self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        jax.monitoring.unregister_event_duration_listener(self._take)

    def _take(self, event: str, duration_secs: float, **_: object) -> None:
        if event == COMPILE_EVENT:
            self.total_s += duration_secs
