"""Scaling: what varies, at which size; and fits on tables of any size and offset."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rezsl_sk import AttentionRegressor, ReZSLRegressor, ZeroShotClassifier
from rezsl_sk._feature_side import ClassKernel
from rezsl_sk._scaling import (
    AttributeSpace,
    FeatureScaling,
    column_mean_std,
    power_of_two,
    unit_rows,
    varies,
)
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

# ---- what varies -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1.0, 0.1, 1e30])
def test_rounding_is_no_variation(dtype, size):
    column = np.full(7, size, dtype=dtype)
    column[3] = np.nextafter(column[3], np.array(np.inf, dtype=dtype))
    wider = column.copy()
    wider[3] *= dtype(1 + 20 * np.finfo(dtype).eps)
    assert varies(np.column_stack([column, wider])).tolist() == [False, True]


def test_the_coarser_precision_decides():
    P = np.array([[1.0, 1.0], [1.0 + 1e-7, 1.1]])
    assert varies(P).tolist() == [True, True]
    assert varies(P, np.float32).tolist() == [False, True]


def test_the_range_of_the_largest_numbers_is_finite():
    largest = np.finfo(np.float64).max
    assert varies(np.array([[largest, largest], [-largest, largest]])).tolist() == [
        True,
        False,
    ]


def test_kernel_and_space_agree_on_what_varies():
    """The mean of three times 0.1 is not 0.1, and their deviation not 0."""
    P = np.array([[0.1, 0.0], [0.1, 1.0], [0.1, 2.0]])
    assert P.std(axis=0)[0] > 0
    assert AttributeSpace("standard").fit(P).constant.tolist() == [0]
    assert ClassKernel("given").fit(P).inverse_std.tolist()[0] == 0
    assert ClassKernel("range").fit(P).inverse_scale.tolist()[0] == 0


# ---- sizes -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1.0, 1e200, 1e300])
def test_mean_deviation_and_length_at_any_size(size):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    mean, std = column_mean_std(rows * size)
    np.testing.assert_allclose(mean / size, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std / size, rows.std(axis=0), rtol=1e-12)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(unit_rows(rows * size), rows / length, rtol=1e-12)


def test_power_of_two_is_one_where_there_is_no_size():
    sizes = np.array([0.0, 1.0, 3.0, 0.3, np.inf, np.nan])
    assert power_of_two(sizes).tolist() == [1, 1, 2, 0.25, 1, 1]


@pytest.mark.parametrize("how", ["standard", "l2"])
@pytest.mark.parametrize("size", [1e-200, 1e200])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_features_of_any_size_are_scaled_alike(how, size, in_blocks):
    X = np.random.default_rng(0).normal(size=(50, 4)) * [1, 2, 3, 4] + 1

    def scaled(X):
        scaling = FeatureScaling(how)
        if in_blocks:
            scaling.fit_blocks(np.split(X, 5), 4, X.dtype)
        else:
            scaling.fit(X)
        return scaling.transform(X)

    np.testing.assert_allclose(scaled(X * size), scaled(X), rtol=1e-9)


@pytest.mark.parametrize("size", [2.0**-90, 1.0, 2.0**90])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_the_rounding_of_a_constant_feature_stays_small_in_any_unit(
    dtype, size, in_blocks
):
    """The mean of many 0.1 is not 0.1; what is left of it is no feature."""
    X = np.column_stack([np.full(50, 0.1), np.zeros(50), np.arange(50.0)])
    X = (X * size).astype(dtype)
    scaling = FeatureScaling("standard")
    if in_blocks:
        scaling.fit_blocks(np.split(X, 5), 3, X.dtype)
    else:
        scaling.fit(X)
    scaled = scaling.transform(X)
    assert np.abs(scaled[:, 0]).max() < 100 * np.finfo(dtype).eps
    assert not scaled[:, 1].any() and scaling.scale[1] == 1
    np.testing.assert_allclose(scaled[:, 2].std(), 1, rtol=1e-6)


# ---- every estimator, on a table of any size and offset -------------------------

SIZES = {"hidden_layer_sizes": (4,), "max_iter": 1, "random_state": 0}
TRAINED = {"max_iter": 1, "random_state": 0}
REGRESSORS = {
    "linear": lambda: ReZSLRegressor((), **TRAINED),
    "early stopping": lambda: ReZSLRegressor(**SIZES, early_stopping=True),
    "l2": lambda: ReZSLRegressor((), **TRAINED, attribute_scaling="l2"),
    "attention": lambda: AttentionRegressor(**TRAINED),
}
CLASSIFIERS = {
    "classifier": lambda table: ZeroShotClassifier(
        ReZSLRegressor((), **TRAINED), class_attributes=table
    ),
    "ESZSL": ESZSL,
    "SAE": SAE,
    "RidgePrototype": RidgePrototype,
    "DAP": lambda table: DAP(table, max_iter=3),
    "ALE": lambda table: ALE(table, **TRAINED),
    "DEM": lambda table: DEM(table, **SIZES),
    "ClassNormalizedEmbedding": lambda table: ClassNormalizedEmbedding(table, **SIZES),
}


@st.composite
def tables(draw):
    """A * a + b (6, 4): an attribute that tells all classes apart, rarer ones, a
    constant one; b in sizes of A."""
    A = np.empty((6, 4))
    A[:, 0] = draw(st.permutations(range(1, 7)))
    A[:, 1] = draw(st.sampled_from([0.0, 0.1, 1.0, 3.7]))
    rare = draw(st.lists(st.integers(0, 5), min_size=1, max_size=2, unique=True))
    A[:, 2] = 0.3
    A[rare, 2] = 1.3
    A[:, 3] = draw(st.lists(st.floats(-6, 6, width=16), min_size=6, max_size=6))
    a = 10 ** draw(st.floats(-6, 6))
    b = draw(st.one_of(st.sampled_from([0.0, 0.1]), st.floats(-1e3, 1e3))) * 6 * a
    return A * a + b


def data(table, dtype):
    group = np.repeat(np.arange(len(table)), 4)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(len(table), 6))[group] + rng.normal(size=(len(group), 6))
    return X.astype(dtype), group


@pytest.mark.parametrize("name", [*REGRESSORS, *CLASSIFIERS])
@settings(deadline=None, max_examples=5)
@given(table=tables(), dtype=st.sampled_from([np.float32, np.float64]))
@example(table=np.eye(6, 4) * [1, 1, 1, 0] + 0.1, dtype=np.float64)
@example(table=(np.arange(24.0) % 5).reshape(6, 4) * 1e-6 + 0.1, dtype=np.float64)
def test_fit_neither_fails_nor_warns(name, table, dtype):
    if len(np.unique(table, axis=0)) < len(table):
        table = table + 1e-1 * np.arange(6)[:, None]
    X, group = data(table, dtype)
    if name in REGRESSORS:
        if name == "attention":
            X = X.reshape(len(X), 2, 3)
        model = REGRESSORS[name]().fit(X, table[group])
        assert np.isfinite(model.predict(X)).all()
    else:
        model = CLASSIFIERS[name]((np.arange(6), table)).fit(X, group)
        assert np.isfinite(model.decision_function(X)).all()


@pytest.mark.parametrize("offset", [0.1, -0.3])
def test_the_default_fits_where_an_attribute_is_constant_within_a_fold(offset):
    d = make_zero_shot(
        20,
        4,
        samples_per_class=8,
        n_features=16,
        n_attributes=12,
        attribute_imbalance=1.0,
        random_state=0,
    )
    X, S = d.X[d.trainval], d.attributes[d.labels[d.trainval]]
    plain = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S)
    moved = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S + offset)
    assert moved._side.choice == plain._side.choice
    P = d.attributes[d.unseen_classes]
    np.testing.assert_allclose(
        moved._scores(X, P + offset), plain._scores(X, P), atol=1e-4
    )


@pytest.mark.parametrize("scaling", ["standard", None])
def test_classes_beyond_the_precision_of_the_features_are_refused(scaling):
    """In single precision their scores would be infinite, or NaN."""
    table = np.random.default_rng(1).random((6, 4))
    X, group = data(table, np.float32)
    for make in (ESZSL, SAE, RidgePrototype, DEM, ReZSLRegressor):
        model = clf = make(attribute_scaling=scaling)
        if make is ReZSLRegressor:
            model.set_params(**TRAINED)
            clf = ZeroShotClassifier(model)
        elif make is DEM:
            model.set_params(**SIZES)
        clf.set_params(class_attributes=(np.arange(6), table)).fit(X, group)
        longer = clf.with_classes(([9], table[:1] * 1e80))
        with pytest.raises(ValueError, match=r"classes \[9\] are too far from those"):
            longer.predict(X)


@pytest.mark.parametrize("size", [2.0**-660, 2.0**660])  # exact, about 1e±200
@pytest.mark.parametrize("of", ["features", "attributes"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_sizes_of_features_and_attributes_change_no_answer(name, of, size):
    table = np.random.default_rng(1).random((6, 4))
    X, group = data(table, np.float64)
    models = [CLASSIFIERS[name]((np.arange(6), table)) for _ in range(2)]
    if name == "classifier":  # the feature side's folds of so few classes are ties
        for model in models:
            model.regressor.set_params(feature_weight=0)
    names = models[0].fit(X, group).predict(X)
    if of == "features":
        X = X * size
    else:
        table = table * size
    models[1].set_params(class_attributes=(np.arange(6), table)).fit(X, group)
    np.testing.assert_array_equal(models[1].predict(X), names)
