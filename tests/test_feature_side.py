"""The feature side against its formulas, written out slowly."""

import pickle

import numpy as np
import pytest
from scipy.special import softmax

import rezsl_sk._feature_side as module
from rezsl_sk import ReZSLRegressor
from rezsl_sk._feature_side import DEFAULTS, N_DRAWS, ClassKernel, FeatureSide
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.decoding import prototype_scores


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(
        12, 4, samples_per_class=20, n_features=16, n_attributes=8, random_state=0
    )


@pytest.fixture(scope="module")
def training(data):
    """Features (n, d), class numbers (n,), prototypes of the seen (K, a)."""
    X, labels = data.X[data.trainval], data.labels[data.trainval]
    classes, group = np.unique(labels, return_inverse=True)
    return X, group, data.attributes[classes]


def slow_kernel(seen, P, unit):
    """κ of each row of P with each seen class, pair by pair."""
    mean, std = seen.mean(axis=0), seen.std(axis=0)
    scale = np.ptp(seen, axis=0) if unit == "range" else np.ones(len(mean))
    size = np.mean([np.sum(((s - mean) / scale) ** 2) for s in seen])
    distances = [
        np.linalg.norm((s - t) / std)
        for i, s in enumerate(seen)
        for j, t in enumerate(seen)
        if i != j
    ]
    width = np.median(distances)
    return np.array(
        [
            [
                0.7 * np.dot((p - mean) / scale, (s - mean) / scale) / size
                + 0.3 * np.exp(-np.linalg.norm((p - s) / std) / width)
                for s in seen
            ]
            for p in P
        ]
    )


def slow_weights(F, group, seen, P, unit, feature_penalty, class_penalty):
    """v(s) of each row of P before it is brought to length 1."""
    Y = (group[:, None] == np.arange(len(seen))).astype(float)
    n, d = F.shape
    W = np.linalg.inv(F.T @ F / n + feature_penalty * np.eye(d)) @ F.T @ Y / n
    inner = slow_kernel(seen, seen, unit) + class_penalty * np.eye(len(seen))
    return (W @ np.linalg.inv(inner) @ slow_kernel(seen, P, unit).T).T


@pytest.mark.parametrize("unit", ["given", "range"])
def test_class_kernel_is_its_formula(data, training, unit):
    seen = training[2] * np.linspace(0.1, 9, 8)  # in different units
    kernel = ClassKernel(unit).fit(seen)
    np.testing.assert_allclose(
        kernel(seen[:5] * 1.1), slow_kernel(seen, seen[:5] * 1.1, unit)
    )


def test_kernel_by_range_knows_no_units(training):
    P = training[2]
    scale = np.linspace(0.1, 9, 8)
    np.testing.assert_allclose(
        ClassKernel("range").fit(P * scale)(P * scale + 0.0),
        ClassKernel("range").fit(P)(P),
        rtol=1e-9,
        atol=1e-12,
    )


def features(side, X):
    """f(x) of scaled X (n, d), draw by draw: arrays of shape (n, d + m)."""
    x, H = side.units.parts(X)
    return (np.hstack([x, H[:, draw]]) for draw in range(H.shape[1]))


def test_weights_and_similarities_are_their_formulas(data, training):
    X, group, P = training
    side = FeatureSide().fit(X, group, P, seed=0)
    d, unseen = X.shape[1], data.attributes[data.unseen_classes]
    weights, cosines, of_x = side.weights(unseen), [], 0.0
    for draw, F in enumerate(features(side, X)):
        m = F.shape[1] - d
        # Both parts are centred (before they are brought to one length) and of
        # fixed length.
        np.testing.assert_allclose(np.linalg.norm(F[:, :d], axis=1), np.sqrt(d))
        np.testing.assert_allclose(np.linalg.norm(F[:, d:], axis=1), np.sqrt(m))
        V = slow_weights(F, group, P, unseen, *side.choice.values())
        V /= np.linalg.norm(V, axis=1, keepdims=True)
        mine = weights[:, d + draw * m : d + (draw + 1) * m]
        share = N_DRAWS * np.sqrt(d + m)
        np.testing.assert_allclose(share * mine, V[:, d:], rtol=1e-6, atol=1e-9)
        of_x = of_x + V[:, :d]
        cosines.append(F @ V.T / np.linalg.norm(F, axis=1, keepdims=True))
    assert len(cosines) == N_DRAWS
    np.testing.assert_allclose(share * weights[:, :d], of_x, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        side.similarities(X, weights), np.mean(cosines, axis=0), rtol=1e-6, atol=1e-9
    )


