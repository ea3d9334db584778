"""MATLAB files of any version, read as `scipy.io.loadmat` would read them."""

from __future__ import annotations

import h5py
import numpy as np
from scipy.io import loadmat, whosmat
from scipy.sparse import issparse

from .._storage.foreign import check_dataset, check_link
from ._bunch import few


def _from_hdf5(file, item, in_cell=False):
    """Give one variable of a MATLAB 7.3 file as `loadmat` would.

    HDF5 stores dimensions in the reverse of MATLAB's order, a cell array as
    references, and text as its UTF-16 codes.
    """
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{item.name} is a structure or sparse, not a plain array")
    check_dataset(item, file.filename)
    if item.attrs.get("MATLAB_empty", 0):
        return np.empty((0, 0))
    if h5py.check_string_dtype(item.dtype) is not None:
        return np.asarray(item.asstr()[()], dtype=object).T
    value = np.asarray(item[()])
    if h5py.check_ref_dtype(item.dtype) is not None:
        cells = np.empty(value.shape, dtype=object)
        for place, reference in np.ndenumerate(value):
            cells[place] = _from_hdf5(file, file[reference], in_cell=True)
        return cells.T
    if item.attrs.get("MATLAB_class", b"") in (b"logical", "logical"):
        return value.T.astype(bool)
    is_char = item.attrs.get("MATLAB_class", b"") in (b"char", "char")
    if is_char or (in_cell and value.dtype == np.uint16):
        rows = np.atleast_2d(value.T).astype("<u2")
        return np.array([row.tobytes().decode("utf-16-le") for row in rows])
    return value.T


def read_mat(path, names):
    """Read the variables `names` of a MATLAB file, any version, where present."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                found = [name for name in names if file.get(name, getlink=True)]
                for name in found:
                    check_link(file, name, path)
                return {name: _from_hdf5(file, file[name]) for name in found}
        # loadmat gives a mask as zeros and ones, like any other small numbers.
        masks = {n for n, _, kind in whosmat(path) if kind == "logical"}
        return {
            n: v.astype(bool) if n in masks else v
            for n, v in loadmat(path, variable_names=names).items()
            if n in names and v is not None
        }
    except MemoryError:
        raise
    except Exception as error:
        # On a broken file SciPy and h5py raise nearly anything, from zlib.error
        # to TypeError; permission errors came up before, at the fingerprint.
        raise ValueError(
            f"{path} cannot be read as a MATLAB file ({error}). It is cut short or "
            "something else; compare its size with the original and copy it again."
        ) from error


def variables(path):
    """Names of the variables of a MATLAB file; empty where it is unreadable."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return [name for name in file if not name.startswith("#")]
        return [name for name, _, _ in whosmat(path)]
    except Exception:
        return []


def required(found, name, path):
    if name not in found:
        raise ValueError(
            f"{path} has no variable {name!r}; it holds "
            f"{', '.join(variables(path)) or 'none that can be read'}. It is "
            "another kind of file or cut short."
        )
    return found[name]


def _numbers(values, name, path):
    """Real numbers as a dense array, or a sentence."""
    values = values.toarray() if issparse(values) else np.asarray(values)
    if values.dtype.kind not in "biuf":
        other = {"O": "a cell array", "V": "a structure", "U": "text"}
        raise ValueError(
            f"{name} in {path} must hold real numbers, got "
            f"{other.get(values.dtype.kind, f'values of type {values.dtype}')}."
        )
    return values


def matrix(values, name, path):
    values = _numbers(values, name, path)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{name} in {path} must be a matrix with at least one row and one "
            f"column, got shape {values.shape}."
        )
    return values


def split_rows(values, name, path, n_rows=None):
    """Row numbers from 0, of a vector that counts from 1 or of a logical mask.

    A mask has an entry for each of the `n_rows`, where their number is known.
    """
    values = _numbers(values, name, path)
    if values.dtype != bool:
        return rows_from_one(values, name, path)
    if values.size != max(values.shape, default=1) or n_rows not in (None, values.size):
        samples = "each sample" if n_rows is None else f"each of the {n_rows} samples"
        raise ValueError(
            f"{name} in {path} is a mask of shape {values.shape}; it must have one "
            f"entry for {samples}."
        )
    return np.flatnonzero(values)


def rows_from_one(values, name, path):
    """Turn a MATLAB vector of whole numbers from 1 into int64 from 0."""
    values = _numbers(values, name, path)
    if values.size != max(values.shape, default=1) and values.size:
        raise ValueError(
            f"{name} in {path} must be a vector, got shape {values.shape}."
        )
    values = values.ravel()
    # uint16 is the usual type: subtracting before the cast could wrap around.
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    bad = (whole != values) | (whole < 1)
    if bad.any():
        raise ValueError(
            f"{name} in {path} must hold whole numbers from 1, as MATLAB counts; "
            f"got {few(values[bad])}. "
            + (
                "These zeros and ones look like a mask: write find(mask) in its place."
                if name.endswith("_loc") and np.isin(values, [0, 1]).all()
                else "If it counts from 0, add 1 in the file."
            )
        )
    return whole - 1


def _text(value):
    """The text inside one cell, however deeply it is wrapped."""
    while isinstance(value, np.ndarray):
        if value.size == 0:
            return ""
        if value.size > 1:
            raise TypeError(f"a cell holds {value.size} values instead of one text")
        value = value.ravel()[0]
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        is_number = isinstance(value, np.generic)
        held = value.item() if is_number else f"a {type(value).__name__}"
        raise TypeError(f"a cell holds {held} instead of text")
    return value.strip()


def text_vector(values, name, path):
    """A cell array or character matrix as a vector of str."""
    try:
        return np.array([_text(v) for v in np.asarray(values).ravel()], dtype=np.str_)
    except TypeError as error:
        raise ValueError(
            f"{name} in {path} must be a cell array of texts: {error}."
        ) from error
