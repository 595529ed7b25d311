"""The Pareto front of quality (more is better) against cost (less is better)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def pareto_mask(quality: Sequence[float], cost: Sequence[float]) -> Bool[np.ndarray, " system"]:
    """Return which systems no other one dominates.

    A system is dominated when another is at least as good in both and better in one. Equal systems do not dominate
    each other, so ties stay on the front.
    """
    gain = np.asarray(quality, dtype=np.float64)
    price = np.asarray(cost, dtype=np.float64)
    as_good = (gain[:, None] >= gain[None, :]) & (price[:, None] <= price[None, :])
    better = (gain[:, None] > gain[None, :]) | (price[:, None] < price[None, :])
    return ~np.any(as_good & better, axis=0)
