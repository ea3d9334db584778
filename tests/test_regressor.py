"""ReZSLRegressor: contract, mathematics, persistence, bad input."""

import pickle
import signal
import threading
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from rezsl_sk import ReZSLRegressor
from rezsl_sk._training import Trainee
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.losses import ReMSELoss
from rezsl_sk.metrics import imbalance_report, mean_per_class_accuracy
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer
from rezsl_sk.tables import ClassTable

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(
        12, 4, samples_per_class=20, n_features=16, n_attributes=8, random_state=0
    )


@pytest.fixture(scope="module")
def X_S(data):
    rows = data.trainval
    return data.X[rows].astype(np.float32), data.attributes[data.labels[rows]]


def quick(**parameters):
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
    return ReZSLRegressor(**{**defaults, **parameters})


# ---- the contract ------------------------------------------------------------


@parametrize_with_checks(
    [
        ReZSLRegressor(),
        ReZSLRegressor((), statistics="running", max_iter=10),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_weights_of_each_epoch_are_recorded(X_S, device, statistics, monkeypatch):
    X, S = X_S[0], X_S[1].copy()
    S[:, 2] = 1.0  # carries no signal
    total, rows = [], []
    gradients = Trainee.gradients

    def recorded(trainee, x, group):
        if statistics == "running":
            terms = gradients(trainee, x, group)
            loss = trainee.objective.loss
        else:
            loss, output = ReMSELoss(normalize_weights=False), trainee.heads(x)[:, 0]
            loss(output, trainee.objective.targets[group], group)
            terms = gradients(trainee, x, group)
        slot = torch.searchsorted(loss.group_, group)
        total.append(loss.weight_[slot].sum(dim=0).cpu().numpy())
        rows.append(len(x))
        return terms

    monkeypatch.setattr(Trainee, "gradients", recorded)
    reg = quick(
        statistics=statistics, normalize_weights=False, device=device, dropout=0.0
    )
    reg.fit(X, S)
    assert reg.weight_curve_.shape == (3, 8)
    assert np.isnan(reg.weight_curve_[:, 2]).all()
    steps = len(rows) // 3
    for epoch, row in enumerate(np.delete(reg.weight_curve_, 2, axis=1)):
        part = slice(epoch * steps, (epoch + 1) * steps)
        np.testing.assert_allclose(row, sum(total[part]) / sum(rows[part]), rtol=1e-4)


def test_weights_are_recorded_over_calls_and_for_remse_only(X_S):
    X, S = X_S
    reg = quick()
    for n_calls in (1, 2):
        reg.partial_fit(X, S)
        assert reg.weight_curve_.shape == (n_calls, 8)
    # Divided by their mean, they have mean 1 over samples and attributes.
    np.testing.assert_allclose(reg.weight_curve_.mean(axis=1), 1, rtol=1e-5)
    assert quick(loss="mse").fit(X, S).weight_curve_.shape == (0, 8)
    assert quick(regression_weight=0).fit(X, S).weight_curve_.shape == (0, 8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_same_seed_same_bits(X_S, dtype, device):
    X, S = X_S[0].astype(dtype), X_S[1]
    state = torch.random.get_rng_state()
    np_state = np.random.get_state()[1].copy()
    one = quick(dropout=0.2, device=device).fit(X, S)
    other = quick(dropout=0.2, device=device).fit(X, S)
    if device == "cpu":
        for a, b in zip(one.coefs_, other.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
    assert one.coefs_[0].dtype == dtype == one.predict(X).dtype
    assert torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_array_equal(np_state, np.random.get_state()[1])


@pytest.mark.parametrize(
    "parameters",
    [
        {"loss": "mse"},
        {"loss": "mae"},
        {"loss": "rmse"},
        {"loss": "bmc"},
        {"statistics": "running"},
        {"normalize_weights": False},
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": (32, 16), "dropout": 0.0},
        {"attribute_scaling": "center"},
        {"attribute_scaling": "l2"},
        {"attribute_scaling": None},
        {"classification_weight": 0},
        {"regression_weight": 0, "classification_weight": 1},
        {"solver": "sgd", "learning_rate_init": 0.01},
        {"learning_rate": "constant"},
        {"sampler": "episodes", "ways": 4, "shots": 3},
        {"batch_size": 7},
        {"early_stopping": True, "n_iter_no_change": 15},
        {"dropout": 0.3},
    ],
    ids=str,
)
def test_every_option_learns_to_name_unseen_classes(data, X_S, parameters):
    reg = quick(**{"hidden_layer_sizes": (32,), "max_iter": 15, **parameters})
    reg.fit(*X_S)
    unseen = data.unseen_classes
    names = reg.predict(
        data.X[data.test_unseen].astype(np.float32),
        prototypes=data.attributes[unseen],
        classes=data.class_names[unseen],
    )
    assert mean_per_class_accuracy(data.y[data.test_unseen], names) > 0.35  # of 0.25


def test_equals_least_squares_when_converged(X_S):
    X, S = X_S[0].astype(np.float64), X_S[1]
    reg = ReZSLRegressor(
        (),
        class_power=0,
        attribute_power=0,
        classification_weight=0,
        feature_scaling=None,
        weight_decay=0,
        max_iter=600,
        batch_size=len(X),
        learning_rate_init=0.03,
        random_state=0,
    ).fit(X, S)
    expected = LinearRegression().fit(X, S).predict(X)
    np.testing.assert_allclose(reg.predict(X), expected, atol=2e-3)


def test_reweighting_evens_out_the_attribute_errors():
    """Through a bottleneck attributes compete; a free linear map has no conflict."""
    data = make_zero_shot(random_state=0)
    rows = data.trainval
    X, S = data.X[rows], data.attributes[data.labels[rows]]
    variation = {}
    for loss in ("mse", "remse"):
        reg = ReZSLRegressor(
            (2,),
            loss=loss,
            class_power=0,
            attribute_power=3,
            classification_weight=0,
            max_iter=60,
            learning_rate_init=1e-2,
            random_state=0,
        ).fit(X, S)
        report = imbalance_report(
            reg._space.transform(S), reg._space.transform(reg.predict(X))
        )
        variation[loss] = report.attribute_variation
    assert variation["remse"] < 0.85 * variation["mse"]


def test_predicts_attributes_in_raw_units(X_S):
    X, S = X_S
    units = np.geomspace(0.01, 1000, S.shape[1])
    plain = quick(max_iter=10).fit(X, S)
    scaled = quick(max_iter=10).fit(X, S * units + 5)
    np.testing.assert_allclose(
        (scaled.predict(X) - 5) / units, plain.predict(X), atol=0.05
    )


def test_classes_are_weighted_alike_in_the_scaling(X_S):
    X, S = X_S
    uneven = np.r_[np.arange(len(X)), np.flatnonzero((S == S[0]).all(axis=1))]
    one, other = quick().fit(X, S), quick().fit(X[uneven], S[uneven])
    np.testing.assert_array_equal(one.attribute_offset_, other.attribute_offset_)
    np.testing.assert_allclose(
        one.attribute_offset_, np.unique(S, axis=0).mean(axis=0), rtol=1e-6
    )


def test_constant_attributes_take_no_part_and_are_predicted(data, X_S):
    X, S = X_S
    wide = np.insert(S, [0, 3], [5.0, -1.0], axis=1)
    reg, plain = quick().fit(X, wide), quick().fit(X, S)
    assert reg.constant_attributes_.tolist() == [0, 4]
    predicted = reg.predict(X)
    assert (predicted[:, 0] == 5).all() and (predicted[:, 4] == -1).all()
    np.testing.assert_array_equal(
        np.delete(predicted, [0, 4], axis=1), plain.predict(X)
    )
    assert np.isnan(reg.error_matrix_[:, [0, 4]]).all()
    # An unseen class differs in a constant attribute: nothing was learnt of it.
    table = np.insert(data.attributes, [0, 3], [[9.0, 7.0]], axis=1)
    np.testing.assert_array_equal(
        reg.predict(X, prototypes=table),
        plain.predict(X, prototypes=data.attributes),
    )


def test_error_matrix_is_the_training_error(X_S):
    X, S = X_S
    reg = quick().fit(X, S)
    report = imbalance_report(
        reg._space.transform(S), reg._space.transform(reg.predict(X))
    )
    np.testing.assert_allclose(reg.error_matrix_, report.error, rtol=1e-3)
    np.testing.assert_array_equal(reg.prototypes_, np.unique(S, axis=0))


def test_decodes_by_cosine_in_the_space_of_training(data, X_S):
    reg = quick(feature_weight=0).fit(*X_S)
    offset, scale = reg.attribute_offset_, reg.attribute_scale_
    predicted = (reg.predict(X_S[0]) - offset) / scale
    table = (data.attributes - offset) / scale
    cosine = predicted @ table.T
    cosine /= np.linalg.norm(predicted, axis=1)[:, None]
    cosine /= np.linalg.norm(table, axis=1)
    np.testing.assert_array_equal(
        reg.predict(X_S[0], prototypes=data.attributes), cosine.argmax(axis=1)
    )


# ---- grouping and the classification term -------------------------------------


def test_continuous_targets_have_no_classification_term():
    rng = np.random.default_rng(0)
    X, S = rng.normal(size=(2, 40, 3))
    reg = quick().fit(X, S)
    assert reg.classification_loss_curve_ == [0, 0, 0]
    assert reg.prototypes_.shape == (0, 3)


def test_a_single_attribute_has_no_classification_term(X_S):
    X, S = X_S
    reg = quick().fit(X, S[:, 0])
    assert reg.classification_loss_curve_ == [0, 0, 0]
    assert reg.predict(X).shape == (len(X),)


def test_a_fitted_model_keeps_no_training_rows(X_S, monkeypatch):
    monkeypatch.setattr("rezsl_sk._feature_side.MOST_RANDOM", 64)  # for speed
    X = np.random.default_rng(0).normal(size=(40000, 16)).astype(np.float32)
    S = X_S[1][np.arange(40000) % len(X_S[1])]
    reg = quick(max_iter=1).fit(X, S)
    assert len(pickle.dumps(reg)) < X.nbytes / 5


# ---- going on ------------------------------------------------------------------


def test_warm_start_goes_on_where_it_stopped(X_S):
    reg = quick(warm_start=True, max_iter=5).fit(*X_S)
    loss = reg.loss_
    assert reg.fit(*X_S).loss_ < loss
    assert len(reg.loss_curve_) == 5


def test_partial_fit_learns_and_keeps_its_optimiser(X_S):
    X, S = X_S
    reg = quick()
    for _ in range(30):
        reg.partial_fit(X, S)
    assert reg.n_iter_ == len(reg.loss_curve_) == 30
    assert reg.loss_curve_[-1] < 0.7 * reg.loss_curve_[0]

    half = quick()
    for _ in range(15):
        half.partial_fit(X, S)
    half = pickle.loads(pickle.dumps(half))
    for _ in range(15):
        half.partial_fit(X, S)
    np.testing.assert_array_equal(half.predict(X), reg.predict(X))


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_partial_fit_meets_new_classes_at_a_frozen_scaling(X_S, statistics):
    X, S = X_S
    first = (S[:, None] == np.unique(S, axis=0)[::2]).all(axis=2).any(axis=1)
    reg = quick(statistics=statistics).partial_fit(X[first], S[first])
    offset, known = reg.attribute_offset_.copy(), reg.prototypes_
    reg.partial_fit(X[~first], S[~first])
    np.testing.assert_array_equal(reg.attribute_offset_, offset)
    np.testing.assert_array_equal(reg.prototypes_[: len(known)], known)
    assert len(reg.prototypes_) == 12
    assert not np.isnan(reg.error_matrix_).any()


def test_partial_fit_takes_the_prototypes_of_classes_to_come(X_S):
    X, S = X_S
    table = np.unique(S, axis=0)
    reg = quick().partial_fit(X[:2], S[:2], prototypes=table)
    whole = quick().fit(X, S)
    np.testing.assert_array_equal(reg.attribute_offset_, whole.attribute_offset_)
    assert reg.classification_loss_curve_[0] > 0


@pytest.mark.parametrize("loss", ["remse", "mse"])
def test_partial_fit_takes_continuous_targets_part_by_part(loss):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 4))
    S = X @ rng.normal(size=(4, 3))
    reg = quick(loss=loss, learning_rate_init=0.02, hidden_layer_sizes=())
    for _ in range(60):
        for part in np.split(np.arange(90), 3):
            reg.partial_fit(X[part], S[part])
    assert reg.prototypes_.shape == (0, 3) and reg.score(X, S) > 0.8


@pytest.mark.parametrize("size", [2.0**-110, 2.0**90])
def test_the_score_has_no_unit(X_S, size):
    """Squares of float32 would be 0 or infinite, and R² wrong or NaN."""
    X, S = X_S
    S = S.astype(np.float32)
    expected = quick().fit(X, S).score(X, S)
    assert quick().fit(X, S * size).score(X, S * size) == pytest.approx(expected)
    predicted = quick().fit(X, S).predict(X).astype(np.float64)
    S = S.astype(np.float64)
    left = np.square(S - predicted).sum(axis=0)
    r2 = 1 - left / np.square(S - S.mean(axis=0)).sum(axis=0)
    assert expected == pytest.approx(r2.mean())


def test_early_stopping_holds_out_classes_and_keeps_the_best(X_S):
    X, S = X_S
    reg = quick(
        early_stopping=True, validation_fraction=0.34, max_iter=30, feature_weight=0
    ).fit(X, S)
    held_out = reg.prototypes_[reg.validation_classes_]
    assert len(held_out) == 4
    trained = np.delete(reg.prototypes_, reg.validation_classes_, axis=0)
    np.testing.assert_allclose(
        reg.attribute_offset_, trained.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    rows = (S[:, None] == held_out).all(axis=2)
    score = mean_per_class_accuracy(
        rows.argmax(axis=1)[rows.any(axis=1)],
        reg.predict(X[rows.any(axis=1)], prototypes=held_out),
    )
    assert score == pytest.approx(max(reg.validation_scores_))
    assert reg.n_iter_ == len(reg.validation_scores_) <= 30


# ---- callbacks and interruption --------------------------------------------------


def test_callbacks_see_every_epoch(X_S):
    monitor = ScoringMonitor(scoring="r2")
    reg = quick(max_iter=4).set_callbacks(monitor).fit(*X_S)
    log = monitor.get_logs().data
    epochs = [row["r2"] for row in log if row["task_name"] == "epoch"]
    assert len(epochs) == 4
    assert epochs[-1] == pytest.approx(reg.score(*X_S), rel=1e-4)


def test_progress_bar_inside_pipeline_and_grid_search(X_S, capsys):
    pipeline = make_pipeline(StandardScaler(), quick())
    search = GridSearchCV(
        pipeline,
        {"rezslregressor__class_power": [0, 1]},
        cv=ClassKFold(2),
        scoring=zero_shot_scorer,
    )
    search.set_callbacks(ProgressBar()).fit(*X_S)
    assert "GridSearchCV" in capsys.readouterr().out


class _StopAfter:
    """A callback that asks for a stop, or presses Ctrl-C, after an epoch."""

    def __init__(self, epoch, interrupt=False):
        self.epoch, self.interrupt = epoch, interrupt

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name != "epoch" or context.task_id != self.epoch:
            return False
        if self.interrupt:
            raise KeyboardInterrupt
        return True


def test_a_callback_can_stop_the_fit(X_S):
    assert quick(max_iter=9).set_callbacks(_StopAfter(1)).fit(*X_S).n_iter_ == 2


def test_ctrl_c_keeps_the_model(X_S):
    reg = quick(max_iter=9).set_callbacks(_StopAfter(1, interrupt=True))
    with pytest.warns(UserWarning, match="interrupted by the user"):
        reg.fit(*X_S)
    assert reg.n_iter_ == 2
    assert np.isfinite(reg.predict(X_S[0])).all()


def test_a_real_sigint_keeps_the_model(X_S):
    # A shell's background jobs start with the signal ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    reg = quick(max_iter=100000)
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    try:
        with pytest.warns(UserWarning, match="interrupted by the user"):
            reg.fit(*X_S)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert 0 < reg.n_iter_ < 100000
    assert np.isfinite(reg.predict(X_S[0])).all()


def test_verbose_prints_a_line_per_epoch(X_S, capsys):
    quick(verbose=True).fit(*X_S)
    assert capsys.readouterr().out.count("epoch ") == 3


# ---- persistence ------------------------------------------------------------------


def test_pickle_and_joblib_round_trips(X_S, tmp_path):
    X, S = X_S
    reg = quick().fit(X, S)
    joblib.dump(reg, tmp_path / "model.joblib")
    for back in (
        pickle.loads(pickle.dumps(reg)),
        joblib.load(tmp_path / "model.joblib"),
    ):
        np.testing.assert_array_equal(back.predict(X), reg.predict(X))


@pytest.mark.parametrize("device", DEVICES)
def test_the_pickle_holds_no_torch_object(X_S, device):
    for reg in (quick(device=device).fit(*X_S), quick(device=device).partial_fit(*X_S)):
        assert b"torch" not in pickle.dumps(reg)


def test_a_model_fitted_on_cuda_predicts_without(X_S, monkeypatch):
    # What such a model looks like here: the device it names does not exist.
    reg = quick().fit(*X_S)
    expected = reg.predict(X_S[0])
    reg.set_params(device="cuda:7")
    reg.device_ = "cuda:7"
    back = pickle.loads(pickle.dumps(reg))
    np.testing.assert_array_equal(back.predict(X_S[0]), expected)


# ---- forms of input ------------------------------------------------------------------


def _memory_map(X, tmp_path):
    X.tofile(tmp_path / "X.bin")
    return np.memmap(tmp_path / "X.bin", X.dtype, "r", shape=X.shape)


def _read_only(X, tmp_path):
    X = X.copy()
    X.flags.writeable = False
    return X


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda X, _: np.asfortranarray(X), id="Fortran order"),
        pytest.param(lambda X, _: X[::-1].copy()[::-1], id="negative strides"),
        pytest.param(lambda X, _: np.repeat(X, 2, axis=1)[:, ::2], id="gaps"),
        pytest.param(lambda X, _: pd.DataFrame(X), id="DataFrame"),
        pytest.param(_read_only, id="read only"),
        pytest.param(_memory_map, id="memory map"),
    ],
)
def test_the_form_of_X_does_not_matter(X_S, tmp_path, form):
    X, S = X_S
    expected = quick().fit(X, S).predict(X)
    X = form(X, tmp_path)
    np.testing.assert_array_equal(quick().fit(X, S).predict(X), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int64, bool])
