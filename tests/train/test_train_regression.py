"""Regression on the values of a tree, and the gate that learns tasks, against loops over nodes and actions."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_mdp import Walker
from synthetic_routers import random_params
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.agent.networks import RouterNetConfig, apply_router, task_logits
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.routing.decision_states import observe_decision_states
from hierrouter_jax.routing.route_tree import path_of_node
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_values
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.full_information import make_full_information_update
from hierrouter_jax.train.make_train import init_train_state, input_sizes, make_environment, make_train
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.ppo import make_update
from hierrouter_jax.train.regression import TEMPERATURE, regression_loss
from hierrouter_jax.train.task_loss import task_loss

TREE = random_tree(1, num_queries=5, share_missing=0.2, num_tasks=3)
NUM_DECISIONS, COST_WEIGHT = 4, 0.3
MIXTURE = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=5, is_task_mixture=True)


def walk_on(tree, query, path, choose, *, allow_stop):
    """Follow a path, then the choices at each node; return what is earned after the path."""
    walker = Walker(tree, query, cost_weight=COST_WEIGHT, allow_stop=allow_stop)
    for action in path[:-1]:
        walker.step(action)
    earned = walker.step(path[-1])[0]
    while not walker.is_done:
        earned += walker.step(choose(query, walker))[0]
    return earned


@pytest.mark.parametrize("allow_stop", [True, False])
def test_the_loss_is_that_of_a_loop_over_nodes_and_actions(allow_stop):
    params = random_params(head_gain=3.0)
    seen = observe_decision_states(TREE, allow_stop=allow_stop)
    output = jax.vmap(partial(apply_router, params))(seen)
    logits = np.asarray(output.logits).reshape(5, NUM_DECISIONS, 4)
    values = np.asarray(output.value).reshape(5, NUM_DECISIONS)

    def choose(query, walker):
        node = 0
        for model in walker.path:
            node = 3 * node + 1 + model
        return max(walker.legal(), key=lambda action: logits[query, node, action])

    fits, misses = [], []
    for query in range(5):
        for node in range(NUM_DECISIONS):
            if not TREE.valid[query, node]:
                continue
            path = list(path_of_node(3, node))
            walker = Walker(TREE, query, cost_weight=COST_WEIGHT, allow_stop=allow_stop)
            for model in path:
                walker.step(model)
            if walker.is_done:  # nothing can be asked after it: STOP alone is left, worth the node's quality
                fits.append(0.0)
                misses.append((values[query, node] - float(TREE.quality[query, node])) ** 2)
                continue
            legal = sorted(walker.legal())
            worth = {a: walk_on(TREE, query, [*path, a], choose, allow_stop=allow_stop) for a in legal}
            mean_worth, mean_logit = np.mean(list(worth.values())), np.mean([logits[query, node, a] for a in legal])
            errors = [logits[query, node, a] - mean_logit - (worth[a] - mean_worth) / TEMPERATURE for a in legal]
            fits.append(np.sum(np.square(errors)))
            misses.append((values[query, node] - worth[choose(query, walker)]) ** 2)
    loss, metrics = regression_loss(
        params, TREE, jnp.full(5, COST_WEIGHT), config=PPOConfig(value_coefficient=0.25), allow_stop=allow_stop
    )
    np.testing.assert_allclose(metrics.policy_loss, 0.5 * np.mean(fits), rtol=1e-4)
    np.testing.assert_allclose(metrics.value_loss, 0.5 * np.mean(misses), rtol=1e-4)
    np.testing.assert_allclose(loss, 0.5 * np.mean(fits) + 0.125 * np.mean(misses), rtol=1e-4)
    greedy = score_routes(TREE, greedy_routes(params, TREE, allow_stop=allow_stop), cost_weight=COST_WEIGHT)
    for name in ("utility", "quality", "cost", "num_hops"):
        expected = np.mean(np.asarray(getattr(greedy, name)))
        np.testing.assert_allclose(getattr(metrics, name), expected, rtol=1e-4, err_msg=name)


def test_the_gate_learns_the_names_of_tasks_at_the_nodes_that_are_there():
    params = random_params(MIXTURE, num_tasks=3)
    logits = np.asarray(jax.vmap(partial(task_logits, params))(observe_decision_states(TREE))).reshape(5, 4, 3)
    losses = []
    for query in range(5):
        for node in range(NUM_DECISIONS):
            if TREE.valid[query, node]:
                own = logits[query, node]
                losses.append(np.log(np.exp(own).sum()) - own[int(TREE.task[query])])
    assert len(losses) < 5 * NUM_DECISIONS
    np.testing.assert_allclose(task_loss(params, TREE, penalty=0.0, axis_name=None), np.mean(losses), rtol=1e-5)
    kernel = np.asarray(params.weights["task_gate"]["kernel"]) * np.sqrt(TREE.context.shape[1])  # of a unit context
    ridge = np.mean(losses) + 0.5 * 0.7 * np.square(kernel).sum()
    np.testing.assert_allclose(task_loss(params, TREE, penalty=0.7, axis_name=None), ridge, rtol=1e-5)
    gradient = jax.grad(lambda one: task_loss(one, TREE, penalty=0.7, axis_name=None))(params).weights
    touched = {name for name, leaves in gradient.items() if any(np.any(leaf) for leaf in jax.tree.leaves(leaves))}
    assert touched == {"task_gate"}
    assert float(task_loss(random_params(), TREE, penalty=0.7, axis_name=None)) == 0.0


@pytest.mark.parametrize("learner", ["ppo", "exact", "regression"])
def test_every_learner_teaches_a_mixture_its_tasks_and_what_they_want(learner):
    tree, test = context_dependent_tree(1, num_queries=127), context_dependent_tree(2)
    network = RouterNetConfig(hidden_sizes=(17,), is_task_mixture=True, reads_signals=True)
    tree, test = (with_last_model(one) for one in (tree, test))
    config = TrainConfig(
        learner=learner, num_updates=100, num_envs=128, network=network, ppo=PPOConfig(learning_rate=0.01)
    )
    output = jax.jit(make_train(config, tree))(jax.random.key(0))
    logits = jax.vmap(partial(task_logits, output.params))(observe_decision_states(test))
    tasks = np.repeat(np.asarray(test.task), NUM_DECISIONS)
    assert np.mean(np.asarray(logits).argmax(axis=1) == tasks) > 0.95
    scores = score_routes(test, greedy_routes(output.params, test), cost_weight=0.1)
    best = optimal_values(test, cost_weight=0.1)[:, 0].mean()
    assert float(scores.utility.mean()) > 0.95 * float(best)


def with_last_model(tree):
    """The tree with the last model asked as signals: a mixture's torso does not see the context, which tells it."""
    last = [[0.0] * 3 if node == 0 else np.eye(3)[(node - 1) % 3] for node in range(tree.num_nodes)]
    signals = np.broadcast_to(np.asarray(last), (tree.num_queries, tree.num_nodes, 3))
    return dataclasses.replace(tree, signals=jnp.asarray(signals, jnp.float32))


