"""Decoding against slow loops: cosine, euclidean, ties, blocks, calibrated stacking."""

import math
from fractions import Fraction

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist
from scipy.special import softmax

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier, decoding
from rezsl_sk.baselines import ALE, ESZSL
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.decoding import (
    highest_calibrated,
    nearest_prototype,
    prototype_scores,
    relative_scores,
    stack_calibrated,
    top_k,
)
from rezsl_sk.metrics import gzsl_report
from rezsl_sk.model_selection import gzsl_scorer
from rezsl_sk.streaming import predict_to_hdf5


def slow_score(p, q, metric):
    """Cosine, or minus the distance, of two lists of floats."""
    if metric == "euclidean":
        return -math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True)))
    lengths = math.hypot(*p) * math.hypot(*q)
    return math.fsum(a * b for a, b in zip(p, q, strict=True)) / (lengths or 1)


def slow_scores(predictions, prototypes, metric):
    return np.array(
        [
            [slow_score(p, q, metric) for q in prototypes.tolist()]
            for p in predictions.tolist()
        ]
    )


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 7)), rng.normal(size=(11, 7))


# ---- scores ------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_against_a_loop(pair, metric, dtype):
    predictions, prototypes = (part.astype(dtype) for part in pair)
    scores = prototype_scores(predictions, prototypes, metric=metric)
    assert scores.dtype == dtype
    np.testing.assert_allclose(
        scores,
        slow_scores(predictions, prototypes, metric),
        atol=1e-12 if dtype == np.float64 else 1e-5,
    )


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (np.float32, np.float32, np.float32),
        (np.float32, np.float64, np.float64),
        (np.float64, np.float32, np.float64),
        (np.int64, np.float32, np.float64),
        (np.float16, np.float16, np.float64),
    ],
)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_precision_of_scores(left, right, expected, metric):
    scores = prototype_scores(
        np.eye(3).astype(left), np.eye(3).astype(right), metric=metric
    )
    assert scores.dtype == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("end", ["tiny", "huge"])
def test_cosine_of_extreme_lengths(pair, dtype, end):
    """Their squares are zero or infinite."""
    predictions, prototypes = (np.sign(part).astype(dtype) for part in pair)
    info = np.finfo(dtype)
    size = info.tiny if end == "tiny" else info.max / 1000
    np.testing.assert_allclose(
        prototype_scores(predictions * size, prototypes * size),
        prototype_scores(predictions, prototypes),
        atol=1e-5,
    )


def test_cosine_of_an_all_zero_prediction_is_zero_with_everything(pair):
    assert not prototype_scores(np.zeros((2, 7)), pair[1]).any()


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_distances_do_not_depend_on_the_origin(pair, offset):
    """In float32, a^2 - 2ab + b^2 of raw years or grams has no digits left."""
    predictions, prototypes = (
        np.round(part * 16).astype(np.float32) + np.float32(offset) for part in pair
    )
    np.testing.assert_allclose(
        prototype_scores(predictions, prototypes, metric="euclidean"),
        slow_scores(predictions, prototypes, "euclidean"),
        rtol=1e-4,
    )


@pytest.mark.parametrize("dtype, size", [("f4", 1e18), ("f8", 1e153)])
def test_distances_whose_squares_overflow_are_refused(pair, dtype, size):
    predictions, prototypes = (
        (part / np.abs(part).max()).astype(dtype) for part in pair
    )
    expected = nearest_prototype(predictions, prototypes, metric="euclidean")
    large = [(part * size).astype(dtype) for part in (predictions, prototypes)]
    np.testing.assert_array_equal(
        nearest_prototype(*large, metric="euclidean"), expected
    )
    with pytest.raises(ValueError, match="overflow"):
        nearest_prototype(large[0] * 4, large[1], metric="euclidean")


def test_distances_are_of_the_wider_precision():
    nearest = nearest_prototype(
        [[0.0, 2e20]], np.array([[1e20, 0], [0, 1e20]], "f4"), metric="euclidean"
    )
    assert nearest.tolist() == [1]


def test_euclidean_knows_an_all_zero_prototype():
    prototypes = [[0.0, 0.0], [3.0, 4.0]]
    np.testing.assert_allclose(
        prototype_scores([[3.0, 4.0]], prototypes, metric="euclidean"), [[-5, 0]]
    )