def test_other_types_are_fitted_in_single_precision(X_S, dtype):
    X = (X_S[0] * 10).clip(0, 200).astype(dtype)
    reg = quick().fit(X, X_S[1])
    assert reg.coefs_[0].dtype == np.float32 == reg.predict(X).dtype


def test_training_does_not_write_to_its_input(X_S):
    X, S = X_S[0].copy(), X_S[1].copy()
    quick().fit(X, S)
    np.testing.assert_array_equal(X, X_S[0])
    np.testing.assert_array_equal(S, X_S[1])


def test_one_sample_is_predicted_as_it_is():
    reg = quick().fit([[1.0, 2.0]], [[3.0, 4.0]])
    np.testing.assert_array_equal(reg.predict([[0.0, 0.0]]), [[3, 4]])
    with pytest.raises(ValueError, match="no class can be told from another"):
        reg.predict([[0.0, 0.0]], prototypes=[[3.0, 4.0]])


def test_tables_are_matched_by_attribute_name(data, X_S):
    X, S = X_S
    columns = [f"attribute {j}" for j in range(S.shape[1])]
    reg = quick().fit(X, pd.DataFrame(S, columns=columns))
    table = pd.DataFrame(data.attributes, index=data.class_names, columns=columns)
    names = reg.predict(X, prototypes=table)
    np.testing.assert_array_equal(names, reg.predict(X, table[columns[::-1]]))
    assert names.dtype.kind == "U"
    with pytest.raises(ValueError, match="other attributes than those of fit"):
        reg.predict(X, prototypes=table.rename(columns={"attribute 0": "legs"}))


