"""Set-up of every test: shapes and types of the package checked at run time, implicit rank promotion refused."""

import os

# Eight devices on one CPU: what runs in parallel in production runs in parallel here. Set before JAX starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook("hierrouter_jax", "beartype.beartype")

from pathlib import Path  # noqa: E402  (after the hook, which must see every import)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def benchmarks_dir() -> Path:
    """The folder of real benchmark rows, where it is at hand."""
    folder = SHARED / "benchmarks"
    if not folder.is_dir():
        pytest.skip(f"real benchmark rows are not at {folder}")
    return folder
