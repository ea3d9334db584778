"""Which rows are one: equal up to the rounding of what computed them."""

import math

import numpy as np

ROUNDING = 10  # spacings of floating-point numbers: what differs by less is equal
BLOCK_ROWS = 8192  # compared at a time
MOST_WORK = 20  # passes over all distinct rows, and
LEAST_WORK = 5 * 10**7  # entries that are compared in any case


def spacing(dtype):
    """Relative spacing of numbers of a dtype: that of float64 for wider ones and
    integers, that of float32 for narrower ones."""
    dtype = np.dtype(dtype)
    narrow = dtype.kind == "f" and dtype.itemsize < 8
    return float(np.finfo(np.float32 if narrow else np.float64).eps)


def power_of_two(size):
    """The power of two at or below each size, 1 for 0: to divide by it is exact."""
    exponent = np.frexp(np.where(np.isfinite(size) & (size > 0), size, 1))[1]
    return np.ldexp(1.0, np.clip(exponent - 1, -1000, 1000))


def distinct_rows(S, known=None):
    """Distinct rows of S and the number of each row's one.

    Rows are one if no entry differs by more than ``ROUNDING`` spacings of the coarser
    of the two precisions, relative to the largest entry of the row: a matrix product
    or a projection rounds equal rows differently. Chains do not grow: in
    lexicographic order each row joins the first class whose representative, the
    first of its rows, is that near. So the order of the rows of S does not matter.
    Integers are compared exactly. (Of about as many nearly equal classes as rows, as
    only continuous values have them, some may be kept apart that are near.)

    Parameters
    ----------
    S : array of shape (n, a) or (n,)

    known : array of shape (k, a) or None
        Representatives of classes there are: the first of `rows`, in their order,
        however near to each other.

    Returns
    -------
    rows : ndarray of shape (K, a)
        Those of `known`, then the others in lexicographic order; in the coarser
        precision of S and `known`.

    index : ndarray of int, shape (n,)
        ``rows[index]`` equals S up to rounding.
    """
    S = _numbers(S)
    if not S.shape[1]:  # nothing tells them apart
        S = np.zeros((len(S), 1), dtype=S.dtype)
        rows, index = distinct_rows(
            S, None if known is None else np.zeros((len(known), 1))
        )
        return rows[:, :0], index
    first, index = _distinct(S)
    rows = S[first] + S.dtype.type(0)
    order = np.lexsort(rows.T[::-1])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    rows, index = rows[order], rank[index]
    n_known, precision = 0, rows.dtype
    if known is not None:
        known = _numbers(known)
        n_known = len(known)
        precision = max(known.dtype, S.dtype, key=spacing)
        if precision.kind != "f":  # the other one may have fractions
            precision = np.result_type(known, S)
        rows = np.concatenate([known, rows]).astype(precision)
    leader = _leaders(rows, n_known)
    kept = leader == np.arange(len(rows))
    number = np.cumsum(kept) - 1
    return rows[kept], number[leader][n_known:][index]


def repeated_rows(S):
    """Numbers of the rows of S (n, a) that are an earlier one's, and that one's."""
    rows, index = distinct_rows(S)
    first = np.full(len(rows), len(S))
    np.minimum.at(first, index, np.arange(len(S)))
    first = first[index]
    later = np.flatnonzero(first < np.arange(len(S)))
    return later, first[later]


def _numbers(S):
    S = np.asarray(S)
    S = S.reshape(len(S), math.prod(S.shape[1:]))
    # Wider floats have padding, which is no part of their value.
    known = S.dtype.kind in "biu" or (S.dtype.kind == "f" and S.dtype.itemsize <= 8)
    return S if known else S.astype(np.float64)


def _distinct(S):
    """Where each distinct row of S (n, a) comes first; which of these each row is."""
    # Adding 0 turns -0.0, which equals 0.0 but has other bits, into 0.0. Rows
    # are compared as bytes: five times faster than np.unique(axis=0).
    S = np.ascontiguousarray(S + S.dtype.type(0))
    as_bytes = S.view(np.dtype((np.void, S.dtype.itemsize * S.shape[1]))).ravel()
    _, first, index = np.unique(as_bytes, return_index=True, return_inverse=True)
    return first, index.reshape(-1)


def _leaders(rows, n_known):
    """Number (n,) of the first row that each of rows (n, a) is near, or its own.

    Only rows whose projections on a random direction are near can be near: sorted by
    these, rows fall into runs. In each run the first row that is left takes all that
    are near it; the others are projected anew.
    """
    n, a = rows.shape
    leader = np.arange(n)
    if n - n_known < 1 or n < 2 or rows.dtype.kind != "f":
        return leader
    size = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
    share = ROUNDING * spacing(rows.dtype)
    near = share * size
    # Projections are rounded themselves.
    near_projected = (1.01 * share + 2 * a * np.finfo(np.float64).eps) * size
    rng = np.random.default_rng(0)  # any directions do
    left, work = np.flatnonzero(np.isfinite(size)), 0  # no others are near any
    while len(left) > 1 and work <= LEAST_WORK + MOST_WORK * rows.size:
        work += len(left) * a
        direction = rng.uniform(0.5, 1.5, a) * rng.choice([-1.0, 1.0], a) / a
        along = np.concatenate([rows[part] @ direction for part in _blocks(left)])
        order = np.argsort(along, kind="stable")
        left, along = left[order], along[order]
        reach = along + np.abs(direction).sum() * near_projected[left]
        apart = along[1:] > np.maximum.accumulate(reach)[:-1]
        run = np.concatenate([[0], np.cumsum(apart)])
        alone = np.bincount(run)[run] == 1
        left, run = left[~alone], run[~alone]
        if not len(left):
            break
        _, run = np.unique(run, return_inverse=True)
        head = np.full(run[-1] + 1, n)
        np.minimum.at(head, run, left)
        head = head[run]
        joins = left == head
        mine = np.flatnonzero((left != head) & (left >= n_known))
        for part in _blocks(mine):
            one, other = left[part], head[part]
            limit = np.maximum(near[one], near[other])[:, np.newaxis]
            with np.errstate(over="ignore"):
                apart = np.abs(rows[one].astype(np.float64) - rows[other])
            joins[part] = (apart <= limit).all(axis=1)
        leader[left[joins]] = head[joins]
        left = left[~joins]
    return leader


def _blocks(numbers):
    return (
        numbers[start : start + BLOCK_ROWS]
        for start in range(0, len(numbers), BLOCK_ROWS)
    )
