"""Quality at equal cost: a family of routers, one a cost weight, held against a system at that system's own cost.

Routers and baselines rarely cost the same, and either quality or cost alone says nothing. So the router is given the
system's cost as a budget: of its cost weights, the one of the best quality whose cost stays within it. Both are read
off the validation split; on the split that is scored, the two costs then need not be quite equal, and both are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig
from hierrouter_jax.evaluate.comparison import difference
from hierrouter_jax.evaluate.results import Difference
from hierrouter_jax.evaluate.route_outcomes import RouteOutcomes


@dataclass(frozen=True, kw_only=True)
class EqualCost:
    """The router at a system's cost. `difference` is router minus system, paired by query."""

    cost_weight: float  # the router's
    quality: float
    cost: float
    system_quality: float
    system_cost: float
    difference: Difference


def at_equal_cost(
    validation: Mapping[float, RouteOutcomes],
    scored: Mapping[float, RouteOutcomes],
    *,
    system_validation: RouteOutcomes,
    system_scored: RouteOutcomes,
    bootstrap: BootstrapConfig | None = None,
) -> EqualCost:
    """Return the router of the cost weight that `within_budget` picks, against the system.

    `validation` and `scored` hold the router's outcomes by cost weight. Raises `DataError` when they hold different
    cost weights, or none.
    """
    if not validation or set(validation) != set(scored):
        raise DataError(
            "A router is compared at equal cost over the same cost weights on both splits, at least one, but they "
            f"are {sorted(validation)} and {sorted(scored)}."
        )
    chosen = within_budget(validation, system_validation.mean(system_validation.cost))
    router = scored[chosen]
    return EqualCost(
        cost_weight=chosen,
        quality=router.mean(router.quality),
        cost=router.mean(router.cost),
        system_quality=system_scored.mean(system_scored.quality),
        system_cost=system_scored.mean(system_scored.cost),
        difference=difference(router, system_scored, BootstrapConfig() if bootstrap is None else bootstrap),
    )


def within_budget(outcomes: Mapping[float, RouteOutcomes], budget: float) -> float:
    """Return the cost weight of the best mean quality among those that cost at most `budget`.

    Of equal qualities the cheaper; where all cost more, the cheapest.
    """
    means = {weight: (one.mean(one.quality), one.mean(one.cost)) for weight, one in outcomes.items()}
    affordable = [weight for weight, (_, cost) in means.items() if cost <= budget]
    if not affordable:
        return min(means, key=lambda weight: means[weight][1])
    return max(affordable, key=lambda weight: (means[weight][0], -means[weight][1]))