def test_prototypes_travel_through_a_pipeline(data, X_S):
    X, S = X_S
    pipeline = make_pipeline(StandardScaler(), quick()).fit(X, S)
    unseen = data.unseen_classes
    names = pipeline.predict(
        X, prototypes=data.attributes[unseen], classes=data.class_names[unseen]
    )
    assert set(names) <= set(data.class_names[unseen])


def test_predicts_in_blocks(data, X_S, monkeypatch):
    X, S = X_S
    reg = quick().fit(X.astype(np.float64), S)
    expected = reg.predict(X)
    names = reg.predict(X, prototypes=data.attributes)
    monkeypatch.setattr("rezsl_sk._regressor.PREDICT_ROWS", 7)
    np.testing.assert_allclose(reg.predict(X), expected, rtol=1e-10)
    np.testing.assert_array_equal(reg.predict(X, prototypes=data.attributes), names)


# ---- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"hidden_layer_sizes": (0,)}, "positive whole numbers"),
        ({"hidden_layer_sizes": ("a",)}, "positive whole numbers"),
        ({"hidden_layer_sizes": (2.5,)}, "positive whole numbers"),
        ({"loss": "huber"}, "'loss' parameter"),
        ({"class_power": -1}, "'class_power' parameter"),
        ({"device": "tpu9"}, "device must be 'auto', 'cpu'"),
        ({"device": "cuda:99"}, "torch finds no such device here"),
        ({"device": "meta"}, "torch finds no such device here"),
        (
            {"regression_weight": 0, "classification_weight": 0},
            "nothing is left to train for",
        ),
        ({"early_stopping": True, "validation_fraction": 0.95}, "2 left for training"),
        (
            {"learning_rate_init": 1e30, "solver": "sgd", "learning_rate": "constant"},
            r"Training diverged.*Lower learning_rate_init \(now 1e\+30\)\.$",
        ),
        (
            {"learning_rate_init": 1e30, "feature_scaling": None},
            r"Training diverged.*or set feature_scaling='standard'\.$",
        ),
    ],
    ids=str,
)
def test_bad_parameters_are_refused_in_a_sentence(X_S, parameters, message):
    with pytest.raises(ValueError, match=message):
        quick(**parameters).fit(*X_S)


