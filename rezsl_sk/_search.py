"""Many fits at once: a search whose candidates are trained side by side."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, Self

import joblib
import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import ArrayLike
from sklearn.base import _fit_context, clone
from sklearn.callback import with_callbacks
from sklearn.metrics._scorer import _MultimetricScorer
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._validation import (
    _insert_error_scores,
    _score,
    _warn_or_raise_about_fit_failures,
)
from sklearn.utils import indexable
from sklearn.utils._param_validation import Interval
from sklearn.utils.metaestimators import _safe_split

from ._classifier import ZeroShotClassifier
from ._grouping import distinct_rows
from ._heads import Heads, runs
from ._interrupts import nested_fits
from ._regressor import ReZSLRegressor, fused_objective
from ._training import (
    Optimizer,
    Trainee,
    as_tensor,
    auto_batch_size,
    memory_in_a_sentence,
    place_features,
    resolve_device,
    run_epoch,
    usual_torch,
)
from .feature_cache import FeatureCache
from .model_selection import ClassKFold, zero_shot_scorer
from .tables import ClassTable

# Parameters that heads trained side by side must have in common. The others are
# settings of each head, or (feature_weight) play no part in its training.
SHARED = (
    "hidden_layer_sizes",
    "normalize_weights",
    "attribute_scaling",
    "feature_scaling",
    "solver",
    "learning_rate",
    "momentum",
    "batch_size",
    "sampler",
    "ways",
    "shots",
    "max_iter",
    "device",
    "matmul_precision",
    "random_state",
)
OF_EACH = (
    "dropout",
    "learning_rate_init",
    "weight_decay",
    "loss",
    "class_power",
    "attribute_power",
    "regression_weight",
    "classification_weight",
    "scale",
)
# Of parameters, optimiser and one batch: beyond the processor's cache, more of them
# side by side are no faster.
CPU_BYTES = 2**25
# Of what a fold's feature side has answered, to be kept for the next candidate.
ANSWER_BYTES = 2**26


class ReZSLSearchCV(BaseSearchCV):
    """GridSearchCV and RandomizedSearchCV that train their candidates side by side.

    The same candidates, folds, scores and attributes as scikit-learn's searches,
    in less time: candidates of equal shape are trained as one program, on shared
    batches and dropout masks (what equal seeds give them anyway), those that differ
    in ``feature_weight`` only are trained once where one process has them all, and
    each fold's closed-form feature side is computed once. Scores equal those of
    :class:`~sklearn.model_selection.GridSearchCV` but for the rounding of matrix
    products of other shapes.

    What cannot go side by side (``early_stopping=True``, ``statistics="running"``,
    losses other than "mse" and "remse", ``seen_penalty="auto"``, a random state of
    None, subclasses, callbacks of the estimator) is trained one by one, in the same
    search.

    To name classes by their attributes ask the best regressor, as after any search:
    ``search.best_estimator_.predict(X, prototypes=...)``.

    Parameters
    ----------
    estimator : ReZSLRegressor or ZeroShotClassifier
        To be cloned for each candidate. Scaling is inside; for other steps of a
        Pipeline use scikit-learn's searches.

    param_grid : dict or list of dict
        Values to try for each parameter, as in GridSearchCV; with `n_iter` also
        distributions, as in RandomizedSearchCV.

    n_iter : int or None, default=None
        None tries the whole grid; a number draws so many candidates.

    scoring : str, callable, list, tuple or dict, or None, default=None
        As in GridSearchCV; None is :func:`~rezsl_sk.model_selection.zero_shot_scorer`.

    n_jobs : int or None, default=None
        Number of processes (joblib).

    refit : bool, str or callable, default=True
        As in GridSearchCV.

    cv : int, splitter, iterable or None, default=None
        A number k means ``ClassKFold(k)``, no class on both sides of a split; None
        means 5.

    verbose : int, default=0
        1 prints how many fits there will be, and the number done after each part.

    random_state : int, RandomState or None, default=0
        Of drawing `n_iter` candidates.

    error_score : "raise" or float, default=nan
        Score of a candidate whose fit fails; it does not disturb its neighbours.

    return_train_score : bool, default=False
        As in GridSearchCV.

    Attributes
    ----------
    cv_results_ : dict of ndarrays
        As in GridSearchCV. Fits that ran side by side share their time evenly.

    best_estimator_, best_params_, best_score_, best_index_, scorer_, n_splits_, \
