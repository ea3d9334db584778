"""Rows of a file that need not fit into memory.

An estimator takes X as `open_rows` gives it: an array, or `Rows`, which stay in their
file. `blocks` goes through either in order. Knows no torch and no estimator.
"""

import contextlib
import copy
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import h5py
import numpy as np
from sklearn.utils import gen_batches

from ._arrays import plain
from .feature_cache import CacheError, FeatureCache, LazyFeatures

IN_MEMORY_BYTES = 2**30  # a file whose rows take more than this stays on the disk
BLOCK_BYTES = 2**25  # read at a time in a pass from first to last row
BUFFER_BYTES = 2**28  # mixed at a time in training
RUN_BYTES = 2**18  # neighbours in the file, read in one piece in training
FEWEST_RUNS = 64  # in a buffer, however large the chunks of the file
SAMPLE_BYTES = 2**26  # rows that stand for all where a sample is enough
# Metadata of a cache by which features of the same width differ in meaning.
SOURCE_KEYS = ("backbone", "pool", "architecture_sha256", "weights_sha256", "transform")


def open_rows(X, *, what="X", stream=True):
    """X as an estimator wants it: an array (or what it was), or `Rows`.

    Parameters
    ----------
    X : FeatureCache, LazyFeatures, h5py.Dataset, np.memmap, or anything else
        Files of up to ``IN_MEMORY_BYTES`` are read, so that they are fitted as
        an array is; anything else comes back as it is.

    what : str
        What the caller calls it, for messages.

    stream : bool
        False: read files of any size.

    Raises
    ------
    ValueError
        If the file is closed or cut short, or holds no numbers, or more than
        the rows of a table and is too large to be read.
    """
    if isinstance(X, FeatureCache):
        X = X.X
    if not is_stored(X):
        return plain(X, what)
    if isinstance(X, h5py.Dataset) and not X:
        raise ValueError(f"the HDF5 file of {what} is closed; open it again.")
    if not X.shape:
        raise ValueError(f"{what} has the shape {X.shape}; rows are needed, (n, d).")
    if isinstance(X, np.memmap):
        _check_length(X, what)
    size = np.dtype(working_dtype(X)).itemsize * math.prod(X.shape)
    if not stream or size <= IN_MEMORY_BYTES:
        return _read(X, slice(None), what)
    if X.dtype.kind not in "fiub" or X.ndim != 2:
        raise ValueError(
            f"{what} has the shape {X.shape} and the type {X.dtype}; a file that is "
            "read as it is needed must hold numbers, of shape (n, d)."
        )
    return Rows(X, what=what)


def check_source(estimator, X, *, reset=False):
    """Keep whose features a cache holds, or refuse those of another network.

    Features of two networks, two sets of weights or two transforms may have the same
    width, but mean different things: a model of one answers wrongly to the other.

    Parameters
    ----------
    estimator : estimator
        Has, or is given, ``feature_source_``: a dict, or None.

    X : FeatureCache, LazyFeatures, or anything else
        Of anything else nothing is known, so it is not checked.

    reset : bool
        Whether a fit begins.

    Raises
    ------
    ValueError
        If the cache and that of the fit differ, naming both.
    """
    source = None
    if isinstance(X, FeatureCache | LazyFeatures):
        cache = X if isinstance(X, FeatureCache) else X._cache
        metadata = cache.metadata
        source = {key: metadata[key] for key in SOURCE_KEYS if key in metadata}
    if reset:
        estimator.feature_source_ = source
        return
    before = getattr(estimator, "feature_source_", None)
    if not source or not before:
        return
    # What one of the caches does not say cannot be compared.
    different = [key for key in before if source.get(key, before[key]) != before[key]]
    if different:
        parts = "; ".join(
            f"{key} {_short(before[key])} in fit, {_short(source[key])} now"
            for key in different
        )
        raise ValueError(
            f"{cache.path} holds other features than {type(estimator).__name__} was "
            f"fitted on: {parts}. Give features of the network, weights and transform "
            "of fit, or fit anew."
        )


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"


