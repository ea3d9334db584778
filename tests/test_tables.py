"""Attribute tables: distinct rows, names, and the sentences about unusable tables."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rezsl_sk._tables import check_names, check_table, column_names, distinct_rows

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


def test_neighbouring_floats_are_two_rows():
    S = np.array([[1.0], [np.nextafter(1.0, 2.0)]])
    assert distinct_rows(S)[1].tolist() == [0, 1]


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


# ---- names of columns ----------------------------------------------------------


def test_column_names_are_those_of_a_frame_of_strings():
    assert column_names(pd.DataFrame([[1, 2]], columns=["b", "a"])).tolist() == [
        "b",
        "a",
    ]


@pytest.mark.parametrize(
    "table",
    [
        np.eye(2),
        [[1.0]],
        pd.DataFrame([[1, 2]]),
    ],
    ids=["array", "list", "numbered"],
)
def test_other_tables_have_no_column_names(table):
    assert column_names(table) is None


@pytest.mark.parametrize("columns", [["a", 0], [1, 2], [1, 0]])
def test_other_columns_are_named_by_what_they_are(columns):
    table = pd.DataFrame([[1, 2]], columns=columns)
    assert column_names(table).tolist() == [str(name) for name in columns]


def test_numbered_columns_are_matched_by_their_numbers():
    table = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=[7, 5])
    _, matrix, names = check_table(
        table, what="prototypes", attribute_names=np.array(["5", "7"])
    )
    np.testing.assert_array_equal(matrix, [[2, 1], [4, 3]])
    assert names.tolist() == ["5", "7"]


def test_columns_numbered_out_of_order_are_not_taken_by_position():
    table = pd.DataFrame([[1.0, 2.0]], columns=[1, 0])
    with pytest.raises(ValueError, match="Sort the columns"):
        check_table(table, what="prototypes")


# ---- names of classes ------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"],
        ("cat", "dog"),
        np.array(["cat", "dog"], dtype=object),
        pd.Index(["cat", "dog"]),
        [3, 1],
        np.array([3, 1], dtype=np.uint8),
        range(2),
    ],
    ids=repr,
)
def test_names_become_an_array_in_their_order(names):
    array = check_names(names, 2, "table")
    assert array.shape == (2,)
    assert array.tolist() == list(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", 1], "^table mixes strings and other names of classes; use one kind"),
        (["a"], r"^table needs a name for each of its 2 classes, got 1 names"),
        ([["a", "b"], ["c", "d"]], r"got 2 names \(shape \(2, 2\)\)"),
        (["a", "a"], r"^table names these classes more than once: \['a'\]"),
        ([7, 7], r"more than once: \[7\]. Each class must have one row"),
    ],
    ids=repr,
)
def test_bad_names_are_refused_in_a_sentence(names, message):
    with pytest.raises(ValueError, match=message):
        check_names(names, 2, "table")


# ---- tables ----------------------------------------------------------------------


def test_a_frame_gives_its_index_matrix_and_columns():
    frame = pd.DataFrame({"legs": [4, 2], "wings": [0, 2]}, index=["cat", "hen"])
    names, matrix, columns = check_table(frame, what="table")
    assert names.tolist() == ["cat", "hen"]
    assert columns.tolist() == ["legs", "wings"]
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix, [[4, 0], [2, 2]])


def test_given_names_win_over_the_index():
    frame = pd.DataFrame({"legs": [4, 2]}, index=["cat", "hen"])
    names, _, _ = check_table(frame, what="table", names=["a", "b"])
    assert names.tolist() == ["a", "b"]


def test_an_array_has_the_names_it_is_given_and_no_columns():
    names, matrix, columns = check_table([[1, 2], [3, 4]], what="table")
    assert names is None and columns is None
    np.testing.assert_array_equal(matrix, [[1, 2], [3, 4]])
    names, _, _ = check_table([[1, 2], [3, 4]], what="table", names=["a", "b"])
    assert names.tolist() == ["a", "b"]


def test_columns_are_put_in_the_order_of_fit():
    frame = pd.DataFrame({"wings": [0, 2], "legs": [4, 2]}, index=["cat", "hen"])
    wanted = np.array(["legs", "wings"])
    _, matrix, columns = check_table(frame, what="table", attribute_names=wanted)
    np.testing.assert_array_equal(matrix, [[4, 0], [2, 2]])
    assert columns.tolist() == ["legs", "wings"]


def test_columns_without_names_are_taken_by_position():
    frame = pd.DataFrame([[4.0, 1.0]], index=["cat"])
    _, matrix, columns = check_table(frame, what="table", attribute_names=["a", "b"])
    np.testing.assert_array_equal(matrix, [[4, 1]])
    assert columns is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["a", "c"], r"missing: \['b'\], unknown: \['c'\]. Give one column for each"),
        (["a"], r"missing: \['b'\], unknown: \[\]"),
        (["a", "b", "z"], r"missing: \[\], unknown: \['z'\]"),
        (["a", "b", "b"], r"^table has other attributes than those of fit"),
    ],
    ids=str,
)
def test_other_columns_are_refused_by_name(columns, message):
    frame = pd.DataFrame([[1.0] * len(columns)], columns=columns)
    with pytest.raises(ValueError, match=message):
        check_table(frame, what="table", attribute_names=np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [
        ([[1, 2, 3]], None, "^table has 3 attributes, but the model was fitted with 2"),
        ([[1, np.nan]], None, r"missing or infinite attributes: \[0\]. Describe them"),
        ([[1, 1], [np.inf, 1]], ["a", "b"], r"missing or infinite attributes: \['b'\]"),
        ([[0, 0], [1, 0]], ["a", "b"], r"no attributes \(a row of zeros\): \['a'\]\."),
        ([[0.0, -0.0], [1, 0]], None, r"no attributes \(a row of zeros\): \[0\]"),
        (np.zeros((6, 2)), None, r"zeros\): \[0, 1, 2, 3, 4\] and more\. Describe"),
        (np.zeros((5, 2)), None, r"zeros\): \[0, 1, 2, 3, 4\]\. Describe"),
        ([["furry", 1]], None, "furry"),
        ([1.0, 2.0], None, "Expected 2D array"),
        ([[1, 2]], ["a", "b"], "a name for each of its 1 classes, got 2"),
    ],
    ids=[
        "width",
        "missing",
        "infinite",
        "zero",
        "minus zero",
        "six",
        "five",
        "text",
        "1-D",
        "names",
    ],
)
def test_a_bad_table_is_refused_in_a_sentence(matrix, names, message):
    with pytest.raises(ValueError, match=message):
        check_table(matrix, what="table", names=names, n_attributes=2)
