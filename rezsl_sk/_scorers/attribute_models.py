"""Any scikit-learn estimator as a model of the attributes.

Class scorers: they learn from checked rows, the number of each row's class, and the
attributes of these classes, and score any classes by their attributes. They deal with
numbers alone; labels are the classifiers' business.
"""

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import has_fit_parameter

from .._scaling import AttributeSpace
from ..decoding import prototype_scorer

# Below it a probability is no evidence any more: models that answer 0 (a tree, a naive
# Bayes of many features) would rule a class out by a single attribute.
LEAST_PROBABILITY = 1e-6


class RegressedAttributes(BaseEstimator):
    """A regressor of the attributes; a class is scored by the cosine with its own.

    The regressor is fitted on the attributes of each row's class in the scaled
    attribute space, where every attribute has the same say, and is asked about rows at
    once.

    Parameters
    ----------
    estimator : regressor
        Cloned. Must take targets of shape (n, a).

    attribute_scaling : {"standard", "center", "l2"} or None
        As in :class:`rezsl_sk.ReZSLRegressor`.
    """

    def __init__(self, estimator, attribute_scaling="standard"):
        self.estimator = estimator
        self.attribute_scaling = attribute_scaling

    def fit_classes(self, X, group, attributes, **params):
        """Learn from X (n, d) of classes (n,) with attributes (K, a)."""
        self.space = AttributeSpace(self.attribute_scaling)
        self.space.fit(attributes, np.float64)
        targets = self.space.transform(attributes).astype(X.dtype, copy=False)
        # A single attribute as (n,): not every regressor takes a column of one.
        self._is_single = targets.shape[1] == 1
        if self._is_single:
            targets = targets[:, 0]
        self.model = clone(self.estimator).fit(X, targets[group], **params)
        return self

    def predict(self, X):
        """Attributes (n, a') in the scaled space."""
        return np.asarray(self.model.predict(X)).reshape(len(X), -1)

    def scorer(self, attributes, names=None):
        """A function from rows (m, d) to scores (m, k) for classes (k, a)."""
        space = self.space.transform(attributes)
        self.space.check_directions(space, names)
        compare = prototype_scorer(space)
        return lambda X: compare(self.predict(X))


class ClassifiedAttributes(BaseEstimator):
    r"""A classifier for each attribute; a class scores by their likelihood.

    Attributes are brought to [0, 1] over the seen classes; z is the degree to which a
    class has one. With p the classifier's probability that a row has attribute j, and
    :math:`\pi_j` the mean of z over the seen classes, a class scores

    .. math::
        \sum_j z_j \log \frac{p_j}{\pi_j}
        + (1 - z_j) \log \frac{1 - p_j}{1 - \pi_j},

    for binary attributes the direct attribute prediction of Lampert, Nickisch and
    Harmeling (IEEE TPAMI 2014, equation 2). A classifier that takes sample weights
    learns from degrees: a row counts z times as an example of the attribute and 1 - z
    times as one of its absence. For others, attributes are split at their mean over the
    seen classes.

    Parameters
    ----------
    estimator : classifier with ``predict_proba``
        Cloned for each attribute.
    """

    def __init__(self, estimator):
        self.estimator = estimator

    def fit_classes(self, X, group, attributes, **params):
        """Learn from X (n, d) of classes (n,) with attributes (K, a)."""
        takes_weights = has_fit_parameter(self.estimator, "sample_weight")
        self._degrees = DegreesOfAttributes(split=not takes_weights).fit(attributes)
        Z = self._degrees.transform(attributes)
        self.prior_ = Z.mean(axis=0)
        given = params.pop("sample_weight", None)
        self.models_ = []
        for degree in Z.T:
            z = degree[group]
            rows, has = slice(None), z > 0.5
            weight = None if given is None else np.asarray(given)
            if ((degree > 0) & (degree < 1)).any():
                rows = np.concatenate([np.flatnonzero(z > 0), np.flatnonzero(z < 1)])
                has = np.repeat([True, False], [(z > 0).sum(), (z < 1).sum()])
                degrees = np.where(has, z[rows], 1 - z[rows])
                weight = degrees if weight is None else degrees * weight[rows]
            weights = {} if weight is None else {"sample_weight": weight}
            model = clone(self.estimator)
            self.models_.append(model.fit(X[rows], has, **params, **weights))
        return self

    def scorer(self, attributes, names=None):
        """A function from rows (m, d) to scores (m, k) for classes (k, a)."""
        compare = likelihood_scorer(self._degrees.transform(attributes), self.prior_)

        def score(X):
            p = np.stack([model.predict_proba(X)[:, 1] for model in self.models_], 1)
            with np.errstate(divide="ignore"):
                return compare(np.log(p), np.log1p(-p))

        return score


class DegreesOfAttributes:
    """Attributes (k, a) as degrees (k, a') in [0, 1] over the seen classes' range.

    Parameters
    ----------
    split : bool
        Whether attributes that are not binary become so, at their mean over the seen
        classes.
    """

    def __init__(self, *, split=False):
        self.split = split

    def fit(self, attributes):
        """Learn range and mean of the seen classes' attributes (K, a)."""
        self.varying = AttributeSpace(None).fit(attributes).varying
        P = attributes[:, self.varying].astype(np.float64)
        self.low, self.range = P.min(axis=0), np.ptp(P, axis=0)
        self.middle = ((P - self.low) / self.range).mean(axis=0)
        return self

    def transform(self, attributes):
        P = np.asarray(attributes)[:, self.varying].astype(np.float64)
        Z = np.clip((P - self.low) / self.range, 0, 1)
        return (Z > self.middle).astype(np.float64) if self.split else Z


def likelihood_scorer(Z, prior):
    """Scores of classes with degrees Z (k, a') from rows' log-probabilities.

    Returns
    -------
    compare : callable
        From the logarithms (m, a') of the probabilities that rows have each attribute,
        and that they lack it, to scores (m, k).
    """
    log_has, log_lacks = np.log(prior), np.log1p(-prior)
    least = np.log(LEAST_PROBABILITY)

    def compare(has, lacks):
        has = np.maximum(has, least) - log_has
        lacks = np.maximum(lacks, least) - log_lacks
        return has @ Z.T + lacks @ (1 - Z).T

    return compare
