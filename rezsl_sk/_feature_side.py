"""The feature side: classifiers of the seen classes, carried over by attributes.

Closed form throughout; arrays in, arrays out, nothing here knows torch.
"""

import itertools

import numpy as np
from scipy.linalg import cho_factor, cho_solve, get_blas_funcs
from scipy.spatial.distance import cdist
from sklearn.model_selection import KFold
from sklearn.utils import gen_batches

from ._blocks import blocks
from ._scaling import (
    BLOCK_ROWS,
    class_sums,
    column_mean_std,
    power_of_two,
    unit_rows,
    varies,
)

N_DRAWS = 3  # of random hidden units
MOST_RANDOM = 1024  # random hidden units of a draw, one for 4 rows at most
LAPLACE_SHARE = 0.3  # of the class kernel; the rest is linear
N_FOLDS = 5
FEATURE_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
CLASS_PENALTIES = (0.3, 1.0, 3.0)
# For fewer than 4 classes, of which none can be held out.
DEFAULTS = {"unit": "range", "feature_penalty": 1.0, "class_penalty": 1.0}


class FeatureSide:
    r"""Weights in feature space for any class, from the seen classes' weights.

    Features are widened by random hidden units, f(x) = [x, relu(Rx + b)], both
    parts centred and of fixed length. Ridge regression to the indicator of each
    seen class gives its weights, the columns of W (d', K); a class with
    attributes s gets

    .. math::
        v(s) = W\,(\kappa(S, S) + \lambda I)^{-1} \kappa(S, s),

    and a sample's similarity to it is cos(f(x), v(s)), averaged over a few draws
    of R and b with an f and a v each: one draw has its whims. The class kernel κ is
    linear in the centred attributes for the most part, which is ESZSL
    (Romera-Paredes & Torr 2015) in its dual form, and Laplacian for the rest,
    which tells many classes of few attributes apart. The two penalties, and
    whether the linear kernel takes attributes as given or divided by their
    range, are chosen on class-disjoint folds of the seen classes, by the
    cross-entropy of held-out classes; it tells candidates apart that name equally
    many samples.

    Attributes
    ----------
    choice : dict
        The values chosen: "unit", "feature_penalty", "class_penalty".

    spread : float
        Mean over the training rows of the standard deviation of their
        similarities to the seen classes.
    """

    def fit(self, X, group, prototypes, seed, sample=None):
        """Learn from scaled X (n, d), class numbers (n,) and prototypes (K, a).

        Attributes that do not vary must have been left out of `prototypes`.

        Rows in a file are read once: the sums that give the weights are over all
        of them, for each fold too. Where a sample is enough (the means that
        features are centred by, the evidence for a choice, the spread), it
        is `sample`: some rows in memory and their class numbers.
        """
        rng = np.random.default_rng(seed)
        K, dtype = len(prototypes), X.dtype
        m = max(1, min(MOST_RANDOM, len(X) // 4))
        some, of_some = (X, group) if sample is None else sample
        # Means are as good from every n-th row (of rows sorted by class, too).
        few = some[:: max(1, len(some) // BLOCK_ROWS)]
        self.units = RandomUnits(m, N_DRAWS, rng)
        if sample is None and len(X) <= BLOCK_ROWS:
            X = some = few = _Kept(*self.units.fit_parts(X))
        else:
            self.units.fit(few)
            X, some, few = (_Computed(rows, self.units) for rows in (X, some, few))

        folds = []
        if K >= 4:
            folds = KFold(
                min(N_FOLDS, K // 2),
                shuffle=True,
                random_state=int(rng.integers(2**31)),
            )
            folds = list(folds.split(prototypes))
        grams, held_grams, sums = self._sums(X, group, K, folds)
        self.choice = dict(DEFAULTS)
        if folds:
            self.choice = self._choose(
                some,
                of_some,
                prototypes,
                folds,
                np.bincount(group, minlength=K),
                held_grams,
                sums[0],
            )
        del held_grams
        self._kernel = ClassKernel(self.choice["unit"]).fit(prototypes, dtype)
        dual = self._kernel.dual(self.choice["class_penalty"])
        penalty = self.choice["feature_penalty"]
        self.coef = np.stack(
            [
                (_ridge(gram, len(group), of_class, penalty) @ dual).astype(gram.dtype)
                for gram, of_class in zip(grams, sums, strict=True)
            ]
        )
        V = self.weights(prototypes)
        spread = [_cosines(x, H, V).std(axis=1) for _, x, H in few.blocks()]
        self.spread = float(np.concatenate(spread).mean())
        return self

    def weights(self, prototypes):
        """What :meth:`similarities` takes of classes (k, a): (k, d + draws * m).

        Features x are the same in all draws, and all f(x) have one length. So the
        mean of the cosines is one product, with the sum of what the draws' v(s),
        brought to length 1, have for x, and beside it what each has for its random
        units.
        """
        d = self.coef.shape[1] - self.units.m
        k = self._kernel(prototypes).astype(self.coef.dtype)
        V = [unit_rows(k @ coef.T) for coef in self.coef]
        joined = np.hstack([sum(v[:, :d] for v in V), *(v[:, d:] for v in V)])
        joined /= np.asarray(len(V) * np.sqrt(self.coef.shape[1]), dtype=joined.dtype)
        return joined

    def similarities(self, X, V):
        """Mean cosines (n, k) of scaled X (n, d) with weights V of k classes."""
        return _cosines(*self.units.parts(X), V)

    def _sums(self, X, group, n_classes, folds):
        """Sums over all rows, in one pass, which is what a file allows.

        Returns
        -------
        grams : ndarray of shape (draws, d', d')
            Symmetric; what is below the diagonal is left out.

        held_grams : ndarray of shape (folds, d', d')
            The part of the first draw's Gram matrix that is due to the classes
            that each fold holds out; as grams.

        sums : ndarray of shape (draws, K, d')
            Of the rows of each class.
        """
        d = self.units.R.shape[0]
        width, dtype = d + self.units.m, self.units.R.dtype
        fold_of = np.zeros(n_classes, dtype=np.intp)
        for number, (_, held) in enumerate(folds):
            fold_of[held] = number
        grams = np.zeros((N_DRAWS, width, width), dtype=dtype)
        # Too few classes for folds are one.
        held_grams = np.zeros((max(1, len(folds)), width, width), dtype=dtype)
        sums = np.zeros((N_DRAWS, n_classes, width))
        for rows, x, H in X.blocks():
            of_row, fold = group[rows], fold_of[group[rows]]
            sums[:, :, :d] += class_sums(x, of_row, n_classes)
            for draw in range(N_DRAWS):
                sums[draw, :, d:] += class_sums(H[:, draw], of_row, n_classes)
            for number in np.unique(fold):
                mine = fold == number
                _add_gram(held_grams[number], np.hstack([x[mine], H[mine, 0]]))
            for draw in range(1, N_DRAWS):
                grams[draw, :d, d:] += x.T @ H[:, draw]
                grams[draw, d:, d:] += H[:, draw].T @ H[:, draw]
        grams[0] = held_grams.sum(axis=0)
        # What is left of the other draws: x is the same in all.
        grams[1:, :d, :d] = grams[0, :d, :d]
        return grams, held_grams, sums

    def _choose(self, X, group, prototypes, folds, n_of_class, held_grams, sums):
        """The values that tell held-out seen classes best, over all folds.

        By the first draw: what is chosen hardly depends on it, and the others
        would take as long again. n_of_class (K,), held_grams and sums are those of
        all rows, of which X (n rows) may be a sample.
        """
        count = np.bincount(group, minlength=len(prototypes))
        grid = list(
            itertools.product(("given", "range"), FEATURE_PENALTIES, CLASS_PENALTIES)
        )
        evidence = dict.fromkeys(grid, 0.0)
        for number, (kept, held) in enumerate(folds):
            rows = np.flatnonzero(np.isin(group, held))
            parts = [rows[part] for part in gen_batches(len(rows), BLOCK_ROWS)]
            n = n_of_class[kept].sum()
            # No difference: where a fold holds most of the rows it would be rounding.
            rest = sum(held_grams[i] for i in range(len(folds)) if i != number)
            weights = {
                penalty: _ridge(rest, n, sums[kept], penalty)
                for penalty in FEATURE_PENALTIES
            }
            inner = {penalty: W.T @ W for penalty, W in weights.items()}
            # Of each candidate: weights of the held-out classes as mixtures of
            # those of the kept ones (k, h), brought to length 1.
            mixtures = {}
            for unit in ("given", "range"):
                kernel = ClassKernel(unit).fit(prototypes[kept], self.units.mean.dtype)
                between = kernel(prototypes[held]).T
                for class_penalty in CLASS_PENALTIES:
                    A = kernel.dual(class_penalty) @ between
                    for feature_penalty, WW in inner.items():
                        # Rounding may leave a length of 0 slightly negative.
                        square = ((WW @ A) * A).sum(axis=0)
                        length = np.sqrt(np.maximum(square, 0))
                        candidate = unit, feature_penalty, class_penalty
                        mixtures[candidate] = A / np.where(length > 0, length, 1)
            for part in parts:
                x, H = X.parts(part, n_draws=1)
                F = np.hstack([x, H[:, 0]])
                of_row = np.searchsorted(held, group[part])
                vote = 1 / count[group[part]]  # one per class
                scores = {penalty: F @ W for penalty, W in weights.items()}
                for candidate, A in mixtures.items():
                    # Rows f(x) all have one length, so these are cosines.
                    share = _log_share(scores[candidate[1]] @ A, of_row)
                    evidence[candidate] += (vote * share).sum()
        best = max(grid, key=evidence.__getitem__)
        return dict(
            zip(("unit", "feature_penalty", "class_penalty"), best, strict=True)
        )


class RandomUnits:
    """f(x) = [x, relu(Rx + b)], both parts centred and of fixed length.

    Parameters
    ----------
    m : int
        Number of units.

    n_draws : int
        Of R and b.

    rng : NumPy Generator
        Draws them.
    """

    def __init__(self, m, n_draws, rng):
        self.m, self.n_draws, self.rng = m, n_draws, rng

    def fit(self, X):
        """Draw for scaled X (n, d), and learn the means."""
        self._draw(X)
        total = np.zeros(self.n_draws * self.m)
        for rows in gen_batches(len(X), BLOCK_ROWS):
            H = self._random(self._centred(X[rows]), self.n_draws)
            total += H.sum(axis=0, dtype=np.float64)
        self.random_mean = (total / len(X)).astype(X.dtype)
        return self

    def fit_parts(self, X):
        """Fit to scaled X (n, d), and its :meth:`parts`, in one pass."""
        self._draw(X)
        x = self._centred(X)
        H = self._random(x, self.n_draws)
        self.random_mean = H.mean(axis=0, dtype=np.float64).astype(X.dtype)
        return x, self._finished(H)

    def _draw(self, X):
        d, m = X.shape[1], self.m
        self.mean = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
        self.R = np.empty((d, self.n_draws * m), dtype=X.dtype)
        self.b = np.empty(self.n_draws * m, dtype=X.dtype)
        for draw in range(self.n_draws):
            mine = slice(draw * m, (draw + 1) * m)
            # Rows of length sqrt(d) give the units' inputs a variance of 1.
            self.R[:, mine] = self.rng.normal(size=(d, m)) / np.sqrt(d)
            self.b[mine] = 0.5 * self.rng.normal(size=m)
        del self.rng

    def parts(self, X, n_draws=None):
        """The two parts of f(x): (n, d), and of the first draws (n, n_draws, m)."""
        x = self._centred(X)
        return x, self._finished(self._random(x, n_draws or self.n_draws))

    def _centred(self, X):
        return _of_size(X - self.mean)

    def _random(self, x, n_draws):
        units = slice(n_draws * self.m)
        H = x @ self.R[:, units]
        H += self.b[units]
        return np.maximum(H, 0, out=H)

    def _finished(self, H):
        H -= self.random_mean[: H.shape[1]]
        return _of_size(H.reshape(-1, self.m)).reshape(len(H), -1, self.m)


class _Kept:
    """The parts of f(x) of all rows: rows so few that one block has them all."""

    def __init__(self, x, H):
        self.x, self.H = x, H

    def blocks(self):
        yield slice(None), self.x, self.H

    def parts(self, rows, n_draws):
        return self.x[rows], self.H[rows, :n_draws]


class _Computed:
    """The parts of f(x) of rows in memory or a file, computed when they are asked."""

    def __init__(self, X, units):
        self.X, self.units = X, units

    def blocks(self):
        for rows, block in blocks(self.X, BLOCK_ROWS):
            yield rows, *self.units.parts(block)

    def parts(self, rows, n_draws):
        return self.units.parts(self.X[rows], n_draws)


class ClassKernel:
    """Similarity of classes by their attributes: linear and Laplacian.

    Parameters
    ----------
    unit : {"given", "range"}
        Whether the linear part takes attributes as they are, or divided by
        their range over the seen classes.
    """

    def __init__(self, unit):
        self.unit = unit

    def fit(self, prototypes, precision=None):
        """Learn scales from the seen classes (K, a), `precision` as for `varies`."""
        P = prototypes.astype(np.float64)
        self.mean, spread = column_mean_std(P)
        # An attribute that varies in unseen classes only has no scale.
        vary = varies(prototypes, precision)
        self.inverse_std = np.where(vary, 1 / np.where(vary, spread, 1), 0)
        if self.unit == "range":
            scale = np.ptp(P, axis=0)
        else:  # a power of two, for values whose squares over- or underflow
            scale = np.full(P.shape[1], power_of_two(np.abs(P - self.mean).max()))
        self.inverse_scale = np.where(vary, 1 / np.where(vary, scale, 1), 0)
        self.linear = (P - self.mean) * self.inverse_scale
        self.standard = (P - self.mean) * self.inverse_std
        size = np.square(self.linear).sum(axis=1).mean()
        self.linear_size = size if size > 0 else 1.0
        apart = cdist(self.standard, self.standard)
        apart = apart[apart > 0]
        self.width = float(np.median(apart)) if len(apart) else 1.0
        self._seen = self(P)
        return self

    def __call__(self, prototypes):
        """κ of classes (k, a) with the seen ones: (k, K)."""
        P = prototypes.astype(np.float64) - self.mean
        linear = (P * self.inverse_scale) @ self.linear.T / self.linear_size
        apart = cdist(P * self.inverse_std, self.standard)
        laplace = np.exp(-apart / self.width)
        return (1 - LAPLACE_SHARE) * linear + LAPLACE_SHARE * laplace

    def dual(self, class_penalty):
        """(κ(S, S) + λ I)^-1 of the seen classes: (K, K)."""
        K = self._seen + class_penalty * np.eye(len(self._seen))
        return cho_solve(cho_factor(K), np.eye(len(K)))


def _cosines(x, H, V):
    """Mean cosines (n, k) of rows of parts x and H with weights V of k classes."""
    return np.hstack([x, H.reshape(len(x), -1)]) @ V.T


def _add_gram(gram, rows):
    """Add rows.T @ rows, on and above the diagonal, at half the price of all."""
    syrk = get_blas_funcs("syrk", (gram,))
    # gram.T is gram, in the order of BLAS: it is written in place.
    syrk(1.0, rows.T, beta=1.0, c=gram.T, overwrite_c=True, lower=True)


def _of_size(rows):
    """Bring rows (n, d) to the length sqrt(d), in place; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    size = np.asarray(np.sqrt(rows.shape[1]), dtype=rows.dtype)
    rows *= size / np.where(length > 0, length, 1)
    return rows


def _ridge(gram, n, sums, penalty):
    """Ridge weights (d', K) of class indicators from sums over n rows.

    Of gram (d', d') what is below the diagonal is not read.
    """
    n = int(n)  # a NumPy integer would turn float32 into float64, at twice the price
    A = gram / n
    A[np.diag_indices_from(A)] += A.dtype.type(penalty)
    right = (sums.T / n).astype(A.dtype)
    # A.T is A, in the order of LAPACK: nothing is copied. X was checked at the door.
    factor = cho_factor(A.T, lower=True, overwrite_a=True, check_finite=False)
    return cho_solve(factor, right, check_finite=False)


def _log_share(scores, of_row):
    """Log-softmax (n,) of the true class in scores (n, k), standardised per row."""
    scores = scores - scores.mean(axis=1, keepdims=True)
    spread = scores.std(axis=1, keepdims=True)
    scores /= np.where(spread > 0, spread, 1)
    true = scores[np.arange(len(scores)), of_row]
    return true - np.log(np.exp(scores).sum(axis=1))
