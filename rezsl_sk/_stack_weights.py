"""How much each member of a stack counts: weights learnt on class-disjoint folds.

Arrays in, numbers out. A fold holds the scores that members, trained without some of
the seen classes, give to rows that they were not trained on."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax


class FoldScores(NamedTuple):
    """Scores of one fold.

    Attributes
    ----------
    scores : ndarray of shape (m, n, k)
        Of m members, for n rows, of k classes.

    column : ndarray of int, shape (n,)
        The true class of each row.

    seen : ndarray of bool, shape (k,)
        Whether the members were trained on each class.
    """

    scores: np.ndarray
    column: np.ndarray
    seen: np.ndarray


def member_spreads(folds):
    """Mean standard deviation of each member's scores over the held-out classes.

    Scores are divided by this one number for each member, so that the score of a class
    does not depend on which other classes are candidates.

    Returns
    -------
    spreads : ndarray of shape (m,)
        1 where a member gives all classes one score.
    """
    total, n = 0.0, 0
    for scores, column, seen in folds:
        held = ~seen[column]
        total = total + scores[:, held][:, :, ~seen].std(axis=2).sum(axis=1)
        n += held.sum()
    return np.where(total > 0, total / n, 1.0)


def unseen_problem(folds):
    """Rows of held-out classes among the held-out classes; each class has one vote."""
    problem = []
    for scores, column, seen in folds:
        held = ~seen[column]
        number = np.cumsum(~seen) - 1
        problem.append(
            (
                scores[:, held][:, :, ~seen],
                number[column[held]],
                np.zeros(int((~seen).sum())),
                _votes(column[held]),
            )
        )
    total = sum(votes.sum() for *_, votes in problem)
    return [(*rest, votes / total) for *rest, votes in problem]


def generalised_problem(folds):
    """All rows among all seen classes.

    Held-out rows of the classes of training have one half of the votes, rows of the
    held-out classes the other.
    """
    of_kind = [0, 0]
    for _, column, seen in folds:
        for kind in (False, True):
            of_kind[kind] += len(np.unique(column[seen[column] == kind]))
    problem = []
    for scores, column, seen in folds:
        votes = _votes(column)
        for kind in (False, True):
            votes[seen[column] == kind] /= 2 * max(1, of_kind[kind])
        problem.append((scores, column, seen.astype(float), votes))
    return problem


def learn_weights(problem, pull, penalty=None):
    r"""Weights of the members, and the seen penalty, that suit the true classes best.

    Maximises the mean log-softmax of the true class,

    .. math::
        \sum_i v_i \log \mathrm{softmax}_{c_i}\Bigl(
            \sum_m w_m s_{mi} - \beta\, [\text{seen}]\Bigr)
        - \mathrm{pull} \cdot \frac1M \sum_m (w_m / t - 1)^2 ,

    over weights of at least 0 and any penalty β, where t is the best weight that is the
    same for all members. The first part is concave in w and β, and so is the whole.

    Parameters
    ----------
    problem : list of (scores (m, n, k), column (n,), penalised (k,), votes (n,))

    pull : float
        How strongly weights are pulled towards equal ones.

    penalty : float or None
        β, where it is given. None: it is learnt.

    Returns
    -------
    weights : ndarray of shape (m,)

    penalty : float
        0 where no class is penalised.
    """
    n_members = len(problem[0][0])
    if penalty is None and not any(penalised.any() for _, _, penalised, _ in problem):
        penalty = 0.0
    bounds = [(penalty, penalty)]  # None: no bound

    def equal(values):
        value, of_weights, of_penalty = _loss(
            np.full(n_members, values[0]), values[1], problem
        )
        return value, np.array([of_weights.sum(), of_penalty])

    def free(values):
        weights, penalty = values[:-1], values[-1]
        value, of_weights, of_penalty = _loss(weights, penalty, problem)
        away = weights / level - 1
        value += pull * np.mean(np.square(away))
        of_weights = of_weights + pull * 2 * away / (level * n_members)
        return value, np.append(of_weights, of_penalty)

    best = minimize(
        equal,
        [1.0, penalty or 0.0],
        jac=True,
        method="L-BFGS-B",
        bounds=[(1e-3, 1e3), *bounds],
    )
    level, start = best.x
    best = minimize(
        free,
        np.append(np.full(n_members, level), start),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * n_members + bounds,
    )
    return best.x[:-1], float(best.x[-1])


def blend(scores, weights):
    """Scores (m, n, k) of the members added up: (n, k)."""
    m, n, k = scores.shape
    return (weights @ scores.reshape(m, n * k)).reshape(n, k)


def _loss(weights, penalty, problem):
    """Minus the mean log-softmax, and its derivatives by weights and penalty."""
    value, of_weights, of_penalty = 0.0, np.zeros(len(weights)), 0.0
    for scores, column, penalised, votes in problem:
        log_p = log_softmax(blend(scores, weights) - penalty * penalised, axis=1)
        rows = np.arange(len(column))
        value -= votes @ log_p[rows, column]
        slope = np.exp(log_p)
        slope[rows, column] -= 1
        slope *= votes[:, np.newaxis]
        of_weights += scores.reshape(len(scores), -1) @ slope.ravel()
        of_penalty -= (slope @ penalised).sum()
    return value, of_weights, of_penalty


def _votes(column):
    """One vote for each class, shared by its rows: (n,)."""
    return 1 / np.bincount(column)[column]
