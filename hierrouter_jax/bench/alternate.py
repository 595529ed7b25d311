"""Timing several sides of a comparison in turn, so that a machine that slows down slows all of them.

Each side runs once before anything is timed (compilation, caches, allocations), then the sides take turns: ours, peer,
ours, peer, and so on. Times are wall-clock seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class Alternated:
    """Seconds of every run by side, and what each side returned in its warm-up."""

    runs_s: dict[str, list[float]]
    outcomes: dict[str, Any]


def alternate(
    sides: Mapping[str, Callable[[], Any]],
    *,
    num_runs: int,
    description: str = "timing",
    clock: Callable[[], float] = time.perf_counter,
    is_quiet: bool = False,
) -> Alternated:
    """Run every side once untimed, then `num_runs` rounds of all sides in their order."""
    if num_runs < 1:
        raise ConfigError(f"runs must be >= 1, but is {num_runs}.")
    outcomes: dict[str, Any] = {}
    runs_s: dict[str, list[float]] = {name: [] for name in sides}
    with progress_bar(description, len(sides) * (num_runs + 1), is_quiet=is_quiet) as advance:
        for name, side in sides.items():
            outcomes[name] = side()
            advance(1)
        for _ in range(num_runs):
            for name, side in sides.items():
                began_s = clock()
                side()
                runs_s[name].append(clock() - began_s)
                advance(1)
    return Alternated(runs_s=runs_s, outcomes=outcomes)