# ---- the nearest -----------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_against_a_loop(pair, metric, dtype):
    predictions, prototypes = (part.astype(dtype) for part in pair)
    best = slow_scores(predictions, prototypes, metric).argmax(axis=1)
    nearest = nearest_prototype(predictions, prototypes, metric=metric)
    assert nearest.dtype == np.intp
    np.testing.assert_array_equal(nearest, best)


def test_the_metrics_differ_where_lengths_do():
    prototypes = [[10.0, 1.0], [0.5, 1.0]]
    assert nearest_prototype([[1.0, 0.5]], prototypes).tolist() == [0]
    assert nearest_prototype([[1.0, 0.5]], prototypes, metric="euclidean").tolist() == [
        1
    ]


@settings(deadline=None)
@given(
    arrays(np.float64, (6, 2), elements=st.integers(-2, 2)),
    arrays(np.float64, (5, 2), elements=st.integers(-2, 2)),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_first_of_equally_near_ones_by_distance(predictions, prototypes, dtype):
    """On a small integer grid, where most distances have ties and all are exact."""
    expected = [
        min(range(5), key=lambda k, p=p: (np.square(p - prototypes[k]).sum(), k))
        for p in predictions
    ]
    nearest = nearest_prototype(
        predictions.astype(dtype), prototypes.astype(dtype), metric="euclidean"
    )
    assert nearest.tolist() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_of_equally_near_ones_by_angle(dtype):
    prototypes = np.array([[0, 1], [1, 0], [2, 0], [0, 4]], dtype=dtype)
    predictions = np.array([[5, 0], [1, 1], [0, 3], [0, 0], [-1, -1]], dtype=dtype)
    assert nearest_prototype(predictions, prototypes).tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "names", [list("abcdefghijk"), np.arange(11) * 10, tuple("kjihgfedcba")], ids=str
)
def test_nearest_gives_the_names_it_is_given(pair, names):
    nearest = nearest_prototype(*pair)
    assert nearest_prototype(*pair, names).tolist() == [names[k] for k in nearest]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("entries", [1, 11, 23, 659])
def test_nearest_in_blocks(pair, monkeypatch, metric, entries):
    """Blocks of one row, of one, of two, and of all but one."""
    expected = nearest_prototype(*pair, metric=metric)
    sizes, whole = [], decoding._scorer

    def spy(prototypes, metric):
        def score(predictions):
            sizes.append(len(predictions))
            return whole(prototypes, metric)(predictions)

        return score

    monkeypatch.setattr(decoding, "BLOCK_ENTRIES", entries)
    monkeypatch.setattr(decoding, "_scorer", spy)
    np.testing.assert_array_equal(nearest_prototype(*pair, metric=metric), expected)
    rows = max(1, entries // 11)
    assert sizes == [min(rows, 60 - start) for start in range(0, 60, rows)]


@pytest.mark.parametrize("function", [prototype_scores, nearest_prototype])
@pytest.mark.parametrize(
    ("predictions", "prototypes", "metric", "message"),
    [
        ([[1, 2]], [[1, 2]], "manhattan", "metric must be one of .*, got 'manhattan'"),
        ([[1, 2, 3]], [[1, 2]], "cosine", "have 3 attributes and prototypes have 2;"),
        ([[1, np.nan]], [[1, 2]], "cosine", "predictions contains NaN"),
        ([[1, 2]], [[1, np.inf]], "euclidean", "prototypes contains infinity"),
        ([1, 2], [[1, 2]], "cosine", "Expected 2D array"),
        ([[1, 2]], [[1, 2], [0, 0]], "cosine", r"prototypes \[1\] are all zero in the"),
    ],
    ids=["metric", "width", "missing", "infinite", "1-D", "zero"],
)
def test_bad_input_is_refused_in_a_sentence(
    function, predictions, prototypes, metric, message
):
    with pytest.raises(ValueError, match=message):
        function(predictions, prototypes, metric=metric)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], [["a"], ["b"]]], ids=str)
def test_names_that_do_not_fit_are_refused(names):
    with pytest.raises(ValueError, match="name each of the 2 prototypes once, got sha"):
        nearest_prototype(np.eye(2), np.eye(2), names)


