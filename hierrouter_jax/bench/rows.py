"""What a benchmark writes: rows of ours beside a peer, the machine they were measured on, a table, and JSON.

`ratio` is always how many times better ours is: peer / ours where the unit counts seconds or work (less is better),
ours / peer where it is a rate (more is better). Rows without a peer have neither peer nor ratio.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hierrouter_jax.core.errors import ConfigError

PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers", "llama-cpp-python")
RATE_SUFFIX = "/s"
IDLE_LOAD = 0.5  # processes a core that run while nothing is measured yet
Number = int | float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One measurement, ours beside the peer's, both in `unit`; `extra` holds runs, spread and what else belongs to it.

    `batch` is the number of rows generated (or queries routed) together, None where the benchmark has no such size.
    """

    what: str
    model: str
    batch: int | None
    ours: Number | None
    unit: str
    peer: Number | None = None
    peer_name: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a peer without a name: nobody could say what was compared."""
        if (self.peer is None) != (self.peer_name is None):
            raise ConfigError(
                f"A row has a peer's value and its name or neither, but {self.what!r} has {self.peer} of "
                f"{self.peer_name}; give both."
            )

    @property
    def ratio(self) -> float | None:
        """How many times faster (or, for counts, fewer) ours is; None where there is nothing to compare."""
        if self.peer is None or not self.ours:
            return None
        return self.ours / self.peer if self.unit.endswith(RATE_SUFFIX) else self.peer / self.ours

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON values, the extra fields beside the fixed ones."""
        fixed = ("what", "model", "batch", "ours", "peer", "peer_name", "ratio", "unit")
        return {name: getattr(self, name) for name in fixed} | self.extra


def medians_row(
    what: str,
    *,
    model: str,
    batch: int | None,
    ours: Sequence[float],
    peer: Sequence[float] = (),
    peer_name: str | None = None,
    unit: str = "s",
    extra: dict[str, Any] | None = None,
) -> BenchRow:
    """Return a row of medians, with every run and the spread (largest less smallest, of the median) beside them."""
    runs = {"ours_runs": list(ours), "ours_spread": spread(ours)}
    if peer:
        runs |= {"peer_runs": list(peer), "peer_spread": spread(peer)}
    return BenchRow(
        what=what,
        model=model,
        batch=batch,
        ours=statistics.median(ours),
        peer=statistics.median(peer) if peer else None,
        peer_name=peer_name if peer else None,
        unit=unit,
        extra=runs | (extra or {}),
    )


def spread(runs: Sequence[float]) -> float:
    """Return (largest - smallest) / median of positive measurements."""
    return (max(runs) - min(runs)) / statistics.median(runs)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: cores, processor, device, and versions of what computes."""
    import jax

    device = jax.devices()[0]
    return {
        "num_cores": os.cpu_count(),
        "cpu": _cpu_name(),
        "device_kind": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def busy_note(load_average: float) -> str | None:
    """Return what a reader must know when so many processes ran as the benchmark began; None on an idle machine."""
    if load_average <= IDLE_LOAD * (os.cpu_count() or 1):
        return None
    return (
        f"The machine was busy when this began (load {load_average:.1f} on {os.cpu_count()} cores). Threads that spin "
        "while they wait, as those of PyTorch and llama.cpp do, lose more by that than ours: measure on an idle one."
    )


def bench_json(rows: Sequence[BenchRow], **more: Any) -> dict[str, Any]:
    """Return what `--json` writes: rows, machine, and what the benchmark adds."""
    return {"rows": [row.as_json() for row in rows], "machine": machine(), **more}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