refit_time_, multimetric_, n_features_in_, feature_names_in_, classes_
        As in GridSearchCV.

    Examples
    --------
    >>> from rezsl_sk import ReZSLRegressor, ReZSLSearchCV
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> X, S = data.X[data.trainval], data.attributes[data.labels[data.trainval]]
    >>> search = ReZSLSearchCV(
    ...     ReZSLRegressor((32,), max_iter=5, random_state=0),
    ...     {"loss": ["mse", "remse"], "learning_rate_init": [1e-3, 1e-2]},
    ...     cv=3,
    ... ).fit(X, S)
    >>> search.best_params_["learning_rate_init"], len(search.cv_results_["params"])
    (0.01, 4)
    """

    _parameter_constraints: dict = {
        **BaseSearchCV._parameter_constraints,
        "param_grid": [dict, list],
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }
    _parameter_constraints.pop("pre_dispatch")

    def __init__(
        self,
        estimator: ReZSLRegressor | ZeroShotClassifier,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        n_iter: int | None = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: bool | str | Callable = True,
        cv: Any = None,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = 0,
        error_score: float | Literal["raise"] = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator=estimator,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.param_grid = param_grid
        self.n_iter = n_iter
        self.random_state = random_state

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: ArrayLike | FeatureCache,
        y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Try all candidates on all folds, and fit the best one on everything.

        Parameters
        ----------
        X : array-like of shape (n, d), or FeatureCache
            Features. Of a file, a fold's rows are read into memory, once for each part
            of the candidates.

        y : array-like of shape (n, a) or (n,)
            Attributes of each sample's class for a regressor, labels for a
            classifier.

        groups : array-like of shape (n,) or None, default=None
            Handed to the splitter.

        Returns
        -------
        self : ReZSLSearchCV

        Raises
        ------
        TypeError
            If the estimator is neither ReZSLRegressor nor ZeroShotClassifier.

        ValueError
            As GridSearchCV: if all fits fail, or with ``error_score="raise"`` if
            one does.
        """
        if not isinstance(self.estimator, ReZSLRegressor | ZeroShotClassifier):
            raise TypeError(
                "ReZSLSearchCV searches over a ReZSLRegressor or a ZeroShotClassifier, "
                f"got {type(self.estimator).__name__}. Use scikit-learn's GridSearchCV "
                "with cv=ClassKFold(5) and scoring=zero_shot_scorer for anything else."
            )
        scorers, refit_metric = self._get_scorers()
        if isinstance(X, FeatureCache):
            X = X.X
        X, y = indexable(X, y)
        cv = 5 if self.cv is None else self.cv
        cv = ClassKFold(cv) if isinstance(cv, Integral) else check_cv(cv, y)
        splits = list(cv.split(X, y, groups))
        self.n_splits_ = len(splits)
        candidates = self._candidates()
        if not candidates or not splits:
            raise ValueError(
                f"there is nothing to try: param_grid gives {len(candidates)} "
                f"candidates and cv {len(splits)} folds. Each must be at least 1."
            )
        if self.verbose:
            print(
                f"Fitting {self.n_splits_} folds for each of {len(candidates)} "
                f"candidates, totalling {self.n_splits_ * len(candidates)} fits",
                flush=True,
            )
        context = self._init_callback_context(
            max_subtasks=1 + (self.refit is not False)
        ).call_on_fit_task_begin(estimator=self, X=X, y=y)
        out = self._evaluate_all(candidates, X, y, splits, scorers, context)
        _warn_or_raise_about_fit_failures(out, self.error_score)
        if callable(self.scoring):
            _insert_error_scores(out, self.error_score)
        results = self._format_results(candidates, self.n_splits_, out)
        self.multimetric_ = isinstance(out[0]["test_scores"], dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(out[0]["test_scores"])
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(
                self.refit, refit_metric, results
            )
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][
                    self.best_index_
                ]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            self.best_estimator_ = self._candidate(self.best_params_)
            task = context.subcontext(task_name="refit-with-best-params")
            with task.propagate_callback_context(self.best_estimator_):
                task.call_on_fit_task_begin(estimator=self, X=X, y=y)
                start = time.time()
                self.best_estimator_.fit(X, y)
                self.refit_time_ = time.time() - start
            task.call_on_fit_task_end(estimator=self, X=X, y=y)
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        is_many = isinstance(scorers, _MultimetricScorer)
        self.scorer_ = scorers._scorers if is_many else scorers
        self.cv_results_ = results
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def _get_scorers(self):
        if self.scoring is None:
            return zero_shot_scorer, "score"
        return super()._get_scorers()

    def _candidates(self) -> list[dict]:
        if self.n_iter is None:
            return list(ParameterGrid(self.param_grid))
        return list(
            ParameterSampler(
                self.param_grid, self.n_iter, random_state=self.random_state
            )
        )

    def _candidate(self, params):
        return clone(self.estimator).set_params(**clone(params, safe=False))

    def _evaluate_all(self, candidates, X, y, splits, scorers, context):
        """A result for each candidate and fold, in GridSearchCV's order."""
        parts = self._parts(candidates, X, y, len(splits))
        # One candidate computes what the others of its fold share. Where others wait
        # for it, it alone.
        n_processes = effective_n_jobs(self.n_jobs)
        alone = n_processes > 1
        first, rest, seen = [], [], set()
        for fold in range(len(splits)):
            for part in parts:
                key, numbers = (fold, part.side), list(part.numbers)
                if part.sharer is not None and key not in seen:
                    seen.add(key)
                    leading = [part.sharer] if alone else numbers
                    first.append((key, part._replace(numbers=leading)))
                    numbers = [number for number in numbers if number not in leading]
                if numbers:
                    rest.append((key, part._replace(numbers=numbers)))
        # Of the first as many as keep all processes busy. The others, of the last
        # folds, go beside the rest of the folds before, and the rest of theirs
        # after that: in a round of its own only where joblib, which takes some jobs
        # ahead, could take it before their sides are known.
        n_full = len(first) // n_processes * n_processes
        late = {key for key, _ in first[n_full:]}
        before = [job for job in rest if job[0] not in late]
        after = [job for job in rest if job[0] in late]
        rounds = [first[:n_full], first[n_full:] + before, after]
        if len(before) >= 4 * n_processes:
            rounds[1:] = [rounds[1] + after]
        out = [None] * (len(candidates) * len(splits))
        context = context.subcontext(task_name="search", max_subtasks=len(out))
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        sides: dict = {}
        with Parallel(n_jobs=self.n_jobs, return_as="generator") as parallel:
            for jobs in rounds:
                results = parallel(
                    delayed(_evaluate)(
                        [self._candidate(candidates[i]) for i in part.numbers],
                        X,
                        y,
                        *splits[key[0]],
                        scorers,
                        together=part.together,
                        side=sides.get(key) if part.together else None,
                        error_score=self.error_score,
                        return_train_score=self.return_train_score,
                    )
                    for key, part in jobs
                )
                for (key, part), (rows, side) in zip(jobs, results, strict=True):
                    if sides.get(key) is None:  # or the one before has failed
                        sides[key] = side
                    for number, row in zip(part.numbers, rows, strict=True):
                        out[number * len(splits) + key[0]] = row
                        # Fits side by side begin and end together: told when done.
                        task = context.subcontext(task_name="candidate and fold")
                        task.call_on_fit_task_begin(estimator=self, X=X, y=y)
                        task.call_on_fit_task_end(estimator=self, X=X, y=y)
                    if self.verbose:
                        done = sum(row is not None for row in out)
                        print(f"{done} of {len(out)} fits done", flush=True)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return out

    def _parts(self, candidates, X, y, n_splits):
        """The candidates, in parts that are trained together, or alone."""
        alike, sharing = defaultdict(list), set()
        for number, params in enumerate(candidates):
            estimator = self._candidate(params)
            try:
                estimator._validate_params()
                _regressor_of(estimator)._validate_params()
                key = _likeness(estimator)
                alike[key].append(number)
                if key[1] is not None and _regressor_of(estimator).feature_weight:
                    sharing.add(number)
            except Exception:
                # What is wrong with parameters shows in their own fits.
                alike[(None, number), None].append(number)
        # Work for every process.
        most = math.ceil(len(candidates) * n_splits / effective_n_jobs(self.n_jobs))
        parts = []
        for (side, shared), numbers in alike.items():
            size = 1
            if shared is not None:
                estimator = self._candidate(candidates[numbers[0]])
                # What is wrong with parameters shows in the fits that have them.
                with contextlib.suppress(Exception):
                    size = heads_together(estimator, *_sizes(estimator, X, y))
                numbers.sort(key=lambda i: _settings(self._candidate(candidates[i])))
            n_parts = math.ceil(len(numbers) / min(size, most))
            for part in np.array_split(numbers, n_parts):
                part = part.tolist()
                sharer = next((i for i in part if i in sharing), None)
                parts.append(_Part(part, shared is not None, side, sharer))
        return parts


