"""The feature side: classifiers of the seen classes, carried over by attributes.

Closed form throughout; arrays in, arrays out, nothing here knows torch.
"""

import itertools
import zlib

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
        # With fewer rows than (widened) features: the dual form.
        few_rows = isinstance(X, _Kept) and len(group) < X.x.shape[1] + m
        sums = _DualSums(X, group, K) if few_rows else _Sums(X, group, K, folds)
        self.choice = dict(DEFAULTS)
        if folds:
            self.choice = self._choose(some, of_some, prototypes, folds, sums)
        sums.end_of_folds()
        self._kernel = ClassKernel(self.choice["unit"]).fit(prototypes, dtype)
        dual = self._kernel.dual(self.choice["class_penalty"])
        penalty = self.choice["feature_penalty"]
        self.coef = np.stack(
            [sums.weights(draw, penalty, dual).astype(dtype) for draw in range(N_DRAWS)]
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

    def _choose(self, X, group, prototypes, folds, sums):
        """The values that tell held-out seen classes best, over all folds.

        By the first draw: what is chosen hardly depends on it, and the others
        would take as long again. `sums` are those of all rows, of which X (n rows)
        may be a sample.
        """
        count = np.bincount(group, minlength=len(prototypes))
        grid = list(
            itertools.product(("given", "range"), FEATURE_PENALTIES, CLASS_PENALTIES)
        )
        evidence = dict.fromkeys(grid, 0.0)
        for number, (kept, held) in enumerate(folds):
            rows = np.flatnonzero(np.isin(group, held))
            parts = [rows[part] for part in gen_batches(len(rows), BLOCK_ROWS)]
            weights = sums.without_fold(number, kept)
            # Of few features and many classes: weights of each candidate, not mixtures.
            narrow = _is_narrow(weights[FEATURE_PENALTIES[0]], kept)
            inner = {} if narrow else {p: W.T @ W for p, W in weights.items()}
            # Of each candidate: weights of the held-out classes, or how they are mixed
            # from those of the kept ones (k, h), brought to length 1.
            mixtures = {}
            for unit in ("given", "range"):
                kernel = ClassKernel(unit).fit(prototypes[kept], self.units.mean.dtype)
                between = kernel(prototypes[held]).T
                for class_penalty in CLASS_PENALTIES:
                    A = kernel.solve(class_penalty, between)
                    for feature_penalty, W in weights.items():
                        candidate = unit, feature_penalty, class_penalty
                        if narrow:
                            V = W @ A.astype(W.dtype)
                            mixtures[candidate] = unit_rows(V.T).T
                            continue
                        WW = inner[feature_penalty]
                        # Rounding may leave a length of 0 slightly negative.
                        square = ((WW @ A) * A).sum(axis=0)
                        length = np.sqrt(np.maximum(square, 0))
                        mixtures[candidate] = A / np.where(length > 0, length, 1)
            for part in parts:
                x, H = X.parts(part, n_draws=1)
                F = np.hstack([x, H[:, 0]])
                of_row = np.searchsorted(held, group[part])
                vote = 1 / count[group[part]]  # one per class
                if not narrow:
                    of_kept = {penalty: F @ W for penalty, W in weights.items()}
                for candidate, A in mixtures.items():
                    # Rows f(x) all have one length, so these are cosines.
                    scores = (F if narrow else of_kept[candidate[1]]) @ A
                    share = _log_share(scores, of_row)
                    evidence[candidate] += (vote * share).sum()
        best = max(grid, key=evidence.__getitem__)
        return dict(
            zip(("unit", "feature_penalty", "class_penalty"), best, strict=True)
        )


class _Sums:
    """Sums over all rows, in one pass, which is what a file allows; ridge from them.

    Attributes
    ----------
    grams : ndarray of shape (draws, d', d')
        Symmetric; what is below the diagonal is left out.

    held_grams : ndarray of shape (folds, d', d')
        The part of the first draw's Gram matrix that is due to the classes
        that each fold holds out; as grams.

    sums : ndarray of shape (draws, K, d')
        Of the rows of each class.
    """

    def __init__(self, X, group, n_classes, folds):
        self.n_of_class = np.bincount(group, minlength=n_classes)
        self.grams = None
        for rows, x, H in X.blocks():
            if self.grams is None:
                self._start(x.shape[1], H.shape[2], x.dtype, n_classes, folds)
            self._add(x, H, group[rows])
        self.grams[0] = self.held_grams.sum(axis=0)
        # What is left of the other draws: x is the same in all.
        d = self.d
        self.grams[1:, :d, :d] = self.grams[0, :d, :d]

    def _start(self, d, m, dtype, n_classes, folds):
        self.d, width = d, d + m
        self.fold_of = np.zeros(n_classes, dtype=np.intp)
        for number, (_, held) in enumerate(folds):
            self.fold_of[held] = number
        self.grams = np.zeros((N_DRAWS, width, width), dtype=dtype)
        # Too few classes for folds are one.
        self.held_grams = np.zeros((max(1, len(folds)), width, width), dtype=dtype)
        self.sums = np.zeros((N_DRAWS, n_classes, width))

    def _add(self, x, H, of_row):
        d, n_classes = self.d, len(self.fold_of)
        fold = self.fold_of[of_row]
        self.sums[:, :, :d] += class_sums(x, of_row, n_classes)
        for draw in range(N_DRAWS):
            self.sums[draw, :, d:] += class_sums(H[:, draw], of_row, n_classes)
        for number in np.unique(fold):
            mine = fold == number
            _add_gram(self.held_grams[number], np.hstack([x[mine], H[mine, 0]]))
        for draw in range(1, N_DRAWS):
            self.grams[draw, :d, d:] += x.T @ H[:, draw]
            self.grams[draw, d:, d:] += H[:, draw].T @ H[:, draw]

    def without_fold(self, number, kept):
        """For each penalty the weights (d', k) of the kept classes, from their rows."""
        n = self.n_of_class[kept].sum()
        # No difference: where a fold holds most of the rows it would be rounding.
        others = [i for i in range(len(self.held_grams)) if i != number]
        rest = sum(self.held_grams[i] for i in others)
        return {
            penalty: _ridge(rest, n, self.sums[0][kept], penalty)
            for penalty in FEATURE_PENALTIES
        }

    def end_of_folds(self):
        del self.held_grams

    def weights(self, draw, penalty, right):
        """Ridge weights of all classes (d', K) times right (K, k)."""
        n = self.n_of_class.sum()
        return _ridge(self.grams[draw], n, self.sums[draw], penalty) @ right


class _DualSums:
    """What :class:`_Sums` gives, from products of rows: these are few.

    F'(FF' + n p I)^-1 Y equals (F'F + n p I)^-1 F'Y, for indicators Y (n, K).
    """

    def __init__(self, X, group, n_classes):
        self.X, self.group = X, group
        self.Y = np.zeros((len(group), n_classes), dtype=X.x.dtype)
        self.Y[np.arange(len(group)), group] = 1
        self.of_x = X.x @ X.x.T

    def _weights(self, inner, penalty, F, Y):
        A = inner.copy()
        A[np.diag_indices_from(A)] += A.dtype.type(len(A) * penalty)
        return F.T @ cho_solve(cho_factor(A, overwrite_a=True), Y)

    def _of(self, draw):
        H = self.X.H[:, draw]
        return np.hstack([self.X.x, H]), self.of_x + H @ H.T

    def without_fold(self, number, kept):
        F, inner = self._of(0)
        rows = np.flatnonzero(np.isin(self.group, kept))
        inner, F, Y = inner[np.ix_(rows, rows)], F[rows], self.Y[np.ix_(rows, kept)]
        return {p: self._weights(inner, p, F, Y) for p in FEATURE_PENALTIES}

    def end_of_folds(self):
        pass

    def weights(self, draw, penalty, right):
        F, inner = self._of(draw)
        return self._weights(inner, penalty, F, self.Y @ right)


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
        self.mean = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
        self._drawn_from = self.rng.bit_generator.state
        self.R, self.b = self._drawn(self.rng)
        self._checksum = zlib.crc32(self.R)
        del self.rng

    def _drawn(self, rng):
        d, m, dtype = len(self.mean), self.m, self.mean.dtype
        R = np.empty((d, self.n_draws * m), dtype=dtype)
        b = np.empty(self.n_draws * m, dtype=dtype)
        for draw in range(self.n_draws):
            mine = slice(draw * m, (draw + 1) * m)
            # Rows of length sqrt(d) give the units' inputs a variance of 1.
            R[:, mine] = rng.normal(size=(d, m)) / np.sqrt(d)
            b[mine] = 0.5 * rng.normal(size=m)
        return R, b

    def __getstate__(self):
        # R is nearly all of a model, and its random numbers can be drawn again.
        return {k: v for k, v in self.__dict__.items() if k not in ("R", "b")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        rng = np.random.Generator(np.random.PCG64())
        rng.bit_generator.state = self._drawn_from
        self.R, self.b = self._drawn(rng)
        if zlib.crc32(self.R) != self._checksum:
            raise ValueError(
                "this model was saved with another version of NumPy, which draws other "
                f"random numbers than {np.__version__}. Load it with the NumPy it was "
                "saved with, or fit it again."
            )

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
        return self.solve(class_penalty, np.eye(len(self._seen)))

    def solve(self, class_penalty, right):
        """(κ(S, S) + λ I)^-1 of the seen classes, times right (K, k)."""
        K = self._seen + class_penalty * np.eye(len(self._seen))
        return cho_solve(cho_factor(K), right)


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


def _is_narrow(weights, classes):
    return len(weights) < len(classes)


def _log_share(scores, of_row):
    """Log-softmax (n,) of the true class in scores (n, k), standardised per row."""
    scores = scores - scores.mean(axis=1, keepdims=True)
    spread = scores.std(axis=1, keepdims=True)
    scores /= np.where(spread > 0, spread, 1)
    true = scores[np.arange(len(scores)), of_row]
    return true - np.log(np.exp(scores).sum(axis=1))
