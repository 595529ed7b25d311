"""The package's public names: each is where the table says, type checkers see the same ones, importing is free."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scripted_trees import save_scripted_tree

import hierrouter_jax as hr


@pytest.mark.parametrize("name", hr.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hr, name).__module__ == f"hierrouter_jax.{hr._ROOM_OF[name]}"


def test_the_listing_is_the_public_names_alone():
    assert dir(hr) == sorted(hr.__all__)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(hr.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.names[0].name: node.module.removeprefix("hierrouter_jax.") for node in block.body}
    assert seen == hr._ROOM_OF


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'fly'"):
        hr.fly  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, hierrouter_jax; print({'jax', 'numpy', 'flax', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"


def test_a_researchers_first_five_lines(tmp_path):
    save_scripted_tree(tmp_path / "small.npz")
    config = hr.TrainConfig(cost_weight=0.1, num_updates=3, num_envs=8, network=hr.RouterNetConfig(hidden_sizes=(7,)))
    tree = hr.load_tree(tmp_path / "small.npz")
    out = jax.jit(hr.make_train(config, tree.train))(jax.random.key(0))
    scores = hr.score_routes(tree.test, hr.greedy_routes(out.params, tree.test), cost_weight=0.1)
    best = hr.score_routes(tree.test, hr.optimal_routes(tree.test, cost_weight=0.1), cost_weight=0.1)
    assert np.isfinite(scores.quality.mean())
    assert float(scores.utility.mean()) <= float(best.utility.mean()) + 1e-6