def test_bad_data_is_refused_in_a_sentence(X_S):
    X, S = X_S
    with_nan = S.copy()
    with_nan[3, 2] = np.nan
    for args, message in [
        ((X, S[:-1]), "inconsistent numbers of samples"),
        ((X, with_nan), "contains NaN"),
        ((np.where(X > 2, np.inf, X), S), "infinity"),
        ((X, np.array(["cat"] * len(X))), "S must hold numbers.*ZeroShotClassifier"),
        ((X, S * 1e300), "beyond the range of float32"),
        ((X[:0], S[:0]), "0 sample"),
        ((X[0], S), "Expected 2D array"),
        ((X, S[:, None]), "dim 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            quick().fit(*args)


def test_bad_prototypes_are_refused_in_a_sentence(data, X_S):
    reg = quick().fit(*X_S)
    X, table = X_S[0][:3], data.attributes
    nan = table.copy()
    nan[1, 0] = np.nan
    names = data.class_names
    for arguments, message in [
        ((table[:, 1:],), "has 7 attributes, but the model was fitted with 8"),
        ((nan,), "nan for attribute 0 of class 1"),
        ((table, names[:-1]), "a name for each of its 16 classes"),
        ((table, [names[0]] * 16), "more than once"),
        ((None, names), "classes were given without prototypes"),
        ((reg.attribute_offset_[None],), "origin of the training space"),
    ]:
        with pytest.raises(ValueError, match=message):
            reg.predict(X, *arguments)


def test_partial_fit_refuses_what_it_cannot_do(X_S):
    X, S = X_S
    with pytest.raises(ValueError, match="does not support early_stopping"):
        quick(early_stopping=True).partial_fit(X, S)
    reg = quick().partial_fit(X, S)
    with pytest.raises(ValueError, match="S 7 attributes, but the model"):
        reg.partial_fit(X, S[:, 1:])
    with pytest.raises(ValueError, match="hidden_layer_sizes is"):
        reg.set_params(hidden_layer_sizes=(3,)).partial_fit(X, S)


def test_not_fitted_says_so(X_S):
    with pytest.raises(NotFittedError):
        quick().predict(X_S[0])


def test_a_clone_is_not_fitted_and_alike(X_S):
    reg = quick(dropout=0.5).fit(*X_S)
    copy = clone(reg)
    assert copy.get_params() == reg.get_params()
    assert not hasattr(copy, "coefs_")


def test_fits_in_threads_do_not_disturb_each_other(X_S):
    expected = [quick(random_state=seed).fit(*X_S).predict(X_S[0]) for seed in range(4)]
    with warnings.catch_warnings(), joblib.parallel_config("threading", n_jobs=2):
        results = joblib.Parallel()(
            joblib.delayed(lambda s: quick(random_state=s).fit(*X_S).predict(X_S[0]))(s)
            for s in range(4)
        )
    for one, other in zip(expected, results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# ---- found by trying to break it ---------------------------------------------------


def test_a_warm_start_keeps_its_precision(X_S):
    X, S = X_S
    reg = quick(warm_start=True).fit(X.astype(np.float64), S)
    reg.fit(X.astype(np.float32), S)
    assert reg.coefs_[0].dtype == np.float64


def test_partial_fit_goes_on_under_another_loss_or_solver(X_S):
    X, S = X_S
    reg = quick().partial_fit(X, S)
    for change in ({"loss": "bmc"}, {"solver": "sgd"}, {"loss": "remse"}):
        reg.set_params(**change).partial_fit(X, S)
    assert np.isfinite(reg.predict(X)).all()


@pytest.mark.parametrize("size", [1e-250, 1e250])
def test_the_size_of_features_does_not_matter(X_S, size):
    X, S = X_S[0].astype(np.float64), X_S[1]
    expected = quick().fit(X, S).loss_
    assert quick().fit(X * size, S).loss_ == pytest.approx(expected, rel=1e-6)


def test_features_too_large_to_be_added_up_are_a_sentence(X_S):
    X, S = X_S[0].astype(np.float64), X_S[1]
    with pytest.raises(ValueError, match="rescale the features"):
        quick(feature_scaling="standard").fit(np.abs(X) * 1e307, S)


@pytest.mark.parametrize("how", ["center", None])
@pytest.mark.parametrize(("size", "word"), [(1e200, "large"), (1e-200, "small")])
def test_attributes_that_cannot_be_squared_are_a_sentence(X_S, how, size, word):
    X, S = X_S[0].astype(np.float64), X_S[1].astype(np.float64)
    with pytest.raises(ValueError, match=f"too {word} to be squared in float64"):
        quick(attribute_scaling=how).fit(X, S * size)


@pytest.mark.parametrize("how", ["standard", "l2"])
@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_the_size_of_attributes_does_not_matter(X_S, how, size):
    X, S = X_S[0].astype(np.float64), X_S[1].astype(np.float64)
    reg, same = (quick(attribute_scaling=how) for _ in range(2))
    reg.fit(X, S), same.fit(X, S * size)
    assert same.loss_ == pytest.approx(reg.loss_, rel=1e-6)
    np.testing.assert_allclose(same.predict(X) / size, reg.predict(X), rtol=1e-6)
    np.testing.assert_array_equal(
        same.predict(X, prototypes=same.prototypes_),
        reg.predict(X, prototypes=reg.prototypes_),
    )


def test_a_table_is_centred_before_it_is_cast(X_S):
    """In float32 the differences of 2000 + 0.01 i would lose two of their digits."""
    X, S = X_S
    far = 2000 + 0.01 * S
    reg = quick().fit(X, far)
    near = quick().fit(X, S)
    np.testing.assert_allclose(
        reg._space.transform(far), near._space.transform(S), atol=1e-5
    )
    np.testing.assert_allclose(reg.loss_curve_, near.loss_curve_, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.float32, {}),
        (np.float64, {}),
        (np.float32, {"early_stopping": True}),
        (np.float32, {"loss": "mae"}),
    ],
)
def test_products_of_less_precision_name_classes_as_well(
    device, precision, dtype, options
):
    data = make_zero_shot(random_state=0)
    rows, unseen = data.trainval, data.unseen_classes
    X, S = data.X[rows].astype(dtype), data.attributes[data.labels[rows]]
    accuracy = {}
    for name in ("full", precision):
        model = ReZSLRegressor(
            matmul_precision=name,
            feature_weight=0,
            device=device,
            random_state=0,
            **options,
        ).fit(X, S)
        assert model.coefs_[0].dtype == dtype
        names = model.predict(
            data.X[data.test_unseen].astype(dtype),
            prototypes=data.attributes[unseen],
            classes=data.class_names[unseen],
        )
        accuracy[name] = (names == data.y[data.test_unseen]).mean()
    assert accuracy[precision] > accuracy["full"] - 0.05


def test_products_in_bfloat16_are_seeded(X_S):
    first, second = (quick(matmul_precision="bfloat16").fit(*X_S) for _ in range(2))
    np.testing.assert_array_equal(first.coefs_[0], second.coefs_[0])


def test_products_in_bfloat16_of_rows_that_come_in_parts(X_S):
    model = quick(matmul_precision="bfloat16", warm_start=True).fit(*X_S)
    first = model.loss_
    assert model.fit(*X_S).loss_ < first
    assert np.isfinite(model.partial_fit(*X_S).loss_)


def test_a_fit_that_fails_leaves_the_model_as_it_was(X_S):
    X, S = X_S
    model = quick(feature_weight=0.5).fit(X, S)
    before = model.predict(X, prototypes=model.prototypes_)
    model.set_params(learning_rate_init=1e30)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X, S)
    with pytest.raises(ValueError, match="features"):
        model.set_params(warm_start=True, learning_rate_init=1e-3).fit(X[:, :3], S)
    np.testing.assert_array_equal(
        model.predict(X, prototypes=model.prototypes_), before
    )
    new = quick(learning_rate_init=1e30)
    with pytest.raises(ValueError, match="diverged"):
        new.fit(X, S)
    with pytest.raises(NotFittedError):
        new.predict(X)