class _Part(NamedTuple):
    numbers: list[int]  # of the candidates
    together: bool  # whether they are trained side by side
    side: tuple  # parts with the same one share their feature side on each fold
    sharer: int | None  # one of the candidates that have a feature side


def _evaluate(
    estimators,
    X,
    y,
    train,
    test,
    scorer,
    *,
    together,
    side,
    error_score,
    return_train_score,
):
    """Fit estimators on one fold and score them: (results, feature side or None)."""
    X_train, y_train = _safe_split(estimators[0], X, y, train)
    X_test, y_test = _safe_split(estimators[0], X, y, test, train)
    start = time.time()
    fit = fit_side_by_side if together else fit_alone
    with nested_fits():
        errors, found = fit(estimators, X_train, y_train, side)
    fit_time = (time.time() - start) / len(estimators)
    results = []
    for estimator, error in zip(estimators, errors, strict=True):
        result = {"n_test_samples": len(test), "fit_time": fit_time, "fit_error": None}
        start = time.time()
        if error is not None:
            if error_score == "raise":
                raise error
            scores = error_score
            if isinstance(scorer, _MultimetricScorer):
                scores = dict.fromkeys(scorer._scorers, error_score)
            train_scores = scores
            result["fit_error"] = "".join(traceback.format_exception(error))
        else:
            scores = _score(estimator, X_test, y_test, scorer, {}, error_score)
        result["score_time"] = time.time() - start
        if return_train_score:
            if error is None:
                train_scores = _score(
                    estimator, X_train, y_train, scorer, {}, error_score
                )
            result["train_scores"] = train_scores
        results.append({**result, "test_scores": scores})
    # Who gave the side has it: it is large, and would go back to another process.
    return results, found if side is None else None


