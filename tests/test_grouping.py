"""Which rows are one class: distinct rows, up to rounding."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rezsl_sk import ReZSLRegressor
from rezsl_sk._grouping import ROUNDING, distinct_rows, repeated_rows
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.metrics import imbalance_report
from rezsl_sk.model_selection import ClassKFold, GZSLKFold, gzsl_scorer

# ---- distinct rows -----------------------------------------------------------

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=12)


def slow_distinct_rows(S):
    rows = sorted({tuple(row) for row in S.tolist()})  # tuples: lexicographic order
    return rows, [rows.index(tuple(row)) for row in S.tolist()]


@settings(deadline=None)
@given(
    st.one_of(
        arrays(np.float64, SHAPES, elements=st.sampled_from([-1.5, -0.0, 0.0, 0.1, 2])),
        arrays(np.float32, SHAPES, elements=st.sampled_from([-1.5, -0.0, 0.0, 0.5, 2])),
        arrays(np.int64, SHAPES, elements=st.integers(-2, 300)),
        arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 1, 255])),
        arrays(bool, SHAPES),
    )
)
def test_distinct_rows_against_a_set_of_tuples(S):
    rows, index = distinct_rows(S)
    slow_rows, slow_index = slow_distinct_rows(S)
    assert rows.tolist() == [list(row) for row in slow_rows]
    assert index.tolist() == slow_index
    assert rows.dtype == S.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_distinct_rows_equals_numpy_unique(dtype):
    rng = np.random.default_rng(0)
    S = rng.integers(-2, 3, (40, 5)).astype(dtype)[rng.integers(40, size=500)]
    rows, index = distinct_rows(S)
    expected, inverse = np.unique(S, axis=0, return_inverse=True)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(index, inverse.reshape(-1))


def test_minus_zero_equals_zero():
    S = np.array([[0.0, 1.0], [-0.0, 1.0]])
    rows, index = distinct_rows(S)
    assert index.tolist() == [0, 0]
    assert not np.signbit(rows).any()
    assert np.signbit(S[1, 0])  # the input keeps its sign


def test_one_dimension_is_one_attribute():
    rows, index = distinct_rows(np.array([2.0, -1.0, 2.0]))
    assert rows.tolist() == [[-1.0], [2.0]]
    assert index.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(np.asfortranarray, id="Fortran order"),
        pytest.param(lambda S: np.repeat(S, 2, axis=1)[:, ::2], id="gaps"),
        pytest.param(lambda S: S[::-1].copy()[::-1], id="negative strides"),
        pytest.param(pd.DataFrame, id="DataFrame"),
        pytest.param(lambda S: S.tolist(), id="lists"),
    ],
)
def test_the_form_of_the_rows_does_not_matter(form):
    S = np.random.default_rng(0).integers(3, size=(30, 3)).astype(float)
    rows, index = distinct_rows(form(S))
    np.testing.assert_array_equal(rows, np.unique(S, axis=0))
    np.testing.assert_array_equal(rows[index], S)


# ---- up to rounding ----------------------------------------------------------------

EPS = {dtype: float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64)}


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("size", [1e-20, 1.0, 2000.0, 1e20])
def test_rows_within_rounding_are_one_and_others_are_not(dtype, size):
    near, far = 1 + 4 * EPS[dtype], 1 + 20 * EPS[dtype]
    S = np.array([[1.0, 3.0], [1.0, 3 * near], [1.0, 3 * far]]) * size
    rows, index = distinct_rows(S.astype(dtype))
    assert index.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(rows, S.astype(dtype)[[0, 2]])


def test_differences_of_large_values_stay():
    S = (2000 + 0.01 * np.arange(50.0)[:, None]).astype(np.float32)
    assert len(distinct_rows(S)[0]) == 50


def slow_leaders(S):
    """Each row, in order, joins the first representative that is near."""
    rows, index = np.unique(S, axis=0, return_inverse=True)
    eps, leaders, joined = EPS[S.dtype.type], [], []
    for row in rows.astype(np.float64):
        for number, leader in enumerate(leaders):
            limit = ROUNDING * eps * max(np.abs(row).max(), np.abs(leader).max())
            if np.abs(row - leader).max() <= limit:
                joined.append(number)
                break
        else:
            joined.append(len(leaders))
            leaders.append(row)
    return np.array(leaders, dtype=S.dtype), np.array(joined)[index.reshape(-1)]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    a=st.integers(1, 5),
    dtype=st.sampled_from(list(EPS)),
    spread=st.sampled_from([3, 12, 40]),
)
def test_chains_end_at_the_first_row_of_a_class(seed, n, a, dtype, spread):
    """Rows in chains, each a few spacings from the next, against a slow loop."""
    rng = np.random.default_rng(seed)
    S = rng.integers(1, 4, size=(4, a)).astype(float)[rng.integers(4, size=n)]
    S = (S * (1 + EPS[dtype] * rng.integers(0, spread, size=(n, a)))).astype(dtype)
    rows, index = distinct_rows(S)
    slow_rows, slow_index = slow_leaders(S)
    np.testing.assert_array_equal(rows, slow_rows)
    np.testing.assert_array_equal(index, slow_index)
    shuffled = rng.permutation(n)
    np.testing.assert_array_equal(distinct_rows(S[shuffled])[1], index[shuffled])


def test_a_projection_of_equal_rows_is_one_row():
    """Columns of a small size have rounding errors of the size of the row."""
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(30, 20)) * np.geomspace(1, 1e-6, 20)).astype(np.float32)
    group = rng.integers(30, size=2000)
    size = np.abs(table[group]).max(axis=1, keepdims=True)
    S = table[group] + 2e-7 * size * rng.uniform(-1, 1, (2000, 20))
    rows, index = distinct_rows(S.astype(np.float32))
    assert len(rows) == 30
    assert len(set(zip(group.tolist(), index.tolist(), strict=True))) == 30


def test_the_padding_of_wide_floats_is_no_difference():
    S = np.empty((4, 2), dtype=np.longdouble)
    S.view(np.uint8)[:] = np.random.default_rng(0).integers(
        256, size=S.view(np.uint8).shape
    )
    S[:] = [[1, 2], [3, 4], [1, 2], [3, 4]]
    rows, index = distinct_rows(S)
    assert index.tolist() == [0, 1, 0, 1]
    assert rows.dtype == np.float64


@pytest.mark.parametrize("dtypes", [(np.float32, np.float64), (np.float64, np.float32)])
def test_known_rows_come_first_in_the_coarser_precision(dtypes):
    table = np.random.default_rng(0).random((5, 3))
    known, S = table[[4, 1]].astype(dtypes[0]), table[[0, 1, 4, 4]].astype(dtypes[1])
    rows, index = distinct_rows(S, known)
    assert index.tolist() == [2, 1, 0, 0]
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, table[[4, 1, 0]].astype(np.float32))


def test_known_rows_stay_apart_however_near():
    known = np.array([[1.0], [1.0], [1 + 8 * EPS[np.float64]]])
    rows, index = distinct_rows([[1 + 4 * EPS[np.float64]], [2.0]], known)
    assert rows.tolist() == [*known.tolist(), [2.0]]
    assert index.tolist() == [0, 3]


def test_rows_with_missing_values_join_none():
    S = np.array([[np.nan, 1.0], [1.0, 1.0], [np.inf, 1.0]])
    assert len(distinct_rows(S)[0]) == 3


def test_repeated_rows_are_those_within_rounding():
    S = np.array([[2.0], [1.0], [2.0 + 4 * EPS[np.float64]], [1.0]])
    later, first = repeated_rows(S)
    assert later.tolist() == [2, 3] and first.tolist() == [0, 1]


# ---- everywhere that classes are recognised ----------------------------------------


@pytest.fixture(scope="module")
def noisy():
    """X, class numbers, and S of float32 with rounding in each row."""
    d = make_zero_shot(
        10, 2, samples_per_class=12, n_features=8, n_attributes=6, random_state=0
    )
    X, labels = d.X[d.trainval].astype(np.float32), d.labels[d.trainval]
    labels = np.unique(labels, return_inverse=True)[1]
    S = d.attributes[labels] + 0.5
    noise = np.random.default_rng(0).integers(-2, 3, S.shape)
    return X, labels, (S * (1 + 6e-8 * noise)).astype(np.float32)


def quick():
    return ReZSLRegressor((), max_iter=1, feature_weight=0, random_state=0)


def test_no_class_is_on_both_sides_of_a_fold(noisy):
    X, labels, S = noisy
    assert len(np.unique(S, axis=0)) > 10
    for y in (S, S[:, 0]):
        for train, test in ClassKFold(3).split(X, y):
            assert not np.intersect1d(labels[train], labels[test]).size


def test_classes_of_fit_reports_and_parts(noisy):
    X, labels, S = noisy
    reg = quick().fit(X, S)
    assert reg.prototypes_.shape == (10, 6)
    assert imbalance_report(S, S).prototypes.shape == (10, 6)
    part = quick().partial_fit(X, S)
    part.partial_fit(X, S.astype(np.float64)).partial_fit(X, S)
    np.testing.assert_array_equal(part.prototypes_, reg.prototypes_)


@pytest.mark.parametrize("first", EPS)
def test_parts_of_other_precisions_bring_no_new_classes(noisy, first):
    X, labels, _ = noisy
    table = np.random.default_rng(1).random((10, 6))
    other = np.float64 if first is np.float32 else np.float32
    reg = quick().partial_fit(X.astype(first), table[labels].astype(first))
    for dtype in (other, first, np.float64):
        reg.partial_fit(X.astype(dtype), table[labels].astype(dtype))
        assert len(reg.prototypes_) == 10


def test_rows_of_seen_classes_are_seen_in_any_precision(noisy):
    X, labels, S = noisy
    train, test = next(GZSLKFold(3).split(X, S))
    reg = quick().fit(X[train], S[train])
    exact = S[np.unique(labels, return_index=True)[1]][labels]
    expected = gzsl_scorer(quick().fit(X[train], exact[train]), X[test], exact[test])
    for y in (S, S.astype(np.float64) * (1 + 3e-8)):
        assert gzsl_scorer(reg, X[test], y[test]) == pytest.approx(expected, abs=0.05)


def test_rows_without_columns_are_one():
    rows, index = distinct_rows(np.empty((3, 0)))
    assert rows.shape == (1, 0) and index.tolist() == [0, 0, 0]
    rows, index = distinct_rows(np.empty((3, 0)), np.empty((2, 0)))
    assert rows.shape == (2, 0) and index.tolist() == [0, 0, 0]
    rows, index = distinct_rows(np.empty((2, 4)), np.empty((0, 4)))
    assert rows.shape[1] == 4 and len(index) == 2
