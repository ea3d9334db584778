"""Gaussian naive Bayes for each attribute, in closed form for all of them at once."""

import numpy as np
from sklearn.base import BaseEstimator

from .._scaling import FeatureScaling, class_sums
from .attribute_models import DegreesOfAttributes, likelihood_scorer


class NaiveBayesAttributes(BaseEstimator):
    r"""Direct attribute prediction with one Gaussian naive Bayes an attribute.

    Features are taken for independent Gaussians given an attribute. A class that has
    attribute j to the degree z counts z times as an example of the attribute and 1 - z
    times as one of its absence, each class with one vote, so that means and variances
    of both follow from those of the classes. What they say of a row,

    .. math::
        \log \frac{p_j}{1 - p_j} = \log \frac{\pi_j}{1 - \pi_j}
        + \sum_i \log N(x_i; \mu_{ji}, \sigma_{ji})
        - \log N(x_i; \bar\mu_{ji}, \bar\sigma_{ji}),

    is quadratic in its features: three matrix products for all attributes. A class is
    scored by the likelihood of its attributes, as by
    :class:`rezsl_sk._scorers.attribute_models.ClassifiedAttributes`, with which the
    tests compare it.

    Parameters
    ----------
    var_smoothing : float, default=1e-2
        Share of each feature's whole variance that is added to its variances.

    feature_scaling : {"standard", "l2"} or None, default="standard"
        As in :class:`rezsl_sk.ReZSLRegressor`.
    """

    def __init__(self, var_smoothing=1e-2, feature_scaling="standard"):
        self.var_smoothing = var_smoothing
        self.feature_scaling = feature_scaling

    def fit_classes(self, X, group, attributes):
        """Learn the Gaussians; see ``rezsl_sk._scorers``."""
        self._features = FeatureScaling(self.feature_scaling).fit(X)
        self._degrees = DegreesOfAttributes().fit(attributes)
        Z = self._degrees.transform(attributes)
        x = self._features.transform(X)
        n_classes = len(attributes)
        count = np.bincount(group, minlength=n_classes)[:, np.newaxis]
        mean = class_sums(x, group, n_classes) / count
        square = class_sums(np.square(x), group, n_classes) / count
        whole = square.mean(axis=0) - np.square(mean.mean(axis=0))
        extra = self.var_smoothing * np.where(whole > 0, whole, 1)
        (mu, var), (mu_0, var_0) = (
            _gaussians(weight, mean, square, extra) for weight in (Z, 1 - Z)
        )
        self.prior_ = Z.mean(axis=0)
        self._of_square = (0.5 / var_0 - 0.5 / var).T
        self._of_row = (mu / var - mu_0 / var_0).T
        self._constant = (
            0.5 * (mu_0**2 / var_0 - mu**2 / var + np.log(var_0) - np.log(var))
        ).sum(axis=1) + np.log(self.prior_ / (1 - self.prior_))
        return self

    def log_odds(self, X):
        """log(p / (1 - p)) of each row having each varying attribute: (n, a')."""
        x = self._features.transform(X).astype(np.float64)
        return np.square(x) @ self._of_square + x @ self._of_row + self._constant

    def scorer(self, attributes, names=None):
        """Log-likelihoods less the prior's; see ``rezsl_sk._scorers``."""
        compare = likelihood_scorer(self._degrees.transform(attributes), self.prior_)

        def score(X):
            odds = self.log_odds(X)
            return compare(-np.logaddexp(0, -odds), -np.logaddexp(0, odds))

        return score


def _gaussians(weight, mean, square, extra):
    """Means and variances (a', d) of features, classes weighted by (K, a')."""
    share = (weight / weight.sum(axis=0)).T
    mu = share @ mean
    return mu, np.maximum(share @ square - np.square(mu), 0) + extra
