"""Decoding against slow loops: cosine, euclidean, ties, blocks, calibrated stacking."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rezsl_sk import decoding
from rezsl_sk.decoding import (
    nearest_prototype,
    prototype_scores,
    stack_calibrated,
    top_k,
)


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


@pytest.mark.parametrize("penalty", [np.inf, np.nan, None])
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
