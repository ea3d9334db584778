"""Files that bear their name only once they are whole, and one writer for each.

What stands beside a file while it is written, a lock and an unfinished copy, is
opened without following links and removed only where this library made it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import secrets
import shutil
import socket
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import h5py

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = [
    "CacheError",
    "WriterLock",
    "format_bytes",
    "new_file",
    "new_hdf5",
    "remove_unfinished",
    "sync_folder",
]

# The first words of every lock that this library writes.
_LOCK_MARK = "rezsl_sk writer lock: "
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


class CacheError(ValueError):
    """A file is no usable feature cache, or a cache cannot be written.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from rezsl_sk.feature_cache import CacheError, FeatureCache
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "notes.h5")
    ...     _ = path.write_text("no HDF5 at all")
    ...     try:
    ...         FeatureCache(path)
    ...     except CacheError as error:
    ...         print("is no HDF5 file" in str(error))
    True
    """


# Descriptors of the locks that this process holds.
_LOCKS: set[int] = set()


def _let_go_of_locks():
    """In a forked child: a lock is free when the last copy of it is closed.

    Workers outlive their killed parent by seconds, and would hold its lock.
    """
    for fd in _LOCKS:
        os.close(fd)
    _LOCKS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_of_locks)


class WriterLock:
    """One writer at a time: a lock on ``NAME.lock``, held within a ``with`` block.

    The kernel holds the lock for the process, so a dead process's lock is free
    whatever killed it. The text inside the file only tells who holds it. Where the
    file system has no such locks, the existence of the file is the lock, and after a
    kill it must be deleted by hand; a warning says so.

    Parameters
    ----------
    path : str or path-like
        The file that is to be written, not the lock file.

    Raises
    ------
    CacheError
        On entering, if another process (or thread) holds the lock, naming its pid,
        its host and since when, if ``NAME.lock`` is a link, a folder or a file that
        this library did not write, or if the folder does not exist or takes no files.

    Warns
    -----
    RuntimeWarning
        If the file system has no locks of the kernel.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from rezsl_sk.feature_cache import CacheError, WriterLock
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "toy.h5")
    ...     with WriterLock(path):
    ...         try:
    ...             WriterLock(path).__enter__()
    ...         except CacheError as error:
    ...             print("is being written by another process" in str(error))
    True
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.lock_path = self.path.with_name(self.path.name + ".lock")

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        while not self._try_to_lock():
            pass
        return self

    def _try_to_lock(self):
        """Lock, or raise; False if the holder before removed the file meanwhile."""
        try:
            fd, made = self._open()
        except FileNotFoundError:
            return False
        try:
            mark = _LOCK_MARK.encode()
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            content = os.pread(fd, len(mark), 0) if regular else b"?"
            if not mark.startswith(content):
                raise CacheError(
                    f"{self.path} cannot be written: {self.lock_path} would be its "
                    f"lock, but is a file of another kind. Move it away, or give "
                    f"another name."
                )
            without = self._flock(fd, made)
            # The holder before may have removed the file between our open and our
            # lock; then we hold a lock on a file that nobody else will find.
            if not os.path.samestat(os.fstat(fd), os.lstat(self.lock_path)):
                raise FileNotFoundError
        except FileNotFoundError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"{_LOCK_MARK}pid {self._pid} on {socket.gethostname()} since {since}"
        # On a full disk the lock still locks; it only cannot say whose it is.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode(), 0)
        # An empty file may be what a killed writer left or another program's.
        self._leave_empty = not made and not content
        self._fd = None if without else fd
        if without:
            os.close(fd)
        else:
            _LOCKS.add(fd)
        return True

    def _open(self):
        """Open the lock file; the descriptor, and whether the file is new."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            return os.open(self.lock_path, flags, 0o644), True
        except FileExistsError:
            pass
        except OSError as error:
            raise CacheError(
                f"{self.path} cannot be written: {error.strerror} for the folder "
                f"{self.path.parent}. Create the folder, or choose another."
            ) from error
        try:
            return os.open(self.lock_path, os.O_RDWR | _NOFOLLOW), False
        except FileNotFoundError:
            raise
        except OSError as error:
            kind = "a link" if self.lock_path.is_symlink() else error.strerror
            raise CacheError(
                f"{self.path} cannot be written: {self.lock_path} would be its lock, "
                f"but cannot be used ({kind}). Move it away, or give another name."
            ) from error

    def _flock(self, fd, made):
        """Ask the kernel for the lock; True where the file's existence has to do."""
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "no flock on this system")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            raise CacheError(
                f"{self.path} is being written by another process "
                f"({self._holder(fd)}). Wait for it, or give another name."
            ) from None
        except OSError as error:
            if not made:
                raise CacheError(
                    f"{self.path} is being written by another process "
                    f"({self._holder(fd)}), or was when that process was killed. "
                    f"Wait for it; if it no longer runs, delete {self.lock_path} and "
                    f"start again."
                ) from error
            warnings.warn(
                f"The file system of {self.lock_path} has no locks ({error.strerror}), "
                f"so the existence of that file is the lock. If this process is "
                f"killed, delete the file before you start again.",
                RuntimeWarning,
                stacklevel=4,
            )
            return True

    def _holder(self, fd):
        text = os.pread(fd, 200, 0).decode(errors="replace")
        return text.removeprefix(_LOCK_MARK).strip() or "just starting"

    def __exit__(self, *exc_info: object) -> None:
        if self._pid != os.getpid():  # a forked child holds no lock
            return
        if self._leave_empty:
            os.ftruncate(self._fd, 0)
        else:
            self.lock_path.unlink(missing_ok=True)
        if self._fd is not None:
            _LOCKS.remove(self._fd)
            os.close(self._fd)


