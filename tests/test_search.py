"""The search that trains candidates side by side, against scikit-learn's."""

import contextlib
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, RandomizedSearchCV

from rezsl_sk import ReZSLRegressor, ReZSLSearchCV, ZeroShotClassifier
from rezsl_sk import _search as search_module
from rezsl_sk._feature_side import FeatureSide
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.feature_cache import FeatureCache, write_cache
from rezsl_sk.model_selection import (
    ClassKFold,
    GZSLKFold,
    gzsl_scorer,
    zero_shot_scorer,
)


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(random_state=0)


@pytest.fixture(scope="module")
def X_S(data):
    rows = data.trainval
    # float64, so that rounding cannot flip an answer
    return data.X[rows].astype(np.float64), data.attributes[data.labels[rows]]


def quick(**params):
    return ReZSLRegressor(
        **{"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 0, **params}
    )


def same_results(ours, theirs, metrics=("score",)):
    assert ours["params"] == theirs["params"]
    assert set(ours) == set(theirs)
    for key in theirs:
        if any(key.endswith(metric) for metric in metrics) or key.startswith("rank"):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-9, err_msg=key)


GRID = [
    {
        "learning_rate_init": [1e-3, 1e-2],
        "dropout": [0.0, 0.5],
        "class_power": [0.0, 1.0],
        "feature_weight": [0.0, 0.67],
    },
    {"loss": ["mse", "mae"], "hidden_layer_sizes": [(), (8,)]},
    {"statistics": ["running"], "scale": [5.0, 20.0]},
    {"classification_weight": [0.0, 0.3], "weight_decay": [1e-4, 1e-2]},
    {"random_state": [1, 2], "early_stopping": [True, False]},
]


FAILING = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.FitFailedWarning",
    "ignore:One or more of the test scores",
)


@pytest.fixture(scope="module")
def grid_search(X_S):
    cv, scorer = ClassKFold(2), zero_shot_scorer
    search = GridSearchCV(quick(), GRID, cv=cv, scoring=scorer, return_train_score=True)
    return search.fit(*X_S)


@pytest.mark.parametrize("together", ["many", "few"])
def test_a_grid_has_the_results_of_grid_search(X_S, grid_search, together, monkeypatch):
    if together == "few":
        monkeypatch.setattr(search_module, "CPU_BYTES", 1)
    ours = ReZSLSearchCV(quick(), GRID, cv=2, return_train_score=True).fit(*X_S)
    same_results(ours.cv_results_, grid_search.cv_results_)
    assert ours.best_params_ == grid_search.best_params_
    assert ours.best_score_ == pytest.approx(grid_search.best_score_)
    assert ours.best_index_ == grid_search.best_index_
    np.testing.assert_array_equal(ours.predict(X_S[0]), grid_search.predict(X_S[0]))


def test_candidates_of_equal_shape_are_one_program(X_S, monkeypatch):
    calls = []
    new_heads = search_module._new_heads

    def counted(regressors, device):
        calls.append(len(regressors))
        return new_heads(regressors, device)

    monkeypatch.setattr(search_module, "_new_heads", counted)
    grid = {"learning_rate_init": [1e-3, 1e-2, 3e-2], "feature_weight": [0.0, 0.5]}
    ReZSLSearchCV(quick(), grid, cv=2, refit=False).fit(*X_S)
    assert calls == [3, 3]  # a fold each; feature_weight is no other head
    calls.clear()
    monkeypatch.setattr(search_module, "heads_together", lambda *args: 2)
    ReZSLSearchCV(quick(), grid, cv=2, refit=False).fit(*X_S)
    assert calls == [1] * 6  # those of one head are of one part


