"""Files that come with the package: the real tree and the pool it was made with.

In a source checkout they lie in `experiments/`; an installed package has copies under `share/hierrouter_jax/` of the
environment (`data_files` in setup.cfg).
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from hierrouter_jax.core.errors import DataError

SMALL_TREE = Path("trees/small.npz")
SMALL_POOL = Path("pools/small.toml")


def packaged_file(name: Path) -> Path:
    """Return where the packaged file lies; `DataError` naming the places looked at when it is in none."""
    places = [folder / name for folder in _folders()]
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        f"The packaged file {name} must be in a checkout or an installation, but is at none of: "
        f"{', '.join(map(str, places))}. Give a path of your own instead, or install the package again."
    )


def _folders() -> tuple[Path, ...]:
    checkout = Path(__file__).resolve().parents[2] / "experiments"
    return checkout, Path(sysconfig.get_path("data")) / "share" / "hierrouter_jax"
