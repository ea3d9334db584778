"""Class-disjoint splitters, and scorers for zero-shot and generalised accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.model_selection import BaseCrossValidator, GroupKFold, GroupShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ._grouping import distinct_rows
from .decoding import nearest_prototype, stack_calibrated
from .metrics import harmonic_mean, mean_per_class_accuracy
from .tables import attribute_rows, check_labels, in_column_order

__all__ = [
    "ClassKFold",
    "ClassShuffleSplit",
    "GZSLKFold",
    "gzsl_scorer",
    "zero_shot_scorer",
]


class _ClassSplitter(BaseCrossValidator):
    """What the splitters share: classes are labels, or distinct rows of y."""

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds.

        Parameters
        ----------
        X, y, groups : ignored
            There for compatibility with scikit-learn.

        Returns
        -------
        n_splits : int
        """
        return self.n_splits

    def _iter_test_masks(self, X=None, y=None, groups=None):
        raise NotImplementedError("folds are given by split")  # pragma: no cover


class ClassKFold(_ClassSplitter):
    """K folds over classes: no class is on both sides of a split.

    The splitter for choosing anything zero-shot. Plain KFold has rows of every
    class on both sides, or, on rows sorted by class, folds of haphazard size.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at most the number of classes.

    shuffle : bool, default=True
        Whether classes are dealt to the folds at random, so that folds have
        about as many classes each. False balances their numbers of rows
        instead, as GroupKFold does.

    random_state : int, RandomState or None, default=0
        Of the shuffle. The default gives the same folds at every call, so that
        candidates of a search are compared on the same folds.

    Examples
    --------
    >>> from rezsl_sk.model_selection import ClassKFold
    >>> y = ["cat", "cat", "dog", "dog", "emu", "emu"]
    >>> for train, test in ClassKFold(3, shuffle=False).split(y, y):
    ...     print(train, test)
    [0 1 2 3] [4 5]
    [0 1 4 5] [2 3]
    [2 3 4 5] [0 1]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def split(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of each fold.

        Parameters
        ----------
        X : array-like of length n

        y : array-like of shape (n,) or (n, a)
            Labels, or the attributes of each sample's class: its distinct rows
            are the classes.

        groups : array-like of shape (n,) or None, default=None
            Classes, where y does not say.

        Yields
        ------
        train, test : ndarrays of int

        Raises
        ------
        ValueError
            If there are fewer classes than folds, or fewer than 2 folds.
        """
        classes = _class_numbers(y if groups is None else groups)
        n_classes = classes.max() + 1
        if not isinstance(self.n_splits, Integral) or not 2 <= self.n_splits:
            raise ValueError(
                f"n_splits must be a whole number of at least 2, got {self.n_splits!r}."
            )
        if self.n_splits > n_classes:
            raise ValueError(
                f"n_splits={self.n_splits} folds need as many classes, but y has only "
                f"{n_classes}. Lower n_splits."
            )
        folds = GroupKFold(
            self.n_splits,
            shuffle=self.shuffle,
            random_state=self.random_state if self.shuffle else None,
        )
        yield from folds.split(np.empty((len(classes), 0)), groups=classes)


class ClassShuffleSplit(_ClassSplitter):
    """Random splits of the classes.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits.

    test_size : float or int, default=0.2
        Share (or number) of the classes in the test side.

    random_state : int, RandomState or None, default=0
        As in :class:`ClassKFold`.

    Examples
    --------
    >>> from rezsl_sk.model_selection import ClassShuffleSplit
    >>> y = ["cat", "cat", "dog", "emu", "emu"]
    >>> split = ClassShuffleSplit(1, test_size=1)
    >>> [test.tolist() for _, test in split.split(y, y)]
    [[3, 4]]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        test_size: float = 0.2,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_splits = n_splits
        self.test_size = test_size
        self.random_state = random_state

    def split(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of each split; parameters as in :meth:`ClassKFold.split`.

        Yields
        ------
        train, test : ndarrays of int
        """
        classes = _class_numbers(y if groups is None else groups)
        if classes.max() == 0:
            raise ValueError("class-disjoint splits need at least 2 classes, got 1.")
        splits = GroupShuffleSplit(
            self.n_splits, test_size=self.test_size, random_state=self.random_state
        )
        yield from splits.split(np.empty((len(classes), 0)), groups=classes)