def test_draws_differ_in_their_random_units_alone(training):
    X, group, P = training
    first, second, *_ = features(FeatureSide().fit(X, group, P, seed=0), X)
    d = X.shape[1]
    np.testing.assert_array_equal(first[:, :d], second[:, :d])
    m = first.shape[1] - d
    between = np.corrcoef(first[:, d:].T, second[:, d:].T)[:m, m:]
    assert np.abs(between.diagonal()).mean() < 0.5  # 1 for the same units


def test_linear_kernel_is_eszsl(data, training, monkeypatch):
    """The dual form: weights point where ESZSL's do, on the same features."""
    monkeypatch.setattr(module, "LAPLACE_SHARE", 0.0)
    monkeypatch.setattr(module, "N_DRAWS", 1)
    choice = {"unit": "given", "feature_penalty": 0.3, "class_penalty": 0.5}
    monkeypatch.setattr(FeatureSide, "_choose", lambda *args: choice)
    X, group, P = training
    side = FeatureSide().fit(X, group, P, seed=0)
    F = next(features(side, X))
    S = P - P.mean(axis=0)
    unseen = data.attributes[data.unseen_classes] - P.mean(axis=0)
    n, d = F.shape
    Y = (group[:, None] == np.arange(len(P))).astype(float)
    size = np.square(S).sum(axis=1).mean()
    eszsl = (
        np.linalg.inv(F.T @ F / n + 0.3 * np.eye(d))
        @ (F.T @ Y @ S / n)
        @ np.linalg.inv(S.T @ S + 0.5 * size * np.eye(S.shape[1]))
        @ unseen.T
    ).T
    eszsl /= np.linalg.norm(eszsl, axis=1, keepdims=True)
    got = side.weights(data.attributes[data.unseen_classes])
    got *= np.sqrt(F.shape[1])
    np.testing.assert_allclose(got, eszsl, rtol=1e-6, atol=1e-9)


def test_choice_is_the_best_on_folds_without_the_held_out_classes(
    training, monkeypatch
):
    """Each candidate refitted, fold by fold, on rows of the other classes only."""
    monkeypatch.setattr(module, "FEATURE_PENALTIES", (0.03, 30.0))
    monkeypatch.setattr(module, "CLASS_PENALTIES", (0.1, 10.0))
    folds = []
    split = module.KFold.split

    def noted(self, X):
        for fold in split(self, X):
            folds.append(fold)
            yield fold

    monkeypatch.setattr(module.KFold, "split", noted)
    X, group, P = training
    X = X + np.random.default_rng(0).normal(scale=2.0, size=X.shape)
    side = FeatureSide().fit(X, group, P, seed=0)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(P)))
    draws, score = list(features(side, X)), {}
    for unit in ("given", "range"):
        for g in (0.03, 30.0):
            for c in (0.1, 10.0):
                evidence = 0.0
                for kept, held in folds:
                    rows = np.isin(group, kept)
                    number = np.searchsorted(kept, group[rows])
                    cosines = 0.0
                    for F in draws:
                        V = slow_weights(F[rows], number, P[kept], P[held], unit, g, c)
                        V /= np.linalg.norm(V, axis=1, keepdims=True)
                        cosines = cosines + F @ V.T
                    z = cosines - cosines.mean(axis=1, keepdims=True)
                    z /= cosines.std(axis=1, keepdims=True)
                    share = softmax(z, axis=1)
                    for nth, k in enumerate(held):
                        evidence += np.log(share[group == k, nth]).mean()
                score[unit, g, c] = evidence
    assert len(set(np.round(list(score.values()), 6))) > 3  # they differ
    best = max(score.values())
    assert score[tuple(side.choice.values())] == pytest.approx(best)