# ---- calibrated stacking -----------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int64, np.float64),
    ],
)
def test_stacking_takes_the_penalty_off_the_seen(dtype, expected):
    scores = np.arange(12).reshape(3, 4).astype(dtype)
    before = scores.copy()
    stacked = stack_calibrated(scores, [True, False, False, True], 0.25)
    assert stacked.dtype == expected
    for i in range(3):
        for k in range(4):
            assert stacked[i, k] == before[i, k] - (0.25 if k in (0, 3) else 0)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize(
    ("scores", "seen"),
    [
        ([[1.0, 2.0]], [True]),
        ([[1.0, 2.0]], [0, 1]),
        ([1.0, 2.0], [True, False]),
        ([[1.0, 2.0]], [[True, False]]),
    ],
    ids=["length", "numbers", "1-D scores", "2-D seen"],
)
def test_stacking_refuses_what_is_no_pair(scores, seen):
    with pytest.raises(ValueError, match=r"shape \(n, k\) and seen must be k booleans"):
        stack_calibrated(scores, seen, 0.0)


def slow_top(scores, k):
    """Column numbers of each row by falling score, first come first."""
    return [sorted(range(len(row)), key=lambda j: (-row[j], j))[:k] for row in scores]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("entries", [1, 70, 10**6])
def test_top_k_against_a_loop(pair, monkeypatch, metric, k, entries):
    """Also with equal scores: every prototype is there twice."""
    monkeypatch.setattr(decoding, "BLOCK_ENTRIES", entries)
    predictions, prototypes = pair[0], np.concatenate([pair[1], pair[1]])
    nearest, best = top_k(predictions, prototypes, k, metric=metric)
    scores = prototype_scores(predictions, prototypes, metric=metric)
    np.testing.assert_array_equal(nearest, slow_top(scores, k))
    expected = np.take_along_axis(scores, nearest, axis=1)
    np.testing.assert_allclose(best, expected, rtol=1e-12, atol=1e-12)


def test_top_k_takes_the_penalty_off(pair):
    seen = np.arange(11) < 6
    names = np.array([f"class {i}" for i in range(11)])
    nearest, best = top_k(*pair, 2, names, seen=seen, penalty=0.25)
    scores = stack_calibrated(prototype_scores(*pair), seen, 0.25)
    np.testing.assert_array_equal(nearest, names[slow_top(scores, 2)])
    np.testing.assert_array_equal(best, -np.sort(-scores, axis=1)[:, :2])


@pytest.mark.parametrize("k", [0, 12, 2.0, None])
def test_top_k_names_as_many_classes_as_there_are(pair, k):
    with pytest.raises(ValueError, match=f"1 to the 11 candidates, got {k}"):
        top_k(*pair, k)


