"""ZeroShotClassifier: contract, tables, candidates, penalty, tomorrow's classes."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from rezsl_sk import AttentionRegressor, ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.metrics import gzsl_report, harmonic_mean, mean_per_class_accuracy
from rezsl_sk.model_selection import (
    ClassKFold,
    GZSLKFold,
    gzsl_scorer,
    zero_shot_scorer,
)


@pytest.fixture(scope="module")
def data():
    """20 seen classes, 8 unseen ones, 20 attributes."""
    return make_zero_shot(20, 8, samples_per_class=20, noise=0.5, random_state=0)


@pytest.fixture(scope="module")
def X_y(data):
    return data.X[data.trainval].astype(np.float32), data.y[data.trainval]


@pytest.fixture(scope="module")
def table(data):
    """DataFrame of all classes."""
    return pd.DataFrame(
        data.attributes,
        index=data.class_names,
        columns=[f"attribute {j}" for j in range(data.attributes.shape[1])],
    )


def quick(class_attributes=None, *, regressor=None, **parameters):
    regressor = {
        "hidden_layer_sizes": (16,),
        "learning_rate_init": 1e-2,
    } | (regressor or {})
    return ZeroShotClassifier(
        ReZSLRegressor(random_state=0, **regressor),
        class_attributes=class_attributes,
        **parameters,
    )


@pytest.fixture(scope="module")
def fitted(X_y, table):
    return quick(table).fit(*X_y)


# ---- the contract ------------------------------------------------------------


@parametrize_with_checks(
    [
        ZeroShotClassifier(),
        ZeroShotClassifier(
            ReZSLRegressor((), statistics="running", max_iter=10, random_state=0)
        ),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_names_classes_never_seen(data, X_y, table):
    clf = quick(table, candidates="unseen").fit(*X_y)
    rows = data.test_unseen
    names = clf.predict(data.X[rows].astype(np.float32))
    assert set(names) <= set(data.class_names[data.unseen_classes])
    assert mean_per_class_accuracy(data.y[rows], names) > 0.7  # chance: 0.125


def test_decision_is_the_argmax_and_in_the_order_of_classes(data, fitted):
    X = data.X[data.test_unseen].astype(np.float32)
    scores = fitted.decision_function(X)
    assert scores.shape == (len(X), 28)
    np.testing.assert_array_equal(
        fitted.predict(X), fitted.candidates_[scores.argmax(axis=1)]
    )
    # Against the regressor's own decoding, class by class.
    seen = np.isin(fitted.candidates_, fitted.seen_classes_)
    assert seen.sum() == 20 and not (np.diff(seen.astype(int)) >= 0).all()
    column = [fitted.class_names_.tolist().index(c) for c in fitted.candidates_]
    np.testing.assert_array_equal(
        fitted.predict(X),
        fitted.regressor_.predict(
            X,
            prototypes=fitted.class_attributes_[column],
            classes=fitted.candidates_,
        ),
    )


def test_probabilities(data, fitted):
    X = data.X[data.test_unseen].astype(np.float32)
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (len(X), 28)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        probabilities.argmax(axis=1), fitted.decision_function(X).argmax(axis=1)
    )
    np.testing.assert_allclose(
        np.exp(fitted.predict_log_proba(X)), probabilities, rtol=1e-4
    )


def test_two_candidates_give_a_one_dimensional_decision(data, X_y, table):
    pair = list(data.class_names[data.unseen_classes][:2])
    clf = quick(table, candidates=pair).fit(*X_y)
    X = data.X[data.test_unseen].astype(np.float32)
    decision = clf.decision_function(X)
    assert decision.shape == (len(X),)
    np.testing.assert_array_equal(
        clf.predict(X), np.where(decision > 0, pair[1], pair[0])
    )
    assert clf.predict_proba(X).shape == (len(X), 2)


def test_one_candidate_is_always_the_answer(data, X_y, table):
    name = data.class_names[data.unseen_classes][0]
    clf = quick(table, candidates=[name]).fit(*X_y)
    X = data.X[data.test_unseen].astype(np.float32)
    assert set(clf.predict(X)) == {name}
    assert clf.decision_function(X).shape == (len(X), 1)


# ---- the table ---------------------------------------------------------------


def test_forms_of_the_table_make_no_difference(data, X_y, table, fitted):
    X = data.X[data.test_unseen].astype(np.float32)
    wanted = fitted.decision_function(X)
    for form in [
        (data.class_names, data.attributes),
        (data.class_names.tolist(), data.attributes.tolist()),
        (data.class_names.astype(object), data.attributes),
    ]:
        np.testing.assert_array_equal(
            quick(form).fit(*X_y).decision_function(X), wanted
        )


def test_a_shuffled_table_names_the_same_classes(data, X_y, table, fitted):
    X = data.X[data.test_unseen].astype(np.float32)
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = quick(table.iloc[order]).fit(*X_y)
    np.testing.assert_array_equal(shuffled.predict(X), fitted.predict(X))


def test_labels_that_are_numbers(data, X_y, fitted):
    y = data.labels[data.trainval] * 10 - 3
    names = np.arange(len(data.attributes)) * 10 - 3
    clf = quick((names, data.attributes)).fit(X_y[0], y)
    X = data.X[data.test_unseen].astype(np.float32)
    assert clf.predict(X).dtype == names.dtype
    np.testing.assert_array_equal(
        (clf.predict(X) + 3) // 10,
        [data.class_names.tolist().index(name) for name in fitted.predict(X)],
    )


def test_without_a_table_each_class_is_its_own_attribute(data, X_y):
    clf = quick().fit(*X_y)
    np.testing.assert_array_equal(clf.candidates_, clf.classes_)
    assert clf.score(*X_y) > 0.8
    with pytest.raises(ValueError, match="fitted without class_attributes"):
        clf.with_classes((["new"], [[1.0] * 20]))


def test_constant_attributes_are_listed_and_change_nothing(data, X_y, table, fitted):
    """A rare keyword: absent from every seen class, present in an unseen one."""
    unseen = np.isin(table.index, data.class_names[data.unseen_classes])
    wider = table.assign(rare=np.where(unseen, 1.0, 0.0), always=7.0)
    clf = quick(wider).fit(*X_y)
    assert clf.constant_attributes_.tolist() == [20, 21]
    X = data.X[data.test_unseen].astype(np.float32)
    np.testing.assert_array_equal(clf.decision_function(X), fitted.decision_function(X))


def test_equal_classes_are_named_once(data, X_y, table):
    twins = table.copy()
    first, second = data.class_names[data.unseen_classes][:2]
    twins.loc[second] = twins.loc[first]
    with pytest.warns(UserWarning, match="equal attributes") as caught:
        clf = quick(twins).fit(*X_y)
    (warning,) = caught
    assert first in str(warning.message) and second in str(warning.message)
    assert warning.filename == __file__
    assert len(clf.candidates_) == 28


def test_seen_classes_with_equal_attributes_stay_two(data, X_y, table):
    twins = table.copy()
    first, second = data.class_names[data.seen_classes][:2]
    twins.loc[second] = twins.loc[first]
    with pytest.warns(UserWarning, match="equal attributes"):
        clf = quick(twins).fit(*X_y)
    assert clf.regressor_.prototypes_.shape == (20, 20)
    assert clf.regressor_.error_matrix_.shape == (20, 20)


def broken(table, **change):
    """A copy of the table with one thing wrong."""
    table = table.copy()
    kind, value = next(iter(change.items()))
    if kind == "nan":
        table.iloc[3, 2] = np.nan
    elif kind == "twice":
        table.index = [table.index[1], *table.index[1:]]
    elif kind == "without":
        table = table.drop(index=value)
    elif kind == "text":
        table = table.astype(object)
        table.iloc[0, 0] = "furry"
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nan": 1}, "missing or infinite .*of class 'class 3"),
        ({"twice": 1}, "more than once"),
        ({"text": 1}, "furry"),
    ],
    ids=str,
)
def test_a_bad_table_is_refused_in_a_sentence(X_y, table, change, message):
    # Classes are called by what make_zero_shot calls them.
    message = message.replace("class 3", str(table.index[3]))
    with pytest.raises(ValueError, match=message):
        quick(broken(table, **change)).fit(*X_y)


def test_a_row_of_zeros_is_a_class_where_zero_is_a_direction(X_y, table):
    table = table.copy()
    table.iloc[3] = 0.0
    clf = quick(table).fit(*X_y)
    assert np.isfinite(clf.decision_function(X_y[0][:5])).all()
    uncentred = clone(clf).set_params(regressor__attribute_scaling=None).fit(*X_y)
    with pytest.raises(ValueError, match=f"'{table.index[3]}'.*no direction"):
        uncentred.predict(X_y[0][:5])


def test_a_class_without_attributes_is_named(data, X_y, table):
    name = data.class_names[data.seen_classes][5]
    with pytest.raises(ValueError, match=f"no row for these classes of y: .'{name}'"):
        quick(broken(table, without=name)).fit(*X_y)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("table.csv", "must be a DataFrame indexed by class, or a pair"),
        (np.eye(28), "name classes in both alike"),
        ((["a", "b"], np.eye(3)), "a name for each of its 3 classes, got 2"),
        ((["a", 1, "c"], np.eye(3)), "mixes strings and other names"),
        ((range(28), np.eye(28)), "name classes in both alike"),
    ],
    ids=str,
)
def test_what_is_no_table_is_refused_in_a_sentence(X_y, attributes, message):
    with pytest.raises(ValueError, match=message):
        quick(attributes).fit(*X_y)


def test_bad_parameters_and_data(data, X_y, table):
    X, y = X_y
    for parameters, message in [
        ({"candidates": "both"}, "candidates"),
        ({"candidates": ["nobody"]}, "candidates must name classes of the table"),
        ({"candidates": []}, "candidates must name classes of the table"),
        ({"seen_penalty": "best"}, "seen_penalty"),
        ({"seen_penalty": np.nan}, "finite or 'auto'"),
    ]:
        with pytest.raises(ValueError, match=message):
            quick(table, **parameters).fit(X, y)
    with pytest.raises(ValueError, match="one class only"):
        quick(table).fit(X[y == y[0]], y[y == y[0]])
    seen_only = table.loc[data.class_names[data.seen_classes]]
    with pytest.raises(ValueError, match="describes no class that y lacks"):
        quick(seen_only, candidates="unseen").fit(X, y)
    with pytest.raises(NotFittedError):
        quick(table).predict(X)


# ---- the seen penalty --------------------------------------------------------


def test_the_penalty_is_inside_the_decision(data, X_y, table, fitted):
    X = data.X[data.test_unseen].astype(np.float32)
    penalised = quick(table, seen_penalty=0.25).fit(*X_y)
    seen = np.isin(fitted.candidates_, fitted.seen_classes_)
    np.testing.assert_allclose(
        penalised.decision_function(X),
        fitted.decision_function(X) - np.where(seen, np.float32(0.25), 0),
        rtol=1e-6,
    )
    everything = quick(table, seen_penalty=10).fit(*X_y)
    assert set(everything.predict(X)) <= set(data.class_names[data.unseen_classes])


def test_the_automatic_penalty_is_the_best_of_the_folds(data, X_y, table):
    """Against a slow search through the public scorer on the same folds."""
    X, y = X_y
    clf = quick(table, seen_penalty="auto").fit(X, y)
    folds = []
    for train, test in GZSLKFold(5).split(X, y):
        folds.append((quick(table).fit(X[train], y[train]), X[test], y[test]))

    def mean_H(penalty):
        for model, _, _ in folds:
            model.seen_penalty_ = penalty
        return np.mean([gzsl_scorer(*fold) for fold in folds])

    best = max(mean_H(penalty) for penalty in np.linspace(-0.2, 1.0, 61))
    assert mean_H(clf.seen_penalty_) >= best


def test_the_automatic_penalty_balances_seen_and_unseen(data, X_y, table):
    held_out = np.concatenate([data.test_seen, data.test_unseen])
    X, y = data.X[held_out].astype(np.float32), data.y[held_out]
    unseen = np.isin(y, data.class_names[data.unseen_classes])
    H = {}
    for penalty in (0.0, "auto"):
        # By attributes alone seen classes win far too often.
        clf = quick(table, seen_penalty=penalty, regressor={"feature_weight": 0})
        names = clf.fit(*X_y).predict(X)
        H[penalty] = harmonic_mean(
            mean_per_class_accuracy(y[~unseen], names[~unseen]),
            mean_per_class_accuracy(y[unseen], names[unseen]),
        )
    assert H["auto"] > H[0.0] + 0.2


def test_the_automatic_penalty_says_what_it_needs(data, X_y, table):
    X, y = X_y
    three = np.isin(y, data.class_names[data.seen_classes][:3])
    with pytest.raises(ValueError, match="at least 4 in y, got 3"):
        quick(table, seen_penalty="auto").fit(X[three], y[three])
    with pytest.raises(ValueError, match="needs class_attributes"):
        quick(seen_penalty="auto").fit(X, y)
    single = np.unique(y, return_index=True)[1]
    with pytest.raises(ValueError, match="at least 2 samples"):
        quick(table, seen_penalty="auto", regressor={"classification_weight": 0}).fit(
            X[single], y[single]
        )


def test_scores_and_the_report_agree_with_predict(data, X_y, table):
    clf = quick(table, seen_penalty=0.3).fit(*X_y)
    rows = np.concatenate([data.test_seen, data.test_unseen])
    X, y = data.X[rows].astype(np.float32), data.y[rows]
    seen = np.isin(clf.candidates_, clf.seen_classes_)
    column = [clf.candidates_.tolist().index(name) for name in y]
    scores = clf.decision_function(X) + np.where(seen, np.float32(0.3), 0)
    report = gzsl_report(column, scores, seen, penalty=0.3)
    assert report.H == pytest.approx(gzsl_scorer(clf, X, y), abs=0.02)


# ---- tomorrow's classes ------------------------------------------------------


def test_a_class_written_down_today(data, X_y, table):
    seen_table = table.loc[data.class_names[data.seen_classes]]
    new_table = table.loc[data.class_names[data.unseen_classes]]
    X = data.X[data.test_unseen].astype(np.float32)
    clf = quick(seen_table).fit(*X_y)
    before = clf.predict(X)
    more = clf.with_classes(new_table)
    assert more.classes_.tolist() == sorted(table.index)
    whole = quick(table).fit(*X_y)
    np.testing.assert_array_equal(more.predict(X), whole.predict(X))
    # The old one is as it was, and the copy's parameters fit again to the same.
    np.testing.assert_array_equal(clf.predict(X), before)
    assert len(clf.candidates_) == 20
    np.testing.assert_array_equal(clone(more).fit(*X_y).predict(X), more.predict(X))
    assert more.regressor_.coefs_[0] is clf.regressor_.coefs_[0]


def test_new_classes_join_the_candidates(data, X_y, table):
    seen = list(data.class_names[data.seen_classes])
    unseen = list(data.class_names[data.unseen_classes])
    for candidates, wanted in [
        ("all", {*seen, *unseen}),
        ("unseen", set(unseen)),
        ("seen", set(seen)),
        ([seen[0], unseen[0]], {seen[0], *unseen}),
    ]:
        clf = quick(table.loc[[*seen, unseen[0]]], candidates=candidates).fit(*X_y)
        more = clf.with_classes(table.loc[unseen[1:]])
        assert set(more.candidates_) == wanted


def test_new_classes_in_another_form_than_the_table(data, X_y, table):
    seen = table.loc[data.class_names[data.seen_classes]]
    unseen = table.loc[data.class_names[data.unseen_classes]]
    X = data.X[data.test_unseen].astype(np.float32)
    clf = quick(seen).fit(*X_y)
    wanted = clf.with_classes(unseen).predict(X)
    pair = clf.with_classes((unseen.index, unseen.to_numpy()))
    np.testing.assert_array_equal(pair.predict(X), wanted)
    columns = clf.with_classes(unseen[unseen.columns[::-1]])
    np.testing.assert_array_equal(columns.predict(X), wanted)
    for first in unseen.index:  # one at a time
        clf = clf.with_classes(unseen.loc[[first]])
    np.testing.assert_array_equal(clf.predict(X), wanted)


def test_bad_new_classes_are_refused_in_a_sentence(X_y, table, fitted):
    with pytest.raises(ValueError, match="known already"):
        fitted.with_classes(table.iloc[:1])
    with pytest.raises(ValueError, match="3 attributes, those of fit 20"):
        fitted.with_classes((["new"], [[1.0, 2.0, 3.0]]))
    with pytest.raises(ValueError, match="missing or infinite"):
        fitted.with_classes((["new"], [[np.nan] * 20]))
    renamed = table.rename(columns={"attribute 0": "colour"}).iloc[:1]
    with pytest.raises(ValueError, match="unknown: .*colour"):
        fitted.with_classes(renamed.rename(index={renamed.index[0]: "new"}))
    with pytest.raises(ValueError, match="mixes strings"):
        fitted.with_classes(([7], [[1.0] * 20]))


# ---- company -----------------------------------------------------------------


def test_in_a_pipeline_and_a_grid_search(X_y, table):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), quick(table)),
        {"zeroshotclassifier__regressor__loss": ["mse", "remse"]},
        cv=ClassKFold(3),
        scoring=zero_shot_scorer,
    ).fit(*X_y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > 0.5  # chance: 0.15
    assert search.predict(X_y[0]).shape == X_y[1].shape


def test_callbacks_reach_the_regressor(X_y, table, capsys):
    monitor = ScoringMonitor(scoring="r2")
    regressor = ReZSLRegressor((8,), max_iter=3, random_state=0)
    regressor.set_callbacks(monitor)
    clf = ZeroShotClassifier(regressor, class_attributes=table)
    clf.set_callbacks(ProgressBar())
    clf.fit(*X_y)
    log = monitor.get_logs().data
    assert sum(row["task_name"] == "epoch" for row in log) == 3
    assert "ZeroShotClassifier" in capsys.readouterr().out


def test_pickle_round_trip(data, X_y, fitted):
    X = data.X[data.test_unseen].astype(np.float32)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(
        again.decision_function(X), fitted.decision_function(X)
    )


def test_fit_leaves_its_parameters_alone(X_y, table):
    regressor = ReZSLRegressor((8,), max_iter=2, random_state=0)
    given = table.copy()
    clf = ZeroShotClassifier(regressor, class_attributes=given).fit(*X_y)
    assert clf.regressor is regressor and not hasattr(regressor, "coefs_")
    pd.testing.assert_frame_equal(given, table)


def test_predicts_in_blocks(data, fitted, monkeypatch):
    X = data.X[data.test_unseen].astype(np.float32)
    wanted = fitted.predict(X)
    monkeypatch.setattr("rezsl_sk.decoding.SCORE_ROWS", 7)
    np.testing.assert_array_equal(fitted.predict(X), wanted)


def test_regions_of_other_features_are_a_sentence():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4, 6)), np.repeat(np.arange(8), 5)
    table = (np.arange(8), rng.random((8, 3)))
    clf = ZeroShotClassifier(AttentionRegressor(random_state=0, max_iter=1), table)
    clf.fit(X, y)
    with pytest.raises(ValueError, match="fitted on 4 of 6"):
        clf.predict(X[:, :, :3])


def test_new_classes_with_numbered_columns_go_by_position(data):
    seen, new = data.seen_classes, data.unseen_classes
    table = pd.DataFrame(data.attributes[seen], index=data.class_names[seen])
    more = pd.DataFrame(data.attributes[new], index=data.class_names[new])
    table = table.add_prefix("is ")
    clf = ZeroShotClassifier(ReZSLRegressor((), max_iter=1, random_state=0), table)
    clf.fit(data.X[data.trainval], data.y[data.trainval])
    longer = clf.with_classes(more)
    np.testing.assert_array_equal(longer.class_attributes_[-len(new) :], more)
    np.testing.assert_array_equal(
        longer.class_attributes.attributes, longer.class_attributes_
    )


@pytest.mark.parametrize("watched", [False, True])
def test_attributes_of_rows_are_for_callbacks_alone(X_y, table, monkeypatch, watched):
    """For an array of n rows they would take n x a, however large the table's a."""
    shown, fit = [], ReZSLRegressor._fit

    def spy(self, X, S, *rest, **options):
        shown.append(S)
        return fit(self, X, S, *rest, **options)

    monkeypatch.setattr(ReZSLRegressor, "_fit", spy)
    clf = quick(table, regressor={"max_iter": 1})
    if watched:
        clf.regressor.set_callbacks(ScoringMonitor(scoring="r2"))
    clf.fit(*X_y)
    (S,) = shown
    if watched:
        np.testing.assert_array_equal(S, table.loc[X_y[1]])
    else:
        assert S is None
    assert clf.regressor_.predict(X_y[0]).shape == (len(X_y[0]), table.shape[1])


