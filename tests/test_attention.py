"""AttentionRegressor: formulas written out slowly, contract, regions in and out."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from rezsl_sk import (
    AttentionRegressor,
    ReZSLRegressor,
    ReZSLSearchCV,
    ZeroShotClassifier,
)
from rezsl_sk._attention import AttentionHead, RegionScaling
from rezsl_sk._scaling import FeatureScaling
from rezsl_sk.feature_cache import FeatureCache
from rezsl_sk.metrics import mean_per_class_accuracy
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer
from rezsl_sk.plotting import AttentionMapDisplay

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
N_REGIONS, N_FEATURES, N_ATTRIBUTES = 6, 8, 5
NAMES = ["ear", "fin", "horn", "tail", "wing"]


@pytest.fixture(scope="module")
def data():
    """Parts in places: X (n, r, d), labels (n,), table (31, a), places (n, a)."""
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(N_ATTRIBUTES, N_FEATURES))
    bits = np.arange(N_ATTRIBUTES)[::-1]
    table = np.arange(1, 32)[:, np.newaxis] >> bits & 1  # rows in sorted order
    labels = np.repeat(np.arange(31), 20)
    X = 0.5 * rng.normal(size=(len(labels), N_REGIONS, N_FEATURES))
    order = np.tile(np.arange(N_REGIONS), (len(X), 1))
    places = rng.permuted(order, axis=1)[:, :N_ATTRIBUTES]
    for j in range(N_ATTRIBUTES):
        shown = 2 * np.outer(table[labels, j], parts[j])
        X[np.arange(len(X)), places[:, j]] += shown
    return X.astype(np.float32), labels, table.astype(float), places


@pytest.fixture(scope="module")
def X_S(data):
    X, labels, table, _ = data
    return X[labels < 24], table[labels[labels < 24]]


def quick(embeddings=None, **parameters):
    defaults = {"max_iter": 3, "random_state": 0}
    return AttentionRegressor(embeddings, **{**defaults, **parameters})


def embeddings(seed=0):
    return np.random.default_rng(seed).normal(size=(N_ATTRIBUTES, 3))


def slow(X, E, key, value, bias):
    """Outputs (n, a) and attention (n, a, r) by the formulas, one by one."""
    n, r, d = X.shape
    output, maps = np.empty((n, len(E))), np.empty((n, len(E), r))
    for i in range(n):
        for j, v in enumerate(E):
            asked = np.array([v @ key.T @ X[i, k] / d**0.5 for k in range(r)])
            maps[i, j] = np.exp(asked) / np.exp(asked).sum()
            attended = sum(maps[i, j, k] * X[i, k] for k in range(r))
            output[i, j] = v @ value.T @ attended + bias[j]
    return output, maps


# ---- formulas ------------------------------------------------------------------


@pytest.fixture
def weights():
    """Regions (4, r, d), embeddings (a, e), keys and values (d, e), bias (a,)."""
    rng = np.random.default_rng(1)
    shapes = [
        (4, N_REGIONS, N_FEATURES),
        (N_ATTRIBUTES, 3),
        *[(N_FEATURES, 3)] * 2,
        (N_ATTRIBUTES,),
    ]
    return [rng.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_its_formula(weights, device, training, monkeypatch):
    monkeypatch.setattr("rezsl_sk._attention.BLOCK_REGIONS", 3 * N_REGIONS)
    X, E, key, value, bias = weights
    head = AttentionHead([key, value], [bias], E, device=device).train(training)
    output = head(torch.tensor(X.reshape(len(X), -1), device=device))
    expected = slow(X, E, key, value, bias)[0]
    np.testing.assert_allclose(output[:, 0].cpu(), expected, rtol=1e-10)
    for array, back in zip([key, value], head.arrays()[0][0], strict=True):
        np.testing.assert_array_equal(array, back)


def test_the_gradients_are_those_of_the_formula(weights):
    X, E, *rest = weights
    X = X[:2]
    head = AttentionHead(rest[:2], rest[2:], E)
    direction = np.random.default_rng(2).normal(size=(2, N_ATTRIBUTES))
    for _ in range(2):  # gradients of the latest batch, no sum
        head(torch.tensor(X.reshape(len(X), -1)))
        head.backward(torch.tensor(direction).unsqueeze(1))
    grads = [w.grad.numpy().T for w in head.weights] + [head.bias.grad.numpy()]

    def value_at(which, place, step):
        moved = [w.copy() for w in rest]
        moved[which][place] += step
        return (slow(X, E, *moved)[0] * direction).sum()

    for which, grad in enumerate(grads):
        for place in np.ndindex(grad.shape):
            up, down = (value_at(which, place, step) for step in (1e-5, -1e-5))
            assert grad[place] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("E", [None, embeddings()], ids=["one-hot", "given"])
def test_prediction_and_attention_are_the_formulas(X_S, E, monkeypatch):
    X, S = X_S[0].astype(np.float64), X_S[1]
    reg = quick(E, max_iter=10).fit(X, S)
    monkeypatch.setattr("rezsl_sk._attention.BLOCK_REGIONS", 3 * N_REGIONS)
    some = X[::40]
    scaled = reg._features.transform(some.reshape(len(some), -1)).reshape(some.shape)
    unit = np.eye(N_ATTRIBUTES)
    if E is not None:
        unit = E / np.linalg.norm(E, axis=1, keepdims=True)
    output, maps = slow(scaled, unit, *reg.coefs_, *reg.intercepts_)
    expected = output * reg.attribute_scale_ + reg.attribute_offset_
    np.testing.assert_allclose(reg.predict(some), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(reg.attention(some), maps, rtol=1e-9)
    assert maps.max() > 2 / N_REGIONS  # not the average it started from


@pytest.mark.parametrize("how", ["l2", "standard", None])
def test_the_mean_of_scaled_regions_is_the_scaled_mean(data, how):
    X = data[0].astype(np.float64) * np.linspace(0.1, 9, N_FEATURES) + 3
    rows = X.reshape(len(X), -1)
    scaled = RegionScaling(how, N_REGIONS).fit(rows).transform(rows)
    pooled = FeatureScaling(how).fit(X.mean(axis=1)).transform(X.mean(axis=1))
    np.testing.assert_allclose(scaled.reshape(X.shape).mean(axis=1), pooled, atol=1e-9)


def test_two_axes_are_one_region(data):
    X, labels, table, _ = data
    x, S = X.mean(axis=1), table[labels]
    one, two = quick().fit(x, S), quick().fit(x[:, np.newaxis], S)
    assert one.n_regions_ == two.n_regions_ == 1
    np.testing.assert_array_equal(one.predict(x), two.predict(x[:, np.newaxis]))
    np.testing.assert_array_equal(one.attention(x), 1)


def test_the_feature_side_is_that_of_the_pooled_features(X_S, data):
    X, S = X_S
    pooled = ReZSLRegressor(random_state=0, feature_weight=1, max_iter=1)
    expected = pooled.fit(X.mean(axis=1), S)
    reg = quick(feature_weight=1).fit(X, S)
    unseen, prototypes = data[0][data[1] >= 24], data[2][24:]
    np.testing.assert_array_equal(
        reg.predict(unseen, prototypes),
        expected.predict(unseen.mean(axis=1), prototypes),
    )


# ---- what it learns ------------------------------------------------------------


@pytest.mark.parametrize("E", [None, embeddings()], ids=["one-hot", "given"])
def test_attributes_look_where_they_show(data, E):
    X, labels, table, places = data
    seen = labels < 24
    if E is not None:  # as many directions as attributes
        E = np.random.default_rng(0).normal(size=(N_ATTRIBUTES, 7))
    reg = AttentionRegressor(E, random_state=0).fit(X[seen], table[labels[seen]])
    looks_at = reg.attention(X[~seen]).argmax(axis=2)
    has = table[labels[~seen]] == 1
    assert (looks_at == places[~seen])[has].mean() > 0.9  # chance: 0.17


def test_parts_in_places_are_named_better_than_from_their_mean(data):
    X, labels, table, _ = data
    X = X + np.random.default_rng(1).normal(size=X.shape)  # the mean drowns in noise
    seen = labels < 24
    accuracy = []
    for reg, x in [(AttentionRegressor(), X), (ReZSLRegressor(()), X.mean(axis=1))]:
        reg.set_params(random_state=0, feature_weight=0)
        reg.fit(x[seen], table[labels[seen]])
        names = reg.predict(x[~seen], table[24:], classes=np.arange(24, 31))
        accuracy.append(mean_per_class_accuracy(labels[~seen], names))
    assert accuracy[0] > accuracy[1] + 0.05


def test_the_order_of_regions_is_that_of_the_maps_and_else_does_not_matter(X_S):
    X, S = X_S
    reg = quick().fit(X, S)
    order = np.random.default_rng(0).permutation(N_REGIONS)
    np.testing.assert_allclose(
        reg.attention(X[:9, order]), reg.attention(X[:9])[:, :, order], rtol=1e-4
    )
    np.testing.assert_allclose(reg.predict(X[:9, order]), reg.predict(X[:9]), rtol=1e-4)


def test_constant_attributes_have_no_map(X_S):
    X, S = X_S
    S = np.insert(S, 2, 7.0, axis=1)
    reg = quick().fit(X, S)
    maps = reg.attention(X[:3])
    assert maps.shape == (3, N_ATTRIBUTES + 1, N_REGIONS)
    assert np.isnan(maps[:, 2]).all()
    np.testing.assert_allclose(np.delete(maps, 2, axis=1).sum(axis=2), 1, rtol=1e-5)
    assert (reg.predict(X[:3])[:, 2] == 7).all()


# ---- embeddings ------------------------------------------------------------------


def test_embeddings_are_matched_by_name_and_count_by_direction(X_S):
    X, S = X_S[0], pd.DataFrame(X_S[1], columns=NAMES)
    E = pd.DataFrame(embeddings(), index=NAMES)
    expected = quick(E).fit(X, S).predict(X)
    shuffled = pd.concat([3 * E, E.rename("un{}".format)]).sample(frac=1)
    np.testing.assert_allclose(quick(shuffled).fit(X, S).predict(X), expected, 1e-4)
    by_order = quick(E.to_numpy()).fit(X, S)
    np.testing.assert_array_equal(by_order.predict(X), expected)
    assert (
        np.abs(quick(E.to_numpy()[::-1]).fit(X, S).predict(X) - expected).max() > 0.01
    )


@pytest.mark.parametrize(
    "E, message",
    [
        (embeddings()[1:], "has 4 rows, but S has 5 attributes"),
        (np.vstack([embeddings()[:4], np.zeros(3)]), r"rows of zeros: \[4\]"),
        (np.full((5, 3), np.nan), "attribute_embeddings contains NaN"),
        (pd.DataFrame(embeddings(), index=[*NAMES[:4], "x"]), r"missing: \['wing'\]"),
        (pd.DataFrame(embeddings(), index=[*NAMES[:4], "fin"]), r"missing: \['wing'\]"),
        ("words", "attribute_embeddings"),
    ],
)
def test_bad_embeddings_are_refused_in_a_sentence(X_S, E, message):
    with pytest.raises(ValueError, match=message):
        quick(E).fit(X_S[0], pd.DataFrame(X_S[1], columns=NAMES))


def test_an_attribute_embedded_twice_is_refused_in_a_sentence(X_S):
    E = pd.DataFrame(embeddings()[[0, 1, 2, 3, 4, 1]], index=[*NAMES, "fin"])
    with pytest.raises(ValueError, match=r"more than once: \['fin'\]"):
        quick(E).fit(X_S[0], pd.DataFrame(X_S[1], columns=NAMES))


# ---- the contract ----------------------------------------------------------------


@parametrize_with_checks([AttentionRegressor()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("device", DEVICES)
def test_same_seed_same_bits_also_through_a_pickle(X_S, device):
    X, S = X_S
    one, two = (quick(embeddings(), device=device).fit(X, S) for _ in range(2))
    packed = pickle.dumps(two)
    assert b"torch" not in packed
    two = pickle.loads(packed)
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    np.testing.assert_array_equal(one.attention(X), two.attention(X))
    other = quick(embeddings(), random_state=1).fit(X, S)
    assert (other.predict(X) != one.predict(X)).any()


def test_grid_search_on_folds_of_classes_chooses_embeddings(X_S):
    X, S = X_S
    same = np.ones((N_ATTRIBUTES, 1))  # one query for all: nothing to tell apart
    search = GridSearchCV(
        quick(max_iter=10, feature_weight=0),
        {"attribute_embeddings": [same, None]},
        cv=ClassKFold(3),
        scoring=zero_shot_scorer,
    ).fit(X, S)
    assert search.best_params_ == {"attribute_embeddings": None}
    assert search.best_score_ > 0.5  # chance: 0.125
    assert search.best_estimator_.attention(X).shape[1:] == (N_ATTRIBUTES, N_REGIONS)


def test_the_library_s_own_search_trains_each_alone(X_S):
    X, S = X_S
    grid = {"attribute_embeddings": [None, embeddings()], "class_power": [0.0, 1.0]}
    options = {"cv": ClassKFold(2), "scoring": zero_shot_scorer, "refit": False}
    ours = ReZSLSearchCV(quick(feature_weight=0), grid, **options).fit(X, S)
    theirs = GridSearchCV(quick(feature_weight=0), grid, **options).fit(X, S)
    scores = [search.cv_results_["mean_test_score"] for search in (ours, theirs)]
    np.testing.assert_array_equal(*scores)
    assert len(set(scores[0])) > 1


def test_the_classifier_takes_regions_where_its_regressor_does(data):
    X, labels, table, _ = data
    y = np.array([f"class {k:02}" for k in range(31)])[labels]
    classes = pd.DataFrame(table, np.unique(y), columns=NAMES)
    E = pd.DataFrame(embeddings(), index=NAMES).iloc[::-1]
    seen = labels < 24
    model = ZeroShotClassifier(quick(E), classes[:28], seen_penalty="auto")
    model.fit(X[seen], y[seen])
    by_hand = quick(E).fit(X[seen], classes.loc[y[seen]])
    unseen = clone(model).set_params(candidates="unseen", seen_penalty=0.0)
    unseen = unseen.fit(X[seen], y[seen]).with_classes(classes[28:])
    np.testing.assert_array_equal(
        unseen.predict(X[~seen]), by_hand.predict(X[~seen], classes[24:])
    )
    assert model.predict_proba(X[:2]).shape == (2, 28)
    with pytest.raises(ValueError, match="Found array with dim 3"):
        ZeroShotClassifier(class_attributes=classes).fit(X[seen], y[seen])


def test_regions_of_a_cache(X_S, tmp_path):
    X, S = X_S[0].astype(np.float16), X_S[1]
    expected = quick().fit(X, S)
    labels = [str(row) for row in S]
    with FeatureCache.from_arrays(tmp_path / "regions.h5", X, labels) as cache:
        reg = quick().fit(cache.X, S)
        np.testing.assert_array_equal(reg.attention(cache.X), expected.attention(X))
        np.testing.assert_array_equal(reg.predict(cache.X), expected.predict(X))


def test_early_stopping_warm_start_and_partial_fit_take_regions(X_S):
    X, S = X_S
    reg = quick(early_stopping=True).fit(X, S)
    assert len(reg.validation_scores_) == 3
    reg = quick(warm_start=True).fit(X, S)
    before = reg.loss_
    assert reg.fit(X, S).loss_ < before
    with pytest.raises(ValueError, match="3 regions of 8 features and S 5 attributes"):
        reg.fit(X[:, :3], S)
    with pytest.raises(ValueError, match="embeddings are not those of the model"):
        quick(warm_start=True).fit(X, S).set_params(
            attribute_embeddings=embeddings()
        ).fit(X, S)
    part = quick().partial_fit(X, S)
    before = part.loss_
    assert part.partial_fit(X, S).loss_ < before


def test_bad_regions_are_refused_in_a_sentence(X_S):
    X, S = X_S
    with pytest.raises(ValueError, match="X has 4 axes.*reshape a grid"):
        quick().fit(X.reshape(len(X), 2, 3, -1), S)
    with pytest.raises(ValueError, match="0 regions of 8 features; at least one"):
        quick().fit(X[:, :0], S)
    reg = quick().fit(X, S)
    for method in (reg.predict, reg.attention):
        with pytest.raises(ValueError, match="2 regions of 8 features, but the model"):
            method(X[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        reg.attention(np.full_like(X, np.nan))


# ---- the figure ------------------------------------------------------------------


@pytest.fixture
def drawing(tmp_path):
    """What the display is told of two pictures of 8 x 12 pixels."""
    plt = pytest.importorskip("matplotlib.pyplot")
    paths = ["one.png", "two.png"]
    for i, path in enumerate(paths):
        plt.imsave(tmp_path / path, np.full((8, 12, 3), i / 2))
    yield {"paths": paths, "root": tmp_path, "grid": (2, 3)}
    plt.close("all")


def test_the_figure_shows_the_attributes_that_stand_out(X_S, drawing):
    X, S = X_S[0], np.insert(X_S[1], 2, 7.0, axis=1)
    names = np.insert(NAMES, 2, "constant")
    reg = quick().fit(X, pd.DataFrame(S, columns=names))
    display = AttentionMapDisplay.from_estimator(reg, X[:2], attributes=5, **drawing)
    height = (reg.predict(X[:2]) - reg.attribute_offset_) / reg.attribute_scale_
    for i in range(2):
        expected = [j for j in np.argsort(-height[i]) if j != 2]
        shown = [axis.get_title() for axis in display.axes_[i, 1:]]
        assert shown == names[expected].tolist()
        np.testing.assert_array_equal(
            display.maps[i], reg.attention(X[:2])[i, expected]
        )
        picture = display.axes_[i, 1].images[0].get_array()
        np.testing.assert_allclose(picture[..., 0], i / 2, atol=0.01)


def test_the_brightest_place_is_where_an_attribute_looks(drawing):
    maps = np.array([[[0.1, 0.1, 0.1, 0.1, 0.4, 0.2]]] * 2)
    display = AttentionMapDisplay.from_predictions(
        maps, names=[["ear"]] * 2, crop=0.5, **drawing
    )
    shade = display.axes_[0, 1].images[1]
    light = 1 - shade.get_array()[..., 3] / 0.9
    np.testing.assert_allclose(light.ravel(), maps[0, 0] / 0.4)
    # Half of the shorter side, around the middle of 12 x 8 pixels.
    assert shade.get_extent() == [3.5, 7.5, 5.5, 1.5]
    assert display.axes_[0, 1].axis() == (-0.5, 11.5, 7.5, -0.5)


def test_the_figure_of_a_classifier_and_of_given_attributes(data, drawing):
    X, labels, table, _ = data
    classes = pd.DataFrame(table, columns=NAMES)
    model = ZeroShotClassifier(quick(), classes).fit(X, labels)
    display = AttentionMapDisplay.from_estimator(
        model, X[:2], attributes=["wing", 0], **drawing
    )
    assert [axis.get_title() for axis in display.axes_[1, 1:]] == ["wing", "ear"]
    np.testing.assert_array_equal(
        display.maps, model.regressor_.attention(X[:2])[:, [4, 0]]
    )


def test_what_cannot_be_drawn_is_refused_in_a_sentence(X_S, drawing):
    X, S = X_S[0], np.insert(X_S[1], 2, 7.0, axis=1)
    reg = quick().fit(X, S)
    draw = AttentionMapDisplay.from_estimator
    with pytest.raises(ValueError, match=r"\[2\] have one value"):
        draw(reg, X[:2], attributes=[0, 2], **drawing)
    with pytest.raises(ValueError, match="no attribute is named 'fur'; there are 6"):
        draw(reg, X[:2], attributes=["fur"], **drawing)
    with pytest.raises(ValueError, match="6 regions make no grid of 2 x 2"):
        draw(reg, X[:2], **{**drawing, "grid": None})
    with pytest.raises(ValueError, match=r"of shape \(2,\), got \(2, 4\) and \(1,\)"):
        draw(reg, X[:2], **{**drawing, "paths": ["one.png"]})
    for grid in (6, (-2, -3), (1, 2, 3)):
        with pytest.raises(ValueError, match="6 regions make no grid of"):
            draw(reg, X[:2], **{**drawing, "grid": grid})
    for attributes in (0, -1, 2.5):
        with pytest.raises(ValueError, match="how many to show, at least 1"):
            draw(reg, X[:2], attributes=attributes, **drawing)
    with pytest.raises(ValueError, match=r"give \(n, k, r\)"):
        AttentionMapDisplay.from_predictions(X[0], names=[["a"]], **drawing)
    pooled = ReZSLRegressor(max_iter=1, random_state=0).fit(X.mean(axis=1), S)
    with pytest.raises(ValueError, match="ReZSLRegressor does not"):
        draw(pooled, X.mean(axis=1)[:2], **drawing)


def test_a_broken_picture_is_a_sentence(X_S, drawing, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    paths = [tmp_path / "broken.png"] * 2
    with pytest.raises(ValueError, match="broken.png is no picture that can be read"):
        AttentionMapDisplay.from_estimator(
            quick().fit(*X_S), X_S[0][:2], **{**drawing, "paths": paths, "root": None}
        )


def test_a_map_of_zeros_is_dark(drawing):
    display = AttentionMapDisplay.from_predictions(
        np.zeros((2, 1, 6)), names=[["ear"]] * 2, **drawing
    )
    shade = display.axes_[0, 1].images[1].get_array()
    np.testing.assert_allclose(shade[..., 3], 0.9)


def test_one_attribute_may_be_given_by_its_name(data, drawing):
    X, labels, table, _ = data
    model = ZeroShotClassifier(quick(), pd.DataFrame(table, columns=NAMES))
    display = AttentionMapDisplay.from_estimator(
        model.fit(X, labels), X[:2], attributes="wing", **drawing
    )
    assert [axis.get_title() for axis in display.axes_[1, 1:]] == ["wing"]


@pytest.mark.parametrize("size", [1e160, 1e-170])
def test_embeddings_may_be_of_any_length(X_S, size):
    E = np.random.default_rng(0).normal(size=(X_S[1].shape[1], 5))
    model = AttentionRegressor(E * size, max_iter=1, random_state=0).fit(*X_S)
    np.testing.assert_allclose(np.linalg.norm(model.embeddings_, axis=1), 1, rtol=1e-6)


def test_no_samples_are_a_sentence(X_S):
    model = AttentionRegressor(max_iter=1, random_state=0).fit(*X_S)
    with pytest.raises(ValueError, match="0 sample"):
        model.predict(X_S[0][:0])


@pytest.mark.parametrize("size", [2.0**-90, 2.0**80])  # about 1e-27 and 1e24
def test_the_size_of_regions_does_not_matter(size):
    X = np.random.default_rng(0).normal(size=(20, 3, 4)).astype(np.float32)
    flat = X.reshape(20, 12)
    expected = RegionScaling("l2", 3).fit(flat).transform(flat)
    large = flat * np.float32(size)
    scaled = RegionScaling("l2", 3).fit(large).transform(large)
    np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-5)