class _SparingFile(io.FileIO):
    """A file that keeps a failed write to itself, for us to ask after.

    HDF5 does not survive a full disk: it leaves objects that cannot be closed, and
    the process ends in a segmentation fault (seen with HDF5 2.0). So it is told that
    all went well, and the writer looks at `error`.
    """

    error = None

    def write(self, data):
        rest = memoryview(data).cast("B")
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size=None):
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = error
            return size

    def check(self):
        if self.error is not None:
            raise self.error


def remove_unfinished(path: Path) -> None:
    """Remove what killed writers of a file left; the caller holds its lock.

    Parameters
    ----------
    path : Path
        The final name. Unfinished files of other names stay.
    """
    pattern = f"{glob.escape(path.name)}.rezsl-{'[0-9a-f]' * 8}.part"
    for left in path.parent.glob(pattern):
        with contextlib.suppress(OSError):  # a folder of that name is not ours
            left.unlink()


@contextlib.contextmanager
def new_file(path: Path, n_bytes: int) -> Iterator[io.FileIO]:
    """Write a file that bears its name only once it is whole and on the disk.

    Until then it is called ``NAME.rezsl-xxxxxxxx.part``, a new name each time, so
    that no file or link of another is written to.

    Parameters
    ----------
    path : Path
        The final name.
    n_bytes : int
        About how large the file will be; the disk must hold it.

    Yields
    ------
    io.FileIO
        Open for writing. A failed write shows in its attribute ``error`` and is
        raised by its method ``check``. When the block ends well, the file is flushed
        and renamed to `path`; when it ends with an exception, the file is removed.

    Raises
    ------
    CacheError
        If the disk has too little room, before or while the block runs.
    """
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise CacheError(
            f"{path} needs about {format_bytes(n_bytes)}, but its disk has "
            f"{format_bytes(free)} left; make room or choose another disk."
        )
    remove_unfinished(path)
    temporary = path.with_name(f"{path.name}.rezsl-{secrets.token_hex(4)}.part")
    raw = None
    try:
        with _SparingFile(temporary, "x+") as raw:
            yield raw
            raw.check()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if raw is not None:  # else the name was never ours
            temporary.unlink(missing_ok=True)
        if raw is not None and raw.error is not None:
            raise CacheError(
                f"{path} could not be written: {raw.error.strerror}. Make room on "
                f"its disk and start again."
            ) from error
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def new_hdf5(
    path: Path, n_bytes: int
) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Write an HDF5 file as `new_file` writes any.

    Parameters
    ----------
    path : Path
        The final name.
    n_bytes : int
        About how large the file will be; the disk must hold it.

    Yields
    ------
    file : h5py.File
        Open for writing.
    check : callable
        To be called now and then in a long block: it raises if the disk is full.

    Raises
    ------
    CacheError
        If the disk has too little room, before or while the block runs.
    """
    with new_file(path, n_bytes) as raw, h5py.File(raw, "w") as file:
        yield file, raw.check


def format_bytes(n_bytes: float) -> str:
    """Put a number of bytes into words.

    Parameters
    ----------
    n_bytes : float
        The number.

    Returns
    -------
    str
        With one digit after the point and a unit.

    Examples
    --------
    >>> from rezsl_sk._storage.hdf5 import format_bytes
    >>> format_bytes(0), format_bytes(81_920), format_bytes(2.5e9)
    ('0 bytes', '81.9 kB', '2.5 GB')
    """
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        n_bytes /= 1000
        if n_bytes < 1000:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1000:.1f} TB"


def sync_folder(folder: Path) -> None:
    """Make renames and removals within a folder durable, where the system can.

    Parameters
    ----------
    folder : Path
        The folder.
    """
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders; renames are durable there anyway
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
