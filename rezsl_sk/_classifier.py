"""ZeroShotClassifier: labels in, labels out, whatever happens in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, _fit_context, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks

from ._atomic import all_or_nothing
from ._attention import AttentionRegressor
from ._regressor import ReZSLRegressor, shown_to_callbacks
from ._zero_shot import ZeroShotMixin

if TYPE_CHECKING:
    import pandas


class ZeroShotClassifier(CallbackSupportMixin, ZeroShotMixin, BaseEstimator):
    """Names classes, also those it has no example of, by their attributes.

    A :class:`ReZSLRegressor` scores the classes by their attributes; the one
    with the highest score is the answer, after the seen penalty has been taken
    off the classes that the regressor was trained on.

    Parameters
    ----------
    regressor : ReZSLRegressor or None, default=None
        Predicts the attributes. None means ``ReZSLRegressor(random_state=0)``. With
        an :class:`AttentionRegressor` X is of shape (n, r, d) wherever it is given.

    class_attributes : ClassTable, DataFrame, (classes, matrix), dict or None, \
            default=None
        Attributes of all classes, seen and unseen: a DataFrame indexed by
        class, names (C,) and a matrix (C, a), a dict from each name to its
        vector, or a :class:`~rezsl_sk.tables.ClassTable`. None: the classes of
        y, each an attribute of its own; nothing unseen can be named then.

    candidates : {"all", "unseen", "seen"} or array-like, default="all"
        Among which classes to choose. "all": generalised zero-shot learning.
        Or a list of names.

    seen_penalty : float or "auto", default=0.0
        Calibrated stacking: taken off the scores of seen classes, in units of
        cosine similarity. "auto" chooses the one with the best mean H over
        class-disjoint folds of the training classes (at least 4), at the price
        of up to 5 more fits.

    Attributes
    ----------
    classes_, candidates_ : ndarray of shape (k,)
        The candidates, sorted: classes of the columns of :meth:`decision_function`
        and :meth:`predict_proba`, where scikit-learn looks for them. Both are one
        array.

    seen_classes_ : ndarray of shape (K,)
        Labels of fit, sorted.

    class_names_ : ndarray of shape (C,)
        Classes of the table.

    class_attributes_ : ndarray of shape (C, a)
        Their attributes, in the table's units.

    constant_attributes_ : ndarray of int
        Columns of the table that have one value over the seen classes and so
        take no part.

    seen_penalty_ : float
        The penalty in use.

    regressor_ : ReZSLRegressor
        The fitted regressor.

    feature_source_ : dict or None
        Of a ``FeatureCache``: the network, its weights and the transform that made
        its features. A cache of others is refused when it is to be predicted.

    n_features_in_ : int
        Number d of features.

    feature_names_in_ : ndarray of shape (d,)
        Columns of X where it was a DataFrame.

    References
    ----------
    Chao, Changpinyo, Gong, Sha: An Empirical Study and Analysis of Generalized
    Zero-Shot Learning for Object Recognition in the Wild. ECCV 2016.

    Examples
    --------
    >>> from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = ZeroShotClassifier(
    ...     ReZSLRegressor(random_state=0),
    ...     class_attributes=(data.class_names, data.attributes),
    ...     candidates="unseen",
    ... )
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.3
    True
    """

    _streams = True

    _parameter_constraints: dict = {
        "regressor": [ReZSLRegressor, None],
        **ZeroShotMixin._zero_shot_constraints,
    }

    def __init__(
        self,
        regressor: ReZSLRegressor | None = None,
        class_attributes: pandas.DataFrame | tuple[ArrayLike, ArrayLike] | None = None,
        candidates: Literal["all", "unseen", "seen"] | ArrayLike = "all",
        seen_penalty: float | Literal["auto"] = 0.0,
    ) -> None:
        self.regressor = regressor
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty

    @all_or_nothing
    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit on samples of the seen classes.

        Parameters
        ----------
        X : array-like of shape (n, d), or a file of features
            Features. Files of more than 1 GiB stay on the disk; see
            :meth:`ReZSLRegressor.fit`.

        y : array-like of shape (n,)
            Labels: names or numbers, as in the table. For many millions of
            rows numbers take the least memory.

        Returns
        -------
        self : ZeroShotClassifier

        Raises
        ------
        ValueError
            If a label is missing from the table, the table has missing values
            or a class twice, `candidates` names an unknown
            class, there are fewer than 2 classes (4 for
            ``seen_penalty="auto"``), or :meth:`ReZSLRegressor.fit` refuses the
            data.

        Warns
        -----
        UserWarning
            If classes have equal attributes and so cannot be told apart.
        """
        X, group = self._start_fit(X, y)
        context = self._init_callback_context(max_subtasks=1)
        shown = shown_to_callbacks(X, y)
        context.call_on_fit_task_begin(estimator=self, **shown)
        self.seen_penalty_ = self._choose_penalty(X, group)
        self.regressor_ = self._new_regressor()
        task = context.subcontext(task_name="fit regressor")
        with task.propagate_callback_context(self.regressor_):
            task.call_on_fit_task_begin(estimator=self, **shown)
            self._fit_regressor(X, group, self._attributes_of(self.seen_classes_))
            task.call_on_fit_task_end(estimator=self, **shown)
        self._warn_of_equals()
        context.call_on_fit_task_end(
            estimator=self, **shown, reconstruction_attributes=lambda: {}
        )
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Softmax of the scores at the regressor's ``scale``.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        probabilities : ndarray of shape (n, k)
            Of ``classes_``; each row sums to 1. Not calibrated.
        """
        return self._of_logits(X, softmax)

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithm of :meth:`predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        log_probabilities : ndarray of shape (n, k)
        """
        return self._of_logits(X, log_softmax)

    # ---- what the mixin asks for --------------------------------------------

    def _new_regressor(self):
        if self.regressor is None:
            return ReZSLRegressor(random_state=0)
        regressor = clone(self.regressor)
        regressor._validate_params()  # its own `fit`, which would, is passed by
        return regressor

    def _takes_regions(self):
        return isinstance(self.regressor, AttentionRegressor)

    def _check_X(self, X):
        X = super()._check_X(X)
        # Of regions only their number has been compared.
        return self.regressor_._check_X(X) if self._regions else X

    def fit_classes(self, X, group, attributes):
        """Learn from the seen classes; see ``rezsl_sk._scorers``."""
        self.regressor_ = self._new_regressor()
        self._fit_regressor(X, group, attributes)
        return self

    def _fit_regressor(self, X, group, attributes):
        self.regressor_.fit_classes(X, group, attributes, self._attribute_names)
        self.constant_attributes_ = self.regressor_.constant_attributes_

    def scorer(self, attributes, names=None):
        """Score any classes by their attributes; see ``rezsl_sk._scorers``."""
        return self.regressor_.scorer(attributes, names)

    @property
    def _rows_at_once(self):
        return self.regressor_._rows_at_once

    @property
    def _scale(self):
        return self.regressor_._scale

    def _attribute_space(self):
        return self.regressor_._space

    def __sklearn_is_fitted__(self):
        return hasattr(self, "regressor_")
