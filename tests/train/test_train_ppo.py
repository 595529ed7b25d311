"""The pieces of the update against NumPy loops, on one device and on several (an axis of vmap stands for devices)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.agent.networks import RouterNetConfig, apply_router
from hierrouter_jax.routing.mdp import observe
from hierrouter_jax.routing.rollout import routes_of
from hierrouter_jax.routing.scores import RouteBatch, score_routes
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.loop import make_update_block
from hierrouter_jax.train.make_train import init_train_state, input_sizes, make_environment
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.ppo import (
    collect_episodes,
    deal_minibatches,
    episode_metrics,
    estimate_targets,
    make_update,
    normalise_advantages,
    ppo_loss,
    select_rows,
)
from hierrouter_jax.train.state import count_of, count_up

NET = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=2)


@pytest.fixture(scope="module")
def played():
    """A config, its state, an environment of a partial tree, and episodes played in it."""
    tree = random_tree(3, num_queries=13, num_models=3, num_stages=3, dim=5, share_missing=0.3)
    config = TrainConfig(
        cost_weight=0.3, num_envs=34, ppo=PPOConfig(num_minibatches=2, gae_lambda=0.8, discount=0.9), network=NET
    )
    state = init_train_state(config, key=jax.random.key(5), **input_sizes(tree))
    environment = make_environment(config, tree)
    collect = jax.jit(partial(collect_episodes, allow_stop=True))
    trajectory = collect(state.params, jnp.arange(34), environment, key=jax.random.key(6))
    return config, state, environment, trajectory


def test_targets_are_those_of_a_loop_backwards(played):
    config, _, _, trajectory = played
    decisions = jax.tree.map(np.asarray, estimate_targets(trajectory, config.ppo))
    reward, value, done = (
        np.asarray(x, np.float64) for x in (trajectory.reward, trajectory.value, trajectory.discount)
    )
    num_times, num_rows = reward.shape
    for row in range(num_rows):
        advantage = 0.0
        for time in reversed(range(num_times)):
            if not trajectory.mask[time, row]:
                continue
            goes_on = done[time, row]  # 0 where the route ends here
            next_value = value[time + 1, row] if goes_on else 0.0
            error = reward[time, row] + 0.9 * goes_on * next_value - value[time, row]
            advantage = error + 0.9 * 0.8 * goes_on * advantage
            np.testing.assert_allclose(decisions.advantage[time, row], advantage, atol=1e-5)
            np.testing.assert_allclose(decisions.target[time, row], advantage + value[time, row], atol=1e-5)


def test_the_loss_is_that_of_a_loop_over_decisions(played):
    config, state, environment, trajectory = played
    decisions = estimate_targets(trajectory, config.ppo)
    rng = np.random.default_rng(7)
    # The policy has moved on since it acted, far enough for ratios and values to be clipped.
    params = jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), state.params)
    count = decisions.mask.sum()
    total, terms = jax.jit(ppo_loss, static_argnames="config")(
        params, decisions, environment.tree, count, config=config.ppo
    )

    policy, value_loss, entropies, clipped = [], [], [], []
    for time, row in np.argwhere(np.asarray(decisions.mask) > 0):
        pick = lambda leaf, time=time, row=row: leaf[time, row]  # noqa: E731
        output = apply_router(params, observe(environment.tree, jax.tree.map(pick, trajectory.state)))
        logits = np.asarray(output.logits, np.float64)[np.asarray(decisions.legal[time, row])]
        legal_ids = np.flatnonzero(np.asarray(decisions.legal[time, row]))
        log_probs = logits - np.log(np.exp(logits).sum())
        log_prob = log_probs[list(legal_ids).index(int(decisions.action[time, row]))]
        ratio, advantage = (
            np.exp(log_prob - float(decisions.old_log_prob[time, row])),
            float(decisions.advantage[time, row]),
        )
        policy.append(-min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))
        old, new, target = (float(x[time, row]) for x in (decisions.old_value, decisions.old_value, decisions.target))
        new = float(output.value)
        held = old + min(max(new - old, -0.2), 0.2)
        value_loss.append(0.5 * max((new - target) ** 2, (held - target) ** 2))
        entropies.append(-(np.exp(log_probs) * log_probs).sum())
        clipped.append(abs(ratio - 1) > 0.2)
    assert 0 < np.mean(clipped) < 1
    np.testing.assert_allclose(terms.policy, np.mean(policy), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(terms.value, np.mean(value_loss), rtol=1e-4)
    np.testing.assert_allclose(terms.entropy, np.mean(entropies), rtol=1e-4)
    np.testing.assert_allclose(terms.clip_fraction, np.mean(clipped), rtol=1e-6)
    expected = np.mean(policy) + config.ppo.value_coefficient * np.mean(value_loss)
    expected -= config.ppo.entropy_coefficient * np.mean(entropies)
    np.testing.assert_allclose(total, expected, rtol=1e-4)


def test_steps_after_the_end_count_nowhere(played):
    config, state, environment, trajectory = played
    decisions = estimate_targets(trajectory, config.ppo)
    assert 0 < decisions.mask.mean() < 1

    def poison(leaf):
        return jnp.where(decisions.mask > 0, leaf, jnp.full_like(leaf, 3))

    poisoned = decisions.replace(
        advantage=normalise_advantages(poison(decisions.advantage), decisions.mask, axis_name=None),
        target=poison(decisions.target),
        old_value=poison(decisions.old_value),
        old_log_prob=poison(decisions.old_log_prob),
    )
    clean = decisions.replace(advantage=normalise_advantages(decisions.advantage, decisions.mask, axis_name=None))
    gradient = jax.jit(jax.grad(ppo_loss, has_aux=True), static_argnames="config")
    results = [
        gradient(state.params, each, environment.tree, each.mask.sum(), config=config.ppo) for each in (clean, poisoned)
    ]
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize("num_devices", [1, 3])
def test_advantage_statistics_are_those_of_all_devices(num_devices):
    rng = np.random.default_rng(11)
    advantages = rng.normal(5.0, 3.0, size=(num_devices, 2, 7)).astype(np.float32)
    mask = (rng.random((num_devices, 2, 7)) < 0.6).astype(np.float32)
    mask[0] = 0  # one device may have nothing to say
    mask[-1, 0, 0] = mask[-1, 1, 1] = 1
    real = advantages[mask > 0].astype(np.float64)
    expected = np.where(mask > 0, (advantages - real.mean()) / real.std(), 0.0)
    normalise = jax.vmap(partial(normalise_advantages, axis_name="device"), axis_name="device")
    np.testing.assert_allclose(normalise(advantages, mask), expected, atol=1e-5)


@pytest.mark.parametrize("num_devices", [1, 2, 5])
@pytest.mark.parametrize("num_minibatches", [1, 3])
def test_minibatches_are_the_same_global_rows_on_any_number_of_devices(num_devices, num_minibatches):
    num_rows = 30
    key = jax.random.key(13)
    minibatches = [set() for _ in range(num_minibatches)]
    for row_ids in np.split(np.arange(num_rows), num_devices):
        positions = np.asarray(deal_minibatches(jnp.asarray(row_ids), num_minibatches, key=key))
        assert sorted(positions.ravel()) == list(range(len(row_ids)))
        for minibatch, local in zip(minibatches, positions, strict=True):
            minibatch |= set(row_ids[local].tolist())
    whole = np.asarray(deal_minibatches(jnp.arange(num_rows), num_minibatches, key=key))
    assert minibatches == [set(rows) for rows in whole.tolist()]


def test_minibatches_change_with_the_key_and_favour_no_row():
    deal = jax.jit(jax.vmap(lambda key: deal_minibatches(jnp.arange(6), 3, key=key)))
    deals = np.asarray(deal(jax.random.split(jax.random.key(17), 2000)))
    shares = [(deals[:, 0] == row).any(axis=1).mean() for row in range(6)]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.05)  # five standard deviations


def test_selected_rows_are_whole_routes(played):
    config, _, _, trajectory = played
    decisions = estimate_targets(trajectory, config.ppo)
    rows = jnp.asarray([7, 2, 31])
    chosen = select_rows(decisions, rows)
    np.testing.assert_array_equal(chosen.action, decisions.action[:, rows])
    np.testing.assert_array_equal(chosen.state.node, decisions.state.node[:, rows])
    np.testing.assert_array_equal(chosen.legal, decisions.legal[:, rows])


def test_episode_metrics_are_those_of_the_scored_routes(played):
    config, _, environment, trajectory = played
    tree = environment.tree
    hops, metrics = episode_metrics(
        trajectory, estimate_targets(trajectory, config.ppo), environment, allow_stop=True, axis_name=None
    )
    queries = np.asarray(trajectory.state.query_index[0])
    by_row = {name: getattr(tree, name)[queries] for name in ("context_row", "step_cost", "quality", "valid", "task")}
    actions = routes_of(trajectory, num_models=tree.num_models).actions
    scores = score_routes(tree.replace(**by_row), RouteBatch(actions=actions), cost_weight=0.3)
    for name in ("utility", "quality", "cost", "num_hops"):
        np.testing.assert_allclose(metrics[name], np.mean(getattr(scores, name)), rtol=1e-5)
    assert int(hops) == int(scores.num_hops.sum())
    real = np.asarray(trajectory.mask) > 0
    decisions = jax.tree.map(np.asarray, estimate_targets(trajectory, config.ppo))
    errors = (decisions.target - decisions.old_value)[real]
    expected = 1 - errors.var() / decisions.target[real].var()
    np.testing.assert_allclose(metrics["explained_variance"], expected, rtol=1e-4)


def test_the_fixed_length_mdp_takes_every_stage(played):
    _, state, environment, _ = played
    collect = jax.jit(partial(collect_episodes, allow_stop=False))
    tree = random_tree(3, num_queries=13, num_models=3, num_stages=3, dim=5)
    trajectory = collect(state.params, jnp.arange(34), environment.replace(tree=tree), key=jax.random.key(6))
    assert trajectory.mask.all()
    assert (trajectory.action < 3).all()


def test_an_update_split_over_an_axis_is_the_whole_update():
    """The same global rows as one shard and as three: one program's sums against three programs' sums."""
    tree = context_dependent_tree(2, num_queries=17, dim=7)
    config = TrainConfig(num_envs=36, ppo=PPOConfig(num_minibatches=2, num_epochs=3), network=NET)
    optimizer, environment = make_optimizer(config), make_environment(config, tree)
    state = init_train_state(config, key=jax.random.key(19), **input_sizes(tree))
    rows = jnp.arange(36)
    whole = jax.jit(make_update(optimizer, config.ppo, allow_stop=True))(state, rows, environment)
    update = make_update(optimizer, config.ppo, allow_stop=True, axis_name="device")
    spread = jax.jit(jax.vmap(update, in_axes=(None, 0, None), axis_name="device"))
    parts = spread(state, rows.reshape(3, 12), environment)
    for device in range(3):
        share = jax.tree.map(lambda leaf: leaf[device], parts)  # noqa: B023
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), share[0].params, whole[0].params)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5), share[1], whole[1])
        assert count_of(share[0].num_hops) == count_of(whole[0].num_hops) > 36
        assert int(share[0].step) == 1


def test_the_hop_counter_carries_into_its_second_word():
    words = jnp.asarray([2**32 - 3, 4], jnp.uint32)
    assert count_of(words) == 5 * 2**32 - 3
    assert count_of(count_up(words, jnp.uint32(2))) == 5 * 2**32 - 1
    assert count_of(count_up(words, jnp.uint32(7))) == 5 * 2**32 + 4


def test_a_block_of_updates_stays_on_the_device():
    """Inputs are placed beforehand; after that nothing crosses between host and device until the block has ended."""
    tree = context_dependent_tree(2, num_queries=17, dim=7)
    config = TrainConfig(num_envs=36, ppo=PPOConfig(num_minibatches=2, num_epochs=3), network=NET)
    block = jax.jit(make_update_block(make_update(make_optimizer(config), config.ppo, allow_stop=True), 5))
    state = init_train_state(config, key=jax.random.key(19), **input_sizes(tree))
    inputs = jax.device_put((state, jnp.arange(36), make_environment(config, tree), jnp.int32(5)), jax.devices()[0])
    block(*inputs)  # compiling moves constants
    with jax.transfer_guard("disallow"):
        after, _ = jax.block_until_ready(block(*inputs))
    assert int(after.step) == 5