def fit_alone(estimators, X, y, side=None):
    """Fit one estimator in place; returns as :func:`fit_side_by_side`."""
    (estimator,) = estimators
    try:
        estimator.fit(X, y)
    except Exception as error:
        return [error], None
    return [None], None


def fit_side_by_side(estimators, X, y, side):
    """Fit estimators in place, whose `_likeness` is one, as one program.

    Parameters
    ----------
    estimators : list of ReZSLRegressor, or of ZeroShotClassifier
        Not fitted yet; what is wrong with a parameter alone was found before.

    X, y : as in their ``fit``

    side : _Remembering or None
        The feature side of these rows, where it is known.

    Returns
    -------
    errors : list of Exception or None
        What went wrong with each.

    side : _Remembering or None
        That of these rows, if one of them has one.
    """
    errors: list[Exception | None] = [None] * len(estimators)
    usable, regressors = [], []
    for number, estimator in enumerate(estimators):
        try:
            if isinstance(estimator, ZeroShotClassifier):
                rows, group = estimator._start_fit(X, y)
                estimator.seen_penalty_ = estimator._choose_penalty(rows, group)
                estimator.regressor_ = estimator._new_regressor()
                attributes = estimator._attributes_of(estimator.seen_classes_)
                data = estimator.regressor_._class_data(
                    rows, group, attributes, estimator._attribute_names
                )
                data, is_table = (*data, group), True
                regressors.append(estimator.regressor_)
            else:
                rows, S = estimator._check_X_S(X, y, reset=True)
                data, is_table = (rows, S, *distinct_rows(S)), None
                regressors.append(estimator)
            usable.append(number)
        except Exception as error:
            errors[number] = error
    if not regressors:
        return errors, side
    try:
        found, side = _train_in_memory(regressors, *data, is_table, side)
    except Exception as error:
        # What ends the training of one ends that of all.
        found = [error] * len(usable)
    for number, error in zip(usable, found, strict=True):
        errors[number] = error
    for estimator, error in zip(estimators, errors, strict=True):
        if error is None and isinstance(estimator, ZeroShotClassifier):
            estimator.constant_attributes_ = estimator.regressor_.constant_attributes_
    return errors, side


