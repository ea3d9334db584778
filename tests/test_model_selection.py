"""Splitters that keep classes apart, and scorers, inside scikit-learn's machinery."""

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk._views import attribute_view, score_view
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.model_selection import (
    ClassKFold,
    ClassShuffleSplit,
    GZSLKFold,
    gzsl_scorer,
    zero_shot_scorer,
)

# ---- splitters ---------------------------------------------------------------


@st.composite
def class_numbers(draw, min_classes=2):
    """Class of each row, in any order; some classes have a single row."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=min_classes, max_size=9))
    rows = [k for k, size in enumerate(sizes) for _ in range(size)]
    return np.array(draw(st.permutations(rows)))


seeds = st.integers(0, 2**32 - 1)


def as_lists(splits):
    return [(train.tolist(), test.tolist()) for train, test in splits]


@settings(deadline=None)
@given(class_numbers(), st.integers(2, 9), st.booleans(), seeds)
def test_class_folds_share_no_class_and_test_every_row_once(y, n, shuffle, seed):
    n = min(n, y.max() + 1)
    splitter = ClassKFold(n, shuffle=shuffle, random_state=seed)
    tested = []
    for train, test in splitter.split(y, y):
        assert len(train) and len(test)
        assert not set(y[train]) & set(y[test])
        assert sorted([*train, *test]) == list(range(len(y)))
        tested.extend(test)
    assert sorted(tested) == list(range(len(y)))
    assert len(as_lists(splitter.split(y, y))) == splitter.get_n_splits() == n


@settings(deadline=None)
@given(class_numbers(), st.integers(2, 5), seeds)
def test_shuffled_folds_have_equally_many_classes(y, n, seed):
    n = min(n, y.max() + 1)
    folds = ClassKFold(n, random_state=seed).split(y, y)
    counts = [len(set(y[test])) for _, test in folds]
    assert max(counts) - min(counts) <= 1


def test_folds_without_shuffle_balance_rows():
    y = np.repeat([0, 1, 2, 3], [6, 2, 2, 2])
    folds = ClassKFold(2, shuffle=False).split(y, y)
    assert [len(test) for _, test in folds] == [6, 6]


@settings(deadline=None)
@given(class_numbers(), seeds)
def test_shuffle_splits_share_no_class(y, seed):
    splitter = ClassShuffleSplit(3, test_size=1, random_state=seed)
    splits = list(splitter.split(y, y))
    assert len(splits) == splitter.get_n_splits() == 3
    for train, test in splits:
        assert len(set(y[test])) == 1
        assert not set(y[train]) & set(y[test])
        assert sorted([*train, *test]) == list(range(len(y)))


def test_shuffle_splits_hold_out_a_share_of_the_classes():
    y = np.repeat(np.arange(10), np.arange(1, 11))
    for _, test in ClassShuffleSplit(5, test_size=0.3).split(y, y):
        assert len(set(y[test])) == 3


@settings(deadline=None)
@given(class_numbers(), st.integers(2, 9), st.floats(0.05, 0.95), seeds)
def test_gzsl_folds(y, n, share, seed):
    """Held-out classes whole; of each training class its share of rows."""
    n = min(n, y.max() + 1)
    splitter = GZSLKFold(n, seen_test_size=share, random_state=seed)
    unseen = []
    for train, test in splitter.split(y, y):
        assert sorted([*train, *test]) == list(range(len(y)))
        assert train.tolist() == sorted(train) and test.tolist() == sorted(test)
        seen_classes = set(y[train])
        unseen.extend(set(y) - seen_classes)
        for k in seen_classes:
            size, held = np.sum(y == k), np.sum(y[test] == k)
            if size == 1:
                assert held == 0
            else:
                assert held == min(size - 1, max(1, round(share * size)))
    assert sorted(unseen) == sorted(set(y))  # each class is unseen in one fold
    assert len(as_lists(splitter.split(y, y))) == splitter.get_n_splits() == n


def test_gzsl_folds_hold_out_the_classes_of_class_folds():
    y = np.arange(60) % 12
    unseen = [set(y) - set(y[train]) for train, _ in GZSLKFold(4).split(y, y)]
    assert unseen == [set(y[test]) for _, test in ClassKFold(4).split(y, y)]


def test_gzsl_folds_hold_out_rows_at_random():
    y = np.repeat([0, 1], 1000)
    for train, test in GZSLKFold(2, seen_test_size=0.3).split(y, y):
        held = test[np.isin(y[test], y[train])] % 1000
        assert len(held) == 300
        assert abs(held.mean() - 500) < 60  # 4 standard errors; the first rows: 150


SPLITTERS = [
    ClassKFold(3),
    ClassShuffleSplit(3, test_size=0.3),
    GZSLKFold(3, seen_test_size=0.3),
]
each_splitter = pytest.mark.parametrize("splitter", SPLITTERS, ids=repr)


@each_splitter
def test_seeds_are_reproducible(splitter):
    y = np.arange(60) % 12
    first = as_lists(splitter.split(y, y))
    assert as_lists(splitter.split(y, y)) == first
    splitter = type(splitter)(3, random_state=1)
    assert as_lists(splitter.split(y, y)) != as_lists(type(splitter)(3).split(y, y))
    splitter.random_state = np.random.RandomState(1)
    from_generator = as_lists(splitter.split(y, y))
    assert as_lists(splitter.split(y, y)) != from_generator  # it has moved on
    splitter.random_state = np.random.RandomState(1)
    assert as_lists(splitter.split(y, y)) == from_generator


@each_splitter
def test_splitting_leaves_the_global_seed_alone(splitter):
    y = np.arange(60) % 12
    before = np.random.get_state()[1].copy()
    list(splitter.split(y, y))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@each_splitter
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda y: np.array(list("abcdefghijkl"))[y], id="strings"),
        pytest.param(lambda y: np.array(list("abcdefghijkl"), object)[y], id="objects"),
        pytest.param(lambda y: y.tolist(), id="list"),
        pytest.param(lambda y: pd.Series(y, index=y[::-1] + 5), id="Series"),
        pytest.param(lambda y: y * 10.0 - 3, id="floats"),
        pytest.param(lambda y: y[:, None], id="column"),
        # Attributes in the order of the classes, so that numbers are the same.
        pytest.param(lambda y: np.c_[y // 4, y % 4, -y], id="attributes"),
        pytest.param(lambda y: pd.DataFrame(np.c_[y // 4, y % 4]), id="DataFrame"),
    ],
)
def test_the_form_of_the_classes_does_not_matter(splitter, form):
    y = np.random.default_rng(0).permutation(np.arange(60) % 12)
    expected = as_lists(splitter.split(y, y))
    assert as_lists(splitter.split(np.empty((60, 2)), form(y))) == expected


@each_splitter
def test_groups_are_the_classes_where_y_does_not_say(splitter):
    groups = np.arange(60) % 12
    y = np.random.default_rng(0).normal(size=(60, 2))
    expected = as_lists(splitter.split(groups, groups))
    assert as_lists(splitter.split(y, y, groups)) == expected
    assert as_lists(splitter.split(y, None, groups)) == expected


def test_minus_zero_is_not_a_class_of_its_own():
    S = np.array([[0.0], [-0.0], [1.0], [1.0]])
    folds = as_lists(ClassKFold(2, shuffle=False).split(S, S))
    assert sorted(test for _, test in folds) == [[0, 1], [2, 3]]


def test_plain_folds_do_share_classes():
    """The trap that these splitters are for: the check above can fail."""
    y = np.arange(60) % 12
    train, test = next(KFold(3).split(y, y))
    assert set(y[train]) & set(y[test])


@pytest.mark.parametrize(
    ("splitter", "y", "message"),
    [
        (ClassKFold(2), None, "splits need y: labels, or the attributes of each"),
        (ClassShuffleSplit(2), None, "splits need y"),
        (GZSLKFold(2), None, "splits need y"),
        (ClassKFold(2), [], "need at least one sample, got none"),
        (ClassShuffleSplit(2), [], "need at least one sample, got none"),
        (GZSLKFold(2), np.empty((0, 3)), "need at least one sample, got none"),
        (ClassKFold(1), [0, 1], "n_splits must be a whole number of at least 2, got 1"),
        (ClassKFold(2.0), [0, 1], "at least 2, got 2.0"),
        (ClassKFold("2"), [0, 1], "at least 2, got '2'"),
        (GZSLKFold(1), [0, 1], "n_splits must be a whole number of at least 2"),
        (ClassKFold(3), [0, 0, 1], "n_splits=3 folds need as many classes.*only 2. L"),
        (GZSLKFold(3), [[0], [1], [1]], "n_splits=3 folds need as many classes"),
        (ClassShuffleSplit(), [7, 7], "splits need at least 2 classes, got 1"),
        (GZSLKFold(2, seen_test_size=0), [0, 1], "share between 0 and 1, got 0"),
        (GZSLKFold(2, seen_test_size=1.0), [0, 1], "between 0 and 1, got 1.0"),
        (GZSLKFold(2, seen_test_size=np.nan), [0, 1], "between 0 and 1, got nan"),
        (GZSLKFold(2, seen_test_size="a"), [0, 1], "between 0 and 1, got 'a'"),
    ],
)
def test_bad_splits_are_refused_in_a_sentence(splitter, y, message):
    with pytest.raises(ValueError, match=message):
        list(splitter.split(np.empty((3, 1)), y))


# ---- scorers -------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    """12 seen classes, of which the folds below hold some out, and 4 unseen ones."""
    return make_zero_shot(
        12, 4, samples_per_class=15, n_features=16, n_attributes=8, random_state=0
    )


@pytest.fixture(scope="module")
def X_S_y(data):
    rows = data.trainval
    X = data.X[rows].astype(np.float32)
    return X, data.attributes[data.labels[rows]], data.y[rows]


@pytest.fixture(scope="module")
def fold(X_S_y):
    """Training and test rows of one generalised fold: 4 unseen, 8 seen classes."""
    y = X_S_y[2]
    return next(GZSLKFold(3, seen_test_size=0.4).split(y, y))


def quick(**parameters):
    defaults = {
        "hidden_layer_sizes": (),
        "max_iter": 10,
        "learning_rate_init": 1e-2,
        "feature_weight": 0,  # by hand: cosines of attributes alone
        "feature_scaling": None,
        "random_state": 0,
    }
    return ReZSLRegressor(**(defaults | parameters))


def quick_classifier(data, **parameters):
    table = pd.DataFrame(data.attributes, index=data.class_names)
    return ZeroShotClassifier(quick(), class_attributes=table, **parameters)


def cosine(p, q):
    p, q = np.asarray(p, float), np.asarray(q, float)
    return p @ q / (np.linalg.norm(p) * np.linalg.norm(q))


def by_hand(vectors, truth, candidates, penalties=None):
    """Accuracy of each true class: {name: share of its rows that are named so}.

    vectors: predicted attributes; truth: name of each row; candidates: {name:
    attributes}, both in the space of comparison; penalties: {name: taken off}.
    """
    hits = {}
    for vector, name in zip(vectors, truth, strict=True):
        scores = {
            other: cosine(vector, attributes) - (penalties or {}).get(other, 0)
            for other, attributes in candidates.items()
        }
        hits.setdefault(name, []).append(max(scores, key=scores.get) == name)
    return {name: np.mean(hit) for name, hit in hits.items()}


def in_space(reg, S):
    """Attributes in the space of training ("standard" scaling)."""
    return (S - reg.attribute_offset_) / reg.attribute_scale_


def mean_accuracy(accuracy, names):
    return np.mean([accuracy[name] for name in names])


def test_zero_shot_score_of_a_regressor_by_hand(data, X_S_y, fold):
    X, S, y = X_S_y
    train, test = fold
    reg = quick().fit(X[train], S[train])
    table = dict(zip(data.class_names, in_space(reg, data.attributes), strict=True))
    candidates = {name: table[name] for name in np.unique(y[test])}
    accuracy = by_hand(in_space(reg, reg.predict(X[test])), y[test], candidates)
    score = zero_shot_scorer(reg, X[test], S[test])
    assert score == pytest.approx(mean_accuracy(accuracy, accuracy))
    assert 0.2 < score < 1  # chance: 1 in 12


def test_zero_shot_score_of_a_classifier_by_hand(data, X_S_y, fold):
    """Among the labels of the test fold, whatever its own candidates and penalty."""
    X, S, y = X_S_y
    train, test = fold
    clf = quick_classifier(data, candidates="seen", seen_penalty=5.0)
    clf.fit(X[train], y[train])
    reg = clf.regressor_
    table = dict(zip(data.class_names, in_space(reg, data.attributes), strict=True))
    candidates = {name: table[name] for name in np.unique(y[test])}
    accuracy = by_hand(in_space(reg, reg.predict(X[test])), y[test], candidates)
    score = zero_shot_scorer(clf, X[test], y[test])
    assert score == pytest.approx(mean_accuracy(accuracy, accuracy))
    assert 0.2 < score < 1


@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: make_pipeline(r)])
def test_zero_shot_score_of_ridge_by_hand(data, X_S_y, fold, wrap):
    """It knows no prototypes: raw units, cosine."""
    X, S, y = X_S_y
    train, test = fold
    ridge = wrap(Ridge(alpha=10.0)).fit(X[train], S[train])
    table = dict(zip(data.class_names, data.attributes, strict=True))
    candidates = {name: table[name] for name in np.unique(y[test])}
    accuracy = by_hand(ridge.predict(X[test]), y[test], candidates)
    score = zero_shot_scorer(ridge, X[test], S[test])
    assert score == pytest.approx(mean_accuracy(accuracy, accuracy))
    assert 0.2 < score < 1


def test_zero_shot_score_counts_classes_not_rows(data, X_S_y):
    X, S, y = X_S_y
    ridge = Ridge().fit(X, S)
    some = np.isin(y, np.unique(y)[:3])
    score = zero_shot_scorer(ridge, X[some], S[some])
    large = np.flatnonzero(y == np.unique(y)[0])
    rows = np.concatenate([np.flatnonzero(some), np.tile(large, 50)])
    assert zero_shot_scorer(ridge, X[rows], S[rows]) == pytest.approx(score)


@pytest.mark.parametrize("penalty", [0.0, 0.25])
def test_gzsl_score_of_a_classifier_by_hand(data, X_S_y, fold, penalty):
    X, S, y = X_S_y
    train, test = fold
    clf = quick_classifier(data, seen_penalty=penalty).fit(X[train], y[train])
    reg = clf.regressor_
    seen, names = set(y[train]), np.unique(y)  # of the fold and of training: all 12
    table = dict(zip(data.class_names, in_space(reg, data.attributes), strict=True))
    accuracy = by_hand(
        in_space(reg, reg.predict(X[test])),
        y[test],
        {name: table[name] for name in names},
        dict.fromkeys(seen, penalty),
    )
    s = mean_accuracy(accuracy, seen)
    u = mean_accuracy(accuracy, set(accuracy) - seen)
    H = gzsl_scorer(clf, X[test], y[test])
    assert H == pytest.approx(2 * s * u / (s + u))
    assert 0 < H < 1


def test_gzsl_score_of_a_regressor_by_hand(data, X_S_y, fold):
    X, S, y = X_S_y
    train, test = fold
    reg = quick().fit(X[train], S[train])
    seen, names = set(y[train]), np.unique(y)
    table = dict(zip(data.class_names, in_space(reg, data.attributes), strict=True))
    accuracy = by_hand(
        in_space(reg, reg.predict(X[test])),
        y[test],
        {name: table[name] for name in names},
    )
    s = mean_accuracy(accuracy, seen)
    u = mean_accuracy(accuracy, set(accuracy) - seen)
    H = gzsl_scorer(reg, X[test], S[test])
    assert H == pytest.approx(2 * s * u / (s + u))
    assert 0 < H < 1


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_gzsl_candidates_include_training_classes_without_test_rows(
    data, X_S_y, fold, kind
):
    X, S, y = X_S_y
    train, test = fold
    if kind == "regressor":
        target, model = S, quick().fit(X[train], S[train])
        reg = model
    else:
        target, model = y, quick_classifier(data).fit(X[train], y[train])
        reg = model.regressor_
    seen = set(y[train])
    one = min(seen)
    rows = test[(y[test] == one) | ~np.isin(y[test], y[train])]
    table = dict(zip(data.class_names, in_space(reg, data.attributes), strict=True))

    def H(names):
        accuracy = by_hand(
            in_space(reg, reg.predict(X[rows])),
            y[rows],
            {name: table[name] for name in names},
        )
        s, u = accuracy[one], mean_accuracy(accuracy, set(accuracy) - seen)
        return 2 * s * u / (s + u)

    score = gzsl_scorer(model, X[rows], target[rows])
    assert score == pytest.approx(H(np.unique(y)))
    assert score < H(np.unique(y[rows])) - 0.1  # with the classes of the rows only


class _Scored:
    """A fitted classifier of the seen class "b", and the scores it gives."""

    seen_classes_ = classes_ = np.array(["b"])
    seen_penalty_ = 0.25

    def class_scores(self, X, names):
        assert list(names) == ["b", "c"]
        return X


def test_at_equality_an_unseen_class_wins():
    """The second row ties once the penalty is taken off."""
    scores = np.array([[1.0, 0.5], [0.75, 0.5]])
    assert gzsl_scorer(_Scored(), scores, ["b", "c"]) == 1


def test_scorers_refuse_in_a_sentence(data, X_S_y, fold):
    X, S, y = X_S_y
    train, test = fold
    reg = quick().fit(X[train], S[train])
    clf = quick_classifier(data).fit(X[train], y[train])
    unseen = test[~np.isin(y[test], y[train])]
    n_seen, n_unseen = len(train), len(unseen)
    for model, target in [(reg, S), (clf, y)]:
        message = f"{n_seen} rows of seen and 0 of unseen classes; H needs both. Use G"
        with pytest.raises(ValueError, match=message):
            gzsl_scorer(model, X[train], target[train])
        with pytest.raises(ValueError, match=f"0 rows of seen and {n_unseen} of unse"):
            gzsl_scorer(model, X[unseen], target[unseen])
    ridge = Ridge().fit(X[train], S[train])
    with pytest.raises(ValueError, match="remembers its training classes.*got Ridge"):
        gzsl_scorer(ridge, X[test], S[test])
    renamed = np.where(np.arange(len(test)) == 3, "nobody", y[test])
    for scorer in (zero_shot_scorer, gzsl_scorer):
        with pytest.raises(ValueError, match=r"\['nobody'\] are not in class_attri"):
            scorer(clf, X[test], renamed)


# ---- inside scikit-learn ---------------------------------------------------------


def search_around(model):
    return GridSearchCV(
        model, {"max_iter": [10]}, cv=ClassKFold(2), scoring=zero_shot_scorer
    )


@pytest.mark.parametrize("scorer", [zero_shot_scorer, gzsl_scorer])
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda m: make_pipeline(StandardScaler(), m), id="pipeline"),
        pytest.param(
            lambda m: make_pipeline("passthrough", StandardScaler(), m),
            id="passthrough",
        ),
        pytest.param(
            lambda m: search_around(m).set_params(
                estimator=make_pipeline(StandardScaler(), m),
                param_grid={"rezslregressor__max_iter": [10]},
            ),
            id="search around a pipeline",
        ),
        pytest.param(
            lambda m: make_pipeline(StandardScaler(), search_around(m)),
            id="search as the last step",
        ),
        pytest.param(
            lambda m: make_pipeline(make_pipeline(StandardScaler(), m)),
            id="pipeline in a pipeline",
        ),
    ],
)
def test_wrappers_are_scored_as_what_they_hold(X_S_y, fold, wrap, scorer):
    X, S, _ = X_S_y
    X = X * np.arange(1, 17, dtype=np.float32)  # so that scaling is felt
    train, test = fold
    scaler = StandardScaler().fit(X[train])
    reg = quick().fit(scaler.transform(X[train]), S[train])
    expected = scorer(reg, scaler.transform(X[test]), S[test])
    assert scorer(wrap(quick()).fit(X[train], S[train]), X[test], S[test]) == expected
    assert scorer(reg, X[test], S[test]) != expected


def test_scorers_know_a_classifier_in_a_pipeline(data, X_S_y, fold):
    X, _, y = X_S_y
    train, test = fold
    scaler = StandardScaler().fit(X[train])
    clf = quick_classifier(data)
    pipeline = make_pipeline(StandardScaler(), clone(clf)).fit(X[train], y[train])
    clf.fit(scaler.transform(X[train]), y[train])
    for scorer in (zero_shot_scorer, gzsl_scorer):
        expected = scorer(clf, scaler.transform(X[test]), y[test])
        assert scorer(pipeline, X[test], y[test]) == expected


def test_cross_validate_with_both_scorers(data, X_S_y):
    """The table of a fold is what a loop over the folds gives."""
    X, S, y = X_S_y
    scoring = {"zero_shot": zero_shot_scorer, "gzsl": gzsl_scorer}
    for model, target in [(quick(), S), (quick_classifier(data), y)]:
        result = cross_validate(model, X, target, cv=GZSLKFold(3), scoring=scoring)
        for name, scorer in scoring.items():
            expected = []
            for train, test in GZSLKFold(3).split(X, target):
                fitted = clone(model).fit(X[train], target[train])
                expected.append(scorer(fitted, X[test], target[test]))
            np.testing.assert_array_equal(result[f"test_{name}"], expected)


def test_grid_search_chooses_what_a_loop_over_the_folds_chooses(X_S_y):
    X, S, _ = X_S_y
    grid = [1, 5, 20]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), quick()),
        {"rezslregressor__max_iter": grid},
        cv=ClassKFold(3),
        scoring=zero_shot_scorer,
    ).fit(X, S)
    means = []
    for max_iter in grid:
        scores = []
        for train, test in ClassKFold(3).split(X, S):
            scaler = StandardScaler().fit(X[train])
            reg = quick(max_iter=max_iter).fit(scaler.transform(X[train]), S[train])
            scores.append(zero_shot_scorer(reg, scaler.transform(X[test]), S[test]))
        means.append(np.mean(scores))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], means)
    best = search.best_params_["rezslregressor__max_iter"]
    assert best == grid[int(np.argmax(means))]


def test_grid_search_over_the_classifier(data, X_S_y):
    """The seen penalty is felt by gzsl_scorer and chosen on training classes."""
    X, _, y = X_S_y
    search = GridSearchCV(
        quick_classifier(data),
        {"seen_penalty": [0.0, 0.3, 9.0]},
        cv=GZSLKFold(3),
        scoring=gzsl_scorer,
    ).fit(X, y)
    none, some, all_of_it = search.cv_results_["mean_test_score"]
    assert none < some
    assert all_of_it == 0  # no row is given to a seen class
    assert search.best_params_ == {"seen_penalty": 0.3}


def test_nested_cross_validation(X_S_y):
    """The inner search never sees a class of the outer test fold."""
    X, S, _ = X_S_y
    search = GridSearchCV(
        Ridge(), {"alpha": [0.1, 1e6]}, cv=ClassKFold(3), scoring=zero_shot_scorer
    )
    scores = cross_val_score(search, X, S, cv=ClassKFold(4), scoring=zero_shot_scorer)
    expected = []
    for train, test in ClassKFold(4).split(X, S):
        means = {}
        for alpha in (0.1, 1e6):
            inner = []
            for i, j in ClassKFold(3).split(X[train], S[train]):
                fitted = Ridge(alpha=alpha).fit(X[train][i], S[train][i])
                inner.append(zero_shot_scorer(fitted, X[train][j], S[train][j]))
            means[alpha] = np.mean(inner)
        alpha = max(means, key=means.get)
        fitted = Ridge(alpha=alpha).fit(X[train], S[train])
        expected.append(zero_shot_scorer(fitted, X[test], S[test]))
    np.testing.assert_allclose(scores, expected)


def test_groups_travel_through_cross_validation(X_S_y):
    """Rows of one attribute vector, grouped otherwise: the groups decide."""
    X, S, y = X_S_y
    groups = np.unique(y, return_inverse=True)[1] // 2
    result = cross_validate(
        Ridge(),
        X,
        S,
        groups=groups,
        cv=ClassKFold(3),
        scoring=zero_shot_scorer,
        return_indices=True,
    )
    for train, test in zip(*result["indices"].values(), strict=True):
        assert not set(groups[train]) & set(groups[test])
        assert len(set(groups[test])) == 2


@pytest.fixture
def one_thread():
    """Equal bits are promised at equal numbers of threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(n)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_parallel_search_gives_the_scores_of_a_serial_one(X_S_y, one_thread, backend):
    X, S, _ = X_S_y
    search = GridSearchCV(
        make_pipeline(StandardScaler(), quick(max_iter=3)),
        {"rezslregressor__class_power": [0, 1]},
        cv=GZSLKFold(3),
        scoring={"zero_shot": zero_shot_scorer, "gzsl": gzsl_scorer},
        refit=False,
    )
    serial = clone(search).fit(X, S).cv_results_
    inner = {"inner_max_num_threads": 1} if backend == "loky" else {}
    with joblib.parallel_config(backend, n_jobs=2, **inner):
        parallel = search.set_params(n_jobs=2).fit(X, S).cv_results_
    for name in ("zero_shot", "gzsl"):
        for i in range(3):
            key = f"split{i}_test_{name}"
            np.testing.assert_array_equal(parallel[key], serial[key])