@FAILING
@pytest.mark.parametrize("failing", [None, -1.0, 1e30])  # at once, in training
def test_a_fold_has_one_feature_side(X_S, failing, monkeypatch):
    from rezsl_sk import _regressor

    calls = []

    class Counted(_regressor.FeatureSide):
        def fit(self, *args):
            calls.append(1)
            return super().fit(*args)

    monkeypatch.setattr(_regressor, "FeatureSide", Counted)
    rates = [1e-3, 1e-2]
    if failing is not None:
        monkeypatch.setattr(search_module, "CPU_BYTES", 1)  # each trained alone
        rates.insert(0, failing)
    grid = {"learning_rate_init": rates, "hidden_layer_sizes": [(), (8,)]}
    search = ReZSLSearchCV(quick(), grid, cv=3, refit=False).fit(*X_S)
    assert np.isnan(search.cv_results_["mean_test_score"]).any() == bool(failing)
    assert len(calls) == 3


def test_candidates_of_a_fold_ask_its_feature_side_once(X_S, monkeypatch):
    asked = []
    answer = FeatureSide.similarities

    def counted(side, X, V):
        asked.append(len(X))
        return answer(side, X, V)

    monkeypatch.setattr(FeatureSide, "similarities", counted)
    cv = list(ClassKFold(3).split(*X_S))
    grid = {"learning_rate_init": [1e-3, 1e-2], "hidden_layer_sizes": [(), (8,)]}
    ReZSLSearchCV(quick(), grid, cv=cv, refit=False).fit(*X_S)
    assert asked == [len(test) for _, test in cv]


def test_a_feature_side_keeps_some_of_its_answers(monkeypatch):
    asked = []

    class Side:
        spread, weights = 1.0, None

        def similarities(self, X, V):
            asked.append(X.item())
            return np.full((1, 2), X.item())

    monkeypatch.setattr(search_module, "ANSWER_BYTES", 3 * 2 * 8)
    side = search_module._Remembering(Side())
    questions = [0, 1, 2, 3, 4, 2, 4, 0, 3]
    answers = [side.similarities(np.array([x]), None)[0, 0] for x in questions]
    assert answers == questions
    assert asked == [0, 1, 2, 3, 4, 4, 3]


@FAILING
@pytest.mark.parametrize("cv, n_jobs", [(3, 2), (2, 3)])
def test_processes_give_what_one_gives(X_S, cv, n_jobs):
    rates = [-1.0, 1e-3, 1e-2]
    grid = {"learning_rate_init": rates, "hidden_layer_sizes": [(), (8,)]}
    one, many = (
        ReZSLSearchCV(quick(), grid, cv=cv, n_jobs=n, refit=False).fit(*X_S)
        for n in (1, n_jobs)
    )
    same_results(many.cv_results_, one.cv_results_)


def test_a_classifier_and_its_penalty(data):
    X, y = data.X[data.trainval].astype(np.float64), data.y[data.trainval]
    clf = ZeroShotClassifier(
        quick(), class_attributes=(data.class_names, data.attributes)
    )
    grid = {"regressor__scale": [5.0, 20.0], "seen_penalty": [0.0, 0.2, "auto"]}
    options = {"cv": GZSLKFold(2), "scoring": gzsl_scorer}
    ours = ReZSLSearchCV(clf, grid, **options).fit(X, y)
    theirs = GridSearchCV(clf, grid, **options).fit(X, y)
    same_results(ours.cv_results_, theirs.cv_results_)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)


def test_many_metrics_and_a_callable_refit(X_S):
    options = {
        "scoring": {"T1": zero_shot_scorer, "r2": "r2"},
        "refit": lambda results: int(np.argmin(results["mean_test_r2"])),
    }
    grid = {"learning_rate_init": [1e-4, 1e-2]}
    ours = ReZSLSearchCV(quick(), grid, cv=2, **options).fit(*X_S)
    theirs = GridSearchCV(quick(), grid, cv=ClassKFold(2), **options).fit(*X_S)
    same_results(ours.cv_results_, theirs.cv_results_, ("T1", "r2"))
    assert ours.best_index_ == theirs.best_index_
    assert set(ours.scorer_) == {"T1", "r2"}


def test_random_candidates_are_those_of_randomized_search(X_S):
    distributions = {"learning_rate_init": loguniform(1e-4, 1e-2)}
    ours = ReZSLSearchCV(quick(), distributions, n_iter=3, cv=2, random_state=5)
    theirs = RandomizedSearchCV(
        quick(),
        distributions,
        n_iter=3,
        cv=ClassKFold(2),
        random_state=5,
        scoring=zero_shot_scorer,
    )
    same_results(ours.fit(*X_S).cv_results_, theirs.fit(*X_S).cv_results_)