def _train_in_memory(regressors, *data):
    """:func:`_train_together` all of them, or halves where memory does not suffice."""
    try:
        return _train_together(regressors, *data)
    except MemoryError:
        if len(regressors) == 1:
            raise
    *data, side = data
    half, errors = len(regressors) // 2, []
    for part in (regressors[:half], regressors[half:]):
        try:
            found, side = _train_in_memory(part, *data, side)
        except Exception as error:
            found = [error] * len(part)
        errors += found
    return errors, side


@usual_torch()
def _train_together(regressors, X, S, prototypes, group, is_table, side):
    """Train regressors that are alike; returns as :func:`fit_side_by_side`.

    Raises
    ------
    MemoryError
        If an accelerator's memory does not suffice.
    """
    errors: list[Exception | None] = [None] * len(regressors)
    # Candidates that differ in nothing that training sees are trained once.
    members = defaultdict(list)
    for number, regressor in enumerate(regressors):
        try:
            trained, generator = regressor._begin(X, S, prototypes, group, is_table)
            regressor._start_curves()
            regressor._classifies(regressor._space.transform(prototypes))
        except ValueError as error:
            errors[number] = error
            continue
        members[_settings(regressor)].append(number)
    # Neighbours with equal settings share masks and steps of the optimiser.
    heads_of = [members[settings] for settings in sorted(members)]
    leaders = [regressors[numbers[0]] for numbers in heads_of]
    if not leaders:
        return errors, side
    first, epochs = leaders[0], []
    scaled = first._features.transform(X)
    device = resolve_device(first.device, X.dtype)
    if len(first._space.varying):
        with memory_in_a_sentence(device, X.shape, first.batch_size):
            arrays, epochs = _epochs_together(
                leaders, scaled, prototypes, group, generator, device
            )
    for head, numbers in enumerate(heads_of):
        for number in numbers:
            regressor = regressors[number]
            regressor.device_ = str(device)
            try:
                if epochs:
                    regressor.coefs_, regressor.intercepts_ = arrays[head]
                    _check_epochs(regressor, [epoch[head] for epoch in epochs])
                else:
                    # One class, or all alike: nothing to learn but the constants.
                    regressor.n_iter_, regressor.loss_ = 1, 0.0
                regressor._finish(scaled, prototypes, group, trained, side)
                if side is None and regressor._side is not None:
                    side = regressor._side = _Remembering(regressor._side)
            except Exception as error:
                errors[number] = error
    return errors, side


def _epochs_together(leaders, scaled, prototypes, group, generator, device):
    """Weights of the heads after training, and for each epoch those of the heads."""
    first, epochs = leaders[0], []
    heads = _new_heads(leaders, device)
    targets = as_tensor(first._space.transform(prototypes), device)
    sampler = first._new_sampler(torch.from_numpy(group), generator)
    optimizer = Optimizer(
        first.solver,
        [
            (heads.parameters_of(equal), *rate_and_decay)
            for equal, rate_and_decay in runs(
                (leader.learning_rate_init, leader.weight_decay) for leader in leaders
            )
        ],
        momentum=first.momentum,
        schedule=first._schedule(first.max_iter * sampler.n_batches),
    )
    trainee = Trainee(
        heads,
        fused_objective(leaders, targets),
        tf32=first.matmul_precision == "tf32",
    )
    x = place_features(scaled, device, first._product_dtype)
    of_row = torch.from_numpy(group).to(device)
    for _ in range(first.max_iter):
        batches = sampler.epoch(device)
        epochs.append(run_epoch(trainee, optimizer, x, of_row, batches))
    return heads.arrays(), epochs


class _Remembering:
    """A feature side that answers once: candidates are asked about the same rows.

    Of very many rows it remembers the first.
    """

    def __init__(self, side):
        self.spread, self.weights = side.spread, side.weights
        self._similarities, self._answers = side.similarities, {}

    def similarities(self, X, V):
        key = joblib.hash((X, V))
        answer = self._answers.get(key)
        if answer is None:
            answer = self._similarities(X, V)
            kept = sum(one.nbytes for one in list(self._answers.values()))
            if kept + answer.nbytes <= ANSWER_BYTES:
                self._answers[key] = answer
        return answer.copy()  # who asks may write into it


