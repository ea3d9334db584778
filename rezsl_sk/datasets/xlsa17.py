"""The layout of the xlsa17 zero-shot benchmark: read and written."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.io import savemat
from sklearn.utils import Bunch

from ._bunch import checked_bunch, few, float_features, tuning_problem
from ._matlab import (
    matrix,
    read_mat,
    required,
    rows_from_one,
    split_rows,
    text_vector,
    variables,
)
from .splits import class_halves

__all__ = ["load_xlsa17", "save_xlsa17"]

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
                f"{few(p.name for p in others) or 'no features file'}; name one of "
                "them, or pass features=None for the tables and splits alone."
            )
        return path
    for path in others:
        if path.name == "res101.mat":
            return path
    # Some folders hold several files of splits. A file that cannot be read stays
    # a candidate: it is better named in an error than passed over.
    others = [p for p in others if "features" in (variables(p) or ["features"])]
    if len(others) > 1:
        raise ValueError(
            f"{folder} holds several features files: {few(p.name for p in others)}. "
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
      in int64. Splits that are logical masks become row numbers.
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
        there = few(sorted(p.name for p in folder.glob("*.mat"))) or "none"
        raise FileNotFoundError(
            f"{path} does not exist. It holds the class attributes and splits; .mat "
            f"files in {folder}: {there}. Copy it there, or name it (splits)."
        )
    features_path = _features_path(folder, features, splits)

    fingerprint = {path.name: _sha256(path)}
    found = read_mat(path, _TABLE_VARIABLES)
    X = labels = image_files = None
    if features_path is not None:
        fingerprint[features_path.name] = _sha256(features_path)
        held = read_mat(features_path, ["features", "labels", "image_files"])
        labels = rows_from_one(
            required(held, "labels", features_path), "labels", features_path
        )
        X = matrix(required(held, "features", features_path), "features", features_path)
        if X.shape[1] == len(labels):
            X = X.T
        elif X.shape[0] != len(labels):
            raise ValueError(
                f"features in {features_path} have shape {X.shape} for {len(labels)} "
                "labels; the shape must be (features, samples) with one sample per "
                "label."
            )
        X = float_features(X, features_path)
        if "image_files" in held:
            image_files = text_vector(held["image_files"], "image_files", features_path)

    n_rows = None if labels is None else len(labels)
    rows = {
        key: split_rows(required(found, f"{key}_loc", path), f"{key}_loc", path, n_rows)
        for key in ("trainval", "test_seen", "test_unseen")
    }
    class_names = attribute_names = None
    if "allclasses_names" in found:
        class_names = text_vector(found["allclasses_names"], "allclasses_names", path)
    if "attribute_names" in found:
        attribute_names = text_vector(found["attribute_names"], "attribute_names", path)
    table, original = _class_by_attribute(
        matrix(required(found, "att", path), "att", path),
        matrix(found["original_att"], "original_att", path)
        if "original_att" in found
        else None,
        None if class_names is None else len(class_names),
        0 if labels is None else int(labels.max(initial=-1)) + 1,
        path,
    )
    if class_names is None:
        width = max(3, len(str(len(table))))
        class_names = np.array([f"class{k + 1:0{width}}" for k in range(len(table))])

    data = checked_bunch(
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
        split_rows(found[key], key, path, n_rows) if key in found else None
        for key in ("train_loc", "val_loc")
    )
    problem = tuning_problem(train, val, data.trainval, labels)
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


def _from_one(values):
    """A MATLAB column that counts from 1, of the type that the published files have.

    MATLAB stores whole numbers in the smallest unsigned type that holds them.
    """
    counted = np.asarray(values)[:, np.newaxis] + 1
    return counted.astype(np.min_scalar_type(counted.max(initial=1)))


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


def _rows_from_zero(values, name):
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
    val_classes: float | None = 0.2,
    random_state: int | np.random.RandomState | None = 0,
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
    variable names, orientation, number types and counting from 1, as MATLAB 5
    files. :func:`load_xlsa17` gives back what was written.

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
        Two parts of trainval without a common class, for tuning. Much public code
        reads them without asking, so that they are made where both are None.
    val_classes : float, int or None, default=0.2
        Share or number of the classes of trainval that go into a `val` made here.
        None leaves both parts out of the file, and so does a single class in
        trainval, which cannot be divided.
    random_state : int, RandomState instance or None, default=0
        Which classes these are.
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
    Row numbers and labels are written as unsigned integers, the smallest type
    that holds them, and tables as double, as in the published files: public code
    takes what :func:`scipy.io.loadmat` gives it as an index.

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
        "trainval": _rows_from_zero(trainval, "trainval"),
        "test_seen": _rows_from_zero(test_seen, "test_seen"),
        "test_unseen": _rows_from_zero(test_unseen, "test_unseen"),
    }
    checked_bunch(
        f"{path} is not written",
        where_features=f"{features_path} is not written",
        X=float_features(X, f"{features_path} is not written"),
        labels=labels,
        attributes=attributes,
        class_names=names,
        attribute_names=attribute_names,
        original_attributes=original_attributes,
        image_files=image_files,
        **rows,
    )
    if train is not None:
        rows["train"] = _rows_from_zero(train, "train")
    if val is not None:
        rows["val"] = _rows_from_zero(val, "val")
    n_seen = len(np.unique(labels[rows["trainval"]]))
    if train is None and val is None and val_classes is not None and n_seen > 1:
        rows |= class_halves(labels, rows["trainval"], val_classes, random_state)
    problem = tuning_problem(
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
        tables[f"{key}_loc"] = _from_one(values)
    samples = {
        "features": X.T if X.dtype == np.float64 else X.T.astype(np.float32),
        "labels": _from_one(labels),
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
            f"labels hold names that class_names lacks: {few(unknown)}. Every class "
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