@contextlib.contextmanager
def failed_fits(number):
    """scikit-learn warns of failed fits, and of the scores that they leave."""
    with (
        pytest.warns(FitFailedWarning, match=f"{number} fits failed"),
        pytest.warns(UserWarning, match="test scores are non-finite"),
    ):
        yield


def test_a_candidate_that_fails_does_not_disturb_its_neighbours(X_S):
    grid = {"learning_rate_init": [1e-2, 1e30], "learning_rate": ["constant"]}
    estimator = quick(solver="sgd")
    with failed_fits(2):
        ours = ReZSLSearchCV(estimator, grid, cv=2).fit(*X_S)
    scores = ours.cv_results_["mean_test_score"]
    assert np.isnan(scores[1])
    alone = ReZSLSearchCV(
        estimator, {"learning_rate_init": [1e-2], "learning_rate": ["constant"]}, cv=2
    ).fit(*X_S)
    assert scores[0] == pytest.approx(alone.best_score_)
    with pytest.raises(ValueError, match="Training diverged"):
        ReZSLSearchCV(estimator, grid, cv=2, error_score="raise").fit(*X_S)


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate_init": -1.0},
        {"regression_weight": 0.0, "classification_weight": 0.0},
        {"dropout": "much"},
    ],
)
def test_a_parameter_out_of_range_fails_alone(X_S, bad):
    grid = [{"scale": [5.0]}, {name: [value] for name, value in bad.items()}]
    with failed_fits(2):
        ours = ReZSLSearchCV(quick(), grid, cv=2).fit(*X_S)
    assert np.isfinite(ours.cv_results_["mean_test_score"]).tolist() == [True, False]


@pytest.mark.parametrize("most", [1, 2])
def test_where_memory_does_not_suffice_fewer_are_trained_at_once(
    X_S, most, monkeypatch
):
    grid = {"class_power": [0.0, 0.5, 1.0, 2.0, 3.0]}
    expected = ReZSLSearchCV(quick(), grid, cv=2, refit=False).fit(*X_S)
    run_epoch, sizes = search_module.run_epoch, []

    def run(trainee, *args):
        sizes.append(trainee.heads.n_heads)
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return run_epoch(trainee, *args)

    monkeypatch.setattr(search_module, "run_epoch", run)
    found = ReZSLSearchCV(quick(), grid, cv=2, refit=False).fit(*X_S)
    assert max(sizes) == 5 and most in sizes
    same_results(found.cv_results_, expected.cv_results_)


