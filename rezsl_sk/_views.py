"""What a fitted estimator says of samples: the arrays that figures and report show.

Knows neither matplotlib nor HTML. Reads public attributes, so that any zero-shot
classifier will do that has `classes_` (its candidates, sorted), `seen_classes_`,
`class_names_`, `class_attributes_`, `seen_penalty_` and `class_scores`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from ._grouping import distinct_rows
from .metrics import ImbalanceReport, imbalance_report
from .model_selection import _through_pipelines
from .tables import attribute_rows, in_column_order


def final_estimator(estimator):
    """The estimator at the end of pipelines and searches."""
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        else:
            return estimator


def is_classifier(final):
    return hasattr(final, "seen_classes_") and hasattr(final, "class_scores")


def is_regressor(final):
    return hasattr(final, "attribute_offset_") and hasattr(final, "prototypes_")


def regressor_of(estimator, what):
    """The fitted attribute regressor in an estimator, or a sentence."""
    final = final_estimator(estimator)
    regressor = getattr(final, "regressor_", final)
    if not is_regressor(regressor):
        raise ValueError(
            f"{what} needs predicted attributes, and {type(final).__name__} has none "
            "(or is not fitted). Give a fitted ReZSLRegressor, a classifier that has "
            "a regressor_, or a Pipeline or search that ends in one."
        )
    return regressor


def fitted_with(regressor, parameter):
    """A parameter as it was in fit, whatever it has been set to since."""
    return regressor._fitted_with[parameter]


def rows_of(names, wanted, what):
    """Row of `names` for each of `wanted`, or a sentence."""
    order = np.argsort(names, kind="stable")
    place = np.searchsorted(names, wanted, sorter=order)
    row = order[np.minimum(place, len(order) - 1)]
    unknown = np.unique(wanted[names[row] != wanted])
    if len(unknown):
        raise ValueError(
            f"y names classes that {what} does not know: {unknown[:5].tolist()}"
            f"{' and more' if len(unknown) > 5 else ''}. Leave their samples out, or "
            "add the classes."
        )
    return row


def training_space(regressor, S):
    """Attributes (k, a) in raw units, as the regressor compares them: (k, a').

    Without the constant attributes; rows of length 1 where it scales by "l2".
    """
    keep = varying(regressor)
    offset, scale = regressor.attribute_offset_, regressor.attribute_scale_
    space = (np.asarray(S, dtype=float)[:, keep] - offset[keep]) / scale[keep]
    if fitted_with(regressor, "attribute_scaling") == "l2":
        length = np.linalg.norm(space, axis=1, keepdims=True)
        space = space / np.where(length > 0, length, 1)
    return space


def varying(regressor):
    """Columns of the attributes that take part."""
    n = len(regressor.attribute_offset_)
    return np.setdiff1d(np.arange(n), regressor.constant_attributes_)


@dataclass(frozen=True, eq=False)
class AttributeView:
    """Attributes of samples, true and predicted, in the space of training.

    labels (n,): class of each sample; target, predicted (n, a'); names (a',) of the
    attributes or None; seen: the classes that were trained on.
    """

    regressor: Any
    labels: np.ndarray
    target: np.ndarray
    predicted: np.ndarray
    names: np.ndarray | None
    seen: np.ndarray

    @property
    def classes(self):
        return np.unique(self.labels)

    def errors(self) -> ImbalanceReport:
        return imbalance_report(self.target, self.predicted, self.labels)


def attribute_view(estimator, X, y, attribute_names=None, *, what):
    """Predicted attributes of samples X (n, d) whose class is y.

    y holds labels for a classifier, attributes (n, a) for a regressor; its classes
    are then numbers of distinct rows.
    """
    regressor = regressor_of(estimator, what)
    X, final = _through_pipelines(estimator, X)
    if final is regressor:
        S = _attributes(regressor, y)
        labels = distinct_rows(S, regressor.prototypes_)[1]
        seen = np.arange(len(regressor.prototypes_))
    else:
        X = np.asarray(X)  # a classifier fits its regressor without column names
        labels, seen = np.asarray(y), final.seen_classes_
        row = rows_of(final.class_names_, labels, type(final).__name__)
        S = final.class_attributes_[row]
    if S.shape[1] != len(regressor.attribute_offset_):
        raise ValueError(
            f"y has {S.shape[1]} attributes, but the regressor was fitted with "
            f"{len(regressor.attribute_offset_)}."
        )
    predicted = regressor.predict(X).reshape(len(S), -1)
    return AttributeView(
        regressor=regressor,
        labels=labels,
        target=training_space(regressor, S),
        predicted=training_space(regressor, predicted),
        names=kept_names(regressor, attribute_names),
        seen=seen,
    )


def _attributes(regressor, y):
    """The attributes of samples (n, a), in the order in which they were fitted."""
    S = attribute_rows(in_column_order(y, regressor.attribute_names_))
    return S.reshape(len(S), -1)


def kept_names(regressor, attribute_names=None):
    """Names of the attributes that take part, or None where nobody knows any."""
    if attribute_names is None:
        attribute_names = regressor.attribute_names_
    if attribute_names is None:
        return None
    attribute_names = np.asarray(attribute_names).astype(str)
    n = len(regressor.attribute_offset_)
    if attribute_names.shape != (n,):
        raise ValueError(
            f"attribute_names must name each of the {n} attributes of the table once, "
            f"got shape {attribute_names.shape}."
        )
    return attribute_names[varying(regressor)]


@dataclass(frozen=True, eq=False)
class ScoreView:
    """Scores of samples without a penalty, for seen and unseen candidates.

    classes (k,) are the columns of scores (n, k); seen (k,) says which were trained
    on; column (n,) is each sample's true one.
    """

    classes: np.ndarray
    seen: np.ndarray
    column: np.ndarray
    scores: np.ndarray
    penalty: float


def score_view(estimator, X, y, *, what):
    """Scores of samples X (n, d) of class y among all classes.

    A classifier's own candidates, if there are seen and unseen ones among them, else
    all classes of its table. For a regressor: the distinct rows of y (n, a) and of
    its prototypes.
    """
    X, final = _through_pipelines(estimator, X)
    if is_classifier(final):
        y = np.asarray(y)
        classes = final.classes_
        seen = np.isin(classes, final.seen_classes_)
        if seen.all() or not seen.any():
            classes = final.class_names_
            seen = np.isin(classes, final.seen_classes_)
        column = rows_of(classes, y, f"this {type(final).__name__}")
        scores = final.class_scores(X, classes)
        return ScoreView(classes, seen, column, scores, float(final.seen_penalty_))
    if is_regressor(final) and len(final.prototypes_):
        known = final.prototypes_
        table, column = distinct_rows(_attributes(final, y), known)
        seen = np.arange(len(table)) < len(known)
        scores = final._scores(final._check_X(X), table)
        return ScoreView(np.arange(len(table)), seen, column, scores, 0.0)
    raise ValueError(
        f"{what} needs an estimator that remembers its training classes and scores "
        f"others, got {type(final).__name__}. Give a fitted ZeroShotClassifier or "
        "ReZSLRegressor, or a Pipeline or search that ends in one."
    )