class GZSLKFold(_ClassSplitter):
    """K folds for generalised zero-shot learning.

    The test side of each fold has all rows of held-out classes (unseen) and
    held-out rows of the training classes (seen).

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds of the classes.

    seen_test_size : float, default=0.2
        Share of the rows of each training class on the test side: at least one,
        and never all. A class with a single row stays in training.

    random_state : int, RandomState or None, default=0
        As in :class:`ClassKFold`.

    Examples
    --------
    >>> from rezsl_sk.model_selection import GZSLKFold
    >>> y = ["cat", "cat", "dog", "dog"]
    >>> for train, test in GZSLKFold(2).split(y, y):
    ...     print(train, test)
    [1] [0 2 3]
    [3] [0 1 2]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        seen_test_size: float = 0.2,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_splits = n_splits
        self.seen_test_size = seen_test_size
        self.random_state = random_state

    def split(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of each fold; parameters as in :meth:`ClassKFold.split`.

        Yields
        ------
        train, test : ndarrays of int
        """
        if not isinstance(self.seen_test_size, Real) or not 0 < self.seen_test_size < 1:
            raise ValueError(
                "seen_test_size must be a share between 0 and 1, got "
                f"{self.seen_test_size!r}."
            )
        classes = _class_numbers(y if groups is None else groups)
        random_state = check_random_state(self.random_state)
        folds = ClassKFold(self.n_splits, random_state=random_state)
        for train, test in folds.split(X, y, groups):
            # A random order of the rows, sorted by class: the first of each
            # class are held out.
            train = random_state.permutation(train)
            train = train[np.argsort(classes[train], kind="stable")]
            of_row, count = np.unique(
                classes[train], return_inverse=True, return_counts=True
            )[1:]
            rank = np.arange(len(train)) - (np.cumsum(count) - count)[of_row]
            n_held = np.maximum(1, np.round(self.seen_test_size * count))
            held = rank < np.minimum(n_held, count - 1)[of_row]
            yield (np.sort(train[~held]), np.sort(np.concatenate([test, train[held]])))


def zero_shot_scorer(estimator: BaseEstimator, X: ArrayLike, y: ArrayLike) -> float:
    """Scorer: class-mean accuracy among the classes of the test fold only.

    To be used as ``scoring=zero_shot_scorer`` with :class:`ClassKFold`. The
    candidates are the distinct rows of y for a regressor, its labels for a
    classifier. A :class:`~sklearn.pipeline.Pipeline` may stand around the
    estimator. A regressor that predicts attributes but knows no prototypes
    (Ridge, say) is decoded in raw units by cosine.

    Parameters
    ----------
    estimator : fitted regressor, ZeroShotClassifier, or Pipeline ending in one

    X : array-like of shape (n, d)
        Features.

    y : array-like of shape (n, a) or (n,)
        Attributes of each sample's class, or labels for a classifier.

    Returns
    -------
    accuracy : float
        In [0, 1].

    Raises
    ------
    ValueError
        If a label is not in the classifier's table.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from rezsl_sk import ReZSLRegressor
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer
    >>> data = make_zero_shot(random_state=0)
    >>> X, S = data.X[data.trainval], data.attributes[data.labels[data.trainval]]
    >>> scores = cross_val_score(
    ...     ReZSLRegressor(random_state=0), X, S, cv=ClassKFold(3),
    ...     scoring=zero_shot_scorer,
    ... )
    >>> bool(scores.mean() > 0.3)  # chance: 1 in 13
    True
    """
    X, final = _through_pipelines(estimator, X)
    if hasattr(final, "class_scores"):
        y = check_labels(y)
        names, index = np.unique(y, return_inverse=True)
        scores = final.class_scores(X, names)
        return mean_per_class_accuracy(index, scores.argmax(axis=1))
    if hasattr(final, "classes_") or not hasattr(final, "predict"):
        raise ValueError(
            "zero_shot_scorer needs an estimator that can name classes it was not "
            "fitted on: a classifier with class_scores (ZeroShotClassifier, a "
            f"baseline), or a regressor of attributes; got {type(final).__name__}."
        )
    y = _attributes(final, y)
    prototypes, index = distinct_rows(y)
    if hasattr(final, "prototypes_"):
        nearest = final.predict(X, prototypes=prototypes)
    else:
        nearest = nearest_prototype(final.predict(X).reshape(len(y), -1), prototypes)
    return mean_per_class_accuracy(index, nearest)


