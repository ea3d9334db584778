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
``class_attributes``  (C, a) float64         optional; one row per class, NaN where a
                                             value is missing
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
has the SHA-256 of its content as an attribute, ``manifest_sha256`` is the hash over
all datasets and attributes, and `FeatureCache.verify` computes them again. Numbers
have checksums of HDF5 (fletcher32), which are compared whenever they are read. Behind
the end of the HDF5 file stands the hash of all bytes but the features, which is
compared when the file is opened; see ``rezsl_sk/_storage/seal.py``. A file without
that hash is read and verified as a whole whenever it is opened, in a process of its
own. Version 1 of the schema had hashes of the datasets alone.

A cache is written once and never changed: under a temporary name, flushed to the
disk, renamed. Whoever dies in between leaves no broken file under the final name.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._storage.child import in_child
from ._storage.contents import (
    FORMAT,
    SCHEMA_VERSION,
    SOURCE_DTYPE,
    check_contents,
    check_hashes,
    datasets,
    manifest_sha256,
    write_array,
    write_features,
    write_text,
)
from ._storage.foreign import open_hdf5, reading
from ._storage.hdf5 import (
    CacheError,
    WriterLock,
    format_bytes,
    new_file,
    sync_folder,
)
from ._storage.inputs import RESERVED, check_classes, check_metadata, check_splits
from ._storage.seal import chunk_spans, is_sealed, write_seal

if TYPE_CHECKING:
    import pandas

__all__ = [
    "CacheError",
    "FeatureCache",
    "LazyFeatures",
    "WriterLock",
    "inspect_cache",
    "verify_cache",
    "write_cache",
    # What the extractor needs beside these.
    "FORMAT",
    "SOURCE_DTYPE",
    "check_classes",
    "format_bytes",
    "new_file",
    "sync_folder",
]


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
        return self._cache._read("features").astype(
            self.dtype if dtype is None else dtype, copy=False
        )

    def __getitem__(self, key: Any) -> Any:
        key = key if isinstance(key, tuple) else (key,)
        if key[0] is Ellipsis or key[0] is None:
            return np.asarray(self)[key]
        rows, rest = key[0], key[1:]
        n = self.shape[0]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(n)
            if step > 0:
                found = self._read(slice(start, max(start, stop), step))
            else:  # HDF5 walks forwards only
                wanted = range(start, stop, step)
                found = (
                    self._read(slice(wanted[-1], start + 1))[::step]
                    if wanted
                    else self._read(slice(0, 0))
                )
        elif isinstance(rows, (int, np.integer)):
            if not -n <= rows < n:
                raise IndexError(f"Row {rows} does not exist: the cache has {n} rows.")
            found = self._read(int(rows) % n)
            return found[rest] if rest else found
        else:
            rows = _row_numbers(rows, n)
            data = self._cache._dataset("features")
            with reading(self._cache.path, "`features`"):
                found = _take_rows(data, rows)
        return found[(slice(None), *rest)] if rest else found

    def _read(self, rows):
        return self._cache._read("features", rows)


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
        One row per class; NaN where a value is missing.
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
        If the file is no HDF5 file, is damaged, cut short or changed, is of another
        format or of a newer schema version, was never completed, or leads to other
        files by links or external storage.

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
        self._found: dict[str, h5py.Dataset] = {}
        self._open()

    def _open(self):
        """Open the file, unless this very process has it open, and check it."""
        if self._file is not None and self._pid == os.getpid():
            return self._file
        _check_is_file(self.path)
        if not is_sealed(self.path):
            # An early version wrote it, or another program has, as h5repack does.
            # The HDF5 library may not survive what has happened to it meanwhile.
            in_child(f"{__name__}:_check_all", self.path)
        file = open_hdf5(self.path)
        try:
            self._found = check_contents(file, self.path)
        except BaseException:
            file.close()
            raise
        self._file, self._pid = file, os.getpid()
        return file

    def _dataset(self, name):
        """A data set, or None where there is none."""
        self._open()
        return self._found.get(name)

    def _read(self, name, key=...):
        """Values of a data set, or None where there is none."""
        data = self._dataset(name)
        if data is None:
            return None
        with reading(self.path, f"`{name}`"):
            return data[key]

    def _text(self, name):
        """Read a text dataset as a NumPy array of str, or None where there is none."""
        data = self._dataset(name)
        if data is None:
            return None
        # surrogateescape: a file name is bytes, and need not be UTF-8.
        with reading(self.path, f"`{name}`"):
            text = data.asstr(errors="surrogateescape")[...]
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
            self._file, self._found = None, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.path = state["path"]
        self._file, self._found = None, {}

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
        return self._read("label")

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
        return self._read("class_attributes")

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
        if any(self._dataset(f"source/{name}") is None for name in SOURCE_DTYPE.names):
            return None
        found = np.empty(len(self), SOURCE_DTYPE)
        for name in SOURCE_DTYPE.names:
            found[name] = self._read(f"source/{name}")
        return found

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Inputs that gave no row, each with its reason."""
        paths, reasons = self._text("failed/path"), self._text("failed/reason")
        return [] if paths is None else list(zip(paths, reasons, strict=True))

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """Named subsets of the rows."""
        self._open()
        return {
            name.removeprefix("splits/"): self._read(name)
            for name in self._found
            if name.startswith("splits/")
        }

    @property
    def metadata(self) -> dict[str, Any]:
        """Where the features come from."""
        attributes = self._open().attrs
        with reading(self.path, "its metadata"):
            as_json = json.loads(attributes["json_keys"])
            return {
                key: json.loads(value) if key in as_json else value
                for key, value in attributes.items()
                if key not in RESERVED
            }

    def verify(self) -> None:
        """Read the whole file: every hash holds and every number is finite.

        Memory stays small whatever the size of the cache. A file of unknown origin
        is better given to `verify_cache`, which reads it in another process.

        Raises
        ------
        CacheError
            If something in the file is not what was written, saying what.

        Warns
        -----
        UserWarning
            If the file was written by an earlier version, of which not all can be
            checked.

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
        with reading(self.path, "its structure"):
            check_hashes(file, self._found, self.path)
            old = file.attrs["schema_version"] == 1
        if old:
            warnings.warn(
                f"{self.path} was written by an earlier version of rezsl_sk: its "
                f"values are those that were written, but changes of its metadata and "
                f"data sets that were removed cannot be noticed. To have them noticed, "
                f"write the cache again.",
                UserWarning,
                stacklevel=2,
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
        allow_missing: bool = False,
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
        allow_missing : bool, default=False
            Whether NaN in `class_attributes` is a missing value, and stored.
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
            agree, a class of y is missing in the table, or the table is not
            finite, or has two attributes of one name or one without.
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
                allow_missing=allow_missing,
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
    allow_missing: bool = False,
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
    allow_missing : bool, default=False
        Whether NaN in `class_attributes` is a missing value, and stored.
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
        n, y, class_attributes, attribute_names, allow_missing=allow_missing
    )
    splits = check_splits(splits, n)
    if sources is not None and sources.shape != (n,):
        raise ValueError(
            f"sources has the shape {sources.shape} for {n} rows; give one for each."
        )
    metadata = check_metadata(metadata)
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
    with new_file(path, n_bytes) as raw:
        with h5py.File(raw, "w") as file:
            write_features(file, first, blocks, n, path, raw.check)
            write_text(file, "path", paths)
            if labels is not None:
                write_array(file, "label", labels)
            if classes is not None:
                write_text(file, "class_name", classes)
            if table is not None:
                write_array(file, "class_attributes", table)
            if attribute_names is not None:
                write_text(file, "attribute_name", attribute_names)
            write_text(file, "failed/path", [p for p, _ in failed])
            write_text(file, "failed/reason", [r for _, r in failed])
            for name, rows in splits.items():
                write_array(file, f"splits/{name}", rows)
            if sources is not None:
                for name in SOURCE_DTYPE.names:
                    values = np.ascontiguousarray(sources[name])
                    write_array(file, f"source/{name}", values)
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
            file.attrs["manifest_sha256"] = manifest_sha256(file, datasets(file))
            file.flush()
            spans = chunk_spans(file["features"])
        raw.check()
        write_seal(raw, spans)


