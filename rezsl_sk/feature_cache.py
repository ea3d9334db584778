"""The feature cache: one HDF5 file of features, each beside its own identity.

This module is the one place that knows the format, both ways. A file holds

====================  =====================  =========================================
dataset               shape, type            meaning
====================  =====================  =========================================
``features``          (n, d) or (n, r, d)    float16 or float32, chunked by rows; r are
                                             the regions of an image
``path``              (n,) text              what row i was computed from
``label``             (n,) int64             optional; index into ``class_name``
``class_name``        (C,) text              optional; also classes without any row
``class_attributes``  (C, a) float64         optional; one row per class
``attribute_name``    (a,) text              optional
``failed/path``       (f,) text              inputs that gave no row ...
``failed/reason``     (f,) text              ... and why
``splits/NAME``       (m,) int64             optional; row numbers of a named subset
``source/size``       (n,) int64             optional; bytes of the file of each row,
``source/mtime_ns``   (n,) int64             its time of modification,
``source/sha256``     (n, 32) uint8          and the hash of its content
====================  =====================  =========================================

and, as attributes of the file, ``format``, ``schema_version``, ``complete`` and the
metadata (backbone, transform, ...), text as it is and all else as JSON. Every dataset
carries the SHA-256 of its content, which `FeatureCache.verify` recomputes.

A cache is written once and never changed: under a temporary name, flushed to the
disk, renamed. Whoever dies in between leaves no broken file under the final name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._storage.hdf5 import CacheError, WriterLock, new_hdf5

if TYPE_CHECKING:
    import pandas

__all__ = [
    "CacheError",
    "FeatureCache",
    "LazyFeatures",
    "WriterLock",
    "write_cache",
]

FORMAT = "rezsl_sk feature cache"
SCHEMA_VERSION = 1
_RESERVED = ("format", "schema_version", "complete", "json_keys")
# What is known of the file that a row was computed from.
SOURCE_DTYPE = np.dtype(
    [("size", np.int64), ("mtime_ns", np.int64), ("sha256", np.uint8, (32,))]
)
_CHUNK_BYTES = 2**18
# Rows at a time wherever all of a cache passes through memory.
_BLOCK_BYTES = 2**24


class LazyFeatures:
    """The features of a cache: an array that stays on the disk until it is indexed.

    Indexing reads the rows asked for and gives a NumPy array; ``np.asarray`` gives
    all of them. It goes as ``X`` into scikit-learn's splitters, searches and
    estimators, and travels to worker processes as no more than a file name.

    Parameters
    ----------
    cache : FeatureCache
        The open cache to read from.

    Attributes
    ----------
    shape : tuple of int
        (n, d), or (n, r, d) with regions.
    dtype : dtype
        float16 or float32.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from rezsl_sk.feature_cache import FeatureCache
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "toy.h5")
    >>> X = np.arange(6, dtype=np.float32).reshape(3, 2)
    >>> with FeatureCache.from_arrays(path, X, ["cat", "cat", "dog"]) as cache:
    ...     print(cache.X.shape, cache.X[[2, 0]], len(cache.X[-1:]))
    (3, 2) [[4. 5.]
     [0. 1.]] 1
    >>> folder.cleanup()
    """

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self.shape: tuple[int, ...] = cache._dataset("features").shape
        self.dtype: np.dtype = cache._dataset("features").dtype

    @property
    def ndim(self) -> int:
        """Number of axes: 2, or 3 with regions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes that all of it takes in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyFeatures(shape={self.shape}, dtype={self.dtype})"

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray:
        if copy is False:
            raise ValueError(
                "The features lie on the disk, so reading them always makes a copy; "
                "copy=False cannot be had."
            )
        return self._cache._dataset("features")[...].astype(
            self.dtype if dtype is None else dtype, copy=False
        )

    def __getitem__(self, key: Any) -> Any:
        key = key if isinstance(key, tuple) else (key,)
        if key[0] is Ellipsis or key[0] is None:
            return np.asarray(self)[key]
        rows, rest = key[0], key[1:]
        data = self._cache._dataset("features")
        n = self.shape[0]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(n)
            if step > 0:
                found = data[start : max(start, stop) : step]
            else:  # HDF5 walks forwards only
                wanted = range(start, stop, step)
                found = data[wanted[-1] : start + 1][::step] if wanted else data[0:0]
        elif isinstance(rows, (int, np.integer)):
            if not -n <= rows < n:
                raise IndexError(f"Row {rows} does not exist: the cache has {n} rows.")
            found = data[int(rows) % n]
            return found[rest] if rest else found
        else:
            found = _take_rows(data, _row_numbers(rows, n))
        return found[(slice(None), *rest)] if rest else found


