"""The Gymnasium environments, step by step against the array MDP, and by Gymnasium's own checker."""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stepped_trees import observe_all, step_all
from synthetic_trees import random_tree

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.mdp import reset_at

pytest.importorskip("gymnasium", reason="gymnasium is in the extra [gym], which [test] includes")

from hierrouter_jax.routing.gymnasium_env import ILLEGAL_REWARD, RouteWalkers, RoutingEnv


@pytest.mark.parametrize("allow_stop", [True, False])
@pytest.mark.parametrize(("num_models", "num_stages"), [(1, 2), (2, 3), (3, 2), (5, 1)])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**20), share_missing=st.sampled_from([0.0, 0.3, 0.7]), cost_weight=st.floats(0, 2))
def test_every_step_equals_the_array_mdp(num_models, num_stages, allow_stop, seed, share_missing, cost_weight):
    tree = random_tree(seed, num_models=num_models, num_stages=num_stages, dim=5, share_missing=share_missing)
    rng = np.random.default_rng(seed)
    walkers = RouteWalkers(tree, 11, cost_weight=cost_weight, allow_stop=allow_stop)
    queries = rng.integers(tree.num_queries, size=11)
    walkers.reset(np.arange(11), queries)
    states, is_done = jax.vmap(reset_at)(jnp.asarray(queries)), np.zeros(11, bool)
    for _ in range(num_stages):
        seen, given = observe_all(tree, states, allow_stop=allow_stop), walkers.observe()
        going = ~is_done
        np.testing.assert_array_equal(walkers.legal()[going], np.asarray(seen.legal)[going])
        np.testing.assert_array_equal(given[going, :5], np.asarray(seen.context)[going])
        np.testing.assert_array_equal(given[going, 5:-1].argmax(axis=1), np.asarray(seen.stage)[going])
        np.testing.assert_array_equal(given[:, 5:-1].sum(axis=1), np.ones(11))
        np.testing.assert_array_equal(given[going, -1], np.asarray(seen.cum_cost)[going])
        actions = np.asarray([rng.choice(np.flatnonzero(row)) for row in np.asarray(seen.legal)])
        states, rewards, discounts = step_all(
            tree, states, jnp.asarray(actions, jnp.int32), cost_weight=jnp.float32(cost_weight), allow_stop=allow_stop
        )
        own_rewards, is_end = walkers.step(np.where(going, actions, tree.stop))
        np.testing.assert_allclose(own_rewards[going], np.asarray(rewards)[going], rtol=1e-6, atol=1e-6)
        is_done |= is_end
        np.testing.assert_array_equal(is_done, np.asarray(discounts) == 0)
        np.testing.assert_array_equal(is_done, states.is_done)
    assert is_done.all()


def test_gymnasium_accepts_the_environment():
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it dislikes unbounded boxes, which embeddings live in
        check_env(RoutingEnv(random_tree(3, share_missing=0.3), cost_weight=0.1), skip_render_check=True)


def test_an_episode_is_one_route_and_its_return_the_utility():
    tree = random_tree(5, num_queries=13, num_models=3, num_stages=2)
    env = RoutingEnv(tree, cost_weight=0.3)
    _, info = env.reset(options={"query_index": 7})
    assert info["query_index"] == 7
    assert info["action_mask"].tolist() == [True, True, True, False] == env.action_masks().tolist()
    _, first, is_end, is_truncated, info = env.step(2)
    assert (is_end, is_truncated, info["action_mask"].tolist()) == (False, False, [True] * 4)
    _, second, is_end, _, _ = env.step(3)
    assert is_end
    assert first + second == pytest.approx(float(tree.quality[7, 3] - 0.3 * tree.step_cost[7, 3]), abs=1e-6)


def test_queries_are_drawn_by_the_seed_and_all_of_them():
    env = RoutingEnv(random_tree(5, num_queries=13), cost_weight=0.3)
    drawn = [env.reset(seed=17)[1]["query_index"] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert {env.reset()[1]["query_index"] for _ in range(400)} == set(range(13))


@pytest.mark.parametrize(("actions", "allow_stop"), [([3], True), ([0, 3], False), ([-1], True), ([4], True)])
def test_illegal_actions_end_the_route_with_the_penalty(actions, allow_stop):
    env = RoutingEnv(random_tree(2), cost_weight=0.5, allow_stop=allow_stop)
    env.reset(options={"query_index": 3})
    for action in actions[:-1]:
        assert not env.step(action)[2]
    _, reward, is_end, _, _ = env.step(actions[-1])
    assert is_end
    assert reward == ILLEGAL_REWARD


def test_bad_input_is_refused():
    tree = random_tree(2)
    with pytest.raises(ConfigError, match="cost_weight"):
        RoutingEnv(tree, cost_weight=-0.1)
    with pytest.raises(ConfigError, match="num_routes"):
        RouteWalkers(tree, 0, cost_weight=0.1)
    with pytest.raises(ConfigError, match=r"query_index must be in \[0, 7\), but is 7"):
        RoutingEnv(tree, cost_weight=0.1).reset(options={"query_index": 7})


def test_without_gymnasium_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "hierrouter_jax.routing.gymnasium_env")
    with pytest.raises(ConfigError, match=r"pip install 'hierrouter_jax\[gym\]'"):
        __import__("hierrouter_jax.routing.gymnasium_env")
