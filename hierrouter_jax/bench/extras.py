"""Packages that only benchmarks need: imported when a peer is asked for; where one is missing, a sentence says so."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hierrouter_jax.core.errors import ConfigError

INSTALL = {"llama_cpp": "pip install llama-cpp-python"}
INSTALL_EXTRA = "pip install 'hierrouter_jax[bench]'"


def import_extra(module: str) -> Any:
    """Return a module of the `bench` extra. Raises `ConfigError` that says how to install it where it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"This peer needs the package {module}, which cannot be imported here ({error}); install it with "
            f"{INSTALL.get(module, INSTALL_EXTRA)}, or leave the peer out of --against."
        ) from error


def require_extras(*modules: str) -> None:
    """Raise `ConfigError` for the first module that is missing: before minutes of measuring, not after."""
    for module in modules:
        import_extra(module)