@pytest.mark.parametrize("learner", ["ppo", "regression"])
def test_two_devices_make_the_update_of_one(learner):
    tree = random_tree(1, num_queries=13, num_tasks=3, share_missing=0.2)
    config = TrainConfig(num_envs=8, ppo=PPOConfig(num_epochs=2, num_minibatches=2, task_penalty=0.3), network=MIXTURE)
    state = init_train_state(config, key=jax.random.key(3), **input_sizes(tree))
    make = make_update if learner == "ppo" else partial(make_full_information_update, regression_loss)
    make = partial(make, make_optimizer(config), config.ppo, allow_stop=True)
    environment, rows = make_environment(config, tree), jnp.arange(8)
    alone, told = jax.jit(make())(state, rows, environment)
    spread, told_spread = jax.vmap(make(axis_name="device"), in_axes=(None, 0, None), axis_name="device")(
        state, rows.reshape(2, 4), environment
    )
    for ours, theirs in zip(jax.tree.leaves(alone.params), jax.tree.leaves(spread.params), strict=True):
        np.testing.assert_allclose(theirs[0], ours, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(theirs[0], theirs[1])
    for ours, theirs in zip(jax.tree.leaves(told), jax.tree.leaves(told_spread), strict=True):
        np.testing.assert_allclose(theirs[0], ours, rtol=1e-3, atol=1e-5)