def _row_numbers(rows, n):
    """Turn an index array or a mask into row numbers from 0 to n - 1."""
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise IndexError(
                f"A mask of shape {rows.shape} cannot select among {n} rows; it needs "
                f"the shape ({n},)."
            )
        return np.flatnonzero(rows)
    if rows.size == 0:
        return np.zeros(0, dtype=np.intp)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise IndexError(
            f"Rows are selected by an integer, a slice, a list of integers or a mask; "
            f"given was an array of shape {rows.shape} and type {rows.dtype}."
        )
    if rows.min() < -n or rows.max() >= n:
        raise IndexError(
            f"Rows {rows.min()} to {rows.max()} were asked for, but the cache has "
            f"{n} rows."
        )
    return np.where(rows < 0, rows + n, rows).astype(np.intp)


def _take_rows(data, rows):
    """Read rows in any order, each chunk that holds one of them once."""
    out = np.empty((len(rows), *data.shape[1:]), dtype=data.dtype)
    step = data.chunks[0]
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    # h5py's own list indexing wants increasing, unique numbers and takes time that
    # grows with the square of their count.
    first = 0
    while first < len(wanted):
        stop = (wanted[first] // step + 1) * step
        last = np.searchsorted(wanted, stop)
        block = data[wanted[first] : wanted[last - 1] + 1]
        out[order[first:last]] = block[wanted[first:last] - wanted[first]]
        first = last
    return out


class FeatureCache:
    """Features on the disk, with labels, class table and provenance beside them.

    The file is opened read-only and checked when the object is made; the features
    stay on the disk. After `close`, or in another process, it opens again by itself
    at the next use. A pickle holds the path and nothing else.

    Parameters
    ----------
    path : str or path-like
        A complete feature cache.

    Attributes
    ----------
    path : Path
        The file.
    X : LazyFeatures of shape (n, d) or (n, r, d)
        The features; slicing reads what is needed, ``np.asarray`` gives all.
    y : ndarray of str of shape (n,) or None
        The name of each row's class; None where the cache has no labels.
    labels : ndarray of int of shape (n,) or None
        The same as indices into `classes`.
    classes : ndarray of str of shape (C,) or None
        The classes in the order of `class_attributes`, also those without a row.
    class_attributes : ndarray of float64 of shape (C, a) or None
        One row per class.
    attribute_names : ndarray of str of shape (a,) or None
        One name per column of `class_attributes`.
    paths : ndarray of str of shape (n,)
        What each row was computed from.
    sources : ndarray of shape (n,) or None
        Size, time of modification and SHA-256 of the file of each row.
    failed : list of (str, str)
        Inputs that gave no row, each with the reason.
    splits : dict of str to ndarray of int
        Named subsets as row numbers, for example ``trainval`` and ``test_unseen``.
    metadata : dict
        Where the features come from: backbone, weights, transform, versions.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CacheError
        If the file is no HDF5 file, is truncated, is of another format or of a newer
        schema version, or was never completed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from rezsl_sk.feature_cache import FeatureCache
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "toy.h5")
    >>> X = np.eye(3, dtype=np.float32)
    >>> table = (["cat", "dog", "yak"], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> cache = FeatureCache.from_arrays(
    ...     path, X, ["cat", "dog", "dog"], class_attributes=table
    ... )
    >>> cache.y.tolist(), cache.classes.tolist(), cache.class_attributes.shape
    (['cat', 'dog', 'dog'], ['cat', 'dog', 'yak'], (3, 2))
    >>> cache.close()
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._open()

    def _open(self):
        """Open the file, unless this very process has it open, and check it."""
        if self._file is not None and self._pid == os.getpid():
            return self._file
        if not self.path.is_file():
            raise FileNotFoundError(
                errno.ENOENT,
                "There is no feature cache here; `rezsl-features extract` or "
                "FeatureCache.from_arrays writes one",
                str(self.path),
            )
        # A finished cache never changes, so a reader needs no HDF5 lock, which
        # some network file systems refuse.
        try:
            file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            if isinstance(error, PermissionError):
                raise
            size = self.path.stat().st_size
            kind = (
                "is damaged or cut short"
                if _starts_like_hdf5(self.path)
                else "is no HDF5 file"
            )
            raise CacheError(
                f"{self.path} ({size} bytes) {kind} and cannot be read as a feature "
                f"cache; delete it and write it again."
            ) from error
        try:
            self._check(file)
        except Exception:
            file.close()
            raise
        self._file, self._pid = file, os.getpid()
        return file

    def _check(self, file):
        """Refuse what this version cannot read rightly."""
        if file.attrs.get("format") != FORMAT:
            raise CacheError(
                f"{self.path} is an HDF5 file but no feature cache: its attribute "
                f"`format` is {file.attrs.get('format')!r}, not {FORMAT!r}."
            )
        version = file.attrs.get("schema_version")
        if version != SCHEMA_VERSION:
            raise CacheError(
                f"{self.path} has schema version {version}; this rezsl_sk reads "
                f"version {SCHEMA_VERSION}. Install the release that wrote the file, "
                f"or extract again."
            )
        if not file.attrs.get("complete"):
            raise CacheError(
                f"{self.path} was never completed; delete it and write it again."
            )
        for name in ("features", "path"):
            if name not in file:
                raise CacheError(
                    f"{self.path} is damaged: the dataset `{name}` is missing. Delete "
                    f"it and write it again."
                )
        n = len(file["features"])
        if len(file["path"]) != n or ("label" in file and len(file["label"]) != n):
            raise CacheError(
                f"{self.path} is damaged: features, paths and labels differ in "
                f"length. Delete it and write it again."
            )

    def _dataset(self, name):
        return self._open()[name]

    def _text(self, name):
        """Read a text dataset as a NumPy array of str, or None where there is none."""
        file = self._open()
        if name not in file:
            return None
        # surrogateescape: a file name is bytes, and need not be UTF-8.
        text = file[name].asstr(errors="surrogateescape")[...]
        return np.array(text.tolist(), dtype=str)

    def close(self) -> None:
        """Close the file; the next use opens it again.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> from rezsl_sk.feature_cache import FeatureCache
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "toy.h5")
        >>> cache = FeatureCache.from_arrays(path, np.eye(2), ["a", "b"])
        >>> cache.close()
        >>> cache.y.tolist()
        ['a', 'b']
        >>> cache.close()
        >>> folder.cleanup()
        """
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.path = state["path"]
        self._file = None

    def __len__(self) -> int:
        return len(self._dataset("features"))

    def __repr__(self) -> str:
        X = self.X
        parts = [" x ".join(map(str, X.shape)) + f" {X.dtype}"]
        if self.classes is not None:
            parts.append(f"{len(self.classes)} classes")
        if self.class_attributes is not None:
            parts.append(f"{self.class_attributes.shape[1]} attributes")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        if "backbone" in self.metadata:
            parts.append(f"by {self.metadata['backbone']}")
        return f"FeatureCache({str(self.path)!r}: {', '.join(parts)})"

    @property
    def X(self) -> LazyFeatures:
        """The features, (n, d) or (n, r, d), read when they are indexed."""
        return LazyFeatures(self)

    @property
    def labels(self) -> np.ndarray | None:
        """Indices into `classes`, shape (n,), or None."""
        file = self._open()
        return file["label"][...] if "label" in file else None

    @property
    def classes(self) -> np.ndarray | None:
        """Names of the classes, shape (C,), or None."""
        return self._text("class_name")

    @property
    def y(self) -> np.ndarray | None:
        """Name of each row's class, shape (n,), or None."""
        labels = self.labels
        return None if labels is None else self.classes[labels]

    @property
    def class_attributes(self) -> np.ndarray | None:
        """Attributes of the classes, shape (C, a), or None."""
        file = self._open()
        return file["class_attributes"][...] if "class_attributes" in file else None

    @property
    def attribute_names(self) -> np.ndarray | None:
        """Names of the attributes, shape (a,), or None."""
        return self._text("attribute_name")

    @property
    def paths(self) -> np.ndarray:
        """What each row was computed from, shape (n,)."""
        return self._text("path")

    @property
    def sources(self) -> np.ndarray | None:
        """Size, time and hash of each row's file, (n,) of `SOURCE_DTYPE`, or None."""
        file = self._open()
        if "source" not in file:
            return None
        found = np.empty(len(self), SOURCE_DTYPE)
        for name in SOURCE_DTYPE.names:
            found[name] = file[f"source/{name}"][...]
        return found

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Inputs that gave no row, each with its reason."""
        paths, reasons = self._text("failed/path"), self._text("failed/reason")
        return [] if paths is None else list(zip(paths, reasons, strict=True))

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """Named subsets of the rows."""
        file = self._open()
        return {name: data[...] for name, data in file.get("splits", {}).items()}

    @property
    def metadata(self) -> dict[str, Any]:
        """Where the features come from."""
        attributes = self._open().attrs
        as_json = json.loads(attributes["json_keys"])
        return {
            key: json.loads(value) if key in as_json else value
            for key, value in attributes.items()
            if key not in _RESERVED
        }

    def verify(self) -> None:
        """Read the whole file: every hash holds and every number is finite.

        Memory stays small whatever the size of the cache.

        Raises
        ------
        CacheError
            If something in the file is not what was written, saying what.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> from rezsl_sk.feature_cache import FeatureCache
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "toy.h5")
        >>> with FeatureCache.from_arrays(path, np.eye(2), ["a", "b"]) as cache:
        ...     cache.verify()
        >>> folder.cleanup()
        """
        file = self._open()
        found = []
        file.visititems(
            lambda name, item: (
                found.append(name) if isinstance(item, h5py.Dataset) else None
            )
        )
        for name in found:
            data = file[name]
            digest = hashlib.sha256()
            try:
                for block in _blocks(data):
                    digest.update(_bytes_of(block))
                    if data.dtype.kind == "f" and not np.isfinite(block).all():
                        raise CacheError(
                            f"{self.path} is damaged: `{name}` holds values that are "
                            f"not finite. Delete it and write it again."
                        )
            except OSError as error:
                raise CacheError(
                    f"{self.path} is damaged: `{name}` cannot be read. Delete it and "
                    f"write it again."
                ) from error
            if digest.hexdigest() != data.attrs.get("sha256"):
                raise CacheError(
                    f"{self.path} is damaged: the SHA-256 of `{name}` is not the one "
                    f"that was written with it. Delete it and write it again."
                )
        labels, classes = self.labels, self.classes
        if labels is not None and not (
            0 <= labels.min() and labels.max() < len(classes)
        ):
            raise CacheError(
                f"{self.path} is damaged: labels run from {labels.min()} to "
                f"{labels.max()}, but there are {len(classes)} classes."
            )

    @classmethod
    def from_arrays(
        cls,
        path: str | os.PathLike[str],
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        class_attributes: pandas.DataFrame | tuple[ArrayLike, ArrayLike] | None = None,
        attribute_names: ArrayLike | None = None,
        paths: Sequence[str] | np.ndarray | None = None,
        splits: Mapping[str, ArrayLike] | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Write arrays to a new cache and open it.

        Parameters
        ----------
        path : str or path-like
            The file to write; its folder must exist.
        X : array-like of shape (n, d) or (n, r, d)
            The features. float16 stays float16, all else is stored as float32.
        y : array-like of shape (n,) or None, default=None
            Class of each row, as text or integers; stored as text.
        class_attributes : DataFrame, (classes, matrix) or None, default=None
            The table of attributes: a DataFrame indexed by class, or names of
            shape (C,) with a matrix of shape (C, a). It may describe more classes
            than have rows.
        attribute_names : array-like of str of shape (a,) or None, default=None
            Names of the columns; taken from a DataFrame by itself.
        paths : array-like of str of shape (n,) or None, default=None
            What each row was computed from; by default "row 0", "row 1", ...
        splits : dict of str to array-like of int, or None, default=None
            Named subsets as row numbers.
        metadata : dict or None, default=None
            Anything that JSON can hold.
        overwrite : bool, default=False
            Whether a file of that name is replaced.

        Returns
        -------
        FeatureCache
            The new cache, open.

        Raises
        ------
        FileExistsError
            If the file exists and `overwrite` is False.
        ValueError
            If X is not finite (also after rounding to float32), shapes do not
            agree, or a class of y is missing in the table.
        CacheError
            If another process is writing this file, or the disk is too full.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> from rezsl_sk.feature_cache import FeatureCache
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "toy.h5")
        >>> cache = FeatureCache.from_arrays(
        ...     path, np.eye(2), [7, 8], metadata={"backbone": "identity"}
        ... )
        >>> cache.y.tolist(), cache.metadata
        (['7', '8'], {'backbone': 'identity'})
        >>> cache.close()
        >>> folder.cleanup()
        """
        path = Path(path)
        X = np.asarray(X)
        if X.dtype.kind not in "fiub":
            raise ValueError(
                f"X has the type {X.dtype}; features are numbers, stored as float16 "
                f"or float32."
            )
        if X.dtype != np.float16:
            with np.errstate(over="ignore"):  # refused below, in a sentence
                X = X.astype(np.float32)
        if X.ndim not in (2, 3) or 0 in X.shape:
            raise ValueError(
                f"X has the shape {X.shape}; features are (n, d), or (n, r, d) with "
                f"r regions, with no axis of length 0."
            )
        if paths is None:
            paths = [f"row {i}" for i in range(len(X))]
        with WriterLock(path):
            write_cache(
                path,
                [X],
                paths=paths,
                y=y,
                class_attributes=class_attributes,
                attribute_names=attribute_names,
                splits=splits,
                metadata=metadata,
                overwrite=overwrite,
            )
        return cls(path)

    @classmethod
    def from_xlsa17(
        cls,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str],
        name: str,
        *,
        features: str = "auto",
        overwrite: bool = False,
    ) -> Self:
        """Turn a data set in the layout of the xlsa17 benchmark into a cache.

        Parameters
        ----------
        path : str or path-like
            The file to write.
        root : str or path-like
            The folder that holds one folder per data set.
        name : str
            The data set, for example "CUB".
        features : str, default="auto"
            The file of features, as for `rezsl_sk.datasets.load_xlsa17`.
        overwrite : bool, default=False
            Whether a file of that name is replaced.

        Returns
        -------
        FeatureCache
            The new cache, open; the official splits are in ``splits``.

        Raises
        ------
        FileExistsError
            If the file exists and `overwrite` is False.
        ValueError
            If there are no features, or the data set is broken, in the words of
            `load_xlsa17`.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> from scipy.io import savemat
        >>> from rezsl_sk.feature_cache import FeatureCache
        >>> folder = tempfile.TemporaryDirectory()
        >>> data = pathlib.Path(folder.name, "TOY")
        >>> data.mkdir()
        >>> savemat(data / "res101.mat", {
        ...     "features": np.eye(4), "labels": np.array([[1, 1, 2, 3]]).T})
        >>> savemat(data / "att_splits.mat", {
        ...     "att": np.eye(3), "trainval_loc": [[1], [3]],
        ...     "test_seen_loc": [[2]], "test_unseen_loc": [[4]],
        ...     "allclasses_names": np.array([["a"], ["b"], ["c"]], dtype=object)})
        >>> with FeatureCache.from_xlsa17(
        ...     pathlib.Path(folder.name, "toy.h5"), folder.name, "TOY"
        ... ) as cache:
        ...     print(cache.y, cache.splits["test_unseen"])
        ['a' 'a' 'b' 'c'] [3]
        >>> folder.cleanup()
        """
        from .datasets import load_xlsa17

        data = load_xlsa17(root, name, features=features)
        if data.X is None:
            raise ValueError(
                f"{Path(root, name)} holds tables and splits but no features; put its "
                f"res101.mat there, or extract features of its images."
            )
        splits = {
            key: data[key]
            for key in ("trainval", "train", "val", "test_seen", "test_unseen")
            if data.get(key) is not None
        }
        return cls.from_arrays(
            path,
            data.X,
            data.y,
            class_attributes=(data.class_names, data.attributes),
            attribute_names=data.get("attribute_names"),
            paths=data.get("image_files"),
            splits=splits,
            metadata={"source": f"xlsa17 {name}", "source_sha256": data.fingerprint},
            overwrite=overwrite,
        )


