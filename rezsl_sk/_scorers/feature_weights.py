"""The feature side alone: weights of the seen classes, carried over by attributes."""

import numpy as np
from sklearn.base import BaseEstimator

from .._feature_side import FeatureSide
from .._scaling import AttributeSpace, FeatureScaling


class FeatureWeights(BaseEstimator):
    """Classes by closed-form weights in feature space; see ``FeatureSide``.

    Parameters
    ----------
    feature_scaling : {"l2", "standard"} or None, default="l2"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    random_state : int, default=0
        Of the random hidden units.
    """

    def __init__(self, feature_scaling="l2", random_state=0):
        self.feature_scaling = feature_scaling
        self.random_state = random_state

    def fit_classes(self, X, group, attributes):
        """Learn the weights; see ``rezsl_sk._scorers``."""
        self._features = FeatureScaling(self.feature_scaling).fit(X)
        self._varying = AttributeSpace(None).fit(attributes, X.dtype).varying
        self._side = FeatureSide().fit(
            self._features.transform(X),
            group,
            attributes[:, self._varying],
            self.random_state,
        )
        return self

    def scorer(self, attributes, names=None):
        """Mean cosines; see ``rezsl_sk._scorers``."""
        weights = self._side.weights(np.asarray(attributes)[:, self._varying])
        return lambda X: self._side.similarities(self._features.transform(X), weights)
