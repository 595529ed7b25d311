import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_mdp import Walker
from synthetic_routers import random_params
from synthetic_trees import random_tree

from hierrouter_jax.agent.distributions import masked_probs
from hierrouter_jax.agent.networks import RouterNetConfig, apply_router
from hierrouter_jax.agent.router import (
    Router,
    asked_for,
    greedy_routes,
    live_legal,
    next_action,
    sampled_routes,
    stage_probabilities,
)
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.routing.mdp import observe, reset_at
from hierrouter_jax.routing.scores import score_routes

SEED = 6  # of many, one whose greedy routes differ among queries
CONFIG = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=5)


def make_router(tree, *, allow_stop=True):
    """A router with strong opinions."""
    params = random_params(
        CONFIG,
        context_dim=tree.context.shape[1],
        num_models=tree.num_models,
        num_stages=tree.num_stages,
        seed=SEED,
        head_gain=3.0,
    )
    return Router(
        params=params,
        config=CONFIG,
        model_names=tree.model_names,
        num_stages=tree.num_stages,
        allow_stop=allow_stop,
        encoder_digest="encoder",
        pool_digest="pool",
    )


@pytest.mark.parametrize("allow_stop", [True, False])
@pytest.mark.parametrize("share_missing", [0.0, 0.5])
def test_greedy_routes_and_probabilities_are_single_decisions_in_the_plain_python_mdp(allow_stop, share_missing):
    tree = random_tree(3, num_queries=23, num_stages=3, share_missing=share_missing)
    router = make_router(tree, allow_stop=allow_stop)
    routes = np.asarray(greedy_routes(router.params, tree, allow_stop=allow_stop).actions)
    probabilities = np.asarray(stage_probabilities(router.params, tree, allow_stop=allow_stop))
    assert len(np.unique(routes[:, 0])) > 1  # the router tells queries apart
    assert (routes == 3).any() == (allow_stop or share_missing > 0)  # and stops some of them before the last stage
    for query in range(tree.num_queries):
        walker = Walker(tree, query, cost_weight=0.0, allow_stop=allow_stop)
        for stage in range(tree.num_stages):
            legal = np.isin(np.arange(4), list(walker.legal()))
            hops = min(stage, len(walker.path))
            action, expected = next_action(router, walker.context, hops, walker.cum_cost, legal)
            assert routes[query, stage] == action
            np.testing.assert_allclose(probabilities[query, stage], expected, atol=1e-5)
            assert expected[action] == expected.max()
            assert (expected[~legal] == 0).all()
            np.testing.assert_allclose(expected.sum(), 1, rtol=1e-5)
            walker.step(action)
    score_routes(tree, greedy_routes(router.params, tree, allow_stop=allow_stop), cost_weight=0.1)


def test_sampled_routes_follow_the_probabilities():
    tree = random_tree(5, num_queries=1)
    router = make_router(tree)
    keys = jax.random.split(jax.random.key(7), 4000)
    drawn = jax.vmap(lambda key: sampled_routes(router.params, tree, key=key).actions[0])(keys)
    seen = observe(tree, reset_at(0))
    expected = masked_probs(apply_router(router.params, seen).logits, seen.legal)
    frequencies = np.bincount(drawn[:, 0], minlength=4) / len(keys)
    np.testing.assert_allclose(frequencies, expected, atol=5 * 0.5 / np.sqrt(len(keys)))
    assert (expected[:3] > 0.01).sum() > 1  # not a certainty
    np.testing.assert_array_equal(
        sampled_routes(router.params, tree, key=keys[0]).actions,
        sampled_routes(router.params, tree, key=keys[0]).actions,
    )


def test_live_queries_may_ask_until_the_last_stage_and_stop_after_the_first():
    tree = random_tree(3)
    free, fixed = make_router(tree), make_router(tree, allow_stop=False)
    assert [live_legal(free, stage).tolist() for stage in range(3)] == [
        [True, True, True, False],
        [True, True, True, True],
        [False, False, False, True],
    ]
    assert [live_legal(fixed, stage)[-1] for stage in range(3)] == [False, False, True]


def test_a_decision_without_choice_is_refused():
    tree = random_tree(3)
    with pytest.raises(DataError, match="none is legal"):
        next_action(make_router(tree), tree.context[0], 0, 0.0, np.zeros(4, bool))


def test_routes_of_new_weights_do_not_retrace():
    tree = random_tree(3)
    router = make_router(tree)
    first = greedy_routes(router.params, tree)
    size = greedy_routes._cache_size()
    other = greedy_routes(jax.tree.map(jnp.negative, router.params), tree)
    assert greedy_routes._cache_size() == size
    assert (first.actions != other.actions).any()


def test_a_conditioned_router_routes_by_the_cost_weight_asked_of_it():
    """In the tree and live alike; one that was trained for a single trade-off refuses to be asked."""
    tree = random_tree(3, num_queries=23, num_stages=2)
    plain = make_router(tree)
    config = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=5, is_conditioned=True)
    params = random_params(config, context_dim=5, num_stages=2, seed=4, head_gain=3.0)  # one that minds the price
    conditioned = plain.replace(params=params, config=config)
    routes = {weight: np.asarray(greedy_routes(params, tree, cost_weight=weight).actions) for weight in (0.0, 0.1, 3.0)}
    assert any((routes[0.0] != routes[weight]).any() for weight in (0.1, 3.0))
    legal = np.asarray([True, True, True, False])
    for weight, expected in routes.items():
        asked = conditioned.replace(cost_weight=weight)
        first = [
            next_action(asked, Walker(tree, q, cost_weight=0.0, allow_stop=True).context, 0, 0.0, legal)
            for q in range(23)
        ]
        np.testing.assert_array_equal([action for action, _ in first], expected[:, 0])
        seen = stage_probabilities(params, tree, cost_weight=weight)
        np.testing.assert_allclose(seen[:, 0], [probabilities for _, probabilities in first], atol=1e-5)
    with pytest.raises(ConfigError, match="conditioned"):
        greedy_routes(plain.params, tree, cost_weight=0.1)
    with pytest.raises(ConfigError, match="conditioned"):
        next_action(plain.replace(cost_weight=0.1), tree.context[0], 0, 0.0, legal)
    assert asked_for(conditioned, 0.1).cost_weight == 0.1
    assert asked_for(plain, None) is plain
    for router, cost_weight in ((plain, 0.1), (conditioned, -0.1)):
        with pytest.raises(ConfigError, match="cost_weight"):
            asked_for(router, cost_weight)