def inspect_cache(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Tell what a cache holds, all but the features, read in a process of its own.

    A file that would crash the HDF5 library does not crash this process.

    Parameters
    ----------
    path : str or path-like
        A file that may be damaged, or come from anybody.

    Returns
    -------
    dict
        ``shape`` and ``dtype`` of the features; ``classes`` and ``used_classes``
        (numbers of classes, of those with rows), None without labels;
        ``attribute_names``, a list or None; ``attributes``, their number or None;
        ``missing_attributes``, the number of missing values in the table;
        ``splits`` (number of rows by name), ``metadata``, ``failed`` (pairs of path
        and reason), ``schema_version``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CacheError
        If the file is no usable cache.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from rezsl_sk.feature_cache import FeatureCache, inspect_cache
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "toy.h5")
    ...     FeatureCache.from_arrays(path, np.eye(2), ["a", "b"]).close()
    ...     inspect_cache(path)["shape"]
    [2, 2]
    """
    return _apart("_described", path)


def verify_cache(path: str | os.PathLike[str]) -> None:
    """Do what `FeatureCache.verify` does, in a process of its own.

    A file that would crash the HDF5 library does not crash this process.

    Parameters
    ----------
    path : str or path-like
        A file that may be damaged, or come from anybody.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CacheError
        If something in the file is not what was written, saying what.

    Warns
    -----
    UserWarning
        If the file was written by an earlier version, of which not all can be
        checked.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from rezsl_sk.feature_cache import FeatureCache, verify_cache
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "toy.h5")
    ...     FeatureCache.from_arrays(path, np.eye(2), ["a", "b"]).close()
    ...     verify_cache(path)
    """
    _apart("_verified", path)


def _apart(function, path):
    path = Path(path)
    _check_is_file(path)
    # Most of what happens to files is noticed here, which takes no new process.
    is_sealed(path)
    return in_child(f"{__name__}:{function}", path)


def _check_is_file(path):
    if not path.is_file():
        raise FileNotFoundError(
            errno.ENOENT,
            "There is no feature cache here; `rezsl-features extract` or "
            "FeatureCache.from_arrays writes one",
            str(path),
        )


def _check_all(path):
    with open_hdf5(path) as file:
        check_hashes(file, check_contents(file, path), path)


def _verified(path):
    with FeatureCache(path) as cache:
        cache.verify()


def _described(path):
    with FeatureCache(path) as cache:
        labels, table, names = (
            cache.labels,
            cache.class_attributes,
            cache.attribute_names,
        )
        return {
            "shape": list(cache.X.shape),
            "dtype": str(cache.X.dtype),
            "classes": None if labels is None else len(cache.classes),
            "used_classes": None if labels is None else len(np.unique(labels)),
            "attributes": None if table is None else table.shape[1],
            "missing_attributes": 0 if table is None else int(np.isnan(table).sum()),
            "attribute_names": None if names is None else names.tolist(),
            "splits": {name: len(rows) for name, rows in cache.splits.items()},
            "metadata": cache.metadata,
            "failed": [[str(name), str(reason)] for name, reason in cache.failed],
            "schema_version": int(cache._open().attrs["schema_version"]),
        }