def test_fewer_than_four_classes_take_the_defaults(training):
    X, group, P = training
    three = group < 3
    assert FeatureSide().fit(X[three], group[three], P[:3], 0).choice == DEFAULTS


def test_score_is_the_weighted_sum_of_both_sides(data):
    X = data.X[data.trainval].astype(np.float32)
    S = data.attributes[data.labels[data.trainval]]
    reg = ReZSLRegressor((8,), max_iter=3, random_state=0, feature_weight=0.4)
    reg.fit(X, S)
    new = data.X[data.test_unseen].astype(np.float32)
    x, space = reg._features.transform(new), reg._space.transform
    by_attributes = prototype_scores(
        space(reg.predict(new)), space(data.attributes.astype(np.float32))
    )
    weights = reg._side.weights(data.attributes)
    by_features = reg._side_unit * reg._side.similarities(x, weights)
    expected = 0.6 * by_attributes + 0.4 * by_features
    scores = reg._scores(new, data.attributes)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    # A class's score does not depend on who else is a candidate.
    np.testing.assert_allclose(
        reg._scores(new, data.attributes[3:5]), scores[:, 3:5], rtol=1e-5, atol=1e-6
    )


def test_both_sides_spread_alike_over_the_seen_classes(data):
    X = data.X[data.trainval].astype(np.float32)
    S = data.attributes[data.labels[data.trainval]]
    reg = ReZSLRegressor((8,), max_iter=3, random_state=0).fit(X, S)
    spread = []
    for weight in (0.0, 1.0):
        reg.feature_weight_ = weight
        spread.append(reg._scores(X, reg.prototypes_).std(axis=1).mean())
    assert spread[0] == pytest.approx(spread[1], rel=1e-3)


def test_after_partial_fit_attributes_alone_decide(data):
    X = data.X[data.trainval].astype(np.float32)
    S = data.attributes[data.labels[data.trainval]]
    reg = ReZSLRegressor((8,), max_iter=3, random_state=0).fit(X, S)
    assert reg._side is not None
    reg.partial_fit(X, S)
    space = reg._space.transform
    cosine = prototype_scores(space(reg.predict(X)), space(reg.prototypes_))
    np.testing.assert_allclose(reg._scores(X, reg.prototypes_), cosine, atol=1e-5)


def test_more_than_attributes_can_carry(data):
    """Classes that differ in features in a way their few attributes bend.

    Two attributes on a circle: feature weights of a class depend on its angle,
    which no linear map from attributes reads off.
    """
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    table = np.column_stack([np.cos(angle), np.sin(angle)])
    waves = rng.normal(size=(6, 24))
    means = (
        np.column_stack([f(q * angle) for q in (1, 2, 3) for f in (np.cos, np.sin)])
        @ waves
    )
    labels = np.repeat(np.arange(40), 30)
    X = (means[labels] + rng.normal(scale=2.0, size=(1200, 24))).astype(np.float32)
    held = labels % 4 == 1
    unseen = np.unique(labels[held])
    accuracy = {}
    reg = ReZSLRegressor(random_state=0).fit(X[~held], table[labels[~held]])
    for weight in (0.0, 0.67):
        reg.feature_weight_ = weight
        named = reg.predict(X[held], prototypes=table[unseen], classes=unseen)
        accuracy[weight] = np.mean(named == labels[held])
    assert accuracy[0.67] > accuracy[0.0] + 0.02


def test_one_class_may_hold_nearly_all_rows(monkeypatch):
    """No difference of nearly equal sums: in float32 nothing would be left of it."""
    rng = np.random.default_rng(0)
    group = np.r_[np.zeros(60000, dtype=int), 1:6]
    P = rng.random((6, 8))
    X = P[group] @ rng.normal(size=(8, 16)) + 0.3 * rng.normal(size=(len(group), 16))
    asked, ridge = [], module._ridge

    def recorded(gram, n, sums, penalty):
        asked[-1].append(np.triu(gram) / int(n))
        return ridge(gram, n, sums, penalty)

    monkeypatch.setattr(module, "_ridge", recorded)
    monkeypatch.setattr(module, "MOST_RANDOM", 64)
    choices = []
    for dtype in (np.float32, np.float64):
        asked.append([])
        choices.append(FeatureSide().fit(X.astype(dtype), group, P, seed=0).choice)
    assert choices[0] == choices[1]
    # One fold holds out the large class and keeps the other five rows.
    for single, double in zip(*asked, strict=True):
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, atol=1e-4 * np.abs(double).max())


