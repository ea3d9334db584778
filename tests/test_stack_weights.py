"""Weights of a stack: the optimum, its derivatives, and votes."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from scipy.special import log_softmax

from rezsl_sk import _stack_weights
from rezsl_sk._stack_weights import (
    FoldScores,
    blend,
    generalised_problem,
    learn_weights,
    member_spreads,
    unseen_problem,
)


def fold(seed, n=60, k=6, m=3, signal=(2.0, 0.5, 0.0)):
    """Scores of which the first member's tell most; classes 4 and 5 are held out."""
    rng = np.random.default_rng(seed)
    column = np.arange(n) % k
    true = np.eye(k)[column]
    scores = np.stack([s * true + rng.normal(size=(n, k)) for s in signal[:m]])
    return FoldScores(scores, column, np.arange(k) < 4)


def test_slopes_are_the_numerical_ones():
    problem = generalised_problem([fold(0), fold(1)])
    at = np.array([0.7, 0.2, 0.4, 0.3])
    value, of_weights, of_penalty = _stack_weights._loss(at[:3], at[3], problem)
    numerical = approx_fprime(
        at, lambda v: _stack_weights._loss(v[:3], v[3], problem)[0], 1e-7
    )
    np.testing.assert_allclose([*of_weights, of_penalty], numerical, atol=1e-5)


def test_the_objective_is_the_mean_log_softmax_of_a_slow_loop():
    folds = [fold(0), fold(1)]
    weights, penalty = np.array([0.5, 1.0, 0.2]), 0.3
    total = 0.0
    for kind in (False, True):
        per_class = []
        for scores, column, seen in folds:
            for k in np.unique(column):
                if seen[k] != kind:
                    continue
                rows = np.flatnonzero(column == k)
                values = []
                for i in rows:
                    logits = sum(weights[m] * scores[m, i] for m in range(3))
                    values.append(log_softmax(logits - penalty * seen)[k])
                per_class.append(np.mean(values))
        total += 0.5 * np.mean(per_class)
    value, *_ = _stack_weights._loss(weights, penalty, generalised_problem(folds))
    assert -value == pytest.approx(total)


def test_learnt_weights_are_no_worse_than_a_general_optimiser_finds():
    problem = generalised_problem([fold(0), fold(1)])
    weights, penalty = learn_weights(problem, pull=0.0)

    def loss(v):
        return _stack_weights._loss(np.exp(v[:3]), v[3], problem)[0]

    other = minimize(loss, np.zeros(4), method="Nelder-Mead", options={"maxiter": 4000})
    ours = _stack_weights._loss(weights, penalty, problem)[0]
    assert ours <= other.fun + 1e-6
    assert weights[0] > weights[1] > weights[2] >= 0


def test_a_member_that_tells_nothing_gets_no_weight():
    folds = [fold(seed, n=600, signal=(1.0, -0.5)) for seed in range(2)]
    folds = [f._replace(scores=f.scores[:2]) for f in folds]
    weights, _ = learn_weights(unseen_problem(folds), pull=0.0)
    assert weights[1] == 0


def test_a_strong_pull_leaves_equal_weights():
    weights, _ = learn_weights(unseen_problem([fold(0)]), pull=1e6)
    np.testing.assert_allclose(weights, weights.mean(), rtol=1e-3)


def test_a_given_penalty_stays():
    _, penalty = learn_weights(generalised_problem([fold(0)]), pull=0.1, penalty=0.25)
    assert penalty == 0.25
    _, penalty = learn_weights(unseen_problem([fold(0)]), pull=0.1)
    assert penalty == 0


def test_the_penalty_balances_seen_and_unseen():
    biased = fold(0, n=600)
    biased.scores[:, :, :4] += 1.5  # as members trained on four of the classes do
    weights, penalty = learn_weights(generalised_problem([biased]), pull=0.01)
    assert penalty / weights.sum() == pytest.approx(1.5, abs=0.3)


def test_unseen_problem_has_held_out_classes_alone_with_one_vote_each():
    ((scores, column, penalised, votes),) = unseen_problem([fold(0)])
    assert scores.shape == (3, 20, 2)
    assert set(column) == {0, 1}
    assert not penalised.any()
    np.testing.assert_allclose(np.bincount(column, votes), 0.5)


def test_generalised_problem_gives_each_kind_half_of_the_votes():
    problem = generalised_problem([fold(0), fold(1, n=66)])
    held = sum(votes[column >= 4].sum() for _, column, _, votes in problem)
    kept = sum(votes[column < 4].sum() for _, column, _, votes in problem)
    assert (held, kept) == (pytest.approx(0.5), pytest.approx(0.5))


def test_spread_is_that_of_held_out_rows_over_held_out_classes():
    one = fold(0)
    held = one.scores[:, one.column >= 4][:, :, 4:]
    np.testing.assert_allclose(member_spreads([one]), held.std(axis=2).mean(axis=1))
    flat = one._replace(scores=np.ones_like(one.scores))
    np.testing.assert_array_equal(member_spreads([flat]), 1.0)


def test_blend_adds_up():
    scores = fold(0).scores
    np.testing.assert_allclose(
        blend(scores, np.array([1.0, 2.0, 0.0])), scores[0] + 2 * scores[1]
    )