def file_of(X):
    """The file that X lies in, or None."""
    if isinstance(X, FeatureCache):
        X = X.X
    if isinstance(X, LazyFeatures):
        return X._cache.path
    if isinstance(X, h5py.Dataset):
        return X.file.filename if X else None
    return getattr(X, "filename", None)


def is_stored(X):
    """Whether X is an array in a file."""
    return isinstance(X, LazyFeatures | h5py.Dataset | np.memmap)


def blocks(X, n_rows) -> Iterator[tuple[slice, np.ndarray]]:
    """Go through an array or `Rows` in order, at most `n_rows` at a time.

    Yields
    ------
    rows : slice
        Which rows of X.

    block : ndarray
        Those rows. Of `Rows` the next ones are being read meanwhile.
    """
    if isinstance(X, Rows):
        return X.blocks(n_rows)
    return ((rows, X[rows]) for rows in gen_batches(X.shape[0], n_rows))


class Rows:
    """Rows (n, d) of a file, some or all, as they are or transformed.

    Indexing by a mask or by increasing row numbers gives `Rows` again; nothing
    is read but by `blocks` and `shuffled`.

    Parameters
    ----------
    data : LazyFeatures, h5py.Dataset or memmap of shape (n, d)

    what : str
        What the user calls it, for messages.

    Attributes
    ----------
    shape : (int, int)

    dtype : dtype
        float64 for files of float64, else float32; see `astype`.

    checked : bool
        Whether all values are known to be finite; else each block is checked.

    sample, held_out : Sample or None
        What the first to go through them kept for later.
    """

    ndim = 2

    def __init__(self, data, *, what="X"):
        self._data = data
        self._what = what
        self._index = None  # row numbers in the file, increasing; None: all
        self._transforms = ()
        # Of the file, which may be closed when they are wanted.
        self._file_shape = self.shape = tuple(data.shape)
        chunks = getattr(self._dataset(), "chunks", None)
        self._chunk = chunks[0] if chunks else 1  # rows read together anyway
        self.dtype = self._read_dtype = np.dtype(working_dtype(data))
        self.checked = False
        self.sample = self.held_out = None

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        view = copy.copy(self)
        view._index = index if self._index is None else self._index[index]
        if (np.diff(view._index) <= 0).any():
            raise ValueError("rows of a file must be asked for in increasing order.")
        view.shape = (len(index), self.shape[1])
        return view

    def astype(self, dtype, *, copy=False, order="C"):
        """These rows in another precision (the signature is NumPy's)."""
        view = self.mapped(None)
        view.dtype = view._read_dtype = np.dtype(dtype)
        return view

    def mapped(self, transform, width=None, dtype=None):
        """These rows, each block (m, d) given to `transform` after it is read.

        Parameters
        ----------
        transform : callable from (m, d) to (m, width), row by row, or None

        width : int or None
            None: as before.

        dtype : dtype or None
            Of what `transform` returns. None: as before.
        """
        view = copy.copy(self)
        if transform is not None:
            view._transforms = (*self._transforms, transform)
        view.shape = (len(self), self.shape[1] if width is None else width)
        view.dtype = self.dtype if dtype is None else np.dtype(dtype)
        return view

    def blocks(self, n_rows):
        """The rows in order; see :func:`blocks`."""
        step = max(1, min(n_rows, BLOCK_BYTES // self._row_bytes()))
        if step > self._chunk:  # a chunk of HDF5 is read whole or not at all
            step -= step % self._chunk
        return read_ahead(partial(self._block, span) for span in self._spans(step))

    def shuffled(self, order) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows once, in buffers mixed from short runs from all over the file.

        Parameters
        ----------
        order : callable
            ``order(m)`` is a random permutation of m numbers, an ndarray.

        Yields
        ------
        numbers : ndarray of int, shape (m,)
            Which rows. Runs are whole; to mix them is left to the caller.

        buffer : ndarray of shape (m, d)
            Those rows; overwritten by the buffer after the next one.
        """
        most = max(1, BUFFER_BYTES // self._row_bytes())
        # A whole number of chunks, so that none is read twice, unless these are so
        # large that a buffer would be no mixture.
        chunk = min(self._chunk, max(1, most // FEWEST_RUNS))
        run = chunk * max(1, RUN_BYTES // self._row_bytes() // chunk)
        spans = list(self._spans(run))
        spans = [spans[i] for i in order(len(spans))]
        # Buffers of about the same size, so that the last one is mixed as well.
        size = -(-len(self) // -(-len(self) // most))
        sizes = np.array([span[2].stop - span[2].start for span in spans])
        number = (np.cumsum(sizes) - sizes) // size
        parts = np.split(np.arange(len(spans)), np.flatnonzero(np.diff(number)) + 1)
        room = min(size + run, len(self))
        buffers = [np.empty((room, self.shape[1]), dtype=self.dtype) for _ in range(2)]
        places = self._chunk_places()
        return read_ahead(
            partial(self._fill, buffers[i % 2], sorted(spans[j] for j in part), places)
            for i, part in enumerate(parts)
        )

    def _spans(self, step):
        """(start, stop) of pieces of the file, and which of our rows lie there."""
        n = self._file_shape[0]
        starts = np.arange(0, n, step)
        stops = np.minimum(starts + step, n)
        if self._index is None:
            first, last = starts, stops
        else:
            first, last = np.searchsorted(self._index, [starts, stops])
        for i in np.flatnonzero(last > first):
            yield int(starts[i]), int(stops[i]), slice(int(first[i]), int(last[i]))

    def _block(self, span):
        block = self._raw(*span)
        for transform in self._transforms:
            block = transform(block)
        return span[2], block

    def _fill(self, buffer, spans, places):
        self._announce(spans, places)
        numbers, at = [], 0
        # In the order of the file, which disks like best.
        for start, stop, positions in spans:
            block = self._raw(start, stop, positions)
            buffer[at : at + len(block)] = block
            at += len(block)
            numbers.append(np.arange(positions.start, positions.stop))
        for rows in gen_batches(at, 4096):
            for transform in self._transforms:
                buffer[rows] = transform(buffer[rows])
        return np.concatenate(numbers), buffer[:at]

    def _raw(self, start, stop, positions):
        """Rows of one piece of the file, checked, in working precision."""
        block = _read(self._data, slice(start, stop), self._what)
        if block.shape != (stop - start, self._file_shape[1]):
            raise CacheError(
                f"rows {start} to {stop - 1} of {self._what} have the shape "
                f"{block.shape}: the file was {self._file_shape[0]} x "
                f"{self._file_shape[1]} when it was opened, and another has taken its "
                "place. Open it again."
            )
        if self._index is not None and positions.stop - positions.start < len(block):
            block = block[self._index[positions] - start]
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(block, dtype=self._read_dtype)
        if not self.checked and not np.isfinite(block).all():
            bad = np.flatnonzero(~np.isfinite(block).all(axis=1)) + positions.start
            if self._index is not None:
                bad = self._index[bad]
            raise ValueError(
                f"{self._what} has missing or infinite values in rows "
                f"{bad[:5].tolist()}{' and more' if len(bad) > 5 else ''} (or beyond "
                f"the range of {self._read_dtype}); leave these rows out."
            )
        return block

    def _chunk_places(self):
        """Where in the file each chunk of rows lies: (offset, bytes), or None."""
        data = self._dataset()
        if self._chunk == 1 or data.chunks[1:] != data.shape[1:]:
            return None
        places = np.zeros((-(-len(data) // data.chunks[0]), 2), dtype=np.int64)

        def note(chunk):
            row = chunk.chunk_offset[0] // data.chunks[0]
            places[row] = chunk.byte_offset, chunk.size

        data.id.chunk_iter(note)
        return places

    def _announce(self, spans, places):
        """Tell the kernel what will be read, so that the disk has much to do at once.

        Half as fast again as one piece after the other. No more than a hint: where
        it cannot be given, reading is as right.
        """
        if places is None or not hasattr(os, "posix_fadvise"):
            return
        data = self._dataset()
        with contextlib.suppress(OSError, RuntimeError, TypeError):
            fd = data.file.id.get_vfd_handle()
            for start, stop, _ in spans:
                chunks = places[start // data.chunks[0] : -(-stop // data.chunks[0])]
                for offset, size in chunks.tolist():
                    os.posix_fadvise(fd, offset, size, os.POSIX_FADV_WILLNEED)

    def _dataset(self):
        data = self._data
        return (
            data._cache._dataset("features") if isinstance(data, LazyFeatures) else data
        )

    def _row_bytes(self):
        # A transform may widen rows.
        widest = max(self.shape[1], self._file_shape[1])
        return max(1, widest * self.dtype.itemsize)


class Sample:
    """Some rows, kept as they pass by.

    Parameters
    ----------
    numbers : ndarray of int, increasing
        Which rows to keep.

    X : array or Rows of shape (n, d)
        Where they will come from: for width and precision.

    Attributes
    ----------
    rows : ndarray of shape (len(numbers), d)
    """

    def __init__(self, numbers, X):
        self.numbers = numbers
        self.rows = np.empty((len(numbers), X.shape[1]), dtype=X.dtype)

    def take(self, rows, block):
        """Keep what is wanted of `block`, the rows of the slice `rows`."""
        first, last = np.searchsorted(self.numbers, [rows.start, rows.stop])
        self.rows[first:last] = block[self.numbers[first:last] - rows.start]


def sample_size(X):
    """How many rows like those of X fit into ``SAMPLE_BYTES``."""
    return max(1, SAMPLE_BYTES // (X.shape[1] * X.dtype.itemsize))


def read_ahead(tasks: Iterable[Callable]) -> Iterator:
    """Results of `tasks` in order, the next one worked on while one is in use.

    One thread at a time, and one thread for each task: it ends when its task
    does, so that whoever stops asking, for whatever reason, leaves none behind.
    """
    ahead = None
    try:
        for task in tasks:
            if ahead is not None:
                ahead.join()
            done, ahead = ahead, _Task(task)
            if done is not None:
                yield done.result()
        if ahead is not None:
            yield ahead.result()
    finally:
        if ahead is not None:
            ahead.join()


class _Task(threading.Thread):
    def __init__(self, task):
        super().__init__(name="rezsl_sk-reader")
        self._task, self._result, self._error = task, None, None
        self.start()

    def run(self):
        try:
            self._result = self._task()
        except BaseException as error:  # raised again where the result is asked for
            self._error = error

    def result(self):
        self.join()
        if self._error is not None:
            raise self._error
        result, self._result = self._result, None
        return result


def working_dtype(X):
    """In which an estimator works: float64 for that and wider, else float32.

    In the byte order of this machine, whatever that of X.
    """
    is_wide = X.dtype.kind == "f" and X.dtype.itemsize >= 8
    return np.float64 if is_wide else np.float32


def in_dtype(X, dtype):
    """X in a working type, or a sentence if its values go beyond that."""
    with np.errstate(over="ignore"):
        converted = X.astype(dtype, copy=False, order="C")
    # Rows of a file are checked when they are read.
    if not isinstance(X, Rows) and X.dtype.itemsize > np.dtype(dtype).itemsize:
        finite = np.isfinite(converted).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"X holds values beyond the range of {np.dtype(dtype)} in rows "
                f"{np.flatnonzero(~finite)[:5].tolist()}; rescale the features, or fit "
                "in float64."
            )
    return converted


def _read(data, rows, what):
    try:
        return np.asarray(data[rows])
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, CacheError):
            raise
        where = "" if rows.stop is None else f"rows {rows.start} to {rows.stop - 1} of "
        raise CacheError(
            f"{where}{what} cannot be read: the file is damaged, cut short, or was "
            f"closed meanwhile ({error})."
        ) from error


def _check_length(X, what):
    """Refuse a memory map that is longer than its file: to read on would kill us."""
    base = X
    while isinstance(base, np.ndarray):  # a view of a view of the map
        base = base.base
    if X.filename is None or not isinstance(base, mmap.mmap):
        return
    size = os.path.getsize(X.filename)
    if size < X.offset + X.nbytes:
        raise ValueError(
            f"{what} maps {X.offset + X.nbytes} bytes of {X.filename}, which has "
            f"{size}: the file was cut short. Write it again."
        )
