"""The unfinished work of an extraction: the folder ``NAME.shards`` and what is in it.

``identity.json`` says of which run the folder is, ``attributes.npz`` holds the table
of attributes, if there is one, and each ``000000000000.shard`` the features of a
fixed range of the image list. A shard begins with the SHA-256 of all that follows:
run, range, reasons of failure, identities of the files, and features. So a shard that
was damaged, copied under another name or taken from another run is not believed.

Files are opened without following links. Only what the extractor made is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rezsl_sk.feature_cache import (
    SOURCE_DTYPE,
    CacheError,
    FeatureCache,
    new_file,
    sync_folder,
)

from ._errors import ExtractionError

__all__ = ["FinishedRows", "Shard", "ShardFolder", "tidy_reason"]

log = logging.getLogger("rezsl_features")

_FORMAT = "rezsl_features shards 1"
_OURS = re.compile(
    r"(identity\.json|attributes\.npz|\d{12}\.shard)(\.rezsl-[0-9a-f]{8}\.part)?"
)
# A reason of failure is a sentence; what a library adds to it is cut.
_REASON_LENGTH = 500


@dataclass
class Shard:
    """Rows of a fixed range of the image list.

    Parameters
    ----------
    features : ndarray of shape (m, ...)
        Zeros where an image failed.
    reasons : list of str of length m
        Why an image failed; empty where it did not.
    sources : ndarray of `SOURCE_DTYPE` of shape (m,), or None
        The file of each row; zeros where the image failed, None where a cache of an
        older version does not tell.
    """

    features: np.ndarray
    reasons: list[str]
    sources: np.ndarray | None

    @classmethod
    def empty(cls, n: int, shape: Sequence[int], dtype: DTypeLike) -> Shard:
        """Make a shard of zeros."""
        return cls(np.zeros((n, *shape), dtype), [""] * n, np.zeros(n, SOURCE_DTYPE))

    def equals(self, other: Shard) -> bool:
        """Compare to the bit."""
        return (
            self.reasons == other.reasons
            and self.features.tobytes() == other.features.tobytes()
            and other.sources is not None
            and self.sources.tobytes() == other.sources.tobytes()
        )


class ShardFolder:
    """The folder of unfinished work beside a cache.

    Parameters
    ----------
    out : Path
        The cache; the caller holds its lock.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(out.name + ".shards")
        self._record_path = self.path / "identity.json"
        self._table_path = self.path / "attributes.npz"
        self._run = None

    def read_record(self) -> tuple[dict[str, Any] | None, bool]:
        """Find out of which run the folder is.

        Returns
        -------
        identity : dict or None
            None if there is no unfinished run.
        is_restart : bool
            Whether that run was to replace a finished cache from the start.

        Raises
        ------
        ExtractionError
            If there is a file, a link, or a folder that the extractor did not make.
        """
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return None, False
        if not stat.S_ISDIR(found.st_mode):
            kind = "link" if stat.S_ISLNK(found.st_mode) else "file"
            raise self._not_ours(f"is a {kind}")
        names = os.listdir(self.path)
        if self._record_path.name not in names:
            # A run that was killed at once has left no more than this.
            if any(not name.startswith("identity.json.rezsl-") for name in names):
                raise self._not_ours("has no record of an extraction in it")
            self.remove()
            return None, False
        try:
            record = json.loads(_read(self._record_path, 2**24))
            identity, is_restart = record["identity"], record["is_restart"]
            if record["format"] != _FORMAT or not isinstance(identity, dict):
                raise ValueError("the record has another format")
            self._begin(identity)
        except (OSError, ValueError, KeyError, TypeError) as error:
            n = sum(name.endswith(".shard") for name in names)
            log.warning(
                "The record of %s cannot be read (%s), so nobody can tell of which "
                "features its %d shards are. They are dropped and computed again. If "
                "a table of attributes was given then, give it again.",
                self.path,
                error,
                n,
            )
            self.remove()
            return None, False
        return identity, bool(is_restart)

    def _not_ours(self, why):
        return ExtractionError(
            f"The unfinished work would lie in {self.path}, but that {why}. Move it "
            f"away, or give another name to the cache."
        )

    def create(self, identity: dict[str, Any], is_restart: bool) -> None:
        """Make the folder, with the record of a run."""
        self.path.mkdir(exist_ok=True)  # an empty one is of a run killed at once
        record = {"format": _FORMAT, "identity": identity, "is_restart": is_restart}
        content = json.dumps(record, indent=1).encode()
        with new_file(self._record_path, len(content)) as file:
            file.write(content)
        self._begin(identity)

    def _begin(self, identity):
        self._run = hashlib.sha256(
            json.dumps(identity, sort_keys=True).encode()
        ).hexdigest()
        self._row_shape = tuple(identity["feature_shape"])
        self._dtype = np.dtype(identity["dtype"])

    def disregard(self) -> None:
        """Act as if nothing were in the folder; it is of another run."""
        self._run = None

    def join(self, identity: dict[str, Any]) -> None:
        """Take over the record that another rank has written or read."""
        self._begin(identity)

    # -- the table of attributes ----------------------------------------------------

    def read_table(self) -> tuple | None:
        """Read classes, matrix and names (or None) of the table, if there is one."""
        if not os.path.lexists(self._table_path):
            return None
        try:
            with (
                _open(self._table_path) as raw,
                np.load(raw, allow_pickle=False) as file,
            ):
                names = file["names"].tolist() if "names" in file else None
                return file["classes"].tolist(), file["matrix"], names
        except Exception as error:  # zipfile meets damage with whatever comes
            raise ExtractionError(
                f"The table of attributes of the unfinished run, {self._table_path}, "
                f"is damaged ({error}). Delete that file and give the table again."
            ) from error

    def write_table(self, table: tuple | None) -> None:
        """Keep a table for whoever goes on; None removes it."""
        if table is None:
            self._table_path.unlink(missing_ok=True)
            return
        classes, matrix, names = table
        arrays = {"classes": np.array(classes, dtype=str), "matrix": matrix}
        if names is not None:
            arrays["names"] = np.array(names, dtype=str)
        with new_file(self._table_path, matrix.nbytes) as file:
            np.savez(file, **arrays)

    # -- shards ---------------------------------------------------------------------

    def _shard_path(self, first):
        return self.path / f"{first:012d}.shard"

    def has(self, first: int) -> bool:
        """Tell whether there is a shard that begins at an image."""
        return self._run is not None and os.path.lexists(self._shard_path(first))

    def write(self, first: int, shard: Shard) -> None:
        """Write a shard; it bears its name once it is whole and on the disk."""
        sources = shard.sources
        if sources is None:
            sources = np.zeros(len(shard.reasons), SOURCE_DTYPE)
        header = {
            "run": self._run,
            "first": first,
            "reasons": shard.reasons,
            "has_sources": shard.sources is not None,
        }
        parts = [
            json.dumps(header).encode() + b"\n",
            sources.tobytes(),
            shard.features.tobytes(),
        ]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        path = self._shard_path(first)
        with new_file(path, sum(map(len, parts))) as file:
            for part in (digest.hexdigest().encode() + b"\n", *parts):
                file.write(part)
            file.check()

    def read(self, first: int, stop: int) -> Shard | None:
        """Read a shard; None if it is not there or is not to be believed.

        What is not believed is removed, and a warning is logged.
        """
        if not self.has(first):
            return None
        path = self._shard_path(first)
        try:
            return self._read(path, first, stop - first)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning(
                "The shard %s is damaged (%s) and is dropped; its %d images are "
                "computed again.",
                path,
                error,
                stop - first,
            )
        try:
            path.unlink()
        except OSError as error:
            raise ExtractionError(
                f"{path} cannot be removed: {error.strerror}. Move it away; the same "
                f"command goes on."
            ) from error
        return None

    def _read(self, path, first, n):
        row_bytes = int(np.prod(self._row_shape)) * self._dtype.itemsize
        n_bytes = n * (row_bytes + SOURCE_DTYPE.itemsize)
        # Six bytes for a character that JSON escapes.
        content = _read(path, n_bytes + n * (6 * _REASON_LENGTH + 4) + 1000)
        if hashlib.sha256(content[65:]).hexdigest().encode() != content[:64]:
            raise ValueError("its hash does not hold")
        line, _, body = content[65:].partition(b"\n")
        header = json.loads(line)
        if header["run"] != self._run:
            raise ValueError("it is of another run")
        if header["first"] != first or len(header["reasons"]) != n:
            raise ValueError("it is of other images")
        if len(body) != n_bytes:
            raise ValueError("its length is not that of its images")
        # A copy: who keeps the sources shall not keep the features.
        sources = np.frombuffer(body, SOURCE_DTYPE, n).copy()
        features = np.frombuffer(body, self._dtype, offset=sources.nbytes)
        return Shard(
            features.reshape(n, *self._row_shape),
            header["reasons"],
            sources if header["has_sources"] else None,
        )

    # -- the end --------------------------------------------------------------------

    def remove(self) -> None:
        """Remove what the extractor made, and the folder unless more is in it."""
        names = [name for name in os.listdir(self.path) if _OURS.fullmatch(name)]
        # The record last: as long as it is there the folder is known to be ours.
        for name in sorted(names, key=lambda name: name == self._record_path.name):
            with contextlib.suppress(IsADirectoryError, PermissionError):
                (self.path / name).unlink(missing_ok=True)
        self._run = None
        try:
            self.path.rmdir()
        except OSError:
            left = sorted(os.listdir(self.path))
            log.warning(
                "%s stays: it holds %s, which the extractor did not make.",
                self.path,
                left[0] if left else "something",
            )
        sync_folder(self.path.parent)


