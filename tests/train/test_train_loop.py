"""A run directory from beginning to end: what it holds, how it is resumed, and what it refuses."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from synthetic_trees import context_dependent_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.core.errors import CheckpointError, ConfigError, DataError, HierRouterError
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.train import loop
from hierrouter_jax.train.checkpoint import finished_steps
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.loop import load_router, next_visit, train_run
from hierrouter_jax.train.make_train import make_train
from hierrouter_jax.train.metrics_log import MetricsLog, read_metrics
from hierrouter_jax.train.run_record import arrays_digest

CONFIG = TrainConfig(
    cost_weight=0.1,
    num_updates=13,
    num_envs=24,
    seed=41,
    validation_interval=3,
    checkpoint_interval=5,
    ppo=PPOConfig(num_minibatches=2, num_epochs=3),
    network=RouterNetConfig(hidden_sizes=(7,), stage_embed_dim=2),
)
TREE = context_dependent_tree(43, num_queries=17, dim=5)
VALIDATION = context_dependent_tree(47, num_queries=11, dim=5)
ORIGINS = {"pool_digest": "pool-a", "encoder_digest": "encoder-a"}


def run(run_dir, *, config=CONFIG, tree=TREE, **kwargs):
    """One run on one device; the program is compiled once for all tests of this file."""
    kwargs = {"validation": VALIDATION, "origins": ORIGINS, "devices": jax.devices()[:1], "is_quiet": True, **kwargs}
    return train_run(config, tree, run_dir, **kwargs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run left alone, and its router."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    return run_dir, run(run_dir)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be cut and damaged."""
    return shutil.copytree(finished[0], tmp_path / "run")


def cut_back(run_dir, step):
    """Make a finished run one that was killed some time after the checkpoint of `step`."""
    for later in finished_steps(run_dir / "checkpoints"):
        if later > step:
            shutil.rmtree(run_dir / "checkpoints" / str(later))


def test_a_run_leaves_its_record(finished):
    run_dir, router = finished
    assert json.loads((run_dir / "config.json").read_text())["config"]["cost_weight"] == 0.1
    rows = read_metrics(run_dir)
    assert [row["update"] for row in rows] == list(range(1, 14))
    assert [row["update"] for row in rows if "validation/utility" in row] == [3, 6, 9, 12, 13]
    assert finished_steps(run_dir / "checkpoints") == [5, 10, 13]
    assert list(run_dir.glob("events.out.tfevents.*"))
    scores = score_routes(VALIDATION, greedy_routes(router.params, VALIDATION), cost_weight=0.1)
    assert rows[-1]["validation/quality"] == pytest.approx(float(scores.quality.mean()), rel=1e-6)
    assert rows[-1]["validation/num_hops"] == pytest.approx(float(scores.num_hops.mean()), rel=1e-6)
    assert (router.pool_digest, router.encoder_digest) == ("pool-a", "encoder-a")
    assert (router.model_names, router.num_stages, router.allow_stop) == (TREE.model_names, 2, True)


def test_a_run_is_the_pure_training_function(finished):
    """The loop with its blocks, devices and visits computes what the scan over all updates computes."""
    run_dir, router = finished
    out = jax.jit(make_train(CONFIG, TREE))(jax.random.key(41))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), router.params.weights, out.params.weights)
    rows = read_metrics(run_dir)
    np.testing.assert_allclose([row["utility"] for row in rows], out.metrics.utility, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([row["grad_norm"] for row in rows], out.metrics.grad_norm, rtol=1e-2)


def test_a_router_is_loaded_as_it_was_returned(finished):
    run_dir, router = finished
    loaded = load_router(run_dir)
    assert arrays_digest(loaded.params) == arrays_digest(router.params)
    assert jax.tree.structure(loaded) == jax.tree.structure(router)
    assert arrays_digest(load_router(run_dir, step=5).params) != arrays_digest(router.params)


@pytest.mark.parametrize("step", [5, 10])
def test_a_resumed_run_ends_with_the_same_bits(finished, copied, step):
    cut_back(copied, step)
    router = run(copied, resume=True)
    assert arrays_digest(router.params) == arrays_digest(finished[1].params)
    assert (copied / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    assert finished_steps(copied / "checkpoints")[-1] == 13


def test_a_run_moves_to_other_devices_and_another_backend(finished, copied):
    cut_back(copied, 5)
    router = run(copied, resume=True, devices=jax.devices()[:4], backend="shard_map")
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), router.params.weights, finished[1].params.weights)
    ours, theirs = read_metrics(copied), read_metrics(finished[0])
    assert ours[:5] == theirs[:5]
    np.testing.assert_allclose([row["utility"] for row in ours], [row["utility"] for row in theirs], atol=1e-5)


def test_without_named_devices_a_run_takes_as_many_as_fit_and_says_so(finished, copied, capsys, monkeypatch):
    """A minibatch has 12 episodes, and there are 8 devices."""
    placed = []
    placement = loop._Placement
    monkeypatch.setattr(loop, "_Placement", lambda **fields: placed.append(fields["devices"]) or placement(**fields))
    router = run(copied, resume=True, devices=None, is_quiet=False)
    assert arrays_digest(router.params) == arrays_digest(finished[1].params)
    assert "training on 6 of 8 devices: the 12 episodes" in capsys.readouterr().err
    run(copied, resume=True, devices=None)
    assert placed == [tuple(jax.devices()[:6])] * 2
    loop._default_devices(dataclasses.replace(CONFIG, num_envs=48), is_quiet=False)
    assert capsys.readouterr().err == ""