def test_a_partial_fit_that_fails_leaves_the_model_as_it_was(X_S):
    X, S = X_S
    model = quick().partial_fit(X, S)
    before, curve = model.predict(X), list(model.loss_curve_)
    model.learning_rate_init = 1e30
    with pytest.raises(ValueError, match="diverged"):
        model.partial_fit(X, S)
    np.testing.assert_array_equal(model.predict(X), before)
    assert model.loss_curve_ == curve


def test_a_partial_fit_that_fails_after_its_training_has_not_happened(X_S, monkeypatch):
    X, S = X_S
    model, other = (quick().partial_fit(X, S) for _ in range(2))

    def broken(*args):
        raise MemoryError("after the training")

    with monkeypatch.context() as patch:
        patch.setattr(ReZSLRegressor, "_errors", broken)
        with pytest.raises(MemoryError, match="after the training"):
            model.partial_fit(X, S)
    assert model.loss_curve_ == other.loss_curve_
    # The optimiser's state, too, is that of before.
    model.partial_fit(X, S)
    other.partial_fit(X, S)
    assert len(model.loss_curve_) == 2
    assert model.loss_curve_ == other.loss_curve_
    for coef, expected in zip(model.coefs_, other.coefs_, strict=True):
        np.testing.assert_array_equal(coef, expected)