def test_memory_that_does_not_suffice_for_one_is_a_sentence(X_S, monkeypatch):
    def run(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(search_module, "run_epoch", run)
    grid = {"class_power": [0.0, 1.0]}
    with pytest.raises(MemoryError, match="of cpu does not suffice.*lower batch_size"):
        ReZSLSearchCV(quick(), grid, cv=2, error_score="raise").fit(*X_S)


def test_bad_data_is_a_sentence(X_S):
    X, S = X_S[0].copy(), X_S[1]
    X[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        ReZSLSearchCV(quick(), {"scale": [5.0, 9.0]}, cv=2, error_score="raise").fit(
            X, S
        )


def test_other_estimators_are_sent_to_grid_search(X_S):
    with pytest.raises(TypeError, match="Use scikit-learn's GridSearchCV"):
        ReZSLSearchCV(Ridge(), {"alpha": [1.0]}).fit(*X_S)


def test_verbose_counts_the_fits(X_S, capsys):
    grid = {"hidden_layer_sizes": [(), (4,)]}
    ReZSLSearchCV(quick(), grid, cv=2, verbose=1, refit=False).fit(*X_S)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("totalling 4 fits")
    assert lines[-1] == "4 of 4 fits done"


def test_it_is_an_estimator_like_grid_search(X_S, data):
    grid = {"scale": [5.0, 20.0]}
    ours = clone(ReZSLSearchCV(quick(), grid, cv=2))
    assert "param_grid={'scale': [5.0, 20.0]}" in repr(ours)
    ours = pickle.loads(pickle.dumps(ours.fit(*X_S)))
    theirs = GridSearchCV(
        quick(), grid, cv=ClassKFold(2), scoring=zero_shot_scorer
    ).fit(*X_S)
    assert ours.score(*X_S) == pytest.approx(theirs.score(*X_S))
    assert ours.n_features_in_ == data.X.shape[1]
    attributes = data.attributes[data.unseen_classes]
    names = ours.best_estimator_.predict(X_S[0], prototypes=attributes)
    expected = theirs.best_estimator_.predict(X_S[0], prototypes=attributes)
    np.testing.assert_array_equal(names, expected)


def test_folds_may_follow_groups(X_S):
    X, S = X_S
    groups = np.arange(len(X)) % 4
    splits = list(GroupKFold(2).split(X, S, groups))
    grid = {"scale": [5.0]}
    by_groups = ReZSLSearchCV(quick(), grid, cv=GroupKFold(2), scoring="r2")
    by_splits = ReZSLSearchCV(quick(), grid, cv=splits, scoring="r2")
    same_results(
        by_groups.fit(X, S, groups=groups).cv_results_,
        by_splits.fit(X, S).cv_results_,
    )


def test_candidates_with_other_tables_are_other_data(data):
    X, y = data.X[data.trainval].astype(np.float64), data.y[data.trainval]
    table = pd.DataFrame(data.attributes, index=data.class_names)
    other = pd.DataFrame(
        np.random.default_rng(0).random(table.shape), index=table.index
    )
    clf = ZeroShotClassifier(quick(), table)
    grid = {"class_attributes": [table, other, table.iloc[:, :7], table]}
    ours = ReZSLSearchCV(clf, grid, cv=2, refit=False).fit(X, y).cv_results_
    theirs = GridSearchCV(
        clf, grid, cv=ClassKFold(2), scoring=zero_shot_scorer, refit=False
    ).fit(X, y)
    np.testing.assert_allclose(
        ours["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-9
    )
    assert len(set(ours["mean_test_score"])) == 3


@pytest.mark.parametrize(
    "grid",
    [
        {"hidden_layer_sizes": [(4,), "abc", 5, (0,)]},
        {"batch_size": [16, "x", 0]},
        {"device": ["cpu", "foo"]},
    ],
)
def test_sizes_out_of_range_fail_alone(X_S, grid):
    (values,) = grid.values()
    with failed_fits(2 * (len(values) - 1)):
        ours = ReZSLSearchCV(quick(), grid, cv=2, refit=False).fit(*X_S)
    finite = np.isfinite(ours.cv_results_["mean_test_score"])
    assert finite.tolist() == [True] + [False] * (len(values) - 1)


def test_an_empty_grid_is_a_sentence(X_S):
    with pytest.raises(ValueError, match="nothing to try"):
        ReZSLSearchCV(quick(), [], cv=2).fit(*X_S)


def test_products_in_bfloat16_side_by_side(X_S):
    options = {"refit": False, "cv": 3}
    grid = {"learning_rate_init": [1e-3, 1e-2], "scale": [5.0, 10.0]}
    scores = [
        ReZSLSearchCV(
            quick(matmul_precision=precision, feature_weight=0), grid, **options
        )
        .fit(*X_S)
        .cv_results_["mean_test_score"]
        for precision in ("full", "bfloat16")
    ]
    np.testing.assert_allclose(*scores, atol=0.03)
    assert not np.array_equal(*scores)


class Stopper:
    """Stops a fit after so many epochs."""

    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context, **data): ...
    def on_fit_task_end(self, estimator, context, **data):
        return True


def test_a_watched_candidate_is_fitted_alone(X_S):
    model = quick(feature_weight=0, max_iter=30).set_callbacks(Stopper())
    grid = {"learning_rate_init": [1e-3, 1e-2]}
    ours = ReZSLSearchCV(model, grid, cv=3).fit(*X_S)
    theirs = GridSearchCV(model, grid, cv=ClassKFold(3), scoring=zero_shot_scorer)
    same_results(ours.cv_results_, theirs.fit(*X_S).cv_results_)
    assert ours.best_estimator_.n_iter_ == 1


def test_callbacks_of_the_search_are_told_of_every_fit(X_S):
    class Count(Stopper):
        def on_fit_task_end(self, estimator, context, **data):
            tasks.append(context.task_name)

    tasks = []
    search = ReZSLSearchCV(quick(), {"scale": [5.0, 10.0]}, cv=3)
    search.set_callbacks(Count()).fit(*X_S)
    assert tasks.count("candidate and fold") == 6
    assert tasks.count("refit-with-best-params") == 1


def test_a_subclass_keeps_its_own_fit(data):
    class Reversed(ZeroShotClassifier):
        def fit(self, X, y):
            return super().fit(X[:, ::-1] ** 2, y)

    X, y = data.X[data.trainval].astype(np.float64), data.y[data.trainval]
    model = Reversed(quick(), (data.class_names, data.attributes))
    grid = {"regressor__scale": [5.0, 20.0]}
    ours = ReZSLSearchCV(model, grid, cv=3).fit(X, y)
    theirs = GridSearchCV(model, grid, cv=ClassKFold(3), scoring=zero_shot_scorer)
    same_results(ours.cv_results_, theirs.fit(X, y).cv_results_)


@pytest.mark.parametrize(
    "grid",
    [
        {"seen_penalty": [0.0, np.inf]},
        {"candidates": ["all", ["typo"]]},
        {"regressor": [None, "x"]},
        {"regressor__hidden_layer_sizes": [(8,), [[8]]]},
    ],
)
def test_a_classifier_that_fails_fails_alone(data, grid):
    X, y = data.X[data.trainval], data.y[data.trainval]
    model = ZeroShotClassifier(quick(), (data.class_names, data.attributes))
    with failed_fits(3):
        search = ReZSLSearchCV(model, grid, cv=3, refit=False).fit(X, y)
    failed = np.isnan(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(failed, [False, True])


@pytest.mark.parametrize(
    "search, times",
    [
        (lambda clf: ReZSLSearchCV(clf, {"regressor__scale": [5.0, 9.0]}, cv=2), 1),
        (lambda clf: ReZSLSearchCV(clf, {"regressor__loss": ["mae"]}, cv=2), 1),
        (
            lambda clf: GridSearchCV(
                clf,
                {"regressor__scale": [5.0]},
                cv=ClassKFold(2),
                scoring=zero_shot_scorer,
            ),
            3,
        ),
    ],
    ids=["side by side", "one by one", "scikit-learn's"],
)
def test_equal_classes_are_told_to_who_called_the_search(data, search, times):
    table = pd.DataFrame(data.attributes, index=data.class_names)
    first, second = data.class_names[data.unseen_classes][:2]
    table.loc[second] = table.loc[first]
    rows = data.trainval
    search = search(ZeroShotClassifier(quick(), table))
    with pytest.warns(UserWarning, match="have equal attributes") as caught:
        search.fit(data.X[rows], data.y[rows])
    assert [warning.filename for warning in caught] == [__file__] * times


def test_a_feature_cache_is_searched_as_its_features_are(data, tmp_path):
    names = np.array([f"class {c}" for c in range(len(data.attributes))])
    X, labels = data.X[data.trainval].astype(np.float32), data.labels[data.trainval]
    path = tmp_path / "cache.h5"
    write_cache(
        path,
        [X],
        paths=np.arange(len(X)).astype(str),
        y=names[labels],
        class_attributes=(names, data.attributes),
    )
    S = data.attributes[labels]
    searches = [
        ReZSLSearchCV(quick(), {"scale": [5.0, 10.0]}, cv=2).fit(given, S)
        for given in (FeatureCache(path), X)
    ]
    same_results(*(search.cv_results_ for search in searches))
    for given in (FeatureCache(path), X):
        np.testing.assert_array_equal(
            searches[0].predict(given), searches[1].predict(given)
        )
