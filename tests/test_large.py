"""Fitting and predicting from files: as from memory, whatever the file's size."""

import os
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest

from rezsl_sk import (
    ReZSLRegressor,
    ZeroShotClassifier,
    _blocks,
    _feature_side,
    _regressor,
)
from rezsl_sk._feature_side import FeatureSide
from rezsl_sk._sampling import StreamSampler
from rezsl_sk._scaling import FeatureScaling, unit_rows
from rezsl_sk.baselines import ESZSL
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.feature_cache import CacheError, FeatureCache
from rezsl_sk.streaming import predict_to_hdf5


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(
        30, 10, samples_per_class=40, n_features=32, n_attributes=12, random_state=0
    )


@pytest.fixture(scope="module")
def training(data):
    """Rows of the seen classes sorted by class, as files often are: X, y and S."""
    rows = np.sort(data.trainval)
    rows = rows[np.argsort(data.labels[rows], kind="stable")]
    labels = data.labels[rows]
    return data.X[rows].astype(np.float32), data.y[rows], data.attributes[labels]


@pytest.fixture(scope="module")
def table(data):
    return data.class_names, data.attributes


@pytest.fixture
def cache(training, tmp_path):
    X, y, _ = training
    with FeatureCache.from_arrays(tmp_path / "train.h5", X, y) as cache:
        yield cache


@pytest.fixture
def streamed(monkeypatch):
    """No file is small enough for the memory; buffers hold a fraction of it."""
    monkeypatch.setattr(_blocks, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(_blocks, "RUN_BYTES", 8 * 128)
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 400 * 128)
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 150 * 128)


def readers():
    return [t for t in threading.enumerate() if t.name == "rezsl_sk-reader"]


def kinds_of_file(cache, X, folder):
    mapped = np.memmap(folder / "train.dat", np.float32, "w+", shape=X.shape)
    mapped[:] = X
    return [cache, cache.X, cache._dataset("features"), mapped]


def assert_same_bits(a, b):
    for name in ("coefs_", "intercepts_"):
        for one, other in zip(getattr(a, name), getattr(b, name), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(a.error_matrix_, b.error_matrix_)
    np.testing.assert_array_equal(a._side.coef, b._side.coef)


def test_small_files_are_fitted_and_predicted_as_arrays(cache, training, tmp_path):
    X, _, S = training
    expected = ReZSLRegressor(max_iter=2, random_state=0).fit(X, S)
    for file in kinds_of_file(cache, X, tmp_path):
        found = ReZSLRegressor(max_iter=2, random_state=0).fit(file, S)
        assert_same_bits(found, expected)
        np.testing.assert_array_equal(found.predict(file), expected.predict(X))


def test_small_files_are_classified_as_arrays(cache, training, table):
    X, y, _ = training
    reg = ReZSLRegressor(max_iter=2, random_state=0)
    expected = ZeroShotClassifier(reg, table).fit(X, y)
    found = ZeroShotClassifier(reg, table).fit(cache, cache.y)
    assert_same_bits(found.regressor_, expected.regressor_)
    np.testing.assert_array_equal(
        found.decision_function(cache.X), expected.decision_function(X)
    )


def test_baselines_read_a_cache_of_any_size(streamed, cache, training, table):
    X, y, _ = training
    np.testing.assert_array_equal(
        ESZSL(table).fit(cache, y).predict(cache), ESZSL(table).fit(X, y).predict(X)
    )


def test_all_kinds_of_files_give_the_same_bits(streamed, cache, training, tmp_path):
    X, _, S = training
    models = [
        ReZSLRegressor(max_iter=2, random_state=0).fit(file, S)
        for file in kinds_of_file(cache, X, tmp_path)[:3]
    ]
    for model in models[1:]:
        assert_same_bits(model, models[0])
    other = ReZSLRegressor(max_iter=2, random_state=1).fit(cache, S)
    assert not np.array_equal(other.coefs_[0], models[0].coefs_[0])


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"hidden_layer_sizes": (), "feature_weight": 0, "attribute_scaling": "l2"},
        {"early_stopping": True},
        {"sampler": "episodes", "feature_scaling": "standard"},
    ],
    ids=["default", "linear", "early", "episodes"],
)
def test_streaming_is_within_the_spread_of_seeds(
    streamed, cache, training, data, parameters, monkeypatch
):
    """Accuracy on unseen classes, mean of four seeds, in and out of memory."""
    X, _, S = training
    unseen = data.unseen_classes
    new, names = data.X[data.test_unseen], data.y[data.test_unseen]

    def accuracies(X):
        return [
            np.mean(
                ReZSLRegressor(random_state=seed, **parameters)
                .fit(X, S)
                .predict(new, data.attributes[unseen], data.class_names[unseen])
                == names
            )
            for seed in range(4)
        ]

    from_file, from_memory = accuracies(cache), accuracies(X)
    assert np.mean(from_memory) > 0.4  # chance: 0.1
    spread = max(np.std(from_file, ddof=1), np.std(from_memory, ddof=1), 0.01)
    assert abs(np.mean(from_file) - np.mean(from_memory)) < 2 * spread


