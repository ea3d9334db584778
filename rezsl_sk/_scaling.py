"""Spaces of training: how features and attributes are scaled before a model sees them.

Both are fitted on training data alone and then frozen; every estimator of the
library uses these two.
"""

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import gen_batches

from ._blocks import Rows
from ._grouping import ROUNDING, power_of_two, spacing

CACHED_ROWS = 256  # several passes over so few rows read memory once
BLOCK_ROWS = 8192  # scaled at a time: no second copy of the data in double precision


def varies(rows, precision=None):
    """Which columns of rows (n, a) vary by more than rounding: bool, shape (a,).

    Parameters
    ----------
    rows : ndarray of shape (n, a)

    precision : dtype or None
        In which the values were computed, where that is coarser than the dtype of
        `rows`. A column varies if its range exceeds ``ROUNDING`` units of that
        precision, relative to its largest absolute value.
    """
    eps = max(spacing(rows.dtype), spacing(precision or rows.dtype))
    wide = rows.astype(np.float64)
    # Halves: the range of numbers near the largest float must not overflow.
    spread = wide.max(axis=0) / 2 - wide.min(axis=0) / 2
    return spread > ROUNDING * eps / 2 * np.abs(wide).max(axis=0)


def column_mean_std(rows):
    """Mean and standard deviation (a,) of float64 rows (n, a) of any size."""
    unit = power_of_two(np.abs(rows).max(axis=0))
    rows = rows / unit  # squares must neither over- nor underflow
    return rows.mean(axis=0) * unit, rows.std(axis=0) * unit


def unit_rows(rows):
    """Rows divided by their length, which may be of any size; rows of zeros stay."""
    with np.errstate(over="ignore"):
        length = np.linalg.norm(rows, axis=1, keepdims=True)
    size, length = size_and_length(rows, length)
    if (size != 1).any():
        rows = rows / size
    return rows / np.where(length > 0, length, 1)


def size_and_length(rows, length):
    """Two divisors (n, 1) each that bring rows (n, d) to length 1, one after the other.

    `length` (n, 1) is the root of the sum of squares. The first divisor is 1, unless
    squares of a row over- or underflow: then it is the row's largest absolute value,
    and the second the length of what is left. That of a row of zeros is 0.
    """
    size = np.ones_like(length)
    info = np.finfo(length.dtype)
    safe = (length > np.sqrt(info.tiny) / info.eps) & np.isfinite(length)
    extreme = np.flatnonzero(~safe)
    if len(extreme):
        largest = np.abs(rows[extreme]).max(axis=1, keepdims=True)
        size[extreme] = np.where(largest > 0, largest, 1)
        length[extreme] = np.linalg.norm(
            rows[extreme] / size[extreme], axis=1, keepdims=True
        )
    return size, length


def class_sums(X, group, n_classes):
    """Sums of the rows of X (n, d) over classes: (n_classes, d)."""
    total = 0.0
    for rows in gen_batches(len(X), BLOCK_ROWS):  # in double precision each
        n = len(X[rows])
        shape = n_classes, n
        one_hot = csr_array((np.ones(n), (group[rows], np.arange(n))), shape=shape)
        total = total + one_hot @ X[rows]
    return total