def test_a_table_beyond_the_precision_of_X_is_refused(X_y, table):
    with pytest.raises(ValueError, match="beyond the range of float32"):
        quick(table * 1e200).fit(*X_y)


@pytest.mark.parametrize("make", [ReZSLRegressor, AttentionRegressor])
@pytest.mark.parametrize(
    "parameters", [{"batch_size": 0}, {"feature_weight": 2}, {"loss": "MSE"}]
)
def test_parameters_of_the_regressor_are_checked(make, parameters):
    X = np.random.default_rng(0).normal(size=(12, 2, 3))
    X = X if make is AttentionRegressor else X[:, 0]
    clf = ZeroShotClassifier(make(**parameters))
    name = next(iter(parameters))
    with pytest.raises(ValueError, match=f"The '{name}' parameter of {make.__name__}"):
        clf.fit(X, np.arange(12) % 3)


@pytest.mark.filterwarnings("ignore:1 sets of classes have equal attributes")
@pytest.mark.parametrize("make", [ReZSLRegressor, AttentionRegressor])
def test_classes_held_out_may_be_those_that_differ(make):
    X = np.random.default_rng(0).normal(size=(60, 2, 3))
    X = X if make is AttentionRegressor else X[:, 0]
    y, table = np.arange(60) % 6, np.zeros((6, 2))
    table[3] = 1
    said = set()
    for seed in range(12):
        regressor = make(early_stopping=True, max_iter=1, random_state=seed)
        clf = ZeroShotClassifier(regressor, (np.arange(6), table))
        try:
            clf.fit(X, y)
        except ValueError as error:
            said.add(str(error)[:33])
        else:
            said.add("fitted")
    assert said == {"fitted", "no class can be told from another"}