def write_cache(
    path: str | os.PathLike[str],
    blocks: Iterable[np.ndarray],
    *,
    paths: Sequence[str] | np.ndarray,
    y: ArrayLike | None = None,
    class_attributes: pandas.DataFrame | tuple[ArrayLike, ArrayLike] | None = None,
    attribute_names: ArrayLike | None = None,
    failed: Sequence[tuple[str, str]] = (),
    splits: Mapping[str, ArrayLike] | None = None,
    sources: np.ndarray | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a cache from blocks of rows, so that no more than one is in memory.

    The caller holds the `WriterLock` of `path`. Most users want
    `FeatureCache.from_arrays`.

    Parameters
    ----------
    path : str or path-like
        The file to write.
    blocks : iterable of ndarray of shape (m, d) or (m, r, d)
        The features in order, float16 or float32, ``len(paths)`` rows altogether.
    paths : sequence of str of length n
        What each row was computed from.
    y : array-like of shape (n,) or None, default=None
        Class of each row, as text or integers.
    class_attributes : DataFrame, (classes, matrix) or None, default=None
        The table of attributes, as for `FeatureCache.from_arrays`.
    attribute_names : array-like of str of shape (a,) or None, default=None
        Names of the columns of the table.
    failed : sequence of (str, str), default=()
        Inputs that gave no row, each with the reason.
    splits : dict of str to array-like of int, or None, default=None
        Named subsets as row numbers.
    sources : ndarray of `SOURCE_DTYPE` of shape (n,) or None, default=None
        Size, time and hash of the file that each row was computed from.
    metadata : dict or None, default=None
        Anything that JSON can hold.
    overwrite : bool, default=False
        Whether a file of that name is replaced.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is False.
    ValueError
        If features are not finite, or shapes, names and labels do not agree.
    CacheError
        If the disk is too full.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from rezsl_sk.feature_cache import FeatureCache, WriterLock, write_cache
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "toy.h5")
    >>> blocks = (np.full((1, 3), i, dtype=np.float16) for i in range(2))
    >>> with WriterLock(path):
    ...     write_cache(path, blocks, paths=["a.jpg", "b.jpg"])
    >>> with FeatureCache(path) as cache:
    ...     print(cache.X[:], cache.y)
    [[0. 0. 0.]
     [1. 1. 1.]] None
    >>> folder.cleanup()
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(
            errno.EEXIST,
            "The file exists; delete it, give another name or ask to overwrite it",
            str(path),
        )
    n = len(paths)
    labels, classes, table, attribute_names = check_classes(
        n, y, class_attributes, attribute_names
    )
    splits = _checked_splits(splits, n)
    if sources is not None and sources.shape != (n,):
        raise ValueError(
            f"sources has the shape {sources.shape} for {n} rows; give one for each."
        )
    metadata = _checked_metadata(metadata)
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None or n == 0:
        raise ValueError(f"{path} would have no rows; a cache needs at least one.")
    row_bytes = max(1, first[0].nbytes) if len(first) else 1
    text_bytes = sum(len(p) + 16 for p in paths) + sum(
        len(p) + len(r) + 32 for p, r in failed
    )
    table_bytes = 0 if table is None else table.nbytes
    n_bytes = n * (row_bytes + 56) + text_bytes + table_bytes
    with new_hdf5(path, n_bytes) as (file, check):
        _write_features(file, first, blocks, n, path, check)
        _write_text(file, "path", paths)
        if labels is not None:
            _write_array(file, "label", labels)
        if classes is not None:
            _write_text(file, "class_name", classes)
        if table is not None:
            _write_array(file, "class_attributes", table)
        if attribute_names is not None:
            _write_text(file, "attribute_name", attribute_names)
        _write_text(file, "failed/path", [p for p, _ in failed])
        _write_text(file, "failed/reason", [r for _, r in failed])
        for name, rows in splits.items():
            _write_array(file, f"splits/{name}", rows)
        if sources is not None:
            for name in SOURCE_DTYPE.names:
                values = np.ascontiguousarray(sources[name])
                _write_array(file, f"source/{name}", values)
        file.attrs["format"] = FORMAT
        file.attrs["schema_version"] = SCHEMA_VERSION
        # JSON escapes what HDF5 text cannot hold.
        as_json = sorted(
            key
            for key, value in metadata.items()
            if not (isinstance(value, str) and value.isprintable())
        )
        file.attrs["json_keys"] = json.dumps(as_json)
        for key, value in metadata.items():
            file.attrs[key] = json.dumps(value) if key in as_json else value
        file.attrs["complete"] = True