class FeatureScaling:
    """Features (n, d) to features of size about 1.

    Parameters
    ----------
    how : {"standard", "l2"} or None
        "standard": mean 0 and standard deviation 1 per feature. "l2": centred,
        then each row brought to the length sqrt(d). None: as given.

    Attributes
    ----------
    offset, scale : ndarrays of shape (d,)
        Mean and divisor per feature.
    """

    def __init__(self, how):
        self.how = how

    def fit(self, X):
        """Learn the statistics of X (n, d)."""
        d = X.shape[1]
        offset, scale = np.zeros(d), np.ones(d)
        if self.how is not None:
            total = np.zeros(d)
            for rows in gen_batches(len(X), CACHED_ROWS):
                with np.errstate(over="ignore", invalid="ignore"):
                    total += X[rows].sum(axis=0, dtype=np.float64)
            offset = total / len(X)
        if self.how == "standard":
            scale = np.sqrt(_mean_square(X, offset))
            info = np.finfo(np.float64)
            safe = (scale > np.sqrt(info.tiny) / info.eps) & np.isfinite(scale)
            extreme = np.flatnonzero(~safe & np.isfinite(offset))
            if len(extreme):
                # Squares must neither over- nor underflow.
                largest = np.abs(X[:, extreme] - offset[extreme]).max(axis=0)
                unit = power_of_two(largest)
                scale[extreme] = unit * np.sqrt(
                    _mean_square(X[:, extreme] / unit, offset[extreme] / unit)
                )
            scale = _beyond_rounding(scale, offset, X.dtype)
        return self._set(offset, scale, X.dtype)

    def fit_blocks(self, blocks, d, dtype):
        """Learn the statistics of blocks (m, d) that are in memory one by one."""
        n, total, square = 0, np.zeros(d), np.zeros(d)
        near = None  # a point not far from the mean: squares around it stay small
        unit = 1.0  # for values whose squares over- or underflow
        for X in blocks:
            if not len(X):  # rows of held-out classes alone
                continue
            n += len(X)
            if self.how is None:
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                total += X.sum(axis=0, dtype=np.float64)
                if self.how == "standard":
                    if near is None:
                        near = total / n
                        unit = power_of_two(np.abs(X).max(axis=0))
                    square += np.square((X - near) / unit).sum(axis=0)
        offset, scale = np.zeros(d), np.ones(d)
        if self.how is not None:
            offset = total / n
        if self.how == "standard":
            shift = np.square((offset - near) / unit)
            scale = np.sqrt(np.maximum(square / n - shift, 0)) * unit
            scale = _beyond_rounding(scale, offset, dtype)
        return self._set(offset, scale, dtype)

    def _set(self, offset, scale, dtype):
        with np.errstate(over="ignore"):
            self.offset, self.scale = offset.astype(dtype), scale.astype(dtype)
        if not (np.isfinite(self.offset).all() and np.isfinite(self.scale).all()):
            raise ValueError(
                f"X holds values too large for {np.dtype(dtype)} to add up or square; "
                "rescale the features."
            )
        return self

    def check_size(self, X):
        """Refuse X (n, d) as given whose squares over- or underflow when added up."""
        largest = max(X.max(), -X.min())
        if self.how is not None or largest == 0:
            return
        info = np.finfo(X.dtype)
        low, high = np.sqrt(info.tiny) / info.eps, np.sqrt(info.max / 16 / X.size)
        if not low < largest < high:
            raise ValueError(
                f"X holds values up to {largest:.3g}, too "
                f"{'small' if largest <= low else 'large'} to be squared in {X.dtype}; "
                "rescale the features, or set feature_scaling='standard'."
            )

    def transform(self, X):
        """X (n, d) scaled, in its own precision; X itself where nothing is done.

        `Rows` of a file are scaled when they are read.
        """
        if self.how is None:
            return X
        if isinstance(X, Rows):
            return X.mapped(self.transform)
        scaled = np.empty_like(X)
        # Beyond the range of float32 the loss is not finite, which is reported.
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in gen_batches(len(X), CACHED_ROWS):
                self._scale(np.subtract(X[rows], self.offset, out=scaled[rows]))
        return scaled

    def _scale(self, X):
        if self.how == "standard":
            X /= self.scale
        else:
            length = np.sqrt(np.einsum("ij,ij->i", X, X))[:, np.newaxis]
            size, length = size_and_length(X, length)
            extreme = np.flatnonzero(size != 1)
            X[extreme] /= size[extreme]
            X *= np.sqrt(X.shape[1]).astype(X.dtype) / np.where(length > 0, length, 1)


def _beyond_rounding(scale, offset, dtype):
    """The scale (d,), but for constant features the size of their value.

    Differences at the level of rounding are no differences, and stay small beside
    features of any unit. A feature that is always 0 has the scale 1.
    """
    noise = ROUNDING * np.finfo(dtype).eps * np.abs(offset)
    return np.where(scale <= noise, power_of_two(np.abs(offset)), scale)


def _mean_square(X, offset):
    """Mean square (d,) of X (n, d) around the offset, without a copy of X."""
    square = np.zeros(X.shape[1])
    for rows in gen_batches(len(X), CACHED_ROWS):
        with np.errstate(over="ignore", invalid="ignore"):
            square += np.square(X[rows] - offset).sum(axis=0)
    return square / len(X)


