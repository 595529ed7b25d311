import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_mdp import Walker
from synthetic_trees import random_tree

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.routing.scores import RouteBatch, score_routes

STOP = 3


def routes(*rows):
    return RouteBatch(actions=jnp.asarray(rows, jnp.int32))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), share_missing=st.sampled_from([0.0, 0.5]), cost_weight=st.floats(0, 2))
def test_scores_are_the_rewards_of_the_plain_python_mdp(seed, share_missing, cost_weight):
    tree = random_tree(seed, share_missing=share_missing, num_stages=3)
    rng = np.random.default_rng(seed)
    chosen, utilities, qualities, costs, hops = [], [], [], [], []
    for query in range(tree.num_queries):
        walker = Walker(tree, query, cost_weight=cost_weight, allow_stop=True)
        actions, rewards = [], []
        for _ in range(tree.num_stages):
            actions.append(int(rng.choice(sorted(walker.legal()))))
            rewards.append(walker.step(actions[-1])[0])
        chosen.append(actions)
        utilities.append(sum(rewards))
        qualities.append(walker.outcomes[walker.path][1])
        costs.append(walker.cum_cost)
        hops.append(len(walker.path))
    scores = score_routes(tree, routes(*chosen), cost_weight=jnp.float32(cost_weight))
    np.testing.assert_allclose(scores.utility, utilities, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores.quality, qualities, rtol=1e-6)
    np.testing.assert_allclose(scores.cost, costs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scores.num_hops, hops)


TREE = random_tree(47, num_queries=2)  # 3 models, 2 stages
PARTIAL = TREE.replace(valid=TREE.valid.at[1, 2].set(False).at[1, 7:10].set(False).at[1, 4].set(False))


@pytest.mark.parametrize(
    "impossible",
    [[STOP, STOP], [STOP, 0], [-1, STOP], [0, -1], [4, STOP], [2, 5], [0, 12], [1, STOP], [1, 2], [0, 0]],
    ids=str,
)
def test_impossible_routes_raise_and_are_nan_inside_jit(impossible):
    batch = routes([0, 1], impossible)
    with pytest.raises(DataError, match="1 routes do not, the first that of query 1"):
        score_routes(PARTIAL, batch, cost_weight=0.1)
    scores = jax.jit(score_routes)(PARTIAL, batch, cost_weight=0.1)
    for field in (scores.quality, scores.cost, scores.utility):
        assert np.isfinite(field[0])
        assert np.isnan(field[1])


@pytest.mark.parametrize("revived", [[0, STOP, 1], [1, STOP, 0]], ids=str)
def test_nothing_follows_a_stop(revived):
    tree = random_tree(53, num_queries=2, num_stages=3)
    with pytest.raises(DataError, match="only STOP after STOP"):
        score_routes(tree, routes([0, 1, 2], revived), cost_weight=0.1)
    assert np.isfinite(score_routes(tree, routes([0, 1, 2], [0, STOP, STOP]), cost_weight=0.1).utility).all()


def test_routes_of_another_tree_are_refused():
    with pytest.raises(DataError, match=r"shape \(2, 2\).*these have \(3, 2\)"):
        score_routes(TREE, routes([0, 1], [0, 1], [0, 1]), cost_weight=0.1)
    with pytest.raises(DataError, match=r"these have \(2, 1\)"):
        score_routes(TREE, routes([0], [0]), cost_weight=0.1)


@pytest.mark.parametrize("cost_weight", [-0.5, float("nan")])
def test_impossible_cost_weights_are_refused(cost_weight):
    with pytest.raises(ConfigError, match="cost_weight"):
        score_routes(TREE, routes([0, 1], [2, STOP]), cost_weight=cost_weight)


def test_utility_is_linear_in_a_vmapped_cost_weight():
    batch, weights = routes([0, 1], [2, STOP]), jnp.asarray([0.0, 0.5, 1.1])
    swept = jax.vmap(lambda weight: score_routes(TREE, batch, cost_weight=weight).utility)(weights)
    scores = score_routes(TREE, batch, cost_weight=0.0)
    np.testing.assert_allclose(swept, scores.quality[None] - weights[:, None] * scores.cost[None], rtol=1e-6)


def test_a_plain_number_is_a_cost_weight_inside_jit_too():
    batch = routes([0, 1], [2, STOP])
    inside = jax.jit(lambda one: score_routes(TREE, one, cost_weight=0.5).utility)(batch)
    np.testing.assert_allclose(inside, score_routes(TREE, batch, cost_weight=0.5).utility, rtol=1e-6)
    with pytest.raises(ConfigError, match="cost_weight"):
        jax.jit(lambda one: score_routes(TREE, one, cost_weight=-0.5).utility)(batch)
