"""Files that are the old version or the new one."""

import os
import stat

import pytest

from hierrouter_jax.core.atomic_files import atomic_write, write_text_atomically
from hierrouter_jax.core.errors import StorageError


def test_a_new_version_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "a" / "b" / "notes.txt"
    write_text_atomically(path, "eins\n")
    write_text_atomically(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_leaves_the_old_version_and_nothing_else(tmp_path, error):
    path = tmp_path / "notes.txt"
    path.write_text("old")

    def write_half():
        with atomic_write(path) as file:
            file.write(b"half of the n")
            file.flush()
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["notes.txt"]


def test_two_writers_at_once_do_not_meet(tmp_path):
    path = tmp_path / "notes.txt"
    with atomic_write(path) as one, atomic_write(path) as two:
        one.write(b"one")
        two.write(b"two")
    assert path.read_bytes() == b"one"  # the outer block ends last


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text_atomically(tmp_path / "notes.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "notes.txt").stat().st_mode) == 0o666 & ~mask


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"Writing .*file/notes\.txt failed: .*choose another place"):
        write_text_atomically(tmp_path / "file" / "notes.txt", "x")
