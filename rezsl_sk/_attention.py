"""AttentionRegressor: each attribute looks for its own place among the regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

from ._blocks import check_source, open_rows
from ._regressor import ReZSLRegressor
from ._scaling import FeatureScaling, size_and_length
from .decoding import _directions

if TYPE_CHECKING:
    import pandas

BLOCK_REGIONS = 8192  # regions predicted at a time, of all samples together
START = 0.1  # size of the first values, beside that of a linear layer's weights


class AttentionRegressor(ReZSLRegressor):
    r"""Attribute regressor that attends to the regions of a picture.

    For features of the regions of a picture, as cached with ``--pool none``. Each
    attribute j has an embedding :math:`v_j`, for instance the vector that a text
    encoder gives its name. It asks every region :math:`f_r` how much it has to say,
    looks at the regions by that share, and reads its value there:

    .. math::
        p_{jr} = \operatorname{softmax}_r (v_j^\top W_1 f_r / \sqrt d), \qquad
        F_j = \sum_r p_{jr} f_r, \qquad
        \hat s_j = v_j^\top W_2 F_j + b_j.

    This is the paper's AttentionNet (DAZLE's attention) on features that stay as
    they are. The rest is :class:`ReZSLRegressor`: objective, scaling, decoding,
    feature side. Training starts at :math:`W_1 = 0`, that is from the linear
    ``ReZSLRegressor(())`` on the mean over the regions.

    Parameters
    ----------
    attribute_embeddings : DataFrame or array-like of shape (a, e), default=None
        The vectors :math:`v_j`, one row for each column of S; only their directions
        count. A DataFrame is matched by its index to the columns of S, where these
        have names. Vectors of a text encoder have much in common; take that off
        first, ``E - E.mean(axis=0)``. None: one-hot, each attribute learns its own
        query and knows nothing of the others.

    loss, class_power, attribute_power, statistics, normalize_weights
        As in :class:`ReZSLRegressor`.

    regression_weight, classification_weight, scale
        As in :class:`ReZSLRegressor`.

    attribute_scaling : {"standard", "center", "l2"} or None, default="standard"
        As in :class:`ReZSLRegressor`.

    feature_scaling : {"standard", "l2"} or None, default="l2"
        As in :class:`ReZSLRegressor`, by the statistics of the mean over the regions:
        the mean of a sample's scaled regions is its scaled mean. All regions of a
        sample are brought to size by one factor.

    feature_weight : float, default=0.67
        As in :class:`ReZSLRegressor`. The feature side is given the mean over the
        regions.

    solver, learning_rate, learning_rate_init, weight_decay, momentum
        As in :class:`ReZSLRegressor`.

    batch_size, sampler, ways, shots, max_iter
        As in :class:`ReZSLRegressor`.

    early_stopping, validation_fraction, n_iter_no_change, tol, warm_start
        As in :class:`ReZSLRegressor`.

    device, random_state, verbose
        As in :class:`ReZSLRegressor`.

    Attributes
    ----------
    n_regions_ : int
        Number r of regions of a sample.

    embeddings_ : ndarray of shape (a, e)
        The embeddings of the attributes in the order of S, rows of length 1.

    coefs_ : list of two ndarrays of shape (d, e)
        :math:`W_1^\top` and :math:`W_2^\top`, in the space of training.

    intercepts_ : list of one ndarray of shape (a',)
        b, of the attributes that are not constant.

    feature_offset_, feature_scale_ : ndarrays of shape (d,)
        What `feature_scaling` subtracts and divides by, of every region.

    n_features_in_ : int
        Number r * d of values of a sample.

    Notes
    -----
    The other attributes are those of :class:`ReZSLRegressor`, and so are ``fit``,
    ``partial_fit`` and ``predict``, but that X is of shape (n, r, d): an array, or
    the ``X`` of a :class:`~rezsl_sk.feature_cache.FeatureCache` with regions. X of
    shape (n, d) is one region for each sample; the attention is then 1.

    The paper has no :math:`\sqrt d`. It changes no optimum, but how fast keys grow
    beside values: without it attention is sharp after a few steps.

    No tensor of shape (n, a, d) is made: with keys
    :math:`K = X (E W_1)^\top / \sqrt d` and values :math:`V = X (E W_2)^\top`, both
    (n, r, a),
    :math:`\hat s_j = \sum_r \operatorname{softmax}_r(K)_{rj} V_{rj} + b_j`. A step
    still costs r times that of a linear model on pooled features.

    References
    ----------
    Ye, Yang, Jin, Liu, Huang: Rebalanced Zero-shot Learning. IEEE Transactions
    on Image Processing, 2023. arXiv:2210.07031.

    Huynh, Elhamifar: Fine-Grained Generalized Zero-Shot Learning via Dense
    Attribute-Based Attention. CVPR 2020.

    Examples
    --------
    Pictures of 3 x 3 regions. Each part that a class has shows in some region, and
    the other regions are noise:

    >>> import numpy as np
    >>> from rezsl_sk import AttentionRegressor
    >>> rng = np.random.default_rng(0)
    >>> parts = rng.normal(size=(6, 16))  # what each of 6 attributes looks like
    >>> table = np.array([[i >> j & 1 for j in range(6)] for i in range(1, 64)])
    >>> labels = np.repeat(np.arange(63), 20)
    >>> X = rng.normal(size=(len(labels), 9, 16))
    >>> place = rng.permuted(np.tile(np.arange(9), (len(X), 1)), axis=1)[:, :6]
    >>> for j in range(6):
    ...     shown = np.outer(table[labels, j], 3 * parts[j])
    ...     X[np.arange(len(X)), place[:, j]] += shown
    >>> seen = labels < 50
    >>> reg = AttentionRegressor(random_state=0).fit(X[seen], table[labels[seen]])
    >>> names = reg.predict(X[~seen], prototypes=table[50:])
    >>> bool((names == labels[~seen] - 50).mean() > 0.5)  # chance: 0.08
    True
    >>> maps = reg.attention(X[~seen])
    >>> maps.shape
    (260, 6, 9)
    >>> has = table[labels[~seen]] == 1
    >>> looks_at = maps.argmax(axis=2)
    >>> bool((looks_at == place[~seen])[has].mean() > 0.9)  # chance: 0.11
    True
    """

    _streams = False  # files of regions are read whole

    _parameter_constraints: dict = {
        **ReZSLRegressor._parameter_constraints,
        "attribute_embeddings": ["array-like", None],
    }

    def __init__(
        self,
        attribute_embeddings: ArrayLike | pandas.DataFrame | None = None,
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
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.attribute_embeddings = attribute_embeddings
        super().__init__(
            (),
            loss=loss,
            class_power=class_power,
            attribute_power=attribute_power,
            statistics=statistics,
            normalize_weights=normalize_weights,
            regression_weight=regression_weight,
            classification_weight=classification_weight,
            scale=scale,
            attribute_scaling=attribute_scaling,
            feature_scaling=feature_scaling,
            feature_weight=feature_weight,
            solver=solver,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            weight_decay=weight_decay,
            momentum=momentum,
            batch_size=batch_size,
            sampler=sampler,
            ways=ways,
            shots=shots,
            max_iter=max_iter,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            warm_start=warm_start,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )

    def attention(self, X: ArrayLike) -> np.ndarray:
        """Where each attribute looks.

        Parameters
        ----------
        X : array-like of shape (n, r, d)
            Features of the regions.

        Returns
        -------
        maps : ndarray of shape (n, a, r)
            Shares :math:`p_{jr}`; each map sums to 1. Regions are in the order of
            X: of a grid cached with ``--pool none`` row by row from the top left,
            so that ``maps.reshape(n, a, 7, 7)`` is a grid of 7 x 7. NaN for
            constant attributes.

        Raises
        ------
        ValueError
            If X has missing values or other regions than in fit.
        """
        check_is_fitted(self)
        X = self._check_X(X)
        varying = self._space.varying
        shape = len(X), len(self.embeddings_), self.n_regions_
        maps = np.full(shape, np.nan, dtype=self.coefs_[0].dtype)
        for rows in gen_batches(len(X), self._rows_at_once):
            shares = self._shares(self._regions(self._features.transform(X[rows])))
            maps[rows, varying] = shares.swapaxes(1, 2)
        return maps

    # ---- regions in, rows inside --------------------------------------------
    # Within, a sample is a row of r * d values, so that whatever ReZSLRegressor does
    # to rows holds here too.

    def _check_X_S(self, X, y, reset):
        return super()._check_X_S(self._rows(X, reset), y, reset)

    def _check_X(self, X, reset=False):
        return super()._check_X(self._rows(X, reset), reset)

    def _rows(self, X, reset):
        """X (n, r, d) as (n, r * d), and two axes as they are."""
        if not reset:
            check_source(self, X)
        X = open_rows(X, stream=self._streams)
        shape = getattr(X, "shape", None)
        if shape is None:
            X = np.asarray(X)
            shape = X.shape
        if len(shape) > 3:
            raise ValueError(
                f"X has {len(shape)} axes, {shape}; give it as (n, r, d): reshape a "
                "grid of regions (n, h, w, d) to (n, h * w, d)."
            )
        regions = tuple(shape[1:]) if len(shape) == 3 else None
        if regions is not None and not all(regions):
            raise ValueError(
                f"X has {regions[0]} regions of {regions[1]} features; at least one "
                "of each is needed."
            )
        if reset:
            self.n_regions_ = 1 if regions is None else regions[0]
        elif regions is not None and hasattr(self, "n_features_in_"):
            expected = self.n_regions_, self.n_features_in_ // self.n_regions_
            if regions != expected:
                raise ValueError(
                    f"X has {regions[0]} regions of {regions[1]} features, but the "
                    f"model was fitted on {expected[0]} of {expected[1]}; cache both "
                    "with the same backbone and image size."
                )
        if regions is None:
            return X
        return np.asarray(X).reshape(len(X), math.prod(regions))

    def _regions(self, x):
        return x.reshape(len(x), self.n_regions_, -1)

    @property
    def _rows_at_once(self):
        return max(1, BLOCK_REGIONS // self.n_regions_)

    # ---- what differs from ReZSLRegressor -----------------------------------

    def _new_scaling(self):
        return RegionScaling(self.feature_scaling, self.n_regions_)

    def _initialise(self, n_features, dtype, generator):
        a = len(self._space.offset)
        self.embeddings_ = self._checked_embeddings(a).astype(dtype)
        e, d = self.embeddings_.shape[1], n_features // self.n_regions_
        draw = torch.rand(d, e, generator=generator, dtype=torch.float64).numpy()
        # Keys follow the values, and from values of the usual size, 1 / sqrt(d), some
        # start in a wrong direction.
        value = START * (2 * draw - 1) / np.sqrt(d)
        self.coefs_ = [np.zeros((d, e), dtype=dtype), value.astype(dtype)]
        self.intercepts_ = [np.zeros(len(self._space.varying), dtype=dtype)]

    def _checked_embeddings(self, a):
        E = self.attribute_embeddings
        if E is None:
            return np.eye(a)
        what = "attribute_embeddings"
        if hasattr(E, "reindex") and self.attribute_names_ is not None:
            E = E.set_axis(E.index.map(str))
            names = self.attribute_names_.tolist()
            missing = [name for name in names if name not in E.index]
            twice = E.index[E.index.duplicated()].intersection(names).tolist()
            if missing or twice:
                raise ValueError(
                    f"{what} must have one row for each column of S; missing: "
                    f"{missing[:5]}, more than once: {twice[:5]}."
                )
            E = E.loc[names]
        E = check_array(E, dtype=np.float64, input_name=what)
        if len(E) != a:
            raise ValueError(
                f"{what} has {len(E)} rows, but S has {a} attributes; give one row "
                "for each, in their order."
            )
        zero = np.flatnonzero(~E.any(axis=1))
        if len(zero):
            raise ValueError(
                f"{what} has rows of zeros: {zero[:5].tolist()}. They cannot ask for "
                "anything; embed these attributes, or leave them out."
            )
        return _directions(E)

    def _check_same_shapes(self, X, S):
        given = self.n_regions_, X.shape[1] // self.n_regions_, S.shape[1]
        known = (
            self._features.n_regions,
            self.coefs_[0].shape[0],
            len(self.attribute_offset_),
        )
        if given != known:
            raise ValueError(
                "X has {} regions of {} features and S {} attributes, but the model "
                "to go on with has {}, {} and {}.".format(*given, *known)
            )
        E = self._checked_embeddings(S.shape[1]).astype(self.embeddings_.dtype)
        if not np.array_equal(E, self.embeddings_):
            raise ValueError(
                "attribute_embeddings are not those of the model to go on with; set "
                "them back, or fit a new one."
            )

    def _new_heads(self, device):
        return AttentionHead(
            self.coefs_,
            self.intercepts_,
            self.embeddings_[self._space.varying],
            seed=self._seed,
            device=device,
        )

    def _shares(self, x):
        """Attention (n, r, a') of scaled regions (n, r, d)."""
        keys = self._at(x, self.coefs_[0] / x.dtype.type(np.sqrt(x.shape[2])))
        keys -= keys.max(axis=1, keepdims=True)
        np.exp(keys, out=keys)
        keys /= keys.sum(axis=1, keepdims=True)
        return keys

    def _at(self, x, coef):
        """What attributes get from scaled regions (n, r, d) by coef (d, e)."""
        of_attributes = coef @ self.embeddings_[self._space.varying].T
        return (x.reshape(-1, len(coef)) @ of_attributes).reshape(*x.shape[:2], -1)

    def _head_outputs(self, x):
        output = np.empty((len(x), len(self._space.varying)), dtype=x.dtype)
        for rows in gen_batches(len(x), self._rows_at_once):
            regions = self._regions(x[rows])
            values = self._at(regions, self.coefs_[1])
            values *= self._shares(regions)
            output[rows] = values.sum(axis=1)
        return output + self.intercepts_[0]

    def _side_input(self, x):
        return self._regions(x).mean(axis=1)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class RegionScaling:
    """Regions (n, r * d), scaled so that their mean is the scaled mean.

    Parameters
    ----------
    how : {"standard", "l2"} or None
        As in :class:`~rezsl_sk._scaling.FeatureScaling`.

    n_regions : int

    Attributes
    ----------
    offset, scale : ndarrays of shape (d,)
    """

    def __init__(self, how, n_regions):
        self.how, self.n_regions = how, n_regions

    def fit(self, X):
        """Learn the statistics of the mean over regions of X (n, r * d)."""
        self._of_mean = FeatureScaling(self.how).fit(self._split(X).mean(axis=1))
        self.offset, self.scale = self._of_mean.offset, self._of_mean.scale
        return self

    def transform(self, X):
        """X (n, r * d) scaled, in its own precision; X itself where nothing is done."""
        if self.how is None:
            return X
        with np.errstate(over="ignore", invalid="ignore"):
            regions = self._split(X) - self.offset
            if self.how == "standard":
                regions /= self.scale
            else:
                mean = regions.mean(axis=1)
                length = np.linalg.norm(mean, axis=1)[:, np.newaxis]
                size, length = size_and_length(mean, length)
                extreme = np.flatnonzero(size != 1)
                regions[extreme] /= size[extreme, :, np.newaxis]
                size = np.sqrt(regions.shape[2]) / np.where(length > 0, length, 1)
                regions *= size.astype(X.dtype)[:, :, np.newaxis]
        return regions.reshape(X.shape)

    def _split(self, X):
        return X.reshape(len(X), self.n_regions, -1)


class AttentionHead(nn.Module):
    """The attention as a torch module, with the interface of one of ``_heads.Heads``.

    Gradients are autograd's: the product over all regions takes nearly all the time.

    Parameters
    ----------
    coefs : pair of arrays of shape (d, e)
        Weights of the keys and of the values.

    intercepts : list of one array of shape (a,)

    embeddings : array of shape (a, e)
        Of the attributes; not trained.

    seed : int
        Not used: there is no dropout to draw.
    """

    def __init__(
        self,
        coefs: Sequence[np.ndarray],
        intercepts: Sequence[np.ndarray],
        embeddings: np.ndarray,
        *,
        seed=0,
        device="cpu",
    ):
        super().__init__()
        device = torch.device(device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.embeddings = torch.tensor(embeddings, device=device)
        self.weights = nn.ParameterList(
            torch.tensor(np.ascontiguousarray(coef.T), device=device) for coef in coefs
        )
        self.bias = nn.Parameter(torch.tensor(intercepts[0], device=device))

    def parameters_of(self, heads):
        """All parameters: there is one head."""
        return list(self.parameters())

    def forward(self, X):
        """Outputs (n, 1, a) of rows (n, r * d); in training for one backward."""
        key, value = self.weights
        d = key.shape[1]
        of_attributes = torch.cat(
            [self.embeddings @ (key / math.sqrt(d)), self.embeddings @ value]
        )
        # Early stopping hands over all held-out rows, training one batch.
        rows = len(X) if self.training else max(1, BLOCK_REGIONS * d // X.shape[1])
        parts = [self._attended(x, of_attributes, d) for x in X.split(rows)]
        self._output = (torch.cat(parts) + self.bias).unsqueeze(1)
        return self._output.detach()

    def backward(self, gradient):
        """From the gradient (n, 1, a) of the outputs to those of the parameters."""
        self.zero_grad(set_to_none=True)
        self._output.backward(gradient)

    def _attended(self, X, of_attributes, d):
        keys, values = F.linear(X.view(len(X), -1, d), of_attributes).chunk(2, dim=2)
        return (keys.softmax(dim=1) * values).sum(dim=1)

    def arrays(self):
        """Copies of the weights: of the one head (coefs, intercepts), NumPy arrays."""
        coefs = [w.detach().cpu().numpy().T.copy() for w in self.weights]
        return [(coefs, [self.bias.detach().cpu().numpy().copy()])]
