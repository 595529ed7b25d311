"""Routes as readers see them: names of models joined by arrows, and the share of queries that took each.

An action is a model's index; `num_models` is STOP, and what follows the first STOP is STOP (see `RouteBatch`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Integer

ROUTE_ARROW = " → "


def route_models(actions: Iterable[int], model_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the models a route asks, in order, up to its STOP."""
    names: list[str] = []
    for action in actions:
        if action == len(model_names):
            break
        names.append(model_names[action])
    return tuple(names)


def route_shares(actions: Integer[np.ndarray, "*shape stage"], model_names: Sequence[str]) -> dict[str, float]:
    """Return the share of queries that took each route, commonest first, ties by name."""
    actions = actions.reshape(-1, actions.shape[-1])
    counts = Counter(ROUTE_ARROW.join(route_models(row.tolist(), model_names)) for row in actions)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {route: count / len(actions) for route, count in ordered}