def test_partial_fit_does_not_begin_with_one_class(X_S):
    X, S = X_S
    one = (S == S[0]).all(axis=1)
    with pytest.raises(ValueError, match="several classes, or prototypes="):
        quick().partial_fit(X[one], S[one])
    table = np.unique(S, axis=0)
    quick().partial_fit(X[one], S[one], prototypes=table).partial_fit(X, S)


def test_a_callback_may_score_with_prototypes(X_S):
    class Watch:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context, **data): ...
        def on_fit_task_end(self, estimator, context, **data):
            if hasattr(estimator, "coefs_"):
                names = estimator.predict(X_S[0], prototypes=table)
                seen.append(len(names))

    table, seen = np.unique(X_S[1], axis=0), []
    model = quick().set_callbacks(Watch())
    for _ in range(2):
        model.fit(*X_S)
    assert set(seen) == {len(X_S[0])}


def test_big_endian_float64_is_fitted_in_float64(X_S):
    X, S = X_S
    model = quick().fit(X.astype(">f8"), S)
    assert model.coefs_[0].dtype == np.float64
    expected = quick().fit(X.astype("<f8"), S)
    np.testing.assert_array_equal(model.coefs_[0], expected.coefs_[0])


def test_values_beyond_the_range_of_the_model_are_a_sentence(X_S):
    X, S = X_S
    model = quick().fit(X.astype(np.float32), S)
    new = X.astype(np.float64)
    new[3, 0] = 1e39
    with pytest.raises(ValueError, match=r"beyond the range of float32 in rows \[3\]"):
        model.predict(new)


