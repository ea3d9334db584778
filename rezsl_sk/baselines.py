"""What zero-shot learning is compared with, in the interface of ZeroShotClassifier.

Each takes a table of attributes, learns from the seen classes and names seen and
unseen ones: ``fit``, ``predict``, ``decision_function``, ``with_classes``, candidates
and seen penalty are those of :class:`rezsl_sk.ZeroShotClassifier`.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn
from torch.nn import functional as F

from ._blocks import in_dtype, working_dtype
from ._heads import initial_arrays
from ._interrupts import model_kept
from ._scaling import (
    BLOCK_ROWS,
    AttributeSpace,
    FeatureScaling,
    class_sums,
    unit_rows,
)
from ._training import (
    AutogradTrainee,
    Optimizer,
    Sampler,
    auto_batch_size,
    epochs,
    memory_in_a_sentence,
    one_cycle,
    place_features,
    resolve_device,
    usual_torch,
)
from ._zero_shot import ZeroShotMixin
from .decoding import equal_columns, prototype_scores

if TYPE_CHECKING:
    import pandas

    Table = pandas.DataFrame | tuple[ArrayLike, ArrayLike] | None
    Candidates = Literal["all", "unseen", "seen"] | ArrayLike
    Penalty = float | Literal["auto"]
    FeatureScalingName = Literal["standard", "l2"] | None
    AttributeScalingName = Literal["standard", "center", "l2"] | None

__all__ = [
    "ALE",
    "DAP",
    "DEM",
    "ESZSL",
    "SAE",
    "ClassNormalizedEmbedding",
    "RidgePrototype",
]

NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
POSITIVE = Interval(Real, 0, None, closed="neither")
AT_LEAST_ONE = Interval(Integral, 1, None, closed="left")


class _Baseline(ZeroShotMixin, BaseEstimator):
    """Scaled features and attributes around a ``_learn`` and a ``_comparer``.

    ``_learn(X, group, P)`` gets scaled features (n, d), class numbers (n,) and
    the seen classes' scaled attributes (K, a'); ``_comparer(P)`` gives a function
    from scaled features (m, d) to scores (m, k) for classes with scaled attributes
    P (k, a'). After fit neither may read a parameter.
    """

    # Whether a class at the origin of the attribute space is refused.
    _needs_directions = True

    _parameter_constraints: dict = {
        **ZeroShotMixin._zero_shot_constraints,
        "attribute_scaling": [StrOptions({"standard", "center", "l2"}), None],
        "feature_scaling": [StrOptions({"standard", "l2"}), None],
    }

    def fit_classes(self, X, group, attributes):
        """Learn from the seen classes; see ``rezsl_sk._scorers``."""
        X = in_dtype(X, working_dtype(X))
        self._working_dtype = X.dtype
        self._features = FeatureScaling(self.feature_scaling).fit(X)
        self._features.check_size(X)
        self._space = AttributeSpace(self.attribute_scaling)
        self._space.fit(attributes, np.float64)
        self.constant_attributes_ = self._space.constant
        if not len(self._space.varying):
            raise ValueError(
                "no class can be told from another: every attribute has one value "
                "over all classes of y. Describe them by attributes that differ."
            )
        if "attribute_scaling" in self._parameter_constraints:
            self._space.check_size(attributes, X.dtype)
        self._learn(self._features.transform(X), group, self._scaled(attributes))
        return self

    def _scaled(self, prototypes):
        P = self._space.transform(prototypes)
        return unit_rows(P) if self._space.how == "l2" else P

    def scorer(self, attributes, names=None):
        """Score any classes by their attributes; see ``rezsl_sk._scorers``."""
        P = self._scaled(np.asarray(attributes))
        self._space.check_range(P, names, self._working_dtype)
        if self._needs_directions:
            self._space.check_directions(P, names)
        compare = equal_columns(self._comparer(P), P)
        return lambda X: compare(
            self._features.transform(in_dtype(X, self._working_dtype))
        )

    def _attribute_space(self):
        return self._space


class ESZSL(_Baseline):
    r"""Embarrassingly simple zero-shot learning: bilinear, in closed form.

    Minimises the squared error of :math:`x^\top V s_k` against +1 for the true
    class and -1 for the others, with both sides of V penalised:

    .. math::
        V = (X^\top X / n + \gamma I)^{-1} \, X^\top Y S / n \,
            (S^\top S / K + \lambda I)^{-1}.

    Parameters
    ----------
    class_attributes, candidates, seen_penalty
        As in :class:`rezsl_sk.ZeroShotClassifier`; the penalty is in units of
        the bilinear score.

    feature_penalty, attribute_penalty : float, default=1.0 and 0.1
        :math:`\gamma` and :math:`\lambda`, relative to the mean of a squared
        feature over samples and of a squared attribute over classes (those of
        the paper are n and K times as large).

    attribute_scaling : {"standard", "center", "l2"} or None, default="l2"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    feature_scaling : {"standard", "l2"} or None, default="standard"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    Attributes
    ----------
    coef_ : ndarray of shape (d, a')
        V, between scaled features and scaled attributes that vary.

    classes_, candidates_, seen_classes_, class_names_, class_attributes_, seen_penalty_
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    References
    ----------
    Romera-Paredes, Torr: An embarrassingly simple approach to zero-shot
    learning. ICML 2015, equation 4.

    Examples
    --------
    >>> from rezsl_sk.baselines import ESZSL
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = ESZSL((data.class_names, data.attributes), candidates="unseen")
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.3
    True
    """

    _needs_directions = False

    _parameter_constraints: dict = {
        **_Baseline._parameter_constraints,
        "feature_penalty": [POSITIVE],
        "attribute_penalty": [POSITIVE],
    }

    def __init__(
        self,
        class_attributes: Table = None,
        candidates: Candidates = "all",
        seen_penalty: Penalty = 0.0,
        *,
        feature_penalty: float = 1.0,
        attribute_penalty: float = 0.1,
        attribute_scaling: AttributeScalingName = "l2",
        feature_scaling: FeatureScalingName = "standard",
    ) -> None:
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty
        self.feature_penalty = feature_penalty
        self.attribute_penalty = attribute_penalty
        self.attribute_scaling = attribute_scaling
        self.feature_scaling = feature_scaling

    def _learn(self, X, group, P):
        n, K = len(X), len(P)
        # X'Y with Y = 2 onehot - 1, from sums over classes.
        sums = class_sums(X, group, K)
        XY = (2 * sums - sums.sum(axis=0)).T / n
        P = P.astype(np.float64)
        left = _gram(X) / n
        left[np.diag_indices_from(left)] += self.feature_penalty
        right = P.T @ P / K
        right[np.diag_indices_from(right)] += self.attribute_penalty
        half = _solve(left, XY @ P, "feature")
        coef = _solve(right, half.T, "attribute").T
        self.coef_ = coef.astype(X.dtype)

    def _comparer(self, P):
        P = P.astype(self._working_dtype)
        return lambda X: (X @ self.coef_) @ P.T


class SAE(_Baseline):
    r"""Semantic autoencoder: attributes from features, features from attributes.

    One matrix W (a, d) that maps features to attributes and, transposed, back:

    .. math::
        \min_W \lVert X^\top - W^\top S^\top \rVert^2
        + \lambda \lVert W X^\top - S^\top \rVert^2 ,

    the solution of the Sylvester equation
    :math:`S^\top S\, W + \lambda W X^\top X = (1 + \lambda) S^\top X`. Both of
    its coefficients are symmetric, so two eigendecompositions solve it, also
    where a general solver (``scipy.linalg.solve_sylvester``, against which the
    tests check it) meets a singular pair.

    Parameters
    ----------
    class_attributes, candidates, seen_penalty
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    encoder_weight : float, default=1.0
        :math:`\lambda`, the weight of the map from features to attributes.

    direction : {"to_attributes", "to_features"}, default="to_attributes"
        Where classes are compared, by cosine: predicted attributes with the
        prototypes, or features with the prototypes mapped to features.

    attribute_scaling, feature_scaling
        As in :class:`rezsl_sk.ReZSLRegressor`.

    Attributes
    ----------
    coef_ : ndarray of shape (d, a')
        W transposed, between scaled features and scaled attributes that vary.

    classes_, candidates_, seen_classes_, class_names_, class_attributes_, seen_penalty_
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    References
    ----------
    Kodirov, Xiang, Gong: Semantic Autoencoder for Zero-Shot Learning. CVPR 2017.

    Examples
    --------
    >>> from rezsl_sk.baselines import SAE
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = SAE((data.class_names, data.attributes), candidates="unseen")
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.3
    True
    """

    _parameter_constraints: dict = {
        **_Baseline._parameter_constraints,
        "encoder_weight": [POSITIVE],
        "direction": [StrOptions({"to_attributes", "to_features"})],
    }

    def __init__(
        self,
        class_attributes: Table = None,
        candidates: Candidates = "all",
        seen_penalty: Penalty = 0.0,
        *,
        encoder_weight: float = 1.0,
        direction: Literal["to_attributes", "to_features"] = "to_attributes",
        attribute_scaling: AttributeScalingName = "standard",
        feature_scaling: FeatureScalingName = "standard",
    ) -> None:
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty
        self.encoder_weight = encoder_weight
        self.direction = direction
        self.attribute_scaling = attribute_scaling
        self.feature_scaling = feature_scaling

    def _learn(self, X, group, P):
        self._direction = self.direction
        P = P.astype(np.float64)
        count = np.bincount(group, minlength=len(P))
        of_S, S_basis = eigh(P.T @ (P * count[:, None]))
        of_X, X_basis = eigh(self.encoder_weight * _gram(X))
        right = (1 + self.encoder_weight) * (P.T @ class_sums(X, group, len(P)))
        total = of_S[:, None] + of_X
        # Where both are singular nothing constrains W; the shortest one is 0.
        used = total > total.max() * len(total) * np.finfo(X.dtype).eps
        rotated = (S_basis.T @ right @ X_basis) / np.where(used, total, np.inf)
        self.coef_ = (S_basis @ rotated @ X_basis.T).T.astype(X.dtype)

    def _comparer(self, P):
        P = P.astype(self._working_dtype)
        if self._direction == "to_attributes":
            return lambda X: prototype_scores(X @ self.coef_, P)
        of_features = P @ self.coef_.T
        return lambda X: prototype_scores(X, of_features)


class RidgePrototype(_Baseline):
    """Ridge regression to the attributes, then the nearest prototype by cosine.

    Parameters
    ----------
    class_attributes, candidates, seen_penalty
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    feature_penalty : float, default=1.0
        Penalty of the squared coefficients, per sample: ``alpha`` of
        :class:`sklearn.linear_model.Ridge` divided by n.

    attribute_scaling, feature_scaling
        As in :class:`rezsl_sk.ReZSLRegressor`.

    Attributes
    ----------
    ridge_ : Ridge
        The fitted regression, from scaled features to scaled attributes.

    classes_, candidates_, seen_classes_, class_names_, class_attributes_, seen_penalty_
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    Examples
    --------
    >>> from rezsl_sk.baselines import RidgePrototype
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = RidgePrototype((data.class_names, data.attributes), candidates="unseen")
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.3
    True
    """

    _parameter_constraints: dict = {
        **_Baseline._parameter_constraints,
        "feature_penalty": [POSITIVE],
    }

    def __init__(
        self,
        class_attributes: Table = None,
        candidates: Candidates = "all",
        seen_penalty: Penalty = 0.0,
        *,
        feature_penalty: float = 1.0,
        attribute_scaling: AttributeScalingName = "standard",
        feature_scaling: FeatureScalingName = "standard",
    ) -> None:
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty
        self.feature_penalty = feature_penalty
        self.attribute_scaling = attribute_scaling
        self.feature_scaling = feature_scaling

    def _learn(self, X, group, P):
        alpha = self.feature_penalty * len(X)
        # A row of targets a sample, also where there is one attribute only.
        self.ridge_ = Ridge(alpha).fit(X, P[group].astype(X.dtype))

    def _comparer(self, P):
        P = P.astype(self._working_dtype)
        return lambda X: prototype_scores(self.ridge_.predict(X).reshape(len(X), -1), P)


class DAP(_Baseline):
    r"""Direct attribute prediction: a classifier per attribute, multiplied.

    Attributes are made binary at their mean over the seen classes; a logistic
    regression estimates each one, and a class scores

    .. math::
        \sum_j \log p(a_j = z_j \mid x) - \log p(a_j = z_j),

    with z the class's binary attributes and the prior their share among the
    seen classes.

    Parameters
    ----------
    class_attributes, candidates, seen_penalty
        As in :class:`rezsl_sk.ZeroShotClassifier`; the penalty is in units of
        the logarithm of a probability.

    feature_penalty : float, default=1e-3
        Penalty of the squared coefficients, per sample: 1 / (n C) with the C of
        :class:`sklearn.linear_model.LogisticRegression`.

    max_iter : int, default=100
        Iterations of its solver, L-BFGS, per attribute. Fewer than it takes to
        converge are no error here: stopping early regularises.

    feature_scaling : {"standard", "l2"} or None, default="standard"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    Attributes
    ----------
    coef_, intercept_ : ndarrays of shape (d, a') and (a',)
        Of the logistic regressions on scaled features.

    prior_ : ndarray of shape (a',)
        Share of the seen classes that have the attribute.

    n_iter_ : int
        The most iterations that an attribute took.

    classes_, candidates_, seen_classes_, class_names_, class_attributes_, seen_penalty_
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    References
    ----------
    Lampert, Nickisch, Harmeling: Attribute-Based Classification for Zero-Shot
    Visual Object Categorization. IEEE TPAMI 2014, equation 2.

    Examples
    --------
    >>> from rezsl_sk.baselines import DAP
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = DAP((data.class_names, data.attributes), candidates="unseen")
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.2
    True
    """

    attribute_scaling = None  # binary attributes have no scale

    _needs_directions = False

    _parameter_constraints: dict = {
        **ZeroShotMixin._zero_shot_constraints,
        "feature_penalty": [POSITIVE],
        "max_iter": [AT_LEAST_ONE],
        "feature_scaling": [StrOptions({"standard", "l2"}), None],
    }

    def __init__(
        self,
        class_attributes: Table = None,
        candidates: Candidates = "all",
        seen_penalty: Penalty = 0.0,
        *,
        feature_penalty: float = 1e-3,
        max_iter: int = 100,
        feature_scaling: FeatureScalingName = "standard",
    ) -> None:
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty
        self.feature_penalty = feature_penalty
        self.max_iter = max_iter
        self.feature_scaling = feature_scaling

    def _learn(self, X, group, P):
        # Rounding must not put the mean at or beyond the lowest or highest value.
        below_highest = np.nextafter(P.max(axis=0), -np.inf)
        self._threshold = np.clip(P.mean(axis=0), P.min(axis=0), below_highest)
        Z = self._binary(P)
        self.prior_ = Z.mean(axis=0)
        # Attributes that agree on all seen classes ask the same question.
        questions, which = np.unique(Z, axis=1, return_inverse=True)
        coef = np.empty((X.shape[1], questions.shape[1]), dtype=X.dtype)
        intercept = np.empty(questions.shape[1], dtype=X.dtype)
        self.n_iter_ = 1
        for j, question in enumerate(questions.T):
            *solution, n_iter = _logistic(
                X, question[group], self.feature_penalty, self.max_iter
            )
            coef[:, j], intercept[j] = solution
            self.n_iter_ = max(self.n_iter_, n_iter)
        self.coef_, self.intercept_ = coef[:, which.ravel()], intercept[which.ravel()]

    def _binary(self, P):
        return P > self._threshold

    def _comparer(self, P):
        Z = self._binary(P)

        def compare(X):
            logit = X @ self.coef_ + self.intercept_
            yes = -np.logaddexp(0, -logit) - np.log(self.prior_)
            no = -np.logaddexp(0, logit) - np.log1p(-self.prior_)
            has = Z.astype(logit.dtype)
            return yes @ has.T + no @ (1 - has).T

        return compare


def _logistic(X, yes, penalty, max_iter):
    """Coefficients (d,), intercept and iterations of a logistic regression.

    scikit-learn's LogisticRegression warns where `max_iter` ends it, and a warning
    cannot be left out without a change of the whole process's filters, which is not
    safe in threads.
    """
    sign = np.where(yes, 1, -1).astype(X.dtype)

    def value_and_slope(w):
        coef = w[:-1].astype(X.dtype)
        margin = sign * (X @ coef + X.dtype.type(w[-1]))
        pull = -sign * expit(-margin) / len(X)
        slope = np.append(pull @ X + penalty * coef, pull.sum())
        value = np.logaddexp(0, -margin).mean(dtype=np.float64)
        return value + penalty / 2 * (w[:-1] @ w[:-1]), slope.astype(np.float64)

    # The limits are LogisticRegression's.
    options = {
        "maxiter": max_iter,
        "maxls": 50,
        "gtol": 1e-4,
        "ftol": 64 * np.finfo(np.float64).eps,
    }
    start = np.zeros(X.shape[1] + 1)
    found = minimize(
        value_and_slope, start, jac=True, method="L-BFGS-B", options=options
    )
    return found.x[:-1], found.x[-1], max(1, int(found.nit))


class _Trained(_Baseline):
    """A baseline trained by gradient steps: ``_module`` says what, the loop how."""

    _parameter_constraints: dict = {
        **_Baseline._parameter_constraints,
        "learning_rate_init": [POSITIVE],
        "weight_decay": [NOT_NEGATIVE],
        "batch_size": [StrOptions({"auto"}), AT_LEAST_ONE],
        "max_iter": [AT_LEAST_ONE],
        "device": [str],
        "random_state": ["random_state"],
    }

    @usual_torch()
    def _learn(self, X, group, P):
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        generator = torch.Generator().manual_seed(int(seed))
        device = resolve_device(self.device, X.dtype)
        self.device_ = str(device)
        module = self._module(X, P.astype(X.dtype), generator).to(device)
        size = self.batch_size
        sampler = Sampler(
            torch.from_numpy(group),
            kind="shuffle",
            batch_size=auto_batch_size(len(X)) if size == "auto" else size,
            ways=1,
            shots=1,
            generator=generator,
        )
        optimizer = Optimizer(
            "adamw",
            [(list(module.parameters()), self.learning_rate_init, self.weight_decay)],
            schedule=one_cycle(self.max_iter * sampler.n_batches),
        )
        self.loss_curve_ = []
        try:
            with (
                memory_in_a_sentence(device, X.shape, size),
                model_kept(lambda: len(self.loss_curve_)),
            ):
                for epoch in epochs(
                    AutogradTrainee(module, module.loss),
                    optimizer,
                    place_features(X, device),
                    torch.from_numpy(group).to(device),
                    sampler,
                    self.max_iter,
                ):
                    self.loss_curve_.append(epoch.loss)
        except FloatingPointError as error:
            raise ValueError(
                f"Training diverged: {error}. Lower learning_rate_init (now "
                f"{self.learning_rate_init})."
            ) from None
        self.n_iter_ = len(self.loss_curve_)
        self._keep(module)


class ALE(_Trained):
    r"""Attribute label embedding: bilinear, under a weighted ranking loss.

    A class that scores within `margin` of the true one costs its violation,
    weighted by the rank r of the true class:

    .. math::
        \frac{l_r}{r} \sum_k \bigl[\Delta + x^\top V s_k - x^\top V s_y\bigr]_+ ,
        \qquad l_r = \sum_{i \le r} 1 / i .

    Parameters
    ----------
    class_attributes, candidates, seen_penalty
        As in :class:`rezsl_sk.ZeroShotClassifier`; the penalty is in units of
        the bilinear score.

    margin : float, default=1.0
        :math:`\Delta` for the classes that are not the true one.

    learning_rate_init, weight_decay : float, default=1e-2 and 1e-2
        Peak of a one-cycle schedule, and decoupled decay (AdamW).

    batch_size : int or "auto", default="auto"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    max_iter : int, default=20
        Epochs.

    attribute_scaling : {"standard", "center", "l2"} or None, default="l2"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    feature_scaling, device, random_state
        As in :class:`rezsl_sk.ReZSLRegressor`.

    Attributes
    ----------
    coef_ : ndarray of shape (d, a')
        V, between scaled features and scaled attributes that vary.

    loss_curve_ : list of float
        Mean loss of each epoch.

    n_iter_, device_
        Epochs run, and where.

    classes_, candidates_, seen_classes_, class_names_, class_attributes_, seen_penalty_
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    References
    ----------
    Akata, Perronnin, Harchaoui, Schmid: Label-Embedding for Image
    Classification. IEEE TPAMI 2016, section 3.3.

    Examples
    --------
    >>> from rezsl_sk.baselines import ALE
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = ALE(
    ...     (data.class_names, data.attributes), candidates="unseen", random_state=0
    ... )
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.3
    True
    """

    _needs_directions = False

    _parameter_constraints: dict = {
        **_Trained._parameter_constraints,
        "margin": [POSITIVE],
    }

    def __init__(
        self,
        class_attributes: Table = None,
        candidates: Candidates = "all",
        seen_penalty: Penalty = 0.0,
        *,
        margin: float = 1.0,
        learning_rate_init: float = 1e-2,
        weight_decay: float = 1e-2,
        batch_size: int | Literal["auto"] = "auto",
        max_iter: int = 20,
        attribute_scaling: AttributeScalingName = "l2",
        feature_scaling: FeatureScalingName = "standard",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty
        self.margin = margin
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.attribute_scaling = attribute_scaling
        self.feature_scaling = feature_scaling
        self.device = device
        self.random_state = random_state

    def _module(self, X, P, generator):
        return _Ranking(X.shape[1], P, self.margin, generator)

    def _keep(self, module):
        self.coef_ = module.coef.detach().cpu().numpy().copy()

    def _comparer(self, P):
        P = P.astype(self._working_dtype)
        return lambda X: (X @ self.coef_) @ P.T


class _Ranking(nn.Module):
    """Bilinear scores of the seen classes, and their weighted ranking loss."""

    def __init__(self, n_features, P, margin, generator):
        super().__init__()
        coefs, _ = initial_arrays((n_features, P.shape[1]), P.dtype, generator)
        self.coef = nn.Parameter(torch.from_numpy(coefs[0].copy()))
        self.register_buffer("prototypes_t", torch.from_numpy(P.T.copy()))
        # l_r / r for each rank, 0 for rank 0.
        rank = torch.arange(1, len(P) + 1, dtype=self.coef.dtype)
        share = torch.cat([rank.new_zeros(1), (1 / rank).cumsum(0) / rank])
        self.register_buffer("share", share)
        self.margin = margin

    def forward(self, X):
        return (X @ self.coef) @ self.prototypes_t

    def loss(self, scores, group):
        of_true = scores.gather(1, group[:, None])
        violation = (self.margin + scores - of_true).relu()
        # The true class is no rival of its own.
        violation = violation.scatter(1, group[:, None], 0.0)
        rank = (violation > 0).sum(1)
        return (self.share[rank] * violation.sum(1)).mean()


class _Embedding(nn.Module):
    """An MLP (ReLU) from attributes (K, a) to features (K, d).

    With ``class_norm`` the last hidden layer is standardised over the classes,
    unit by unit, before and after its ReLU.
    """

    def __init__(self, P, sizes, class_norm, generator):
        super().__init__()
        coefs, intercepts = initial_arrays(sizes, P.dtype, generator)
        if class_norm:
            # Standardised units have variance 1: with weights of this variance
            # prototypes begin with a length of about 1 (section 3 of the paper).
            bound = np.sqrt(3 / (sizes[-2] * sizes[-1])) * np.sqrt(sizes[-2])
            coefs[-1] *= bound
        self.weights = nn.ParameterList(map(torch.from_numpy, coefs))
        self.biases = nn.ParameterList(
            torch.from_numpy(b.copy()).mul_(0) for b in intercepts
        )
        self.class_norm = class_norm
        self.register_buffer("P", torch.from_numpy(P.copy()))

    def forward(self, X):
        return X, self.embed(self.P)[0]

    def embed(self, P, statistics=None):
        """Features (k, d) of classes, and the statistics of normalisation.

        With `statistics` given, classes are normalised by those.
        """
        last, used = len(self.weights) - 1, []

        def norm(H):
            nth = len(used)
            if statistics is None:
                used.append((H.mean(0), H.std(0, correction=0) + 1e-5))
            else:
                used.append(statistics[nth])
            return (H - used[nth][0]) / used[nth][1]

        for layer, (weight, bias) in enumerate(
            zip(self.weights, self.biases, strict=True)
        ):
            P = P @ weight + bias
            if layer < last:
                normed = self.class_norm and layer == last - 1
                P = norm(norm(P).relu()) if normed else P.relu()
        return P, used


class _Embedded(_Trained):
    """A baseline that compares samples with classes in feature space."""

    def _module(self, X, P, generator):
        sizes = (P.shape[1], *self.hidden_layer_sizes, X.shape[1])
        if not all(isinstance(size, Integral) and size > 0 for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must hold positive whole numbers, such as "
                f"(1024,), got {self.hidden_layer_sizes!r}."
            )
        return self._embedding(P, sizes, generator)

    def _keep(self, module):
        with torch.no_grad():
            statistics = module.embed(module.P)[1]
        module.cpu()
        self._module_arrays = {
            "weights": [w.detach().numpy().copy() for w in module.weights],
            "biases": [b.detach().numpy().copy() for b in module.biases],
            "statistics": [
                tuple(s.cpu().numpy().copy() for s in pair) for pair in statistics
            ],
        }

    def _embed(self, P):
        """Features (k, d) of classes with scaled attributes (k, a')."""
        arrays = self._module_arrays
        statistics = iter(arrays["statistics"])

        def norm(H):
            mean, scale = next(statistics)
            return (H - mean) / scale

        last = len(arrays["weights"]) - 1
        P = P.astype(self._working_dtype)
        for layer, (weight, bias) in enumerate(
            zip(arrays["weights"], arrays["biases"], strict=True)
        ):
            P = P @ weight + bias
            if layer < last:
                normed = arrays["statistics"] and layer == last - 1
                P = norm(np.maximum(norm(P), 0)) if normed else np.maximum(P, 0)
        return P


class DEM(_Embedded):
    r"""Deep embedding: an MLP from attributes to features, nearest by distance.

    Trained for the squared distance of samples to the embedding of their class
    and decoded there, which is said to suffer less from hubs than decoding in
    attribute space.

    Parameters
    ----------
    class_attributes, candidates, seen_penalty
        As in :class:`rezsl_sk.ZeroShotClassifier`; the penalty is in units of
        the Euclidean distance between scaled features.

    hidden_layer_sizes : tuple of int, default=(1024,)
        Units of the hidden layers (ReLU).

    learning_rate_init, weight_decay : float, default=1e-3 and 1e-2
        Peak of a one-cycle schedule, and decoupled decay (AdamW).

    batch_size : int or "auto", default="auto"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    max_iter : int, default=20
        Epochs.

    attribute_scaling : {"standard", "center", "l2"} or None, default="standard"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    feature_scaling, device, random_state
        As in :class:`rezsl_sk.ReZSLRegressor`.

    Attributes
    ----------
    loss_curve_ : list of float
        Mean squared error of each epoch.

    n_iter_, device_
        Epochs run, and where.

    classes_, candidates_, seen_classes_, class_names_, class_attributes_, seen_penalty_
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    References
    ----------
    Zhang, Xiang, Gong: Learning a Deep Embedding Model for Zero-Shot Learning.
    CVPR 2017.

    Examples
    --------
    >>> from rezsl_sk.baselines import DEM
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = DEM(
    ...     (data.class_names, data.attributes), candidates="unseen", random_state=0
    ... )
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.3
    True
    """

    _needs_directions = False

    _parameter_constraints: dict = {
        **_Trained._parameter_constraints,
        "hidden_layer_sizes": ["array-like"],
    }

    def __init__(
        self,
        class_attributes: Table = None,
        candidates: Candidates = "all",
        seen_penalty: Penalty = 0.0,
        *,
        hidden_layer_sizes: tuple[int, ...] = (1024,),
        learning_rate_init: float = 1e-3,
        weight_decay: float = 1e-2,
        batch_size: int | Literal["auto"] = "auto",
        max_iter: int = 20,
        attribute_scaling: AttributeScalingName = "standard",
        feature_scaling: FeatureScalingName = "standard",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty
        self.hidden_layer_sizes = hidden_layer_sizes
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.attribute_scaling = attribute_scaling
        self.feature_scaling = feature_scaling
        self.device = device
        self.random_state = random_state

    def _embedding(self, P, sizes, generator):
        return _Distance(P, sizes, False, generator)

    def _comparer(self, P):
        embedded = self._embed(P)
        return lambda X: prototype_scores(X, embedded, metric="euclidean")


class _Distance(_Embedding):
    def loss(self, output, group):
        X, embedded = output
        return F.mse_loss(embedded[group], X)


class ClassNormalizedEmbedding(_Embedded):
    r"""Class-normalised attribute embedding, the strongest without a generator.

    An MLP maps attributes to features; its last hidden layer is standardised
    over the classes. Trained by a cross-entropy of scaled cosines over the seen
    classes:

    .. math::
        \mathrm{CE}\bigl(\gamma \cos(x, f(s_k))\bigr).

    Unseen classes are normalised by the statistics of the seen ones.

    Parameters
    ----------
    class_attributes, candidates, seen_penalty
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    hidden_layer_sizes : tuple of int, default=(1024, 1024)
        Units of the hidden layers (ReLU), at least one.

    scale : float, default=25.0
        :math:`\gamma`, the inverse temperature of the cosines.

    learning_rate_init, weight_decay : float, default=1e-3 and 1e-4
        Peak of a one-cycle schedule, and decoupled decay (AdamW).

    batch_size : int or "auto", default="auto"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    max_iter : int, default=20
        Epochs.

    attribute_scaling : {"standard", "center", "l2"} or None, default="standard"
        As in :class:`rezsl_sk.ReZSLRegressor`.

    feature_scaling, device, random_state
        As in :class:`rezsl_sk.ReZSLRegressor`.

    Attributes
    ----------
    loss_curve_ : list of float
        Mean cross-entropy of each epoch.

    n_iter_, device_
        Epochs run, and where.

    classes_, candidates_, seen_classes_, class_names_, class_attributes_, seen_penalty_
        As in :class:`rezsl_sk.ZeroShotClassifier`.

    References
    ----------
    Skorokhodov, Elhoseiny: Class Normalization for (Continual)? Generalized
    Zero-Shot Learning. ICLR 2021.

    Examples
    --------
    >>> from rezsl_sk.baselines import ClassNormalizedEmbedding
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = ClassNormalizedEmbedding(
    ...     (data.class_names, data.attributes), candidates="unseen", random_state=0
    ... )
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.3
    True
    """

    _parameter_constraints: dict = {
        **_Trained._parameter_constraints,
        "hidden_layer_sizes": ["array-like"],
        "scale": [POSITIVE],
    }

    def __init__(
        self,
        class_attributes: Table = None,
        candidates: Candidates = "all",
        seen_penalty: Penalty = 0.0,
        *,
        hidden_layer_sizes: tuple[int, ...] = (1024, 1024),
        scale: float = 25.0,
        learning_rate_init: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int | Literal["auto"] = "auto",
        max_iter: int = 20,
        attribute_scaling: AttributeScalingName = "standard",
        feature_scaling: FeatureScalingName = "standard",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty
        self.hidden_layer_sizes = hidden_layer_sizes
        self.scale = scale
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.attribute_scaling = attribute_scaling
        self.feature_scaling = feature_scaling
        self.device = device
        self.random_state = random_state

    def _embedding(self, P, sizes, generator):
        if len(sizes) < 3:
            raise ValueError(
                "hidden_layer_sizes must name at least one hidden layer, whose units "
                "are normalised; got ()."
            )
        module = _Cosine(P, sizes, True, generator)
        module.scale = self.scale
        return module

    def _comparer(self, P):
        embedded = self._embed(P)
        return lambda X: prototype_scores(X, embedded)


class _Cosine(_Embedding):
    scale: float

    def loss(self, output, group):
        X, embedded = output
        logits = F.normalize(X) @ F.normalize(embedded).T
        return F.cross_entropy(logits * self.scale, group)


def _solve(matrix, right, what):
    """The solution of a positive definite system."""
    try:
        return cho_solve(cho_factor(matrix), right)
    except LinAlgError:
        raise ValueError(
            f"{what}_penalty is lost in the rounding of squared {what}s, which go up "
            f"to {matrix.diagonal().max():.2g} in the mean: raise it, or set "
            f"{what}_scaling='standard'."
        ) from None


def _gram(X: np.ndarray) -> np.ndarray:
    """X'X in double precision (d, d), without a second copy of X in it."""
    total = np.zeros((X.shape[1], X.shape[1]))
    for rows in gen_batches(len(X), BLOCK_ROWS):
        block = X[rows].astype(np.float64)
        total += block.T @ block
    return total
