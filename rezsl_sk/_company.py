"""Zero-shot classifiers inside scikit-learn's meta-estimators and scorers.

Two of their habits, right for a classifier that chooses among the labels of fit, go
wrong in silence for one that has a table of classes. Some number the labels 0, 1, ...
before they fit, and a number would be looked up in the table as if it were a class.
Others take the columns of scores for the labels that they have before them. Nothing
that an estimator is given tells of either, so the callers are looked at; the tests go
through all of them.
"""

import sys

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

# Functions of scikit-learn that fit with numbered labels.
NUMBERING = {
    (
        "sklearn.ensemble._base",
        "_fit_single_estimator",
    ): "a voting or stacking ensemble",
    ("sklearn.ensemble._bagging", "_parallel_build_estimators"): "BaggingClassifier",
    ("sklearn.multiclass", "_fit_binary"): "OneVsRestClassifier",
    ("sklearn.multiclass", "_fit_ovo_binary"): "OneVsOneClassifier",
}
CROSS_PREDICT = ("sklearn.model_selection._validation", "_fit_and_predict")
SCORER = ("sklearn.metrics._scorer", "_score")
CALIBRATION = {
    ("sklearn.calibration", "_fit_classifier_calibrator_pair"),
    ("sklearn.calibration", "fit"),
}


def refuse_numbered_labels(labels, names):
    """Refuse to fit labels (K,) that a meta-estimator numbered.

    `names` (C,) are the classes of the table. Where they are the labels themselves,
    K of K, the numbers are the names.
    """
    if len(labels) == len(names) and set(labels.tolist()) == set(names.tolist()):
        return
    for where, local in _callers():
        tool = NUMBERING.get(where)
        if where == CROSS_PREDICT and local["method"] != "predict":
            tool = f"cross_val_predict(method={local['method']!r})"
        if tool:
            raise ValueError(
                f"{tool} numbers the labels 0, 1, ... before it fits, and such a "
                "number need not be the class of that name in class_attributes: "
                "classes would be learnt with the attributes of others. A classifier "
                "with a table can be used there only if the table describes the "
                "classes of y and no others, named 0, 1, ...; else fit it by itself "
                "and use its predictions or class_scores."
            )


def refuse_other_labels(classifier):
    """Refuse to score for a caller that takes the columns for other classes."""
    mine = classifier.classes_
    for where, local in _callers():
        if where == CROSS_PREDICT:
            if local["method"] == "predict":
                continue
            frozen = local["estimator"]
            if isinstance(frozen, Pipeline):
                frozen = frozen[-1]
            if not isinstance(frozen, FrozenEstimator):
                return  # fitted to numbers, which callers further out do not have
            n = int(np.max(local["y"])) + 1  # of labels: they are numbered
            if n != len(mine):
                raise ValueError(_sentence("cross_val_predict", mine, f"y has {n}"))
        elif where in CALIBRATION:
            estimator = local.get("this_estimator", local.get("estimator"))
            labels = local["classes"] if "classes" in local else local["self"].classes_
            _refuse("CalibratedClassifierCV", classifier, estimator, labels)
        elif where == SCORER:
            _refuse("this scorer", classifier, local["estimator"], local["y_true"])


def _refuse(tool, classifier, estimator, labels):
    if not _ends_in(estimator, classifier):
        return
    mine = classifier.classes_.tolist()
    labels = np.unique(np.asarray(labels)).tolist()
    if tool == "this scorer":
        other = [name for name in labels if name not in set(mine)]
        found = f"y has others: {other[:5]}"
    else:  # may have seen more classes than the classifier
        other = [name for name in mine if name not in set(labels)]
        found = f"y lacks {other[:5]}"
    if other:
        raise ValueError(_sentence(tool, classifier.classes_, found))


def _sentence(tool, classes, found):
    return (
        f"{tool} takes the columns of the scores for the classes of y, but this "
        f"classifier chooses among {len(classes)} candidates, and {found}. Set "
        "candidates to the classes of y ('seen', 'unseen' or a list), or give samples "
        "of the candidates."
    )


def _ends_in(estimator, classifier):
    """Whether pipelines, searches and a frozen estimator end in this classifier."""
    while estimator is not classifier:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            return False
    return True


def _callers():
    """Functions of scikit-learn that led here, inner ones first, and their locals."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("sklearn."):
            yield (module, frame.f_code.co_name), frame.f_locals
        frame = frame.f_back