def test_rows_of_more_than_one_block_have_the_same_side(training, monkeypatch):
    X, group, P = training
    kept = FeatureSide().fit(X, group, P, seed=0)
    monkeypatch.setattr(module, "BLOCK_ROWS", len(X) - 1)
    computed = FeatureSide().fit(X, group, P, seed=0)
    assert computed.choice == kept.choice
    assert computed.spread == pytest.approx(kept.spread, rel=1e-9)
    np.testing.assert_allclose(computed.coef, kept.coef, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_rows_have_the_side_of_the_primal_form(monkeypatch, dtype):
    """With fewer rows than features; the primal form is that of many rows."""
    rng = np.random.default_rng(0)
    P, group = rng.random((20, 5)), np.repeat(np.arange(20), 3)
    X = P[group] @ rng.normal(size=(5, 90)) + rng.normal(size=(60, 90))
    X = X.astype(dtype)
    dual = FeatureSide().fit(X, group, P, seed=0)
    primal_form = module._Sums
    folds = []

    def primal(X, group, n_classes):
        return primal_form(X, group, n_classes, folds)

    split = module.KFold.split

    def noted(self, X):
        folds.extend(split(self, X))
        return iter(folds)

    monkeypatch.setattr(module.KFold, "split", noted)
    monkeypatch.setattr(module, "_DualSums", primal)
    primal = FeatureSide().fit(X, group, P, seed=0)
    assert primal.choice == dual.choice
    size = np.abs(primal.coef).max()
    tol = 1e-3 if dtype is np.float32 else 1e-9
    np.testing.assert_allclose(dual.coef / size, primal.coef / size, atol=tol)
    assert dual.spread == pytest.approx(primal.spread, rel=tol)


def test_few_rows_of_many_features_take_no_matrix_of_features(monkeypatch):
    def refuse(*args):
        raise AssertionError("features x features")

    monkeypatch.setattr(module, "_Sums", refuse)
    X = np.random.default_rng(0).normal(size=(60, 500)).astype(np.float32)
    P = np.random.default_rng(1).random((6, 4))
    side = FeatureSide().fit(X, np.arange(60) % 6, P, seed=0)
    assert side.coef.shape[1:] == (515, 6)


def test_many_classes_of_few_features_choose_as_by_mixtures(monkeypatch):
    rng = np.random.default_rng(0)
    P, group = rng.random((60, 5)), np.repeat(np.arange(60), 2)
    X = P[group] @ rng.normal(size=(5, 4)) + 0.3 * rng.normal(size=(120, 4))
    monkeypatch.setattr(module, "MOST_RANDOM", 8)
    evidence, log_share = [], module._log_share

    def noted(scores, of_row):
        evidence.append(log_share(scores, of_row))
        return evidence[-1]

    monkeypatch.setattr(module, "_log_share", noted)
    FeatureSide().fit(X, group, P, seed=0)
    narrow, evidence[:] = list(evidence), []
    monkeypatch.setattr(module, "_is_narrow", lambda W, kept: False)
    FeatureSide().fit(X, group, P, seed=0)
    assert len(narrow) == len(evidence) > 0
    for one, other in zip(narrow, evidence, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_random_units_are_drawn_again_from_a_pickle(training):
    X, group, P = training
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 300)).astype(np.float32)
    side = FeatureSide().fit(X, np.arange(400) % 12, P, seed=0)
    data = pickle.dumps(side)
    assert len(data) < side.coef.nbytes + side.units.R.nbytes / 2
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.units.R, side.units.R)
    np.testing.assert_array_equal(again.units.b, side.units.b)
    V = side.weights(P)
    np.testing.assert_array_equal(again.similarities(X, V), side.similarities(X, V))
    side.units._checksum += 1  # as if NumPy drew others
    with pytest.raises(ValueError, match="another version of NumPy"):
        pickle.loads(pickle.dumps(side))
