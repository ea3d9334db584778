"""Reading HDF5 files that may be damaged, or be written by anybody.

What is followed: plain data sets and groups that lie in the file itself. Links to
other places, values that lie in other files, and filters that are programs of their
own are refused before anything is read.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import h5py

from .hdf5 import CacheError

__all__ = [
    "check_attributes",
    "check_dataset",
    "check_link",
    "check_plain",
    "open_hdf5",
    "reading",
]

_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_SZIP: "szip",
    h5py.h5z.FILTER_LZF: "lzf",
}
# DEFLATE makes at most 1032 bytes of one; the others make fewer.
_MOST_COMPRESSED = 1032
_LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)


@contextlib.contextmanager
def reading(path: Path, what: str = "") -> Iterator[None]:
    """Turn whatever h5py raises about a damaged file into one sentence.

    Parameters
    ----------
    path : Path
        The file.
    what : str, default=""
        What is being read of it.

    Raises
    ------
    CacheError
        For any exception but a permission or a file that is missing.
    """
    try:
        yield
    except (CacheError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # of h5py, NumPy and Python: it depends on the bit
        raise CacheError(
            f"{path} is damaged: {what or 'it'} cannot be read "
            f"({type(error).__name__}). Delete it and write it again."
        ) from error


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    h5py.File
        The file.

    Raises
    ------
    CacheError
        If the file is no HDF5 file, or is cut short.
    """
    with open(path, "rb") as raw:
        start = raw.read(8)
        size = raw.seek(0, 2)
    try:
        # A finished cache never changes, so a reader needs no HDF5 lock, which
        # some network file systems refuse.
        return h5py.File(path, "r", locking=False)
    except PermissionError:
        raise
    except Exception as error:
        raise CacheError(
            f"{path} ({size} bytes) is damaged or cut short and cannot be read as a "
            f"feature cache; delete it and write it again."
            if start == b"\x89HDF\r\n\x1a\n"
            else f"{path} ({size} bytes) is no HDF5 file, and so no feature cache. "
            f"Check the name; if it was a cache once, write it again."
        ) from error


def check_attributes(item: h5py.File | h5py.Dataset, path: Path) -> None:
    """Refuse attributes that are no single text or number.

    Parameters
    ----------
    item : h5py.File or h5py.Dataset
        Whose attributes.
    path : Path
        The file, for messages.

    Raises
    ------
    CacheError
        If there is another attribute, naming it.
    """
    plain = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM)
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        if attribute.shape != () or attribute.get_type().get_class() not in plain:
            raise CacheError(
                f"{path} has an attribute {name!r} that is no single text or number; "
                f"no feature cache has such attributes, so it is not read."
            )


def check_plain(
    group: h5py.Group, path: Path, size: int, allowed: dict[str, str]
) -> dict[str, h5py.Dataset]:
    """Open the data sets of a group and of groups in it, all plain and local.

    Parameters
    ----------
    group : h5py.Group
        Where to look.
    path : Path
        The file, for messages.
    size : int
        Its length in bytes, which no data set can exceed.
    allowed : dict of str to str
        Names of what there may be. A name that ends in ``/`` is a group of data
        sets; the value tells which names in it, as for `allowed`, or "*".

    Returns
    -------
    dict of str to h5py.Dataset
        The data sets by name, ``group/name`` for those in groups.

    Raises
    ------
    CacheError
        If something is a link, lies in another file, has an unknown filter, is
        larger than the file can hold, or is not in `allowed`.
    """
    found = {}
    for name in group:
        check_link(group, name, path)
        item = group[name]
        if isinstance(item, h5py.Dataset) and (name in allowed or "*" in allowed):
            check_dataset(item, path)
            _check_size(item, path, size)
            check_attributes(item, path)
            found[name] = item
        elif isinstance(item, h5py.Group) and name + "/" in allowed:
            inside = dict.fromkeys(allowed[name + "/"].split())
            for key, data in check_plain(item, path, size, inside).items():
                found[f"{name}/{key}"] = data
        else:
            raise CacheError(
                f"{path} is refused: no feature cache has {name!r} as a "
                f"{type(item).__name__.lower()}."
            )
    return found


def check_link(group: h5py.Group, name: str, path: Path) -> None:
    """Refuse a link to another place.

    Parameters
    ----------
    group : h5py.Group
        Where `name` is.
    name : str
        Of a data set or group.
    path : Path
        The file, for messages.

    Raises
    ------
    CacheError
        If `name` is a soft or external link.
    """
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise CacheError(
            f"{path} is refused: {name!r} is a link to another place. Only data that "
            f"lies in the file itself is read."
        )


def check_dataset(data: h5py.Dataset, path: Path) -> None:
    """Refuse values in other files, and filters that are programs of their own.

    Parameters
    ----------
    data : h5py.Dataset
        Not read yet.
    path : Path
        The file, for messages.

    Raises
    ------
    CacheError
        If the values lie in other files or have another filter.
    """
    what = f"the dataset `{str(data.name).strip('/')}`"
    properties = data.id.get_create_plist()
    layout = properties.get_layout()
    if layout not in _LAYOUTS or (
        layout == h5py.h5d.CONTIGUOUS and properties.get_external_count()
    ):
        raise CacheError(
            f"{path} is refused: the values of {what} lie in other files. Only data "
            f"that lies in the file itself is read."
        )
    for i in range(properties.get_nfilters()):
        number, *_, name = properties.get_filter(i)
        if number not in _FILTERS:
            raise CacheError(
                f"{path} is refused: {what} is stored by the filter {number} "
                f"({name.decode(errors='replace')!r}); allowed are "
                f"{', '.join(_FILTERS.values())}."
            )


def _check_size(data, path, size):
    """Compare what a data set claims to hold with what there is of it."""
    shape, chunks = data.shape, data.chunks
    if shape is None or 0 in shape:
        return
    text = h5py.check_string_dtype(data.dtype)
    # Of text of any length the data set holds a reference of 16 bytes each.
    free = text is not None and text.length is None
    item = 16 if free else data.id.get_type().get_size()
    compressed = data.compression is not None
    sum_bytes = 4 if data.fletcher32 else 0
    stored = data.id.get_storage_size()
    if chunks is None:
        whole = stored == item * math.prod(shape)
    else:
        sides = zip(shape, chunks, strict=True)
        n_chunks = math.prod(-(-side // chunk) for side, chunk in sides)
        claimed = n_chunks * (item * math.prod(chunks) + sum_bytes)
        whole = (
            stored == claimed
            if not compressed
            else (claimed <= _MOST_COMPRESSED * stored)
        )
    if not whole or stored > size:
        raise CacheError(
            f"{path} is damaged: `{data.name.strip('/')}` claims the shape {shape} of "
            f"{data.dtype}, but the file holds {stored} bytes of it. Delete it and "
            f"write it again."
        )
