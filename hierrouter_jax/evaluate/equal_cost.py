"""Quality at equal cost: a family of routers, one a cost weight, held against a system at that system's own cost.

Routers and baselines rarely cost the same, and either quality or cost alone says nothing. So the family is given the
system's cost as a budget. Where the best that a budget buys lies between two routers, every question is sent to one of
them at random: the best policy under a bound on its mean cost draws between two that need no draw (Altman 1999,
Constrained Markov Decision Processes). Which two, and how often each, is read off the validation split; on the split
that is scored the two costs then need not be quite equal, and both are shown.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig
from hierrouter_jax.evaluate.comparison import difference
from hierrouter_jax.evaluate.results import Difference
from hierrouter_jax.evaluate.route_outcomes import RouteOutcomes


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Two routers of a family, by their cost weights, and the share of questions that go to the dearer."""

    cheap: float
    dear: float  # the same where one router serves all
    dear_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EqualCost:
    """The router at a system's cost. `difference` is router minus system, paired by query."""

    mixture: Mixture
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
    """Return the mixture of routers that `within_budget` picks, against the system.

    `validation` and `scored` hold the routers' outcomes by cost weight; a mixture's outcome on a query is the mean over
    the draw. Raises `DataError` when they hold different cost weights, or none.
    """
    if not validation or set(validation) != set(scored):
        raise DataError(
            "A router is compared at equal cost over the same cost weights on both splits, at least one, but they "
            f"are {sorted(validation)} and {sorted(scored)}."
        )
    mixture = within_budget(validation, system_validation.mean(system_validation.cost))
    router = mixed(scored[mixture.cheap], scored[mixture.dear], mixture.dear_share)
    return EqualCost(
        mixture=mixture,
        quality=router.mean(router.quality),
        cost=router.mean(router.cost),
        system_quality=system_scored.mean(system_scored.quality),
        system_cost=system_scored.mean(system_scored.cost),
        difference=difference(router, system_scored, BootstrapConfig() if bootstrap is None else bootstrap),
    )


def within_budget(outcomes: Mapping[float, RouteOutcomes], budget: float) -> Mixture:
    """Return the router, or the mixture of two, of the best mean quality among those whose mean cost is in the budget.

    Of equal qualities the cheaper; where every router costs more, the cheapest.
    """
    means = {weight: (one.mean(one.quality), one.mean(one.cost)) for weight, one in outcomes.items()}
    found: list[tuple[float, float, Mixture]] = []  # quality, -cost
    for weight, (quality, cost) in means.items():
        if cost <= budget:
            found.append((quality, -cost, Mixture(cheap=weight, dear=weight)))
    for cheap, dear in itertools.permutations(means, 2):
        (low_quality, low), (high_quality, high) = means[cheap], means[dear]
        if low <= budget < high:
            share = (budget - low) / (high - low)
            quality = low_quality + share * (high_quality - low_quality)
            found.append((quality, -budget, Mixture(cheap=cheap, dear=dear, dear_share=share)))
    if not found:
        cheapest = min(means, key=lambda weight: means[weight][1])
        return Mixture(cheap=cheapest, dear=cheapest)
    return max(found, key=lambda one: one[:2])[2]


def mixed(cheap: RouteOutcomes, dear: RouteOutcomes, dear_share: float) -> RouteOutcomes:
    """Return what each query comes to in the mean when a share of all draws goes to `dear`; both routers' actions."""

    def mean(name: str) -> np.ndarray:
        return (1 - dear_share) * getattr(cheap, name) + dear_share * getattr(dear, name)

    return dataclasses.replace(
        cheap,
        actions=np.concatenate([cheap.actions, dear.actions]),
        **{name: mean(name) for name in ("quality", "cost", "utility", "num_hops")},
    )
