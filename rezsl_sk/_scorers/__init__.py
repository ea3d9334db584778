"""Class scorers: what learns from the seen classes and scores any class.

A class scorer is a scikit-learn estimator (it can be cloned and has parameters) with
two methods, which deal with numbers alone; labels, candidates and the seen penalty are
the business of the classifier around it:

``fit_classes(X, group, attributes)``
    Learn from checked rows X (n, d), the number of each row's class (n,) and the
    attributes of the seen classes (K, a), in the units of the table. Returns self.

``scorer(attributes, names=None)``
    A function from checked rows (m, d) to scores (m, k) for k classes with attributes
    (k, a), seen or not; larger is nearer. Everything that depends on the classes alone
    is computed before it is returned. `names` (k,) are for messages.
"""

from .attribute_models import ClassifiedAttributes, RegressedAttributes
from .feature_weights import FeatureWeights
from .naive_bayes import NaiveBayesAttributes
from .shared_space import SharedSpace

__all__ = [
    "ClassifiedAttributes",
    "FeatureWeights",
    "NaiveBayesAttributes",
    "RegressedAttributes",
    "SharedSpace",
]