def test_scaling_and_errors_are_those_of_all_rows(streamed, cache, training):
    X, _, S = training
    for how in ("standard", "l2"):
        reg = ReZSLRegressor(max_iter=2, feature_scaling=how, random_state=0)
        reg.fit(cache, S)
        expected = FeatureScaling(how).fit(X)
        np.testing.assert_allclose(reg.feature_offset_, expected.offset, atol=1e-6)
        np.testing.assert_allclose(reg.feature_scale_, expected.scale, rtol=1e-5)
        error = np.square(reg.predict(X) - S) / np.square(reg.attribute_scale_)
        classes, group = np.unique(S, axis=0, return_inverse=True)
        by_class = [error[group == c].mean(axis=0) for c in range(len(classes))]
        np.testing.assert_allclose(reg.prototypes_, classes, rtol=1e-6)
        np.testing.assert_allclose(reg.error_matrix_, by_class, rtol=1e-3)


def test_the_feature_side_in_one_pass_is_that_of_memory(
    streamed, cache, training, monkeypatch
):
    """To rounding if the sample holds every row; nearly so if most."""
    X, y, S = training
    _, first, group = np.unique(y, return_index=True, return_inverse=True)
    P = S[first]
    whole = FeatureSide().fit(X, group, P, seed=0)
    rows = _blocks.open_rows(cache)
    passed = FeatureSide().fit(rows, group, P, seed=0, sample=(X, group))
    assert passed.choice == whole.choice
    np.testing.assert_allclose(passed.coef, whole.coef, rtol=1e-3, atol=1e-5)
    assert passed.spread == pytest.approx(whole.spread, rel=1e-4)
    # One candidate: what the sums of all rows give does not hang on the sample.
    for name in ("FEATURE_PENALTIES", "CLASS_PENALTIES"):
        monkeypatch.setattr(_feature_side, name, (1.0,))
    some = np.flatnonzero(np.arange(len(X)) % 5)
    whole = FeatureSide().fit(X, group, P, seed=0)
    sampled = FeatureSide().fit(rows, group, P, 0, (X[some], group[some]))
    cosines = (unit_rows(sampled.weights(P)) * unit_rows(whole.weights(P))).sum(axis=1)
    assert cosines.min() > 0.97


def test_a_classifier_fitted_from_a_file(streamed, cache, training, table, data):
    X, y, _ = training
    new, names = data.X[data.test_unseen], data.y[data.test_unseen]
    clf = ZeroShotClassifier(None, table, seen_penalty="auto")
    clf.fit(cache, cache.y)
    in_memory = ZeroShotClassifier(None, table, seen_penalty="auto").fit(X, y)
    assert clf.seen_penalty_ == pytest.approx(in_memory.seen_penalty_, abs=0.1)
    assert abs(clf.score(new, names) - in_memory.score(new, names)) < 0.06
    np.testing.assert_array_equal(clf.predict(cache), clf.predict(X))
    for method in ("decision_function", "predict_proba"):
        np.testing.assert_allclose(
            getattr(clf, method)(cache.X), getattr(clf, method)(X), atol=1e-5
        )


def test_labels_may_be_codes(streamed, cache, training, data):
    codes = (np.arange(len(cache.classes)), data.attributes[: len(cache.classes)])
    clf = ZeroShotClassifier(ReZSLRegressor(max_iter=1, random_state=0), codes)
    assert set(clf.fit(cache, cache.labels).predict(cache)) <= set(codes[0])


def test_half_precision_is_widened(streamed, training, tmp_path):
    X, _, S = training
    path = tmp_path / "half.h5"
    with FeatureCache.from_arrays(path, X.astype(np.float16)) as cache:
        reg = ReZSLRegressor(max_iter=1, random_state=0).fit(cache, S)
        assert reg.coefs_[0].dtype == np.float32
        half = X.astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(reg.predict(cache), reg.predict(half), atol=1e-5)


