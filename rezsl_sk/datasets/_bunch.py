"""The one kind of data set that all loaders give, and its checks."""

from __future__ import annotations

import numpy as np
from sklearn.utils import Bunch

from ..tables import check_attribute_names


def few(values):
    """First five of some values for an error message."""
    values = list(values)
    text = ", ".join(str(value) for value in values[:5])
    return text + (f", ... ({len(values)} in all)" if len(values) > 5 else "")


def float_features(X, where):
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
            f"rows {few(rows)} (from 0). Extract them again or leave them out."
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
            f"{few(class_names[rows])}. Fill in these values; missing ones have a "
            "place only in original_att."
        )
    names, counts = np.unique(class_names, return_counts=True)
    if (counts > 1).any() or "" in names:
        raise ValueError(
            f"{where}: class names must be distinct and not empty; repeated or "
            f"empty: {few(repr(str(n)) for n in names[(counts > 1) | (names == '')])}."
        )
    if attribute_names is not None and len(attribute_names) != attributes.shape[1]:
        raise ValueError(
            f"{where}: {len(attribute_names)} attribute names for "
            f"{attributes.shape[1]} attributes; give one name per attribute."
        )
    if attribute_names is not None:
        n = attributes.shape[1]
        check_attribute_names(attribute_names, n, f"{where}: the attribute table")
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
                f"{few(values[counts > 1])} (from 0). List every row once."
            )
        bad = values[values < 0]
        if labels is not None:
            bad = values[(values < 0) | (values >= len(labels))]
        if len(bad):
            limit = "" if labels is None else f" to {len(labels) - 1}"
            raise ValueError(
                f"{where}: {name} lists rows {few(bad)}, but rows go from 0{limit}. "
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
                f"{where}: {one} and {other} share rows {few(shared)} (from 0). "
                "Training and test rows must be apart."
            )
    if labels is None:
        return
    seen = np.unique(labels[trainval])
    both = np.intersect1d(seen, labels[test_unseen])
    if len(both):
        raise ValueError(
            f"{where}: the classes {few(class_names[both])} occur in trainval and "
            "in test_unseen. An unseen class has no training rows; the labels or "
            "the splits belong to other data."
        )
    strangers = np.setdiff1d(labels[test_seen], seen)
    if len(strangers):
        raise ValueError(
            f"{where}: test_seen holds the classes {few(class_names[strangers])}, of "
            "which trainval has no row. Move these rows to test_unseen or to trainval."
        )


def tuning_problem(train, val, trainval, labels):
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


def checked_bunch(
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
                f"{where_features}: labels {few(np.unique(labels[bad]))} (from 0) "
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
