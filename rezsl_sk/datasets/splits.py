"""Rows for training and test, by class: the splits of a zero-shot problem."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import GroupShuffleSplit
from sklearn.utils import check_random_state

from ._bunch import few

__all__ = ["zero_shot_split"]


def seen_unseen_rows(labels, seen, rng, share=0.2):
    """Split rows: trainval, a share of each seen class as test_seen, the rest.

    Every class with two rows or more gets a row on either side, whatever the share.
    """
    test_seen = [np.empty(0, dtype=np.int64)]
    for k in seen:
        rows = rng.permutation(np.flatnonzero(labels == k))
        n_test = min(max(1, round(share * len(rows))), len(rows) - 1)
        test_seen.append(rows[: n_test if share > 0 else 0])
    test_seen = np.sort(np.concatenate(test_seen))
    is_seen = np.isin(labels, seen)
    return {
        "trainval": np.setdiff1d(np.flatnonzero(is_seen), test_seen),
        "test_seen": test_seen,
        "test_unseen": np.flatnonzero(~is_seen),
    }


def class_halves(labels, trainval, val_classes, random_state):
    """Divide trainval by class: train, and val of `val_classes` of its classes."""
    n_classes = len(np.unique(labels[trainval]))
    if n_classes < 2:
        raise ValueError(
            "trainval holds one class; train and val without a common class need at "
            "least 2. Add seen classes, or pass val_classes=None to go without the two."
        )
    is_number = isinstance(val_classes, Integral) and not isinstance(val_classes, bool)
    is_share = isinstance(val_classes, Real) and not isinstance(val_classes, Integral)
    if not (
        (is_number and 1 <= val_classes < n_classes)
        or (is_share and 0 < val_classes < 1)
    ):
        raise ValueError(
            f"val_classes must be a number of classes from 1 to {n_classes - 1}, of "
            f"the {n_classes} in trainval, or a share between 0 and 1, got "
            f"{val_classes!r}."
        )
    if is_share:
        val_classes = min(max(1, round(val_classes * n_classes)), n_classes - 1)
    split = GroupShuffleSplit(
        1, test_size=int(val_classes), random_state=random_state
    ).split(trainval, groups=labels[trainval])
    train, val = next(split)
    return {"train": trainval[train], "val": trainval[val]}


def zero_shot_split(
    labels: ArrayLike,
    unseen: Sequence,
    *,
    test_seen: float = 0.2,
    val_classes: float | None = 0.2,
    random_state: int | np.random.RandomState | None = 0,
) -> dict[str, np.ndarray]:
    """Split rows as the files of the xlsa17 benchmark do, by their classes.

    All rows of the unseen classes are for test. Of each seen class a share is for
    test, the rest for training, once more divided by class for tuning.

    Parameters
    ----------
    labels : array-like of shape (n,)
        Class of each row, as numbers or names.
    unseen : sequence
        The classes, of those in `labels`, that get no training row. Choose classes
        that the network behind the features was not trained on.
    test_seen : float, default=0.2
        Share, from 0 to below 1, of the rows of each seen class that are for test:
        at least one, and never all. A class with a single row keeps it for training.
        0 is none at all, for a set without generalised zero-shot accuracy.
    val_classes : float, int or None, default=0.2
        Share or number of the seen classes in val. None: neither train nor val.
    random_state : int, RandomState instance or None, default=0
        The default gives the same rows at every call.

    Returns
    -------
    rows : dict of str to ndarray of int64
        "trainval", "test_seen", "test_unseen" and, unless `val_classes` is None,
        "train" and "val": sorted row numbers, from 0. Pass them on to
        :func:`save_xlsa17` by ``**rows``, or as `splits` to
        :meth:`rezsl_sk.feature_cache.FeatureCache.from_arrays`.

    Raises
    ------
    ValueError
        If `unseen` is empty, names a class without rows or leaves fewer than one
        seen class (two, where halves are wanted), or if a number is out of range.

    See Also
    --------
    rezsl_sk.model_selection.ClassKFold : Folds of the seen classes, for tuning.

    Examples
    --------
    >>> from rezsl_sk.datasets import zero_shot_split
    >>> labels = ["cat"] * 5 + ["dog"] * 5 + ["emu"] * 3
    >>> rows = zero_shot_split(labels, unseen=["emu"])
    >>> {name: len(numbers) for name, numbers in rows.items()}
    {'trainval': 8, 'test_seen': 2, 'test_unseen': 3, 'train': 4, 'val': 4}
    """
    labels = np.asarray(labels)
    if labels.dtype == object:  # texts, from pandas
        labels = labels.astype(np.str_)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(
            f"labels must be a vector with one class per row, got shape {labels.shape}."
        )
    unseen = [unseen] if isinstance(unseen, str) else list(unseen)
    classes = np.unique(labels)
    unknown = [k for k in unseen if k not in classes.tolist()]
    if unknown or not 0 < len(set(unseen)) < len(classes):
        raise ValueError(
            f"unseen must be some of the {len(classes)} classes in labels, not all; "
            f"got {few(unseen) or 'none'}"
            + (f"; no row has the label {few(unknown)}." if unknown else ".")
        )
    if (
        not isinstance(test_seen, Real)
        or isinstance(test_seen, bool)
        or not 0 <= test_seen < 1
    ):
        raise ValueError(
            f"test_seen must be a share from 0 to below 1, got {test_seen!r}."
        )
    rng = check_random_state(random_state)
    seen = [k for k in classes.tolist() if k not in set(unseen)]
    rows = seen_unseen_rows(labels, seen, rng, test_seen)
    if val_classes is not None:
        rows |= class_halves(labels, rows["trainval"], val_classes, rng)
    return rows
