"""The exact learner against every route of every query, walked one by one."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_mdp import Walker
from synthetic_routers import random_params
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.agent.networks import RouterNetConfig, apply_router
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.routing.decision_states import observe_decision_states
from hierrouter_jax.routing.mdp import Observation
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_values, policy_values
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.exact import exact_loss
from hierrouter_jax.train.full_information import make_full_information_update
from hierrouter_jax.train.make_train import init_train_state, input_sizes, make_environment, make_train
from hierrouter_jax.train.optimizer import make_optimizer

TREE = random_tree(1, num_queries=5, share_missing=0.2)
COST_WEIGHT = 0.3
NO_EXTRAS = PPOConfig(value_coefficient=0.0, entropy_coefficient=0.0)


def walk_routes(tree, params, *, allow_stop=True):
    """Yield (query, path of actions, log p of each, utility) of every route; log p are JAX numbers of `params`."""
    for query in range(tree.num_queries):
        for actions in itertools.product(range(tree.num_models + 1), repeat=tree.num_stages):
            walker = Walker(tree, query, cost_weight=COST_WEIGHT, allow_stop=allow_stop)
            log_probs, utility = [], 0.0
            for action in actions:
                if walker.is_done:
                    break
                legal = walker.legal()
                if action not in legal:
                    log_probs = None
                    break
                seen = Observation(
                    context=jnp.asarray(walker.context),
                    signals=jnp.zeros(0),
                    stage=jnp.asarray(len(walker.path)),
                    cum_cost=jnp.asarray(walker.cum_cost, jnp.float32),
                    legal=jnp.asarray([one in legal for one in range(tree.num_models + 1)]),
                )
                logits = jnp.where(seen.legal, apply_router(params, seen).logits, -jnp.inf)
                log_probs.append(jax.nn.log_softmax(logits)[action])
                utility += walker.step(action)[0]
            is_first_of_its_kind = log_probs is not None and all(
                action == tree.num_models for action in actions[len(log_probs) :]
            )
            if is_first_of_its_kind:
                yield query, actions, log_probs, utility


def mean_utility_by_routes(params, tree, allow_stop=True):
    total = 0.0
    for _, _, log_probs, utility in walk_routes(tree, params, allow_stop=allow_stop):
        total += jnp.exp(sum(log_probs)) * utility
    return total / tree.num_queries


@pytest.mark.parametrize("allow_stop", [True, False])
def test_the_gradient_is_that_of_the_mean_utility_over_all_routes(allow_stop):
    params = random_params(head_gain=2.0)
    prices = jnp.full(5, COST_WEIGHT)
    gradient, metrics = jax.grad(exact_loss, has_aux=True)(
        params, TREE, prices, config=NO_EXTRAS, allow_stop=allow_stop
    )
    expected = jax.grad(mean_utility_by_routes)(params, TREE, allow_stop)
    ratios = [
        np.asarray(ours)[np.abs(theirs) > 1e-4] / np.asarray(theirs)[np.abs(theirs) > 1e-4]
        for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True)
    ]
    ratios = np.concatenate([ratio.ravel() for ratio in ratios])
    assert ratios.size > 50
    # One positive factor for all weights: the number of queries over that of decisions, over the advantages' spread.
    assert ratios.max() < 0
    np.testing.assert_allclose(ratios, np.median(ratios), rtol=2e-3)
    np.testing.assert_allclose(metrics.utility, mean_utility_by_routes(params, TREE, allow_stop), rtol=1e-5)


def test_values_reach_and_metrics_by_routes():
    params = random_params(head_gain=2.0)
    seen = observe_decision_states(TREE)
    legal = np.asarray(seen.legal).reshape(5, 4, 4)
    logits = np.asarray(jax.vmap(lambda one: apply_router(params, one).logits)(seen)).reshape(5, 4, 4)
    weights = np.where(legal, np.exp(logits), 0)
    chances = weights / weights.sum(axis=2, keepdims=True)
    values = policy_values(TREE, jnp.asarray(chances), cost_weight=COST_WEIGHT)
    quality, cost, hops, reach, earned = (np.zeros(5), np.zeros(5), np.zeros(5), np.zeros((5, 4)), np.zeros(5))
    for query, actions, log_probs, utility in walk_routes(TREE, params):
        share = float(jnp.exp(sum(log_probs)))
        path = [action for action in actions if action < 3]
        walker = Walker(TREE, query, cost_weight=0.0, allow_stop=True)
        quality[query] += share * sum(walker.step(action)[0] for action in actions if not walker.is_done)
        cost[query] += share * walker.cum_cost
        hops[query] += share * len(path)
        earned[query] += share * utility
        reach[query, 0] += share
        reach[query, 1 + path[0]] += share
    np.testing.assert_allclose(values.value[:, 0], earned, rtol=1e-4)
    np.testing.assert_allclose(values.reach, reach, atol=1e-5)
    _, metrics = exact_loss(params, TREE, jnp.full(5, COST_WEIGHT), config=NO_EXTRAS, allow_stop=True)
    for name, expected in {"quality": quality, "cost": cost, "num_hops": hops, "utility": earned}.items():
        np.testing.assert_allclose(getattr(metrics, name), expected.mean(), rtol=1e-4, err_msg=name)


def test_the_values_of_the_best_policy_are_the_optimal_values():
    best = np.asarray(optimal_values(TREE, cost_weight=COST_WEIGHT))[:, :4]
    chances = np.zeros((5, 4, 4))
    seen = np.asarray(observe_decision_states(TREE).legal).reshape(5, 4, 4)
    for query, node in itertools.product(range(5), range(4)):
        earned = {}
        for action in np.flatnonzero(seen[query, node]):
            child = 3 * node + 1 + action
            after = optimal_values(TREE, cost_weight=COST_WEIGHT)[query, child] if action < 3 else None
            earned[action] = (
                float(TREE.quality[query, node])
                if action == 3
                else float(after) - COST_WEIGHT * float(TREE.step_cost[query, child])
            )
        if earned:
            chances[query, node, max(earned, key=earned.__getitem__)] = 1
    found = np.asarray(policy_values(TREE, jnp.asarray(chances), cost_weight=COST_WEIGHT).value)
    is_there = np.isfinite(best)
    np.testing.assert_allclose(found[is_there], best[is_there], rtol=1e-5)


def test_it_learns_what_ppo_learns_from_fewer_updates():
    tree, test = context_dependent_tree(1, num_queries=127), context_dependent_tree(2)
    config = TrainConfig(learner="exact", num_updates=60, num_envs=64, ppo=PPOConfig(num_epochs=1))
    output = jax.jit(make_train(config, tree))(jax.random.key(0))
    scores = score_routes(test, greedy_routes(output.params, test), cost_weight=0.1)
    best = optimal_values(test, cost_weight=0.1)[:, 0].mean()
    assert float(scores.utility.mean()) > 0.95 * float(best)
    assert float(output.metrics.utility[-1]) > float(output.metrics.utility[0]) + 0.2


def test_two_devices_make_the_update_of_one():
    tree = context_dependent_tree(1, num_queries=13)
    network = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=3)
    config = TrainConfig(learner="exact", num_envs=8, ppo=PPOConfig(num_epochs=2, num_minibatches=2), network=network)
    state = init_train_state(config, key=jax.random.key(3), **input_sizes(tree))
    environment = make_environment(config, tree)
    optimizer, rows = make_optimizer(config), jnp.arange(8)
    alone, told = jax.jit(make_full_information_update(exact_loss, optimizer, config.ppo, allow_stop=True))(
        state, rows, environment
    )
    update = make_full_information_update(exact_loss, optimizer, config.ppo, allow_stop=True, axis_name="device")
    spread, told_spread = jax.vmap(update, in_axes=(None, 0, None), axis_name="device")(
        state, rows.reshape(2, 4), environment
    )
    for ours, theirs in zip(jax.tree.leaves(alone.params), jax.tree.leaves(spread.params), strict=True):
        np.testing.assert_allclose(theirs[0], ours, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(theirs[0], theirs[1])
    for ours, theirs in zip(jax.tree.leaves(told), jax.tree.leaves(told_spread), strict=True):
        np.testing.assert_allclose(theirs[0], ours, rtol=1e-3, atol=1e-5)


def test_a_conditioned_router_learns_each_price():
    tree = context_dependent_tree(1, num_queries=127)
    network = RouterNetConfig(is_conditioned=True)
    config = TrainConfig(learner="exact", num_updates=120, num_envs=256, cost_weight_range=(0.01, 3.0), network=network)
    output = jax.jit(make_train(config, tree))(jax.random.key(0))
    for cost_weight in (0.0, 0.1, 3.0):
        routes = greedy_routes(output.params, tree, cost_weight=cost_weight)
        scores = score_routes(tree, routes, cost_weight=cost_weight)
        best = float(optimal_values(tree, cost_weight=cost_weight)[:, 0].mean())
        assert float(scores.utility.mean()) > best - 0.05, cost_weight


def test_weight_decay_shrinks_matrices_and_leaves_biases():
    decayed = TrainConfig(ppo=PPOConfig(weight_decay=0.5, learning_rate=0.1, schedule="constant"))
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    optimizer = make_optimizer(decayed)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], np.full((3, 2), -0.05), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(2))
    gated = {"weights": {"task_gate": {"kernel": jnp.ones((3, 2))}, "kernel": jnp.ones((3, 2))}}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, gated), optimizer.init(gated), gated)
    np.testing.assert_array_equal(updates["weights"]["task_gate"]["kernel"], np.zeros((3, 2)))
    assert np.all(updates["weights"]["kernel"] < 0)
    plain = make_optimizer(dataclasses.replace(decayed, ppo=PPOConfig()))
    assert len(jax.tree.leaves(plain.init(params))) == len(jax.tree.leaves(optimizer.init(params)))
