"""The training benchmark: its tree, its peers' environments and learning, its rows, and what it refuses."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.bench import purejaxrl_style, sb3_peer
from hierrouter_jax.bench.context_tree import make_context_tree
from hierrouter_jax.bench.train import TrainBench, make_learners, seconds_to
from hierrouter_jax.bench.train_floor import floor_update_s
from hierrouter_jax.cli import main
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.route_tree import check_tree
from hierrouter_jax.routing.values import optimal_routes, optimal_values
from hierrouter_jax.train.config import PPOConfig, TrainConfig

pytest.importorskip("sb3_contrib", reason="sb3_contrib is in the extras [bench] and [test]")

CONFIG = TrainConfig(
    num_updates=60,
    num_envs=64,
    network=RouterNetConfig(hidden_sizes=(19,), stage_embed_dim=3),
    ppo=PPOConfig(num_minibatches=2, learning_rate=5e-3),
)
TREE = make_context_tree(29, dim=13)


def test_the_tree_wants_another_route_of_every_kind_of_query():
    check_tree(TREE)
    routes, kinds = np.asarray(optimal_routes(TREE, cost_weight=0.1).actions), np.asarray(TREE.task)
    for kind in range(6):
        wanted = [kind, 3] if kind < 3 else [kind % 3, (kind + 1) % 3]
        np.testing.assert_array_equal(routes[kinds == kind], np.tile(wanted, ((kinds == kind).sum(), 1)))
    prices = [(kind + 1) / 3 if kind < 3 else (kind % 3 + 1 + (kind + 1) % 3 + 1) / 3 for kind in range(6)]
    best = optimal_values(TREE, cost_weight=0.1)[:, 0]
    np.testing.assert_allclose(best, [1 - 0.1 * prices[kind] for kind in kinds], rtol=1e-5)


@pytest.mark.parametrize("peer", ["ours", "sb3", "sb3-gym", "purejaxrl-style"])
def test_every_side_learns_the_tree(peer):
    """From a greedy policy that answers badly to nine tenths of what can be had."""
    make = make_learners(CONFIG, TREE, () if peer == "ours" else (peer,))[peer]
    learner = make()
    optimum = float(optimal_values(TREE, cost_weight=0.1)[:, 0].mean())
    assert learner.utility() < 0.6 * optimum
    learner.learn(60)
    assert learner.utility() > 0.85 * optimum
    assert make().utility() < 0.6 * optimum  # another one begins anew


def test_the_numpy_environments_of_sb3_reset_themselves_and_show_legal_actions():
    envs = sb3_peer.make_sb3(CONFIG, TREE, is_vectorised=True).get_env()
    seen = envs.reset()
    assert seen.shape == (64, 13 + 2 + 2)
    masks = np.stack(envs.env_method("action_masks"))
    np.testing.assert_array_equal(masks, np.tile([True, True, True, False], (64, 1)))
    seen, rewards, is_end, _ = envs.step(np.full(64, 1))
    assert not is_end.any()
    np.testing.assert_allclose(rewards, -0.1 * 2 / 3, rtol=1e-5)
    seen, rewards, is_end, _ = envs.step(np.full(64, 3))
    assert is_end.all()
    assert set(np.round(rewards, 5)) == {np.float32(1.0), np.float32(0.1)}
    np.testing.assert_array_equal(seen[:, 13:], np.tile([1, 0, 0, 0], (64, 1)))  # new routes, at their root


def test_the_learning_rate_of_sb3_falls_with_the_updates_of_the_whole_run():
    model = sb3_peer.make_sb3(CONFIG, TREE, is_vectorised=True)
    rates = []
    for _ in range(3):
        model.learn(128, reset_num_timesteps=False)
        rates.append(model.policy.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [5e-3 * (1 - k / 60) for k in range(3)], rtol=1e-6)


def test_the_purejaxrl_loop_gives_the_optimizer_every_transition_once_an_epoch():
    """With one minibatch and one epoch a permutation changes nothing: the step is that of the whole batch."""
    config = TrainConfig(
        num_updates=60, num_envs=8, network=CONFIG.network, ppo=PPOConfig(num_epochs=1, num_minibatches=1)
    )
    carry = purejaxrl_style.start(config, TREE, key=jax.random.key(3))
    after = jax.jit(purejaxrl_style.make_updates(config, TREE))(carry, jnp.int32(1))
    _, walk_key, *_ = jax.random.split(carry[3], 3)
    walk = partial(purejaxrl_style._step_all, config, TREE, carry[0])
    _, seen = jax.lax.scan(walk, carry[2], jax.random.split(walk_key, 2))
    assert (np.asarray(seen["discount"]) == [[1.0], [0.0]]).all()  # two decisions a route, then another route
    assert (np.asarray(seen["observation"].stage) == [[0], [1]]).all()
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), carry[0], after[0])
    assert max(jax.tree.leaves(moved)) == pytest.approx(1e-3, rel=0.1)  # Adam's first step is the learning rate


def test_seconds_count_updates_alone_and_end():
    class Slow:
        learned = 0

        def learn(self, num_updates):
            self.learned += num_updates

        def utility(self):
            return 0.1 * self.learned

    slow = Slow()
    assert seconds_to(slow, 0.45, max_s=60.0) < 1
    assert slow.learned == 5
    assert seconds_to(slow, 1e9, max_s=1e-4) is None


def test_the_floor_grows_with_the_products():
    small, large = (
        floor_update_s(TrainConfig(num_envs=1024, network=RouterNetConfig(hidden_sizes=(width, width))), TREE)
        for width in (16, 1024)
    )
    assert 0 < small < large


def test_the_command_writes_a_row_for_every_peer_and_batch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    path = tmp_path / "train.json"
    arguments = ["bench", "train", "--batch", "16", "32", "--num-queries", "11", "--dim", "7", "--runs", "1"]
    arguments += ["--max-s", "0.01", "--hidden-sizes", "5", "--against", "sb3", "purejaxrl-style", "--json", str(path)]
    assert main.main(arguments) == 0
    rows = json.loads(path.read_text())["rows"]
    rates = [row for row in rows if row["unit"] == "steps/s"]
    names = ["sb3", "purejaxrl-style", "matrix products alone"]
    assert [(row["batch"], row["peer_name"]) for row in rates] == [(n, name) for n in (16, 32) for name in names]
    for row in rates:
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
    assert [row["is_by_table_of_states"] for row in rates[::3]] == [False, False]
    reached = [row for row in rows if row["unit"] == "s"]
    assert [row["against"] for row in reached] == ["sb3", "purejaxrl-style"] * 2
    assert "matrix products alone" in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    assert main.main(["bench", "train", "--against", "sb3"]) == 2
    assert "pip install 'hierrouter_jax[bench]'" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": ()}, "batch must name"),
        ({"runs": 0}, "runs must be >= 1"),
        ({"num_queries": 0}, "num_queries"),
        ({"dim": 0}, "dim must be >= 1"),
        ({"max_s": 0.0}, "max_s must be > 0"),
        ({"config": TrainConfig(network=RouterNetConfig(is_conditioned=True))}, "must not be conditioned"),
    ],
)
def test_sizes_that_make_no_benchmark_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainBench(**changes)
