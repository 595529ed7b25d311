"""What a run may spend, and what it has spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hierrouter_jax.core.errors import ConfigError

COST_DIGITS = 9  # behind the point, that are counted


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Answers received, refused ones included, and their cost."""

    num_calls: int = 0
    cost: float = 0.0

    def plus(self, cost: float) -> Spent:
        """Return what is spent after one more answer; whatever the order of answers, their sum is the same number."""
        total = round(self.cost + round(cost, COST_DIGITS), COST_DIGITS)
        return Spent(num_calls=self.num_calls + 1, cost=total)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of a run: answers and cost over all its sessions, wall time of this one. None is no limit.

    The answers that are under way together may go beyond the limit of cost, never beyond that of calls.
    """

    max_calls: int | None = None
    max_cost: float | None = None
    max_wall_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that allow nothing."""
        for name in ("max_calls", "max_cost", "max_wall_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be > 0 or absent, but is {value}.")

    def exceeded(self, spent: Spent, wall_s: float) -> str:
        """Return which limit is reached, in words, or nothing."""
        if self.max_calls is not None and spent.num_calls >= self.max_calls:
            return f"{spent.num_calls} of {self.max_calls} calls are spent"
        if self.max_cost is not None and spent.cost >= self.max_cost:
            return f"a cost of {spent.cost:.3f} of {self.max_cost:g} is spent"
        if self.max_wall_s is not None and wall_s >= self.max_wall_s:
            return f"{wall_s:.0f} of {self.max_wall_s:g} seconds are gone"
        return ""

    def calls_left(self, spent: Spent, at_most: int) -> int:
        """Return how many calls may be made at once."""
        return at_most if self.max_calls is None else min(at_most, self.max_calls - spent.num_calls)
