"""Metrics against slow loops, brute-force sweeps and the public reference."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rezsl_sk import metrics
from rezsl_sk.decoding import stack_calibrated
from rezsl_sk.metrics import (
    gzsl_report,
    harmonic_mean,
    imbalance_report,
    mean_per_class_accuracy,
    seen_unseen_curve,
)


def slow_accuracy(y_true, y_pred):
    hits, count = {}, {}
    for t, p in zip(y_true, y_pred, strict=True):
        hits[t] = hits.get(t, 0) + (t == p)
        count[t] = count.get(t, 0) + 1
    return sum(hits[c] / count[c] for c in count) / len(count)


# ---- accuracy ----------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 6)), min_size=1, max_size=40),
    st.sampled_from([int, "class {}".format]),
)
def test_accuracy_against_a_loop(pairs, name):
    y_true = [name(t) for t, _ in pairs]
    y_pred = [name(p) for _, p in pairs]
    assert mean_per_class_accuracy(y_true, y_pred) == pytest.approx(
        slow_accuracy(y_true, y_pred), abs=1e-12
    )


def test_accuracy_is_not_won_by_the_large_class():
    assert mean_per_class_accuracy([0] * 99 + [1], [0] * 100) == 0.5


def test_accuracy_counts_only_classes_that_are_there():
    """A class that is predicted but never true has no accuracy of its own."""
    assert mean_per_class_accuracy(["a", "b"], ["a", "z"]) == 0.5


def test_accuracy_of_names_of_other_lengths_and_types():
    y_true = np.array(["cat", "horse"])
    assert mean_per_class_accuracy(y_true, np.array(["ca", "ho"])) == 0
    assert mean_per_class_accuracy(y_true, y_true.astype(object)) == 1
    assert mean_per_class_accuracy(pd.Series(y_true), y_true.tolist()) == 1


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([], [], "accuracy needs at least one sample, got none"),
        ([1, 2], [1], "inconsistent numbers of samples"),
        (np.eye(2), [0, 1], "1d array"),
    ],
    ids=["empty", "length", "2-D"],
)
def test_accuracy_refuses_in_a_sentence(y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        mean_per_class_accuracy(y_true, y_pred)


MASKED = np.ma.array([0, 1], mask=[False, True])


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        (["a"], [0], "names such as 'a' and y_pred holds numbers such as 0"),
        ([0, 1], ["0", "1"], "numbers such as 0 and y_pred holds names such as '0'"),
        ([b"a"], ["a"], "bytes such as b'a' and y_pred holds names"),
        (np.array(["2020-01-01"], "M8[D]"), ["2020-01-01"], "dates such as"),
        (np.array(["a"], object), [True], "names such as 'a' and y_pred holds numb"),
        (np.array(["a", 1], object), ["a", "b"], "of one kind.*names, numbers"),
        (np.array(["a", None], object), ["a", "b"], "missing labels, names"),
        (pd.Series([1, None], dtype="Int64"), [1, 2], "whole numbers, got nan"),
        ([0.0, np.nan], [0, 1], "names or whole numbers, got nan"),
        ([0.5, 1.0], [0, 1], "names or whole numbers, got 0.5"),
        (np.array([0.5, 1], object), [0, 1], "names or whole numbers, got 0.5"),
        ([0, 1], [np.inf, 1], "y_pred must hold.*got inf"),
        ([1j, 0], [0, 1], "Complex data not supported"),
        (MASKED, [0, 1], "y_true has masked values"),
        ([0, 1], MASKED, "y_pred has masked values"),
    ],
)
def test_labels_that_cannot_be_equal_or_are_missing_are_refused(
    y_true, y_pred, message
):
    with pytest.raises(ValueError, match=message):
        mean_per_class_accuracy(y_true, y_pred)


@pytest.mark.parametrize(
    "y_pred",
    [
        [0.0, 1.0],
        np.array([0, 1], dtype=np.uint8),
        [False, True],
        np.array([0, 1], dtype=object),
        np.ma.array([0, 1]),
        pd.Series([0, 1], dtype="Int64"),
        pd.Series([0, 1], dtype="category"),
    ],
)
def test_numbers_of_any_type_are_labels_of_one_kind(y_pred):
    assert mean_per_class_accuracy([0, 1], y_pred) == 1
    assert mean_per_class_accuracy(y_pred, [0, 1]) == 1


@pytest.mark.parametrize(
    ("seen", "unseen", "message"),
    [
        (np.nan, 0.5, "seen holds nan"),
        (0.5, [0.1, -0.5], "unseen holds -0.5"),
        ("0.5", 0.5, "seen must hold real numbers"),
        (0.5, 1j, "unseen must hold real numbers"),
        (None, 0.5, "seen holds nan"),
        (np.ma.array([0.5, 0.1], mask=[True, False]), 0.5, "masked"),
        ([[0.5], [0.1, 0.2]], 0.5, "seen cannot be read as an array"),
    ],
)
def test_accuracies_that_are_none_have_no_harmonic_mean(seen, unseen, message):
    with pytest.raises(ValueError, match=message):
        harmonic_mean(seen, unseen)


@given(st.floats(0, 1), st.floats(0, 1))
def test_harmonic_mean_against_its_definition(a, b):
    H = harmonic_mean(a, b)
    assert isinstance(H, float)
    expected = 0 if min(a, b) < 1e-300 else 2 / (1 / a + 1 / b)
    assert H == pytest.approx(expected, abs=1e-12)


def test_harmonic_mean_of_arrays_is_zero_where_both_are():
    H = harmonic_mean([0.0, 0.0, 0.5], [[0.0], [1.0]])
    np.testing.assert_allclose(H, [[0, 0, 0], [0, 0, 2 / 3]])


# ---- the seen-unseen curve -------------------------------------------------------


def slow_point(y_true, scores, seen, penalty):
    """Seen and unseen accuracy at one penalty: predictions made one by one."""
    names = []
    for row in scores:
        best = None
        for k in [*np.flatnonzero(~seen), *np.flatnonzero(seen)]:  # unseen win ties
            score = float(row[k]) - (penalty if seen[k] else 0)
            if best is None or score > best[0]:
                best = score, k
        names.append(best[1])
    sides = []
    for side in (True, False):
        rows = [i for i, t in enumerate(y_true) if seen[t] == side]
        sides.append(slow_accuracy([y_true[i] for i in rows], [names[i] for i in rows]))
    return sides


def slow_ausuc(y_true, scores, seen):
    """Trapezoid over a point between any two penalties where anything can change."""
    differences = {
        float(s) - float(u) for row in scores for s in row[seen] for u in row[~seen]
    }
    changes = sorted(differences)
    between = [(a + b) / 2 for a, b in zip(changes, changes[1:], strict=False)]
    penalties = [changes[0] - 1, *between, changes[-1] + 1]
    points = [slow_point(y_true, scores, seen, p) for p in penalties]
    area = 0.0
    for (s0, u0), (s1, u1) in zip(points, points[1:], strict=False):
        area += (u1 - u0) * (s0 + s1) / 2
    return area


@st.composite
def problems(draw):
    """y, scores with many ties and exact differences, seen; both sides occur."""
    k = draw(st.integers(2, 5))
    n = draw(st.integers(2, 14))
    others = draw(st.lists(st.booleans(), min_size=k - 2, max_size=k - 2))
    seen = np.array(draw(st.permutations([True, False, *others])))
    columns = st.integers(0, k - 1)
    y = draw(st.lists(columns, min_size=n - 2, max_size=n - 2))
    y = [int(np.argmax(seen)), int(np.argmin(seen)), *y]
    step = draw(st.sampled_from([1.0, 0.5, 0.125]))
    levels = draw(st.sampled_from([1, 3, 20]))
    row = st.lists(st.integers(-levels, levels), min_size=k, max_size=k)
    scores = np.array(draw(st.lists(row, min_size=n, max_size=n))) * step
    return y, scores.astype(draw(st.sampled_from([np.float32, np.float64]))), seen


@settings(deadline=None)
@given(problems())
def test_curve_against_a_brute_force_sweep(problem):
    y, scores, seen = problem
    curve = seen_unseen_curve(y, scores, seen)
    # On every change of a prediction, and on both sides of it.
    changes = np.unique(scores[:, seen].max(axis=1) - scores[:, ~seen].max(axis=1))
    np.testing.assert_array_equal(curve.penalty, [-np.inf, *changes])
    for penalty in [*changes, *(changes - 0.03125), *(changes + 0.03125)]:
        assert curve.at(penalty) == pytest.approx(
            slow_point(y, scores, seen, float(penalty)), abs=1e-12
        )


@settings(deadline=None)
@given(problems())
def test_area_against_a_direct_trapezoid(problem):
    assert seen_unseen_curve(*problem).ausuc == pytest.approx(
        slow_ausuc(*problem), abs=1e-12
    )


@settings(deadline=None)
@given(problems())
def test_curve_is_monotone_and_has_both_ends(problem):
    y, scores, seen = problem
    curve = seen_unseen_curve(y, scores, seen)
    assert (np.diff(curve.penalty) > 0).all()
    assert (np.diff(curve.seen) <= 0).all()
    assert (np.diff(curve.unseen) >= 0).all()
    assert 0 <= curve.seen.min() <= curve.seen.max() <= 1
    assert 0 <= curve.unseen.min() <= curve.unseen.max() <= 1
    # Everything seen at the start, everything unseen at the end.
    assert curve.seen[-1] == 0 == curve.unseen[0]
    first = slow_point(y, scores, seen, -1e3)
    last = slow_point(y, scores, seen, 1e3)
    assert (curve.seen[0], curve.unseen[-1]) == pytest.approx(
        (first[0], last[1]), abs=1e-12
    )
    assert curve.at(-np.inf) == (curve.seen[0], curve.unseen[0])
    assert curve.at(np.inf) == (curve.seen[-1], curve.unseen[-1])


@settings(deadline=None)
@given(problems(), st.integers(-40, 40))
def test_a_point_is_the_argmax_of_calibrated_scores(problem, eighths):
    y, scores, seen = problem
    y, penalty = np.array(y), eighths / 8
    order = np.argsort(seen, kind="stable")  # unseen columns first: they win ties
    stacked = stack_calibrated(scores, seen, penalty)
    names = order[stacked[:, order].argmax(axis=1)]
    of_seen = seen[y]
    assert seen_unseen_curve(y, scores, seen).at(penalty) == pytest.approx(
        (
            mean_per_class_accuracy(y[of_seen], names[of_seen]),
            mean_per_class_accuracy(y[~of_seen], names[~of_seen]),
        ),
        abs=1e-12,
    )


def test_equal_margins_flip_together():
    """A straight segment of area 1/2, not a staircase of area 0 or 1."""
    scores = [[0.5, 0.25]] * 4
    curve = seen_unseen_curve([0, 1, 0, 1], scores, [True, False])
    assert curve.penalty.tolist() == [-np.inf, 0.25]
    assert curve.seen.tolist() == [1, 0]
    assert curve.unseen.tolist() == [0, 1]
    assert curve.ausuc == 0.5


def test_at_equality_the_unseen_class_wins():
    curve = seen_unseen_curve([0, 1], [[0.75, 0.5]] * 2, [True, False])
    assert curve.at(np.nextafter(0.25, 0)) == (1, 0)
    assert curve.at(0.25) == (0, 1)


def test_a_curve_is_read_at_many_penalties():
    scores = [[0.75, 0.5], [0.5, 0.5]]
    curve = seen_unseen_curve([0, 1], scores, [True, False])
    S, U = curve.at([-1.0, 0.0, 0.125, 0.25])
    assert S.tolist() == [1, 1, 1, 0]
    assert U.tolist() == [0, 1, 1, 1]
    np.testing.assert_array_equal(curve.harmonic_mean, [0, 1, 0])


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint8])
def test_scores_of_other_types_are_compared_without_overflow(dtype):
    scores = np.array([[100, 27], [3, 120], [5, 120]]).astype(dtype)
    curve = seen_unseen_curve([0, 1, 1], scores, [True, False])
    assert curve.penalty.tolist() == [-np.inf, -117, -115, 73]


BAD_PENALTIES = [np.nan, None, "0.1", 1j, True, [0.1, np.nan], ["a"], object()]


@pytest.mark.parametrize("penalty", BAD_PENALTIES)
def test_a_penalty_that_is_no_number_is_refused(penalty):
    scores, seen = [[0.75, 0.5], [0.5, 0.5]], [True, False]
    curve = seen_unseen_curve([0, 1], scores, seen)
    with pytest.raises(ValueError, match="penalty must"):
        curve.at(penalty)
    with pytest.raises(ValueError, match="penalty must"):
        gzsl_report([0, 1], scores, seen, penalty=penalty)


def test_a_report_is_at_one_penalty():
    with pytest.raises(ValueError, match=r"penalty must be one number, got \[0.1, 0.2"):
        gzsl_report([0, 1], np.eye(2), [True, False], penalty=[0.1, 0.2])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.eye(2) * 1j, "scores must hold real numbers, got dtype complex128"),
        ([["0.5", "1"], ["1", "0"]], "scores must hold real numbers, got dtype <U3"),
        (np.array([["0.5", 1], [1, 0]], object), "real numbers, got dtype object"),
        (np.ma.array(np.eye(2), mask=np.eye(2) > 0), "scores has masked values"),
        (torch.eye(2, requires_grad=True), "scores cannot be read as an array.*detach"),
        ([[1, 0], [1]], "scores cannot be read as an array"),
        (np.array([[0, None], [1, 0]], object), "missing or infinite"),
        (np.eye(2).astype("M8[s]"), "real numbers, got dtype datetime64"),
    ],
)
def test_scores_that_are_no_real_numbers_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        seen_unseen_curve([0, 1], scores, [True, False])


@pytest.mark.parametrize(
    "scores", [np.eye(2, dtype=object), torch.eye(2), pd.DataFrame(np.eye(2))]
)
def test_scores_of_any_container_are_read(scores):
    assert seen_unseen_curve([0, 1], scores, [True, False]).ausuc == 1


@pytest.mark.parametrize(
    "y_true", [MASKED, [0.0, np.nan], ["a", "b"], [0, None], [1j, 0], [True, False]]
)
def test_columns_that_are_none_are_refused(y_true):
    with pytest.raises(ValueError, match="y_true|Complex data not supported"):
        seen_unseen_curve(y_true, np.eye(2), [True, False])


def test_margins_beyond_the_largest_number_are_the_largest():
    scores = [[1.7e308, -1.7e308], [-1.7e308, 1.7e308], [0.0, 1.0]]
    curve = seen_unseen_curve([0, 1, 1], scores, [True, False])
    limit = np.finfo(float).max
    assert curve.penalty.tolist() == [-np.inf, -limit, -1, limit]
    assert curve.at(0.0) == (1, 1)


@pytest.mark.parametrize(
    ("S_true", "S_pred", "classes", "message"),
    [
        (np.eye(2) * 1j, np.eye(2), None, "S_true must hold real numbers"),
        ([["1", "0"]] * 2, np.eye(2), None, "S_true must hold real numbers"),
        (np.eye(2), np.ma.array(np.eye(2), mask=np.eye(2) > 0), None, "S_pred has ma"),
        (np.eye(2), np.eye(2), MASKED, "classes has masked values"),
        (np.eye(2), np.eye(2), [0, np.nan], "classes must hold"),
        (np.eye(2), np.eye(2) * 1e200, None, "go up to 1e.200.*overflow; rescale"),
    ],
)
def test_imbalance_of_what_is_none_is_refused(S_true, S_pred, classes, message):
    with pytest.raises(ValueError, match=message):
        imbalance_report(S_true, S_pred, classes)


# ---- the report --------------------------------------------------------------------


@settings(deadline=None)
@given(problems(), st.integers(-40, 40))
def test_report_against_the_loops(problem, eighths):
    y, scores, seen = problem
    report = gzsl_report(y, scores, seen, penalty=eighths / 8)
    S, U = slow_point(y, scores, seen, eighths / 8)
    H = 2 * S * U / (S + U) if S + U else 0
    assert (report.S, report.U, report.H) == pytest.approx((S, U, H), abs=1e-12)
    assert report.penalty == eighths / 8
    assert report.AUSUC == pytest.approx(slow_ausuc(y, scores, seen), abs=1e-12)


@settings(deadline=None)
@given(problems())
def test_the_oracle_is_the_best_point_and_is_named(problem):
    y, scores, seen = problem
    report = gzsl_report(y, scores, seen)
    margins = scores[:, seen].max(axis=1) - scores[:, ~seen].max(axis=1)
    points = [slow_point(y, scores, seen, float(m)) for m in margins]
    best = max(2 * S * U / (S + U) if S + U else 0 for S, U in points)
    assert report.oracle_H == pytest.approx(best, abs=1e-12)
    at_oracle = gzsl_report(y, scores, seen, penalty=report.oracle_penalty)
    assert at_oracle.H == report.oracle_H
    assert report.H <= report.oracle_H


def test_report_holds_plain_floats():
    report = gzsl_report([0, 1], [[0.9, 0.5], [0.7, 0.6]], [True, False], penalty=1)
    assert {type(value) for value in vars(report).values()} == {float}


def test_report_and_the_public_sweep(shared):
    """The reference sweeps the penalty by steps of 0.01: AUSUC 0.37800, not 0.37803."""
    golden = np.load(shared / "golden" / "remse_reference.npz")
    seen = np.isin(np.arange(10), golden["g_seen"])
    labels, scores = golden["g_labels"], golden["g_scores"]
    report = gzsl_report(labels, scores, seen)
    assert report.S == pytest.approx(golden["g_acc_seen_at0"], abs=1e-9)
    assert report.U == pytest.approx(golden["g_acc_unseen_at0"], abs=1e-9)
    assert report.oracle_H == pytest.approx(golden["g_bestH"], abs=1e-9)
    S, U = seen_unseen_curve(labels, scores, seen).at(report.oracle_penalty)
    assert S == pytest.approx(golden["g_bestS"], abs=1e-9)
    assert U == pytest.approx(golden["g_bestU"], abs=1e-9)
    assert golden["g_ausuc"] == pytest.approx(0.378004, abs=1e-6)
    assert report.AUSUC == pytest.approx(0.378033, abs=1e-6)


# ---- score matrices that do not fit ------------------------------------------------


class Blocks:
    """A score matrix that is only ever read in slices of rows, and counts them."""

    def __init__(self, scores):
        self.scores, self.shape, self.ndim = scores, scores.shape, 2
        self.sizes = []

    def __getitem__(self, rows):
        block = self.scores[rows]
        self.sizes.append(len(block))
        return block


@pytest.fixture(scope="module")
def random_problem():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(101, 8)).astype(np.float32)
    return rng.integers(8, size=101), scores, np.arange(8) % 3 > 0


def assert_same_curve(one, other):
    np.testing.assert_array_equal(one.penalty, other.penalty)
    np.testing.assert_array_equal(one.seen, other.seen)
    np.testing.assert_array_equal(one.unseen, other.unseen)
    assert one.ausuc == other.ausuc


@pytest.mark.parametrize(
    ("entries", "rows"), [(1, 1), (8, 1), (100, 12), (807, 100), (808, 101)]
)
def test_scores_are_read_in_blocks(random_problem, monkeypatch, entries, rows):
    y, scores, seen = random_problem
    expected = seen_unseen_curve(y, scores, seen)
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", entries)
    blocks = Blocks(scores)
    assert_same_curve(seen_unseen_curve(y, blocks, seen), expected)
    assert blocks.sizes == [min(rows, 101 - start) for start in range(0, 101, rows)]


def test_scores_on_disk(random_problem, monkeypatch, tmp_path):
    y, scores, seen = random_problem
    expected = seen_unseen_curve(y, scores, seen)
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", 100)
    scores.tofile(tmp_path / "scores.bin")
    mapped = np.memmap(tmp_path / "scores.bin", scores.dtype, "r", shape=scores.shape)
    assert_same_curve(seen_unseen_curve(y, mapped, seen), expected)
    with h5py.File(tmp_path / "scores.h5", "w") as file:
        stored = file.create_dataset("scores", data=scores, chunks=(7, 8))
        assert_same_curve(seen_unseen_curve(y, stored, seen), expected)
        assert gzsl_report(y, stored, seen) == gzsl_report(y, scores, seen)


@pytest.mark.parametrize("form", [list, tuple, pd.DataFrame], ids=lambda f: f.__name__)
def test_the_form_of_the_scores_does_not_matter(random_problem, form):
    y, scores, seen = random_problem
    expected = seen_unseen_curve(y, scores, seen)
    assert_same_curve(
        seen_unseen_curve(y.tolist(), form(scores), seen.tolist()), expected
    )


def test_a_million_samples():
    rng = np.random.default_rng(0)
    n, k = 1_000_000, 20
    y, seen = rng.integers(k, size=n), np.arange(k) < 12
    scores = rng.random((n, k), dtype=np.float32)
    scores[np.arange(n), y] += np.float32(0.25)
    report = gzsl_report(y, scores, seen, penalty=0.125)
    scores[:, seen] -= np.float32(0.125)
    names = scores.argmax(axis=1)
    of_seen = seen[y]
    S = mean_per_class_accuracy(y[of_seen], names[of_seen])
    U = mean_per_class_accuracy(y[~of_seen], names[~of_seen])
    # float32 rounds some of the two million differences: a few rows may flip.
    assert (report.S, report.U) == pytest.approx((S, U), abs=1e-5)
    assert report.S * report.U < report.AUSUC < 1


@pytest.mark.parametrize(
    ("y", "scores", "seen", "message"),
    [
        ([0, 1], np.eye(2), [True], r"got shapes \(2, 2\) and \(1,\) \(bool\)"),
        ([0, 1], np.eye(2), [0, 1], r"seen must be k booleans, .* \(int64\)"),
        ([0, 1], [1.0, 2.0], [True, False], r"scores must have shape \(n, k\)"),
        ([0], np.eye(2), [True, False], "y_true has 1 entries for 2 rows of scores"),
        ([0, 2], np.eye(2), [True, False], "column numbers .* integers from 0 to 1"),
        ([-1, 1], np.eye(2), [True, False], "column numbers of scores"),
        ([0.0, 1.0], np.eye(2), [True, False], "column numbers of scores"),
        (["a", "b"], np.eye(2), [True, False], "column numbers of scores"),
        ([0, 0], np.eye(2), [True, False], "samples of seen and of unseen.*2 and 0"),
        ([1, 1], np.eye(2), [True, False], "got 0 and 2"),
        ([0, 1], np.eye(2), [True, True], "got 2 and 0"),
        ([0, 1], [[1, 0], [np.nan, 1]], [True, False], "infinite values in rows 0 to"),
        ([0, 1], [[1, 0], [np.inf, 1]], [True, False], "must be finite"),
    ],
)
@pytest.mark.parametrize("function", [seen_unseen_curve, gzsl_report])
def test_bad_scores_are_refused_in_a_sentence(function, y, scores, seen, message):
    with pytest.raises(ValueError, match=message):
        function(y, scores, seen)


def test_the_rows_of_missing_scores_are_named(random_problem, monkeypatch):
    y, scores, seen = random_problem
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", 80)
    broken = scores.copy()
    broken[37, 2] = np.nan
    with pytest.raises(ValueError, match="values in rows 30 to 39; all must be finite"):
        seen_unseen_curve(y, broken, seen)


# ---- the imbalance report -----------------------------------------------------------


@pytest.fixture(scope="module")
def regression():
    """Prototypes, class of each row, truth, prediction; classes of unequal size."""
    rng = np.random.default_rng(0)
    prototypes = rng.random((6, 4))
    y = rng.permutation(np.repeat(np.arange(6), [1, 2, 3, 5, 8, 13]))
    return prototypes, y, prototypes[y], prototypes[y] + rng.normal(size=(32, 4))


def test_errors_against_a_loop(regression):
    prototypes, y, S_true, S_pred = regression
    report = imbalance_report(S_true, S_pred, y)
    for k in range(6):
        for j in range(4):
            squares = [
                (S_true[i, j] - S_pred[i, j]) ** 2 for i in range(32) if y[i] == k
            ]
            assert report.error[k, j] == pytest.approx(sum(squares) / len(squares))
    np.testing.assert_array_equal(report.prototypes, prototypes)
    for k in range(6):
        assert report.class_error[k] == pytest.approx(sum(report.error[k]) / 4)
    for j in range(4):
        assert report.attribute_error[j] == pytest.approx(sum(report.error[:, j]) / 6)
    assert report.mean == pytest.approx(sum(report.class_error) / 6)


def test_variation_is_deviation_over_mean(regression):
    report = imbalance_report(regression[2], regression[3], regression[1])
    for variation, errors in [
        (report.attribute_variation, report.attribute_error.tolist()),
        (report.class_variation, report.class_error.tolist()),
    ]:
        mean = sum(errors) / len(errors)
        square = sum((e - mean) ** 2 for e in errors) / len(errors)
        assert variation == pytest.approx(square**0.5 / mean)


def test_correlations_run_along_the_axis_they_name(regression):
    report = imbalance_report(regression[2], regression[3], regression[1])
    prototypes, error = report.prototypes, report.error
    np.testing.assert_allclose(
        report.pearson_over_classes,
        [np.corrcoef(prototypes[:, j], error[:, j])[0, 1] for j in range(4)],
    )
    np.testing.assert_allclose(
        report.pearson_over_attributes,
        [np.corrcoef(prototypes[k], error[k])[0, 1] for k in range(6)],
    )


def test_without_classes_the_distinct_rows_are_the_classes(regression):
    prototypes, y, S_true, S_pred = regression
    report = imbalance_report(S_true, S_pred)
    order = np.lexsort(prototypes.T[::-1])
    named = imbalance_report(S_true, S_pred, y)
    np.testing.assert_array_equal(report.prototypes, prototypes[order])
    np.testing.assert_allclose(report.error, named.error[order])


def test_named_classes_are_sorted_by_name(regression):
    prototypes, y, S_true, S_pred = regression
    names = np.array(["f", "e", "d", "c", "b", "a"])
    report = imbalance_report(S_true, S_pred, names[y])
    np.testing.assert_array_equal(report.prototypes, prototypes[::-1])


def test_classes_with_equal_attributes_stay_two():
    report = imbalance_report(np.ones((2, 2)), [[1, 1], [3, 1]], ["a", "b"])
    np.testing.assert_array_equal(report.error, [[0, 0], [4, 0]])


def test_correlation_is_missing_where_an_attribute_is_constant():
    """Also where the mean of equal values is not, in floating point, that value."""
    prototypes = np.array([[0.1, 0.0], [0.1, 1.0], [0.1, 3.0]])
    y = np.repeat([0, 1, 2], [3, 1, 1000])
    rng = np.random.default_rng(0)
    report = imbalance_report(prototypes[y], rng.normal(size=(1004, 2)), y)
    assert np.isnan(report.pearson_over_classes).tolist() == [True, False]
    np.testing.assert_array_equal(report.prototypes, prototypes)


def test_correlation_is_missing_where_the_error_is_constant():
    S = np.array([[0.1, 0.0], [0.7, 1.0], [0.3, 3.0]])
    report = imbalance_report(S, S + np.array([[0.5, 0.3]]))
    assert np.isnan(report.pearson_over_classes).all()
    assert not np.isnan(report.pearson_over_attributes).any()


def test_correlation_of_small_variation_on_a_large_value_is_not_missing():
    S = 1e6 + np.array([[0.0], [1.0], [2.0]])
    error = np.array([[1.0], [2.0], [3.0]])
    report = imbalance_report(S, S + error, ["a", "b", "c"])
    np.testing.assert_allclose(
        report.pearson_over_classes,
        np.corrcoef(S[:, 0], error[:, 0] ** 2)[0, 1],
        rtol=1e-6,
    )


def test_no_error_is_perfectly_even(regression):
    report = imbalance_report(regression[2], regression[2])
    assert report.mean == report.attribute_variation == report.class_variation == 0


@pytest.mark.parametrize(
    ("S_true", "S_pred", "classes", "message"),
    [
        (np.eye(2), np.eye(3), None, r"shape \(2, 2\) and S_pred has shape \(3, 3\);"),
        (np.eye(2), [[1, np.nan], [0, 0]], None, "S_pred contains NaN"),
        ([[1, np.inf], [0, 0]], np.eye(2), None, "S_true contains infinity"),
        (np.eye(2), np.eye(2), [1], "inconsistent numbers of samples"),
        (np.eye(2), np.eye(2), [[0, 1], [1, 0]], "1d array"),
        (np.ones(2), np.ones(2), None, "Expected 2D array"),
    ],
    ids=["shape", "missing", "infinite", "length", "2-D classes", "1-D"],
)
def test_bad_attributes_are_refused_in_a_sentence(S_true, S_pred, classes, message):
    with pytest.raises(ValueError, match=message):
        imbalance_report(S_true, S_pred, classes)
