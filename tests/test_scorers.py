"""Class scorers: attribute models, naive Bayes, shared space, feature weights."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rezsl_sk._scorers import (
    ClassifiedAttributes,
    FeatureWeights,
    NaiveBayesAttributes,
    RegressedAttributes,
    SharedSpace,
)
from rezsl_sk._scorers.attribute_models import LEAST_PROBABILITY, likelihood_scorer
from rezsl_sk.datasets import make_zero_shot

DATA = make_zero_shot(n_seen=12, n_unseen=5, samples_per_class=15, random_state=0)
X = DATA.X[DATA.trainval].astype(np.float64)
CLASSES, GROUP = np.unique(DATA.labels[DATA.trainval], return_inverse=True)
SEEN = DATA.attributes[CLASSES]
UNSEEN = DATA.attributes[DATA.unseen_classes]
X_UNSEEN = DATA.X[DATA.test_unseen].astype(np.float64)
TRUE = np.searchsorted(DATA.unseen_classes, DATA.labels[DATA.test_unseen])
BINARY = (SEEN > SEEN.mean(axis=0)).astype(float)
BINARY_UNSEEN = (UNSEEN > SEEN.mean(axis=0)).astype(float)

SCORERS = [
    RegressedAttributes(Ridge()),
    ClassifiedAttributes(GaussianNB()),
    ClassifiedAttributes(make_pipeline(StandardScaler(), LogisticRegression())),
    NaiveBayesAttributes(),
    FeatureWeights(),
]


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: type(scorer).__name__)
def test_names_unseen_classes_far_above_chance(scorer):
    scores = clone(scorer).fit_classes(X, GROUP, SEEN).scorer(UNSEEN)(X_UNSEEN)
    assert scores.shape == (len(X_UNSEEN), len(UNSEEN))
    assert (scores.argmax(axis=1) == TRUE).mean() > 0.45  # chance: 0.2


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: type(scorer).__name__)
def test_score_of_a_class_does_not_hang_on_the_other_candidates(scorer):
    fitted = clone(scorer).fit_classes(X, GROUP, SEEN)
    alone = fitted.scorer(UNSEEN[2:3])(X_UNSEEN[:7])
    among = fitted.scorer(UNSEEN)(X_UNSEEN[:7])
    np.testing.assert_allclose(alone[:, 0], among[:, 2], rtol=1e-6, atol=1e-9)


def test_a_regressor_is_fitted_on_standardised_attributes_and_compared_by_cosine():
    scores = RegressedAttributes(Ridge(2.0)).fit_classes(X, GROUP, SEEN).scorer(UNSEEN)
    mean, std = SEEN.mean(axis=0), SEEN.std(axis=0)
    ridge = Ridge(2.0).fit(X, ((SEEN - mean) / std)[GROUP])
    predicted, classes = ridge.predict(X_UNSEEN), (UNSEEN - mean) / std
    for i in range(5):
        for k in range(len(UNSEEN)):
            cosine = predicted[i] @ classes[k]
            cosine /= np.linalg.norm(predicted[i]) * np.linalg.norm(classes[k])
            assert scores(X_UNSEEN[i : i + 1])[0, k] == pytest.approx(cosine)


def test_a_regressor_of_one_attribute_is_given_a_vector():
    fitted = RegressedAttributes(Ridge()).fit_classes(X, GROUP, SEEN[:, :1])
    assert fitted.model.coef_.ndim == 1
    assert fitted.scorer(UNSEEN[:, :1])(X_UNSEEN).shape == (len(X_UNSEEN), 5)


def test_likelihood_of_a_class_is_the_sum_over_its_attributes():
    prior = np.array([0.25, 0.5])
    p = np.array([[0.9, 0.2]])
    Z = np.array([[1.0, 0.0], [0.3, 1.0]])
    scores = likelihood_scorer(Z, prior)(np.log(p), np.log1p(-p))
    for k, z in enumerate(Z):
        expected = sum(
            z[j] * np.log(p[0, j] / prior[j])
            + (1 - z[j]) * np.log((1 - p[0, j]) / (1 - prior[j]))
            for j in range(2)
        )
        assert scores[0, k] == pytest.approx(expected)


def test_an_impossible_attribute_does_not_rule_a_class_out():
    with np.errstate(divide="ignore"):
        scores = likelihood_scorer(np.eye(2), np.array([0.5, 0.5]))(
            np.log([[0.0, 1.0]]), np.log([[1.0, 0.0]])
        )
    assert np.isfinite(scores).all()
    assert scores[0, 1] - scores[0, 0] == pytest.approx(-2 * np.log(LEAST_PROBABILITY))


def test_binary_attributes_are_lamperts_direct_attribute_prediction():
    model = ClassifiedAttributes(GaussianNB()).fit_classes(X, GROUP, BINARY)
    scores = model.scorer(BINARY_UNSEEN)(X_UNSEEN)
    expected = np.zeros_like(scores)
    for j in range(BINARY.shape[1]):
        prior = BINARY[:, j].mean()
        if prior in (0, 1):
            continue
        p = GaussianNB().fit(X, BINARY[GROUP, j]).predict_proba(X_UNSEEN)[:, 1]
        p = np.clip(p, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        has = BINARY_UNSEEN[:, j]
        expected += np.log(p / prior)[:, None] * has
        expected += np.log((1 - p) / (1 - prior))[:, None] * (1 - has)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_degrees_weigh_a_row_as_example_and_as_counterexample():
    degrees = np.array([[0.0], [0.25], [1.0]])
    group = np.array([0, 1, 1, 2])
    rows = np.array([[0.0], [1.0], [1.5], [3.0]])
    model = ClassifiedAttributes(GaussianNB()).fit_classes(rows, group, degrees)
    twice = np.array([[1.0], [1.5], [3.0], [0.0], [1.0], [1.5]])
    expected = GaussianNB().fit(
        twice, [1, 1, 1, 0, 0, 0], sample_weight=[0.25, 0.25, 1, 1, 0.75, 0.75]
    )
    np.testing.assert_allclose(model.models_[0].theta_, expected.theta_)
    np.testing.assert_allclose(model.models_[0].var_, expected.var_)


def test_a_classifier_without_weights_gets_attributes_split_at_their_mean():
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    split = ClassifiedAttributes(pipeline).fit_classes(X, GROUP, SEEN)
    binary = ClassifiedAttributes(pipeline).fit_classes(X, GROUP, BINARY)
    np.testing.assert_allclose(
        split.scorer(UNSEEN)(X_UNSEEN), binary.scorer(BINARY_UNSEEN)(X_UNSEEN)
    )


def test_a_forests_zeros_are_finite_scores():
    forest = ExtraTreesClassifier(10, random_state=0)
    scores = ClassifiedAttributes(forest).fit_classes(X, GROUP, SEEN).scorer(UNSEEN)
    assert np.isfinite(scores(X_UNSEEN)).all()


def test_naive_bayes_in_closed_form_equals_scikit_learns_attribute_by_attribute():
    nb = NaiveBayesAttributes(var_smoothing=0.0, feature_scaling=None)
    odds = nb.fit_classes(X, GROUP, SEEN).log_odds(X_UNSEEN)
    low, high = SEEN.min(axis=0), SEEN.max(axis=0)
    varying = np.flatnonzero(high > low)
    count = np.bincount(GROUP)
    for column, j in enumerate(varying):
        z = ((SEEN[:, j] - low[j]) / (high[j] - low[j]))[GROUP]
        one_vote = 1 / count[GROUP]
        reference = GaussianNB(var_smoothing=0.0).fit(
            np.concatenate([X, X]),
            np.repeat([1, 0], len(X)),
            sample_weight=np.concatenate([z * one_vote, (1 - z) * one_vote]),
        )
        log_p = reference.predict_log_proba(X_UNSEEN)
        np.testing.assert_allclose(
            odds[:, column], log_p[:, 1] - log_p[:, 0], rtol=1e-6, atol=1e-6
        )


def test_shared_space_is_the_cosine():
    rng = np.random.default_rng(0)
    table, rows = rng.normal(size=(4, 6)), rng.normal(size=(20, 6))
    group = np.arange(20) % 4
    scores = SharedSpace(center=False).fit_classes(rows, group, table).scorer(table)
    for i in range(3):
        for k in range(4):
            length = np.linalg.norm(rows[i]) * np.linalg.norm(table[k])
            cosine = rows[i] @ table[k] / length
            assert scores(rows[i : i + 1])[0, k] == pytest.approx(cosine)


@pytest.mark.parametrize("offset, centered", [(0.0, False), (30.0, True)])
def test_shared_space_centres_where_rows_and_classes_have_other_origins(
    offset, centered
):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(10, 8))
    group = np.arange(200) % 10
    rows = table[group] + 0.5 * rng.normal(size=(200, 8)) + offset
    shared = SharedSpace().fit_classes(rows, group, table)
    if centered:
        assert shared.centered_
    hits = shared.scorer(table)(rows).argmax(axis=1) == group
    assert hits.mean() > 0.9


def test_shared_space_refuses_a_table_of_another_width():
    with pytest.raises(ValueError, match="X has 6 columns and the table 5"):
        SharedSpace().fit_classes(np.ones((2, 6)), np.array([0, 1]), np.eye(2, 5))


def test_feature_weights_keep_small_differences_of_a_wide_table():
    """The table is centred before it is cast to the precision of X."""
    x, far = X.astype(np.float32), 1e4
    scores = [
        FeatureWeights().fit_classes(x, GROUP, SEEN + shift).scorer(UNSEEN + shift)
        for shift in (0.0, far)
    ]
    x = X_UNSEEN.astype(np.float32)
    np.testing.assert_allclose(scores[1](x), scores[0](x), atol=2e-5)