def test_a_finished_run_resumes_to_itself(finished, copied):
    assert arrays_digest(run(copied, resume=True).params) == arrays_digest(finished[1].params)
    assert (copied / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()


def test_resume_begins_where_nothing_was_done_yet(finished, tmp_path):
    """A kill right after the start leaves a config and no checkpoint."""
    (tmp_path / "run").mkdir()
    shutil.copy(finished[0] / "config.json", tmp_path / "run")
    assert arrays_digest(run(tmp_path / "run", resume=True).params) == arrays_digest(finished[1].params)
    assert arrays_digest(run(tmp_path / "none", resume=True).params) == arrays_digest(finished[1].params)


def test_an_interrupt_says_how_to_go_on_and_loses_nothing(finished, tmp_path, monkeypatch):
    append = MetricsLog.append

    def append_half_and_stop(self, rows, speed):
        if rows[-1]["update"] == 9:
            self._file.write('{"update":7,"uti')
            raise KeyboardInterrupt
        append(self, rows, speed)

    monkeypatch.setattr(MetricsLog, "append", append_half_and_stop)
    with pytest.raises(KeyboardInterrupt, match="Resume the run"):
        run(tmp_path / "run")
    monkeypatch.undo()
    assert finished_steps(tmp_path / "run" / "checkpoints") == [0, 5]
    assert arrays_digest(run(tmp_path / "run", resume=True).params) == arrays_digest(finished[1].params)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()


def test_a_run_is_not_overwritten(finished):
    with pytest.raises(ConfigError, match="already holds a run"):
        run(finished[0])


OTHER_PPO = dataclasses.replace(CONFIG, ppo=dataclasses.replace(CONFIG.ppo, learning_rate=0.5))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"config": OTHER_PPO}, CheckpointError, "ppo.learning_rate is 0.001 in the run, 0.5 here"),
        ({"tree": VALIDATION}, DataError, "tree_digest is"),
        ({"origins": {**ORIGINS, "pool_digest": "pool-b"}}, DataError, "pool_digest is 'pool-a' in the run, 'pool-b'"),
        ({"origins": {"pool_digest": "pool-a"}}, DataError, "encoder_digest is 'encoder-a' in the run, None here"),
        ({"num_rows": 7}, ConfigError, "devices x minibatches = 7 x 2"),
        ({"validation": context_dependent_tree(1, num_stages=1, dim=5)}, DataError, "share models"),
        (
            {"validation": context_dependent_tree(1, dim=3)},
            DataError,
            "one width, but theirs are 5 and 3",
        ),
    ],
)
def test_what_does_not_belong_to_the_run_is_refused(finished, copied, change, error, message):
    if "num_rows" in change:
        change = {"devices": jax.devices()[: change["num_rows"]]}
    before = sorted(path.name for path in copied.rglob("*"))
    with pytest.raises(error, match=message):
        run(copied, resume=True, **change)
    assert sorted(path.name for path in copied.rglob("*")) == before


def test_emptied_and_orphaned_directories_are_told(copied):
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(CheckpointError, match="must hold the checkpoints of the updates"):
        run(copied, resume=True)
    with pytest.raises(CheckpointError, match="must hold at least one checkpoint"):
        load_router(copied)
    (copied / "config.json").unlink()
    with pytest.raises(DataError, match=r"no config\.json"):
        run(copied, resume=True)
    with pytest.raises(DataError, match="does not exist"):
        load_router(copied)


@pytest.mark.parametrize("text", ["{", '{"config": {"cost_wait": 1.0}}', "[]"])
def test_a_config_that_cannot_be_read_is_told(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(HierRouterError, match=r"config\.json"):
        load_router(copied)


def test_a_run_that_diverges_stops_and_says_where(tmp_path):
    ppo = dataclasses.replace(CONFIG.ppo, learning_rate=1e38)
    with pytest.raises(ConfigError, match=r"is not at update \d+\. Lower ppo\.learning_rate"):
        run(tmp_path / "run", config=dataclasses.replace(CONFIG, ppo=ppo))


@pytest.mark.parametrize("intervals", [(5, 3), (1, 7), (100, 100), (25, 50), (30, 40)])
def test_the_host_visits_every_checkpoint_and_validation_and_no_later_than_it_should(intervals):
    config = dataclasses.replace(
        CONFIG, num_updates=113, checkpoint_interval=intervals[0], validation_interval=intervals[1]
    )
    visits = [0]
    while visits[-1] < 113:
        visits.append(next_visit(config, visits[-1]))
    steps = np.diff(visits)
    assert steps.min() >= 1
    assert steps.max() <= loop.MAX_UPDATES_PER_VISIT
    expected = {mark for interval in intervals for mark in range(interval, 114, interval)} | {113}
    assert expected <= set(visits)
