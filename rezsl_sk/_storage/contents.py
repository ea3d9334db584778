"""What a cache holds: how it is written, and whether it is what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from .foreign import check_attributes, check_plain, reading
from .hdf5 import CacheError

__all__ = [
    "FORMAT",
    "SCHEMA_VERSION",
    "SOURCE_DTYPE",
    "check_contents",
    "check_hashes",
    "datasets",
    "manifest_sha256",
    "write_array",
    "write_features",
    "write_text",
]

FORMAT = "rezsl_sk feature cache"
# Of version 1 there is neither a manifest nor a seal.
SCHEMA_VERSION = 2
# What is known of the file that a row was computed from.
SOURCE_DTYPE = np.dtype(
    [("size", np.int64), ("mtime_ns", np.int64), ("sha256", np.uint8, (32,))]
)
_CHUNK_BYTES = 2**18
# Rows at a time wherever all of a cache passes through memory.
_BLOCK_BYTES = 2**24

_ALLOWED = {
    "features": "",
    "path": "",
    "label": "",
    "class_name": "",
    "class_attributes": "",
    "attribute_name": "",
    "failed/": "path reason",
    "splits/": "*",
    "source/": " ".join(SOURCE_DTYPE.names),
}
# Number of axes and types of what is no text; None: any data set of that group.
_NUMBERS = {
    "features": ((2, 3), ("f2", "f4")),
    "label": ((1,), ("i8",)),
    "class_attributes": ((2,), ("f8",)),
    "splits": ((1,), ("i8",)),
    "source/size": ((1,), ("i8",)),
    "source/mtime_ns": ((1,), ("i8",)),
    "source/sha256": ((2,), ("u1",)),
}


# -- writing ----------------------------------------------------------------------


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


def write_array(file: h5py.File, name: str, values: np.ndarray) -> None:
    """Write numbers with their checksums and hash.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    name : str
        Of the new data set.
    values : ndarray
        What to write.
    """
    # Chunks, which checksums need, cannot be empty.
    data = file.create_dataset(name, data=values, fletcher32=values.size > 0)
    data.attrs["sha256"] = hashlib.sha256(_bytes_of(values)).hexdigest()


def write_text(file: h5py.File, name: str, values: Sequence[str] | np.ndarray) -> None:
    """Write text with its hash.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    name : str
        Of the new data set.
    values : sequence of str
        What to write; file names that are no Unicode are written as their bytes.

    Raises
    ------
    ValueError
        If a text cannot be stored, naming it.
    """
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


def write_features(
    file: h5py.File,
    first: np.ndarray,
    blocks: Iterator[np.ndarray],
    n: int,
    path: Path,
    check: Callable[[], None],
) -> None:
    """Write blocks as they come, with checksums and hash.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    first : ndarray of shape (m, d) or (m, r, d)
        The first block, which tells shape and type of the rows.
    blocks : iterator of ndarray
        The other blocks.
    n : int
        Number of rows altogether.
    path : Path
        The name of the file, for messages.
    check : callable
        Called after each block; raises if the disk is full.

    Raises
    ------
    ValueError
        If a block has another shape or type, values that are not finite, or there
        are not `n` rows.
    """
    shape, dtype = first.shape[1:], first.dtype
    if dtype not in (np.float16, np.float32) or len(shape) not in (1, 2):
        raise ValueError(
            f"{path}: a block of features has the shape {first.shape} and the type "
            f"{dtype}; allowed are (m, d) or (m, r, d) of float16 or float32."
        )
    row_bytes = max(1, dtype.itemsize * int(np.prod(shape)))
    chunk = (max(1, min(n, _CHUNK_BYTES // row_bytes)), *shape)
    data = file.create_dataset(
        "features", (n, *shape), dtype=dtype, chunks=chunk, fletcher32=True
    )
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


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """All data sets of a file of our own, by name.

    Parameters
    ----------
    file : h5py.File
        A file without links.

    Returns
    -------
    dict of str to h5py.Dataset
        Also those in groups, as ``group/name``.
    """
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(note)
    return found


# -- reading ----------------------------------------------------------------------


def check_contents(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """Refuse what this version cannot read rightly.

    Parameters
    ----------
    file : h5py.File
        The open cache.
    path : Path
        Its name, for messages.

    Returns
    -------
    dict of str to h5py.Dataset
        The data sets by name.

    Raises
    ------
    CacheError
        If the file is of another format or version, was never completed, or its
        parts do not fit together.
    """
    with reading(path, "its structure"):
        check_attributes(file, path)
        _check_format(file, path)
        found = check_plain(file, path, path.stat().st_size, _ALLOWED)
        for name in ("features", "path"):
            if name not in found:
                raise CacheError(
                    f"{path} is damaged: the dataset `{name}` is missing. Delete it "
                    f"and write it again."
                )
        for name, data in found.items():
            _check_type(name, data, path)
        _check_lengths(found, path)
        _check_references(found, path)
    return found


def check_hashes(file: h5py.File, found: dict[str, h5py.Dataset], path: Path) -> None:
    """Compute the hashes of the data sets, and that of all data sets, and compare.

    Parameters
    ----------
    file : h5py.File
        The open cache.
    found : dict of str to h5py.Dataset
        Its data sets.
    path : Path
        Its name, for messages.

    Raises
    ------
    CacheError
        If a hash is another than was written, or a number is not finite.
    """
    for name, data in found.items():
        digest = hashlib.sha256()
        with reading(path, f"`{name}`"):
            for block in _blocks(data):
                digest.update(_bytes_of(block))
                good = np.isfinite(block) if data.dtype.kind == "f" else np.True_
                if name == "class_attributes":
                    good |= np.isnan(block)  # a missing value
                if not good.all():
                    raise CacheError(
                        f"{path} is damaged: `{name}` holds values that are not "
                        f"finite. Delete it and write it again."
                    )
        if digest.hexdigest() != data.attrs.get("sha256"):
            raise CacheError(
                f"{path} is damaged: the SHA-256 of `{name}` is not the one that was "
                f"written with it. Delete it and write it again."
            )
    if file.attrs["schema_version"] == 1:
        return
    if manifest_sha256(file, found) != file.attrs.get("manifest_sha256"):
        raise CacheError(
            f"{path} is damaged: its data sets and attributes are not those that were "
            f"written, as the hash over all of them says. Delete it and write it "
            f"again."
        )


def manifest_sha256(file: h5py.File, found: dict[str, h5py.Dataset]) -> str:
    """Hash what a cache holds: every data set, by its hash, and every attribute.

    Parameters
    ----------
    file : h5py.File
        The cache.
    found : dict of str to h5py.Dataset
        Its data sets.

    Returns
    -------
    str
        The SHA-256 of a JSON text.
    """
    manifest = {
        name: [list(data.shape), data.dtype.str, _plain_values(data.attrs)]
        for name, data in found.items()
    }
    attributes = _plain_values(file.attrs)
    attributes.pop("manifest_sha256", None)
    text = json.dumps([manifest, attributes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain_values(attributes):
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in attributes.items()
    }


def _check_format(file, path):
    if file.attrs.get("format") != FORMAT:
        raise CacheError(
            f"{path} is an HDF5 file but no feature cache: its attribute `format` is "
            f"{file.attrs.get('format')!r}, not {FORMAT!r}."
        )
    version = file.attrs.get("schema_version")
    if version not in range(1, SCHEMA_VERSION + 1):
        raise CacheError(
            f"{path} has schema version {version}; this rezsl_sk reads versions 1 to "
            f"{SCHEMA_VERSION}. Install the release that wrote the file, or extract "
            f"again."
        )
    if not file.attrs.get("complete"):
        raise CacheError(f"{path} was never completed; delete it and write it again.")


def _check_type(name, data, path):
    axes, types = _NUMBERS.get(name, _NUMBERS.get(name.split("/")[0], ((1,), None)))
    if types is None:
        right = h5py.check_string_dtype(data.dtype) is not None
    else:
        right = data.dtype.newbyteorder("=").str[1:] in types
    if not right or data.ndim not in axes:
        raise CacheError(
            f"{path} is damaged: `{name}` has the shape {data.shape} and the type "
            f"{data.dtype}. Delete it and write it again."
        )


def _check_lengths(found, path):
    def shape(name, axis=0):
        return found[name].shape[axis] if name in found else None

    n = shape("features")
    for name in ("path", "label", *(f"source/{key}" for key in SOURCE_DTYPE.names)):
        if shape(name) not in (None, n):
            raise CacheError(
                f"{path} is damaged: features, paths and labels differ in length: "
                f"there are {n} rows and {shape(name)} of `{name}`. Delete it and "
                f"write it again."
            )
    for one, other in (
        (shape("class_attributes"), shape("class_name")),
        (shape("attribute_name"), shape("class_attributes", 1)),
        (shape("failed/path"), shape("failed/reason")),
    ):
        if one is not None and one != other:
            raise CacheError(
                f"{path} is damaged: names and values of classes, attributes or "
                f"failed inputs differ in number. Delete it and write it again."
            )


def _check_references(found, path):
    """Labels number classes, splits number rows."""
    n, n_classes = len(found["features"]), len(found.get("class_name", ()))
    for name, data in found.items():
        if name == "label":
            most, of = n_classes, "classes"
        elif name.startswith("splits/"):
            most, of = n, "rows"
        else:
            continue
        values = data[...]
        if values.size and not 0 <= values.min() <= values.max() < most:
            raise CacheError(
                f"{path} is damaged: `{name}` runs from {values.min()} to "
                f"{values.max()}, but there are {most} {of}. Delete it and write it "
                f"again."
            )
