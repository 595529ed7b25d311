from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_mdp import Walker
from synthetic_trees import random_tree

from hierrouter_jax.routing.mdp import reset_all, reset_at
from hierrouter_jax.routing.rollout import PolicyStep, rollout, routes_of
from hierrouter_jax.routing.scores import score_routes


def any_legal_action(params, observation, *, key):
    """A policy whose value and log-probability betray what it saw and was given."""
    logits = jnp.where(observation.legal, 0.0, -jnp.inf)
    action = jax.random.categorical(key, logits).astype(jnp.int32)
    return PolicyStep(action=action, log_prob=-jnp.log(observation.legal.sum()), value=params + observation.cum_cost)


@partial(jax.jit, static_argnames="allow_stop")
def walk_all(params, tree, *, key, cost_weight, allow_stop=True):
    return rollout(
        any_legal_action, params, tree, reset_all(tree), key=key, cost_weight=cost_weight, allow_stop=allow_stop
    )


@pytest.mark.parametrize("allow_stop", [True, False])
@pytest.mark.parametrize(("num_models", "num_stages"), [(2, 3), (3, 2), (5, 1)])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**20), share_missing=st.sampled_from([0.0, 0.5]))
def test_trajectories_replay_in_the_plain_python_mdp(num_models, num_stages, allow_stop, seed, share_missing):
    tree = random_tree(seed, num_models=num_models, num_stages=num_stages, share_missing=share_missing)
    walked = walk_all(jnp.float32(17), tree, key=jax.random.key(seed), cost_weight=0.3, allow_stop=allow_stop)
    scores = score_routes(tree, routes_of(walked, num_models=num_models), cost_weight=0.3)
    walked = jax.tree.map(np.asarray, walked)
    assert walked.action.shape == (num_stages, tree.num_queries)
    for query in range(tree.num_queries):
        walker = Walker(tree, query, cost_weight=0.3, allow_stop=allow_stop)
        for time in range(num_stages):
            legal = walker.legal()
            assert walked.mask[time, query] == (not walker.is_done)
            assert set(np.flatnonzero(walked.observation.legal[time, query])) == legal
            np.testing.assert_array_equal(walked.observation.context[time, query], walker.context)
            np.testing.assert_allclose(walked.log_prob[time, query], -np.log(len(legal)), rtol=1e-6)
            np.testing.assert_allclose(walked.value[time, query], 17 + walker.cum_cost, rtol=1e-6)
            assert walked.state.query_index[time, query] == query
            reward, discount = walker.step(int(walked.action[time, query]))
            np.testing.assert_allclose(walked.reward[time, query], reward, rtol=1e-5, atol=1e-6)
            assert walked.discount[time, query] == discount
        assert walker.is_done
    np.testing.assert_allclose(scores.utility, walked.reward.sum(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        scores.num_hops, ((walked.action < num_models) & (walked.mask > 0)).sum(axis=0, dtype=np.int32)
    )


def test_rows_do_not_depend_on_the_batch_they_are_in():
    tree = random_tree(19, num_queries=11, num_stages=3)
    key = jax.random.key(23)

    @jax.jit
    def walk(rows):
        states = jax.vmap(reset_at)(rows)
        return rollout(any_legal_action, jnp.float32(0), tree, states, key=key, cost_weight=0.3, row_ids=rows).action

    whole = walk_all(jnp.float32(0), tree, key=key, cost_weight=0.3).action
    assert np.unique(whole[0]).size > 1
    for rows in (jnp.arange(4), jnp.arange(4, 11), jnp.asarray([7, 2])):
        np.testing.assert_array_equal(walk(rows), whole[:, rows])


def test_stages_and_keys_draw_anew():
    tree = random_tree(29, num_queries=101, num_stages=2)

    def walk(seed):
        key = jax.random.key(seed)
        return np.asarray(walk_all(jnp.float32(0), tree, key=key, cost_weight=0.0, allow_stop=False).action)

    first, second = walk(0), walk(1)
    for one, other in [(first[0], first[1]), (first[0], second[0])]:
        assert 0.15 < (one == other).mean() < 0.55  # independent uniform choices of three agree a third of the time