@pytest.mark.parametrize("what", ["array", "list", "dataset", "memmap"])
def test_attributes_may_lie_in_a_file_too(streamed, cache, training, tmp_path, what):
    S = training[2].astype(np.float32)
    path = tmp_path / "S.h5"
    with h5py.File(path, "w") as file:
        file["S"] = S
        mapped = np.memmap(tmp_path / "S.dat", np.float32, "w+", shape=S.shape)
        mapped[:] = S
        given = {
            "array": S,
            "list": S.tolist(),
            "dataset": file["S"],
            "memmap": mapped,
        }[what]
        reg = ReZSLRegressor(max_iter=1, random_state=0).fit(cache, given)
    expected = ReZSLRegressor(max_iter=1, random_state=0).fit(cache, S)
    assert_same_bits(reg, expected)
    np.testing.assert_array_equal(reg.prototypes_, np.unique(S, axis=0))


def test_one_attribute_gives_one_column(streamed, cache, training):
    s = training[2][:, 0]
    assert ReZSLRegressor(max_iter=1).fit(cache, s).predict(cache).shape == s.shape


def test_a_warm_start_goes_on(streamed, cache, training):
    S = training[2]
    reg = ReZSLRegressor(max_iter=3, warm_start=True, random_state=0).fit(cache, S)
    first = reg.loss_
    assert reg.fit(cache, S).loss_ < first


