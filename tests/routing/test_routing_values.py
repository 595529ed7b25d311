from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_mdp import all_returns, outcomes_of
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.routing.route_tree import node_of_path
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_actions, optimal_routes, optimal_values


@partial(jax.jit, static_argnames="allow_stop")
def solve(tree, *, cost_weight, allow_stop=True):
    routes = optimal_routes(tree, cost_weight=cost_weight, allow_stop=allow_stop)
    return (
        optimal_values(tree, cost_weight=cost_weight, allow_stop=allow_stop),
        optimal_actions(tree, cost_weight=cost_weight, allow_stop=allow_stop),
        routes,
        score_routes(tree, routes, cost_weight=cost_weight),
    )


@pytest.mark.parametrize("allow_stop", [True, False])
@pytest.mark.parametrize(("num_models", "num_stages"), [(1, 3), (2, 3), (3, 2), (5, 1)])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**20), share_missing=st.sampled_from([0.0, 0.5]), cost_weight=st.floats(0, 2))
def test_values_and_routes_equal_enumeration_of_every_route(
    num_models, num_stages, allow_stop, seed, share_missing, cost_weight
):
    tree = random_tree(seed, num_queries=5, num_models=num_models, num_stages=num_stages, share_missing=share_missing)
    solution = solve(tree, cost_weight=jnp.float32(cost_weight), allow_stop=allow_stop)
    values, actions, _, scores = jax.tree.map(np.asarray, solution)
    np.testing.assert_allclose(scores.utility, values[:, 0], atol=1e-5)
    for query in range(tree.num_queries):
        outcomes = outcomes_of(tree, query)
        nodes = {node_of_path(num_models, path): path for path in outcomes}
        for node in range(tree.num_nodes):
            if node not in nodes:
                assert values[query, node] == -np.inf
                assert actions[query, node] == num_models
                continue
            routes_on = all_returns(outcomes, num_models, nodes[node], cost_weight=cost_weight, allow_stop=allow_stop)
            earned, _, models = max(routes_on)
            np.testing.assert_allclose(values[query, node], earned, atol=1e-5)
            gap = earned - max([other[0] for other in routes_on if other[2][:1] != models[:1]], default=-np.inf)
            if gap > 1e-5:  # the best first action is unique
                assert actions[query, node] == (models[0] if models else num_models)


def test_fixed_length_never_beats_stopping():
    tree = random_tree(31, num_queries=53, num_stages=3)
    free, fixed = (solve(tree, cost_weight=0.2, allow_stop=allow)[0][:, 0] for allow in (True, False))
    assert (free >= fixed).all()
    assert (free > fixed).any()


def test_equally_good_routes_are_decided_by_cost():
    tree = context_dependent_tree(num_queries=30)
    coarse = tree.replace(quality=jnp.round(random_tree(37, num_queries=30).quality * 2) / 2)
    for some in (tree, coarse):
        scores = jax.tree.map(np.asarray, solve(some, cost_weight=jnp.float32(0))[3])
        for query in range(some.num_queries):
            every = all_returns(outcomes_of(some, query), 3, (), cost_weight=0.0, allow_stop=True)
            best = max(earned for earned, _, _ in every)
            assert scores.quality[query] == best
            cheapest = min(paid for earned, paid, _ in every if earned == best)
            np.testing.assert_allclose(scores.cost[query], cheapest, rtol=1e-6)


def test_stopping_wins_a_complete_tie():
    tree = random_tree(41)
    tree = tree.replace(quality=jnp.full_like(tree.quality, 0.5), step_cost=jnp.zeros_like(tree.step_cost))
    routes = solve(tree, cost_weight=0.7)[2]
    np.testing.assert_array_equal(routes.actions, np.tile([0, 3], (7, 1)))


def test_values_vmap_over_cost_weights_without_retracing():
    tree, num_traces = random_tree(43), 0

    @jax.jit
    def root_values(cost_weight):
        nonlocal num_traces
        num_traces += 1
        return optimal_values(tree, cost_weight=cost_weight)[:, 0]

    weights = jnp.asarray([0.0, 0.4, 1.3])
    apart = jnp.stack([root_values(weight) for weight in weights])
    assert num_traces == 1
    np.testing.assert_allclose(jax.vmap(root_values)(weights), apart, rtol=1e-6)
    assert (jnp.diff(apart, axis=0) <= 0).all()  # dearer calls never make a query more valuable
