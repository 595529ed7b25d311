"""All baselines under the names that tables and result files use."""

from __future__ import annotations

from jaxtyping import Array, Key

from hierrouter_jax.baselines.chance import random_routes
from hierrouter_jax.baselines.fixed import best_fixed_routes, best_single_routes, single_routes
from hierrouter_jax.core.keys import stream_key
from hierrouter_jax.routing.mdp import check_cost_weight
from hierrouter_jax.routing.route_tree import RouteTree, check_same_pool
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.routing.values import optimal_routes


def baseline_routes(
    train_tree: RouteTree, tree: RouteTree, *, cost_weight: float, key: Key[Array, ""], allow_stop: bool = True
) -> dict[str, RouteBatch]:
    """Return the routes of every baseline on `tree`; what is learned is learned on `train_tree`.

    Names: `single/<model>` for each model that answered every query of `tree`, `best_single`, `best_fixed_route`,
    `random` and `oracle`. The oracle sees the outcomes it is scored on: it is the bound, not a competitor. The
    fixed-length MDP (`allow_stop=False`) binds random and oracle; single models are one call each in either.

    Raises `DataError` when the trees are of different pools or hold no model in full, `ConfigError` for an
    impossible cost weight.
    """
    check_cost_weight(cost_weight)
    check_same_pool(train_tree, tree)
    routes = {
        f"single/{name}": single_routes(tree, model)
        for model, name in enumerate(tree.model_names)
        if tree.valid[:, 1 + model].all()
    }
    routes["best_single"] = best_single_routes(train_tree, tree, cost_weight=cost_weight)
    routes["best_fixed_route"] = best_fixed_routes(train_tree, tree, cost_weight=cost_weight)
    routes["random"] = random_routes(tree, key=stream_key(key, "random"), allow_stop=allow_stop)
    routes["oracle"] = optimal_routes(tree, cost_weight=cost_weight, allow_stop=allow_stop)
    return routes
