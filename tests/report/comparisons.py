"""A comparison with made-up numbers, for the tests of tables, figures and pages."""

from __future__ import annotations

import numpy as np

from hierrouter_jax.evaluate.results import Comparison, Difference, SystemResult, TaskResult
from hierrouter_jax.evaluate.routes import ROUTE_ARROW

MODELS = ("small-135m", "middle-270m", "large-coder-0.5b")
TASKS = ("mmlu", "arc_challenge", "commonsenseqa", "mbpp", "humaneval", "gsm8k")


def made_up_comparison(seed=0, *, names=None):
    """Every kind of system; qualities and costs are close to each other, so that labels have to be placed with care."""
    rng = np.random.default_rng(seed)
    singles = {f"single/{model}": (0.2 + 0.1 * k, 0.2 + 0.4 * k, {model: 1.0}) for k, model in enumerate(MODELS)}
    mixed = {f"{a}{ROUTE_ARROW}{b}": 1.0 for a in MODELS for b in MODELS} | dict.fromkeys(MODELS, 1.0)
    places = {
        "router": (0.41, 0.62, mixed),
        **singles,
        "best_single": singles[f"single/{MODELS[2]}"],
        "random": (0.27, 0.9, mixed),
        "knn": (0.405, 0.63, mixed),
        "cascade": (0.39, 0.66, mixed),
        "oracle": (0.62, 0.5, mixed),
    }
    chosen = places if names is None else {name: places[name] for name in names}
    systems = {name: _system(rng, *place) for name, place in chosen.items()}
    return Comparison(num_queries=96, cost_weight=0.1, systems=systems, model_names=MODELS)


def _system(rng, quality, cost, routes):
    def shares():
        weights = rng.dirichlet([0.7] * len(routes))
        return {name: float(weight) for name, weight in zip(routes, weights, strict=True)}

    def task():
        return TaskResult(
            num_queries=16,
            quality=quality,
            quality_ci=(quality - 0.1, quality + 0.1),
            cost=cost,
            cost_ci=(0.9 * cost, 1.1 * cost),
            utility=quality - 0.1 * cost,
            hops=1.3,
            routes=shares(),
        )

    utility = quality - 0.1 * cost
    return SystemResult(
        quality=quality,
        quality_ci=(quality - 0.07, quality + 0.07),
        cost=cost,
        cost_ci=(0.9 * cost, 1.1 * cost),
        utility=utility,
        utility_ci=(utility - 0.07, utility + 0.07),
        hops=1.3,
        tasks={name: task() for name in TASKS},
        routes=shares(),
        versus_best_single=Difference(
            quality=0.01,
            quality_ci=(-0.02, 0.03),
            cost=-0.1,
            cost_ci=(-0.2, 0.0),
            utility=0.021,
            utility_ci=(-0.013, 0.05),
        ),
        gap_closed=0.23,
        gap_closed_ci=(-0.07, 0.41),
    )
