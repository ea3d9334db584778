"""In the company of scikit-learn's scorers and meta-estimators: right, or refused."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.baselines import (
    ALE,
    DAP,
    DEM,
    ESZSL,
    SAE,
    ClassNormalizedEmbedding,
    RidgePrototype,
)
from rezsl_sk.datasets import make_zero_shot

REGRESSOR = ReZSLRegressor((), max_iter=5, random_state=0)
TRAINED = {"max_iter": 5, "random_state": 0}
ALL = [
    ZeroShotClassifier(REGRESSOR),
    ESZSL(),
    SAE(),
    RidgePrototype(),
    DAP(max_iter=5),
    ALE(**TRAINED),
    DEM(hidden_layer_sizes=(16,), **TRAINED),
    ClassNormalizedEmbedding(hidden_layer_sizes=(16, 16), **TRAINED),
]


def name_of(model):
    return type(model).__name__


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(
        6,
        4,
        samples_per_class=20,
        n_features=16,
        n_attributes=12,
        noise=0.2,
        random_state=0,
    )


@pytest.fixture(scope="module")
def seen(data):
    return data.X[data.trainval], data.y[data.trainval]


@pytest.fixture(scope="module")
def unseen(data):
    return data.X[data.test_unseen], data.y[data.test_unseen]


def with_table(model, data, **parameters):
    """Its table is sorted by nothing."""
    order = np.random.default_rng(3).permutation(len(data.class_names))
    table = data.class_names[order], data.attributes[order]
    return clone(model).set_params(class_attributes=table, **parameters)


def numbered(data, step=1):
    """A table named by numbers, the unseen classes among the seen ones."""
    names = np.arange(len(data.class_names)) * step
    order = np.random.default_rng(3).permutation(len(names))
    numbers = dict(zip(data.class_names[order].tolist(), names.tolist(), strict=True))
    return (names, data.attributes[order]), numbers


# ---- scorers -------------------------------------------------------------------


@pytest.mark.parametrize("model", ALL, ids=name_of)
def test_columns_are_the_sorted_candidates(model, data, seen, unseen):
    clf = with_table(model, data, candidates="unseen").fit(*seen)
    assert clf.classes_.tolist() == sorted(set(unseen[1]))
    assert clf.candidates_ is clf.classes_
    assert clf.seen_classes_.tolist() == sorted(set(seen[1]))
    scores = clf.decision_function(unseen[0])
    # Column by column, each class by itself.
    for name, column in zip(clf.classes_, scores.T, strict=True):
        alone = clf.class_scores(unseen[0], [name])
        np.testing.assert_allclose(alone[:, 0], column, rtol=1e-4, atol=1e-5)
    best_two = clf.classes_[np.argsort(-scores, axis=1)[:, :2]]
    hit = (best_two == unseen[1][:, np.newaxis]).any(axis=1)
    assert get_scorer("top_k_accuracy")(clf, *unseen) == pytest.approx(hit.mean())


def test_scorers_of_probabilities_agree_with_their_definition(data, seen, unseen):
    X, y = unseen
    clf = with_table(ALL[0], data, candidates="unseen").fit(*seen)
    P = clf.predict_proba(X)
    column = {name: k for k, name in enumerate(clf.classes_.tolist())}
    of_true = P[np.arange(len(y)), [column[name] for name in y.tolist()]]
    assert get_scorer("neg_log_loss")(clf, X, y) == pytest.approx(
        np.log(of_true).mean(), rel=1e-4
    )
    # How often a sample of the class is given more of it than one of another class.
    areas = []
    for name in clf.classes_:
        mine, other = P[y == name, column[name]], P[y != name, column[name]]
        more = mine[:, None] > other
        areas.append((more + 0.5 * (mine[:, None] == other)).mean())
    assert get_scorer("roc_auc_ovr")(clf, X, y) == pytest.approx(np.mean(areas))


SCORERS = ["roc_auc_ovr", "neg_log_loss", "top_k_accuracy"]


@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_refuse_other_labels(scorer, data, seen, unseen):
    """As many as the candidates: scikit-learn would pair them in silence."""
    X, y = unseen
    others = data.class_names[data.seen_classes][:4].tolist()
    clf = with_table(ALL[0], data, candidates=others).fit(*seen)
    with pytest.raises(ValueError, match=r"among 4 candidates, and y has others"):
        get_scorer(scorer)(clf, X, y)
    pipeline = make_pipeline(StandardScaler(), clf).fit(*seen)
    with pytest.raises(ValueError, match="y has others"):
        get_scorer(scorer)(pipeline, X, y)


@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_refuse_candidates_that_y_lacks(scorer, data, seen, unseen):
    clf = with_table(ALL[0], data).fit(*seen)
    with pytest.raises(ValueError, match="different number of cl|not equal to the num"):
        get_scorer(scorer)(clf, *unseen)


def test_a_search_scores_by_columns(data, seen):
    """Inside it y is what it was."""
    search = GridSearchCV(
        with_table(ALL[0], data, candidates="seen"),
        {"regressor__max_iter": [1, 5]},
        scoring=["roc_auc_ovr", "neg_log_loss"],
        refit="roc_auc_ovr",
        cv=2,
    ).fit(*seen)
    assert search.best_score_ > 0.9
    assert np.isfinite(search.cv_results_["mean_test_neg_log_loss"]).all()


# ---- calibration ---------------------------------------------------------------


@pytest.mark.parametrize("model", [ALL[0], ESZSL(), DAP(max_iter=5)], ids=name_of)
def test_calibration(model, data, seen, unseen):
    clf = with_table(model, data, candidates="seen")
    calibrated = CalibratedClassifierCV(clf, cv=2).fit(*seen)
    X, y = data.X[data.test_seen], data.y[data.test_seen]
    assert calibrated.score(X, y) > 0.8  # chance: 0.17
    assert roc_auc_score(y, calibrated.predict_proba(X), multi_class="ovr") > 0.95
    # Fitted before, calibrated for the unseen classes.
    clf = with_table(model, data, candidates="unseen").fit(*seen)
    frozen = CalibratedClassifierCV(FrozenEstimator(clf), cv=2).fit(*unseen)
    assert frozen.score(*unseen) >= clf.score(*unseen) - 0.05
    assert log_loss(unseen[1], frozen.predict_proba(unseen[0])) < np.log(4)


@pytest.mark.parametrize("candidates", ["all", "unseen"])
@pytest.mark.parametrize("model", [ALL[0], ESZSL()], ids=name_of)
def test_calibration_refuses_other_candidates(model, candidates, data, seen):
    clf = with_table(model, data, candidates=candidates)
    with pytest.raises(ValueError, match=r"CalibratedClassifierCV .* and y lacks"):
        CalibratedClassifierCV(clf, cv=2).fit(*seen)
    fitted = FrozenEstimator(clone(clf).fit(*seen))
    with pytest.raises(ValueError, match=r"among \d+ candidates, and y has 6"):
        CalibratedClassifierCV(fitted, cv=2).fit(*seen)


def test_calibration_of_a_frozen_one_refuses_as_many_others(data, seen, unseen):
    four = data.class_names[data.seen_classes][:4].tolist()
    clf = with_table(ALL[0], data, candidates=four).fit(*seen)
    with pytest.raises(ValueError, match="and y lacks"):
        CalibratedClassifierCV(FrozenEstimator(clf), cv=2).fit(*unseen)


# ---- those that number the labels ------------------------------------------------

NUMBERING = {
    "voting": lambda clf: VotingClassifier([("a", clf)]),
    "bagging": lambda clf: BaggingClassifier(clf, n_estimators=2, random_state=0),
    "stacking": lambda clf: StackingClassifier([("a", clf)], cv=2),
    "one-vs-rest": lambda clf: OneVsRestClassifier(clf),
    "one-vs-one": lambda clf: OneVsOneClassifier(clf),
    "calibration of all folds": lambda clf: CalibratedClassifierCV(
        clf, cv=2, ensemble=False
    ),
    "voting of pipelines": lambda clf: VotingClassifier(
        [("a", make_pipeline(StandardScaler(), clf))]
    ),
    "voting of bagging": lambda clf: VotingClassifier(
        [("a", BaggingClassifier(clf, n_estimators=2))]
    ),
}


@pytest.mark.parametrize("names", ["text", "numbers", "tens"])
@pytest.mark.parametrize("tool", NUMBERING.values(), ids=NUMBERING)
def test_numbered_labels_are_not_looked_up_in_the_table(tool, names, data, seen):
    """With numbers for names nothing else would tell: 0, 1, ... are in the table."""
    X, y = seen
    table, number = numbered(data, 10 if names == "tens" else 1)
    clf = ESZSL(table, candidates="seen")
    if names == "text":
        clf = with_table(ESZSL(), data, candidates="seen")
    else:
        y = np.array([number[name] for name in y])
    assert clone(clf).fit(X, y).score(X, y) > 0.8
    with pytest.raises(ValueError, match="numbers the labels 0, 1, ... before it fits"):
        tool(clf).fit(X, y)


@pytest.mark.parametrize("method", ["predict_proba", "decision_function"])
def test_numbered_labels_of_cross_val_predict(method, data, seen):
    X, y = seen
    table, number = numbered(data)
    y = np.array([number[name] for name in y])
    clf = ZeroShotClassifier(REGRESSOR, table, candidates="seen")
    with pytest.raises(
        ValueError, match=rf"cross_val_predict\(method='{method}'\) num"
    ):
        cross_val_predict(clf, X, y, cv=2, method=method)
    assert np.mean(cross_val_predict(clf, X, y, cv=2) == y) > 0.8


@pytest.mark.parametrize("tool", NUMBERING.values(), ids=NUMBERING)
def test_without_a_table_any_name_will_do(tool, seen):
    X, y = seen
    assert tool(ESZSL()).fit(X, y).score(X, y) > 0.8


MULTICLASS = {k: v for k, v in NUMBERING.items() if not k.startswith("one")}


@pytest.mark.parametrize("tool", MULTICLASS.values(), ids=MULTICLASS)
def test_a_table_of_just_the_numbered_classes_is_taken(tool, data, seen):
    X, y = seen
    names, y = np.unique(y, return_inverse=True)
    row = {name: k for k, name in enumerate(data.class_names.tolist())}
    S = data.attributes[[row[name] for name in names.tolist()]]
    order = np.random.default_rng(0).permutation(6)
    clf = ESZSL((order, S[order]))
    assert tool(clf).fit(X, y).score(X, y) > 0.8


def test_in_other_processes_too(data, seen):
    clf = with_table(ESZSL(), data, candidates="seen")
    with pytest.raises(ValueError, match="numbers the labels"):
        VotingClassifier([("a", clf), ("b", clf)], n_jobs=2).fit(*seen)
