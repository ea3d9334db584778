"""What every zero-shot classifier shares: the table, the candidates, the seen penalty.

A classifier that mixes this in says how it learns from the seen classes and how
it scores classes given by their attributes; the rest is here, once.
"""

from __future__ import annotations

import copy
import warnings
from numbers import Real
from typing import TYPE_CHECKING, Self

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

from ._atomic import all_or_nothing
from ._blocks import Rows, blocks, open_rows
from ._repr import TableReprMixin
from ._tables import check_names, check_table, distinct_rows
from .decoding import score_rows, stack_calibrated
from .metrics import harmonic_mean, seen_unseen_curve
from .model_selection import GZSLKFold

if TYPE_CHECKING:
    import pandas

PREDICT_ROWS = 8192  # rows scored at a time: the scores of all need not fit


class ZeroShotMixin(TableReprMixin, ClassifierMixin):
    """Labels in, labels out, also labels of classes known by attributes alone.

    Estimators have the parameters ``class_attributes``, ``candidates`` and
    ``seen_penalty`` and three private methods::

        _fit_seen(X, group, classes)
            Learn from checked X (n, d); ``classes[group[i]]`` is the label of
            row i, and ``_attributes_of(classes)`` its attributes.
        _class_scores(X, prototypes, names)
            Scores (n, k) of checked X for classes with attributes (k, a) in the
            table's units; larger is nearer. `names` (k,) is for messages.
        _attribute_space()
            The :class:`~rezsl_sk._scaling.AttributeSpace` of the seen classes.

    One whose ``_fit_seen`` takes :class:`~rezsl_sk._blocks.Rows` of a file for X
    sets ``_streams``.
    """

    _streams = False

    _zero_shot_constraints: dict = {
        "class_attributes": "no_validation",
        "candidates": [StrOptions({"all", "unseen", "seen"}), "array-like"],
        "seen_penalty": [Real, StrOptions({"auto"})],
    }

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
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
            table, the table has missing values, a row of zeros or a class
            twice, `candidates` names an unknown class, or there are fewer than
            2 classes (4 for ``seen_penalty="auto"``).

        Warns
        -----
        UserWarning
            If classes have equal attributes and so cannot be told apart.
        """
        X, group = self._start_fit(X, y)
        self.seen_penalty_ = self._choose_penalty(X, group)
        self._fit_seen(X, group, self.classes_)
        # Two of the levels are decorators of fit.
        self._warn_of_equals(stacklevel=5)
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
            Scores of ``candidates_``, less the penalty for seen ones; with two
            candidates the second's less the first's.
        """
        scores = self._calibrated_scores(self._check_X(X))
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The candidate with the highest score.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        labels : ndarray of shape (n,)
        """
        X = self._check_X(X)
        score = self._calibrated_scorer()
        best = np.empty(len(X), dtype=np.intp)
        for rows, block in blocks(X, score_rows(len(self.candidates_))):
            best[rows] = score(block).argmax(axis=1)
        return self.candidates_[best]

    def with_classes(
        self, class_attributes: pandas.DataFrame | tuple[ArrayLike, ArrayLike]
    ) -> Self:
        """A fitted copy that also knows other classes; nothing is retrained.

        Parameters
        ----------
        class_attributes : DataFrame or (classes, matrix)
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
        if self.class_attributes is None:
            raise ValueError(
                "this classifier was fitted without class_attributes, so a class "
                "cannot be described to it; fit it with a table."
            )
        names, matrix, _ = _read(class_attributes, self._attribute_names)
        if matrix.shape[1] != self.class_attributes_.shape[1]:
            raise ValueError(
                f"the new classes have {matrix.shape[1]} attributes, those of fit "
                f"{self.class_attributes_.shape[1]}; describe both by the same."
            )
        known = np.intersect1d(names, self.class_names_)
        if len(known):
            raise ValueError(
                f"with_classes got classes that are known already: "
                f"{known[:5].tolist()}. Leave them out; to change a class's "
                "attributes fit again."
            )
        new = copy.copy(self)
        new.class_names_ = check_names(
            [*self.class_names_.tolist(), *names.tolist()],
            len(names) + len(self.class_names_),
            "class_attributes",
        )
        new.class_attributes_ = np.concatenate([self.class_attributes_, matrix])
        new.class_attributes = _extended(
            self.class_attributes, new.class_names_, new.class_attributes_
        )
        if not isinstance(self.candidates, str):
            new.candidates = [*self.candidates_.tolist(), *names.tolist()]
        new._choose_candidates()
        new._warn_of_equals(stacklevel=3)
        return new

    # ---- the table ----------------------------------------------------------

    def _read_table(self):
        self._attribute_names = None
        if self.class_attributes is None:
            self.class_names_ = self.classes_
            self.class_attributes_ = np.eye(len(self.classes_))
            return
        names, matrix, attribute_names = _read(self.class_attributes)
        if (names.dtype.kind in "US") != (_is_text(self.classes_)):
            raise ValueError(
                f"y has labels such as {self.classes_[0]!r} and class_attributes has "
                f"classes such as {names[0]!r}; name classes in both alike."
            )
        missing = self.classes_[~np.isin(self.classes_, names)]
        if len(missing):
            raise ValueError(
                f"class_attributes has no row for these classes of y: "
                f"{missing[:5].tolist()}{' and more' if len(missing) > 5 else ''}. "
                "Describe every class."
            )
        self.class_names_, self.class_attributes_ = names, matrix
        self._attribute_names = attribute_names

    def _choose_candidates(self):
        names, seen = self.class_names_, np.isin(self.class_names_, self.classes_)
        if self.class_attributes is None and isinstance(self.candidates, str):
            seen = np.ones(len(names), dtype=bool)
        if isinstance(self.candidates, str):
            unseen_first = np.argsort(seen, kind="stable")
            chosen = {
                "all": names[unseen_first],
                "unseen": names[~seen],
                "seen": names[seen],
            }[self.candidates]
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
        self.candidates_ = chosen

    def _attributes_of(self, names):
        order = np.argsort(self.class_names_)
        place = np.searchsorted(self.class_names_, names, sorter=order)
        found = order[np.minimum(place, len(order) - 1)]
        unknown = np.asarray(names)[self.class_names_[found] != names]
        if len(unknown):
            raise ValueError(
                f"classes {unknown[:5].tolist()} are not in class_attributes; add "
                "their attributes (with_classes) or leave their samples out."
            )
        return self.class_attributes_[found]

    def _warn_of_equals(self, stacklevel):
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
            stacklevel=stacklevel,
        )

    # ---- fitting and scoring ------------------------------------------------

    def _takes_regions(self):
        """Whether X may be of shape (n, r, d)."""
        return False

    def _start_fit(self, X, y):
        """Checked X (n, d) and the number of each row's class (n,)."""
        regions = self._takes_regions()
        X = open_rows(X, stream=self._streams and not regions)
        if isinstance(X, Rows):
            # Their values are checked when they are read.
            validate_data(self, np.zeros((1, X.shape[1])))
            y = validate_data(self, y=y)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(self, X, y, allow_nd=regions)
        check_classification_targets(y)
        self.classes_, group = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has one class only ({self.classes_[0]!r}); at least 2 classes are "
                "needed to learn how attributes show."
            )
        self._read_table()
        self._choose_candidates()
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
        n_classes = len(self.classes_)
        if self.class_attributes is None:
            raise ValueError(
                "seen_penalty='auto' needs class_attributes: without a table there "
                "are no unseen classes to balance against."
            )
        if n_classes < 4:
            raise ValueError(
                f"seen_penalty='auto' holds out classes and needs at least 4 in y, got "
                f"{n_classes}; set a number instead."
            )
        curves = []
        for train, test in GZSLKFold(min(5, n_classes // 2)).split(X, group):
            inside, numbers = np.unique(group[train], return_inverse=True)
            model = copy.copy(self)
            model._fit_seen(X[train], numbers, self.classes_[inside])
            P = self._attributes_of(self.classes_)
            if isinstance(X, Rows):
                scorer = model._class_scorer(P, self.classes_)
                scores = X[test].mapped(scorer, width=n_classes)
            else:
                scores = model._class_scores(X[test], P, self.classes_)
            seen = np.isin(np.arange(n_classes), inside)
            if not seen[group[test]].any():
                raise ValueError(
                    "seen_penalty='auto' needs seen classes with at least 2 samples, "
                    "to hold one out; set a number instead."
                )
            curves.append(seen_unseen_curve(group[test], scores, seen))
        grid = np.unique(np.concatenate([curve.penalty[1:] for curve in curves]))
        H = np.mean([harmonic_mean(*curve.at(grid)) for curve in curves], axis=0)
        # The middle of the best stretch: its edges are single samples' margins.
        best = np.flatnonzero(H == H.max())
        return grid[best[len(best) // 2]]

    def _check_X(self, X):
        check_is_fitted(self)
        regions = self._takes_regions()
        X = open_rows(X, stream=self._streams and not regions)
        if isinstance(X, Rows):
            validate_data(self, np.zeros((1, X.shape[1])), reset=False)
            return X
        return validate_data(self, X, reset=False, allow_nd=regions)

    def _candidate_scores(self, X, names):
        """Scores (n, len(names)) without penalty, for any classes of the table."""
        return self._class_scores(self._check_X(X), self._attributes_of(names), names)

    def _class_scorer(self, prototypes, names):
        """`_class_scores` as a function of blocks of checked rows."""
        return lambda X: self._class_scores(X, prototypes, names)

    def _calibrated_scorer(self):
        """A function from checked rows (m, d) to the candidates' scores (m, k)."""
        names = self.candidates_
        score = self._class_scorer(self._attributes_of(names), names)
        seen = np.isin(names, self.classes_)
        return lambda X: stack_calibrated(score(X), seen, self.seen_penalty_)

    def _ranking(self, prototypes, classes):
        """Names of the candidates, their number, the scorer."""
        if prototypes is not None or classes is not None:
            raise ValueError(
                "prototypes and classes belong to a ReZSLRegressor; a classifier "
                "chooses among its candidates_ (more of them: with_classes)."
            )
        return self.candidates_, len(self.candidates_), self._calibrated_scorer()

    def _calibrated_scores(self, X):
        score = self._calibrated_scorer()
        if not isinstance(X, Rows):
            return score(X)
        return np.concatenate([score(block) for _, block in blocks(X, PREDICT_ROWS)])

    def __sklearn_is_fitted__(self):
        return hasattr(self, "seen_penalty_")


def _is_text(labels):
    return labels.dtype.kind in "US" or isinstance(labels[0], str)


def _read(table, attribute_names=None):
    """Names, matrix and attribute names of a DataFrame or (classes, matrix)."""
    what = "class_attributes"
    if hasattr(table, "iloc"):
        return check_table(table, what=what, attribute_names=attribute_names)
    if not isinstance(table, tuple | list) or len(table) != 2:
        raise ValueError(
            "class_attributes must be a DataFrame indexed by class, or a pair "
            f"(classes, matrix); got {type(table).__name__}."
        )
    names, matrix = table
    return check_table(matrix, what=what, names=names, attribute_names=attribute_names)


def _extended(old, names, matrix):
    """The longer table in the form in which the user gave the first one."""
    if not hasattr(old, "iloc"):
        return names, matrix
    longer = old.reindex(names.tolist())
    longer.iloc[len(old) :] = matrix[len(old) :]
    return longer