def test_prototypes_with_numbered_columns_go_by_number(X_S):
    X, S = X_S
    model = quick().fit(X, pd.DataFrame(S))
    table = pd.DataFrame(np.unique(S, axis=0))
    expected = model.predict(X, prototypes=table)
    with pytest.raises(ValueError, match="Sort the columns"):
        model.predict(X, prototypes=table[table.columns[::-1]])
    numbered = quick().fit(X, pd.DataFrame(S, columns=np.arange(S.shape[1]) + 1))
    table.columns = table.columns + 1
    names = numbered.predict(X, prototypes=table[table.columns[::-1]])
    np.testing.assert_array_equal(names, expected)


@pytest.mark.parametrize("feature_weight", [0.0, 0.67, 1.0])
def test_of_classes_with_equal_attributes_the_first_is_named(X_S, feature_weight):
    X, S = X_S
    model = quick(feature_weight=feature_weight).fit(X, S)
    table = np.unique(S, axis=0)
    for n_more in range(1, len(table) + 1):
        twice = np.concatenate([table, table[:n_more]])
        # Products of one row round otherwise than those of many.
        for rows in (X, *X[::29, np.newaxis]):
            assert (model.predict(rows, prototypes=twice) < len(table)).all()


def test_one_sample_per_class_is_said_not_to_be_a_table(data):
    """Classification term and feature side were lost in silence."""
    rows = np.unique(data.labels[data.trainval], return_index=True)[1]
    X = data.X[data.trainval][rows]
    S = data.attributes[data.labels[data.trainval]][rows]
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S)
    assert not len(reg.prototypes_)
    reg.predict(X)  # as continuous targets they are as good as any
    message = r"classification_weight=1 and feature_weight=0\.67 had no effect"
    with pytest.warns(UserWarning, match=message) as caught:
        reg.predict(X, S)
    assert caught[0].filename == __file__
    plain = {"classification_weight": 0, "feature_weight": 0}
    ReZSLRegressor((), max_iter=1, random_state=0, **plain).fit(X, S).predict(X, S)


