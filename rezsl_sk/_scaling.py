"""Spaces of training: how features and attributes are scaled before a model sees them.

Both are fitted on training data alone and then frozen; every estimator of the
library uses these two.
"""

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import gen_batches

from ._blocks import Rows

CACHED_ROWS = 256  # several passes over so few rows read memory once
BLOCK_ROWS = 8192  # scaled at a time: no second copy of the data in double precision


def unit_rows(rows):
    """Rows divided by their length; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def class_sums(X, group, n_classes):
    """Sums of the rows of X (n, d) over classes: (n_classes, d)."""
    n = len(X)
    one_hot = csr_array((np.ones(n), (group, np.arange(n))), shape=(n_classes, n))
    return one_hot @ X


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
            square = np.zeros(d)
            for rows in gen_batches(len(X), CACHED_ROWS):
                with np.errstate(over="ignore", invalid="ignore"):
                    square += np.square(X[rows] - offset).sum(axis=0)
            scale = np.sqrt(square / len(X))
            # Differences at the level of rounding are no differences.
            noise = 10 * np.finfo(X.dtype).eps * np.abs(offset)
            scale[scale <= noise] = 1
        return self._set(offset, scale, X.dtype)

    def fit_blocks(self, blocks, d, dtype):
        """Learn the statistics of blocks (m, d) that are in memory one by one."""
        n, total, square = 0, np.zeros(d), np.zeros(d)
        near = None  # a point not far from the mean: squares around it stay small
        for X in blocks:
            if not len(X):  # rows of held-out classes alone
                continue
            n += len(X)
            if self.how is None:
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                total += X.sum(axis=0, dtype=np.float64)
                if self.how == "standard":
                    near = total / n if near is None else near
                    square += np.square(X - near).sum(axis=0)
        offset, scale = np.zeros(d), np.ones(d)
        if self.how is not None:
            offset = total / n
        if self.how == "standard":
            scale = np.sqrt(np.maximum(square / n - np.square(offset - near), 0))
            noise = 10 * np.finfo(dtype).eps * np.abs(offset)
            scale[scale <= noise] = 1
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
            extreme = ((length == 0) | ~np.isfinite(length))[:, 0]
            if extreme.any():
                # Squares must neither over- nor underflow.
                size = np.abs(X[extreme]).max(axis=1, keepdims=True)
                X[extreme] /= np.where(size > 0, size, 1)
                length[extreme] = np.linalg.norm(X[extreme], axis=1, keepdims=True)
            X *= np.sqrt(X.shape[1]).astype(X.dtype) / np.where(length > 0, length, 1)


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
        The space is (S - offset) / scale.

    varying, constant : ndarrays of int
        Attributes that differ over the prototypes, and those that do not: they
        carry no signal and are not part of the space.
    """

    def __init__(self, how):
        self.how = how

    def fit(self, prototypes):
        """Learn the statistics of the seen prototypes (K, a)."""
        wide = prototypes.astype(np.float64)
        spread = np.ptp(wide, axis=0)
        # Differences at the level of rounding are no differences.
        noise = 10 * np.finfo(prototypes.dtype).eps * np.abs(wide).max(axis=0)
        self.constant = np.flatnonzero(spread <= noise)
        self.varying = np.flatnonzero(spread > noise)
        offset, scale = np.zeros(wide.shape[1]), np.ones(wide.shape[1])
        if self.how in ("standard", "center"):
            offset = wide.mean(axis=0)
        if self.how == "standard":
            with np.errstate(over="ignore", invalid="ignore"):
                scale[self.varying] = wide[:, self.varying].std(axis=0)
            if not np.isfinite(scale).all():
                raise ValueError(
                    f"S holds values up to {np.abs(wide).max():.3g}, too large to be "
                    "squared; rescale the attributes."
                )
        offset[self.constant] = wide[0, self.constant]
        self.offset = offset.astype(prototypes.dtype)
        self.scale = scale.astype(prototypes.dtype)
        return self

    def transform(self, S):
        """Attributes (k, a) in raw units as rows of the space (k, a')."""
        keep = self.varying
        space = (S[:, keep] - self.offset[keep]) / self.scale[keep]
        return space.astype(self.offset.dtype, copy=False)

    def inverse_transform(self, space):
        """The inverse of `transform`, constant attributes filled in."""
        S = np.tile(self.offset, (len(space), 1))
        S[:, self.varying] += space * self.scale[self.varying]
        return S

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
