"""Plain cosine, where features and class descriptions lie in one space."""

import numpy as np
from sklearn.base import BaseEstimator

from .._scaling import class_sums, unit_rows


class SharedSpace(BaseEstimator):
    """Cosine of a row with a class's attributes, both in one space.

    For features and descriptions by the same encoder (sentence embeddings, CLIP): the
    table has as many columns as X, and column j means the same in both. Nothing is
    trained; at most both are centred, each by its own mean over the seen classes.

    Parameters
    ----------
    center : bool or "auto", default="auto"
        "auto" centres if the rows' own classes then stand out better among the seen
        classes, by the mean over classes of the log-softmax at the better scale of a
        short list. No training is involved, so the seen classes are no less of a test
        than others.

    Attributes
    ----------
    centered_ : bool
        Whether rows and classes are centred.

    feature_mean_, attribute_mean_ : ndarrays of shape (d,)
        What is taken off rows and classes; zeros without centring.
    """

    def __init__(self, center="auto"):
        self.center = center

    def fit_classes(self, X, group, attributes):
        """Learn the two means; see ``rezsl_sk._scorers``."""
        d = X.shape[1]
        if attributes.shape[1] != d:
            raise ValueError(
                f"SharedSpace compares rows with classes directly, but X has {d} "
                f"columns and the table {attributes.shape[1]}. Give both from the same "
                "encoder."
            )
        count = np.bincount(group, minlength=len(attributes))
        means = class_sums(X, group, len(attributes)) / count[:, np.newaxis]
        centers = [False, True] if self.center == "auto" else [bool(self.center)]
        fits = []
        for centered in centers:
            self.centered_ = centered
            self.feature_mean_ = means.mean(axis=0) if centered else np.zeros(d)
            self.attribute_mean_ = (
                attributes.mean(axis=0) if centered else np.zeros(d)
            ).astype(np.float64)
            if len(centers) > 1:
                fits.append(self._evidence(X, group, attributes, count))
        if len(centers) > 1 and fits[0] >= fits[1]:
            self.centered_ = False
            self.feature_mean_ = self.attribute_mean_ = np.zeros(d)
        return self

    def scorer(self, attributes, names=None):
        """Cosines; see ``rezsl_sk._scorers``."""
        directions = unit_rows(np.asarray(attributes) - self.attribute_mean_).T

        def score(X):
            rows = unit_rows(X - self.feature_mean_.astype(X.dtype))
            return rows @ directions.astype(X.dtype)

        return score

    def _evidence(self, X, group, attributes, count):
        """Mean log-softmax of the rows' classes at the best scale, one vote a class."""
        cosines = self.scorer(attributes)(X)
        vote = 1 / count[group]
        rows = np.arange(len(X))
        best = -np.inf
        for scale in (3.0, 10.0, 30.0, 100.0):
            logits = scale * cosines
            logits -= logits.max(axis=1, keepdims=True)
            log_share = logits[rows, group] - np.log(np.exp(logits).sum(axis=1))
            best = max(best, float(vote @ log_share))
        return best
