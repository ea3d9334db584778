"""Predictions for more rows than fit into memory, from a file into a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import is_regressor
from sklearn.utils.validation import check_is_fitted

from ._blocks import blocks, file_of
from ._storage.contents import write_text
from ._storage.hdf5 import WriterLock, new_hdf5
from .decoding import SCORE_ROWS, check_k, score_rows
from .feature_cache import FeatureCache, LazyFeatures

if TYPE_CHECKING:
    import pandas

    from ._regressor import ReZSLRegressor
    from ._zero_shot import ZeroShotMixin

__all__ = ["predict_to_hdf5"]


def predict_to_hdf5(
    estimator: ReZSLRegressor | ZeroShotMixin,
    X: FeatureCache | LazyFeatures | h5py.Dataset | ArrayLike,
    path: str | os.PathLike[str],
    *,
    prototypes: pandas.DataFrame | ArrayLike | None = None,
    classes: ArrayLike | None = None,
    top_k: int = 1,
    overwrite: bool = False,
) -> None:
    """Write the best classes of each row, or its attributes, to an HDF5 file.

    Rows are read, scored and written block by block, the next block being read
    meanwhile: neither they nor their scores need fit into memory. The file
    bears its name only once it is whole and on the disk; until then it has a name of
    its own that ends in ``.part``, beside a ``NAME.lock``.

    A file of classes holds ``index`` (n, top_k), the row numbers of
    `prototypes` (of a classifier, of its ``classes_``), the best first;
    ``score`` (n, top_k), the seen penalty taken off; and ``class_name`` (K,),
    where the candidates have names. A file of attributes holds ``attributes``
    (n, a), and ``attribute_name`` (a,) where they have names.

    Parameters
    ----------
    estimator : fitted ReZSLRegressor, ZeroShotClassifier or baseline
        Of a regressor without `prototypes` the attributes are written.

    X : FeatureCache, its ``X``, h5py.Dataset, or array-like of shape (n, d)
        Features.

    path : str or path-like
        The file to write; its folder must exist.

    prototypes : DataFrame indexed by class, array-like (K, a), or None
        For a regressor: attributes of the candidates, in the units of S.

    classes : array-like of shape (K,) or None, default=None
        For a regressor: names of the candidates.

    top_k : int, default=1
        How many classes of each row. Of equal scores the first row of
        `prototypes` comes first, of a classifier's the one that its ``predict``
        prefers.

    overwrite : bool, default=False
        Whether a file of that name is replaced.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is False.
    IsADirectoryError
        If `path` is a folder.
    ValueError
        If `path` is the file that X lies in, X or `prototypes` cannot be
        predicted from, in the words of ``predict``, or `top_k` is no number of
        candidates.
    CacheError
        If X cannot be read, another process is writing this file, or the disk
        is too full.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import h5py
    >>> from rezsl_sk import ReZSLRegressor
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> from rezsl_sk.streaming import predict_to_hdf5
    >>> data = make_zero_shot(random_state=0)
    >>> X, S = data.X[data.trainval], data.attributes[data.labels[data.trainval]]
    >>> reg = ReZSLRegressor(random_state=0).fit(X, S)
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "answers.h5")
    >>> predict_to_hdf5(
    ...     reg,
    ...     data.X[:4],
    ...     path,
    ...     prototypes=data.attributes,
    ...     classes=data.class_names,
    ...     top_k=3,
    ... )
    >>> with h5py.File(path) as file:
    ...     names = file["class_name"].asstr()[...]
    ...     best = names[file["index"][:, 0]]
    ...     print(file["index"].shape, best.tolist() == data.y[:4].tolist())
    (4, 3) True
    >>> folder.cleanup()
    """
    path = Path(os.path.realpath(path))  # through a link, to what it names
    if path.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "The path is a folder; give the name of a file", str(path)
        )
    _check_apart(X, path)
    if path.exists() and not overwrite:
        raise FileExistsError(
            errno.EEXIST,
            "The file exists; delete it, give another name or ask to overwrite it",
            str(path),
        )
    if not hasattr(estimator, "_ranking"):
        raise ValueError(
            f"{type(estimator).__name__} cannot be predicted from block by block; give "
            "a ReZSLRegressor, a ZeroShotClassifier or a baseline."
        )
    check_is_fitted(estimator)
    # Before a file is begun: what is wrong shows at once.
    of_attributes = prototypes is None and is_regressor(estimator)
    if of_attributes:
        if classes is not None or top_k != 1:
            raise ValueError(
                "classes and top_k go with prototypes, the candidates; without them "
                "attributes are written. Give prototypes, or neither of these."
            )
        X = estimator._check_X(X)
        names = estimator.attribute_names_
        width, dtype = len(estimator.attribute_offset_), estimator.coefs_[0].dtype
        n_bytes = len(X) * width * dtype.itemsize
    else:
        names, of_column, rank = estimator._ranking(prototypes, classes)
        n_classes = len(of_column)
        check_k(top_k, n_classes)
        X = estimator._check_X(X)
        n_bytes = len(X) * top_k * 8
    if names is not None and names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "surrogateescape")
    with WriterLock(path), new_hdf5(path, n_bytes) as (file, check):
        # First: a name that cannot be stored costs no scores.
        if names is not None:
            what = "attribute_name" if of_attributes else "class_name"
            if names.dtype.kind in "iub":
                file[what] = names
            else:
                write_text(file, what, names)
        if of_attributes:
            data = _table(file, "attributes", len(X), width, dtype)
            for rows, block in blocks(X, SCORE_ROWS):
                data[rows] = estimator._from_space(estimator._outputs(block))
                check()
        else:
            index = _table(file, "index", len(X), top_k, np.int32)
            values = None
            n_rows = min(estimator._rows_at_once, score_rows(n_classes))
            for rows, block in blocks(X, n_rows):
                columns, best = rank(block, top_k)
                if values is None:
                    values = _table(file, "score", len(X), top_k, best.dtype)
                index[rows], values[rows] = of_column[columns], best
                check()


def _check_apart(X, path):
    """Refuse to write over the file that is read."""
    source = file_of(X)
    if source is None or not os.path.exists(source) or not path.exists():
        return
    if os.path.samefile(source, path):
        raise ValueError(
            f"X lies in {source}, which would be overwritten by {path}; give another "
            f"name."
        )


def _table(file, name, n, width, dtype):
    rows = max(1, min(n, 2**18 // (width * np.dtype(dtype).itemsize)))
    return file.create_dataset(name, (n, width), dtype=dtype, chunks=(rows, width))
