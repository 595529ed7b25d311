"""`--preset` decides what the other options of a training change."""

import dataclasses
import json

import numpy as np
import pytest
import tyro
from scripted_trees import save_scripted_tree

from hierrouter_jax.cli import main, sweep, train
from hierrouter_jax.collect.tree_file import load_tree
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.loop import load_router
from hierrouter_jax.train.presets import PRESETS
from hierrouter_jax.train.run_record import read_record

OPTIONS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def parsed(module, *words):
    return tyro.cli(module.command_for(words), args=list(words), config=OPTIONS)


@pytest.mark.parametrize("words", [("--preset", "ppo"), ("--preset=ppo",)])
def test_a_preset_is_the_config_that_other_options_change(words):
    found = parsed(train, "--run-dir", "x", *words, "--num-updates", "7", "--learning-rate", "0.5")
    expected = dataclasses.replace(TrainConfig(), num_updates=7, ppo=PPOConfig(learning_rate=0.5))
    assert isinstance(found, train.Command)
    assert found.config == expected
    assert found.preset == "ppo"


def test_without_one_the_router_is_a_task_mixture():
    found = parsed(train, "--run-dir", "x", "--cost-weight", "0.3")
    assert found.config == dataclasses.replace(PRESETS["task-mixture"], cost_weight=0.3)
    assert found.config.network.is_task_mixture
    assert parsed(sweep).config == PRESETS["task-mixture"]


def test_a_sweep_of_ppo_has_a_quarter_of_the_episodes():
    found = parsed(sweep, "--preset", "ppo").config
    assert found == dataclasses.replace(TrainConfig(), num_envs=64, ppo=PPOConfig(num_minibatches=2))


def test_a_preset_that_does_not_exist_is_refused(capsys):
    assert main.main(["train", "--run-dir", "x", "--preset", "magic"]) == 2
    assert "task-mixture, ppo" in capsys.readouterr().err


def test_kinds_take_the_place_of_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    tree = tmp_path / "tree.npz"
    save_scripted_tree(tree)
    words = ["--tree", str(tree), "--num-updates", "2", "--num-envs", "8", "--json", str(tmp_path / "out.json")]
    assert main.main(["train", "--run-dir", str(tmp_path / "run"), *words, "--kinds", "5"]) == 0
    assert read_record(tmp_path / "run").num_tasks == 5
    params = load_router(tmp_path / "run").params
    assert np.shape(params.weights["task_gate"]["bias"]) == (5,)
    assert json.loads((tmp_path / "out.json").read_text())["num_updates"] == 2
    count = load_tree(tree).train.num_queries
    assert main.main(["train", "--run-dir", str(tmp_path / "more"), *words, "--kinds", str(count + 1)]) == 2
