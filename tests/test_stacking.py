"""ZeroShotStackingClassifier: contract, weights, members, failures."""

import pickle
import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import get_scorer
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.estimator_checks import parametrize_with_checks

from rezsl_sk import (
    ReZSLRegressor,
    ZeroShotClassifier,
    ZeroShotStackingClassifier,
    _stacking,
)
from rezsl_sk.baselines import ESZSL, RidgePrototype
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.metrics import gzsl_report

CHEAP = [("eszsl", ESZSL()), ("ridge", RidgePrototype())]


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(n_seen=20, n_unseen=6, samples_per_class=15, random_state=0)


@pytest.fixture(scope="module")
def rows(data):
    return data.X[data.trainval], data.y[data.trainval]


@pytest.fixture(scope="module")
def table(data):
    return data.class_names, data.attributes


@pytest.fixture(scope="module")
def auto(data, rows, table):
    return ZeroShotStackingClassifier(class_attributes=table, cv=2).fit(*rows)


@parametrize_with_checks([ZeroShotStackingClassifier(CHEAP)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


class Chance(BaseEstimator):
    """A member that tells nothing: every class of every row gets another number."""

    def fit_classes(self, X, group, attributes):
        return self

    def scorer(self, attributes, names=None):
        of_class = np.random.default_rng(0).normal(size=len(attributes))
        return lambda X: np.sin(1e6 * X[:, :1] + 100 * of_class)


class Failing(Chance):
    def fit_classes(self, X, group, attributes):
        raise RuntimeError("no luck today")


class NotFinite(Chance):
    def scorer(self, attributes, names=None):
        return lambda X: np.full((len(X), len(attributes)), np.nan)


class Oracle(BaseEstimator):
    """A member that is told the attributes of each row by the first features."""

    def fit_classes(self, X, group, attributes):
        return self

    def scorer(self, attributes, names=None):
        P = attributes / np.linalg.norm(attributes, axis=1, keepdims=True)
        return lambda X: X[:, : P.shape[1]] @ P.T


def test_auto_has_the_documented_members(auto):
    assert auto.names_ == [
        "attributes",
        "features",
        "standard features",
        "eszsl",
        "naive Bayes",
        "forest",
    ]
    assert (auto.weights_ >= 0).all()
    assert auto.accuracies_.shape == (6,)
    assert [name for name, _ in auto.estimators_] == [
        name for name, w in zip(auto.names_, auto.weights_, strict=True) if w > 0
    ]


def test_auto_names_unseen_classes_no_worse_than_its_members(auto, data, rows):
    X, y = data.X[data.test_unseen], data.y[data.test_unseen]
    unseen = clone(auto).set_params(candidates="unseen").fit(*rows)
    ours = (unseen.predict(X) == y).mean()
    names = data.class_names[data.unseen_classes]
    for _, member in unseen.estimators_:
        scores = member.scorer(data.attributes[data.unseen_classes])(X)
        assert ours >= (names[scores.argmax(axis=1)] == y).mean() - 0.05


def test_a_table_as_wide_as_x_brings_the_shared_space(rows):
    rng = np.random.default_rng(0)
    names = np.arange(10)
    centres = rng.normal(size=(10, 8))
    y = np.repeat(names[:8], 10)
    X = centres[y] + 0.4 * rng.normal(size=(80, 8))
    clf = ZeroShotStackingClassifier(class_attributes=(names, centres), cv=2)
    clf.fit(X, y)
    assert "shared space" in clf.names_


def test_many_attributes_bring_no_forest(data, rows, monkeypatch, table):
    monkeypatch.setattr(_stacking, "MOST_FOREST_ATTRIBUTES", 5)
    members = ZeroShotStackingClassifier()._members(rows[0], data.attributes)
    assert "forest" not in members


def test_scores_are_the_weighted_sum_of_the_members(data, rows, table):
    clf = ZeroShotStackingClassifier(CHEAP, table, seen_penalty=0.0).fit(*rows)
    X = data.X[:9]
    expected = np.zeros((9, len(clf.classes_)))
    for name, member in CHEAP:
        alone = clone(member).set_params(class_attributes=table).fit(*rows)
        number = clf.names_.index(name)
        weight = clf.weights_[number] / clf._spreads[number]
        expected += weight * alone.class_scores(X)
    np.testing.assert_allclose(clf.class_scores(X), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(clf.decision_function(X), expected, rtol=1e-4, atol=1e-4)


def test_probabilities_are_the_softmax_of_the_scores(auto, data):
    X = data.X[:9]
    proba = auto.predict_proba(X)
    np.testing.assert_allclose(proba, softmax(auto.decision_function(X), axis=1))
    np.testing.assert_allclose(np.exp(auto.predict_log_proba(X)), proba)


def test_the_seen_penalty_is_learnt_and_balances(auto, data):
    X = np.concatenate([data.X[data.test_unseen], data.X[data.test_seen]])
    y = np.concatenate([data.y[data.test_unseen], data.y[data.test_seen]])
    column = np.searchsorted(auto.classes_, y)
    seen = np.isin(auto.classes_, auto.seen_classes_)
    scores = auto.class_scores(X)
    assert auto.seen_penalty_ > 0
    learnt = gzsl_report(column, scores, seen, penalty=auto.seen_penalty_)
    without = gzsl_report(column, scores, seen, penalty=0.0)
    assert learnt.H > without.H


def test_a_given_penalty_is_kept(rows, table):
    clf = ZeroShotStackingClassifier(CHEAP, table, seen_penalty=0.7).fit(*rows)
    assert clf.seen_penalty_ == 0.7


@pytest.mark.parametrize("candidates", ["unseen", "seen"])
def test_one_kind_of_candidates_needs_no_penalty(rows, table, candidates):
    clf = ZeroShotStackingClassifier(CHEAP, table, candidates).fit(*rows)
    assert clf.seen_penalty_ == 0


def test_a_member_that_tells_nothing_is_not_fitted_again(rows, table):
    members = [("eszsl", ESZSL()), ("chance", Chance())]
    clf = ZeroShotStackingClassifier(members, table, "unseen").fit(*rows)
    assert clf.weights_[0] > 10 * clf.weights_[1]
    assert clf.accuracies_[0] > clf.accuracies_[1]


@pytest.mark.parametrize(
    "failing, reason",
    [(Failing(), "RuntimeError: no luck today"), (NotFinite(), "not finite")],
)
def test_a_member_that_fails_is_left_out_with_its_reason(rows, table, failing, reason):
    members = [("broken", failing), *CHEAP]
    with pytest.warns(
        UserWarning, match=f"'broken' of the stack is left out.*{reason}"
    ):
        clf = ZeroShotStackingClassifier(members, table).fit(*rows)
    assert clf.names_ == ["eszsl", "ridge"]
    assert reason in clf.failures_["broken"]


def test_all_members_failing_is_an_error(rows, table):
    with pytest.raises(ValueError, match="no member .* no luck today"):
        ZeroShotStackingClassifier([("broken", Failing())], table).fit(*rows)


@pytest.mark.parametrize(
    "estimators, message",
    [
        ([], "empty list"),
        (["eszsl"], "pairs"),
        ([("a", ESZSL()), ("a", ESZSL())], "two members of the stack are called 'a'"),
        ([("a", object())], "'a' is of type object"),
        ([("a", ZeroShotStackingClassifier())], "'a' is a stack itself"),
    ],
)
def test_wrong_members_are_a_sentence(rows, table, estimators, message):
    with pytest.raises(ValueError, match=message):
        ZeroShotStackingClassifier(estimators, table).fit(*rows)


def test_any_estimator_of_scikit_learn_is_a_member(data, rows, table):
    members = [
        ("ours", ReZSLRegressor((8,), max_iter=2, random_state=0)),
        ("both", ZeroShotClassifier(ReZSLRegressor((8,), max_iter=2, random_state=0))),
        ("ridge", Ridge()),
        ("forest", RandomForestRegressor(5, random_state=0)),
        ("naive Bayes", GaussianNB()),
        ("logistic", LogisticRegression(max_iter=500)),
    ]
    clf = ZeroShotStackingClassifier(members, table, "unseen", cv=2).fit(*rows)
    assert clf.names_ == [name for name, _ in members]
    assert clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.35


def test_the_same_seed_gives_the_same_bits_however_many_processes(rows, table):
    one = ZeroShotStackingClassifier(CHEAP, table).fit(*rows)
    two = ZeroShotStackingClassifier(CHEAP, table, n_jobs=2).fit(*rows)
    np.testing.assert_array_equal(one.weights_, two.weights_)
    np.testing.assert_array_equal(
        one.decision_function(rows[0]), two.decision_function(rows[0])
    )


def test_with_classes_adds_a_class_without_retraining(data, rows):
    seen = data.seen_classes
    clf = ZeroShotStackingClassifier(
        CHEAP, (data.class_names[seen], data.attributes[seen])
    ).fit(*rows)
    new = data.unseen_classes
    more = clf.with_classes((data.class_names[new], data.attributes[new]))
    whole = ZeroShotStackingClassifier(CHEAP, (data.class_names, data.attributes))
    whole.fit(*rows)
    np.testing.assert_allclose(more.class_scores(rows[0]), whole.class_scores(rows[0]))
    # The penalty was learnt without the new classes, and is theirs, too.
    assert more.seen_penalty_ == whole.seen_penalty_ > 0


def test_probabilities_are_refused_for_other_labels(data, rows, table):
    clf = ZeroShotStackingClassifier(CHEAP, table, "unseen").fit(*rows)
    few = np.isin(data.labels, data.seen_classes[: len(clf.classes_)])
    with pytest.raises(ValueError, match="takes the columns of the scores"):
        get_scorer("neg_log_loss")(clf, data.X[few], data.y[few])


def test_classes_with_equal_attributes_have_equal_scores(data, rows):
    attributes = np.vstack([data.attributes, data.attributes])
    names = [*data.class_names, *(f"again {name}" for name in data.class_names)]
    with pytest.warns(UserWarning, match="equal attributes"):
        clf = ZeroShotStackingClassifier("auto", (names, attributes), cv=2).fit(*rows)
    scores = clf.class_scores(data.X, names)
    np.testing.assert_array_equal(*np.hsplit(scores, 2))


def test_a_wrong_parameter_of_a_member_is_an_error(rows, table):
    for member in (ESZSL(feature_penalty=-0.5), Ridge(alpha=-1.0)):
        with pytest.raises(ValueError, match="_penalty|alpha"):
            ZeroShotStackingClassifier([("wrong", member), *CHEAP], table).fit(*rows)


def test_one_sample_a_class_is_too_few_to_learn_the_penalty(data, rows, table):
    first = np.unique(rows[1], return_index=True)[1]
    X, y = rows[0][first], rows[1][first]
    clf = ZeroShotStackingClassifier(CHEAP, table)
    with (
        pytest.raises(ValueError, match="at least 2 samples"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of scikit-learn: so many classes
        clf.fit(X, y)


def test_a_fitted_stack_keeps_no_rows_and_pickles(auto, data):
    X = data.X[:5]
    pickled = pickle.dumps(auto)
    np.testing.assert_array_equal(
        pickle.loads(pickled).predict_proba(X), auto.predict_proba(X)
    )
    column = np.ascontiguousarray(data.X[data.trainval][:, 0])
    assert column.tobytes() not in pickled


def test_fewer_than_four_classes_count_members_alike(data):
    few = np.isin(data.labels, data.seen_classes[:3])
    clf = ZeroShotStackingClassifier(CHEAP, (data.class_names, data.attributes))
    clf.fit(data.X[few], data.y[few])
    np.testing.assert_array_equal(clf.weights_, 0.5)
    assert not len(clf.accuracies_)


def test_few_classes_have_their_folds_repeated():
    group = np.repeat(np.arange(10), 5)
    folds = ZeroShotStackingClassifier()._folds(group, 10)
    assert len(folds) == 4 * 5
    held = [tuple(np.setdiff1d(group, group[fold.train])) for fold in folds]
    assert len(set(held)) > 15


def test_folds_are_balanced_where_rows_are_many(monkeypatch):
    monkeypatch.setattr(_stacking, "MOST_FOLD_ROWS", 40)
    group = np.concatenate([np.repeat(np.arange(9), 8), np.full(500, 9)])
    for fold in ZeroShotStackingClassifier()._folds(group, 10):
        count = np.bincount(group[fold.train], minlength=10)
        assert count.sum() == 40
        assert np.ptp(count[count > 0]) <= 1


def test_no_warning_at_fit_and_predict(data, rows, table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ZeroShotStackingClassifier(CHEAP, table).fit(*rows).predict(rows[0])
