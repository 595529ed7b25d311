import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_mdp import Walker
from stepped_trees import observe_all, step_all
from synthetic_trees import random_tree

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.mdp import check_cost_weight, observe, reset, reset_all, reset_at, step

SHAPES = [(1, 2), (2, 3), (3, 2), (5, 1)]


@pytest.mark.parametrize("allow_stop", [True, False])
@pytest.mark.parametrize(("num_models", "num_stages"), SHAPES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**20), share_missing=st.sampled_from([0.0, 0.3, 0.7]), cost_weight=st.floats(0, 2))
def test_every_step_equals_the_plain_python_mdp(num_models, num_stages, allow_stop, seed, share_missing, cost_weight):
    tree = random_tree(seed, num_models=num_models, num_stages=num_stages, share_missing=share_missing)
    rng = np.random.default_rng(seed)
    walkers = [Walker(tree, q, cost_weight=cost_weight, allow_stop=allow_stop) for q in range(tree.num_queries)]
    states = reset_all(tree)
    for _ in range(num_stages + 2):  # two steps longer than any route: the end absorbs
        seen = observe_all(tree, states, allow_stop=allow_stop)
        legal = [walker.legal() for walker in walkers]
        assert [set(np.flatnonzero(row)) for row in np.asarray(seen.legal)] == legal
        np.testing.assert_array_equal(seen.context, [walker.context for walker in walkers])
        np.testing.assert_array_equal(seen.stage, [len(walker.path) for walker in walkers])
        np.testing.assert_allclose(seen.cum_cost, [walker.cum_cost for walker in walkers], rtol=1e-5)

        actions = np.asarray([rng.choice(sorted(choices)) for choices in legal], np.int32)
        states, rewards, discounts = step_all(
            tree, states, actions, cost_weight=jnp.float32(cost_weight), allow_stop=allow_stop
        )
        expected = [walker.step(action) for walker, action in zip(walkers, actions, strict=True)]
        np.testing.assert_allclose(rewards, [reward for reward, _ in expected], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(discounts, [discount for _, discount in expected])
        np.testing.assert_array_equal(states.is_done, [walker.is_done for walker in walkers])
    assert states.is_done.all()


@pytest.mark.parametrize(
    ("actions", "allow_stop"),
    [([3], True), ([0, 3], False), ([-1], True), ([4], True), ([1, 7], True)],
    ids=["stop at once", "stop with a fixed length", "negative", "beyond stop", "beyond stop later"],
)
def test_illegal_actions_end_the_route_with_reward_nan(actions, allow_stop):
    tree, state = random_tree(2), reset_at(3)
    for action in actions[:-1]:
        state, reward, discount = step(tree, state, action, cost_weight=0.5, allow_stop=allow_stop)
        assert np.isfinite(reward)
        assert discount == 1
    state, reward, discount = step(tree, state, actions[-1], cost_weight=0.5, allow_stop=allow_stop)
    assert np.isnan(reward)
    assert discount == 0
    assert state.is_done
    assert state.stage == len(actions) - 1
    assert step(tree, state, 0, cost_weight=0.5)[1] == 0  # nothing follows


def test_a_model_whose_answer_was_not_collected_is_illegal():
    tree = random_tree(2)
    tree = tree.replace(valid=tree.valid.at[3, 2].set(False).at[3, 7:10].set(False))
    assert observe(tree, reset_at(3)).legal.tolist() == [True, False, True, False]
    assert np.isnan(step(tree, reset_at(3), 1, cost_weight=0.5)[1])


def test_reset_draws_every_query_equally_often():
    tree = random_tree(2)
    keys = jax.random.split(jax.random.key(13), 7000)
    drawn = jax.vmap(lambda key: reset(tree, key=key))(keys)
    counts = np.bincount(drawn.query_index, minlength=7)
    assert counts.shape == (7,)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000 * 6 / 7)
    assert not drawn.is_done.any()
    assert not drawn.stage.any()


def test_cost_weights_vmap_and_do_not_retrace():
    tree, num_traces = random_tree(2), 0

    @jax.jit
    def first_reward(cost_weight):
        nonlocal num_traces
        num_traces += 1
        return step(tree, reset_at(3), 1, cost_weight=cost_weight)[1]

    weights = jnp.asarray([0.0, 0.3, 1.7])
    rewards = [first_reward(weight) for weight in weights]
    assert num_traces == 1
    np.testing.assert_allclose(rewards, -weights * tree.step_cost[3, 2], rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(first_reward)(weights), rewards, rtol=1e-6)


@pytest.mark.parametrize("cost_weight", [-0.1, float("nan"), float("inf")])
def test_impossible_cost_weights_are_refused(cost_weight):
    with pytest.raises(ConfigError, match="finite and >= 0"):
        check_cost_weight(cost_weight)
    assert check_cost_weight(0.25) == 0.25
