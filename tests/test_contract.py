"""Promises of every estimator: fitted state, equal scores, blocks."""

import copy
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.utils import gen_batches

from rezsl_sk import (
    AttentionRegressor,
    ReZSLRegressor,
    ZeroShotClassifier,
    ZeroShotStackingClassifier,
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

QUICK = {"max_iter": 2, "random_state": 0}
CLASSIFIERS = {
    "classifier": ZeroShotClassifier(ReZSLRegressor((8,), **QUICK)),
    "l2": ZeroShotClassifier(ReZSLRegressor((), attribute_scaling="l2", **QUICK)),
    "attention": ZeroShotClassifier(AttentionRegressor(**QUICK)),
    "eszsl": ESZSL(),
    "sae": SAE(),
    "sae-to-features": SAE(direction="to_features", attribute_scaling="l2"),
    "ridge": RidgePrototype(),
    "dap": DAP(max_iter=5),
    "ale": ALE(**QUICK),
    "dem": DEM(hidden_layer_sizes=(8,), **QUICK),
    "class-normalised": ClassNormalizedEmbedding(hidden_layer_sizes=(8, 8), **QUICK),
    "stack": ZeroShotStackingClassifier(
        [("eszsl", ESZSL()), ("ridge", RidgePrototype())], seen_penalty=0.0
    ),
}
REGRESSORS = {
    "regressor": ReZSLRegressor((8,), **QUICK),
    "unscaled": ReZSLRegressor((), feature_scaling=None, attribute_scaling=None),
    "regressor-l2": ReZSLRegressor((), attribute_scaling="l2", **QUICK),
    "attention-regressor": AttentionRegressor(**QUICK),
}


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(
        8, 5, samples_per_class=10, n_features=12, n_attributes=6, random_state=0
    )


def inputs(name, data, dtype=np.float64):
    """X, y or S, the table, X to predict and prototypes: all the caller's own."""
    X = data.X.astype(dtype)
    if "attention" in name:
        X = np.stack([X, X[:, ::-1]], axis=1)
    order = np.random.default_rng(5).permutation(len(data.class_names))
    names, table = data.class_names[order], data.attributes[order].astype(dtype)
    S = data.attributes[data.labels].astype(dtype)
    target = data.y if name in CLASSIFIERS else S
    train, test = data.trainval, data.test_unseen
    return X[train], target[train].copy(), names, table, X[test]


def answers(model, X, table):
    """Everything that the fitted model says of X."""
    if not is_classifier(model):
        return model.predict(X), model.predict(X, prototypes=table)
    found = [model.predict(X), model.decision_function(X), model.class_scores(X)]
    found.append(model.class_scores(X, model.class_names_))
    if hasattr(model, "predict_proba"):
        found += [model.predict_proba(X), model.predict_log_proba(X)]
    return found


def same(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


MODELS = CLASSIFIERS | REGRESSORS


# ---- fitted state alone decides --------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODELS)
def test_what_the_caller_does_to_its_arrays_changes_nothing(name, data, dtype):
    X, y, names, table, new = inputs(name, data, dtype)
    model = clone(MODELS[name])
    candidates = names[:-1].copy()
    if is_classifier(model):
        # As constructed, not as cloned: a clone has a table of its own.
        model.class_attributes = names, table
        model.candidates = candidates
    model.fit(X, y)
    prototypes = table.copy()
    before = answers(model, new, prototypes)
    for array in (X, table):
        array *= -3
        array += 1
    names[:] = names[::-1].copy()
    candidates[:] = "?"
    y[:] = y[::-1].copy()
    same(answers(model, new, prototypes), before)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_same_of_a_data_frame_and_of_new_classes(name, data):
    X, y, names, table, new = inputs(name, data)
    seen = np.isin(names, y)
    frame = pd.DataFrame(table[seen], index=names[seen], copy=False)
    more = pd.DataFrame(table[~seen], index=names[~seen], copy=False)
    model = clone(CLASSIFIERS[name])
    model.class_attributes = frame
    longer = model.fit(X, y).with_classes(more)
    before = answers(model, new, None), answers(longer, new, None)
    table *= 0
    frame.iloc[:] = 7.0
    more.iloc[:] = 7.0
    same(answers(model, new, None), before[0])
    same(answers(longer, new, None), before[1])


@pytest.mark.parametrize("name", MODELS)
def test_parameters_set_after_fit_change_nothing(name, data):
    X, y, names, table, new = inputs(name, data)
    model = clone(MODELS[name])
    if is_classifier(model):
        model.set_params(class_attributes=(names[:-1], table[:-1]))
        model.set_params(candidates=names[:-1].tolist())
    model.fit(X, y)
    before = answers(model, new, table)
    if is_classifier(model):
        extended = answers(model.with_classes((names[-1:], table[-1:])), new, None)
    for parameter in model.get_params(deep=True):
        changed = copy.deepcopy(model)
        # Whoever reads it cannot go on.
        changed.set_params(**{parameter: object()})
        same(answers(changed, new, table), before)
        if is_classifier(model):
            longer = changed.with_classes((names[-1:], table[-1:]))
            same(answers(longer, new, None), extended)


def test_parameters_set_after_fit_do_not_reach_a_fitted_regressor(data):
    X, y, names, table, new = inputs("classifier", data)
    model = clone(CLASSIFIERS["classifier"])
    model.set_params(class_attributes=(names, table)).fit(X, y)
    before = answers(model, new, None)
    for parameter in model.regressor_.get_params(deep=False):
        changed = copy.deepcopy(model)
        changed.regressor_.set_params(**{parameter: object()})
        same(answers(changed, new, None), before)


def test_a_copy_with_more_classes_fits_to_the_same_again(data):
    """Also where the parameters were set to something else in between."""
    X, y, names, table, new = inputs("eszsl", data)
    pair = names[:8].tolist()
    model = ESZSL((names[:12], table[:12]), candidates=pair).fit(X, y)
    model.set_params(class_attributes=None, candidates="seen")
    longer = model.with_classes((names[12:], table[12:]))
    again = clone(longer).fit(X, y)
    assert again.classes_.tolist() == sorted([*pair, names[12]])
    same(answers(again, new, None), answers(longer, new, None))


# ---- equal scores ----------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_of_equal_classes_unseen_comes_first_then_the_table(name, data):
    """Every class stands four times in the table, under names of any order."""
    X, y, names, table, new = inputs(name, data)
    rng = np.random.default_rng(0)
    twins = [f"{letter} {name}" for letter in "azb" for name in names]
    order = rng.permutation(4 * len(names))
    all_names = np.array([*names, *twins])[order]
    rows = np.tile(table, (4, 1))[order]
    model = clone(CLASSIFIERS[name]).set_params(class_attributes=(all_names, rows))
    with pytest.warns(UserWarning, match="equal attributes"):
        model.fit(X, y)
    # Columns are sorted by name: of twins the first column would be the "a".
    assert model.classes_.tolist() == sorted(all_names)
    scores = model.decision_function(new)
    place = {name: k for k, name in enumerate(all_names.tolist())}
    of_seen = np.isin(model.classes_, y)
    expected = []
    for row in scores:
        best = np.flatnonzero(row == row.max())
        assert len(best) >= 4
        best = sorted(best, key=lambda k: (of_seen[k], place[model.classes_[k]]))
        expected.append(model.classes_[best[0]])
    assert model.predict(new).tolist() == expected
    assert not np.isin(expected, y).any()


def test_two_equal_candidates(data):
    X, y, names, table, new = inputs("eszsl", data)
    rows = np.vstack([table, table[:1], table[:1]])
    for first, second in [("one", "two"), ("two", "one")]:
        longer = np.array([*names, first, second]), rows
        model = ESZSL(longer, candidates=["one", "two"])
        with pytest.warns(UserWarning, match="equal attributes"):
            model.fit(X, y)
        assert not model.decision_function(new).any()
        assert set(model.predict(new)) == {first}


# ---- scores ----------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_class_scores_are_the_decision_without_the_penalty(name, data):
    X, y, names, table, new = inputs(name, data)
    model = clone(CLASSIFIERS[name])
    model.set_params(class_attributes=(names, table), seen_penalty=0.125).fit(X, y)
    scores = model.class_scores(new)
    seen = np.isin(model.classes_, model.seen_classes_)
    np.testing.assert_allclose(
        model.decision_function(new), scores - 0.125 * seen, rtol=1e-6, atol=1e-7
    )
    few = model.classes_[[7, 2, 5]]
    np.testing.assert_allclose(
        model.class_scores(new, few), scores[:, [7, 2, 5]], rtol=1e-6, atol=1e-7
    )
    assert model.class_scores(new, few[:2].tolist()).shape == (len(new), 2)
    with pytest.raises(ValueError, match="'nobody'.* not in class_attributes"):
        model.class_scores(new, ["nobody"])
    for wrong in ("seen1", [], [["seen1"]]):
        with pytest.raises(ValueError, match="classes must be a list of names"):
            model.class_scores(new, wrong)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_are_computed_in_blocks(name, data, monkeypatch):
    X, y, names, table, new = inputs(name, data)
    model = clone(CLASSIFIERS[name])
    model.set_params(class_attributes=(names, table)).fit(X, y)
    whole, sizes = answers(model, new, None), []
    scorer = type(model).scorer

    def spy(self, attributes, names=None):
        score = scorer(self, attributes, names)
        return lambda X: sizes.append(len(X)) or score(X)

    monkeypatch.setattr(type(model), "scorer", spy)
    monkeypatch.setattr("rezsl_sk.decoding.SCORE_ROWS", 7)
    parts = answers(model, new, None)
    assert parts[0].tolist() == whole[0].tolist()
    for part, one in zip(parts[1:], whole[1:], strict=True):
        np.testing.assert_allclose(part, one, rtol=1e-5, atol=1e-6)
    n_calls = len(parts)
    assert (
        sizes == [rows.stop - rows.start for rows in gen_batches(len(new), 7)] * n_calls
    )


@pytest.mark.parametrize(
    "method",
    ["decision_function", "class_scores", "predict_proba", "predict_log_proba"],
)
def test_many_rows_take_the_memory_of_their_scores(method, monkeypatch):
    """Of all that is computed beside the result only a block is there at a time."""
    rng = np.random.default_rng(0)
    table = (np.arange(500), rng.normal(size=(500, 6)))
    X, y = rng.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 6
    regressor = ReZSLRegressor((), max_iter=1, random_state=0)
    clf = ZeroShotClassifier(regressor, table).fit(X, y)
    many = np.tile(X, (200, 1))
    score = getattr(clf, method)
    score(many[:10])
    monkeypatch.setattr("rezsl_sk.decoding.SCORE_ENTRIES", 500 * 200)
    tracemalloc.start()
    result = score(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.nbytes == 12_000 * 500 * 4
    assert peak < 1.3 * result.nbytes