def test_a_plain_classifier_is_told_that_it_is_none(X_S_y):
    X, _, y = X_S_y
    clf = LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match="got LogisticRegression"):
        gzsl_scorer(clf, X, y)


@pytest.mark.parametrize("scorer", [zero_shot_scorer, gzsl_scorer])
def test_what_cannot_be_scored_is_said(scorer, data):
    X, y = data.X[data.trainval], data.y[data.trainval]
    with pytest.raises(ValueError, match=f"{scorer.__name__} needs an estimator that"):
        scorer(LogisticRegression().fit(X, y), X, y)
    table = data.class_names, data.attributes
    for model, target in [
        (ZeroShotClassifier(class_attributes=table), y),
        (ReZSLRegressor(), data.attributes[data.labels[data.trainval]]),
    ]:
        with pytest.raises(NotFittedError):
            scorer(model, X, target)


def test_folds_of_labels_and_attributes_in_every_form():
    rows = np.repeat(np.arange(6), 4)
    S = pd.DataFrame({"a": rows // 2, "b": (rows % 2).astype(float)})
    expected = [test.tolist() for _, test in ClassKFold(3).split(rows, rows)]
    for y in (
        S.assign(c=S["b"] > 0),
        S.convert_dtypes(),
        S.astype(object),
        pd.DataFrame({"class": [f"c{row}" for row in rows]}),
        pd.DataFrame({"class": pd.array(rows, dtype="Int64")}),
        np.array([f"c{row}" for row in rows])[:, np.newaxis],
    ):
        folds = [test.tolist() for _, test in ClassKFold(3).split(rows, y)]
        assert folds == expected
    with pytest.raises(ValueError, match=r"no numbers: \['c'\]"):
        next(ClassKFold(3).split(rows, S.assign(c="text")))


def test_scorers_match_the_columns_of_S_by_name():
    data = make_zero_shot(n_features=16, n_seen=12, n_unseen=3, random_state=0)
    X, labels = data.X[data.trainval], data.labels[data.trainval]
    S = pd.DataFrame(data.attributes[labels]).add_prefix("a")
    turned = S[S.columns[::-1]]
    train, test = next(GZSLKFold(3).split(X, labels))
    reg = ReZSLRegressor((), max_iter=2, random_state=0).fit(X[train], S.iloc[train])
    for scorer in (zero_shot_scorer, gzsl_scorer):
        score = scorer(reg, X[test], S.iloc[test])
        assert scorer(reg, X[test], turned.iloc[test]) == score > 0
    for view in (attribute_view, score_view):
        mine, other = (
            view(reg, X[test], y.iloc[test], what="test") for y in (S, turned)
        )
        for name in ("target", "column"):
            if hasattr(mine, name):
                np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
