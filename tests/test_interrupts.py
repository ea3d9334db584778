"""Ctrl-C: the user's own fit keeps its model, a nested fit ends the whole."""

import signal

import joblib
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingRegressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from rezsl_sk import (
    AttentionRegressor,
    ReZSLRegressor,
    ReZSLSearchCV,
    ZeroShotClassifier,
    _search,
    _training,
)
from rezsl_sk.baselines import ALE, DEM
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer

EPOCHS = 6


def regressor(**parameters):
    return ReZSLRegressor(
        (4,), max_iter=EPOCHS, random_state=0, feature_weight=0, **parameters
    )


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(8, 2, samples_per_class=6, n_features=5, random_state=0)


@pytest.fixture(scope="module")
def X_S(data):
    rows = data.trainval
    return data.X[rows], data.attributes[data.labels[rows]]


@pytest.fixture(scope="module")
def X_y(data):
    return data.X[data.trainval], data.y[data.trainval]


@pytest.fixture
def table(data):
    return data.class_names, data.attributes


@pytest.fixture
def press(monkeypatch):
    """Press Ctrl-C within the n-th epoch from now; the list grows with each epoch."""
    # A shell's background jobs start with the signal ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    run_epoch, begun = _training.run_epoch, []

    def press(nth):
        def run(*args):
            begun.append(len(begun))
            if len(begun) == nth:
                signal.raise_signal(signal.SIGINT)
            return run_epoch(*args)

        for module in (_training, _search):
            monkeypatch.setattr(module, "run_epoch", run)
        return begun

    yield press
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(
    "estimator",
    [
        regressor(),
        regressor(loss="mae"),
        AttentionRegressor(max_iter=EPOCHS, random_state=0),
        make_pipeline(StandardScaler(), regressor()),
    ],
    ids=["fused", "autograd", "attention", "pipeline"],
)
def test_an_own_fit_keeps_the_model(estimator, X_S, press):
    begun = press(3)
    with pytest.warns(UserWarning, match="interrupted by the user in epoch 3; the mod"):
        estimator.fit(*X_S)
    final = estimator[-1] if hasattr(estimator, "steps") else estimator
    assert len(begun) == 3 and final.n_iter_ == 2
    assert np.isfinite(estimator.predict(X_S[0])).all()


def test_an_own_partial_fit_keeps_the_model(X_S, press):
    reg = regressor().partial_fit(*X_S)
    press(1)
    with pytest.warns(UserWarning, match="interrupted by the user"):
        reg.partial_fit(*X_S)
    assert np.isfinite(reg.predict(X_S[0])).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda table: ZeroShotClassifier(regressor(), table),
        lambda table: ALE(table, max_iter=EPOCHS, random_state=0),
        lambda table: DEM(table, hidden_layer_sizes=(4,), max_iter=EPOCHS),
    ],
    ids=["regressor", "ale", "dem"],
)
def test_an_own_fit_of_a_classifier_keeps_the_model(make, table, X_y, press):
    clf, begun = make(table), press(3)
    with pytest.warns(UserWarning, match="interrupted by the user in epoch 3"):
        clf.fit(*X_y)
    assert len(begun) == 3
    assert set(clf.predict(X_y[0])) <= set(table[0])


AUTO = {"seen_penalty": "auto"}


@pytest.mark.parametrize(
    "make",
    [
        lambda table: ZeroShotClassifier(regressor(), table, **AUTO),
        lambda table: ALE(table, max_iter=EPOCHS, random_state=0, **AUTO),
    ],
    ids=["regressor", "ale"],
)
def test_a_fit_that_chooses_the_seen_penalty_is_nested(make, table, X_y, press):
    clf, begun = make(table), press(EPOCHS + 2)  # in the second of four folds
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*X_y)
    assert len(begun) == EPOCHS + 2
    with pytest.raises(Exception, match="not fitted"):
        check_is_fitted(clf)
    # The last fit is the user's own again.
    press(len(begun) + 4 * EPOCHS + 2)
    with pytest.warns(UserWarning, match="interrupted by the user in epoch 2"):
        clf.fit(*X_y)
    assert np.isfinite(clf.seen_penalty_)


GRID = {"class_power": [0, 1]}


@pytest.mark.parametrize(
    "make",
    [
        lambda: GridSearchCV(regressor(), GRID, cv=3, scoring=zero_shot_scorer),
        lambda: GridSearchCV(
            make_pipeline(StandardScaler(), regressor()),
            {"rezslregressor__class_power": [0, 1]},
            cv=ClassKFold(3),
        ),
        lambda: ReZSLSearchCV(regressor(), GRID, cv=3),
        lambda: ReZSLSearchCV(regressor(loss="mae"), GRID, cv=3),
        lambda: BaggingRegressor(regressor(), 3),
    ],
    ids=["grid", "grid of pipelines", "side by side", "one by one", "bagging"],
)
def test_a_search_ends_and_has_no_scores(make, X_S, press):
    search, begun = make(), press(3)
    with pytest.raises(KeyboardInterrupt):
        search.fit(*X_S)
    assert len(begun) == 3
    assert not hasattr(search, "cv_results_")


def test_cross_validation_and_refit_end(X_S, press):
    begun = press(3)
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(regressor(), *X_S, cv=3)
    assert len(begun) == 3
    # 2 candidates x 2 folds, and then the best one on everything
    begun = press(len(begun) + 4 * EPOCHS + 2)
    with pytest.raises(KeyboardInterrupt):
        GridSearchCV(regressor(), GRID, cv=2).fit(*X_S)


def test_a_calibrated_classifier_ends(X_y, press):
    begun = press(3)
    with pytest.raises(KeyboardInterrupt):
        CalibratedClassifierCV(ZeroShotClassifier(regressor()), cv=2).fit(*X_y)
    assert len(begun) == 3


def test_the_jobs_of_joblib_end(X_S, press):
    begun = press(3)
    with pytest.raises(KeyboardInterrupt):
        joblib.Parallel()(joblib.delayed(regressor().fit)(*X_S) for _ in range(2))
    assert len(begun) == 3


def test_what_was_fitted_before_stays_in_a_nested_fit(X_S, press):
    reg = regressor().fit(*X_S)
    before = reg.predict(X_S[0])
    press(2)
    with pytest.raises(KeyboardInterrupt):
        joblib.Parallel()([joblib.delayed(reg.fit)(*X_S)])
    np.testing.assert_array_equal(reg.predict(X_S[0]), before)
