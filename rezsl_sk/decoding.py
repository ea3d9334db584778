"""From predicted attributes to classes: nearest prototypes, calibrated stacking."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array, gen_batches

from ._grouping import power_of_two, repeated_rows

__all__ = ["nearest_prototype", "prototype_scores", "stack_calibrated", "top_k"]

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
        prototype is all zero and so has no direction, or, for euclidean, squares
        of the values overflow.

    Examples
    --------
    >>> from rezsl_sk.decoding import prototype_scores
    >>> prototype_scores([[2.0, 0.0]], [[1.0, 0.0], [0.0, 3.0]])
    array([[1., 0.]])
    """
    predictions, prototypes = _checked_pair(predictions, prototypes, metric)
    return _scorer(prototypes, metric)(predictions)


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
    classes = _checked_classes(classes, len(prototypes))
    score = _scorer(prototypes, metric)
    nearest = np.empty(len(predictions), dtype=np.intp)
    rows = max(1, BLOCK_ENTRIES // len(prototypes))
    for block in gen_batches(len(predictions), rows):
        nearest[block] = score(predictions[block]).argmax(1)
    return nearest if classes is None else classes[nearest]


def top_k(
    predictions: ArrayLike,
    prototypes: ArrayLike,
    k: int = 5,
    classes: ArrayLike | None = None,
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
    seen: ArrayLike | None = None,
    penalty: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The k classes nearest to each prediction, exactly, in order.

    Works in blocks of rows: millions of predictions among tens of thousands of
    classes need no (n, K) matrix. For rows that lie in a file, and into one,
    see :func:`rezsl_sk.streaming.predict_to_hdf5`.

    Parameters
    ----------
    predictions : array-like of shape (n, a)
        Predicted attributes.

    prototypes : array-like of shape (K, a)
        Attributes of the candidate classes, in the same space and units.

    k : int, default=5
        How many classes, at most K.

    classes : array-like of shape (K,) or None, default=None
        Names of the candidates. None gives row numbers of `prototypes`.

    metric : {"cosine", "euclidean"}, default="cosine"
        As in :func:`prototype_scores`.

    seen : array-like of bool, shape (K,), or None, default=None
        Which candidates are seen classes.

    penalty : float, default=0.0
        Taken off the scores of seen classes; see :func:`stack_calibrated`.

    Returns
    -------
    nearest : ndarray of shape (n, k)
        Best first; of equal scores the first in the order of `prototypes`, but with
        `seen` an unseen class before a seen one.

    scores : ndarray of shape (n, k)
        Their scores, the penalty taken off.

    Raises
    ------
    ValueError
        As :func:`prototype_scores`; also if k is out of range, `classes` or `seen`
        has another length, or `penalty` is not finite or without `seen`.

    Examples
    --------
    >>> from rezsl_sk.decoding import top_k
    >>> names, scores = top_k(
    ...     [[3.0, 4.0]], [[1, 0], [0, 1], [-1, 0]], 2, ["horse", "zebra", "mole"]
    ... )
    >>> names, scores.round(2)
    (array([['zebra', 'horse']], dtype='<U5'), array([[0.8, 0.6]]))
    """
    predictions, prototypes = _checked_pair(predictions, prototypes, metric)
    classes = _checked_classes(classes, len(prototypes))
    check_k(k, len(prototypes))
    if seen is None and penalty != 0:
        raise ValueError(
            f"penalty={penalty!r} is taken off the scores of seen classes; say by "
            "seen=, a bool for each class, which these are."
        )
    score = _scorer(prototypes, metric)
    nearest = np.empty((len(predictions), k), dtype=np.intp)
    best = np.empty((len(predictions), k), dtype=score(predictions[:1]).dtype)
    rows = max(1, BLOCK_ENTRIES // len(prototypes))
    for block in gen_batches(len(predictions), rows):
        scores = score(predictions[block])
        if seen is None:
            found = highest(scores, k)
        else:
            found = highest_calibrated(scores, seen, penalty, k)
        nearest[block], best[block] = found
    return nearest if classes is None else classes[nearest], best


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
        A copy. Where rounding, of a large penalty above all, would hide which class
        is the best of a row, its score is the next larger number than the others'.

    Raises
    ------
    ValueError
        If the shapes do not go together, `seen` is not bool, or `penalty` is not
        finite.

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
    scores, seen = _checked_scores(scores, seen, penalty)
    stacked = _less_penalty(scores, seen, penalty)
    if penalty == 0 or not stacked.size:
        return stacked
    found = stacked.argmax(axis=1)
    top = stacked[np.arange(len(scores)), found]
    # Rounding of scores and penalty moves an entry by less than half of this.
    off = abs(_in_range(penalty, stacked.dtype))
    moved = 2 * np.finfo(stacked.dtype).eps * (np.abs(top) + off)
    near = stacked >= (top - moved.astype(stacked.dtype))[:, np.newaxis]
    rows = np.flatnonzero(np.count_nonzero(near, axis=1) > 1)
    if not len(rows):
        return stacked
    # The difference within a side, and that of the sides against the penalty, do not
    # lose the digits that a large penalty takes off scores.
    best = highest_calibrated(scores[rows], seen, penalty, 1)[0][:, 0]
    found, top = found[rows], top[rows]
    with np.errstate(invalid="ignore", over="ignore"):
        ahead = np.subtract(scores[rows, best], scores[rows, found], dtype=np.float64)
        ahead = ahead > penalty * (seen[best].astype(float) - seen[found])
    ahead &= best != found
    stacked[rows[ahead], best[ahead]] = np.nextafter(
        top[ahead], np.inf, dtype=stacked.dtype
    )
    return stacked


def relative_scores(scores, seen, penalty):
    """Scores (m, k) less the penalty of the seen, and less the best of each row.

    Of what is left within a side nothing is lost to a large penalty.
    """
    scores, seen = _checked_scores(scores, seen, penalty)
    best = highest_calibrated(scores, seen, penalty, 1)[0]
    scores = scores - np.take_along_axis(scores, best, axis=1)
    off = _in_range(penalty, scores.dtype) * (seen.astype(scores.dtype) - seen[best])
    return np.subtract(scores, off, out=scores, casting="same_kind")


def highest_calibrated(scores, seen, penalty, k):
    """:func:`highest` of calibrated scores, an unseen class first where they are equal.

    The best of the seen classes and of the unseen are compared, in double precision:
    a large penalty would round away what tells the scores of a side apart.
    """
    scores, seen = _checked_scores(scores, seen, penalty)
    if seen.all() or not seen.any():
        columns, values = highest(scores.copy(), k)
        return columns, _less_penalty(values, seen[columns], penalty)
    sides = []
    for mask in (seen, ~seen):
        side = scores.compress(mask, axis=1)
        column, value = highest(side, min(k, side.shape[1]))
        # A last one that is never taken, for who asks on.
        value = np.pad(value, [(0, 0), (0, 1)], constant_values=-np.inf)
        column = np.pad(np.flatnonzero(mask)[column], [(0, 0), (0, 1)])
        sides.append((column, value, mask.sum()))
    (column_s, value_s, n_seen), (column_u, value_u, n_unseen) = sides
    columns = np.empty((len(scores), k), dtype=np.intp)
    rows, nth_s, nth_u = np.arange(len(scores)), *np.zeros((2, len(scores)), np.intp)
    for place in range(k):
        with np.errstate(invalid="ignore", over="ignore"):
            margin = np.subtract(
                value_s[rows, nth_s], value_u[rows, nth_u], dtype=np.float64
            )
        of_seen = (nth_s < n_seen) & ((nth_u >= n_unseen) | (margin > penalty))
        columns[:, place] = np.where(
            of_seen, column_s[rows, nth_s], column_u[rows, nth_u]
        )
        nth_s += of_seen
        nth_u += ~of_seen
    values = np.take_along_axis(scores, columns, axis=1)
    return columns, _less_penalty(values, seen[columns], penalty)


def _checked_scores(scores, seen, penalty):
    scores, seen = np.asarray(scores), np.asarray(seen)
    if seen.dtype != bool or scores.ndim != 2 or seen.shape != scores.shape[1:]:
        raise ValueError(
            "scores must have shape (n, k) and seen must be k booleans, got shapes "
            f"{scores.shape} and {seen.shape} ({seen.dtype})."
        )
    if scores.dtype.kind not in "biuf":
        raise ValueError(f"scores must be real numbers, got dtype {scores.dtype}.")
    if (
        isinstance(penalty, bool | np.bool_)
        or not isinstance(penalty, Real)
        or not np.isfinite(penalty)
    ):
        raise ValueError(
            f"penalty must be a finite number, got {penalty!r}; to leave seen classes "
            "out, leave out their prototypes."
        )
    dtype = np.result_type(scores, np.float32)
    return scores.astype(dtype, copy=False), seen


def _less_penalty(scores, seen, penalty):
    """A copy of the scores, the penalty taken off where `seen`, which is broadcast."""
    # As an array: to pick entries takes several times as long, and x - 0 is x.
    penalty = _in_range(penalty, scores.dtype)
    off = np.where(seen, penalty, 0).astype(np.result_type(scores, penalty))
    return np.subtract(scores, off, out=np.empty_like(scores), casting="same_kind")


def _in_range(penalty, dtype):
    """The penalty, or the half of the dtype's largest number, which is as final."""
    limit = float(np.finfo(dtype).max) / 2
    return penalty if abs(float(penalty)) <= limit else math.copysign(limit, penalty)


def score_rows(n_classes):
    """How many rows an estimator scores at a time."""
    return max(1, min(SCORE_ROWS, SCORE_ENTRIES // n_classes))


def refuse_no_numbers(values, what):
    """Refuse values that could be cast to floats but would mean something else."""
    dtype = np.asarray(values).dtype
    if dtype.kind in "cmMSUV":
        raise ValueError(
            f"{what} must hold real numbers, got dtype {dtype}; give floats or "
            "integers."
        )


def _checked_pair(predictions, prototypes, metric):
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, got {metric!r}.")
    dtype = [np.float64, np.float32]
    refuse_no_numbers(predictions, "predictions")
    refuse_no_numbers(prototypes, "prototypes")
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
    else:
        dtype = np.result_type(predictions, prototypes)
        # Both less the origin, squared, added up over attributes, in one sum.
        limit = math.sqrt(np.finfo(dtype).max / (16 * prototypes.shape[1]))
        predictions = predictions.astype(dtype, copy=False)
        prototypes = prototypes.astype(dtype, copy=False)
        largest = max(max(x.max(), -x.min()) for x in (predictions, prototypes))
        if largest > limit:
            raise ValueError(
                f"predictions and prototypes go up to {largest:.2g}, and squares of "
                f"more than {limit:.2g} overflow in {dtype}; rescale the attributes"
                + (", or give them in float64." if dtype == np.float32 else ".")
            )
    return predictions, prototypes


def prototype_scorer(prototypes):
    """:func:`prototype_scores` by cosine, as a function of checked predictions.

    What depends on the prototypes alone is computed once.
    """
    return _scorer(_checked_pair(prototypes, prototypes, "cosine")[1], "cosine")


def highest(scores, k):
    """Columns and values of the k highest entries of each row (m, K), in order.

    Of equal ones the first column comes first. `scores` is overwritten.
    """
    columns = np.empty((len(scores), k), dtype=np.intp)
    values = np.empty((len(scores), k), dtype=scores.dtype)
    rows = np.arange(len(scores))
    # One argmax after the other: for the ten best of 21,841 as fast as torch.topk,
    # which leaves the order of equals open, and five times as fast as argpartition.
    for place in range(k):
        best = scores.argmax(axis=1)
        columns[:, place], values[:, place] = best, scores[rows, best]
        scores[rows, best] = -np.inf
    return columns, values


def check_k(k, n_classes):
    """Refuse a number of classes to name that there are not."""
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= n_classes:
        raise ValueError(
            f"the number of classes to name for each row must be a whole number from "
            f"1 to the {n_classes} candidates, got {k!r}."
        )


def _checked_classes(classes, n):
    if classes is None:
        return None
    classes = np.asarray(classes)
    if classes.shape != (n,):
        raise ValueError(
            f"classes must name each of the {n} prototypes once, got shape "
            f"{classes.shape}."
        )
    return classes


def _scorer(prototypes, metric):
    """A function from predictions (m, a) to scores (m, k)."""
    if metric == "cosine":
        directions = _directions(prototypes)
        return equal_columns(lambda p: _directions(p) @ directions.T, prototypes)
    # Distances do not depend on the origin, their rounding does: a year such as
    # 1999 squared leaves float32 no digits for a difference of 1.
    # Squares of float32 are added up in float64: where distances are small beside
    # the values, nothing would be left of them.
    dtype = prototypes.dtype
    prototypes = prototypes.astype(np.float64, copy=False)
    origin = np.median(prototypes, axis=0)
    centred = prototypes - origin
    # In units that are powers of two, one for the prototypes and one, as large or
    # larger, for each prediction: squares must neither over- nor underflow.
    unit = power_of_two(np.abs(centred).max()) * centred.any()
    centred /= unit or 1
    size = np.square(centred).sum(1)

    def score(predictions):
        predictions = predictions - origin
        own = np.maximum(unit, power_of_two(np.abs(predictions).max(1, keepdims=True)))
        predictions /= own
        share = unit / own
        squared = (
            np.square(predictions).sum(1, keepdims=True)
            + np.square(share) * size
            - 2 * share * (predictions @ centred.T)
        )
        return -(own * np.sqrt(np.maximum(squared, 0))).astype(dtype, copy=False)

    return equal_columns(score, prototypes)


def equal_columns(score, prototypes):
    """`score`, a function to scores (m, k), with equal ones for equal prototypes.

    A product rounds each of its columns in its own way, and equals differ.
    """
    later, first = repeated_rows(prototypes)
    if not len(later):
        return score

    def equal(rows):
        scores = score(rows)
        scores[:, later] = scores[:, first]
        return scores

    return equal


def _directions(rows):
    # Divided by the largest entry first: squares must neither over- nor underflow.
    rows = rows / _nonzero(np.abs(rows).max(axis=1, keepdims=True))
    return rows / _nonzero(np.linalg.norm(rows, axis=1, keepdims=True))


def _nonzero(lengths):
    return np.where(lengths == 0, 1, lengths)
