"""Data sets for zero-shot learning: xlsa17 files, a generator, a small demo.

Every loader here gives a :class:`sklearn.utils.Bunch` with the same fields, so
that code written for one runs on all of them. They are listed under
:func:`load_xlsa17`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike
from scipy.io import loadmat, savemat, whosmat
from scipy.sparse import issparse
from sklearn.datasets import load_digits
from sklearn.utils import Bunch, check_random_state

__all__ = [
    "load_digits_zero_shot",
    "load_xlsa17",
    "make_zero_shot",
    "save_xlsa17",
]

# MATLAB 5 files count the bytes of a variable in 32 bits, and MATLAB itself
# stops at 2 GiB.
_MATLAB5_LIMIT = 2**31

_TABLE_VARIABLES = [
    "att",
    "original_att",
    "allclasses_names",
    "attribute_names",
    "trainval_loc",
    "test_seen_loc",
    "test_unseen_loc",
    "train_loc",
    "val_loc",
]


def _few(values):
    """First five of some values for an error message."""
    values = list(values)
    text = ", ".join(str(value) for value in values[:5])
    return text + (f", ... ({len(values)} in all)" if len(values) > 5 else "")


# Reading MATLAB files -------------------------------------------------------


def _from_hdf5(file, item, in_cell=False):
    """Give one variable of a MATLAB 7.3 file as `loadmat` would.

    HDF5 stores dimensions in the reverse of MATLAB's order, a cell array as
    references, and text as its UTF-16 codes.
    """
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{item.name} is a structure or sparse, not a plain array")
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
    is_char = item.attrs.get("MATLAB_class", b"") in (b"char", "char")
    if is_char or (in_cell and value.dtype == np.uint16):
        rows = np.atleast_2d(value.T).astype("<u2")
        return np.array([row.tobytes().decode("utf-16-le") for row in rows])
    return value.T


def _read_mat(path, names):
    """Read the variables `names` of a MATLAB file, any version, where present."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return {n: _from_hdf5(file, file[n]) for n in names if n in file}
        return {
            n: v
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


def _variables(path):
    """Names of the variables of a MATLAB file; empty where it is unreadable."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return [name for name in file if not name.startswith("#")]
        return [name for name, _, _ in whosmat(path)]
    except Exception:
        return []


def _required(found, name, path):
    if name not in found:
        raise ValueError(
            f"{path} has no variable {name!r}; it holds "
            f"{', '.join(_variables(path)) or 'none that can be read'}. It is "
            "another kind of file or cut short."
        )
    return found[name]


def _numbers(values, name, path):
    """Real numbers as a dense array, or a sentence."""
    values = values.toarray() if issparse(values) else np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} in {path} must hold real numbers, got values of type "
            f"{values.dtype}."
        )
    return values


def _matrix(values, name, path):
    values = _numbers(values, name, path)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{name} in {path} must be a matrix with at least one row and one "
            f"column, got shape {values.shape}."
        )
    return values


def _from_one(values, name, path):
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
            f"got {_few(values[bad])}. If it counts from 0, add 1 in the file."
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
        raise TypeError(f"a cell holds {value!r} instead of text")
    return value.strip()


def _texts(values, name, path):
    """A cell array or character matrix as a vector of str."""
    try:
        return np.array([_text(v) for v in np.asarray(values).ravel()], dtype=np.str_)
    except TypeError as error:
        raise ValueError(
            f"{name} in {path} must be a cell array of texts: {error}."
        ) from error


def _class_by_attribute(att, original_att, n_names, n_labels, path):
    """Orient both tables to (classes, attributes).

    The published files hold (attributes, classes). Tables written the other
    way round are recognised by the number of names and by the largest label.
    """

    def fits(n_classes):
        return n_names in (None, n_classes) and n_classes >= n_labels

    if fits(att.shape[1]):
        table = att.T
    elif fits(att.shape[0]):
        table = att
    else:
        wanted = f"at least {n_labels}" if n_names is None else f"{n_names}"
        raise ValueError(
            f"att in {path} has shape {att.shape}; it must be (attributes, classes) "
            f"with {wanted} classes, for there are "
            + (f"{n_names} class names and " if n_names is not None else "")
            + f"labels up to {n_labels}. The table belongs to other data."
        )
    if original_att is None:
        return table, None
    if original_att.shape == att.shape:
        return table, (original_att.T if table is not att else original_att)
    if original_att.shape == att.shape[::-1]:
        return table, (original_att if table is not att else original_att.T)
    raise ValueError(
        f"original_att in {path} has shape {original_att.shape}, att {att.shape}; "
        "they describe the same classes and must have one shape."
    )


def _missing_to_nan(table):
    """Replace -1 by NaN in a raw attribute table.

    Only where nothing else in it is negative: percentages and ratings from 0
    mark a missing value by -1, but on a scale from -2 to 2 it is a value.
    """
    table = np.array(table, dtype=np.float64)
    if not (table[table < 0] != -1).any():
        table[table == -1] = np.nan
    return table


# Checks that all loaders and the writer share -------------------------------


def _float_features(X, where):
    """Features as C-contiguous float32 with finite values."""
    if X.dtype.kind not in "biuf" or X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            f"{where}: features must be a matrix of real numbers with at least one "
            f"row and one column, got shape {X.shape} and type {X.dtype}."
        )
    with np.errstate(over="ignore"):
        X = np.ascontiguousarray(X, dtype=np.float32)
    # The extremes carry NaN and infinity along and need no mask as large as X.
    if not (np.isfinite(X.min()) and np.isfinite(X.max())):
        rows = np.flatnonzero(~np.isfinite(X).all(axis=1))
        raise ValueError(
            f"{where}: features contain NaN, infinity or values beyond float32 in "
            f"rows {_few(rows)} (from 0). Extract them again or leave them out."
        )
    return X


def _check_table(where, attributes, class_names, attribute_names, original_attributes):
    """Raise where the tables contradict themselves or each other."""
    if len(class_names) != len(attributes):
        raise ValueError(
            f"{where}: {len(class_names)} class names for {len(attributes)} rows of "
            "the attribute table; give one name per class."
        )
    if not np.isfinite(attributes).all():
        rows = np.flatnonzero(~np.isfinite(attributes).all(axis=1))
        raise ValueError(
            f"{where}: the attribute table contains NaN or infinity for the classes "
            f"{_few(class_names[rows])}. Fill in these values; missing ones have a "
            "place only in original_att."
        )
    names, counts = np.unique(class_names, return_counts=True)
    if (counts > 1).any() or "" in names:
        raise ValueError(
            f"{where}: class names must be distinct and not empty; repeated or "
            f"empty: {_few(repr(str(n)) for n in names[(counts > 1) | (names == '')])}."
        )
    if attribute_names is not None and len(attribute_names) != attributes.shape[1]:
        raise ValueError(
            f"{where}: {len(attribute_names)} attribute names for "
            f"{attributes.shape[1]} attributes; give one name per attribute."
        )
    if (
        original_attributes is not None
        and original_attributes.shape != attributes.shape
    ):
        raise ValueError(
            f"{where}: the original attribute table has shape "
            f"{original_attributes.shape}, the table itself {attributes.shape}; "
            "they describe the same classes and must have one shape."
        )


def _check_splits(where, labels, class_names, trainval, test_seen, test_unseen):
    """Raise where the splits would make an evaluation wrong.

    Without labels only the rows can be compared, not the classes.
    """
    splits = {"trainval": trainval, "test_seen": test_seen, "test_unseen": test_unseen}
    for name, rows in splits.items():
        # A set for zero-shot accuracy alone may have no test rows of seen classes.
        if len(rows) == 0 and name != "test_seen":
            raise ValueError(f"{where}: {name} is empty; it needs at least one row.")
        values, counts = np.unique(rows, return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"{where}: {name} lists rows more than once: "
                f"{_few(values[counts > 1])} (from 0). List every row once."
            )
        bad = values[values < 0]
        if labels is not None:
            bad = values[(values < 0) | (values >= len(labels))]
        if len(bad):
            limit = "" if labels is None else f" to {len(labels) - 1}"
            raise ValueError(
                f"{where}: {name} lists rows {_few(bad)}, but rows go from 0{limit}. "
                "Features and splits belong to different data, or their counting "
                "is off by one."
            )
    for one, other in (
        ("trainval", "test_seen"),
        ("trainval", "test_unseen"),
        ("test_seen", "test_unseen"),
    ):
        shared = np.intersect1d(splits[one], splits[other])
        if len(shared):
            raise ValueError(
                f"{where}: {one} and {other} share rows {_few(shared)} (from 0). "
                "Training and test rows must be apart."
            )
    if labels is None:
        return
    seen = np.unique(labels[trainval])
    both = np.intersect1d(seen, labels[test_unseen])
    if len(both):
        raise ValueError(
            f"{where}: the classes {_few(class_names[both])} occur in trainval and "
            "in test_unseen. An unseen class has no training rows; the labels or "
            "the splits belong to other data."
        )
    strangers = np.setdiff1d(labels[test_seen], seen)
    if len(strangers):
        raise ValueError(
            f"{where}: test_seen holds the classes {_few(class_names[strangers])}, of "
            "which trainval has no row. Move these rows to test_unseen or to trainval."
        )


def _tuning_problem(train, val, trainval, labels):
    """Say why train and val may not be used for tuning; None if they may."""
    if train is None and val is None:
        return None
    if train is None or val is None:
        return "only one of the two is there"
    if len(train) == 0 or len(val) == 0:
        return "one of the two is empty"
    both = np.concatenate([train, val])
    foreign = np.setdiff1d(both, trainval)
    if len(foreign):
        return (
            f"they hold {len(foreign)} rows that are not in trainval, such as test rows"
        )
    if len(np.unique(both)) < len(both):
        return "they list rows more than once"
    if len(both) < len(trainval):
        return f"they leave out {len(trainval) - len(both)} rows of trainval"
    if labels is not None and len(np.intersect1d(labels[train], labels[val])):
        return "they share classes"
    return None


def _checked_bunch(
    where,
    *,
    X,
    labels,
    attributes,
    class_names,
    trainval,
    test_seen,
    test_unseen,
    where_features=None,
    train=None,
    val=None,
    attribute_names=None,
    original_attributes=None,
    image_files=None,
    fingerprint=None,
):
    """Check everything that belongs together and add what follows from it.

    `where` and `where_features` stand at the start of the messages: the file
    of splits and the file of features.
    """
    where_features = where_features or where
    _check_table(where, attributes, class_names, attribute_names, original_attributes)
    y = seen_classes = unseen_classes = None
    if labels is not None:
        for values, name in ((X, "features"), (image_files, "image_files")):
            if values is not None and len(values) != len(labels):
                raise ValueError(
                    f"{where_features}: {len(values)} rows of {name} for "
                    f"{len(labels)} labels; give one label per row."
                )
        bad = (labels < 0) | (labels >= len(attributes))
        if bad.any():
            raise ValueError(
                f"{where_features}: labels {_few(np.unique(labels[bad]))} (from 0) "
                f"have no row in the attribute table of {len(attributes)} classes."
            )
    _check_splits(where, labels, class_names, trainval, test_seen, test_unseen)
    if labels is not None:
        y = class_names[labels]
        seen_classes = np.unique(labels[trainval])
        unseen_classes = np.unique(labels[test_unseen])
    return Bunch(
        X=X,
        y=y,
        labels=labels,
        class_names=class_names,
        attributes=attributes,
        original_attributes=original_attributes,
        attribute_names=attribute_names,
        image_files=image_files,
        trainval=trainval,
        test_seen=test_seen,
        test_unseen=test_unseen,
        train=train,
        val=val,
        seen_classes=seen_classes,
        unseen_classes=unseen_classes,
        fingerprint={} if fingerprint is None else fingerprint,
    )


# The xlsa17 layout ----------------------------------------------------------


def _mat_name(name):
    return name.removesuffix(".mat") + ".mat"


def _features_path(folder, features, splits):
    """Find the features file; None where none is there or wanted."""
    others = sorted(p for p in folder.glob("*.mat") if p.name != _mat_name(splits))
    if features is None:
        return None
    if features != "auto":
        path = folder / _mat_name(features)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist. {folder} holds "
                f"{_few(p.name for p in others) or 'no features file'}; name one of "
                "them, or pass features=None for the tables and splits alone."
            )
        return path
    for path in others:
        if path.name == "res101.mat":
            return path
    # Some folders hold several files of splits. A file that cannot be read stays
    # a candidate: it is better named in an error than passed over.
    others = [p for p in others if "features" in (_variables(p) or ["features"])]
    if len(others) > 1:
        raise ValueError(
            f"{folder} holds several features files: {_few(p.name for p in others)}. "
            'Name the one to load, for example features="'
            f'{others[0].name.removesuffix(".mat")}".'
        )
    return others[0] if others else None


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_xlsa17(
    root: str | os.PathLike[str],
    name: str,
    *,
    features: str = "auto",
    splits: str = "att_splits",
) -> Bunch:
    """Load a data set in the layout of the xlsa17 zero-shot benchmark.

    `<root>/<name>/` holds a file of features (`res101.mat` in the published
    benchmark) and a file `att_splits.mat` of class attributes and splits [1]_.
    MATLAB 5 files and MATLAB 7.3 (HDF5) files are read alike.

    Parameters
    ----------
    root : path-like
        Folder that holds one folder per data set.
    name : str
        Folder of the data set, for example "AWA2".
    features : str or None, default="auto"
        Name of the features file, with or without ".mat". "auto" takes
        `res101.mat` if it is there, else the only other file that holds
        features, else none. None loads the tables and splits alone.
    splits : str, default="att_splits"
        Name of the file of tables and splits, with or without ".mat".

    Returns
    -------
    data : :class:`sklearn.utils.Bunch`
        With n rows, d features, C classes in the table and a attributes:

        X : ndarray of shape (n, d), float32, C-contiguous, or None
            Features, one row per sample; None without a features file.
        y : ndarray of shape (n,), str, or None
            Class name of each row.
        labels : ndarray of shape (n,), int64, or None
            Class of each row, from 0: its row in the tables.
        class_names : ndarray of shape (C,), str
            "class001", "class002", ... where the file names none, numbered
            from 1 as the file's labels are.
        attributes : ndarray of shape (C, a), float64
            `att`, as it stands in the file.
        original_attributes : ndarray of shape (C, a), float64, or None
            `original_att`, with NaN for missing values.
        attribute_names : ndarray of shape (a,), str, or None
            One name per column of the tables.
        image_files : ndarray of shape (n,), str, or None
            Paths on the machine of the file's author.
        trainval, test_seen, test_unseen : ndarray of int64
            Rows, from 0. No row and, between trainval and test_unseen, no class
            is in two of them. Not every row need be in one.
        train, val : ndarray of int64, or None
            Class-disjoint parts of trainval, for tuning. None where the file
            has none or where they are no such parts.
        seen_classes, unseen_classes : ndarray of int64, or None
            Rows of the tables that trainval and test_unseen use, sorted. The
            table may hold classes that are neither. None without features.
        fingerprint : dict of str to str
            SHA-256 of each file read, by file name.

    Raises
    ------
    FileNotFoundError
        If the folder, the file of splits or a features file asked for by name
        is missing.
    ValueError
        If a file is broken or lacks a variable; if several features files are
        there and none is named; if sizes disagree; if features or the
        table are not finite; if class names repeat; if the splits
        overlap, repeat rows or point beyond the data; if a class is both in
        trainval and in test_unseen, or in test_seen and not in trainval.

    Warns
    -----
    UserWarning
        If `train_loc` and `val_loc` are there but must not be used for tuning:
        they do not add up to trainval, repeat rows or share classes. The
        published FLO is such a file: most of test_seen is in its `train_loc`.

    Notes
    -----
    What differs from the files, so that their traps do not reach the user:

    - Files count labels and rows from 1, often in uint16; here all count from 0
      in int64.
    - Files hold features as (d, n) and tables as (a, C); here rows are samples
      and classes. Files written the other way round are recognised by the
      number of labels, of class names and by the largest label, as far as these
      decide it; where both ways are possible the published one is taken.
    - Features may be uint8 or double; here they are float32. They are not
      scaled.
    - In `original_att` the value -1 means missing and becomes NaN, unless other
      negative values show that the scale goes below 0. In `att` nothing is
      replaced: it may be negative for good reasons. The `att` of AWA1 and AWA2
      was L2-normalised with the -1 of missing values left in, which is where its
      small negative values come from.
    - Without a features file there are no labels, so that classes cannot be
      compared between splits; rows still are.

    MATLAB 5 files are read by :func:`scipy.io.loadmat`, which trusts them: do not
    load files from a source that you do not trust.

    References
    ----------
    .. [1] Xian, Lampert, Schiele, Akata. Zero-shot learning - a comprehensive
       evaluation of the good, the bad and the ugly. IEEE TPAMI, 2019.

    Examples
    --------
    >>> import tempfile
    >>> from rezsl_sk.datasets import load_xlsa17, make_zero_shot, save_xlsa17
    >>> made = make_zero_shot(6, 2, samples_per_class=10, random_state=0)
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = save_xlsa17(
    ...         root, "MINE", X=made.X, labels=made.labels,
    ...         attributes=made.attributes, class_names=made.class_names,
    ...         trainval=made.trainval, test_seen=made.test_seen,
    ...         test_unseen=made.test_unseen,
    ...     )
    ...     data = load_xlsa17(root, "MINE")
    >>> data.X.shape, data.attributes.shape
    ((80, 64), (8, 20))
    >>> print(data.class_names[data.unseen_classes])
    ['unseen1' 'unseen2']
    """
    folder = Path(root) / name
    if not folder.is_dir():
        there = sorted(p.name for p in Path(root).glob("*") if p.is_dir())
        raise FileNotFoundError(
            f"{folder} is not a folder. {root} holds the folders "
            f"{', '.join(there) or '(none)'}; root is the folder above the data sets."
        )
    path = folder / _mat_name(splits)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. It holds the class attributes and splits; "
            f"{folder} holds {_few(sorted(p.name for p in folder.glob('*.mat')))}"
            " as .mat files. Copy it there, or name it by splits=."
        )
    features_path = _features_path(folder, features, splits)

    fingerprint = {path.name: _sha256(path)}
    found = _read_mat(path, _TABLE_VARIABLES)
    rows = {
        key: _from_one(_required(found, f"{key}_loc", path), f"{key}_loc", path)
        for key in ("trainval", "test_seen", "test_unseen")
    }
    X = labels = image_files = None
    if features_path is not None:
        fingerprint[features_path.name] = _sha256(features_path)
        held = _read_mat(features_path, ["features", "labels", "image_files"])
        labels = _from_one(
            _required(held, "labels", features_path), "labels", features_path
        )
        X = _matrix(
            _required(held, "features", features_path), "features", features_path
        )
        if X.shape[1] == len(labels):
            X = X.T
        elif X.shape[0] != len(labels):
            raise ValueError(
                f"features in {features_path} have shape {X.shape} for {len(labels)} "
                "labels; the shape must be (features, samples) with one sample per "
                "label."
            )
        X = _float_features(X, features_path)
        if "image_files" in held:
            image_files = _texts(held["image_files"], "image_files", features_path)

    class_names = attribute_names = None
    if "allclasses_names" in found:
        class_names = _texts(found["allclasses_names"], "allclasses_names", path)
    if "attribute_names" in found:
        attribute_names = _texts(found["attribute_names"], "attribute_names", path)
    table, original = _class_by_attribute(
        _matrix(_required(found, "att", path), "att", path),
        _matrix(found["original_att"], "original_att", path)
        if "original_att" in found
        else None,
        None if class_names is None else len(class_names),
        0 if labels is None else int(labels.max(initial=-1)) + 1,
        path,
    )
    if class_names is None:
        width = max(3, len(str(len(table))))
        class_names = np.array([f"class{k + 1:0{width}}" for k in range(len(table))])

    data = _checked_bunch(
        path,
        where_features=features_path,
        X=X,
        labels=labels,
        attributes=np.array(table, dtype=np.float64),
        class_names=class_names,
        attribute_names=attribute_names,
        original_attributes=None if original is None else _missing_to_nan(original),
        image_files=image_files,
        fingerprint=fingerprint,
        **rows,
    )
    train, val = (
        _from_one(found[key], key, path) if key in found else None
        for key in ("train_loc", "val_loc")
    )
    problem = _tuning_problem(train, val, data.trainval, labels)
    if problem is None:
        data.train, data.val = train, val
    else:
        warnings.warn(
            f"{path}: train_loc and val_loc are left out, for {problem}. Tuning on "
            "them would not tell how unseen classes fare; split trainval by class "
            "instead.",
            UserWarning,
            stacklevel=2,
        )
    return data


def _write_beside(path, contents):
    """Write a MATLAB file beside `path`; give the name it has until renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            savemat(file, contents, oned_as="column")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _cells(texts):
    cells = np.empty((len(texts), 1), dtype=object)
    cells[:, 0] = [str(text) for text in texts]
    return cells


def _table(values, name):
    """An attribute table as float64, or a sentence."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf" or values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must be a matrix of numbers with one row per class and one "
            f"column per attribute, got shape {values.shape} and type {values.dtype}."
        )
    return values.astype(np.float64)


def _row_numbers(values, name):
    """Row numbers from 0 as int64, or a sentence."""
    values = np.asarray(values)
    if values.ndim != 1 or (values.dtype.kind not in "iu" and values.size):
        raise ValueError(
            f"{name} must be a vector of whole row numbers from 0, got shape "
            f"{values.shape} and type {values.dtype}. Turn a mask into row numbers "
            "with np.flatnonzero(mask)."
        )
    return values.astype(np.int64)


def save_xlsa17(
    root: str | os.PathLike[str],
    name: str,
    *,
    X: ArrayLike,
    labels: ArrayLike,
    attributes: ArrayLike,
    trainval: ArrayLike,
    test_seen: ArrayLike,
    test_unseen: ArrayLike,
    train: ArrayLike | None = None,
    val: ArrayLike | None = None,
    class_names: ArrayLike | None = None,
    attribute_names: ArrayLike | None = None,
    image_files: ArrayLike | None = None,
    original_attributes: ArrayLike | None = None,
    features: str = "res101",
    splits: str = "att_splits",
    overwrite: bool = False,
) -> Path:
    """Write data in the layout of the xlsa17 zero-shot benchmark.

    Public zero-shot code reads `<root>/<name>/res101.mat` and
    `att_splits.mat`; this makes them of one's own data, with the published
    variable names, orientation and counting from 1, as MATLAB 5 files.
    :func:`load_xlsa17` gives back what was written.

    Parameters
    ----------
    root : path-like
        Folder that holds one folder per data set; made if it is missing.
    name : str
        Folder of the data set; made if it is missing.
    X : array-like of shape (n, d)
        Features, one row per sample. float64 is written as it is, everything
        else as float32.
    labels : array-like of shape (n,)
        Class of each row: its row in `attributes`, from 0, or its class name.
    attributes : array-like of shape (C, a)
        One row per class, written as `att` as it is. The published tables have
        rows of L2 norm 1, and some public code relies on it: divide by the
        norms first if yours should too.
    trainval, test_seen, test_unseen : array-like of int
        Rows, from 0: training rows, test rows of the same classes (may be
        empty), and rows of classes that have no training row.
    train, val : array-like of int or None, default=None
        Two parts of trainval without a common class, for tuning.
    class_names : array-like of shape (C,) or None, default=None
        Distinct names. Blanks around names are dropped, here and below.
    attribute_names : array-like of shape (a,) or None, default=None
    image_files : array-like of shape (n,) or None, default=None
        Where each row came from.
    original_attributes : array-like of shape (C, a) or None, default=None
        Raw attribute values. NaN is missing and is written as -1.
    features, splits : str, default="res101" and "att_splits"
        Names of the two files.
    overwrite : bool, default=False
        Whether existing files may be replaced.

    Returns
    -------
    folder : :class:`pathlib.Path`
        `<root>/<name>`.

    Raises
    ------
    FileExistsError
        If one of the files exists and `overwrite` is false.
    ValueError
        If :func:`load_xlsa17` would refuse the files or could not give back
        what was written: it says when. Also if train and val could not be
        used for tuning, or if a variable exceeds the 2 GiB of a MATLAB 5 file.

    Notes
    -----
    All is checked before anything is written. Each file is written under
    another name, synced and renamed, so that a killed run leaves no half file;
    the two renames come last, one right after the other.

    Examples
    --------
    >>> import tempfile
    >>> from rezsl_sk.datasets import load_xlsa17, save_xlsa17
    >>> with tempfile.TemporaryDirectory() as root:
    ...     folder = save_xlsa17(
    ...         root, "PETS",
    ...         X=[[0.0, 1.0], [0.1, 0.9], [0.2, 1.1], [1.0, 1.0], [1.1, 0.2]],
    ...         labels=["cat", "cat", "cat", "dog", "fox"],
    ...         attributes=[[1.0, 0.0], [0.0, 1.0], [0.5, 0.8]],
    ...         class_names=["cat", "dog", "fox"],
    ...         trainval=[0, 1, 3], test_seen=[2], test_unseen=[4],
    ...     )
    ...     print(sorted(path.name for path in folder.iterdir()))
    ...     print(load_xlsa17(root, "PETS").y)
    ['att_splits.mat', 'res101.mat']
    ['cat' 'cat' 'cat' 'dog' 'fox']
    """
    folder = Path(root) / name
    features_path = folder / _mat_name(features)
    path = folder / _mat_name(splits)
    if path == features_path:
        raise ValueError(
            f"features and splits both name {path}; they are two files and need two "
            "names."
        )
    for existing in (features_path, path):
        if existing.exists() and not overwrite:
            raise FileExistsError(
                f"{existing} exists. Pass overwrite=True to replace it, or choose "
                "another root or name."
            )
    X = np.asarray(X)
    # First, for what comes next makes a copy.
    if X.size * (8 if X.dtype == np.float64 else 4) >= _MATLAB5_LIMIT:
        raise ValueError(
            f"X of shape {X.shape} and type {X.dtype} is larger than the 2 GiB that a "
            "MATLAB 5 file can hold. Write it in several sets, as float32, or keep "
            "it in a FeatureCache, which has no such limit."
        )
    attributes = _table(attributes, "attributes")
    names = class_names
    if names is None:
        names = [f"class{k + 1}" for k in range(len(attributes))]
    names = np.array([str(n).strip() for n in names])
    attribute_names, image_files = (
        None if texts is None else [str(text).strip() for text in texts]
        for texts in (attribute_names, image_files)
    )
    if original_attributes is not None:
        original_attributes = _table(original_attributes, "original_attributes")
    labels = _labels_to_rows(labels, None if class_names is None else names)
    rows = {
        "trainval": _row_numbers(trainval, "trainval"),
        "test_seen": _row_numbers(test_seen, "test_seen"),
        "test_unseen": _row_numbers(test_unseen, "test_unseen"),
    }
    _checked_bunch(
        f"{path} is not written",
        where_features=f"{features_path} is not written",
        X=_float_features(X, f"{features_path} is not written"),
        labels=labels,
        attributes=attributes,
        class_names=names,
        attribute_names=attribute_names,
        original_attributes=original_attributes,
        image_files=image_files,
        **rows,
    )
    if train is not None:
        rows["train"] = _row_numbers(train, "train")
    if val is not None:
        rows["val"] = _row_numbers(val, "val")
    problem = _tuning_problem(
        rows.get("train"), rows.get("val"), rows["trainval"], labels
    )
    if problem is not None:
        raise ValueError(
            f"train and val cannot be used for tuning, for {problem}. They must "
            "divide trainval into two parts without a common class; or leave both out."
        )

    tables = {"att": attributes.T}
    if original_attributes is not None:
        tables["original_att"] = _nan_to_missing(original_attributes).T
    if class_names is not None:
        tables["allclasses_names"] = _cells(names)
    if attribute_names is not None:
        tables["attribute_names"] = _cells(attribute_names)
    for key, values in rows.items():
        tables[f"{key}_loc"] = (values + 1.0)[:, np.newaxis]
    samples = {
        "features": X.T if X.dtype == np.float64 else X.T.astype(np.float32),
        "labels": (labels + 1.0)[:, np.newaxis],
    }
    if image_files is not None:
        samples["image_files"] = _cells(image_files)

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    try:
        for final, contents in ((features_path, samples), (path, tables)):
            written.append((_write_beside(final, contents), final))
        for temporary, final in written:
            os.replace(temporary, final)
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
    return folder


def _labels_to_rows(labels, class_names):
    """Labels, given as rows of the table or as class names, as int64 rows."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iuUTO":
        raise ValueError(
            "labels must be a vector of rows of the attribute table, from 0, or of "
            f"class names, got shape {labels.shape} and type {labels.dtype}."
        )
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    if class_names is None:
        raise ValueError(
            "labels are class names, but class_names is None. Pass class_names in "
            "the order of the rows of the attribute table."
        )
    rows = {name: row for row, name in enumerate(class_names.tolist())}
    texts = [str(label).strip() for label in labels]
    unknown = sorted(set(texts) - set(rows))
    if unknown:
        raise ValueError(
            f"labels hold names that class_names lacks: {_few(unknown)}. Every class "
            "needs a row in the attribute table."
        )
    return np.array([rows[text] for text in texts], dtype=np.int64)


def _nan_to_missing(table):
    """Replace NaN by -1, where :func:`_missing_to_nan` would undo it exactly."""
    written = np.where(np.isnan(table), -1.0, table)
    if not np.array_equal(_missing_to_nan(written), table, equal_nan=True):
        raise ValueError(
            "original_attributes cannot be written: -1 stands for a missing value in "
            "this layout, and the table has NaN beside other negative values, or -1 "
            "as a value. Shift the scale to start at 0, or leave the table out."
        )
    return written


# Made and embedded data -----------------------------------------------------


def _check_number(value, name, low, high=None, *, integer=False, hint=""):
    kind = Integral if integer else Real
    good = isinstance(value, kind) and not isinstance(value, bool)
    if not (good and low <= value < np.inf and (high is None or value <= high)):
        allowed = "a whole number" if integer else "a finite number"
        allowed += f" of at least {low}" if high is None else f" from {low} to {high}"
        raise ValueError(f"{name} must be {allowed}, got {value!r}.{hint}")


def _seen_unseen_rows(labels, seen, rng):
    """Split rows: trainval, a fifth of each seen class as test_seen, the rest."""
    test_seen = []
    for k in seen:
        rows = rng.permutation(np.flatnonzero(labels == k))
        test_seen.append(rows[: max(1, round(0.2 * len(rows)))])
    test_seen = np.sort(np.concatenate(test_seen))
    is_seen = np.isin(labels, seen)
    return {
        "trainval": np.setdiff1d(np.flatnonzero(is_seen), test_seen),
        "test_seen": test_seen,
        "test_unseen": np.flatnonzero(~is_seen),
    }


def _numbered(prefix, n):
    width = len(str(n))
    return [f"{prefix}{i + 1:0{width}}" for i in range(n)]


def make_zero_shot(
    n_seen: int = 40,
    n_unseen: int = 10,
    *,
    samples_per_class: int = 30,
    n_features: int = 64,
    n_attributes: int = 20,
    class_imbalance: float = 0.0,
    attribute_imbalance: float = 0.0,
    noise: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make a zero-shot problem whose imbalance is known.

    Each class has some of the attributes, at strengths between 0.5 and 1. The
    i-th of them is had by a share :math:`0.5 \\, i^{-t}` of the classes, where t
    is `attribute_imbalance`: at 0 every attribute is had by half of the classes,
    at 1 the shares follow Zipf's law, and the last attributes are 0 for nearly all
    classes. A class left with none gets one, by the same odds. Rare attributes are
    learned worse, which is the imbalance that rebalancing is about. With the
    attribute row s of a class, its samples are

    .. math:: x = z + \\tfrac12 \\tanh(W_2^\\top s) + \\text{noise} \\cdot \\epsilon,
              \\quad z = W_1^\\top s,

    with :math:`W_1, W_2` of variance 1 / `n_attributes` and :math:`\\epsilon` of
    variance 1, all normal: linear in the attributes up to a mild bend.

    Parameters
    ----------
    n_seen : int, default=40
        Classes that have training samples, at least 2.
    n_unseen : int, default=10
        Classes that have none, at least 1.
    samples_per_class : int, default=30
        Samples of the largest class, at least 2.
    n_features : int, default=64
        Length of a sample.
    n_attributes : int, default=20
        Length of a class description.
    class_imbalance : float, default=0.0
        From 0 (all classes have equally many samples) to 1 (the i-th seen and
        the i-th unseen class have 1/i of `samples_per_class`, never under 2).
    attribute_imbalance : float, default=0.0
        From 0 (all attributes equally frequent) to 1 (a long tail).
    noise : float, default=1.0
        Standard deviation of what is added to every feature.
    random_state : int, RandomState instance or None, default=None
        An int gives the same bits again.

    Returns
    -------
    data : :class:`sklearn.utils.Bunch`
        The fields of :func:`load_xlsa17`. X (n, n_features) is float64 with rows
        in random order; attributes is (n_seen + n_unseen, n_attributes), seen
        classes first, its rows distinct and none zero; no attribute is
        constant over the seen classes. test_seen has a fifth of the rows of
        every seen class, at least one. train, val, original_attributes and
        image_files are None, fingerprint is empty.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    Examples
    --------
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(6, 2, samples_per_class=10, random_state=0)
    >>> data.X.shape, data.attributes.shape
    ((80, 64), (8, 20))
    >>> len(data.trainval), len(data.test_seen), len(data.test_unseen)
    (48, 12, 20)
    >>> tail = make_zero_shot(attribute_imbalance=1.0, random_state=0)
    >>> (tail.attributes[:40] > 0).sum(axis=0)[[0, 1, 9, 19]]
    array([21, 10,  3,  1])
    """
    _check_number(
        n_seen,
        "n_seen",
        2,
        integer=True,
        hint=" One class alone does not tell attributes apart.",
    )
    _check_number(n_unseen, "n_unseen", 1, integer=True)
    _check_number(
        samples_per_class,
        "samples_per_class",
        2,
        integer=True,
        hint=" Each seen class gives a row to trainval and one to test_seen.",
    )
    _check_number(n_features, "n_features", 1, integer=True)
    _check_number(n_attributes, "n_attributes", 1, integer=True)
    _check_number(class_imbalance, "class_imbalance", 0, 1)
    _check_number(attribute_imbalance, "attribute_imbalance", 0, 1)
    _check_number(noise, "noise", 0)
    rng = check_random_state(random_state)

    share = 0.5 * np.arange(1, n_attributes + 1) ** -float(attribute_imbalance)
    attributes = np.vstack(
        [
            _attribute_rows(n_seen, share, 1, rng),
            _attribute_rows(n_unseen, share, 0, rng),
        ]
    )
    sizes = np.concatenate(
        [
            samples_per_class * np.arange(1, n + 1) ** -float(class_imbalance)
            for n in (n_seen, n_unseen)
        ]
    )
    sizes = np.maximum(2, np.round(sizes)).astype(np.int64)
    labels = rng.permutation(np.repeat(np.arange(n_seen + n_unseen), sizes))

    scale = 1 / np.sqrt(n_attributes)
    linear, bend = rng.normal(scale=scale, size=(2, n_attributes, n_features))
    means = attributes @ linear + 0.5 * np.tanh(attributes @ bend)
    X = means[labels] + noise * rng.normal(size=(len(labels), n_features))

    return _checked_bunch(
        "make_zero_shot",
        X=X,
        labels=labels,
        attributes=attributes,
        class_names=np.array(
            _numbered("seen", n_seen) + _numbered("unseen", n_unseen), dtype=np.str_
        ),
        attribute_names=np.array(_numbered("attribute", n_attributes), dtype=np.str_),
        **_seen_unseen_rows(labels, np.arange(n_seen), rng),
    )


def _attribute_rows(n_classes, share, fewest, rng):
    """Draw attribute rows of which attribute j is had by `share[j]` of classes.

    The number of classes is exact rather than left to chance: so a rare
    attribute is still had by `fewest` classes, and by never all.
    """
    counts = np.maximum(fewest, np.round(share * n_classes)).astype(np.int64)
    has = np.column_stack(
        [rng.permutation(np.arange(n_classes) < count) for count in counts]
    )
    for k in np.flatnonzero(~has.any(axis=1)):
        has[k, rng.choice(len(share), p=share / share.sum())] = True
    # Strengths are continuous draws: two rows are equal with probability zero.
    return has * rng.uniform(0.5, 1.0, size=has.shape)


_DIGIT_NAMES = np.array(
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
)

# Written down from how the digits are drawn by hand: 1 always, 0.5 by some
# writers or in part, 0 not at all. The columns are the digits 0 to 9.
_DIGIT_SHAPES = {
    "line at the top": (1, 0, 1, 1, 0, 1, 0.5, 1, 1, 1),
    "line at the upper left": (1, 0, 0, 0, 1, 1, 1, 0, 1, 1),
    "line at the upper right": (1, 0, 1, 1, 0.5, 0, 0, 1, 1, 1),
    "line across the middle": (0, 0, 0, 1, 1, 1, 1, 0.5, 1, 1),
    "line at the lower left": (1, 0, 0.5, 0, 0, 0, 1, 0, 1, 0),
    "line at the lower right": (1, 0, 0, 1, 1, 1, 1, 0, 1, 1),
    "line at the bottom": (1, 0, 1, 1, 0, 1, 1, 0, 1, 0.5),
    "closed loop above": (0, 0, 0, 0, 0, 0, 0, 0, 1, 1),
    "closed loop below": (0, 0, 0, 0, 0, 0, 1, 0, 1, 0),
    "upright stroke in the middle": (0, 1, 0, 0, 0.5, 0, 0, 0.5, 0, 0),
    "diagonal stroke": (0, 0, 1, 0, 0.5, 0, 0, 1, 0, 0),
    "straight lines": (0, 1, 0.5, 0, 1, 0.5, 0, 1, 0, 0),
    "bay on the left above": (0, 0, 1, 1, 0, 0, 0, 0, 0, 0),
    "bay on the left below": (0, 0, 0, 1, 0, 1, 0, 0, 0, 1),
}


def load_digits_zero_shot(*, unseen: Sequence[str] = ("two", "four", "eight")) -> Bunch:
    """Load scikit-learn's digits as a zero-shot problem.

    A demonstration that needs no download: 1797 handwritten digits of 8 x 8
    pixels, described by the strokes they are drawn with. ::

                                       0   1   2   3   4   5   6   7   8   9
        line at the top                1   .   1   1   .   1   ½   1   1   1
        line at the upper left         1   .   .   .   1   1   1   .   1   1
        line at the upper right        1   .   1   1   ½   .   .   1   1   1
        line across the middle         .   .   .   1   1   1   1   ½   1   1
        line at the lower left         1   .   ½   .   .   .   1   .   1   .
        line at the lower right        1   .   .   1   1   1   1   .   1   1
        line at the bottom             1   .   1   1   .   1   1   .   1   ½
        closed loop above              .   .   .   .   .   .   .   .   1   1
        closed loop below              .   .   .   .   .   .   1   .   1   .
        upright stroke in the middle   .   1   .   .   ½   .   .   ½   .   .
        diagonal stroke                .   .   1   .   ½   .   .   1   .   .
        straight lines                 .   1   ½   .   1   ½   .   1   .   .
        bay on the left above          .   .   1   1   .   .   .   .   .   .
        bay on the left below          .   .   .   1   .   1   .   .   .   1

    1 is always, ½ is by some writers or in part. The table says how digits are
    drawn; neither it nor the choice of unseen digits was fitted to any accuracy.
    The default unseen digits follow from the table alone: of all triples whose
    every attribute occurs, as strongly, among the other seven digits, and for which
    no two attributes coincide over those seven, it is the one whose rows are
    farthest apart. So an eight is the loop of a nine above the loop of a six.

    Parameters
    ----------
    unseen : sequence of str, default=("two", "four", "eight")
        Digits, as words, that get no training row; at least one, and at least
        two of the ten must remain.

    Returns
    -------
    data : :class:`sklearn.utils.Bunch`
        The fields of :func:`load_xlsa17`: X (1797, 64) float32 from 0 to 1, y and
        class_names as words ("zero" to "nine", in this order), attributes
        (10, 14) from 0 to 1, attribute_names (14,). test_seen has a fifth of
        the rows of every seen digit, always the same ones for the same `unseen`.
        train, val, original_attributes and image_files are None, fingerprint is
        empty.

    Raises
    ------
    ValueError
        If `unseen` holds anything but distinct words from "zero" to "nine", is
        empty, or leaves fewer than two digits.

    Examples
    --------
    >>> from rezsl_sk.datasets import load_digits_zero_shot
    >>> data = load_digits_zero_shot()
    >>> data.X.shape, data.attributes.shape
    ((1797, 64), (10, 14))
    >>> print(data.class_names[data.unseen_classes])
    ['two' 'four' 'eight']
    >>> six = data.attributes[list(data.class_names).index("six")]
    >>> print(data.attribute_names[six == 1][-2:])
    ['line at the bottom' 'closed loop below']
    """
    names = _DIGIT_NAMES.tolist()
    unseen = [unseen] if isinstance(unseen, str) else list(unseen)
    if (
        not 1 <= len(unseen) <= 8
        or len(set(unseen)) < len(unseen)
        or not set(unseen) <= set(names)
    ):
        raise ValueError(
            f"unseen must be one to eight distinct words of {', '.join(names)}, got "
            f"{unseen!r}."
        )
    X, labels = load_digits(return_X_y=True)
    labels = labels.astype(np.int64)
    seen = [k for k, digit in enumerate(names) if digit not in unseen]
    return _checked_bunch(
        "load_digits_zero_shot",
        X=(X / 16).astype(np.float32),
        labels=labels,
        attributes=np.array(list(_DIGIT_SHAPES.values()), dtype=np.float64).T.copy(),
        class_names=_DIGIT_NAMES.copy(),
        attribute_names=np.array(list(_DIGIT_SHAPES)),
        **_seen_unseen_rows(labels, seen, np.random.RandomState(0)),
    )
