"""Attribute tables: distinct rows, names, and the sentences about unusable tables."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.baselines import ESZSL
from rezsl_sk.datasets import load_xlsa17, make_zero_shot
from rezsl_sk.feature_cache import FeatureCache
from rezsl_sk.model_selection import ClassKFold
from rezsl_sk.tables import (
    ClassTable,
    check_names,
    column_names,
    in_column_order,
    names_or_none,
)

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
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=[7, 5])
    table = ClassTable.of(frame).with_columns_of(["5", "7"])
    np.testing.assert_array_equal(table.attributes, [[2, 1], [4, 3]])
    assert table.attribute_names.tolist() == ["5", "7"]


def test_columns_numbered_out_of_order_are_not_taken_by_position():
    table = ClassTable.of(pd.DataFrame([[1.0, 2.0]], columns=[1, 0]))
    with pytest.raises(ValueError, match="Sort the columns"):
        table.with_columns_of(None, what="prototypes")


def test_numbers_in_order_are_positions_whatever_their_type():
    # As to_csv and read_csv give back the columns 0, 1, ..., 11.
    frame = pd.DataFrame(np.eye(12)).rename(columns=str)
    assert column_names(frame) is None
    same = ClassTable.of(frame).with_columns_of(None)
    np.testing.assert_array_equal(same.attributes, np.eye(12))
    named = np.array([f"a{i}" for i in range(12)])
    table = ClassTable.of(frame).with_columns_of(named)
    assert table.attribute_names.tolist() == named.tolist()
    np.testing.assert_array_equal(table.attributes, np.eye(12))


def test_numbers_out_of_order_in_fit_are_names():
    # A frame whose columns count is then matched by number, an array is not.
    frame = pd.DataFrame([[1.0, 2.0]])
    assert ClassTable.of(frame).with_columns_of(["1", "0"]).attributes.tolist() == [
        [2, 1]
    ]
    assert in_column_order(frame, np.array(["1", "0"])).to_numpy().tolist() == [[2, 1]]
    assert in_column_order([[1, 2]], np.array(["1", "0"])) == [[1, 2]]


def test_columns_of_samples_are_put_in_order():
    S = pd.DataFrame({"wings": [0, 2], "legs": [4, 2]})
    names = np.array(["legs", "wings"])
    np.testing.assert_array_equal(in_column_order(S, names), [[4, 0], [2, 2]])
    assert in_column_order(S.to_numpy(), names).tolist() == S.to_numpy().tolist()
    with pytest.raises(ValueError, match="^S has other attributes.*unknown: .'fins'"):
        in_column_order(S.rename(columns={"legs": "fins"}), names)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["a", "b", "a"], r"^T names these attributes more than once: \['a'\]"),
        (["a", 1, "1"], r"more than once: \['1'\]"),
        (["a", " ", "b"], r"^T has attributes without a name, in columns \[1\] "),
        (["Unnamed: 0", "a", "b"], r"in columns \[0\] .*index_col=0"),
        (["a", np.nan, "b"], r"without a name, in columns \[1\]"),
    ],
    ids=str,
)
def test_blank_and_repeated_attribute_names_are_refused(columns, message):
    frame = pd.DataFrame(np.eye(3), columns=columns)
    with pytest.raises(ValueError, match=message):
        ClassTable.of(frame, what="T")
    with pytest.raises(ValueError, match=message):
        in_column_order(frame, None, what="T")
    with pytest.raises(ValueError, match=message):
        ClassTable.of(np.eye(3), attribute_names=columns, what="T")


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
    table = ClassTable.of(frame)
    assert table.names.tolist() == ["cat", "hen"]
    assert table.attribute_names.tolist() == ["legs", "wings"]
    assert table.attributes.dtype == np.float64
    np.testing.assert_array_equal(table.attributes, [[4, 0], [2, 2]])
    assert not table.numbered and len(table) == 2


CAT_HEN = {"cat": [4, 0], "hen": [2, 2]}


@pytest.mark.parametrize(
    "form",
    [
        CAT_HEN,
        {"cat": pd.Series({"l": 4, "w": 0}), "hen": pd.Series({"w": 2, "l": 2})},
        {"cat": {"l": 4, "w": 0}, "hen": {"w": 2, "l": 2}},
        (["cat", "hen"], [[4, 0], [2, 2]]),
        [np.array(["cat", "hen"]), np.array([[4, 0], [2, 2]], dtype=np.uint8)],
        (CAT_HEN.keys(), np.array(list(CAT_HEN.values()))),
        (pd.Index(["cat", "hen"]), pd.DataFrame([[4, 0], [2, 2]])),
        (["cat", "hen"], pd.DataFrame([[2, 2], [4, 0]], index=["hen", "cat"])),
        pd.DataFrame([[4, 0], [2, 2]], index=["cat", "hen"], dtype="Int64"),
        pd.DataFrame([[4, 0], [2, 2]], index=["cat", "hen"], dtype=object),
        (["cat", "hen"], np.array([[4, 0], [2, 2]], dtype=object)),
        (["cat", "hen"], scipy.sparse.csr_array([[4, 0], [2, 2]])),
        ClassTable(["cat", "hen"], [[4, 0], [2, 2]]),
        (["cat", "hen"], ClassTable(["hen", "cat"], [[2, 2], [4, 0]])),
    ],
    ids=range(14),
)
def test_every_form_gives_the_same_table(form):
    table = ClassTable.of(form)
    assert table.names.tolist() == ["cat", "hen"]
    assert table.attributes.tolist() == [[4, 0], [2, 2]]
    assert table.attributes.dtype == np.float64


def test_a_matrix_numbers_its_classes():
    for matrix in (np.eye(3), np.eye(3).tolist(), pd.DataFrame(np.eye(3))):
        table = ClassTable.of(matrix)
        assert table.numbered and table.names.tolist() == [0, 1, 2]
        assert names_or_none(table.attribute_names) is None
        assert not ClassTable.of(matrix, names=[5, 6, 7]).numbered
    # Two vectors are no pair of names and matrix.
    assert ClassTable.of([[1, 2], [3, 4]]).attributes.tolist() == [[1, 2], [3, 4]]


def test_names_that_a_frame_has_not_are_not_put_in_their_place():
    frame = pd.DataFrame({"legs": [4, 2]}, index=["cat", "hen"])
    assert ClassTable.of(frame, names=["hen", "cat"]).attributes.tolist() == [[2], [4]]
    for names in (["a", "b"], ["cat"], [0, 1]):
        with pytest.raises(ValueError, match="two sets of names"):
            ClassTable.of((names, frame) if len(names) == 2 else frame, names=names)


def test_a_table_cannot_be_changed():
    names, matrix = np.array(["a", "b"]), np.eye(2)
    table = ClassTable(names, matrix, ["x", "y"])
    matrix[0] = 7
    names[0] = "z"
    assert table.names.tolist() == ["a", "b"]
    np.testing.assert_array_equal(table.attributes, np.eye(2))
    for same in (table, copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        for array in (same.names, same.attributes, same.attribute_names):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = array[1]


def test_rows_and_equal_classes():
    table = ClassTable(["b", "a", "c"], [[1, 0], [0, 1], [1, 0]])
    assert table.rows(["c", "b", "c"]).tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match=r"classes \['d'\] are not in"):
        table.rows(["a", "d"])
    assert [names.tolist() for names in table.equal_classes()] == [["b", "c"]]


def test_a_table_grows_by_name():
    table = ClassTable.of(pd.DataFrame({"x": [1], "y": [2]}, index=["a"]))
    longer = table.extended(pd.DataFrame({"y": [4], "x": [3]}, index=["b"]))
    assert longer.names.tolist() == ["a", "b"]
    assert longer.attributes.tolist() == [[1, 2], [3, 4]]
    assert longer.attribute_names.tolist() == ["x", "y"]
    assert len(table) == 1
    with pytest.raises(ValueError, match="known already: .'a'"):
        longer.extended({"a": [1, 1]})
    with pytest.raises(ValueError, match="has 3 attributes, those of fit 2"):
        longer.extended({"c": [1, 1, 1]})


def test_columns_are_put_in_the_order_of_fit():
    frame = pd.DataFrame({"wings": [0, 2], "legs": [4, 2]}, index=["cat", "hen"])
    table = ClassTable.of(frame).with_columns_of(np.array(["legs", "wings"]))
    np.testing.assert_array_equal(table.attributes, [[4, 0], [2, 2]])
    assert table.attribute_names.tolist() == ["legs", "wings"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["a", "c"], r"missing: \['b'\], unknown: \['c'\]. Give one column for each"),
        (["a"], r"missing: \['b'\], unknown: \[\]"),
        (["a", "b", "z"], r"missing: \[\], unknown: \['z'\]"),
    ],
    ids=str,
)
def test_other_columns_are_refused_by_name(columns, message):
    frame = pd.DataFrame([[1.0] * len(columns)], columns=columns)
    with pytest.raises(ValueError, match=message):
        ClassTable.of(frame).with_columns_of(np.array(["a", "b"]))


AB = ["a", "b"]
MIXED = pd.DataFrame({"class": AB, "x": [1, 2], "y": [0, 1]})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[1, np.nan]], "nan for attribute 1 of class 0 is the first of 1"),
        (
            pd.DataFrame({"x": [1, 1], "y": [1, np.inf]}, index=AB),
            r"inf for attribute 'y' of class 'b' .*leave these classes out: \['b'\]",
        ),
        (pd.DataFrame({"x": pd.array([1, None])}, index=AB), "nan .*'x' of class 'b'"),
        ((AB, np.array([[1], [None]])), "nan for attribute 0 of class 'b'"),
        (np.full((6, 2), np.nan), r"\[0, 1, 2, 3, 4\] and more"),
        ([["furry", 1]], "must hold real numbers.*furry"),
        (np.array([["furry", 1]], dtype=object), "must hold real numbers.*furry"),
        (np.eye(2) * 1j, "must hold real numbers, got values of type complex128"),
        ([[np.datetime64("2020-01-01")]], "must hold real numbers"),
        ([1.0, 2.0], r"a row for each class.*got shape \(2,\)"),
        (np.empty((0, 2)), r"a row for each class.*got shape \(0, 2\)"),
        ([[1, 2], [3], [4]], "rows of different lengths"),
        ({"a": [1, 2], "b": [1]}, "vectors of different shapes"),
        ({"a": {"x": 1}, "b": {"y": 1}}, "class 'b' by other attributes .*'x', 'y'"),
        ({}, "empty dict"),
        ("table.csv", "must be a DataFrame indexed by class.*got str"),
        (None, "must be a DataFrame indexed by class.*got NoneType"),
        ((AB, [[1, 2]]), "a name for each of its 1 classes, got 2|looks transposed"),
        ((["a", "b", "c"], [[1], [2]]), "a name for each of its 2 classes, got 3"),
        ((AB, [[1, 2]] * 3), "it looks transposed.*give matrix.T"),
        ((np.eye(2), AB), "the other way round"),
        ((AB, [1.0, 2.0]), r"a row for each class.*got shape \(2,\)"),
        ((["a", None], np.eye(2)), "mixes strings|without a name"),
        (pd.DataFrame(np.eye(2), index=[1, np.nan]), "a class without a name"),
        (MIXED, r"no numbers: \['class'\] .*such as 'a'.*set_index\('class'\)"),
        (MIXED.set_index("class").assign(z="big"), r"\['z'\]"),
        (
            MIXED.rename(columns={"class": "Unnamed: 0"}),
            "without a name.*index_col=0",
        ),
        (
            pd.DataFrame(np.eye(2), index=AB).astype(str),
            r"numbers written as text: use table.astype\(float\)",
        ),
    ],
    ids=range(28),
)
def test_a_bad_table_is_refused_in_a_sentence(table, message):
    with pytest.raises(ValueError, match=f"(?s)^T .*({message})"):
        ClassTable.of(table, what="T")


def test_a_lost_header_is_suspected(tmp_path):
    made = np.round(np.random.default_rng(0).random((5, 4)), 1)
    path = tmp_path / "table.csv"
    frame = pd.DataFrame(made, index=list("abcde"))
    frame.to_csv(path, header=False)
    with pytest.warns(UserWarning, match="Is the header missing.*header=None"):
        ClassTable.of(pd.read_csv(path, index_col=0))
    (made > 0.5).astype(int).tofile(path)
    binary = pd.DataFrame(made > 0.5, index=list("abcde")).astype(int)
    binary.to_csv(path, header=False)
    with pytest.warns(UserWarning, match="Is the header missing"):
        ClassTable.of(pd.read_csv(path, index_col=0))
    # Read as it should be, or numbered by its writer: nothing to say.
    ClassTable.of(pd.read_csv(path, index_col=0, header=None))
    binary.to_csv(path)
    ClassTable.of(pd.read_csv(path, index_col=0))


def test_the_module_needs_numpy_alone():
    code = (
        "import sys, rezsl_sk.tables; "
        "print([m for m in ('sklearn', 'torch', 'pandas') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


# ---- labels and the table that describes them --------------------------------------


@pytest.fixture(scope="module")
def made():
    return make_zero_shot(random_state=0)


def fit(table, y, made):
    """A fast classifier with a table, on the seen classes."""
    return ESZSL(class_attributes=table).fit(made.X[made.trainval], y)


def test_labels_in_every_form_are_the_same(made):
    rows = made.labels[made.trainval]
    table = pd.DataFrame(made.attributes)
    expected = fit(table, rows, made).decision_function(made.X)
    for y in (
        rows.astype(object),
        rows.tolist(),
        pd.Series(rows).astype("Int64"),
        pd.DataFrame({"class": rows}),
        pd.Categorical(rows),
    ):
        clf = fit(table, y, made)
        np.testing.assert_array_equal(clf.decision_function(made.X), expected)
        assert clf.classes_.dtype.kind == "i"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y: np.where(np.arange(len(y)) == 3, None, y), r"None or NaN.*\[3\]"),
        (lambda y: pd.array([pd.NA, *y[1:]], dtype=object), r"None or NaN.*\[0\]"),
        (lambda y: np.array([7, *y[1:]], dtype=object), "mixes text, such as 'seen"),
    ],
    ids=["None", "NA", "mixed"],
)
def test_missing_and_mixed_labels_are_a_sentence(made, spoil, message):
    y = spoil(made.y[made.trainval].astype(object))
    table = (made.class_names, made.attributes)
    with pytest.raises(ValueError, match=f"^y .*{message}"):
        fit(table, y, made)
    with pytest.raises(ValueError, match=f"^y .*{message}"):
        next(ClassKFold(3).split(made.X[made.trainval], y))


def test_labels_that_count_from_1_are_suspected(made):
    rows = made.labels[made.trainval]  # 0 to 39 of 50
    for table in (pd.DataFrame(made.attributes), made.attributes):
        fit(table, rows, made)
        with pytest.warns(UserWarning, match="labels seem to count from 1"):
            fit(table, rows + 1, made)
        with pytest.raises(ValueError, match="The labels seem to count from 1"):
            fit(table[:40], rows + 1, made)
    # Who names the classes is believed, and the first class may be held out.
    fit((np.arange(50), made.attributes), rows + 1, made)
    named = pd.DataFrame(made.attributes)
    named.index.name = "class"
    fit(named, rows + 1, made)
    fit(made.attributes[:41], rows + 1, made)


def test_transposed_tables_are_recognised(made):
    y, rows = made.y[made.trainval], made.labels[made.trainval]
    frame = pd.DataFrame(
        made.attributes, index=made.class_names, columns=made.attribute_names
    )
    for table, labels in [
        (frame.T, y),
        (pd.DataFrame(made.attributes.T), rows),
        (made.attributes.T, rows),
    ]:
        with pytest.raises(ValueError, match="looks transposed.*Give table.T"):
            fit(table, labels, made)
    # As many columns as y has classes, and more rows: attributes by seen classes.
    seen = np.random.default_rng(0).random((85, 40))
    with pytest.warns(UserWarning, match="as many columns as y has classes.*transpose"):
        fit(seen, rows, made)
    fit((range(85), seen), rows, made)


@pytest.mark.parametrize(
    ("index", "form", "message"),
    [
        (None, "name{}", r"names no classes: index it by class \(set_index\)"),
        (pd.RangeIndex(50, name="class"), "{:03d}", "'000' and 0 are not the same.*=s"),
        ([str(i) for i in range(50)], "{:03d}", "'000' and '0' are not.*dtype=str"),
    ],
    ids=["unnamed", "numbers", "text"],
)
def test_names_that_were_read_as_numbers_are_recognised(made, index, form, message):
    y = [form.format(row) for row in made.labels[made.trainval]]
    with pytest.raises(ValueError, match=message):
        fit(pd.DataFrame(made.attributes, index=index), y, made)


def test_a_table_constant_over_the_seen_classes_is_a_sentence(made):
    table = made.attributes[:, :3].copy()
    table[made.seen_classes] = 1
    for estimator in (
        ESZSL(),
        ZeroShotClassifier(ReZSLRegressor((), max_iter=1, random_state=0)),
    ):
        estimator.set_params(class_attributes=(made.class_names, table))
        with pytest.raises(ValueError, match="no class can be told from another"):
            estimator.fit(made.X[made.trainval], made.y[made.trainval])


def test_score_warns_of_classes_that_cannot_be_named(made):
    X, y = made.X[made.trainval], made.y[made.trainval]
    clf = fit((made.class_names, made.attributes), y, made)
    assert clf.score(X, y) > 0.5
    with pytest.warns(UserWarning, match="not among the candidates: .'SEEN01'"):
        assert clf.score(X, np.char.upper(y)) == 0


def test_real_tables_raise_no_alarm(xlsa17):
    read = 0
    for folder in sorted(xlsa17.iterdir()):
        features = [p.stem for p in folder.glob("*.mat") if p.stem != "att_splits"]
        if not features:
            continue
        data = load_xlsa17(xlsa17, folder.name, features=features[0])
        labels = np.unique(data.labels[data.trainval])
        ClassTable.of(pd.DataFrame(data.attributes)).check_describes(labels)
        frame = pd.DataFrame(
            data.attributes, index=data.class_names, columns=data.attribute_names
        )
        ClassTable.of(frame).check_describes(data.class_names[labels])
        read += 1
    assert read


@pytest.mark.parametrize("name", ["emoji", "cards"])
def test_real_tables_in_files_raise_no_alarm(shared, name):
    table = pd.read_csv(shared / "data" / name / "classes.csv", index_col="class")
    seen = np.unique(table.index[table.pop("split") == "seen"].astype(str))
    table = pd.get_dummies(table).copy()
    ClassTable.of(table).check_describes(seen)
    with pytest.raises(ValueError, match=r"set_index\('class'\)"):
        ClassTable.of(table.reset_index())


def test_numbered_columns_travel_through_files(made, tmp_path):
    """Columns "0", "1", ..., "10", ... are in order, wherever they come from."""
    y, X = made.y[made.trainval], made.X[made.trainval]
    path = tmp_path / "table.csv"
    pd.DataFrame(made.attributes, index=made.class_names).to_csv(path)
    table = pd.read_csv(path, index_col=0)
    assert table.columns[10] == "10"
    cache = FeatureCache.from_arrays(tmp_path / "x.h5", X, y, class_attributes=table)
    again = pd.DataFrame(
        cache.class_attributes, index=cache.classes, columns=cache.attribute_names
    )
    expected = fit((made.class_names, made.attributes), y, made).predict(made.X)
    for frame in (table, again):
        np.testing.assert_array_equal(fit(frame, y, made).predict(made.X), expected)
        seen = fit(frame.loc[made.class_names[made.seen_classes]], y, made)
        more = seen.with_classes(frame.loc[made.class_names[made.unseen_classes]])
        np.testing.assert_array_equal(more.predict(made.X), expected)
    cache.close()


@pytest.mark.parametrize("dtype", ["float32", "Int64", "Float64"])
def test_classes_join_a_table_of_any_type(made, dtype):
    whole = pd.DataFrame((made.attributes * 100).round(), index=made.class_names)
    known = whole.loc[made.class_names[made.seen_classes]].astype(dtype)
    new = whole.loc[made.class_names[made.unseen_classes]] + 0.5
    clf = fit(known, made.y[made.trainval], made).with_classes(new)
    np.testing.assert_array_equal(clf.class_attributes.attributes[len(known) :], new)
    assert clf.class_attributes.names.tolist() == [*known.index, *new.index]
    clone(clf).fit(made.X[made.trainval], made.y[made.trainval])


def float32_products(data):
    """A table computed in float32, with a column that varies by its rounding alone."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(data.attributes.shape[1], 8)).astype(np.float32)
    table = data.attributes.astype(np.float32) @ mixing
    noise = np.float32(0.1) * (1 + np.finfo(np.float32).eps * rng.integers(0, 3, 50))
    return np.column_stack([table, noise.astype(np.float32)])


