"""ReZSLRegressor: scikit-learn's contract around the training loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial as partial_function
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import (
    BaseEstimator,
    MultiOutputMixin,
    RegressorMixin,
    _fit_context,
)
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from ._arrays import plain
from ._atomic import all_or_nothing
from ._blocks import (
    IN_MEMORY_BYTES,
    Rows,
    Sample,
    blocks,
    check_source,
    in_dtype,
    open_rows,
    sample_size,
    working_dtype,
)
from ._feature_side import FeatureSide
from ._grouping import distinct_rows
from ._heads import Heads, forward_arrays, initial_arrays
from ._interrupts import model_kept
from ._sampling import StreamSampler
from ._scaling import (
    AttributeSpace,
    FeatureScaling,
    class_sums,
    power_of_two,
    unit_rows,
    varies,
)
from ._training import (
    FusedObjective,
    Objective,
    Optimizer,
    Sampler,
    Stopping,
    Trainee,
    as_tensor,
    auto_batch_size,
    epochs,
    held_out_score,
    make_loss,
    memory_in_a_sentence,
    one_cycle,
    place_features,
    resolve_device,
    state_to_numpy,
    state_to_torch,
    usual_torch,
)
from .decoding import (
    equal_columns,
    highest,
    prototype_scorer,
    prototype_scores,
    score_rows,
)
from .tables import ClassTable, attribute_rows, column_names, in_column_order

if TYPE_CHECKING:
    import pandas

# Parameters that figures and reports of a fitted regressor read.
SHOWN = (
    "attribute_scaling",
    "loss",
    "class_power",
    "attribute_power",
    "normalize_weights",
)
PREDICT_ROWS = 8192  # rows predicted at a time: the hidden layer stays small


class ReZSLRegressor(
    CallbackSupportMixin, MultiOutputMixin, RegressorMixin, BaseEstimator
):
    r"""Attribute regressor that treats every class and attribute fairly.

    A linear map or MLP from features to the attributes of the sample's class,
    trained under ReMSE (:class:`rezsl_sk.losses.ReMSELoss`), beside a
    cross-entropy over the training classes:

    .. math::
        w_r\,\mathrm{ReMSE}(\hat s, s)
        + w_c\,\mathrm{CE}(\gamma\cos(\hat s, \text{seen prototypes})).

    Given the prototypes of any classes, it names the best-scoring one, also a
    class that no sample was seen of.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(512,)
        Units of the hidden layers (LeakyReLU, slope 0.1). ``()`` is a linear
        map.

    loss : {"remse", "mse", "mae", "rmse", "bmc"}, default="remse"
        Regression loss. "bmc" is Balanced MSE with a learnable noise. The next
        four parameters belong to "remse".

    class_power, attribute_power : float, default=1.0
        Powers of the comparison between classes and between attributes; 0
        switches one off, both 0 is plain MSE.

    statistics : {"batch", "running"}, default="batch"
        Whether errors are compared within a batch, or with the latest batch of
        every class.

    normalize_weights : bool, default=True
        Whether weights are divided by their mean, so that the powers do not
        change the size of the loss beside the classification term. The paper's
        setting is False.

    regression_weight : float, default=1.0
        Weight of the regression loss.

    classification_weight : float, default=1.0
        Weight of the cross-entropy. It is left out where it has no meaning:
        with one attribute, one class, or targets that are no class table (more
        distinct rows than half the samples).

    scale : float, default=10.0
        Inverse temperature of the cross-entropy's cosines.

    attribute_scaling : {"standard", "center", "l2"} or None, default="standard"
        Space of training and decoding, fitted on the distinct rows of S, one
        vote per class. "standard": mean 0 and standard deviation 1 per
        attribute; "center": mean 0; "l2": rows of targets and of predictions
        have length 1, as in the paper; None: as given.

    feature_scaling : {"standard", "l2"} or None, default="l2"
        What is done to the features first, by the statistics of the training
        rows. "l2": centred and each row brought to the length sqrt(d);
        "standard": mean 0 and standard deviation 1 per feature, for features
        in different units; None: nothing.

    feature_weight : float, default=0.67
        Share, in [0, 1], of the feature side in the score of a class. 0: the
        paper's decoding, by predicted attributes alone. See Notes.

    dropout : float, default=0.5
        Probability of dropping a hidden unit.

    solver : {"adamw", "sgd"}, default="adamw"
        Optimiser.

    learning_rate : {"one_cycle", "constant"}, default="one_cycle"
        Schedule over the ``max_iter`` epochs of a fit. ``partial_fit`` knows no
        end and uses a constant rate.

    learning_rate_init : float, default=3e-3
        Learning rate, the peak of a one-cycle schedule.

    weight_decay : float, default=1e-4
        Decoupled ("adamw") or L2 ("sgd") decay of the weights, per step.

    momentum : float, default=0.9
        Momentum of "sgd".

    batch_size : int or "auto", default="auto"
        Samples per step. "auto": 256, less for small data, so that an epoch
        has at least 16 steps.

    sampler : {"shuffle", "episodes"}, default="shuffle"
        "shuffle": every sample once an epoch. "episodes": each batch has
        `shots` samples (drawn with replacement) of each of `ways` classes.

    ways, shots : int, default=16 and 4
        Size of an episode.

    max_iter : int, default=20
        Epochs.

    early_stopping : bool, default=False
        Hold out `validation_fraction` of the *classes* (held-out rows of
        trained classes would track the wrong thing), stop when their zero-shot
        accuracy does not improve by `tol` for `n_iter_no_change` epochs, and
        keep the best weights.

    validation_fraction : float, default=0.2
        Share of the classes that `early_stopping` holds out, at least 2.

    n_iter_no_change : int, default=5
        See `early_stopping`.

    tol : float, default=1e-4
        See `early_stopping`.

    warm_start : bool, default=False
        Whether ``fit`` starts from the weights (and the attribute scaling) of
        the last one.

    device : str, default="auto"
        Where to train: "auto" (CUDA if there is one, else the CPU), "cpu",
        "cuda", "cuda:1", "mps". The fitted model lives in NumPy arrays and
        predicts anywhere.

    matmul_precision : {"full", "tf32", "bfloat16"}, default="full"
        Precision of the head's matrix products in training; weights, errors and
        optimiser keep that of X, and so does prediction. "bfloat16" (8 bits) is
        for GPUs, and for CPUs with instructions for it; "tf32" (11 bits) for
        NVIDIA's GPUs, elsewhere it is "full". TF32 is a setting of the process: during
        a step, products of your own in other threads have it, too.

    random_state : int, RandomState or None, default=None
        Of starting weights, batches, dropout and held-out classes. The same
        seed gives the same bits on the same CPU with the same number of
        threads.

    verbose : bool, default=False
        Whether to print a line per epoch.

    Attributes
    ----------
    prototypes_ : ndarray of shape (K, a)
        Attributes of the training classes in the units of S: its distinct
        rows, sorted. Shape (0, a) where S is no class table.

    error_matrix_ : ndarray of shape (K, a)
        Mean squared error of each training class on each attribute after
        training, in the space of training; NaN for constant attributes.

    constant_attributes_ : ndarray of int
        Attributes that have one value over all training classes. They carry no
        signal: they take no part in loss or decoding and are predicted as that
        value.

    attribute_offset_, attribute_scale_ : ndarrays of shape (a,)
        Training space: (S - offset) / scale.

    feature_offset_, feature_scale_ : ndarrays of shape (d,)
        What `feature_scaling` subtracts and divides by.

    attribute_names_ : ndarray of str, shape (a,), or None
        Columns of S where it was a DataFrame, unless they are 0, 1, 2, ...

    coefs_ : list of ndarray, the l-th of shape (n_in_l, n_out_l)
        Weights, in the space of training.

    intercepts_ : list of ndarray, the l-th of shape (n_out_l,)
        Biases.

    feature_weight_ : float
        The weight in use: `feature_weight` at the time of fit. Another value in
        [0, 1] changes the answers without a new fit, if fit had a feature side.

    validation_classes_ : ndarray of int
        Rows of `prototypes_` that early stopping held out.

    validation_scores_ : list of float
        Their zero-shot accuracy after each epoch (minus the mean squared error
        where S is no class table). Empty without early stopping.

    loss_curve_, regression_loss_curve_, classification_loss_curve_ : list of float
        Objective and its two unweighted terms, mean over each epoch.

    weight_curve_ : ndarray of shape (n_epochs, a)
        Mean weight that ReMSE gave each attribute in each epoch, one vote per
        sample; NaN for constant attributes. Shape (0, a) for other losses.

    loss_ : float
        Last objective.

    n_iter_ : int
        Epochs run.

    device_ : str
        Where it was trained.

    feature_source_ : dict or None
        Of a ``FeatureCache``: the network, its weights and the transform that made
        its features. A cache of others is refused when it is to be predicted.

    n_features_in_ : int
        Number d of features.

    feature_names_in_ : ndarray of shape (d,)
        Columns of X where it was a DataFrame.

    Notes
    -----
    A class is scored from two sides. The attribute side is the cosine of the
    predicted attributes with the prototype, in the space of training. The
    feature side is the cosine of the (widened) features with weights that a
    closed form makes from the class's attributes, as ESZSL does: few attributes
    cannot carry all that features know. With weight w of the second,

    .. math::
        (1 - w) \cos(\hat s, s) + w\, u \cos(f(x), v(s)),

    where u brings the second to the spread of the first on training rows, and
    the second is a mean over three draws of what widens the features. The
    feature side knows nothing of the loss: with ``feature_weight=0`` everything
    is ReMSE's.

    A plain ``KFold`` is a trap here: rows of a class fall on both sides and
    nothing is zero-shot. Use :class:`rezsl_sk.model_selection.ClassKFold` with
    ``scoring=zero_shot_scorer``. ``score`` is R².

    Ctrl-C ends the training of a fit of your own, with a warning, and keeps the weights
    reached so far. In a fit that serves a search, a meta-estimator or a job of joblib
    it ends the whole.

    Rows of a file of more than 1 GiB stay there. Each epoch reads all of them, in
    short runs in random order, of which a buffer of 256 MiB is mixed at a time;
    "episodes" draw from that buffer. A sample of 64 MiB of rows stands for all
    where the feature side centres features, weighs the evidence that chooses its
    penalties, and measures spreads (its weights come from all rows), and another
    of as many rows of each held-out class for early stopping. Callbacks see the
    estimator but no rows.

    References
    ----------
    Ye, Yang, Jin, Liu, Huang: Rebalanced Zero-shot Learning. IEEE Transactions
    on Image Processing, 2023. arXiv:2210.07031.

    Examples
    --------
    >>> from rezsl_sk import ReZSLRegressor
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> X, S = data.X[data.trainval], data.attributes[data.labels[data.trainval]]
    >>> reg = ReZSLRegressor(random_state=0).fit(X, S)
    >>> unseen = data.unseen_classes
    >>> names = reg.predict(
    ...     data.X[data.test_unseen],
    ...     prototypes=data.attributes[unseen],
    ...     classes=data.class_names[unseen],
    ... )
    >>> bool((names == data.y[data.test_unseen]).mean() > 0.3)  # chance: 0.1
    True
    """

    _streams = True  # large files stay on the disk

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like"],
        "loss": [StrOptions({"remse", "mse", "mae", "rmse", "bmc"})],
        "class_power": [Interval(Real, 0, None, closed="left")],
        "attribute_power": [Interval(Real, 0, None, closed="left")],
        "statistics": [StrOptions({"batch", "running"})],
        "normalize_weights": ["boolean"],
        "regression_weight": [Interval(Real, 0, None, closed="left")],
        "classification_weight": [Interval(Real, 0, None, closed="left")],
        "scale": [Interval(Real, 0, None, closed="neither")],
        "attribute_scaling": [StrOptions({"standard", "center", "l2"}), None],
        "feature_scaling": [StrOptions({"standard", "l2"}), None],
        "feature_weight": [Interval(Real, 0, 1, closed="both")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "solver": [StrOptions({"adamw", "sgd"})],
        "learning_rate": [StrOptions({"one_cycle", "constant"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "sampler": [StrOptions({"shuffle", "episodes"})],
        "ways": [Interval(Integral, 1, None, closed="left")],
        "shots": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str],
        "matmul_precision": [StrOptions({"full", "tf32", "bfloat16"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (512,),
        *,
        loss: Literal["remse", "mse", "mae", "rmse", "bmc"] = "remse",
        class_power: float = 1.0,
        attribute_power: float = 1.0,
        statistics: Literal["batch", "running"] = "batch",
        normalize_weights: bool = True,
        regression_weight: float = 1.0,
        classification_weight: float = 1.0,
        scale: float = 10.0,
        attribute_scaling: Literal["standard", "center", "l2"] | None = "standard",
        feature_scaling: Literal["standard", "l2"] | None = "l2",
        feature_weight: float = 0.67,
        dropout: float = 0.5,
        solver: Literal["adamw", "sgd"] = "adamw",
        learning_rate: Literal["one_cycle", "constant"] = "one_cycle",
        learning_rate_init: float = 3e-3,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        batch_size: int | Literal["auto"] = "auto",
        sampler: Literal["shuffle", "episodes"] = "shuffle",
        ways: int = 16,
        shots: int = 4,
        max_iter: int = 20,
        early_stopping: bool = False,
        validation_fraction: float = 0.2,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        warm_start: bool = False,
        device: str = "auto",
        matmul_precision: Literal["full", "tf32", "bfloat16"] = "full",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.loss = loss
        self.class_power = class_power
        self.attribute_power = attribute_power
        self.statistics = statistics
        self.normalize_weights = normalize_weights
        self.regression_weight = regression_weight
        self.classification_weight = classification_weight
        self.scale = scale
        self.attribute_scaling = attribute_scaling
        self.feature_scaling = feature_scaling
        self.feature_weight = feature_weight
        self.dropout = dropout
        self.solver = solver
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.batch_size = batch_size
        self.sampler = sampler
        self.ways = ways
        self.shots = shots
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.device = device
        self.matmul_precision = matmul_precision
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit the attribute regressor.

        Parameters
        ----------
        X : array-like of shape (n, d), or a file of features
            Features. float64 is fitted and predicted in float64, everything
            else in float32. A :class:`~rezsl_sk.feature_cache.FeatureCache`,
            its ``X``, an h5py data set or a memory map of more than 1 GiB is
            not read into memory; see Notes of the class.

        y : array-like of shape (n, a) or (n,)
            S: row i is the attribute vector of sample i's class, in its own
            units; the distinct rows are the classes. (scikit-learn requires
            the name y.) Beside an X that stays in its file it may be an h5py
            data set or a memory map, too.

        Returns
        -------
        self : ReZSLRegressor

        Raises
        ------
        ValueError
            If X or S has missing or infinite values or their shapes do not
            agree, if a parameter is out of range, if early stopping is asked
            for with fewer than 4 classes, or if the loss is no longer finite.

        CacheError
            If a file of features is damaged, cut short or closed.

        MemoryError
            If the accelerator's memory does not suffice.
        """
        resume = self.warm_start and hasattr(self, "coefs_")
        check_source(self, X, reset=not resume)
        X = open_rows(X, stream=self._streams)
        if isinstance(X, Rows):
            X = self._check_X(X, reset=True)
            return self._fit(X, None, *self._read_classes(X, y))
        X, S = self._check_X_S(X, y, reset=True)
        return self._fit(X, S, *distinct_rows(S))

    def fit_classes(self, X, group, attributes, attribute_names=None):
        """Learn from the seen classes; see ``rezsl_sk._scorers``."""
        X, S, prototypes = self._class_data(X, group, attributes, attribute_names)
        return self._fit(X, S, prototypes, group, is_table=True)

    def scorer(self, attributes, names=None):
        """Score any classes by their attributes; see ``rezsl_sk._scorers``."""
        score = self._scorer(attributes, names)
        return lambda X: score(self._in_working_dtype(X, False))

    def _class_data(self, X, group, attributes, attribute_names):
        """Checked features, and attributes of rows (or None) and classes."""
        X = self._check_X(X, reset=True)
        self._y_ndim, self.attribute_names_ = 2, attribute_names
        prototypes = in_own_precision(attributes, X.dtype)
        # A row of attributes for each sample takes many times the memory of X where
        # attributes are many, and nobody but callbacks looks at them.
        S = None
        if getattr(self, "_skl_callbacks", None) and not isinstance(X, Rows):
            S = prototypes[group]
        # One number per class: two classes with equal attributes stay two.
        return X, S, prototypes

    @with_callbacks
    @usual_torch()
    def _fit(self, X, S, prototypes, group, *, is_table=None):
        """Fit on checked arrays; `group` (n,) gives the row of `prototypes`.

        The classifier calls this with its own grouping, so that two classes
        with equal attributes stay two. S is shown to callbacks and may be None.
        """
        trained, generator = self._begin(X, S, prototypes, group, is_table)
        scaled = self._features.transform(X)
        shown = shown_to_callbacks(X, S)
        self._train(shown, scaled, prototypes, group, trained, generator)
        self._finish(scaled, prototypes, group, trained)
        return self

    def _begin(self, X, S, prototypes, group, is_table=None):
        """All before the first step; which classes to train on, and a generator."""
        self._side = None
        self._start_run(is_table, prototypes, group)
        resume = self.warm_start and hasattr(self, "coefs_")
        if resume:
            self._check_same_shapes(X, prototypes)
        random_state = check_random_state(self.random_state)
        self._seed = int(random_state.randint(np.iinfo(np.int32).max))
        generator = torch.Generator().manual_seed(self._seed)
        trained = np.ones(len(prototypes), dtype=bool)
        if self.early_stopping:
            trained = self._hold_out(len(prototypes), generator)
        self.validation_classes_ = np.flatnonzero(~trained)
        if isinstance(X, Rows):
            scaling = self._first_pass(X, group, trained)
        elif not resume:
            mine = X if trained.all() else X[trained[group]]
            scaling = self._new_scaling().fit(mine)
        if not resume:
            self._set_scaling(scaling, prototypes[trained])
            varied = not trained.all() and varies(prototypes, X.dtype).any()
            if varied and not len(self._space.varying):
                raise ValueError(
                    "no class can be told from another: every attribute has one value "
                    f"over the {trained.sum()} of {len(trained)} training classes that "
                    "early_stopping=True left. Lower validation_fraction, set another "
                    "random_state or early_stopping=False."
                )
            self._initialise(X.shape[1], X.dtype, generator)
        self.prototypes_ = prototypes if self._is_table else prototypes[:0]
        return trained, generator

    def _finish(self, scaled, prototypes, group, trained, side=None):
        """Everything after the last step, from scaled rows (n, d).

        `side` is the feature side, if these rows, scaling and seed have had one: it
        does not depend on what the head was trained for.
        """
        outputs = None
        if self._is_table and not isinstance(scaled, Rows):
            outputs = self._outputs(scaled, scaled=True)
        n_classes = len(self.prototypes_)
        self.error_matrix_ = self._errors(scaled, prototypes, group, n_classes, outputs)
        self._fit_feature_side(scaled, prototypes, group, trained, outputs, side)
        self.__dict__.pop("_state", None)

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    @usual_torch()
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        prototypes: ArrayLike | pandas.DataFrame | None = None,
    ) -> Self:
        """One epoch over a part of the data, at a constant learning rate.

        The scaling of features and attributes is that of the first call and
        stays. The feature side needs all rows at once: after ``partial_fit``
        classes are named by their attributes alone, as with
        ``feature_weight=0``.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features, in memory.

        y : array-like of shape (n, a) or (n,)
            S, the attributes of each sample's class.

        prototypes : DataFrame or array-like of shape (K, a), or None
            Attributes of all training classes, for the first call (as
            `classes` in scikit-learn's classifiers). Without it the distinct
            rows of the first S fix the scaling; later ones are added to
            `prototypes_`. Where these are more than half of the first rows, S
            is taken for no class table, then and later: a small first part
            needs `prototypes`.

        Returns
        -------
        self : ReZSLRegressor

        Raises
        ------
        ValueError
            As :meth:`fit`; also with ``early_stopping=True``, which needs all
            classes at once, if X or S has another width than before, or if no
            attribute varies in the first call.
        """
        if self.early_stopping:
            raise ValueError(
                "partial_fit does not support early_stopping=True: it sees only a "
                "part of the classes. Set early_stopping=False."
            )
        first = not hasattr(self, "coefs_")
        check_source(self, X, reset=first)
        X = open_rows(X, stream=self._streams)
        if isinstance(X, Rows):
            raise ValueError(
                f"partial_fit takes rows in memory, but X is a file of {X.shape[0]} x "
                f"{X.shape[1]}. Give a part of it, X[start:stop], or use fit, which "
                "reads files of any size as it goes."
            )
        X, S = self._check_X_S(X, y, reset=first)
        if not first:
            self._check_same_shapes(X, S)
        known = None if first else self.prototypes_
        if prototypes is not None:
            given = self._read_prototypes(prototypes, S.shape[1]).attributes
            known = distinct_rows(given.astype(S.dtype), known)[0]
        # Rows keep their numbers from call to call: the running statistics of
        # the loss are kept by number.
        table, group = distinct_rows(S, known)
        if first:
            self._start_run(True if prototypes is not None else None, table, group)
            random_state = check_random_state(self.random_state)
            self._seed = int(random_state.randint(np.iinfo(np.int32).max))
            generator = torch.Generator().manual_seed(self._seed)
            self._set_scaling(self._new_scaling().fit(X), table)
            if S.shape[1] > 1 and not len(self._space.varying):
                raise ValueError(
                    "the first call of partial_fit settles which attributes vary, and "
                    "its S has one value in each. Give it rows of several classes, or "
                    "prototypes=, the attributes of all training classes."
                )
            self._initialise(X.shape[1], X.dtype, generator)
            self.validation_classes_ = np.empty(0, dtype=np.intp)
            self.error_matrix_ = np.empty((0, S.shape[1]), dtype=X.dtype)
        else:
            generator = torch.Generator().manual_seed(self._seed)
        if "_state" in self.__dict__:
            generator.set_state(torch.from_numpy(self._state["generator"].copy()))
        self.prototypes_ = table if self._is_table else table[:0]
        trained = np.ones(len(table), dtype=bool)
        scaled = self._features.transform(X)
        self._train({}, scaled, table, group, trained, generator, partial=True)
        errors = self._errors(scaled, table, group, len(self.prototypes_))
        here = ~np.isnan(errors).all(axis=1)
        merged = np.full_like(errors, np.nan)
        merged[: len(self.error_matrix_)] = self.error_matrix_
        merged[here] = errors[here]
        self.error_matrix_ = merged
        # Its closed form needs all rows at once.
        self._side = None
        return self

    def predict(
        self,
        X: ArrayLike,
        prototypes: ArrayLike | pandas.DataFrame | None = None,
        classes: ArrayLike | None = None,
    ) -> np.ndarray:
        """Attributes of samples or, given prototypes, their classes.

        Parameters
        ----------
        X : array-like of shape (n, d), or a file of features
            As in :meth:`fit`. To predict into a file see
            :func:`rezsl_sk.streaming.predict_to_hdf5`.

        prototypes : ClassTable, DataFrame, (classes, matrix), dict, array (k, a), or \
                None
            Attributes of the candidate classes in the units of S: any classes,
            seen or not; what :meth:`rezsl_sk.tables.ClassTable.of` takes. The
            columns of a DataFrame are matched by the names in fit.

        classes : array-like of shape (k,) or None, default=None
            Names of the candidates. None: those of the table, or row numbers. A
            table that names its classes has to name the same ones.

        Returns
        -------
        S_hat : ndarray of shape (n, a), or (n,) if S was 1-D
            Without prototypes: predicted attributes in the units of S. With
            ``attribute_scaling="l2"`` lengths are not learnt; rows get the
            mean length of the training prototypes.

        names : ndarray of shape (n,)
            With prototypes: the class with the highest score (see Notes of the
            class).

        Raises
        ------
        ValueError
            If X has missing values or another width than in fit, or a
            prototype is missing values, of another width, or equal
            to the mean of the training prototypes (it then has no direction).
        """
        check_is_fitted(self)
        if prototypes is None:
            if classes is not None:
                raise ValueError(
                    "classes were given without prototypes; give both, or neither to "
                    "predict attributes."
                )
            S_hat = self._from_space(self._outputs(self._check_X(X)))
            return S_hat[:, 0] if self._y_ndim == 1 else S_hat
        names, columns, rank = self._ranking(prototypes, classes)
        X = self._check_X(X)
        best = np.empty(len(X), dtype=np.intp)
        n_rows = min(self._rows_at_once, score_rows(len(columns)))
        for rows, block in blocks(X, n_rows):
            best[rows] = rank(block, 1)[0][:, 0]
        return best if names is None else names[best]

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """R² of the predicted attributes, the mean over attributes.

        Zero-shot accuracy is a scorer: see Notes of the class.

        Parameters
        ----------
        X : array-like of shape (n, d), or a file of features
            As in :meth:`predict`.

        y : array-like of shape (n, a) or (n,)
            S. The columns of a DataFrame are matched by the names in fit.

        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the samples.

        Returns
        -------
        score : float
            At most 1.
        """
        check_is_fitted(self)
        y = attribute_rows(in_column_order(y, self.attribute_names_, "S"))
        # R² has no unit; squares must neither over- nor underflow.
        unit = power_of_two(np.abs(y).max(axis=0, initial=0))
        predicted = self.predict(X).astype(np.float64) / unit
        return r2_score(y / unit, predicted, sample_weight=sample_weight)

    # ---- the checked way in -------------------------------------------------

    def _check_X_S(self, X, y, reset):
        y, names = self._matched_columns(plain(y, "S"), reset)
        X, S = validate_data(self, X, y, reset=reset, multi_output=True, y_numeric=True)
        if hasattr(S, "toarray"):
            S = S.toarray()
        _check_numbers(S)
        X = self._in_working_dtype(X, reset)
        if reset:
            self._y_ndim = S.ndim
            self.attribute_names_ = names
        return X, in_own_precision(S, X.dtype)

    def _matched_columns(self, S, reset):
        """S with its columns as in the last fit, if that goes on, and their names."""
        if reset and not (self.warm_start and hasattr(self, "coefs_")):
            return S, column_names(S, "S")
        return in_column_order(S, self.attribute_names_, "S"), self.attribute_names_

    def _check_X(self, X, reset=False):
        check_source(self, X)
        X = open_rows(X, stream=self._streams)
        if isinstance(X, Rows):
            # Their values are checked when they are read.
            validate_data(self, np.zeros((1, X.shape[1])), reset=reset)
        else:
            X = validate_data(self, X, reset=reset)
        return self._in_working_dtype(X, reset)

    def _read_classes(self, X, y):
        """Distinct rows of S and the number of each row's one; S may be a file.

        Never holds S twice, nor at all where it is a file.
        """
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is "
                "None; give S, the attributes of each sample's class."
            )
        y, self.attribute_names_ = self._matched_columns(y, reset=True)
        y = open_rows(y, what="S")
        if not isinstance(y, Rows):
            y = validate_data(self, y=y, multi_output=True, y_numeric=True)
            _check_numbers(y)
        self._y_ndim = y.ndim
        check_consistent_length(X, y)
        table, group = None, np.empty(len(X), dtype=np.int32)
        for rows, S in blocks(y, PREDICT_ROWS):
            S = in_own_precision(S, X.dtype)
            table, group[rows] = distinct_rows(S, table)
            if table.nbytes > IN_MEMORY_BYTES:
                raise ValueError(
                    f"S has {len(table)} distinct rows and more: no table of classes, "
                    "for which X must be in memory."
                )
        table, number = distinct_rows(table)
        return table, number.astype(np.int32)[group]

    def _first_pass(self, X, group, trained):
        """Check all rows of a file; the scaling by those of trained classes.

        Keeps in ``X.sample`` rows of trained classes, each as likely to be there,
        and in ``X.held_out`` rows of the others, as many of each class as fit.
        """
        rng = np.random.default_rng(self._seed)
        mine = trained[group]
        size = sample_size(X)
        X.sample = Sample(_some(np.flatnonzero(mine), size, rng), X)
        rows = rng.permutation(np.flatnonzero(~mine))
        rows = rows[np.argsort(group[rows], kind="stable")]
        count = np.bincount(group[rows], minlength=len(trained))
        nth = np.arange(len(rows)) - (np.cumsum(count) - count)[group[rows]]
        most = max(1, size // max(1, int((~trained).sum())))
        X.held_out = Sample(np.sort(rows[nth < most]), X)

        def passing():
            for part, block in X.blocks(PREDICT_ROWS):
                X.sample.take(part, block)
                X.held_out.take(part, block)
                yield block if trained.all() else block[mine[part]]

        scaling = self._new_scaling()
        scaling.fit_blocks(passing(), X.shape[1], X.dtype)
        X.checked = True
        return scaling

    def _in_working_dtype(self, X, reset):
        if (self.warm_start or not reset) and hasattr(self, "coefs_"):
            dtype = self.coefs_[0].dtype
        else:
            dtype = np.dtype(working_dtype(X))
        return in_dtype(X, dtype)

    def _check_same_shapes(self, X, S):
        """X (n, d) and S, or a table (K, a), must fit the weights there are."""
        expected = (self.n_features_in_, len(self.attribute_offset_))
        if (X.shape[1], S.shape[1]) != (self.coefs_[0].shape[0], expected[1]):
            raise ValueError(
                f"X has {X.shape[1]} features and S {S.shape[1]} attributes, but the "
                f"model to go on with has {self.coefs_[0].shape[0]} and {expected[1]}."
            )
        hidden = tuple(coef.shape[1] for coef in self.coefs_[:-1])
        if hidden != tuple(self.hidden_layer_sizes):
            raise ValueError(
                f"hidden_layer_sizes is {tuple(self.hidden_layer_sizes)}, but the "
                f"model to go on with has {hidden}; set it back, or fit a new one."
            )

    def _start_run(self, is_table, prototypes, group):
        sizes = tuple(self.hidden_layer_sizes)
        if not all(isinstance(size, Integral) and size > 0 for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must hold positive whole numbers, such as (512,), "
                f"or be () for a linear map; got {self.hidden_layer_sizes!r}."
            )
        if not (self.regression_weight or self.classification_weight):
            raise ValueError(
                "regression_weight and classification_weight are both 0: nothing is "
                "left to train for. Set one above 0."
            )
        if is_table is None:
            is_table = len(prototypes) <= len(group) / 2
        self._is_table = bool(is_table)
        weights = "classification_weight", "feature_weight"
        lost = not self._is_table and min(prototypes.shape) > 1
        self._without_effect = {
            name: getattr(self, name)
            for name in weights
            if lost and getattr(self, name)
        }
        # What predictions read: `set_params` after fit must not change them.
        self.feature_weight_, self._scale = self.feature_weight, self.scale
        self._fitted_with = {name: getattr(self, name) for name in SHOWN}

    def _warn_of_no_table(self):
        """Say what was lost where rows were too different to be classes."""
        lost = [f"{name}={weight:g}" for name, weight in self._without_effect.items()]
        if lost:
            warnings.warn(
                "this regressor is asked for classes, but was fitted on an S with more "
                "distinct rows than half of the samples, taken for continuous targets: "
                f"{' and '.join(lost)} had no effect. If rows were classes of a sample "
                "or two, use ZeroShotClassifier, which is told the classes; if not, "
                "set these parameters to 0.",
                stacklevel=4,
            )

    def _hold_out(self, n_classes, generator):
        n_held_out = max(2, round(self.validation_fraction * n_classes))
        if n_classes - n_held_out < 2:
            raise ValueError(
                f"early_stopping=True would hold out {n_held_out} of {n_classes} "
                "classes; at least 2 must be held out and 2 left for training. Lower "
                "validation_fraction or set early_stopping=False."
            )
        trained = np.ones(n_classes, dtype=bool)
        trained[torch.randperm(n_classes, generator=generator)[:n_held_out]] = False
        return trained

    # ---- the space of training ----------------------------------------------

    def _set_scaling(self, features, prototypes):
        self._features = features
        self.feature_offset_, self.feature_scale_ = (
            self._features.offset,
            self._features.scale,
        )
        self._space = AttributeSpace(self.attribute_scaling)
        self._space.fit(prototypes, features.offset.dtype)
        self._space.check_size(prototypes)
        self.constant_attributes_ = self._space.constant
        self.attribute_offset_ = self._space.offset
        self.attribute_scale_ = self._space.scale
        self._l2 = self.attribute_scaling == "l2"
        keep = self._space.varying
        varying = prototypes[:, keep].astype(np.float64) / self._space.scale[keep]
        self._mean_length = float(np.linalg.norm(varying, axis=1).mean())

    def _new_scaling(self):
        return FeatureScaling(self.feature_scaling)

    def _from_space(self, output):
        """Outputs of the head (n, a') as attributes in the units of S."""
        if self._l2:
            output = unit_rows(output) * np.asarray(self._mean_length, output.dtype)
        return self._space.inverse_transform(output)

    def _initialise(self, n_features, dtype, generator):
        sizes = (n_features, *self.hidden_layer_sizes, len(self._space.varying))
        self.coefs_, self.intercepts_ = initial_arrays(sizes, dtype, generator)

    def _new_heads(self, device):
        """The network, with the weights of `coefs_` and `intercepts_`."""
        return Heads(
            [(self.coefs_, self.intercepts_)],
            dropout=self.dropout,
            seed=self._seed,
            device=device,
            product_dtype=self._product_dtype,
        )

    @property
    def _product_dtype(self):
        return torch.bfloat16 if self.matmul_precision == "bfloat16" else None

    # ---- training -----------------------------------------------------------

    def _train(
        self, shown, scaled, prototypes, group, trained, generator, partial=False
    ):
        """Train on scaled rows (n, d); `shown` is what callbacks are shown."""
        self._start_curves(partial)
        context = None
        if not partial:
            context = self._init_callback_context(max_subtasks=self.max_iter)
            context.call_on_fit_task_begin(estimator=self, **shown)
        self.device_ = str(resolve_device(self.device, scaled.dtype))
        if not len(self._space.varying):
            # One class, or all alike: nothing to learn but the constants.
            self.n_iter_ += 1
            self.loss_ = 0.0
            self._end_of_fit(context, shown)
            return
        try:
            with memory_in_a_sentence(self.device_, scaled.shape, self.batch_size):
                self._run(shown, scaled, prototypes, group, trained, generator, context)
        except FloatingPointError as error:
            raise ValueError(self._diverged(error)) from None
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else np.nan
        self._end_of_fit(context, shown)

    def _start_curves(self, partial=False):
        for name in ("", "regression_", "classification_"):
            curve = f"{name}loss_curve_"
            # A copy: a call that fails must not have lengthened the old one.
            setattr(self, curve, [*getattr(self, curve, [])] if partial else [])
        self.validation_scores_ = []
        if not partial or not hasattr(self, "weight_curve_"):
            self.weight_curve_ = self.attribute_offset_[np.newaxis][:0]
        self.n_iter_ = self.n_iter_ if partial and hasattr(self, "n_iter_") else 0

    def _diverged(self, error):
        unscaled = [
            f"{name}='standard'"
            for name in ("feature_scaling", "attribute_scaling")
            if getattr(self, name) is None
        ]
        return (
            f"Training diverged: {error}. Lower learning_rate_init (now "
            f"{self.learning_rate_init})"
            + (f", or set {' and '.join(unscaled)}." if unscaled else ".")
        )

    def _end_of_fit(self, context, shown):
        if context is not None:
            context.call_on_fit_task_end(
                estimator=self,
                **shown,
                reconstruction_attributes=lambda: {},
            )

    def _run(self, shown, scaled, prototypes, group, trained, generator, context):
        partial = context is None
        device = torch.device(self.device_)
        n_epochs = 1 if partial else self.max_iter
        targets = self._space.transform(prototypes)
        rows = np.flatnonzero(trained[group]) if not trained.all() else None
        number = np.cumsum(trained) - 1  # of each trained class among them
        mine = scaled if rows is None else scaled[rows]
        of_row = torch.from_numpy(number[group if rows is None else group[rows]])
        make_sampler = Sampler
        if isinstance(mine, Rows):
            # Batches bring their rows and classes along.
            make_sampler = partial_function(StreamSampler, mine)
            mine = np.empty((0, mine.shape[1]), dtype=mine.dtype)
        x = place_features(mine, device, self._product_dtype)
        objective = self._objective(as_tensor(targets[trained], device), partial)
        heads = self._new_heads(device)
        sampler = self._new_sampler(of_row, generator, make_sampler)
        # partial_fit knows no end.
        n_steps = n_epochs * sampler.n_batches
        schedule = None if partial else self._schedule(n_steps)
        parameters = heads.parameters_of(slice(None))
        groups = [(parameters, self.learning_rate_init, self.weight_decay)]
        # A loss's own parameters are not decayed. Without its term it has no gradient.
        if isinstance(objective, Objective) and self.regression_weight:
            own = list(objective.parameters())
            if own:
                groups.append((own, self.learning_rate_init, 0.0))
        optimizer = Optimizer(
            self.solver, groups, momentum=self.momentum, schedule=schedule
        )
        if partial:
            self._restore(heads, objective, optimizer)
        stopping = None
        if not trained.all():
            stopping = Stopping(n_iter_no_change=self.n_iter_no_change, tol=self.tol)
            if isinstance(scaled, Rows):
                held_rows = scaled.held_out.numbers
                held_x = self._features.transform(scaled.held_out.rows)
            else:
                held_rows = np.flatnonzero(~trained[group])
                held_x = scaled[held_rows]
            held_number = np.cumsum(~trained) - 1
            held_out = (
                as_tensor(held_x, device),
                torch.from_numpy(held_number[group[held_rows]]).to(device),
                as_tensor(targets[~trained], device),
            )
        run = epochs(
            Trainee(heads, objective, tf32=self.matmul_precision == "tf32"),
            optimizer,
            x,
            of_row.to(device),
            sampler,
            n_epochs,
        )
        with model_kept(lambda: self.n_iter_):
            while True:
                task = None
                if context is not None and self.n_iter_ < n_epochs:
                    task = context.subcontext(task_name="epoch")
                    task.call_on_fit_task_begin(estimator=self, **shown)
                epoch = next(run, None)
                if epoch is None:
                    break
                self._record(epoch)
                stop = False
                if stopping is not None:
                    # Held-out classes can be ranked only where there are classes.
                    rank = self._is_table and targets.shape[1] > 1
                    score = held_out_score(heads, *held_out, rank=rank, l2=self._l2)
                    self.validation_scores_.append(score)
                    stop = stopping.update(score, heads)
                if self.verbose:
                    self._print_epoch(epoch)
                if task is not None:
                    stop |= task.call_on_fit_task_end(
                        estimator=self,
                        **shown,
                        reconstruction_attributes=lambda: dict(
                            zip(
                                ("coefs_", "intercepts_"),
                                heads.arrays()[0],
                                strict=True,
                            )
                        ),
                    )
                if stop:
                    break
        if stopping is not None and stopping.weights is not None:
            heads.load_state_dict(stopping.weights)
        self.coefs_, self.intercepts_ = heads.arrays()[0]
        if not all(np.isfinite(coef).all() for coef in self.coefs_):
            raise FloatingPointError("the weights are no longer finite")
        if partial:
            self._state = {
                "of": self._state_is_of(),
                "optimizer": state_to_numpy(optimizer.state_dict()),
                "objective": state_to_numpy(
                    objective.state_dict() if isinstance(objective, Objective) else {}
                ),
                "generator": generator.get_state().numpy(),
                "dropout": heads.generator.get_state().cpu().numpy(),
            }

    def _classifies(self, prototypes):
        """Whether the objective has a classification term: (K, a') are trained on."""
        classify = (
            self.classification_weight > 0
            and self._is_table
            and min(prototypes.shape) > 1
        )
        if not classify and not self.regression_weight:
            raise ValueError(
                "regression_weight=0 leaves only the classification term, which needs "
                "a class table with at least 2 classes and 2 varying attributes."
            )
        return classify

    @property
    def _is_fused(self):
        """Whether the objective's gradient is written out."""
        return self.loss == "mse" or (
            self.loss == "remse" and self.statistics == "batch"
        )

    def _objective(self, prototypes, partial):
        """What the head is trained for: (K, a') are the training classes."""
        if self._is_fused:
            return fused_objective([self], prototypes)
        classify = self._classifies(prototypes)
        loss = make_loss(
            self.loss,
            class_power=self.class_power,
            attribute_power=self.attribute_power,
            statistics=self.statistics,
            normalize_weights=self.normalize_weights,
            # New classes may come with the next partial_fit.
            n_groups=None if partial else len(prototypes),
        )
        return Objective(
            loss,
            prototypes,
            regression_weight=self.regression_weight,
            classification_weight=self.classification_weight * classify,
            scale=self.scale,
            l2=self._l2,
        ).to(prototypes.device)

    def _new_sampler(self, of_row, generator, make=Sampler):
        return make(
            of_row,
            kind=self.sampler,
            batch_size=self._batch_size(len(of_row)),
            ways=self.ways,
            shots=self.shots,
            generator=generator,
        )

    def _schedule(self, n_steps):
        return one_cycle(n_steps) if self.learning_rate == "one_cycle" else None

    def _restore(self, heads, objective, optimizer):
        """Go on with optimiser, loss statistics and masks of the last call."""
        if "_state" not in self.__dict__:
            return
        # Momentum and statistics of another loss or solver are of no use.
        if self._state["of"] == self._state_is_of():
            optimizer.load_state_dict(state_to_torch(self._state["optimizer"]))
            if self._state["objective"]:
                objective.load_state_dict(state_to_torch(self._state["objective"]))
        heads.generator.set_state(torch.from_numpy(self._state["dropout"].copy()))

    def _state_is_of(self):
        return self.loss, self.statistics, self.solver

    def _batch_size(self, n):
        if self.batch_size == "auto":
            return auto_batch_size(n)
        return min(self.batch_size, n)

    def _record(self, epoch):
        self.n_iter_ += 1
        self.loss_curve_.append(epoch.loss)
        self.regression_loss_curve_.append(epoch.regression)
        self.classification_loss_curve_.append(epoch.classification)
        if epoch.weights is not None:
            row = np.full_like(self.attribute_offset_, np.nan)
            row[self._space.varying] = epoch.weights
            self.weight_curve_ = np.vstack([self.weight_curve_, row])

    def _print_epoch(self, epoch):
        line = (
            f"epoch {self.n_iter_}: loss {epoch.loss:.4f} (regression "
            f"{epoch.regression:.4f}, classification {epoch.classification:.4f})"
        )
        if self.validation_scores_:
            line += f", held-out classes {self.validation_scores_[-1]:.4f}"
        print(line, flush=True)

    def _fit_feature_side(self, scaled, prototypes, group, trained, outputs, side):
        """The side, and its unit; `outputs` (n, a') of the head, for rows in memory."""
        self._side = None
        if not (self.feature_weight and self._is_table and trained.sum() > 1):
            return
        if not len(self._space.varying):
            return
        rows = slice(None) if trained.all() else trained[group]
        number = np.cumsum(trained) - 1  # of each trained class among them
        P = prototypes[trained]
        some = None
        if isinstance(scaled, Rows):
            x = self._features.transform(scaled.sample.rows)
            some = x, number[group[scaled.sample.numbers]]
            outputs = np.concatenate(
                [
                    self._head_outputs(x[part])
                    for part in gen_batches(len(x), self._rows_at_once)
                ]
            )
        else:
            outputs = outputs[rows]
        if side is None:
            x = scaled if trained.all() else scaled[rows]
            varying = P[:, self._space.varying]
            side = FeatureSide().fit(
                self._side_input(x), number[group[rows]], varying, self._seed, some
            )
        self._side = side
        # Both sides are to spread a sample's scores over the classes alike.
        space = self._space.transform(P)
        spread = [
            prototype_scores(outputs[part], space).std(axis=1)
            for part in gen_batches(len(outputs), PREDICT_ROWS)
            if space.any(axis=1).all()
        ]
        spread = float(np.concatenate(spread).mean()) if spread else 1.0
        self._side_unit = spread / self._side.spread if self._side.spread else 1.0

    # ---- prediction ---------------------------------------------------------

    def _outputs(self, X, *, scaled=False):
        """Predictions (n, a') in the space of training, of checked or scaled X."""
        output = np.empty(
            (len(X), len(self._space.varying)), dtype=self.coefs_[0].dtype
        )
        for rows, block in blocks(X, self._rows_at_once):
            x = block if scaled else self._features.transform(block)
            output[rows] = self._head_outputs(x)
        return output

    def _head_outputs(self, x):
        return forward_arrays(x, self.coefs_, self.intercepts_)

    def _side_input(self, x):
        """What the feature side is given of scaled x (n, d)."""
        return x

    @property
    def _rows_at_once(self):
        """How many rows are scaled and predicted at a time."""
        return PREDICT_ROWS

    def _scores(self, X, prototypes, names=None):
        """Scores (n, k) of checked X for prototypes (k, a) in raw units."""
        score = self._scorer(prototypes, names)
        scores = np.empty((len(X), len(prototypes)), dtype=self.coefs_[0].dtype)
        n_rows = min(self._rows_at_once, score_rows(len(prototypes)))
        for rows, block in blocks(X, n_rows):
            scores[rows] = score(block)
        return scores

    def _scorer(self, prototypes, names=None):
        """A function from checked rows (m, d) to scores (m, k) for prototypes (k, a).

        What depends on the prototypes alone is computed once.
        """
        if not len(self._space.varying):
            raise ValueError(
                "no class can be told from another: every attribute has one value "
                "over all training classes. Fit on classes that differ."
            )
        prototypes = np.asarray(prototypes)
        space = self._space.transform(prototypes)
        self._space.check_range(space, names, self._space.dtype)
        self._space.check_directions(space, names)
        compare = prototype_scorer(space)
        if self._side is None:
            return lambda X: compare(self._finite(self._outputs(X)))
        varying = prototypes[:, self._space.varying]
        weights = self._side.weights(varying)

        def score(X):
            x = self._features.transform(X)
            by_attributes = compare(self._finite(self._head_outputs(x)))
            by_features = self._side.similarities(self._side_input(x), weights)
            by_features *= self._side_unit
            return by_attributes + self.feature_weight_ * (by_features - by_attributes)

        return equal_columns(score, varying)

    def _finite(self, output):
        return check_array(output, input_name="predictions")

    def _ranking(self, prototypes, classes):
        """Names of the candidates (None: row numbers), which are scored, the ranker.

        The last is a function from checked rows (m, d) and k to what
        :func:`~rezsl_sk.decoding.highest` says.
        """
        self._warn_of_no_table()
        table = self._read_prototypes(prototypes, len(self.attribute_offset_), classes)
        names = None if table.numbered else table.names
        score = self._scorer(table.attributes, names)
        return names, np.arange(len(table)), lambda X, k: highest(score(X), k)

    def _read_prototypes(self, prototypes, n_attributes, classes=None):
        table = ClassTable.of(prototypes, names=classes, what="prototypes")
        if table.attributes.shape[1] != n_attributes:
            raise ValueError(
                f"prototypes has {table.attributes.shape[1]} attributes, but the model "
                f"was fitted with {n_attributes}; each class needs a value for each of "
                f"them.{table.turned(n_attributes)}"
            )
        return table.with_columns_of(self.attribute_names_, what="prototypes")

    def _errors(self, scaled, prototypes, group, n_classes, outputs=None):
        """Class by attribute mean squared error in the space of training.

        Of scaled rows (n, d), whose attributes are ``prototypes[group]``; for no
        table of classes (n_classes 0) there is none.
        """
        errors = np.full((n_classes, prototypes.shape[1]), np.nan, dtype=scaled.dtype)
        if not n_classes or not len(self._space.varying):
            return errors
        targets = self._space.transform(prototypes)
        if self._l2:
            targets = unit_rows(targets)
        total = np.zeros((n_classes, len(self._space.varying)))
        for rows, block in blocks(scaled, self._rows_at_once):
            if outputs is None:
                output = self._outputs(block, scaled=True)
            else:
                output = outputs[rows]
            if self._l2:
                output = unit_rows(output)
            square = np.square(output - targets[group[rows]])
            total += class_sums(square, group[rows], n_classes)
        count = np.bincount(group, minlength=n_classes)
        present = np.flatnonzero(count)
        errors[np.ix_(present, self._space.varying)] = (
            total[present] / count[present, None]
        )
        return errors

    def __sklearn_is_fitted__(self):
        return hasattr(self, "coefs_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags


def fused_objective(regressors, prototypes):
    """The objective of regressors that are trained on the same classes (K, a')."""
    first = regressors[0]
    return FusedObjective(
        prototypes,
        powers=[
            (reg.class_power, reg.attribute_power) if reg.loss == "remse" else (0, 0)
            for reg in regressors
        ],
        normalize_weights=first.normalize_weights,
        regression_weights=[reg.regression_weight for reg in regressors],
        classification_weights=[
            reg.classification_weight * reg._classifies(prototypes)
            for reg in regressors
        ],
        scales=[reg.scale for reg in regressors],
        l2=first._l2,
    )


def _check_numbers(S):
    if S.dtype.kind not in "biuf":
        raise ValueError(
            f"S must hold numbers, the attributes of each sample's class, got "
            f"dtype {S.dtype}. To fit class labels use ZeroShotClassifier."
        )


def in_own_precision(S, dtype):
    """S as rows (n, a) of float32 or float64, within the range of X's dtype.

    In the precision it has, whatever that of X: what is cast before it is centred
    loses the differences of large values.
    """
    narrow = S.dtype.kind == "f" and S.dtype.itemsize < 8
    with np.errstate(over="ignore"):
        S = S.astype(np.float32 if narrow else np.float64, copy=False)
        S = S.reshape(len(S), -1)
        finite = np.isfinite(S.astype(dtype, copy=False)).all()
    if not finite:
        raise ValueError(
            f"S holds values beyond the range of {dtype}; rescale them, or give X "
            "in float64."
        )
    return S


def _some(rows, n, rng):
    """At most n of the row numbers, increasing."""
    if len(rows) <= n:
        return rows
    return np.sort(rng.choice(rows, n, replace=False, shuffle=False))


def shown_to_callbacks(X, S):
    """Rows in memory; those of a file are not for callbacks to score every epoch."""
    return {} if isinstance(X, Rows) else {"X": X, "y": S}