def gzsl_scorer(estimator: BaseEstimator, X: ArrayLike, y: ArrayLike) -> float:
    """Scorer: harmonic mean H of seen and unseen class-mean accuracy.

    To be used as ``scoring=gzsl_scorer`` with :class:`GZSLKFold`. Candidates
    are the classes of the test fold and those of training; a test row is seen
    if its class was trained on, for a regressor: if its attributes equal a row
    of the fitted ``prototypes_`` up to rounding. The seen penalty is the
    estimator's own (a regressor has none).

    Parameters
    ----------
    estimator : ReZSLRegressor, ZeroShotClassifier, or Pipeline ending in one
        Fitted.

    X : array-like of shape (n, d)
        Features.

    y : array-like of shape (n, a) or (n,)
        Attributes of each sample's class, or labels for a classifier.

    Returns
    -------
    H : float
        In [0, 1].

    Raises
    ------
    ValueError
        If the fold has no seen or no unseen rows.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from rezsl_sk import ReZSLRegressor
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> from rezsl_sk.model_selection import GZSLKFold, gzsl_scorer
    >>> data = make_zero_shot(random_state=0)
    >>> X, S = data.X[data.trainval], data.attributes[data.labels[data.trainval]]
    >>> scores = cross_val_score(
    ...     ReZSLRegressor(random_state=0), X, S, cv=GZSLKFold(3), scoring=gzsl_scorer
    ... )
    >>> len(scores)
    3
    """
    X, final = _through_pipelines(estimator, X)
    if hasattr(final, "class_scores"):
        names, index = np.unique(check_labels(y), return_inverse=True)
        candidates = np.union1d(names, final.seen_classes_)
        seen = np.isin(candidates, final.seen_classes_)
        scores = final.class_scores(X, candidates)
        scores = stack_calibrated(scores, seen, final.seen_penalty_)
        column = np.searchsorted(candidates, names)[index]
    elif hasattr(final, "prototypes_") and len(final.prototypes_):
        y = _attributes(final, y)
        known = final.prototypes_
        candidates, column = distinct_rows(y, known)
        seen = np.arange(len(candidates)) < len(known)
        scores = final._scores(final._check_X(X), candidates)
    else:
        raise ValueError(
            f"gzsl_scorer needs an estimator that remembers its training classes "
            f"(ReZSLRegressor, ZeroShotClassifier), got {type(final).__name__}."
        )
    of_seen = seen[column]
    if of_seen.all() or not of_seen.any():
        raise ValueError(
            f"this test fold has {int(of_seen.sum())} rows of seen and "
            f"{int((~of_seen).sum())} of unseen classes; H needs both. Use GZSLKFold."
        )
    hit = _argmax_unseen_first(scores, seen) == column
    S = mean_per_class_accuracy(column[of_seen], np.where(hit, column, -1)[of_seen])
    U = mean_per_class_accuracy(column[~of_seen], np.where(hit, column, -1)[~of_seen])
    return harmonic_mean(S, U)


def _argmax_unseen_first(scores, seen):
    """Best column of each row; at equality an unseen class wins."""
    order = np.argsort(seen, kind="stable")
    return order[scores[:, order].argmax(axis=1)]


def _class_numbers(y):
    """Class of each row, from 0: labels (n,) or distinct rows (n, a)."""
    if y is None:
        raise ValueError(
            "class-disjoint splits need y: labels, or the attributes of each "
            "sample's class."
        )
    labels = check_labels(y)
    if not len(labels):
        raise ValueError("class-disjoint splits need at least one sample, got none.")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = check_labels(labels[:, 0])
    if labels.ndim == 1 and labels.dtype.kind != "f":
        return np.unique(labels, return_inverse=True)[1]
    return distinct_rows(attribute_rows(y, "y"))[1]


def _through_pipelines(estimator, X):
    """X as the final estimator gets it, and that estimator, out of its wrappers."""
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            if len(estimator.steps) > 1:
                X = estimator[:-1].transform(X)
            estimator = estimator[-1]
        else:
            if hasattr(estimator, "fit"):
                check_is_fitted(estimator)
            return X, estimator


def _attributes(final, y):
    """y as (n, a), in its own precision and the order of columns of fit."""
    y = attribute_rows(in_column_order(y, getattr(final, "attribute_names_", None)))
    return y.reshape(len(y), -1)
