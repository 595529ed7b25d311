"""All baselines under the names that tables and result files use."""

from __future__ import annotations

from functools import partial
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Key

from hierrouter_jax.baselines.cascade import cascade_routes, scorer_cascade_routes
from hierrouter_jax.baselines.chance import random_routes
from hierrouter_jax.baselines.classifiers import one_shot_routes
from hierrouter_jax.baselines.fixed import best_fixed_routes, best_single_routes, best_task_routes, single_routes
from hierrouter_jax.baselines.nearest import knn_multi_hop_routes, knn_routes
from hierrouter_jax.baselines.value_regression import value_regression_routes
from hierrouter_jax.core.keys import stream_key
from hierrouter_jax.routing.mdp import check_cost_weight
from hierrouter_jax.routing.route_tree import RouteTree, check_same_pool, first_stages
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.routing.values import optimal_routes


@runtime_checkable
class Baseline(Protocol):
    """A baseline that is fitted: what it learns is learned on the first tree, what it chooses on `validation`."""

    def __call__(
        self, train_tree: RouteTree, tree: RouteTree, *, cost_weight: float, validation: RouteTree | None = None
    ) -> RouteBatch:
        """Return the routes on `tree`."""
        ...


def baseline_routes(
    train_tree: RouteTree,
    tree: RouteTree,
    *,
    cost_weight: float,
    key: Key[Array, ""],
    allow_stop: bool = True,
    validation: RouteTree | None = None,
) -> dict[str, RouteBatch]:
    """Return the routes of every baseline on `tree`; what is learned is learned on `train_tree`.

    Names: `single/<model>` for each model that answered every query of `tree`; `best_single` and `best_fixed_route`;
    `task_best_single` and `task_best_route`, which are told the task; `random`; `knn`, `knn_multi_hop`, `one_shot`,
    `value_regression`, `cascade` (on confidence) and `scorer_cascade`, whose numbers are chosen on `validation` where
    there is one; and `oracle/<n>` of the first n stages, `oracle` of all. The oracles see the outcomes they are scored
    on: they are bounds, not competitors. The fixed-length MDP (`allow_stop=False`) binds random, `knn_multi_hop`,
    `value_regression` and the oracles; the others are shorter in either. A cascade needs a tree with signals.

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
    routes["task_best_single"] = best_task_routes(train_tree, tree, cost_weight=cost_weight, num_hops=1)
    routes["task_best_route"] = best_task_routes(train_tree, tree, cost_weight=cost_weight)
    routes["random"] = random_routes(tree, key=stream_key(key, "random"), allow_stop=allow_stop)
    fitted = partial(_fitted, train_tree, tree, cost_weight, validation)
    routes["knn"] = fitted(knn_routes)
    is_multi_hop = tree.num_stages > 1  # otherwise the two are one
    routes["knn_multi_hop"] = (
        fitted(partial(knn_multi_hop_routes, allow_stop=allow_stop)) if is_multi_hop else routes["knn"]
    )
    routes["one_shot"] = fitted(one_shot_routes)
    routes["value_regression"] = fitted(partial(value_regression_routes, allow_stop=allow_stop))
    if tree.num_stages > 1 and tree.signals.shape[2]:
        routes["cascade"] = fitted(cascade_routes)
        routes["scorer_cascade"] = fitted(scorer_cascade_routes)
    for num_stages in range(1, tree.num_stages):
        routes[f"oracle/{num_stages}"] = _oracle_of_first(tree, num_stages, cost_weight)
    routes["oracle"] = optimal_routes(tree, cost_weight=cost_weight, allow_stop=allow_stop)
    return routes


def _fitted(
    train_tree: RouteTree, tree: RouteTree, cost_weight: float, validation: RouteTree | None, baseline: Baseline
) -> RouteBatch:
    return baseline(train_tree, tree, cost_weight=cost_weight, validation=validation)


def _oracle_of_first(tree: RouteTree, num_stages: int, cost_weight: float) -> RouteBatch:
    """Return the best routes of at most so many hops, as routes of the whole tree."""
    short = optimal_routes(first_stages(tree, num_stages), cost_weight=cost_weight).actions
    return RouteBatch(actions=jnp.pad(short, ((0, 0), (0, tree.num_stages - num_stages)), constant_values=tree.stop))
