"""From predicted attributes to classes: nearest prototype, calibrated stacking."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array, gen_batches

__all__ = ["nearest_prototype", "prototype_scores", "stack_calibrated"]

METRICS = ("cosine", "euclidean")
BLOCK_ENTRIES = 1 << 22  # scores held at a time when only their maximum is wanted
SCORE_ENTRIES = 1 << 24  # the same for estimators, which do more for a row of scores
SCORE_ROWS = 8192


def prototype_scores(
    predictions: ArrayLike,
    prototypes: ArrayLike,
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> np.ndarray:
    """Similarity of each prediction to each prototype.

    Parameters
    ----------
    predictions : array-like of shape (n, a)
        Predicted attributes, in the space in which they are to be compared.
        The estimators use the space of training (their parameter
        ``attribute_scaling``): cosine around the mean of the seen prototypes
        tells classes apart where cosine in raw units does not.

    prototypes : array-like of shape (k, a)
        Attributes of the candidate classes, in the same space.

    metric : {"cosine", "euclidean"}, default="cosine"
        "cosine": cosine similarity, in [-1, 1]; that of an all-zero prediction
        is 0 with every prototype. "euclidean": minus the distance.

    Returns
    -------
    scores : ndarray of shape (n, k)
        Larger is nearer; float32 if both inputs are, else float64.

    Raises
    ------
    ValueError
        If widths differ, values are missing or infinite, or, for cosine, a
        prototype is all zero and so has no direction.

    Examples
    --------
    >>> from rezsl_sk.decoding import prototype_scores
    >>> prototype_scores([[2.0, 0.0]], [[1.0, 0.0], [0.0, 3.0]])
    array([[1., 0.]])
    """
    predictions, prototypes = _checked_pair(predictions, prototypes, metric)
    return _scores(predictions, prototypes, metric)


def nearest_prototype(
    predictions: ArrayLike,
    prototypes: ArrayLike,
    classes: ArrayLike | None = None,
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> np.ndarray:
    """Class of the prototype nearest to each prediction.

    Works in blocks of rows: a million predictions among thousands of classes
    need no (n, k) matrix.

    Parameters
    ----------
    predictions : array-like of shape (n, a)
        Predicted attributes.

    prototypes : array-like of shape (k, a)
        Attributes of the candidate classes, in the same space and units.

    classes : array-like of shape (k,) or None, default=None
        Names of the candidates. None gives row numbers of `prototypes`.

    metric : {"cosine", "euclidean"}, default="cosine"
        As in :func:`prototype_scores`.

    Returns
    -------
    nearest : ndarray of shape (n,)
        The first of several equally near ones.

    Raises
    ------
    ValueError
        As :func:`prototype_scores`, and if `classes` has another length.

    Examples
    --------
    >>> from rezsl_sk.decoding import nearest_prototype
    >>> nearest_prototype([[0.9, 0.2]], [[1, 0], [0, 1]], ["horse", "zebra"])
    array(['horse'], dtype='<U5')
    """
    predictions, prototypes = _checked_pair(predictions, prototypes, metric)
    nearest = np.empty(len(predictions), dtype=np.intp)
    rows = max(1, BLOCK_ENTRIES // len(prototypes))
    for block in gen_batches(len(predictions), rows):
        nearest[block] = _scores(predictions[block], prototypes, metric).argmax(1)
    if classes is None:
        return nearest
    classes = np.asarray(classes)
    if classes.shape != (len(prototypes),):
        raise ValueError(
            f"classes must name each of the {len(prototypes)} prototypes once, got "
            f"shape {classes.shape}."
        )
    return classes[nearest]


def stack_calibrated(scores: ArrayLike, seen: ArrayLike, penalty: float) -> np.ndarray:
    """Calibrated stacking: take the seen penalty off the seen classes' scores.

    A model scores the classes it was trained on too high; without a penalty
    generalised zero-shot prediction hardly ever names an unseen class.

    Parameters
    ----------
    scores : array-like of shape (n, k)
        Larger is nearer.

    seen : array-like of bool, shape (k,)
        Which columns are seen classes.

    penalty : float
        In the units of `scores`.

    Returns
    -------
    scores : ndarray of shape (n, k)
        A copy.

    References
    ----------
    Chao, Changpinyo, Gong, Sha: An Empirical Study and Analysis of Generalized
    Zero-Shot Learning for Object Recognition in the Wild. ECCV 2016, eq. 2.

    Examples
    --------
    >>> from rezsl_sk.decoding import stack_calibrated
    >>> stack_calibrated([[0.75, 0.5]], [True, False], 0.5)
    array([[0.25, 0.5 ]])
    """
    scores = np.array(scores, dtype=np.result_type(np.asarray(scores), np.float32))
    seen = np.asarray(seen)
    if seen.dtype != bool or scores.ndim != 2 or seen.shape != scores.shape[1:]:
        raise ValueError(
            "scores must have shape (n, k) and seen must be k booleans, got shapes "
            f"{scores.shape} and {seen.shape} ({seen.dtype})."
        )
    scores[:, seen] -= penalty
    return scores


def score_rows(n_classes):
    """How many rows an estimator scores at a time."""
    return max(1, min(SCORE_ROWS, SCORE_ENTRIES // n_classes))


def _checked_pair(predictions, prototypes, metric):
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, got {metric!r}.")
    dtype = [np.float64, np.float32]
    predictions = check_array(predictions, dtype=dtype, input_name="predictions")
    prototypes = check_array(prototypes, dtype=dtype, input_name="prototypes")
    if predictions.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"predictions have {predictions.shape[1]} attributes and prototypes have "
            f"{prototypes.shape[1]}; both must describe the same attributes."
        )
    if metric == "cosine":
        zero = np.flatnonzero(~prototypes.any(axis=1))
        if len(zero):
            raise ValueError(
                f"prototypes {zero[:5].tolist()} are all zero in the space of "
                "comparison: no direction, so no cosine. Give these classes "
                "attributes that set them apart, leave them out, or use "
                "metric='euclidean'."
            )
    return predictions, prototypes


def _scores(predictions, prototypes, metric):
    if metric == "cosine":
        return _directions(predictions) @ _directions(prototypes).T
    # Distances do not depend on the origin, their rounding does: a year such as
    # 1999 squared leaves float32 no digits for a difference of 1.
    origin = np.median(prototypes, axis=0)
    predictions, prototypes = predictions - origin, prototypes - origin
    squared = (
        np.square(predictions).sum(1)[:, None]
        + np.square(prototypes).sum(1)
        - 2 * predictions @ prototypes.T
    )
    return -np.sqrt(np.maximum(squared, 0))


def _directions(rows):
    # Divided by the largest entry first: squares must neither over- nor underflow.
    rows = rows / _nonzero(np.abs(rows).max(axis=1, keepdims=True))
    return rows / _nonzero(np.linalg.norm(rows, axis=1, keepdims=True))


def _nonzero(lengths):
    return np.where(lengths == 0, 1, lengths)