@pytest.mark.parametrize("form", ["pair", "frame", "table"])
def test_rounding_of_a_float32_table_is_no_variation(form):
    data = make_zero_shot(random_state=0)
    matrix = float32_products(data)
    table = {
        "pair": (data.class_names, matrix),
        "frame": pd.DataFrame(matrix, index=data.class_names),
        "table": ClassTable(data.class_names, matrix),
    }[form]
    X, y = data.X[data.trainval].astype(np.float64), data.y[data.trainval]
    for model in (
        ZeroShotClassifier(ReZSLRegressor((), max_iter=1, random_state=0)),
        ESZSL(),
    ):
        model.class_attributes = table
        assert model.fit(X, y).constant_attributes_.tolist() == [8]


def test_a_table_is_as_precise_as_its_coarser_part():
    narrow = ClassTable(["a"], np.ones((1, 2), dtype=np.float32))
    wide = ClassTable(["b"], np.ones((1, 2)))
    assert (narrow.precision, wide.precision) == (np.float32, np.float64)
    assert narrow.extended(wide).precision == np.float32
    assert wide.extended(narrow).precision == np.float32
    assert ClassTable.of(narrow, names=["a"]).precision == np.float32
    assert ClassTable.of({"a": [1.0, 2.0]}).precision == np.float64
    mixed = pd.DataFrame({"x": np.ones(2, "f4"), "y": np.ones(2)}, index=["a", "b"])
    assert ClassTable.of(mixed).precision == np.float64
    assert narrow.attributes.dtype == np.float64