def test_what_is_wrong_is_said_before_training(
    streamed, cache, training, table, monkeypatch
):
    X, y, S = training
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ReZSLRegressor().fit(cache, S[:-1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ZeroShotClassifier(None, table).fit(cache, y[:-1])
    with pytest.raises(ValueError, match="To fit class labels use ZeroShotClassifier"):
        ReZSLRegressor().fit(cache, y)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        ReZSLRegressor().fit(cache, np.where(S == S[0], np.nan, S))
    with pytest.raises(
        ValueError, match=r"partial_fit takes rows in memory, .* 960 x 32"
    ):
        ReZSLRegressor().partial_fit(cache, S)
    reg = ReZSLRegressor(max_iter=1, random_state=0).fit(X[:, :5], S)
    with pytest.raises(ValueError, match="X has 32 features, but .* expecting 5"):
        reg.predict(cache)
    monkeypatch.setattr(_regressor, "IN_MEMORY_BYTES", 1000)
    with pytest.raises(ValueError, match="no table of classes, for which X must be in"):
        ReZSLRegressor().fit(cache, np.random.default_rng(0).random(S.shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_missing_values_in_the_middle_are_named_by_row(
    streamed, training, table, tmp_path, bad
):
    X, y, S = training
    broken = X.copy()
    broken[777, 3] = bad
    with h5py.File(tmp_path / "broken.h5", "w") as file:
        file["X"] = broken
        message = r"X has missing or infinite values in rows \[777\]"
        with pytest.raises(ValueError, match=message):
            ReZSLRegressor().fit(file["X"], S)
        with pytest.raises(ValueError, match=message):
            ZeroShotClassifier(None, table).fit(file["X"], y)
        reg = ReZSLRegressor(max_iter=1).fit(X, S)
        with pytest.raises(ValueError, match=message):
            reg.predict(file["X"])
        with pytest.raises(ValueError, match=message):
            predict_to_hdf5(reg, file["X"], tmp_path / "out.h5")
    assert not list(tmp_path.glob("out.h5*"))
    assert not readers()


def test_an_interrupt_keeps_the_model_and_ends_the_reader(
    streamed, cache, training, monkeypatch
):
    class Interrupted(StreamSampler):
        def epoch(self, device):
            for number, batch in enumerate(super().epoch(device)):
                if number == 5:
                    raise KeyboardInterrupt
                yield batch

    monkeypatch.setattr(_regressor, "StreamSampler", Interrupted)
    with pytest.warns(UserWarning, match="interrupted by the user in epoch 1"):
        reg = ReZSLRegressor(random_state=0).fit(cache, training[2])
    assert reg.n_iter_ == 0
    assert not readers()
    assert np.isfinite(reg.predict(cache)).all()


# ---- predictions into a file -------------------------------------------------


@pytest.fixture(scope="module")
def reg(training):
    X, _, S = training
    return ReZSLRegressor(max_iter=3, random_state=0).fit(X, S)


def slow_top(scores, k):
    """Column numbers of each row by falling score, first come first."""
    return [sorted(range(len(row)), key=lambda j: (-row[j], j))[:k] for row in scores]


def test_the_best_classes_of_each_row(streamed, cache, training, reg, table, tmp_path):
    path = tmp_path / "best.h5"
    predict_to_hdf5(reg, cache, path, prototypes=table[1], classes=table[0], top_k=4)
    scores = reg._scores(training[0], table[1])
    with h5py.File(path) as file:
        index, score = file["index"][...], file["score"][...]
        assert file["class_name"].asstr()[...].tolist() == table[0].tolist()
    np.testing.assert_array_equal(index, slow_top(scores, 4))
    np.testing.assert_allclose(
        score, np.take_along_axis(scores, index, axis=1), atol=1e-6
    )
    np.testing.assert_array_equal(
        table[0][index[:, 0]], reg.predict(training[0], table[1], table[0])
    )


def test_a_classifier_writes_its_candidates_less_the_penalty(
    cache, training, table, tmp_path
):
    X, y, _ = training
    clf = ZeroShotClassifier(
        ReZSLRegressor(max_iter=3, random_state=0), table, seen_penalty=0.3
    ).fit(X, y)
    path = tmp_path / "best.h5"
    predict_to_hdf5(clf, cache, path, top_k=2)
    scores = clf.decision_function(X)
    with h5py.File(path) as file:
        names = file["class_name"].asstr()[...]
        np.testing.assert_array_equal(file["index"][...], slow_top(scores, 2))
        np.testing.assert_array_equal(names[file["index"][:, 0]], clf.predict(X))
        np.testing.assert_array_equal(file["score"][:, 0], scores.max(axis=1))


def test_names_may_be_numbers_or_missing(training, reg, table, tmp_path):
    X = training[0][:20]
    numbers = np.arange(len(table[0])) + 100
    predict_to_hdf5(reg, X, tmp_path / "a.h5", prototypes=table[1], classes=numbers)
    predict_to_hdf5(reg, X, tmp_path / "b.h5", prototypes=table[1])
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        assert a["class_name"][...].tolist() == numbers.tolist()
        assert "class_name" not in b
        np.testing.assert_array_equal(a["index"][...], b["index"][...])


def test_attributes_without_prototypes(streamed, cache, training, reg, tmp_path):
    predict_to_hdf5(reg, cache, tmp_path / "S.h5")
    with h5py.File(tmp_path / "S.h5") as file:
        np.testing.assert_allclose(
            file["attributes"][...], reg.predict(training[0]), atol=1e-5
        )


def test_a_file_is_not_replaced_unasked(training, reg, tmp_path):
    path = tmp_path / "S.h5"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="ask to overwrite"):
        predict_to_hdf5(reg, training[0], path)
    assert path.read_text() == "precious"
    predict_to_hdf5(reg, training[0], path, overwrite=True)
    assert h5py.is_hdf5(path)


def test_what_cannot_be_written_is_said_and_leaves_no_file(
    training, reg, table, tmp_path
):
    X = training[0]
    path = tmp_path / "out.h5"
    for k in (0, 41, 1.5):
        with pytest.raises(ValueError, match=f"from 1 to the 40 candidates, got {k}"):
            predict_to_hdf5(reg, X, path, prototypes=table[1], top_k=k)
    with pytest.raises(ValueError, match="LinearRegression cannot be predicted from"):
        from sklearn.linear_model import LinearRegression

        predict_to_hdf5(LinearRegression(), X, path)
    with pytest.raises(ValueError, match="a classifier chooses among its candidates_"):
        clf = ZeroShotClassifier(ReZSLRegressor(max_iter=1), table)
        predict_to_hdf5(clf.fit(X, training[1]), X, path, prototypes=table[1])
    with pytest.raises(CacheError, match="cannot be written"):
        predict_to_hdf5(reg, X, tmp_path / "nowhere" / "out.h5")
    assert not list(tmp_path.iterdir())


def test_many_classes_are_scored_in_smaller_blocks(training, reg, monkeypatch):
    """As many rows at a time as keep the scores small, with the same answers."""
    X = training[0]
    P = np.random.default_rng(0).random((500, training[2].shape[1]))
    expected = reg.predict(X, P)
    sizes = []
    scorer = ReZSLRegressor._scorer

    def spy(self, prototypes, names=None):
        score = scorer(self, prototypes, names)
        return lambda X: sizes.append(len(X)) or score(X)

    monkeypatch.setattr("rezsl_sk.decoding.SCORE_ENTRIES", 500 * 100)
    monkeypatch.setattr(ReZSLRegressor, "_scorer", spy)
    np.testing.assert_array_equal(reg.predict(X, P), expected)
    assert max(sizes) == 100


PEAK = """
import resource, sys
import numpy as np
from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.feature_cache import FeatureCache, WriterLock, write_cache
from rezsl_sk.streaming import predict_to_hdf5

folder, n, d = sys.argv[1], 300_000, 2048
rng = np.random.default_rng(0)
table = rng.random((60, 20), dtype=np.float32)
labels = np.arange(n) * 50 // n
to_features = rng.normal(size=(20, d)).astype(np.float32)
blocks = (
    table[labels[i : i + 4096]] @ to_features
    + rng.random((len(labels[i : i + 4096]), d), dtype=np.float32)
    for i in range(0, n, 4096)
)
with WriterLock(folder + "/big.h5"):
    write_cache(folder + "/big.h5", blocks, paths=[""] * n)
cache = FeatureCache(folder + "/big.h5")
clf = ZeroShotClassifier(
    ReZSLRegressor((16,), max_iter=1, random_state=0), (np.arange(60), table)
)
clf.fit(cache, labels)
predict_to_hdf5(clf, cache, folder + "/out.h5", top_k=2)
print(cache.X.nbytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_the_resident_set_stays_below_two_gib(tmp_path):
    """A file of 2.3 GiB and 2048 features, fitted and predicted with the defaults."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    size, peak = map(int, done.stdout.split())
    assert size > 2**31 > peak


def test_the_file_that_is_read_is_not_written_over(training, tmp_path):
    X, _, S = training
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S)
    source = tmp_path / "out.h5"
    with h5py.File(source, "w") as file:
        file["X"] = X
    link = tmp_path / "link.h5"
    link.symlink_to(tmp_path / "out.h5")
    with h5py.File(source) as file:
        for path in (tmp_path / "out.h5", link):
            with pytest.raises(ValueError, match="give another name"):
                predict_to_hdf5(reg, file["X"], path, overwrite=True)
    with h5py.File(source) as file:
        np.testing.assert_array_equal(file["X"], X)


@pytest.mark.parametrize("value", [np.float32(1), h5py.Empty("f4")])
def test_a_file_of_no_rows_is_a_sentence(training, value):
    X, _, S = training
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S)
    with h5py.File("none", "w", driver="core", backing_store=False) as file:
        file["X"] = value
        with pytest.raises(ValueError, match="rows are needed"):
            reg.predict(file["X"])


def test_a_folder_is_no_file(training, tmp_path):
    X, _, S = training
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S)
    with pytest.raises(IsADirectoryError, match="give the name of a file"):
        predict_to_hdf5(reg, X, tmp_path, overwrite=True)