def _check_epochs(regressor, epochs):
    """Record epochs, or raise what a fit alone raises."""
    for number, epoch in enumerate(epochs):
        if not math.isfinite(epoch.loss):
            where = f"the loss is {epoch.loss} in epoch {number + 1}"
            raise ValueError(regressor._diverged(where))
        regressor._record(epoch)
    if not all(np.isfinite(coef).all() for coef in regressor.coefs_):
        raise ValueError(regressor._diverged("the weights are no longer finite"))
    regressor.loss_ = regressor.loss_curve_[-1]


def _new_heads(regressors, device):
    return Heads(
        [(regressor.coefs_, regressor.intercepts_) for regressor in regressors],
        dropout=[regressor.dropout for regressor in regressors],
        seed=regressors[0]._seed,
        device=device,
        product_dtype=regressors[0]._product_dtype,
    )


def _regressor_of(estimator):
    if isinstance(estimator, ZeroShotClassifier):
        if estimator.regressor is None:
            return ReZSLRegressor(random_state=0)
        return estimator.regressor
    return estimator


def _likeness(estimator):
    """A key: what feature sides hang on, what heads side by side have in common.

    None in the second place stands for an estimator that has to be trained alone.
    """
    regressor = _regressor_of(estimator)
    seed = regressor.random_state
    known = isinstance(seed, Integral)
    # Tables by their content: clones hold copies.
    table = joblib.hash(getattr(estimator, "class_attributes", None))
    side = int(seed) if known else None, str(regressor.feature_scaling), table
    alone = (
        # A subclass has another network, or another fit.
        type(regressor) is not ReZSLRegressor
        or type(estimator) not in (ReZSLRegressor, ZeroShotClassifier)
        # Who watches a fit watches one.
        or any(getattr(one, "_skl_callbacks", ()) for one in (estimator, regressor))
        or not known
        or not regressor._is_fused
        or regressor.early_stopping
        or regressor.warm_start
        or regressor.verbose
        or getattr(estimator, "seen_penalty", 0) == "auto"
        or not all(_is_scalar(getattr(regressor, name)) for name in OF_EACH)
    )
    if alone:
        return side, None
    values = (getattr(regressor, name) for name in SHARED)
    shared = tuple(tuple(v) if isinstance(v, Iterable) else v for v in values)
    return side, shared


def _settings(estimator):
    """What training sees of one of the candidates that are alike."""
    regressor = _regressor_of(estimator)
    return tuple(getattr(regressor, name) for name in OF_EACH)


def _is_scalar(value):
    return isinstance(value, str | Real)


def _sizes(estimator, X, y):
    """Rows, features, attributes and classes of the data."""
    y = np.asarray(y)
    n, *rest = X.shape if hasattr(X, "shape") else np.shape(X)
    d = math.prod(rest)  # regions have an axis of their own
    if isinstance(estimator, ZeroShotClassifier):
        K = a = len(np.unique(y))
        table = estimator.class_attributes
        if table is not None:
            a = ClassTable.of(table, what="class_attributes").attributes.shape[1]
        return n, d, a, K
    S = y.reshape(n, -1)
    return n, d, S.shape[1], len(distinct_rows(S)[0])


def heads_together(estimator, n, d, a, K):
    """How many heads of n x d data with a attributes, K classes to train at once."""
    regressor = _regressor_of(estimator)
    hidden = list(regressor.hidden_layer_sizes)
    sizes = [d, *hidden, a]
    n_parameters = sum(
        (n_in + 1) * n_out for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True)
    )
    batch = regressor.batch_size
    batch = auto_batch_size(n) if batch == "auto" else min(batch, n)
    # Weights, gradients and two moments; activations, masks and gradients of the
    # hidden layers, errors and scores.
    numbers = 4 * n_parameters + batch * (3 * sum(hidden) + 4 * a + 2 * K)
    available = CPU_BYTES
    device = resolve_device(regressor.device, np.dtype(np.float32))
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0] // 4
    return max(1, available // (4 * numbers))