def _starts_like_hdf5(path):
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _bytes_of(block):
    """Content of a block for hashing; text as UTF-8, each piece ended by NUL."""
    if block.dtype == object:
        return b"".join(piece + b"\0" for piece in block)
    return np.ascontiguousarray(block).view(np.uint8)


def _blocks(data):
    """Read a dataset in order, a limited number of rows at a time."""
    row_bytes = max(1, data.dtype.itemsize * int(np.prod(data.shape[1:])))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(data), step):
        yield data[start : start + step]


def _write_array(file, name, values):
    data = file.create_dataset(name, data=values)
    data.attrs["sha256"] = hashlib.sha256(_bytes_of(values)).hexdigest()


def _write_text(file, name, values):
    pieces = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        pieces[i] = _encoded(value)
    data = file.create_dataset(name, data=pieces, dtype=h5py.string_dtype())
    data.attrs["sha256"] = hashlib.sha256(_bytes_of(pieces)).hexdigest()


def _encoded(value):
    try:
        piece = str(value).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The name {value!r} is no valid Unicode text and cannot be stored."
        ) from error
    if b"\0" in piece:
        raise ValueError(
            f"The name {value!r} contains a NUL character, which HDF5 text cannot "
            f"hold; rename it."
        )
    return piece


def _write_features(file, first, blocks, n, path, check):
    """Write blocks as they come; the first one tells row shape and type."""
    shape, dtype = first.shape[1:], first.dtype
    if dtype not in (np.float16, np.float32) or len(shape) not in (1, 2):
        raise ValueError(
            f"{path}: a block of features has the shape {first.shape} and the type "
            f"{dtype}; allowed are (m, d) or (m, r, d) of float16 or float32."
        )
    row_bytes = max(1, dtype.itemsize * int(np.prod(shape)))
    chunk = (max(1, min(n, _CHUNK_BYTES // row_bytes)), *shape)
    data = file.create_dataset("features", (n, *shape), dtype=dtype, chunks=chunk)
    digest = hashlib.sha256()
    row = 0
    block = first
    while block is not None:
        if block.shape[1:] != shape or block.dtype != dtype or row + len(block) > n:
            raise ValueError(
                f"{path}: {row} rows of shape {shape} and type {dtype} are followed "
                f"by {len(block)} of shape {block.shape[1:]} and type {block.dtype}; "
                f"{n} alike were announced."
            )
        finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"Row {row + int(np.argmin(finite))} of X is not finite (NaN, "
                f"infinity, or beyond the range of {dtype}); such features cannot be "
                f"learned from and are not stored."
            )
        data[row : row + len(block)] = block
        check()
        digest.update(_bytes_of(block))
        row += len(block)
        block = next(blocks, None)
    if row != n:
        raise ValueError(f"{path}: {n} rows were announced and {row} given.")
    data.attrs["sha256"] = digest.hexdigest()


def _names(values, what):
    """Class labels as a list of text; refuses what no name can be."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"{what} has the shape {values.shape}; it must be 1-D.")
    if values.dtype.kind not in "iubUOT":
        raise ValueError(
            f"{what} has the type {values.dtype}; classes are text or integers."
        )
    names = values.tolist()
    for name in names:
        if not isinstance(name, (str, int)):
            raise ValueError(
                f"{what} contains {name!r}; classes are text or integers, and none "
                f"may be missing."
            )
    return [str(name) for name in names]


def check_classes(
    n: int,
    y: ArrayLike | None,
    class_attributes: pandas.DataFrame | tuple[ArrayLike, ArrayLike] | None,
    attribute_names: ArrayLike | None,
) -> tuple[np.ndarray | None, list[str] | None, np.ndarray | None, list[str] | None]:
    """Bring labels and table of classes together.

    Parameters
    ----------
    n : int
        Number of rows.
    y, class_attributes, attribute_names
        As for `write_cache`.

    Returns
    -------
    labels : ndarray of int of shape (n,) or None
        Indices into `classes`.
    classes : list of str of length C, or None
        In the order of the table; sorted where there is none.
    table : ndarray of float64 of shape (C, a) or None
        The attributes.
    attribute_names : list of str of length a, or None
        Names of the columns.

    Raises
    ------
    ValueError
        If they do not fit together, saying where.
    """
    names = None if y is None else _names(y, "y")
    if names is not None and len(names) != n:
        raise ValueError(f"y has {len(names)} entries for {n} rows; give one each.")
    table = None
    if class_attributes is None:
        if attribute_names is not None:
            raise ValueError(
                "attribute_names were given without class_attributes; give the table "
                "they belong to, or neither."
            )
        classes = None if names is None else sorted(set(names))
    else:
        classes, table, attribute_names = _checked_table(
            class_attributes, attribute_names
        )
    if names is None:
        return None, classes, table, attribute_names
    position = {name: i for i, name in enumerate(classes)}
    missing = sorted(set(names) - position.keys())
    if missing:
        raise ValueError(
            f"{len(missing)} classes of y have no row in class_attributes, the first "
            f"being {missing[0]!r}; add them to the table, or leave their samples out."
        )
    labels = np.array([position[name] for name in names], dtype=np.int64)
    return labels, classes, table, attribute_names


def _checked_table(class_attributes, attribute_names):
    if hasattr(class_attributes, "columns"):  # a DataFrame, without importing pandas
        classes = class_attributes.index
        table = class_attributes.to_numpy()
        if attribute_names is None:
            attribute_names = class_attributes.columns
    else:
        try:
            classes, table = class_attributes
        except (TypeError, ValueError):
            raise ValueError(
                "class_attributes is neither a DataFrame indexed by class nor a pair "
                "(classes, matrix)."
            ) from None
    classes = _names(classes, "the list of classes")
    table = np.asarray(table)
    if table.dtype.kind not in "fiub":
        raise ValueError(
            f"class_attributes has the type {table.dtype}; attributes are numbers."
        )
    table = np.ascontiguousarray(table, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(classes) or table.shape[1] == 0:
        raise ValueError(
            f"class_attributes has the shape {table.shape} for {len(classes)} "
            f"classes; it must be (classes, attributes)."
        )
    if not np.isfinite(table).all():
        bad = classes[int(np.argmin(np.isfinite(table).all(axis=1)))]
        raise ValueError(
            f"class_attributes of {bad!r} are not finite; fill the gaps first."
        )
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ValueError(
            f"class_attributes lists {twice!r} more than once; each class has one row."
        )
    if attribute_names is not None:
        attribute_names = [str(name) for name in attribute_names]
        if len(attribute_names) != table.shape[1]:
            raise ValueError(
                f"{len(attribute_names)} attribute names were given for "
                f"{table.shape[1]} attributes."
            )
    return classes, table, attribute_names


def _checked_splits(splits, n):
    checked = {}
    for name, rows in (splits or {}).items():
        rows = np.asarray(rows)
        if rows.size == 0:
            rows = np.zeros(0, dtype=np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError(
                f"The split {name!r} has the shape {rows.shape} and the type "
                f"{rows.dtype}; a split is a 1-D list of row numbers."
            )
        if rows.size and (rows.min() < 0 or rows.max() >= n):
            raise ValueError(
                f"The split {name!r} names rows {rows.min()} to {rows.max()}; there "
                f"are {n} rows, numbered from 0."
            )
        if not name or "/" in name or "\0" in name or name == ".":
            raise ValueError(f"{name!r} cannot be the name of a split.")
        checked[name] = rows.astype(np.int64)
    return checked


def _checked_metadata(metadata):
    metadata = dict(metadata or {})
    for key, value in metadata.items():
        if (
            not isinstance(key, str)
            or not key.isprintable()
            or not key
            or key in _RESERVED
        ):
            raise ValueError(
                f"{key!r} cannot be a key of metadata; keys are text other than "
                f"{', '.join(_RESERVED)}."
            )
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"metadata[{key!r}] cannot be written as JSON: {error}."
            ) from error
    return metadata