def test_names_in_bytes_are_text(training, tmp_path):
    X, y, S = training
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S)
    names = np.array([f"class {i}" for i in range(len(reg.prototypes_))], dtype="S")
    path = tmp_path / "out.h5"
    predict_to_hdf5(reg, X, path, prototypes=reg.prototypes_, classes=names)
    with h5py.File(path) as file:
        assert file["class_name"].asstr()[0] == "class 0"
    bad = ["a\0b", *names[1:].astype(str)]
    with pytest.raises(ValueError, match="NUL"):
        predict_to_hdf5(
            reg, X, path, prototypes=reg.prototypes_, classes=bad, overwrite=True
        )
    with pytest.raises(ValueError, match="go with prototypes"):
        predict_to_hdf5(reg, X, path, classes=names, overwrite=True)


def test_a_file_replaced_after_it_was_opened_is_a_sentence(streamed, training):
    X, _, S = training
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S)
    with h5py.File("replaced", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("X", data=X, maxshape=(None, X.shape[1]))
        rows = _blocks.open_rows(data)
        data.resize(len(X) - 5, axis=0)
        with pytest.raises(CacheError, match="another has taken its place"):
            reg.predict(rows)


def test_a_view_of_a_map_cut_short_is_a_sentence(training, tmp_path):
    X, _, S = training
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, S)
    path = tmp_path / "x.bin"
    X.astype(np.float32).tofile(path)
    view = np.memmap(path, np.float32).reshape(-1, X.shape[1])
    os.truncate(path, 8)
    with pytest.raises(ValueError, match="cut short"):
        reg.predict(view)


def test_blocks_of_held_out_classes_alone_count_for_nothing():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 4)).astype(np.float32)
    parts = [X[:0], X[:20], X[:0], X[20:]]
    scaling = FeatureScaling("standard").fit_blocks(parts, 4, X.dtype)
    expected = FeatureScaling("standard").fit(X)
    np.testing.assert_allclose(scaling.offset, expected.offset, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaling.scale, expected.scale, rtol=1e-5)