class AttributeSpace:
    """Attributes (k, a) in raw units to the space of training (k, a') and back.

    Parameters
    ----------
    how : {"standard", "center", "l2"} or None
        "standard": mean 0 and standard deviation 1 over the seen prototypes,
        one vote per class; "center": mean 0; "l2": as given, lengths are the
        business of whoever compares; None: as given.

    Attributes
    ----------
    offset, scale : ndarrays of shape (a,)
        The space is (S - offset) / scale. In double precision.

    varying, constant : ndarrays of int
        Attributes that differ over the prototypes, and those that do not: they
        carry no signal and are not part of the space.
    """

    def __init__(self, how):
        self.how = how

    def fit(self, prototypes, dtype=None):
        """Learn the statistics of the seen prototypes (K, a).

        `dtype` is the precision of the space; None: that of the prototypes.
        """
        self.dtype = np.dtype(dtype or prototypes.dtype)
        wide = prototypes.astype(np.float64)
        vary = varies(prototypes, self.dtype)
        self.varying, self.constant = np.flatnonzero(vary), np.flatnonzero(~vary)
        mean, std = column_mean_std(wide)
        offset, scale = np.zeros(wide.shape[1]), np.ones(wide.shape[1])
        if self.how in ("standard", "center"):
            offset = mean
        if self.how == "standard":
            scale[vary] = std[vary]
        elif self.how == "l2" and vary.any():
            # Lengths do not matter, but must be within the range of the dtype.
            largest = np.abs(wide[:, vary]).max()
            if not 1e-12 < largest < 1e12:
                scale[vary] = power_of_two(largest)
        offset[~vary] = wide[0, ~vary]
        self.offset, self.scale = offset, scale
        return self

    def check_size(self, prototypes, dtype=None):
        """Refuse prototypes (K, a) whose squares over- or underflow in this space.

        `dtype` is the precision of the squares; None: that of the space.
        """
        space = np.abs(self.transform(prototypes))
        if not space.size:
            return
        dtype = np.dtype(dtype or self.dtype)
        info = np.finfo(dtype)
        low = np.sqrt(info.tiny) / info.eps
        high = np.sqrt(info.max / (16 * space.shape[1]))
        if not low < space.max() < high:
            raise ValueError(
                f"S holds values up to {np.abs(prototypes).max():.3g}, too "
                f"{'small' if space.max() <= low else 'large'} to be squared in "
                f"{dtype}; rescale the attributes, or set "
                "attribute_scaling='standard'."
            )

    def check_range(self, space, names, dtype):
        """Refuse rows (k, a') of this space that are not within the range of dtype."""
        largest = np.abs(space).max(axis=1, initial=0)
        beyond = ~(largest <= np.finfo(dtype).max)
        if beyond.any():
            which = (
                np.flatnonzero(beyond) if names is None else np.asarray(names)[beyond]
            )
            raise ValueError(
                f"the attributes of the classes {which[:5].tolist()} are too far from "
                f"those of fit to be computed with in {np.dtype(dtype)}; check their "
                "units, or give X in float64."
            )

    def transform(self, S):
        """Attributes (k, a) in raw units as rows of the space (k, a')."""
        keep = self.varying
        S = np.asarray(S)[:, keep].astype(np.float64, copy=False)
        # Centred before it is cast: differences of large values must not be lost.
        with np.errstate(over="ignore"):
            return ((S - self.offset[keep]) / self.scale[keep]).astype(self.dtype)

    def inverse_transform(self, space):
        """The inverse of `transform`, constant attributes filled in."""
        S = np.tile(self.offset, (len(space), 1))
        S[:, self.varying] += space * self.scale[self.varying]
        return S.astype(self.dtype)

    def check_directions(self, space, names=None):
        """Refuse rows of zeros (k, a'): no cosine leads to them."""
        zero = ~space.any(axis=1)
        if zero.any():
            which = np.flatnonzero(zero) if names is None else np.asarray(names)[zero]
            raise ValueError(
                f"prototypes {which[:5].tolist()} lie at the origin of the training "
                "space (the mean of the training prototypes), so no direction leads "
                "to them. Give these classes attributes that set them apart."
            )
