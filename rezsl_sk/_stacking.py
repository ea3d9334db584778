"""ZeroShotStackingClassifier: all methods together, weighed on class-disjoint folds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
)

from ._blocks import in_dtype, working_dtype
from ._interrupts import nested_fits, users_level
from ._regressor import ReZSLRegressor
from ._scaling import AttributeSpace
from ._scorers import (
    ClassifiedAttributes,
    FeatureWeights,
    NaiveBayesAttributes,
    RegressedAttributes,
    SharedSpace,
)
from ._stack_weights import (
    FoldScores,
    generalised_problem,
    learn_weights,
    member_spreads,
    unseen_problem,
)
from ._zero_shot import ZeroShotMixin, check_seen_rows
from .baselines import DEM, ESZSL, ClassNormalizedEmbedding
from .decoding import equal_columns, score_rows
from .model_selection import GZSLKFold

if TYPE_CHECKING:
    import pandas

# Of a fold. More rows hardly change how members compare, but what the folds cost.
MOST_FOLD_ROWS = 8192
MOST_TEST_ROWS = 4096
# A forest grows its trees for all attributes at once, in time with their number.
MOST_FOREST_ATTRIBUTES = 128
MOST_FOREST_ROWS = 4000
# With few classes one partition of them is a matter of luck: folds are repeated until
# about so many classes have been held out.
HELD_OUT_CLASSES = 40


class ZeroShotStackingClassifier(ZeroShotMixin, BaseEstimator):
    """Several methods together, each weighed by what it is worth on unseen classes.

    No zero-shot method is the best on all data. This classifier fits several, scores
    classes by a weighted sum of their scores, and learns the weights where no test
    class plays a part: on folds of the seen classes, each time with some classes held
    out.

    Parameters
    ----------
    estimators : "auto", "all", or list of (name, estimator), default="auto"
        The members. "auto": what is cheap, see Notes. "all": also the trained
        embeddings :class:`~rezsl_sk.baselines.DEM` and
        :class:`~rezsl_sk.baselines.ClassNormalizedEmbedding`. In a list: zero-shot
        classifiers of this package (their own table, candidates and penalty play no
        part), a :class:`ReZSLRegressor`, or any scikit-learn regressor or classifier
        with ``predict_proba`` as a model of the attributes.

    class_attributes, candidates
        As in :class:`ZeroShotClassifier`.

    seen_penalty : float or "auto", default="auto"
        Taken off the scores of seen classes, which are logarithms of probabilities.
        "auto" learns it together with the weights; it is 0 with ``candidates="seen"``
        or "unseen", and without a table.

    cv : int, default=5
        Number of folds of the seen classes, at least 2. With fewer than 40 seen classes
        folds are repeated with other partitions.

    n_jobs : int or None, default=None
        Number of processes (joblib) that share members and folds.

    random_state : int, default=0
        Of the folds, and of the members of "auto" and "all".

    Attributes
    ----------
    estimators_ : list of (name, fitted member)
        Those whose weight is above 0.

    names_ : list of str
        All members that could be fitted on the folds.

    weights_ : ndarray of shape (m,)
        Weight of each of `names_`, in logarithms of probability per standard deviation
        of the member's scores.

    accuracies_ : ndarray of shape (m,)
        Class-mean accuracy of each of `names_` by itself, on held-out seen classes
        among each other, in [0, 1]. Empty where no class could be held out.

    failures_ : dict
        Why a member was left out: its name and the error's message.

    classes_, candidates_, seen_classes_, class_names_, class_attributes_, \
