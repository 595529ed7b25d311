"""Errors a user can cause and mend.

Every message says the invariant, what was received and what to do. The command line prints the message alone and
exits with code 2; anything that is not a `HierRouterError` is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class HierRouterError(Exception):
    """Base of every error that bad input, a full disk or a missing file can cause."""


class ConfigError(HierRouterError):
    """A config holds an unknown key, a value of the wrong type, or a value out of range."""


class DataError(HierRouterError):
    """Task rows, a route tree or another data file is missing, malformed, or not the one expected."""


class WeightsError(HierRouterError):
    """Model weights are missing, half downloaded, of the wrong digest, or do not fit the architecture."""


class PromptTooLongError(HierRouterError):
    """A prompt with its answer budget does not fit the context window of the model that was asked."""


class CheckpointError(HierRouterError):
    """A checkpoint directory is empty, truncated, or belongs to another config."""


class StorageError(HierRouterError):
    """Writing failed: the disk is full, or the place cannot be written."""


class SandboxError(HierRouterError):
    """Generated code cannot be run behind walls on this system."""


def raise_all(error: type[HierRouterError], heading: str, problems: Sequence[str]) -> None:
    """Raise one `error` that lists every problem, or return when there is none."""
    if problems:
        raise error("\n".join([heading, *(f"  - {problem}" for problem in problems)]))
