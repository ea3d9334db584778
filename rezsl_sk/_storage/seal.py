"""A seal at the end of an HDF5 file: whether its structure is as it was written.

The HDF5 library trusts the structure of a file; a flipped bit there can crash it or
send it into an endless loop. So the hash of all bytes but the values of the large data
set stands behind the end of the HDF5 file, where HDF5 does not look, and is compared
before the library sees the file. The values have checksums of their own, which the
library compares when it reads them.

A seal is JSON (the spans of bytes that it leaves out, as pairs of offset and length),
the SHA-256 of that JSON and of all other bytes before it, the length of the JSON in
8 bytes, and `MARK`. A program that changes the file as HDF5 cuts the seal off.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

import h5py

from .hdf5 import CacheError

__all__ = ["chunk_spans", "is_sealed", "write_seal"]

MARK = b"rezsl_sk seal 1\n"
_TAIL = 32 + 8 + len(MARK)
_BLOCK_BYTES = 2**20


def chunk_spans(data: h5py.Dataset) -> list[list[int]]:
    """Where in its file the values of a chunked data set lie.

    Parameters
    ----------
    data : h5py.Dataset
        Flushed to the file.

    Returns
    -------
    list of [int, int]
        Offset and length of each span, increasing; neighbours are one span.
    """
    chunks = []
    data.id.chunk_iter(lambda chunk: chunks.append((chunk.byte_offset, chunk.size)))
    spans = []
    for offset, size in sorted(chunks):
        if spans and sum(spans[-1]) == offset:
            spans[-1][1] += size
        else:
            spans.append([offset, size])
    return spans


def write_seal(file: BinaryIO, spans: list[list[int]]) -> None:
    """Append the seal to an HDF5 file that is closed as such.

    Parameters
    ----------
    file : file
        Open for reading and writing.
    spans : list of [int, int]
        The bytes to leave out, as from `chunk_spans`.
    """
    end = file.seek(0, 2)
    text = json.dumps(spans).encode()
    digest = _digest(file, end, spans, text)
    file.seek(end)
    file.write(text + digest + len(text).to_bytes(8, "little") + MARK)


def is_sealed(path: Path) -> bool:
    """Tell whether a file has a seal, and compare it.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    bool
        False if the file has no seal.

    Raises
    ------
    CacheError
        If it has one, and the file is not what was sealed.
    """
    with open(path, "rb") as file:
        return _is_sealed(file, path)


def _is_sealed(file, path):
    size = file.seek(0, 2)
    if size < _TAIL:
        return False
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    if tail[40:] != MARK:
        return False
    end = size - _TAIL - int.from_bytes(tail[32:40], "little")
    spans = None
    if end >= 0:
        file.seek(end)
        text = file.read(size - _TAIL - end)
        spans = _parsed(text, end)
    if spans is None or _digest(file, end, spans, text) != tail[:32]:
        raise CacheError(
            f"{path} ({size} bytes) is damaged: its bytes are not those that were "
            f"written. Delete it and write it again."
        )
    return True


def _parsed(text, end):
    """The spans, or None where they are no increasing spans within the file."""
    try:
        spans = json.loads(text)
        at = 0
        for offset, length in spans:
            if not at <= offset <= offset + length <= end:
                return None
            at = offset + length
    except (ValueError, TypeError, RecursionError):
        return None
    return spans


def _digest(file, end, spans, text):
    digest = hashlib.sha256(text)
    at = 0
    for offset, length in [*spans, (end, 0)]:
        file.seek(at)
        while at < offset:
            block = file.read(min(_BLOCK_BYTES, offset - at))
            if not block:  # cut short since its size was read
                return b""
            digest.update(block)
            at += len(block)
        at = offset + length
    return digest.digest()
