"""Locks and unfinished files: nothing is touched that this library did not make."""

import errno
import os
import re

import h5py
import numpy as np
import pytest

from rezsl_sk._storage import hdf5
from rezsl_sk._storage.hdf5 import CacheError, WriterLock, new_file, new_hdf5
from rezsl_sk.feature_cache import FeatureCache


@pytest.fixture
def path(tmp_path):
    return tmp_path / "toy.h5"


@pytest.fixture
def lock_path(tmp_path):
    return tmp_path / "toy.h5.lock"


def write(path):
    FeatureCache.from_arrays(path, np.eye(2)).close()


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder", "pipe"])
def test_a_lock_that_is_not_ours_is_left_alone(path, lock_path, kind):
    notes = path.with_name("notes")
    if kind == "file":
        lock_path.write_text("my notes")
    elif kind == "link":
        notes.write_text("my notes")
        lock_path.symlink_to(notes)
    elif kind == "dangling link":
        lock_path.symlink_to(notes)
    elif kind == "folder":
        lock_path.mkdir()
    else:
        os.mkfifo(lock_path)
    before = os.lstat(lock_path)
    with pytest.raises(CacheError, match=f"{re.escape(str(lock_path))}.*another name"):
        write(path)
    assert os.path.samestat(before, os.lstat(lock_path)) and not path.exists()
    assert notes.exists() == (kind == "link")
    for file in (lock_path, notes):
        if file.is_file():
            assert file.read_text() == "my notes"


def test_an_empty_lock_of_another_program_stays(path, lock_path):
    lock_path.touch()
    write(path)
    assert lock_path.read_bytes() == b""


def test_a_lock_left_by_a_killed_writer_is_taken_over(path, lock_path):
    with WriterLock(path):
        left = lock_path.read_bytes()
    lock_path.write_bytes(left)
    write(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["toy.h5"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_flock_the_existence_of_the_file_locks(
    path, lock_path, monkeypatch, code
):
    def refuse(fd, flags):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(hdf5.fcntl, "flock", refuse)
    with pytest.warns(RuntimeWarning, match="existence of that file is the lock"):
        lock = WriterLock(path).__enter__()
    with pytest.raises(CacheError, match=rf"pid {os.getpid()} on .*delete .*\.lock"):
        WriterLock(path).__enter__()
    lock.__exit__()
    assert not lock_path.exists()
    with pytest.warns(RuntimeWarning), WriterLock(path):
        pass


@pytest.mark.parametrize("link", [False, True])
def test_an_unfinished_file_of_another_is_left_alone(path, link):
    notes = path.with_name("notes")
    notes.write_text("my notes")
    part = path.with_name("toy.h5.part")
    if link:
        part.symlink_to(notes)
    else:
        part.write_text("my notes")
    write(path)
    assert part.read_text() == notes.read_text() == "my notes"
    assert part.is_symlink() == link


def test_what_killed_writers_left_is_removed(path):
    ours = path.with_name("toy.h5.rezsl-0123abcd.part")
    others = path.with_name("other.h5.rezsl-0123abcd.part")
    ours.touch()
    others.touch()
    write(path)
    assert not ours.exists() and others.exists()


def test_a_file_that_fails_leaves_nothing(path):
    with pytest.raises(ZeroDivisionError):
        with new_file(path, 10) as file:
            file.write(b"half")
            1 / 0  # noqa: B018
    with pytest.raises(ZeroDivisionError):
        with new_hdf5(path, 10) as (file, _):
            file["x"] = 1 / 0
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_is_told_in_a_fitting_unit(path, monkeypatch):
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(CacheError, match=r"about 81.9 kB, but its disk has 0 bytes"):
        with new_file(path, 81_920):
            pass


def test_a_file_that_is_whole_has_its_name(path):
    with new_hdf5(path, 10) as (file, _):
        file["x"] = np.arange(3)
        assert not path.exists()
    with h5py.File(path) as file:
        assert file["x"][...].tolist() == [0, 1, 2]