constant_attributes_, seen_penalty_
        As in :class:`ZeroShotClassifier`.

    Notes
    -----
    The members of "auto" are the trained attribute regressor ("attributes"),
    closed-form weights in feature space for two scalings of the features ("features",
    "standard features"), :class:`~rezsl_sk.baselines.ESZSL` ("eszsl"), a Gaussian naive
    Bayes for each attribute ("naive Bayes"), with at most 128 attributes extremely
    randomised trees ("forest"), and, where the table is as wide as X, the cosine of
    rows and descriptions ("shared space").

    The score of a member is divided by one number, its mean standard deviation over the
    held-out classes. Weights of at least 0 maximise the mean log-softmax of the true
    class, every held-out class with one vote, less a small pull towards equal weights
    (its strength is 1 / K for K seen classes). With ``candidates="unseen"`` held-out
    classes compete among each other. Otherwise all seen classes compete, held-out rows
    of the fold's training classes have half of the votes, and the seen penalty is
    learnt as well. So scores are logarithms of probabilities that were fitted to
    held-out classes, and :meth:`predict_proba` is their softmax.

    A fold trains on 8192 rows at most, as many of each class as there are, and is
    judged by 4096.

    References
    ----------
    Wolpert: Stacked generalization. Neural Networks, 1992.

    Breiman: Stacked regressions. Machine Learning, 1996 (weights of at least 0).

    Examples
    --------
    >>> from rezsl_sk import ZeroShotStackingClassifier
    >>> from rezsl_sk.baselines import ESZSL, RidgePrototype
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = ZeroShotStackingClassifier(
    ...     [("eszsl", ESZSL()), ("ridge", RidgePrototype())],
    ...     class_attributes=(data.class_names, data.attributes),
    ...     candidates="unseen",
    ... )
    >>> clf = clf.fit(data.X[data.trainval], data.y[data.trainval])
    >>> clf.score(data.X[data.test_unseen], data.y[data.test_unseen]) > 0.3
    True
    """

    _parameter_constraints: dict = {
        "estimators": [StrOptions({"auto", "all"}), list],
        **ZeroShotMixin._zero_shot_constraints,
        "cv": [Interval(Integral, 2, None, closed="left")],
        "n_jobs": [Integral, None],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        estimators: Literal["auto", "all"] | Sequence[tuple[str, Any]] = "auto",
        class_attributes: pandas.DataFrame | tuple[ArrayLike, ArrayLike] | None = None,
        candidates: Literal["all", "unseen", "seen"] | ArrayLike = "all",
        seen_penalty: float | Literal["auto"] = "auto",
        *,
        cv: int = 5,
        n_jobs: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.estimators = estimators
        self.class_attributes = class_attributes
        self.candidates = candidates
        self.seen_penalty = seen_penalty
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities of the candidates: softmax of the scores.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        probabilities : ndarray of shape (n, k)
            Of ``classes_``; each row sums to 1.
        """
        return self._of_logits(X, softmax)

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithm of :meth:`predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        log_probabilities : ndarray of shape (n, k)
        """
        return self._of_logits(X, log_softmax)

    # ---- what the mixin asks for --------------------------------------------

    def fit_classes(self, X, group, attributes):
        """Learn weights and members; see ``rezsl_sk._scorers``."""
        X = in_dtype(X, working_dtype(X))
        self._working_dtype = X.dtype
        self._space = AttributeSpace("standard").fit(attributes, np.float64)
        self.constant_attributes_ = self._space.constant
        members = self._members(X, attributes)
        names = self._learn(X, group, attributes, members)
        weighed = [n for n, weight in zip(names, self.weights_, strict=True) if weight]
        fitted = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit)(members[name], X, group, attributes) for name in weighed
        )
        self.estimators_ = list(zip(weighed, fitted, strict=True))
        return self

    def scorer(self, attributes, names=None):
        """Weighted sums of the members' scores; see ``rezsl_sk._scorers``."""
        factor = dict(zip(self.names_, self.weights_ / self._spreads, strict=True))
        scorers = [
            (factor[name], member.scorer(attributes, names))
            for name, member in self.estimators_
        ]

        def score(X):
            X = in_dtype(X, self._working_dtype)
            total = 0.0
            for weight, member in scorers:
                total = total + weight * member(X)
            return total

        return equal_columns(score, self._space.transform(attributes))

    def _choose_penalty(self, X, group):
        return 0.0 if self.seen_penalty == "auto" else super()._choose_penalty(X, group)

    def _attribute_space(self):
        return self._space

    # ---- members and their weights ------------------------------------------

    def _members(self, X, attributes):
        """Unfitted members by name."""
        if not isinstance(self.estimators, str):
            return _checked_members(self.estimators)
        seed = self.random_state
        members = {
            "attributes": ReZSLRegressor(feature_weight=0.0, random_state=seed),
            "features": FeatureWeights("l2", random_state=seed),
            "standard features": FeatureWeights("standard", random_state=seed),
            "eszsl": ESZSL(),
            "naive Bayes": NaiveBayesAttributes(),
        }
        if attributes.shape[1] <= MOST_FOREST_ATTRIBUTES:
            members["forest"] = BalancedForest(random_state=seed)
        if attributes.shape[1] == X.shape[1]:
            members["shared space"] = SharedSpace()
        if self.estimators == "all":
            members["DEM"] = DEM(random_state=seed)
            members["class-normalised"] = ClassNormalizedEmbedding(random_state=seed)
        return members

    def _learn(self, X, group, attributes, members):
        """Weights, penalty and accuracies from class-disjoint folds; the names left."""
        n_classes = len(attributes)
        self.failures_ = {}
        if n_classes < 4:
            folds = [_Fold(np.arange(len(X)), np.arange(len(X)))]
        else:
            folds = self._folds(group, n_classes)
        jobs = [(name, fold) for name in members for fold in folds]
        results = Parallel(n_jobs=self.n_jobs)(
            delayed(_fold_scores)(members[name], X, group, attributes, fold)
            for name, fold in jobs
        )
        scores = {name: [] for name in members}
        for (name, _), (found, failure) in zip(jobs, results, strict=True):
            scores[name].append(found)
            if failure is not None:
                self.failures_.setdefault(name, failure)
        names = [name for name in members if name not in self.failures_]
        if not names:
            raise ValueError(
                "no member of the stack could be fitted on the folds: "
                + "; ".join(f"{name}: {why}" for name, why in self.failures_.items())
            )
        for name, why in self.failures_.items():
            warnings.warn(
                f"the member {name!r} of the stack is left out, because it could not "
                f"be fitted on the folds: {why}",
                stacklevel=users_level(),
            )
        self.names_ = names
        folds = [
            FoldScores(
                np.stack([scores[name].pop(0) for name in names]),
                group[fold.test],
                np.isin(np.arange(n_classes), group[fold.train]),
            )
            for fold in folds
        ]
        penalty = None if self.seen_penalty == "auto" else float(self.seen_penalty)
        choice = self._candidates if isinstance(self._candidates, str) else "some"
        if n_classes < 4:
            # Nothing can be held out: the members count alike.
            spread = folds[0].scores.std(axis=2).mean(axis=1)
            self._spreads = np.where(spread > 0, spread, 1.0)
            self.weights_ = np.full(len(names), 1 / len(names))
            self.accuracies_ = np.empty(0)
            penalty = penalty or 0.0
        else:
            self._spreads = member_spreads(folds)
            folds = [
                fold._replace(scores=fold.scores / self._spreads[:, None, None])
                for fold in folds
            ]
            among_unseen = unseen_problem(folds)
            self.accuracies_ = _accuracies(among_unseen)
            if choice == "unseen":
                problem, penalty = among_unseen, penalty or 0.0
            else:
                problem = generalised_problem(folds)
                if penalty is None and choice != "seen" and self._has_table:
                    for fold in folds:
                        check_seen_rows(fold.column, fold.seen)
            self.weights_, penalty = learn_weights(
                problem, pull=1 / n_classes, penalty=penalty
            )
        # Without a table, and with candidates="seen", no unseen class can be added.
        if self.seen_penalty == "auto" and (choice == "seen" or not self._has_table):
            penalty = 0.0
        self.seen_penalty_ = penalty
        return names

    def _folds(self, group, n_classes):
        folds = []
        n_splits = min(self.cv, n_classes // 2)
        for repeat in range(max(1, -(-HELD_OUT_CLASSES // n_classes))):
            seed = self.random_state + repeat
            splitter = GZSLKFold(n_splits, random_state=seed)
            for train, test in splitter.split(group, group):
                few = balanced_rows(group[train], MOST_FOLD_ROWS, seed)
                some = balanced_rows(group[test], MOST_TEST_ROWS, seed)
                folds.append(_Fold(train[few], test[some]))
        return folds


class _Fold(NamedTuple):
    train: np.ndarray  # row numbers, increasing
    test: np.ndarray


def _fit(member, X, group, attributes):
    with nested_fits():
        return clone(member).fit_classes(X, group, attributes)


def _fold_scores(member, X, group, attributes, fold):
    """Scores (n, K) of one member on one fold and None, or None and what went wrong."""
    inside, numbers = np.unique(group[fold.train], return_inverse=True)
    try:
        model = _fit(member, X[fold.train], numbers, attributes[inside])
        score = model.scorer(attributes)
        step = score_rows(len(attributes))
        parts = [
            np.asarray(score(X[fold.test[i : i + step]]))
            for i in range(0, len(fold.test), step)
        ]
        scores = np.concatenate(parts)
        if not np.isfinite(scores).all():
            return None, "its scores are not finite"
    except InvalidParameterError:
        raise  # a mistake of the user's, and no property of the data
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    return scores, None


def _accuracies(problem):
    """Class-mean accuracy of each member, over all folds: (m,)."""
    hits = 0.0
    for scores, column, _, votes in problem:
        hits = hits + (scores.argmax(axis=2) == column) @ votes
    return hits


def _checked_members(estimators):
    """Members by name, each a class scorer, or a sentence."""
    members = {}
    for entry in estimators:
        if not (isinstance(entry, tuple) and len(entry) == 2):
            raise ValueError(
                "estimators must be 'auto', 'all' or a list of pairs (name, "
                f"estimator), got the entry {entry!r}."
            )
        name, estimator = entry
        if name in members:
            raise ValueError(
                f"two members of the stack are called {name!r}; rename one."
            )
        if isinstance(estimator, ZeroShotStackingClassifier):
            raise ValueError(
                f"the member {name!r} is a stack itself; give its members to this one."
            )
        if hasattr(estimator, "fit_classes") and hasattr(estimator, "scorer"):
            members[name] = estimator
        elif hasattr(estimator, "predict_proba") and is_classifier(estimator):
            members[name] = ClassifiedAttributes(estimator)
        elif hasattr(estimator, "predict") and is_regressor(estimator):
            members[name] = RegressedAttributes(estimator)
        else:
            raise ValueError(
                f"the member {name!r} is of type {type(estimator).__name__}; a member "
                "must be a zero-shot classifier of this package, a regressor, or a "
                "classifier with predict_proba."
            )
        # scikit-learn does not check parameters of what is fitted within a fit.
        if hasattr(estimator, "_parameter_constraints"):
            estimator._validate_params()
    if not members:
        raise ValueError("estimators is an empty list; a stack needs a member.")
    return members


class BalancedForest(RegressedAttributes):
    """Extremely randomised trees for all attributes, grown on as many rows a class."""

    def __init__(self, random_state=0):
        super().__init__(
            ExtraTreesRegressor(
                100,
                min_samples_leaf=3,
                max_features="sqrt",
                random_state=random_state,
            )
        )
        self.random_state = random_state

    def fit_classes(self, X, group, attributes):
        rows = balanced_rows(group, MOST_FOREST_ROWS, self.random_state)
        count = np.bincount(group[rows])
        return super().fit_classes(
            X[rows], group[rows], attributes, sample_weight=1 / count[group[rows]]
        )


def balanced_rows(group, n_rows, seed):
    """At most n_rows row numbers, increasing: as many of each class as can be."""
    if len(group) <= n_rows:
        return np.arange(len(group))
    order = np.random.default_rng(seed).permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    count = np.bincount(group)
    nth = np.arange(len(order)) - (np.cumsum(count) - count)[group[order]]
    return np.sort(order[np.argsort(nth, kind="stable")[:n_rows]])