class FinishedRows:
    """The rows of a finished cache in the form of shards.

    Parameters
    ----------
    cache : FeatureCache
        The cache.
    names : list of str of length n
        The images that it was made of.

    Raises
    ------
    CacheError
        If it has not a row or a reason of failure for each.
    """

    def __init__(self, cache: FeatureCache, names: list[str]) -> None:
        self.cache = cache
        self._names = names
        self._reasons = dict(cache.failed)
        self._sources = cache.sources
        paths = cache.paths.tolist()
        # Row of each image; -1 for those that failed.
        self._rows, n = np.full(len(names), -1), 0
        for i, name in enumerate(names):
            if n < len(paths) and paths[n] == name:
                self._rows[i], n = n, n + 1
        without = np.flatnonzero(self._rows < 0)
        if n < len(paths) or any(names[i] not in self._reasons for i in without):
            raise CacheError(
                f"{cache.path} is damaged: it does not account for all of its images. "
                f"Delete it and extract again."
            )

    def read(self, first: int, stop: int) -> Shard:
        """Read the rows of a range of images."""
        rows = self._rows[first:stop]
        good = np.flatnonzero(rows >= 0)
        X = self.cache.X
        shard = Shard.empty(stop - first, X.shape[1:], X.dtype)
        for i in np.flatnonzero(rows < 0):
            shard.reasons[i] = self._reasons[self._names[first + i]]
        if self._sources is None:
            shard.sources = None
        if len(good):
            span = slice(rows[good[0]], rows[good[-1]] + 1)
            shard.features[good] = X[span]
            if self._sources is not None:
                shard.sources[good] = self._sources[span]
        return shard


def tidy_reason(reason: str) -> str:
    """Bring a reason into one line of text that any file can hold."""
    text = reason.encode("utf-8", "replace").decode().replace("\0", " ")
    return text[:_REASON_LENGTH]


def _open(path):
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(os.open(path, flags), "rb")


def _read(path: Path, most: int) -> bytes:
    """Read a regular file of at most so many bytes, not following a link."""
    with _open(path) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is no file")
        if found.st_size > most:
            raise ValueError(f"it has {found.st_size} bytes, more than it could")
        return file.read()