@pytest.mark.parametrize("penalty", [0.1, np.float64(0.1), np.float32(0.1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_penalty_is_subtracted_as_from_columns(dtype, penalty):
    """To the bit, in whatever precision NumPy subtracts it from a part."""
    scores = np.random.default_rng(0).normal(size=(20, 7)).astype(dtype)
    seen = np.arange(7) % 2 == 0
    expected = scores.copy()
    expected[:, seen] -= penalty
    found = stack_calibrated(scores, seen, penalty)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def exact_order(scores, seen, penalty):
    """Columns of each row from the best to the worst, in exact arithmetic."""
    order = []
    for row in scores.tolist():
        exact = [
            Fraction(value) - (Fraction(penalty) if of_seen else 0)
            for value, of_seen in zip(row, seen, strict=True)
        ]
        order.append(sorted(range(len(row)), key=lambda j: (-exact[j], seen[j], j)))
    return np.array(order)


PENALTIES = [0.0, 0.1, -0.1, 1e7, -1e7, -1e12, 1e30, -1e30, 1e200, -1e308]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("who", ["some", "all", "none", "one"])
def test_no_penalty_hides_the_order_of_scores(dtype, penalty, who):
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, size=(200, 9)).astype(dtype)
    scores[:20] = scores[:20].round(1)  # equals
    seen = {
        "some": np.arange(9) % 3 > 0,
        "all": np.ones(9, dtype=bool),
        "none": np.zeros(9, dtype=bool),
        "one": np.arange(9) == 4,
    }[who]
    order, rows = exact_order(scores, seen, penalty), np.arange(200)
    before = scores.copy()
    for k in (1, 4, 9):
        columns, values = highest_calibrated(scores, seen, penalty, k)
        np.testing.assert_array_equal(columns, order[:, :k])
        assert values.dtype == dtype
        if abs(penalty) > float(np.finfo(dtype).max) / 2:  # which stands for it
            continue
        expected = scores - np.where(seen, penalty, 0).astype(dtype)
        expected = expected[rows[:, None], columns]
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    stacked = stack_calibrated(scores, seen, penalty)
    assert np.isfinite(stacked).all()
    # The best is among those that are highest, and alone there if it is alone the best.
    best, found = order[:, 0], stacked.argmax(axis=1)
    assert (stacked[rows, best] == stacked.max(axis=1)).all()
    differ = best != found
    off = np.where(seen, penalty, 0.0)
    equal = np.array(
        [
            Fraction(float(scores[i, j])) - Fraction(float(off[j]))
            == Fraction(float(scores[i, k])) - Fraction(float(off[k]))
            for i, j, k in zip(rows, best, found, strict=True)
        ]
    )
    assert (equal | ~differ).all()
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("penalty", PENALTIES[:-1])
def test_relative_scores_keep_what_a_large_penalty_would_take(penalty):
    rng = np.random.default_rng(0)
    scores, seen = rng.uniform(-1, 1, size=(50, 6)), np.arange(6) < 4
    relative = relative_scores(scores, seen, penalty)
    best = exact_order(scores, seen, penalty)[:, 0]
    for i in range(50):
        for j in range(6):
            expected = Fraction(scores[i, j]) - Fraction(scores[i, best[i]])
            expected -= Fraction(penalty) * (int(seen[j]) - int(seen[best[i]]))
            assert relative[i, j] == pytest.approx(float(expected), rel=1e-9, abs=1e-15)


def test_top_k_with_a_large_penalty_ranks_by_scores(pair):
    seen = np.arange(11) < 6
    predictions = [array.astype(np.float32) for array in pair]
    for penalty, first in [(-1e9, seen), (1e9, ~seen)]:
        nearest, _ = top_k(*predictions, 11, seen=seen, penalty=penalty)
        scores = prototype_scores(*predictions)
        expected = np.lexsort([-scores, np.broadcast_to(~first, scores.shape)], axis=1)
        np.testing.assert_array_equal(nearest, expected)


def test_scores_that_are_no_numbers_are_refused():
    for scores in ([[1j, 0j]], [["1", "2"]], np.array([["a", None]], dtype=object)):
        with pytest.raises(ValueError, match="scores must be real numbers, got dtype"):
            stack_calibrated(scores, [True, False], 0.5)


@pytest.mark.parametrize("penalty", [np.inf, np.nan, None, "0.1", 1j, True])
def test_a_penalty_is_finite(penalty):
    options = {"seen": [True, False], "penalty": penalty}
    with pytest.raises(ValueError, match="penalty must be a finite number"):
        top_k([[1.0, 0.0]], [[1, 0], [0, 1]], 1, **options)


def test_a_penalty_needs_to_know_who_is_seen():
    with pytest.raises(ValueError, match="say by seen="):
        top_k([[1.0, 0.0]], [[1, 0], [0, 1]], 1, penalty=0.5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n, a", [(1, 7), (9, 85)])  # where products round differently
def test_of_equal_prototypes_the_first_is_named(n, a, metric):
    rng = np.random.default_rng(0)
    for k in range(2, 60):
        prototypes = rng.normal(size=(k, a)).astype(np.float32)
        prototypes[-1] = prototypes[0]
        predictions = prototypes[0] + rng.normal(size=(n, a)).astype(np.float32) / 9
        scores = prototype_scores(predictions, prototypes, metric=metric)
        np.testing.assert_array_equal(scores[:, -1], scores[:, 0])
        first = nearest_prototype(predictions, prototypes, metric=metric)
        assert (first < k - 1).all()
        order, _ = top_k(predictions, prototypes, k, metric=metric)
        assert (order.argmin(1) < order.argmax(1)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda table: ZeroShotClassifier(
            ReZSLRegressor((), max_iter=2, random_state=0), table
        ),
        lambda table: ESZSL(table),
        lambda table: ALE(table, max_iter=2, random_state=0),
    ],
    ids=["regressor", "eszsl", "ale"],
)
@pytest.mark.parametrize("penalty", [-1e7, 1e7, -1e30])
def test_a_classifier_keeps_the_order_of_a_side(make, penalty, tmp_path):
    data = make_zero_shot(random_state=0)
    rows, some = data.trainval, slice(None, None, 20)
    clf = make((data.class_names, data.attributes))
    X = data.X.astype(np.float32)
    clf.fit(X[rows], data.y[rows])
    scores = clf.class_scores(X[some])
    assert scores.dtype == np.float32
    seen = np.isin(clf.classes_, clf.seen_classes_)
    first = seen if penalty < 0 else ~seen
    order = np.lexsort([-scores, np.broadcast_to(~first, scores.shape)], axis=1)
    clf.seen_penalty_ = penalty
    best = clf.classes_[order[:, 0]]
    np.testing.assert_array_equal(clf.predict(X[some]), best)
    decision = clf.decision_function(X[some])
    np.testing.assert_array_equal(clf.classes_[decision.argmax(axis=1)], best)
    if hasattr(clf, "predict_proba"):
        proba = clf.predict_proba(X[some])
        expected = softmax(scores[:, first] * clf.regressor_.scale, axis=1)
        np.testing.assert_allclose(proba[:, first], expected, rtol=1e-5)
        assert not proba[:, ~first].any()
    predict_to_hdf5(clf, X[some], tmp_path / "answers.h5", top_k=5)
    with h5py.File(tmp_path / "answers.h5") as file:
        np.testing.assert_array_equal(file["index"], order[:, :5])
    y = data.y[some]
    H = gzsl_scorer(clf, X[some], y)
    column = np.searchsorted(clf.classes_, y)
    report = gzsl_report(column, scores, seen, penalty=penalty)
    assert H == pytest.approx(report.H)


def test_two_seen_candidates_are_told_apart_at_any_penalty():
    data = make_zero_shot(random_state=0)
    rows, names = data.trainval, data.class_names[data.seen_classes[:2]]
    clf = ESZSL((data.class_names, data.attributes), candidates=names)
    X = data.X.astype(np.float32)
    clf.fit(X[rows], data.y[rows])
    expected = clf.predict(X)
    clf.seen_penalty_ = -1e7
    np.testing.assert_array_equal(clf.predict(X), expected)
    decision = clf.decision_function(X)
    np.testing.assert_array_equal(clf.classes_[(decision > 0).astype(int)], expected)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_small_euclidean_distances_beside_large_values(offset):
    """In float32, against distances of the same numbers one by one."""
    rng = np.random.default_rng(0)
    P = (offset * rng.choice([-1, 1], 20) + rng.normal(size=(30, 20))).astype(
        np.float32
    )
    far = P[:1] + np.float32(4 * offset)
    X = P[rng.integers(30, size=200)] + rng.normal(size=(200, 20)).astype(np.float32)
    P = np.vstack([P, far])
    distances = cdist(X.astype(np.float64), P.astype(np.float64))
    scores = prototype_scores(X, P, metric="euclidean")
    assert scores.dtype == np.float32
    np.testing.assert_allclose(-scores, distances, rtol=1e-5)
    names = nearest_prototype(X, P, metric="euclidean")
    np.testing.assert_array_equal(names, distances.argmin(axis=1))


@pytest.mark.parametrize("dtype", [complex, "m8[s]", "M8[s]", str], ids=str)
@pytest.mark.parametrize("decode", [prototype_scores, nearest_prototype])
def test_what_is_no_number_is_refused_in_a_sentence(decode, dtype):
    bad, good = np.array([[1, 2]]).astype(dtype), np.array([[1.0, 2.0]])
    with pytest.raises(ValueError, match="^predictions must hold real numbers, got"):
        decode(bad, good)
    with pytest.raises(ValueError, match="^prototypes must hold real numbers, got"):
        decode(good, bad)


@pytest.mark.parametrize("size", [2.0**-1000, 2.0**-540, 1.0, 2.0**400])
@pytest.mark.parametrize("n_classes", [1, 4])
def test_distances_of_any_size(size, n_classes):
    rng = np.random.default_rng(0)
    predictions, prototypes = rng.normal(size=(6, 3)), rng.normal(size=(n_classes, 3))
    scores = prototype_scores(predictions * size, prototypes * size, metric="euclidean")
    np.testing.assert_allclose(scores / size, -cdist(predictions, prototypes), 1e-12)
    # Prototypes, or predictions, that are many times as far away.
    far = prototype_scores(predictions * size, prototypes, metric="euclidean")
    np.testing.assert_allclose(far, -cdist(predictions * size, prototypes), 1e-12)
