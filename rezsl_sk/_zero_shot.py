"""What every zero-shot classifier shares: the table, the candidates, the seen penalty.

A classifier that mixes this in says how it learns from the seen classes and how
it scores classes given by their attributes; the rest is here, once.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from ._arrays import plain
from ._atomic import all_or_nothing
from ._blocks import Rows, blocks, check_source, open_rows, working_dtype
from ._company import refuse_numbered_labels, refuse_other_labels
from ._grouping import distinct_rows
from ._interrupts import nested_fits, users_level, within_nested_fits
from ._repr import TableReprMixin
from ._scaling import AttributeSpace
from .decoding import (
    SCORE_ROWS,
    highest_calibrated,
    relative_scores,
    score_rows,
    stack_calibrated,
)
from .metrics import harmonic_mean, seen_unseen_curve
from .model_selection import GZSLKFold
from .tables import ClassTable, check_labels, check_names, names_or_none

if TYPE_CHECKING:
    import pandas


class ZeroShotMixin(TableReprMixin, ClassifierMixin):
    """Labels in, labels out, also labels of classes known by attributes alone.

    Estimators have the parameters ``class_attributes``, ``candidates`` and
    ``seen_penalty``, the two methods of a class scorer, and a private one::

        fit_classes(X, group, attributes)
            Learn from checked rows X (n, d), the number of each row's class (n,) and
            the attributes (K, a) of these classes, in the table's units.
        scorer(attributes, names=None)
            A function from checked rows (m, d) to their scores (m, k) for classes
            with attributes (k, a) in the table's units; larger is nearer. What
            depends on the classes alone is computed before it is returned. `names`
            (k,) is for messages.
        _attribute_space()
            The :class:`~rezsl_sk._scaling.AttributeSpace` of the seen classes.

    One whose ``fit_classes`` takes :class:`~rezsl_sk._blocks.Rows` of a file for X
    sets ``_streams``.
    """

    _streams = False
    _attribute_names = None  # of a table that has any
    _rows_at_once = SCORE_ROWS  # at most
    _scale = 1.0  # of scores, to be logarithms of probabilities

    _zero_shot_constraints: dict = {
        "class_attributes": "no_validation",
        "candidates": [StrOptions({"all", "unseen", "seen"}), "array-like"],
        "seen_penalty": [Real, StrOptions({"auto"})],
    }

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit on samples of the seen classes.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        y : array-like of shape (n,)
            Labels: names or numbers, as in the table.

        Returns
        -------
        self : object
            The fitted classifier.

        Raises
        ------
        ValueError
            If X has missing or infinite values, a label is missing from the
            table, the table has missing values or a class twice, `candidates`
            names an unknown class, or there are fewer than
            2 classes (4 for ``seen_penalty="auto"``).

        Warns
        -----
        UserWarning
            If classes have equal attributes and so cannot be told apart.
        """
        X, group = self._start_fit(X, y)
        self.seen_penalty_ = self._choose_penalty(X, group)
        self.fit_classes(X, group, self._attributes_of(self.seen_classes_))
        self._warn_of_equals()
        return self

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Scores of the candidates, the seen penalty taken off.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        scores : ndarray of shape (n, k), or (n,) with two candidates
            Scores of the classes in ``classes_``, less the penalty for seen ones;
            with two candidates the second's less the first's.
        """
        X = self._check_X(X)
        refuse_other_labels(self)
        scores = self._in_blocks(X, *self._calibrated_scorer())
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def class_scores(
        self, X: ArrayLike, classes: ArrayLike | None = None
    ) -> np.ndarray:
        """Scores of classes without the seen penalty.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        classes : array-like of shape (k,) or None, default=None
            Names of classes of the table, candidates or not. None: ``classes_``, the
            candidates.

        Returns
        -------
        scores : ndarray of shape (n, k)
            Column j is of ``classes[j]``; larger is nearer. Always of two axes.

        Raises
        ------
        ValueError
            If a class is not in the table.

        Examples
        --------
        >>> from rezsl_sk.baselines import ESZSL
        >>> from rezsl_sk.datasets import make_zero_shot
        >>> data = make_zero_shot(random_state=0)
        >>> clf = ESZSL((data.class_names, data.attributes), candidates="unseen")
        >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
        >>> clf.class_scores(data.X[:5]).shape
        (5, 10)
        >>> clf.class_scores(data.X[:5], clf.seen_classes_[:3]).shape
        (5, 3)
        """
        X = self._check_X(X)
        if classes is None:
            columns = self._preference()
            names = self.classes_[columns]
        else:
            names = check_classes(classes)
            columns = np.arange(len(names))
        score = self.scorer(self._attributes_of(names), names)
        return self._in_blocks(X, columns, score)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The candidate with the highest score.

        Of candidates with equal scores an unseen class comes before a seen one, and
        the one that stands first in the table before the others.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        labels : ndarray of shape (n,)
        """
        X = self._check_X(X)
        columns, score = self._calibrated_scorer()
        best = np.empty(len(X), dtype=np.intp)
        n_rows = min(self._rows_at_once, score_rows(len(columns)))
        for rows, block in blocks(X, n_rows):
            best[rows] = score(block).argmax(axis=1)
        return self.classes_[columns[best]]

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Accuracy over samples; the mean over classes is a scorer's.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        y : array-like of shape (n,)
            True labels.

        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the samples.

        Returns
        -------
        accuracy : float
            In [0, 1].

        Warns
        -----
        UserWarning
            If y has classes that are no candidates: their samples count as
            errors, whatever the features.
        """
        check_is_fitted(self)
        y = check_labels(y)
        beyond = np.unique(y[~np.isin(y, self.classes_)])
        if len(beyond):
            warnings.warn(
                f"y has classes that are not among the candidates: "
                f"{beyond[:5].tolist()}{' and more' if len(beyond) > 5 else ''}. Their "
                "samples count as errors; name classes as class_attributes does, or "
                "set candidates.",
                stacklevel=users_level(),
            )
        return super().score(X, y, sample_weight)

    def with_classes(
        self,
        class_attributes: ClassTable
        | pandas.DataFrame
        | tuple[ArrayLike, ArrayLike]
        | Mapping[Any, ArrayLike],
    ) -> Self:
        """A fitted copy that also knows other classes; nothing is retrained.

        Parameters
        ----------
        class_attributes : ClassTable, DataFrame, (classes, matrix) or dict
            The new classes' attributes, in the table's units: (m, a).

        Returns
        -------
        classifier : object
            Of the same kind. The new classes are candidates unless
            ``candidates="seen"``; to a list of candidates they are added.

        Raises
        ------
        ValueError
            If the classifier was fitted without a table, a class is known
            already, or the new table is unusable.

        Examples
        --------
        >>> from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
        >>> from rezsl_sk.datasets import make_zero_shot
        >>> data = make_zero_shot(random_state=0)
        >>> seen = data.seen_classes
        >>> clf = ZeroShotClassifier(
        ...     ReZSLRegressor(random_state=0),
        ...     class_attributes=(data.class_names[seen], data.attributes[seen]),
        ... ).fit(data.X[data.trainval], data.y[data.trainval])
        >>> new = data.unseen_classes
        >>> more = clf.with_classes((data.class_names[new], data.attributes[new]))
        >>> len(clf.candidates_), len(more.candidates_)
        (40, 50)
        """
        check_is_fitted(self)
        if not self._has_table:
            raise ValueError(
                "this classifier was fitted without class_attributes, so a class "
                "cannot be described to it; fit it with a table."
            )
        longer = self._table.extended(class_attributes, what="class_attributes")
        names = longer.names[len(self.class_names_) :]
        new = copy.copy(self)
        # What `clone` will fit.
        new.class_attributes = longer
        new._set_table(longer)
        new.candidates = self._candidates
        if not isinstance(self._candidates, str):
            new.candidates = [*self._candidates.tolist(), *names.tolist()]
        new._choose_candidates()
        new._warn_of_equals()
        return new

    # ---- the table ----------------------------------------------------------

    def _read_table(self):
        # Whether classes are described, by the table that fit was given.
        self._has_table = self.class_attributes is not None
        if not self._has_table:
            classes = self.seen_classes_
            self._set_table(ClassTable(classes, np.eye(len(classes))))
            self.class_names_ = classes.copy()  # of the type of y
            return
        table = ClassTable.of(self.class_attributes, what="class_attributes")
        refuse_numbered_labels(self.seen_classes_, table.names)
        table.check_describes(self.seen_classes_)
        self._set_table(table)

    def _set_table(self, table):
        self._table = table
        self.class_names_, self.class_attributes_ = table.names, table.attributes
        self._attribute_names = names_or_none(table.attribute_names)

    def _choose_candidates(self):
        names = self.class_names_
        seen = np.isin(names, self.seen_classes_)
        if isinstance(self.candidates, str):
            self._candidates = self.candidates
            chosen = names
            # Without a table there is nothing unseen, and "unseen" means all, too.
            if self._has_table and self.candidates != "all":
                chosen = names[seen == (self.candidates == "seen")]
            if not len(chosen):
                raise ValueError(
                    "candidates='unseen', but class_attributes describes no class that "
                    "y lacks. Add the unseen classes' attributes, or use 'all'."
                )
        else:
            chosen = check_names(self.candidates, len(self.candidates), "candidates")
            unknown = chosen[~np.isin(chosen, names)]
            if not len(chosen) or len(unknown):
                raise ValueError(
                    "candidates must name classes of the table, got "
                    f"{unknown[:5].tolist()}."
                )
            self._candidates = chosen
        # scikit-learn reads the columns of scores as sorted labels.
        self.classes_ = np.sort(chosen)
        self.candidates_ = self.classes_

    def _preference(self):
        """Columns of `classes_` in the order in which equal scores are settled."""
        seen = np.isin(self.classes_, self.seen_classes_)
        return np.lexsort([self._table.rows(self.classes_), seen])

    def _attributes_of(self, names):
        rows = self.class_attributes_[self._table.rows(names)]
        # In which they were given, so that its rounding is not taken for variation.
        return rows.astype(self._table.precision, copy=False)

    def _warn_of_equals(self):
        if within_nested_fits():
            return
        space = self._attribute_space().transform(self.class_attributes_)
        row = distinct_rows(space)[1]
        count = np.bincount(row)
        if count.max() < 2:
            return
        equal = [
            self.class_names_[row == which].tolist()
            for which in np.flatnonzero(count > 1)
        ]
        warnings.warn(
            f"{len(equal)} sets of classes have equal attributes (as far as the seen "
            f"classes vary in them) and cannot be told apart: {equal}.",
            stacklevel=users_level(),
        )

    # ---- fitting and scoring ------------------------------------------------

    def _takes_regions(self):
        """Whether X may be of shape (n, r, d)."""
        return False

    def _start_fit(self, X, y):
        """Checked X (n, d) and the number of each row's class (n,)."""
        y = plain(y, "y")
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is "
                "None; give the labels of the samples in X."
            )
        regions = self._regions = self._takes_regions()
        check_source(self, X, reset=True)
        X = open_rows(X, stream=self._streams and not regions)
        y = check_labels(y)
        if isinstance(X, Rows):
            # Their values are checked when they are read.
            validate_data(self, np.zeros((1, X.shape[1])))
            y = validate_data(self, y=y)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(self, X, y, allow_nd=regions)
        check_classification_targets(y)
        self.seen_classes_, group = np.unique(y, return_inverse=True)
        if len(self.seen_classes_) < 2:
            raise ValueError(
                f"y has one class only ({self.seen_classes_[0]!r}); at least 2 classes "
                "are needed to learn how attributes show."
            )
        self._read_table()
        self._choose_candidates()
        seen = self._attributes_of(self.seen_classes_)
        if not len(AttributeSpace(None).fit(seen, working_dtype(X)).varying):
            raise ValueError(
                "no class can be told from another: every attribute has one value "
                "over all classes of y. Describe them by attributes that differ."
            )
        return X, group

    def _choose_penalty(self, X, group):
        if self.seen_penalty == "auto":
            return float(self._calibrate(X, group))
        if not np.isfinite(self.seen_penalty):
            raise ValueError(
                f"seen_penalty must be finite or 'auto', got {self.seen_penalty!r}."
            )
        return float(self.seen_penalty)

    def _calibrate(self, X, group):
        """Seen penalty with the best mean H over folds of the training classes."""
        n_classes = len(self.seen_classes_)
        if not self._has_table:
            raise ValueError(
                "seen_penalty='auto' needs class_attributes: without a table there "
                "are no unseen classes to balance against."
            )
        if n_classes < 4:
            raise ValueError(
                f"seen_penalty='auto' holds out classes and needs at least 4 in y, got "
                f"{n_classes}; set a number instead."
            )
        attributes = self._attributes_of(self.seen_classes_)
        curves = []
        for train, test in GZSLKFold(min(5, n_classes // 2)).split(X, group):
            inside, numbers = np.unique(group[train], return_inverse=True)
            model = copy.copy(self)
            with nested_fits():
                model.fit_classes(X[train], numbers, attributes[inside])
            score = model.scorer(attributes, self.seen_classes_)
            if isinstance(X, Rows):
                scores = X[test].mapped(score, width=n_classes)
            else:
                scores = model._in_blocks(X[test], np.arange(n_classes), score)
            seen = np.isin(np.arange(n_classes), inside)
            check_seen_rows(group[test], seen)
            curves.append(seen_unseen_curve(group[test], scores, seen))
        grid = np.unique(np.concatenate([curve.penalty[1:] for curve in curves]))
        H = np.mean([harmonic_mean(*curve.at(grid)) for curve in curves], axis=0)
        # The middle of the best stretch: its edges are single samples' margins.
        best = np.flatnonzero(H == H.max())
        return grid[best[len(best) // 2]]

    def _check_X(self, X):
        check_is_fitted(self)
        check_source(self, X)
        X = open_rows(X, stream=self._streams and not self._regions)
        if isinstance(X, Rows):
            validate_data(self, np.zeros((1, X.shape[1])), reset=False)
            return X
        return validate_data(self, X, reset=False, allow_nd=self._regions)

    def _calibrated_scorer(self, calibrate=stack_calibrated):
        """What `_in_blocks` wants to score the candidates, the penalty taken off.

        Returns
        -------
        columns : ndarray of int, shape (k,)
            Of which classes in `classes_` the scores are; of equals the first wins.

        score : callable from checked rows (m, d) to scores (m, k)
            By a function of :mod:`rezsl_sk.decoding`, whose further arguments it takes.
        """
        columns = self._preference()
        names = self.classes_[columns]
        score = self.scorer(self._attributes_of(names), names)
        seen = np.isin(names, self.seen_classes_)
        penalty = self.seen_penalty_
        return columns, lambda X, *more: calibrate(score(X), seen, penalty, *more)

    def _of_logits(self, X, function):
        """A function, such as softmax, of the candidates' scores times ``_scale``."""
        X = self._check_X(X)
        refuse_other_labels(self)
        columns, score = self._calibrated_scorer(relative_scores)
        scale = self._scale
        return self._in_blocks(X, columns, lambda X: function(score(X) * scale, axis=1))

    def _ranking(self, prototypes, classes):
        """Names of the candidates, which of them are scored in turn, the ranker.

        The last is a function from checked rows (m, d) and k to what
        :func:`~rezsl_sk.decoding.highest` says.
        """
        if prototypes is not None or classes is not None:
            raise ValueError(
                "prototypes and classes belong to a ReZSLRegressor; a classifier "
                "chooses among its candidates_ (more of them: with_classes)."
            )
        return self.classes_, *self._calibrated_scorer(highest_calibrated)

    def _in_blocks(self, X, columns, score):
        """Scores (n, k) of checked X, put into `columns`.

        Some rows at a time: what a scorer holds beside its result stays small.
        """
        scores = None
        n_rows = min(self._rows_at_once, score_rows(len(columns)))
        for rows, block in blocks(X, n_rows):
            part = score(block)
            if scores is None:
                scores = np.empty((len(X), len(columns)), dtype=part.dtype)
            scores[rows, columns] = part
        return scores

    def __sklearn_is_fitted__(self):
        return hasattr(self, "seen_penalty_")


def check_seen_rows(column, seen):
    """Refuse to choose a penalty where no row of a class of training was held out."""
    if not seen[column].any():
        raise ValueError(
            "seen_penalty='auto' needs seen classes with at least 2 samples, to hold "
            "one out; set a number instead."
        )


def check_classes(classes):
    """Names of classes to be scored, as an array of shape (k,)."""
    names = np.asarray(classes)
    if names.ndim != 1 or not len(names):
        raise ValueError(
            "classes must be a list of names of the table's classes, at least one; got "
            f"{classes!r}."
        )
    return names