def test_columns_of_S_are_matched_by_name_wherever_S_is_given(data, X_S):
    X, S = X_S
    S = pd.DataFrame(S).add_prefix("a")
    turned = S[S.columns[::-1]]
    reg = quick(warm_start=True).fit(X, S)
    assert reg.score(X, turned) == reg.score(X, S)
    once = clone(reg).fit(X, S)
    np.testing.assert_array_equal(
        once.fit(X, turned).predict(X), reg.fit(X, S).predict(X)
    )
    parts = [quick().partial_fit(X, S).partial_fit(X, new) for new in (S, turned)]
    assert len(parts[1].prototypes_) == len(parts[0].prototypes_)
    np.testing.assert_array_equal(parts[1].predict(X), parts[0].predict(X))
    for refuse in (reg.score, reg.partial_fit):
        with pytest.raises(ValueError, match="S has other attributes than those of fi"):
            refuse(X, S.rename(columns={"a0": "b0"}))


def test_prototypes_in_every_form_name_the_same_classes(data, X_S):
    X, S = X_S
    names = data.class_names
    reg = quick().fit(X, pd.DataFrame(S).add_prefix("a"))
    frame = pd.DataFrame(data.attributes, index=names).add_prefix("a")
    expected = names[reg.predict(X, prototypes=data.attributes)]
    for table, classes in [
        (frame, None),
        (frame[frame.columns[::-1]], names[::-1]),
        ((names, data.attributes), None),
        ((names[::-1], frame), None),
        (dict(zip(names, data.attributes, strict=True)), None),
        (ClassTable(names, data.attributes), None),
    ]:
        np.testing.assert_array_equal(reg.predict(X, table, classes), expected)
    with pytest.raises(ValueError, match="prototypes comes with two sets of names"):
        reg.predict(X, prototypes=frame, classes=range(len(names)))
    with pytest.raises(ValueError, match="prototypes is a pair .matrix, names."):
        reg.predict(X, prototypes=(data.attributes, names))
    with pytest.raises(ValueError, match="looks transposed"):
        reg.predict(X, prototypes=frame.T)


@pytest.mark.parametrize("solver", ["adamw", "sgd"])
def test_a_loss_with_parameters_may_have_no_weight(solver):
    """Its noise then has no gradient, which torch's optimisers do not take."""
    rng = np.random.default_rng(0)
    S = rng.normal(size=(6, 4))[np.arange(60) % 6]
    X = rng.normal(size=(60, 5))
    settings = {"regression_weight": 0.0, "solver": solver, "max_iter": 2}
    bmc, mse = (
        ReZSLRegressor((), loss=loss, random_state=0, **settings).fit(X, S)
        for loss in ("bmc", "mse")
    )
    np.testing.assert_allclose(bmc.coefs_[0], mse.coefs_[0], rtol=1e-6, atol=1e-8)
