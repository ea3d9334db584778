"""Figures: what a model knows, where it is unfair, what it takes for what.

Display classes with scikit-learn's conventions: `from_estimator` or
`from_predictions` computes and draws, the object keeps the numbers, `plot` draws them
again, `figure_` and `ax_` are matplotlib's. Several models come on one axis by
handing on ``ax=display.ax_``. matplotlib is an extra, ``pip install rezsl-sk[plot]``,
imported when something is drawn.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.utils import check_array, check_random_state

from ._attention_maps import AttentionMapDisplay
from ._views import (
    attribute_view,
    final_estimator,
    fitted_with,
    kept_names,
    regressor_of,
    rows_of,
    score_view,
    varying,
)
from .decoding import nearest_prototype
from .metrics import (
    ImbalanceReport,
    SeenUnseenCurve,
    harmonic_mean,
    imbalance_report,
    seen_unseen_curve,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "AnswerGridDisplay",
    "AttentionMapDisplay",
    "AttributeErrorDisplay",
    "ErrorMatrixDisplay",
    "LossCurveDisplay",
    "PrototypeMapDisplay",
    "SeenUnseenCurveDisplay",
    "WeightDisplay",
]

# Okabe and Ito's palette, and Tol's "muted" for up to nine classes: both are told
# apart by colour-blind eyes. Dashes and markers tell lines apart in grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MUTED = (
    "#332288 #CC6677 #117733 #DDCC77 #88CCEE #882255 #44AA99 #999933 #AA4499"
).split()
RIGHT, WRONG, GREY = PALETTE[0], PALETTE[1], "#8a8a8a"
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HEAT = "cividis"  # the same to nearly all eyes


def _copy(names):
    """Names that the caller may change without changing a figure drawn later."""
    return None if names is None else np.array(names)


class SeenUnseenCurveDisplay:
    """Seen against unseen accuracy over all seen penalties.

    Parameters
    ----------
    curve : SeenUnseenCurve
        See :func:`rezsl_sk.metrics.seen_unseen_curve`.

    penalty : float or None, default=None
        The model's seen penalty, chosen on training classes, in the units of the
        scores: marked on the curve.

    name : str or None, default=None
        Of the model, for the legend.

    Attributes
    ----------
    line_ : matplotlib line
        The curve.

    point_ : matplotlib line, or None without a penalty
        The model's own penalty.

    oracle_ : matplotlib line or None
        Best H on these very samples: an upper bound, never a result.

    ax_, figure_ : matplotlib Axes and Figure

    References
    ----------
    Chao, Changpinyo, Gong, Sha: An Empirical Study and Analysis of Generalized
    Zero-Shot Learning for Object Recognition in the Wild. ECCV 2016.

    Examples
    --------
    >>> from rezsl_sk.metrics import seen_unseen_curve
    >>> from rezsl_sk.plotting import SeenUnseenCurveDisplay
    >>> curve = seen_unseen_curve([0, 1], [[0.9, 0.5], [0.7, 0.6]], [True, False])
    >>> display = SeenUnseenCurveDisplay(curve=curve, penalty=0.2).plot()
    >>> display.line_.get_label()
    'AUSUC 1.000, H 1.000'
    """

    def __init__(
        self,
        *,
        curve: SeenUnseenCurve,
        penalty: float | None = None,
        name: str | None = None,
    ) -> None:
        self.curve = curve
        self.penalty = penalty
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        *,
        name: str | None = None,
        ax: Axes | None = None,
        oracle: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw the curve of a fitted model on test samples.

        Parameters
        ----------
        estimator : zero-shot classifier, ReZSLRegressor, Pipeline or search
            Fitted. All its candidates compete; a classifier with seen or unseen
            candidates only competes among all classes of its table.

        X : array-like of shape (n, d)
            Features of samples of seen and of unseen classes.

        y : array-like of shape (n,) or (n, a)
            Labels; for a regressor the attributes of each sample's class.

        name : str or None, default=None
            For the legend. None: the class of the estimator.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure. For several models on one axis hand
            on ``display.ax_``.

        oracle : bool, default=True
            Whether to mark the best H on these samples, so named.

        **kwargs : dict
            Passed to matplotlib's ``plot`` of the curve.

        Returns
        -------
        display : SeenUnseenCurveDisplay

        Raises
        ------
        ValueError
            If y has no samples of seen or none of unseen classes, names classes
            that the estimator does not know, or the estimator is none of the above.

        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
        >>> from rezsl_sk.datasets import make_zero_shot
        >>> from rezsl_sk.plotting import SeenUnseenCurveDisplay
        >>> data = make_zero_shot(random_state=0)
        >>> clf = ZeroShotClassifier(
        ...     ReZSLRegressor(random_state=0),
        ...     class_attributes=(data.class_names, data.attributes),
        ... ).fit(data.X[data.trainval], data.y[data.trainval])
        >>> test = [*data.test_seen, *data.test_unseen]
        >>> display = SeenUnseenCurveDisplay.from_estimator(
        ...     clf, data.X[test], data.y[test]
        ... )
        >>> 0 < display.curve.ausuc < 1
        True
        """
        view = score_view(estimator, X, y, what=cls.__name__)
        return cls.from_predictions(
            view.column,
            view.scores,
            seen=view.seen,
            penalty=view.penalty,
            name=type(final_estimator(estimator)).__name__ if name is None else name,
            ax=ax,
            oracle=oracle,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        scores: ArrayLike,
        *,
        seen: ArrayLike,
        penalty: float | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        oracle: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw the curve of a score matrix.

        Parameters
        ----------
        y_true : array-like of int, shape (n,)
            Column of each sample's true class.

        scores : array-like of shape (n, k)
            Scores of the candidates without a penalty, larger is nearer.

        seen : array-like of bool, shape (k,)
            Which columns are seen classes.

        penalty, name, ax, oracle, **kwargs
            As in :meth:`from_estimator`; `penalty` in the units of the scores.

        Returns
        -------
        display : SeenUnseenCurveDisplay

        Raises
        ------
        ValueError
            As :func:`rezsl_sk.metrics.seen_unseen_curve`.
        """
        curve = seen_unseen_curve(y_true, scores, seen)
        display = cls(curve=curve, penalty=penalty, name=name)
        return display.plot(ax, oracle=oracle, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        oracle: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax, name, oracle, **kwargs
            As in :meth:`from_estimator`; None for `name` means the object's own.

        Returns
        -------
        display : SeenUnseenCurveDisplay
        """
        ax = _axes(ax, self, figsize=(5.4, 4.8))
        curve = self.curve
        name = self.name if name is None else name
        label = f"AUSUC {curve.ausuc:.3f}"
        if self.penalty is not None:
            label += f", H {harmonic_mean(*curve.at(self.penalty)):.3f}"
        if name is not None:
            label = f"{_plain(name)}: {label}"
        kwargs = {**_line_style(ax, "seen-unseen curve"), "label": label, **kwargs}
        (self.line_,) = ax.plot(curve.unseen, curve.seen, **kwargs)
        self.line_.set_gid("seen-unseen curve")
        colour = self.line_.get_color()
        self.point_ = self.oracle_ = None
        if self.penalty is not None:
            S, U = curve.at(self.penalty)
            (self.point_,) = ax.plot(
                U, S, "o", color=colour, ms=7, mec="white", zorder=4, label="_own"
            )
        if oracle:
            best = int(np.argmax(curve.harmonic_mean))
            S, U = curve.seen[best], curve.unseen[best]
            (self.oracle_,) = ax.plot(
                U, S, "D", color=colour, ms=7, mfc="none", zorder=3, label="_oracle"
            )
        ax.set(
            xlabel="accuracy on unseen classes, U", ylabel="accuracy on seen classes, S"
        )
        _equal_h_lines(ax)
        _curve_legend(ax)
        return _drawn(self, ax)


class ErrorMatrixDisplay:
    """Mean squared error of every class on every attribute, as a picture.

    Classes and attributes are ordered by their mean error, the largest first; unseen
    classes stand above seen ones.

    Parameters
    ----------
    error : array-like of shape (K, a)
        Mean squared error of each class on each attribute.

    classes : array-like of shape (K,)
        Names of the classes.

    seen : array-like of bool, shape (K,), or None, default=None
        Which classes were trained on. None: not told apart.

    attribute_names : array-like of shape (a,) or None, default=None
        Names of the attributes. None: their numbers.

    Attributes
    ----------
    class_order_ : ndarray of int, shape (K,)
        Rows of `error` from top to bottom: unseen, then seen, each by falling error.

    attribute_order_ : ndarray of int, shape (a,)
        Columns of `error` from left to right, by falling mean error.

    image_ : matplotlib image
        Between unseen and seen rows there are a few empty ones.

    colorbar_ : matplotlib colorbar

    ax_, figure_ : matplotlib Axes and Figure

    Examples
    --------
    >>> from rezsl_sk.plotting import ErrorMatrixDisplay
    >>> display = ErrorMatrixDisplay(
    ...     error=[[1.0, 3.0], [2.0, 6.0]], classes=["seal", "otter"]
    ... ).plot()
    >>> display.class_order_, display.attribute_order_
    (array([1, 0]), array([1, 0]))
    """

    def __init__(
        self,
        *,
        error: ArrayLike,
        classes: ArrayLike,
        seen: ArrayLike | None = None,
        attribute_names: ArrayLike | None = None,
    ) -> None:
        self.error = error
        self.classes = classes
        self.seen = seen
        self.attribute_names = attribute_names

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        *,
        attribute_names: ArrayLike | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the errors of a fitted model on samples.

        Parameters
        ----------
        estimator : ReZSLRegressor, classifier with a regressor, Pipeline or search
            Fitted.

        X : array-like of shape (n, d)
            Features.

        y : array-like of shape (n,) or (n, a)
            Labels; for a regressor the attributes of each sample's class, which is
            then named by a number.

        attribute_names : array-like of shape (a,) or None, default=None
            Names of all attributes. None: those of the table, where it was a
            DataFrame.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure, as large as the matrix asks for.

        **kwargs : dict
            Passed to matplotlib's ``imshow``.

        Returns
        -------
        display : ErrorMatrixDisplay
            Its errors are in the space of training, as the regressor's
            ``error_matrix_``: with ``attribute_scaling="standard"`` an error of 1 is
            that of always predicting the mean of the training classes. Constant
            attributes are left out.

        Raises
        ------
        ValueError
            If the estimator has no attribute regressor, or y does not fit it.

        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from rezsl_sk import ReZSLRegressor
        >>> from rezsl_sk.datasets import make_zero_shot
        >>> from rezsl_sk.plotting import ErrorMatrixDisplay
        >>> data = make_zero_shot(random_state=0)
        >>> S = data.attributes[data.labels]
        >>> reg = ReZSLRegressor(random_state=0)
        >>> reg = reg.fit(data.X[data.trainval], S[data.trainval])
        >>> display = ErrorMatrixDisplay.from_estimator(reg, data.X, S)
        >>> display.error.shape, int(display.seen.sum())
        ((50, 20), 40)
        """
        view = attribute_view(estimator, X, y, attribute_names, what=cls.__name__)
        return cls.from_predictions(
            view.target,
            view.predicted,
            classes=view.labels,
            seen_classes=view.seen,
            attribute_names=view.names,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        S_true: ArrayLike,
        S_pred: ArrayLike,
        *,
        classes: ArrayLike,
        seen_classes: ArrayLike | None = None,
        attribute_names: ArrayLike | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the errors of predicted attributes.

        Parameters
        ----------
        S_true, S_pred : array-like of shape (n, a)
            Attributes of each sample's class, and predicted ones, in units in which
            attributes can be compared.

        classes : array-like of shape (n,)
            Class of each sample.

        seen_classes : array-like or None, default=None
            Names of the classes that were trained on.

        attribute_names, ax, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : ErrorMatrixDisplay

        Raises
        ------
        ValueError
            As :func:`rezsl_sk.metrics.imbalance_report`.
        """
        report = imbalance_report(S_true, S_pred, classes)
        names = np.unique(np.asarray(classes))
        seen = None if seen_classes is None else np.isin(names, seen_classes)
        display = cls(
            error=report.error,
            classes=names,
            seen=seen,
            attribute_names=_copy(attribute_names),
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        **kwargs : dict
            Passed to matplotlib's ``imshow``.

        Returns
        -------
        display : ErrorMatrixDisplay
        """
        error = np.asarray(self.error, dtype=float)
        n_classes, n_attributes = error.shape
        seen = None if self.seen is None else np.asarray(self.seen, dtype=bool)
        by_error = np.argsort(-error.mean(axis=1), kind="stable")
        groups = [("", by_error)]
        if seen is not None:
            sides = (
                ("unseen", by_error[~seen[by_error]]),
                ("seen", by_error[seen[by_error]]),
            )
            groups = [(label, rows) for label, rows in sides if len(rows)]
        self.class_order_ = np.concatenate([rows for _, rows in groups])
        self.attribute_order_ = np.argsort(-error.mean(axis=0), kind="stable")
        ax = _axes(
            ax,
            self,
            figsize=(
                np.clip(2.6 + 0.14 * n_attributes, 5, 12),
                np.clip(1.8 + 0.14 * n_classes, 3.4, 10),
            ),
        )
        from matplotlib.colors import PowerNorm

        gap = max(1, round(0.012 * n_classes)) if len(groups) > 1 else 0
        rows, names, ticks = [], [], []
        for label, members in groups:
            if rows:
                rows.append(np.full((gap, n_attributes), np.nan))
            start = sum(map(len, rows))
            rows.append(error[members][:, self.attribute_order_])
            ticks.append(start + np.arange(len(members)))
            names.append(np.asarray(self.classes)[members])
            if label:
                ax.text(
                    1.01,
                    start + (len(members) - 1) / 2,
                    f"{label} ({len(members)})",
                    transform=ax.get_yaxis_transform(),
                    rotation=90,
                    va="center",
                    fontsize=8,
                )
        shown = np.concatenate(rows)
        finite = error[np.isfinite(error)]
        kwargs = {"cmap": HEAT, "aspect": "auto", **kwargs}
        if not kwargs.keys() & {"norm", "vmin", "vmax"}:
            # A few hopeless entries must not make all others look alike.
            top = float(np.percentile(finite, 99)) if finite.size else 1.0
            kwargs["norm"] = PowerNorm(0.5, vmin=0.0, vmax=top or 1.0)
        self.image_ = ax.imshow(shown, **kwargs)
        over = finite.size and finite.max() > self.image_.norm.vmax
        self.colorbar_ = ax.figure.colorbar(
            self.image_,
            ax=ax,
            extend="max" if over else "neither",
            pad=0.02,
            fraction=0.05,
            aspect=35,
        )
        self.colorbar_.set_label("mean squared error")
        _name_ticks(ax.yaxis, np.concatenate(ticks), np.concatenate(names))
        attributes = _names(self.attribute_names, n_attributes)[self.attribute_order_]
        _name_ticks(ax.xaxis, np.arange(n_attributes), attributes)
        ax.set(
            xlabel=f"{n_attributes} attributes, hardest first",
            ylabel=f"{n_classes} classes, hardest first",
        )
        return _drawn(self, ax)


class AttributeErrorDisplay:
    """How unevenly the error falls on attributes, and whether large values cost more.

    Parameters
    ----------
    report : ImbalanceReport
        See :func:`rezsl_sk.metrics.imbalance_report`.

    attribute_names : array-like of shape (a,) or None, default=None
        Names of the attributes. None: their numbers.

    name : str or None, default=None
        Of the model, for the legend.

    Attributes
    ----------
    order_ : ndarray of int, shape (a,)
        Attributes from left to right; with ``kind="error"`` only.

    pearson_ : float
        Correlation of value and error over all classes and attributes, NaN where
        either does not vary; with ``kind="value"`` only.

    line_ : matplotlib line or collection
        The errors.

    ax_, figure_ : matplotlib Axes and Figure

    References
    ----------
    Ye, Yang, Jin, Liu, Huang: Rebalanced Zero-shot Learning. IEEE Transactions on
    Image Processing, 2023, section III (imbalance of the error, its correlation with
    the attribute values).

    Examples
    --------
    >>> from rezsl_sk.metrics import imbalance_report
    >>> from rezsl_sk.plotting import AttributeErrorDisplay
    >>> report = imbalance_report([[0.0, 1.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 2.0]])
    >>> display = AttributeErrorDisplay(report=report, name="MSE").plot()
    >>> display.order_, display.line_.get_label()
    (array([1, 0]), 'MSE: mean 2.000, variation 1.000')
    """

    def __init__(
        self,
        *,
        report: ImbalanceReport,
        attribute_names: ArrayLike | None = None,
        name: str | None = None,
    ) -> None:
        self.report = report
        self.attribute_names = attribute_names
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        *,
        kind: Literal["error", "value"] = "error",
        order: ArrayLike | None = None,
        attribute_names: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the errors of a fitted model on samples.

        Parameters
        ----------
        estimator : ReZSLRegressor, classifier with a regressor, Pipeline or search
            Fitted.

        X : array-like of shape (n, d)
            Features.

        y : array-like of shape (n,) or (n, a)
            Labels; for a regressor the attributes of each sample's class.

        kind : {"error", "value"}, default="error"
            "error": mean squared error of each attribute, the largest first.
            "value": the error of each class on each attribute over the attribute's
            value there, with their Pearson correlation: the evidence for which
            re-weighting was proposed.

        order : array-like of int, shape (a,), or None, default=None
            Attributes from left to right. For another model on the same axis hand
            on ``order=display.order_`` with ``ax=display.ax_``.

        attribute_names : array-like of shape (a,) or None, default=None
            Names of all attributes. None: those of the table, where it was a
            DataFrame.

        name : str or None, default=None
            For the legend. None: the class of the estimator.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        **kwargs : dict
            Passed to matplotlib's ``plot`` ("error"), ``scatter`` or, above 5000
            entries, ``hexbin`` ("value").

        Returns
        -------
        display : AttributeErrorDisplay
            Values and errors are in the space of training, as the regressor's
            ``error_matrix_``; constant attributes are left out.

        Raises
        ------
        ValueError
            If the estimator has no attribute regressor, y does not fit it, or `kind`
            or `order` is none of the above.

        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from rezsl_sk import ReZSLRegressor
        >>> from rezsl_sk.datasets import make_zero_shot
        >>> from rezsl_sk.plotting import AttributeErrorDisplay
        >>> data = make_zero_shot(attribute_imbalance=0.5, random_state=0)
        >>> train, test = data.trainval, data.test_unseen
        >>> S, ax, order = data.attributes[data.labels], None, None
        >>> for loss in ("mse", "remse"):
        ...     reg = ReZSLRegressor(loss=loss, random_state=0)
        ...     display = AttributeErrorDisplay.from_estimator(
        ...         reg.fit(data.X[train], S[train]),
        ...         data.X[test], S[test], name=loss, ax=ax, order=order,
        ...     )
        ...     ax, order = display.ax_, display.order_
        """
        view = attribute_view(estimator, X, y, attribute_names, what=cls.__name__)
        return cls.from_predictions(
            view.target,
            view.predicted,
            classes=view.labels,
            kind=kind,
            order=order,
            attribute_names=view.names,
            name=type(final_estimator(estimator)).__name__ if name is None else name,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        S_true: ArrayLike,
        S_pred: ArrayLike,
        *,
        classes: ArrayLike | None = None,
        kind: Literal["error", "value"] = "error",
        order: ArrayLike | None = None,
        attribute_names: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the errors of predicted attributes.

        Parameters
        ----------
        S_true, S_pred : array-like of shape (n, a)
            Attributes of each sample's class, and predicted ones, in units in which
            attributes can be compared.

        classes : array-like of shape (n,) or None, default=None
            Class of each sample. None: each distinct row of `S_true` is a class.

        kind, order, attribute_names, name, ax, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : AttributeErrorDisplay

        Raises
        ------
        ValueError
            As :func:`rezsl_sk.metrics.imbalance_report`.
        """
        report = imbalance_report(S_true, S_pred, classes)
        display = cls(report=report, attribute_names=_copy(attribute_names), name=name)
        return display.plot(ax, kind=kind, order=order, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        kind: Literal["error", "value"] = "error",
        order: ArrayLike | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax, kind, order, name, **kwargs
            As in :meth:`from_estimator`; None for `name` means the object's own.

        Returns
        -------
        display : AttributeErrorDisplay
        """
        _check_kind(kind, ("error", "value"))
        name = self.name if name is None else name
        if kind == "error":
            return self._plot_errors(ax, order, name, kwargs)
        if order is not None:
            raise ValueError("order belongs to kind='error'; leave it out.")
        return self._plot_values(ax, name, kwargs)

    def _plot_errors(self, ax, order, name, kwargs):
        error = self.report.attribute_error
        n = len(error)
        if order is None:
            order = np.argsort(-error, kind="stable")
        order = np.asarray(order)
        if not np.array_equal(np.sort(order), np.arange(n)):
            raise ValueError(
                f"order must hold each number from 0 to {n - 1} once: the order_ of a "
                "display of the same attributes."
            )
        ax = _axes(ax, self, figsize=(np.clip(2 + 0.13 * n, 5, 12), 4))
        label = (
            f"mean {error.mean():.3f}, variation {self.report.attribute_variation:.3f}"
        )
        if name is not None:
            label = f"{_plain(name)}: {label}"
        number = _count(ax, "attribute error")
        style = {
            "color": PALETTE[number % len(PALETTE)],
            "marker": MARKERS[number % len(MARKERS)],
            "ls": "none",
            "ms": 5 if n <= 120 else 3,
            "alpha": 0.85,
            "label": label,
        }
        (self.line_,) = ax.plot(error[order], **{**style, **kwargs})
        self.line_.set_gid("attribute error")
        ax.axhline(error.mean(), color=self.line_.get_color(), lw=0.8, ls=":")
        _name_ticks(ax.xaxis, np.arange(n), _names(self.attribute_names, n)[order])
        ax.set(
            xlabel=f"{n} attributes, by the error of the first model"
            if number
            else f"{n} attributes, hardest first",
            ylabel="mean squared error, mean over classes",
        )
        ax.set_ylim(bottom=0)
        ax.set_xlim(-0.7, n - 0.3)
        ax.legend(loc="upper right", fontsize=8, framealpha=0.9)
        self.order_ = order
        return _drawn(self, ax)

    def _plot_values(self, ax, name, kwargs):
        value, error = self.report.prototypes.ravel(), self.report.error.ravel()
        # Means of ten equal parts: what the cloud hides.
        parts = np.array_split(np.argsort(value, kind="stable"), min(10, len(value)))
        middle = [value[part].mean() for part in parts]
        height = [error[part].mean() for part in parts]
        # All but the farthest entries are shown; the numbers are of all.
        top = max(np.percentile(error, 99.5), *height) * 1.08 or 1.0
        ax = _axes(ax, self, figsize=(5.4, 4.2))
        if len(value) > 5000:
            style = {"gridsize": 45, "bins": "log", "mincnt": 1, "cmap": HEAT}
            style |= {"lw": 0.1, "extent": (value.min(), value.max(), 0, top)}
            self.line_ = ax.hexbin(value, error, **{**style, **kwargs})
            colorbar = ax.figure.colorbar(self.line_, ax=ax)
            colorbar.set_label("entries (class × attribute)")
        else:
            style = {"s": 9, "color": PALETTE[0], "alpha": 0.45, "lw": 0}
            self.line_ = ax.scatter(value, error, **{**style, **kwargs})
        style = {"color": WRONG, "mec": "white", "label": "mean of a tenth"}
        ax.plot(middle, height, "-o", **style)
        ax.legend(loc="best", fontsize=8)
        varies = np.ptp(value) > 0 and np.ptp(error) > 0
        self.pearson_ = float(np.corrcoef(value, error)[0, 1]) if varies else np.nan
        within = self.report.pearson_over_classes
        text = f"Pearson r = {self.pearson_:.2f} over all entries"
        if np.isfinite(within).any():
            text += f"\n{np.nanmean(within):.2f} within an attribute, on average"
        if name is not None:
            text = f"{_plain(name)}\n{text}"
        ax.set_title(text, fontsize=9, loc="left")
        ax.set(
            xlabel="attribute value of the class (units of the comparison)",
            ylabel="mean squared error",
        )
        ax.set_ylim(0, top)
        return _drawn(self, ax)


class WeightDisplay:
    r"""What ReMSE weights up: attributes and classes whose error lags behind.

    Parameters
    ----------
    weight : array-like of shape (K, a)
        Weight of each class on each attribute; 1 everywhere is plain MSE.

    classes : array-like of shape (K,) or None, default=None
        Names of the classes. None: their numbers.

    attribute_names : array-like of shape (a,) or None, default=None
        Names of the attributes. None: their numbers.

    weight_curve : array-like of shape (n_epochs, a) or None, default=None
        Mean weight of each attribute in each epoch.

    Attributes
    ----------
    order_ : ndarray of int
        Attributes (or classes) by falling mean weight; with ``kind="training"`` by
        their weight in the last epoch.

    lines_ : list of matplotlib lines
        The mean weights; with ``kind="training"`` one line per attribute.

    ax_, figure_ : matplotlib Axes and Figure

    References
    ----------
    Ye, Yang, Jin, Liu, Huang: Rebalanced Zero-shot Learning. IEEE Transactions on
    Image Processing, 2023, equations 5 to 9.

    Examples
    --------
    >>> from rezsl_sk.plotting import WeightDisplay
    >>> display = WeightDisplay(weight=[[1.0, 2.0], [1.0, 3.0]]).plot()
    >>> display.order_
    array([1, 0])
    """

    def __init__(
        self,
        *,
        weight: ArrayLike,
        classes: ArrayLike | None = None,
        attribute_names: ArrayLike | None = None,
        weight_curve: ArrayLike | None = None,
    ) -> None:
        self.weight = weight
        self.classes = classes
        self.attribute_names = attribute_names
        self.weight_curve = weight_curve

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        kind: Literal["attribute", "class", "training"] = "attribute",
        attribute_names: ArrayLike | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the weights that ReMSE gives at the end of training.

        They are computed by the loss's formula from the fitted ``error_matrix_``, all
        training classes compared with each other; in training the classes of a
        batch are compared.

        Parameters
        ----------
        estimator : ReZSLRegressor, classifier with a regressor, Pipeline or search
            Fitted with ``loss="remse"`` on a class table.

        kind : {"attribute", "class", "training"}, default="attribute"
            "attribute" or "class": mean weight and the range of its middle 80 %.
            "training": mean weight of each attribute over the epochs, as recorded
            in the regressor's ``weight_curve_``.

        attribute_names : array-like of shape (a,) or None, default=None
            Names of all attributes. None: those of the table, where it was a
            DataFrame.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : WeightDisplay

        Raises
        ------
        ValueError
            If the estimator has no attribute regressor or one with another loss, was
            fitted on targets that are no class table, or has no record of the
            weights over training.

        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from rezsl_sk import ReZSLRegressor
        >>> from rezsl_sk.datasets import make_zero_shot
        >>> from rezsl_sk.plotting import WeightDisplay
        >>> data = make_zero_shot(random_state=0)
        >>> X, S = data.X[data.trainval], data.attributes[data.labels[data.trainval]]
        >>> reg = ReZSLRegressor(random_state=0).fit(X, S)
        >>> display = WeightDisplay.from_estimator(reg)
        >>> display.weight.shape, round(float(display.weight.mean()), 3)
        ((40, 20), 1.0)
        """
        regressor = regressor_of(estimator, cls.__name__)
        loss = fitted_with(regressor, "loss")
        if loss != "remse":
            raise ValueError(
                f"{cls.__name__} shows what ReMSE weights up; this regressor was "
                f"fitted with loss={loss!r}, which weights nothing."
            )
        if not len(regressor.error_matrix_):
            raise ValueError(
                f"{cls.__name__} needs the errors of classes; this regressor was "
                "fitted on targets that are no class table."
            )
        final = final_estimator(estimator)
        names = kept_names(regressor, attribute_names)
        kept = ~np.isnan(regressor.error_matrix_).all(axis=0)
        error = regressor.error_matrix_[:, kept]
        known = ~np.isnan(error).any(axis=1)
        classes = np.arange(len(error)) if final is regressor else final.seen_classes_
        curve = getattr(regressor, "weight_curve_", None)
        if curve is not None:
            curve = curve[:, varying(regressor)]
        display = cls(
            weight=_remse_weights(
                error[known],
                *(
                    fitted_with(regressor, name)
                    for name in ("class_power", "attribute_power", "normalize_weights")
                ),
            ),
            classes=classes[known],
            attribute_names=names,
            weight_curve=curve,
        )
        return display.plot(ax, kind=kind, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        S_true: ArrayLike,
        S_pred: ArrayLike,
        *,
        classes: ArrayLike | None = None,
        class_power: float = 1.0,
        attribute_power: float = 1.0,
        normalize_weights: bool = True,
        kind: Literal["attribute", "class"] = "attribute",
        attribute_names: ArrayLike | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the weights that ReMSE would give these predictions.

        Parameters
        ----------
        S_true, S_pred : array-like of shape (n, a)
            Attributes of each sample's class, and predicted ones, in the units of
            the loss.

        classes : array-like of shape (n,) or None, default=None
            Class of each sample. None: each distinct row of `S_true` is a class.

        class_power, attribute_power, normalize_weights
            As in :class:`rezsl_sk.losses.ReMSELoss`; the mean is taken with one vote
            per class.

        kind, attribute_names, ax, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : WeightDisplay

        Raises
        ------
        ValueError
            As :func:`rezsl_sk.metrics.imbalance_report`.
        """
        error = imbalance_report(S_true, S_pred, classes).error
        display = cls(
            weight=_remse_weights(
                error, class_power, attribute_power, normalize_weights
            ),
            classes=None if classes is None else np.unique(np.asarray(classes)),
            attribute_names=_copy(attribute_names),
        )
        return display.plot(ax, kind=kind, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        kind: Literal["attribute", "class", "training"] = "attribute",
        **kwargs: Any,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax, kind, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : WeightDisplay
        """
        _check_kind(kind, ("attribute", "class", "training"))
        if kind == "training":
            return self._plot_training(ax, kwargs)
        weight = np.asarray(self.weight, dtype=float)
        names = _names(self.attribute_names, weight.shape[1])
        if kind == "class":
            weight, names = weight.T, _names(self.classes, len(weight))
        mean = weight.mean(axis=0)
        n = len(mean)
        self.order_ = np.argsort(-mean, kind="stable")
        low, high = np.percentile(weight, [10, 90], axis=0)[:, self.order_]
        ax = _axes(ax, self, figsize=(np.clip(2 + 0.13 * n, 5, 12), 4))
        ax.vlines(np.arange(n), low, high, color=PALETTE[0], alpha=0.35, lw=1.4)
        style = {"color": PALETTE[0], "marker": "o", "ls": "none"}
        style["ms"] = 5 if n <= 120 else 3
        self.lines_ = ax.plot(mean[self.order_], **{**style, **kwargs})
        ax.axhline(1.0, color="black", lw=0.8, ls=":", label="plain MSE")
        _name_ticks(ax.xaxis, np.arange(n), names[self.order_])
        what = "classes" if kind == "class" else "attributes"
        ax.set(
            xlabel=f"{n} {what}, most weighted up first",
            ylabel="ReMSE weight (mean, middle 80 %)",
        )
        ax.set_xlim(-0.7, n - 0.3)
        ax.legend(loc="upper right", fontsize=8)
        return _drawn(self, ax)

    def _plot_training(self, ax, kwargs):
        if self.weight_curve is None or not len(self.weight_curve):
            raise ValueError(
                "kind='training' needs the weights of each epoch (weight_curve_ of a "
                "regressor fitted with loss='remse'), and none were recorded."
            )
        curve = np.asarray(self.weight_curve, dtype=float)
        names = _names(self.attribute_names, curve.shape[1])
        ax = _axes(ax, self, figsize=(6.2, 4.2))
        epochs = np.arange(1, len(curve) + 1)
        self.order_ = np.argsort(-curve[-1], kind="stable")
        few = min(4, len(self.order_) // 2)
        strong = dict.fromkeys(self.order_[:few], PALETTE[1])
        strong |= dict.fromkeys(self.order_[len(self.order_) - few :], PALETTE[0])
        self.lines_ = []
        for j in range(curve.shape[1]):
            style = {"color": GREY, "lw": 0.6, "alpha": 0.5}
            if j in strong:
                style = {"color": strong[j], "lw": 1.6, "zorder": 3}
            self.lines_ += ax.plot(epochs, curve[:, j], **{**style, **kwargs})
        ax.axhline(1.0, color="black", lw=0.8, ls=":")
        ax.set(xlabel="epoch", ylabel="ReMSE weight, mean over the epoch's samples")
        ax.margins(x=0.01)
        ax.xaxis.get_major_locator().set_params(integer=True)
        _label_ends(ax, epochs[-1], {j: curve[-1, j] for j in strong}, names, strong)
        return _drawn(self, ax)


class LossCurveDisplay:
    """Terms of the objective, and accuracy on held-out classes, over the epochs.

    Parameters
    ----------
    loss, regression, classification : array-like of shape (n_epochs,)
        Objective and its two unweighted terms, means over each epoch.

    validation : array-like of shape (n_epochs,), or empty
        Zero-shot accuracy on the classes that early stopping held out.

    name : str or None, default=None
        Of the model, put before the labels.

    Attributes
    ----------
    lines_ : dict of str to matplotlib line
        By "loss", "regression", "classification", "validation"; a term that took no
        part is absent.

    validation_ax_ : matplotlib Axes or None
        Right axis of the accuracy.

    ax_, figure_ : matplotlib Axes and Figure

    Examples
    --------
    >>> from rezsl_sk import ReZSLRegressor
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> from rezsl_sk.plotting import LossCurveDisplay
    >>> data = make_zero_shot(random_state=0)
    >>> X, S = data.X[data.trainval], data.attributes[data.labels[data.trainval]]
    >>> reg = ReZSLRegressor(early_stopping=True, random_state=0).fit(X, S)
    >>> display = LossCurveDisplay.from_estimator(reg)
    >>> sorted(display.lines_)
    ['classification', 'loss', 'regression', 'validation']
    """

    def __init__(
        self,
        *,
        loss: ArrayLike,
        regression: ArrayLike,
        classification: ArrayLike,
        validation: ArrayLike = (),
        name: str | None = None,
    ) -> None:
        self.loss = loss
        self.regression = regression
        self.classification = classification
        self.validation = validation
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw what the last fit recorded.

        Parameters
        ----------
        estimator : ReZSLRegressor, classifier with a regressor, Pipeline or search
            Fitted.

        name : str or None, default=None
            Put before the labels, for several models on one axis.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        **kwargs : dict
            Passed to matplotlib's ``plot`` of each line.

        Returns
        -------
        display : LossCurveDisplay

        Raises
        ------
        ValueError
            If the estimator has no attribute regressor.

        ImportError
            If matplotlib is not installed.
        """
        regressor = regressor_of(estimator, cls.__name__)
        display = cls(
            loss=regressor.loss_curve_,
            regression=regressor.regression_loss_curve_,
            classification=regressor.classification_loss_curve_,
            validation=regressor.validation_scores_,
            name=name,
        )
        return display.plot(ax, **kwargs)

    def plot(
        self, ax: Axes | None = None, *, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax, name, **kwargs
            As in :meth:`from_estimator`; None for `name` means the object's own.

        Returns
        -------
        display : LossCurveDisplay
        """
        ax = _axes(ax, self, figsize=(5.8, 4))
        name = self.name if name is None else name
        before = "" if name is None else f"{_plain(name)}: "
        number = _count(ax, "loss curve")
        self.lines_, self.validation_ax_ = {}, None
        terms = [
            ("loss", self.loss, "objective", PALETTE[6]),
            ("regression", self.regression, "regression term", PALETTE[0]),
            ("classification", self.classification, "classification term", PALETTE[1]),
        ]
        for key, values, label, colour in terms:
            values = np.asarray(values, dtype=float)
            if not values.any() and key != "loss":
                continue
            style = {"color": colour, "ls": DASHES[number % len(DASHES)]}
            style |= {"label": before + label, "lw": 1.6}
            epochs = np.arange(1, len(values) + 1)
            (self.lines_[key],) = ax.plot(epochs, values, **{**style, **kwargs})
        self.lines_["loss"].set_gid("loss curve")
        ax.set(xlabel="epoch", ylabel="loss, mean over the epoch")
        ax.set_ylim(bottom=0)
        ax.xaxis.get_major_locator().set_params(integer=True)
        handles = [line for line in ax.lines if not line.get_label().startswith("_")]
        validation = np.asarray(self.validation, dtype=float)
        if len(validation):
            self.validation_ax_ = _right_axis(ax)
            right = self.validation_ax_
            style = {"color": PALETTE[2], "ls": DASHES[number % len(DASHES)]}
            style |= {"label": before + "held-out classes (right)", "lw": 1.6}
            style |= {"marker": "o", "ms": 3.5}
            epochs = np.arange(1, len(validation) + 1)
            (line,) = right.plot(epochs, validation, **{**style, **kwargs})
            self.lines_["validation"] = line
            best = int(np.argmax(validation))
            right.plot(
                best + 1, validation[best], "o", ms=9, mfc="none", color=PALETTE[2]
            )
            accuracy = validation.min() >= 0
            right.set_ylabel(
                "zero-shot accuracy on held-out classes"
                if accuracy
                else "minus mean squared error on held-out rows"
            )
            if accuracy:
                right.set_ylim(bottom=0)
            right.yaxis.label.set_color(PALETTE[2])
        if (right := _right_axis(ax, make=False)) is not None:
            handles += [x for x in right.lines if not x.get_label().startswith("_")]
        ax.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=2,
            fontsize=8,
            frameon=False,
        )
        return _drawn(self, ax)


class PrototypeMapDisplay:
    """Predicted attributes of samples around the prototypes of their classes.

    Both as directions (length 1, for nearness is the cosine), seen along the two
    principal axes of the prototypes. A line leads from each prototype to the mean
    of its class's samples: long lines are classes that are not where the table
    says.

    Parameters
    ----------
    samples : array-like of shape (n, 2)
        Predicted attributes of the samples, on the map.

    prototypes : array-like of shape (K, 2)
        Prototypes of the classes, on the map.

    classes : array-like of shape (K,)
        Their names.

    y_true : array-like of shape (n,)
        Class of each sample.

    y_pred : array-like of shape (n,)
        Class whose prototype is nearest in the full space, among `classes`. A
        classifier may answer otherwise: it has more candidates, a seen penalty, and
        may look at more than predicted attributes.

    explained : array-like of shape (2,)
        Share of the prototypes' variance along each axis.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure

    Examples
    --------
    >>> from rezsl_sk.plotting import PrototypeMapDisplay
    >>> display = PrototypeMapDisplay.from_predictions(
    ...     ["seal", "otter", "otter"],
    ...     [[1.0, 0.1], [0.1, 1.0], [0.9, 0.8]],
    ...     prototypes=[[1.0, 0.0], [0.0, 1.0]],
    ...     classes=["seal", "otter"],
    ... )
    >>> display.y_pred.tolist(), display.prototypes.shape
    (['seal', 'otter', 'seal'], (2, 2))
    """

    def __init__(
        self,
        *,
        samples: ArrayLike,
        prototypes: ArrayLike,
        classes: ArrayLike,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        explained: ArrayLike,
    ) -> None:
        self.samples = samples
        self.prototypes = prototypes
        self.classes = classes
        self.y_true = y_true
        self.y_pred = y_pred
        self.explained = explained

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        *,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the map of a fitted model's predictions.

        Parameters
        ----------
        estimator : ReZSLRegressor, classifier with a regressor, Pipeline or search
            Fitted.

        X : array-like of shape (n, d)
            Features.

        y : array-like of shape (n,) or (n, a)
            Labels; for a regressor the attributes of each sample's class. Its
            classes are those on the map.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        **kwargs : dict
            Passed to matplotlib's ``scatter`` of the samples.

        Returns
        -------
        display : PrototypeMapDisplay

        Raises
        ------
        ValueError
            If the estimator has no attribute regressor, y does not fit it, or there
            are fewer than 3 classes or 2 attributes.

        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from rezsl_sk import ReZSLRegressor
        >>> from rezsl_sk.datasets import make_zero_shot
        >>> from rezsl_sk.plotting import PrototypeMapDisplay
        >>> data = make_zero_shot(random_state=0)
        >>> train, test = data.trainval, data.test_unseen
        >>> S = data.attributes[data.labels]
        >>> reg = ReZSLRegressor(random_state=0).fit(data.X[train], S[train])
        >>> display = PrototypeMapDisplay.from_estimator(reg, data.X[test], S[test])
        >>> display.samples.shape, display.prototypes.shape
        ((300, 2), (10, 2))
        """
        view = attribute_view(estimator, X, y, what=cls.__name__)
        classes, first = np.unique(view.labels, return_index=True)
        return cls.from_predictions(
            view.labels,
            view.predicted,
            prototypes=view.target[first],
            classes=classes,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        S_pred: ArrayLike,
        *,
        prototypes: ArrayLike,
        classes: ArrayLike,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the map of predicted attributes.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            Class of each sample.

        S_pred : array-like of shape (n, a)
            Predicted attributes, in the space of comparison.

        prototypes : array-like of shape (K, a)
            Attributes of the classes on the map, in the same space.

        classes : array-like of shape (K,)
            Their names.

        ax, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : PrototypeMapDisplay

        Raises
        ------
        ValueError
            If shapes do not agree, there are fewer than 2 prototypes or
            attributes, a prototype is all zero, or y_true names a class that is not
            on the map.
        """
        classes, y_true = np.array(classes), np.array(y_true)
        prototypes = check_array(prototypes, dtype=float, input_name="prototypes")
        if min(prototypes.shape) < 2:
            raise ValueError(
                "a map needs at least 2 classes and 2 attributes that vary, got "
                f"{prototypes.shape[0]} and {prototypes.shape[1]}."
            )
        nearest = nearest_prototype(S_pred, prototypes, classes)
        rows_of(classes, y_true, "the map")
        S_pred = np.asarray(S_pred, dtype=float)
        directions = [
            rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
            for rows in (prototypes, S_pred)
        ]
        pca = PCA(2, svd_solver="full").fit(directions[0])
        display = cls(
            samples=pca.transform(directions[1]),
            prototypes=pca.transform(directions[0]),
            classes=classes,
            y_true=y_true,
            y_pred=nearest,
            explained=pca.explained_variance_ratio_,
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw: colours are classes up to twelve of them, else right and wrong.

        Parameters
        ----------
        ax, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : PrototypeMapDisplay
        """
        samples, prototypes = np.asarray(self.samples), np.asarray(self.prototypes)
        classes = np.asarray(self.classes)
        row = rows_of(classes, np.asarray(self.y_true), "the map")
        right = np.asarray(self.y_true) == np.asarray(self.y_pred)
        n, n_classes = len(samples), len(classes)
        ax = _axes(ax, self, figsize=(6.4, 5.6))
        size = float(np.clip(6000 / max(n, 1), 3, 16))
        style = {"s": size, "lw": 0, "alpha": float(np.clip(1500 / n, 0.4, 0.7))}
        # Above this many points a picture is smaller than their list.
        style |= {"rasterized": n > 2000, **kwargs}
        if n_classes <= 12:
            colours = np.resize(MUTED, n_classes)
            for k in range(n_classes):
                mine = row == k
                marker = MARKERS[k % len(MARKERS)]
                points = {"color": colours[k], "marker": marker, **style}
                ax.scatter(*samples[mine].T, **points)
        else:
            colours = np.full(n_classes, PALETTE[-1])
            for which, colour, marker in [(right, RIGHT, "o"), (~right, WRONG, "X")]:
                label = "nearest prototype right" if colour == RIGHT else "wrong"
                label += f" ({int(which.sum())})"
                points = {"color": colour, "marker": marker, "label": label, **style}
                ax.scatter(*samples[which].T, **points)
            ax.legend(loc="best", fontsize=8, markerscale=2)
        count = np.bincount(row, minlength=n_classes)
        sums = [np.bincount(row, weights=x, minlength=n_classes) for x in samples.T]
        with np.errstate(invalid="ignore"):
            means = np.transpose(sums / count)  # NaN, not drawn, without samples
        many = n_classes > 60
        for ends, colour in zip(
            np.stack([prototypes, means], axis=2), colours, strict=True
        ):
            ax.plot(*ends, color=colour, lw=0.4 if many else 1.2, alpha=0.6)
        ax.scatter(
            *prototypes.T,
            s=40 if many else 130,
            c=colours,
            marker="*",
            edgecolors="white",
            linewidths=0.7,
            zorder=4,
        )
        share = 100 * np.asarray(self.explained)
        ax.set(
            xlabel=f"first principal axis of the prototypes ({share[0]:.0f} %)",
            ylabel=f"second ({share[1]:.0f} %)",
        )
        ax.margins(0.08)
        # From the rim, where there is room, inwards; away from its own line.
        order = np.argsort(-np.linalg.norm(prototypes, axis=1), kind="stable")[:60]
        away = prototypes - np.where(np.isnan(means), 0, means)
        _label_points(ax, prototypes[order], classes[order], away[order])
        return _drawn(self, ax)


class AnswerGridDisplay:
    """Pictures with the answers they got: right ones above, wrong ones below.

    Beside a wrong answer stands, small, a picture of the class it was taken for.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        Class and answer of each picture.

    paths : array-like of str, shape (n,)
        The pictures' files.

    root : path-like or None, default=None
        Folder that `paths` are relative to.

    Attributes
    ----------
    right_, wrong_ : ndarrays of int
        The pictures shown, as row numbers.

    axes_ : ndarray of matplotlib Axes
        One for each picture shown, right ones first.

    ax_, figure_ : matplotlib Axes and Figure
        `ax_` bounds the grid.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np, matplotlib.pyplot as plt
    >>> from rezsl_sk.plotting import AnswerGridDisplay
    >>> folder = tempfile.TemporaryDirectory()
    >>> for name in ("seal.png", "otter.png"):
    ...     plt.imsave(pathlib.Path(folder.name, name), np.zeros((8, 8, 3)))
    >>> display = AnswerGridDisplay.from_predictions(
    ...     ["seal", "otter"], ["seal", "seal"],
    ...     paths=["seal.png", "otter.png"], root=folder.name,
    ... )
    >>> display.right_, display.wrong_
    (array([0]), array([1]))
    >>> folder.cleanup()
    """

    def __init__(
        self,
        *,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        paths: ArrayLike,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.y_true = y_true
        self.y_pred = y_pred
        self.paths = paths
        self.root = root

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        *,
        paths: ArrayLike,
        root: str | os.PathLike[str] | None = None,
        n_rows: int = 3,
        n_columns: int = 8,
        random_state: int | np.random.RandomState | None = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Draw pictures with a fitted classifier's answers.

        Parameters
        ----------
        estimator : classifier, Pipeline or search
            Fitted; any that predicts labels.

        X : array-like of shape (n, d)
            Features.

        y : array-like of shape (n,)
            Labels.

        paths : array-like of str, shape (n,)
            The pictures' files, for instance ``paths`` of a feature cache.

        root : path-like or None, default=None
            Folder that `paths` are relative to.

        n_rows, n_columns : int, default=3 and 8
            Size of each half of the grid.

        random_state : int, RandomState or None, default=0
            Of the choice: one picture of a class, so that many classes are seen.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        Returns
        -------
        display : AnswerGridDisplay

        Raises
        ------
        ValueError
            If there is not one path for each row.

        FileNotFoundError
            If a picture is not there.

        ImportError
            If matplotlib is not installed.
        """
        return cls.from_predictions(
            y,
            estimator.predict(X),
            paths=paths,
            root=root,
            n_rows=n_rows,
            n_columns=n_columns,
            random_state=random_state,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        paths: ArrayLike,
        root: str | os.PathLike[str] | None = None,
        n_rows: int = 3,
        n_columns: int = 8,
        random_state: int | np.random.RandomState | None = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Draw pictures with given answers.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n,)
            Class and answer of each picture.

        paths, root, n_rows, n_columns, random_state, ax
            As in :meth:`from_estimator`.

        Returns
        -------
        display : AnswerGridDisplay

        Raises
        ------
        ValueError, FileNotFoundError
            As :meth:`from_estimator`.
        """
        display = cls(y_true=y_true, y_pred=y_pred, paths=paths, root=root)
        return display.plot(
            ax, n_rows=n_rows, n_columns=n_columns, random_state=random_state
        )

    def plot(
        self,
        ax: Axes | None = None,
        *,
        n_rows: int = 3,
        n_columns: int = 8,
        random_state: int | np.random.RandomState | None = 0,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax, n_rows, n_columns, random_state
            As in :meth:`from_estimator`.

        Returns
        -------
        display : AnswerGridDisplay
        """
        truth, answer = np.asarray(self.y_true), np.asarray(self.y_pred)
        paths = np.asarray(self.paths)
        if not len(truth) == len(answer) == len(paths):
            raise ValueError(
                "each picture needs a path, a class and an answer, got "
                f"{len(paths)}, {len(truth)} and {len(answer)}."
            )
        order = check_random_state(random_state).permutation(len(truth))
        order = order[np.sort(np.unique(truth[order], return_index=True)[1])]
        good = truth[order] == answer[order]
        n_shown = n_rows * n_columns
        self.right_, self.wrong_ = order[good][:n_shown], order[~good][:n_shown]
        # A half with fewer pictures takes fewer lines.
        lines = [-(-len(rows) // n_columns) for rows in (self.right_, self.wrong_)]
        height = sum(lines) + 0.24 * sum(n > 0 for n in lines)
        if ax is None:
            size = (1.28 * n_columns, max(1.55 * height, 1))
            ax = _axes(None, self, layout=None, figsize=size)
            ax.set_position([0.01, 0.01, 0.98, 0.98])
        ax.set_axis_off()
        share = np.mean(truth == answer) if len(truth) else 0.0
        titles = (
            f"Named rightly ({share:.0%} of {len(truth)} pictures, "
            f"{len(np.unique(truth))} classes)",
            "Named wrongly: above, what it was taken for (small: a picture of that "
            "class); below, what it is",
        )
        self.axes_, top = [], 1.0
        for title, chosen, n_lines in zip(
            titles, (self.right_, self.wrong_), lines, strict=True
        ):
            if not n_lines:
                continue
            ax.text(0, top, title, va="top", fontsize=10, weight="bold")
            top -= 0.24 / height
            for position, i in enumerate(chosen):
                line, column = divmod(position, n_columns)
                left, bottom = column + 0.08, top - (line + 0.83) / height
                box = (left / n_columns, bottom, 0.84 / n_columns, 0.62 / height)
                self.axes_.append(ax.inset_axes(box))
                self._draw_one(self.axes_[-1], i, truth, answer, paths)
            top -= n_lines / height
        self.axes_ = np.asarray(self.axes_, dtype=object)
        return _drawn(self, ax)

    def _draw_one(self, ax, i, truth, answer, paths):
        good = truth[i] == answer[i]
        _picture(ax, self.root, paths[i])
        colour = RIGHT if good else WRONG
        mark = "" if good else "✗ "
        ax.set_title(mark + _lines(answer[i]), color=colour, fontsize=7.5, pad=2)
        if good:
            return
        name, place = _lines(truth[i]), ax.transAxes
        ax.text(0.5, -0.05, name, transform=place, va="top", ha="center", fontsize=7.5)
        others = np.flatnonzero(truth == answer[i])
        if len(others):
            small = ax.inset_axes([0.74, -0.06, 0.42, 0.42])
            _picture(small, self.root, paths[others[0]])
            for edge in small.spines.values():
                edge.set(color=WRONG, visible=True)


# ---- what the displays share ------------------------------------------------


def _pyplot(who):
    """matplotlib.pyplot, or a sentence that says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{who} draws with matplotlib, which is not installed: "
            "pip install 'rezsl-sk[plot]'."
        ) from error
    return plt


def _axes(ax, display, *, figsize, layout="constrained"):
    """The axes to draw on, new where there are none."""
    plt = _pyplot(type(display).__name__)
    if ax is None:
        _, ax = plt.subplots(figsize=figsize, layout=layout)
    return ax


def _drawn(display, ax):
    display.ax_, display.figure_ = ax, ax.figure
    return display


def _check_kind(kind, allowed):
    if kind not in allowed:
        raise ValueError(f"kind must be one of {allowed}, got {kind!r}.")


def _plain(name, width=None):
    """A name as text: no mathematics, its middle left out above `width` letters."""
    text = str(name)
    if width is not None and len(text) > width:
        half = (width - 1) // 2
        text = f"{text[: width - 1 - half]}…{text[-half:]}"
    return text.replace("$", r"\$")


def _lines(name):
    """A name in two lines of a small picture's width."""
    lines = textwrap.wrap(str(name).replace("_", " "), 17, max_lines=2, placeholder="…")
    return _plain("\n".join(lines))


def _names(names, n):
    if names is None:
        return np.arange(n)
    names = np.asarray(names)
    if names.shape != (n,):
        raise ValueError(f"{n} names are needed, got shape {names.shape}.")
    return names


def _count(ax, gid):
    """How many lines of this kind are on the axes."""
    return sum(line.get_gid() == gid for line in ax.lines)


def _line_style(ax, gid):
    number = _count(ax, gid)
    return {
        "color": PALETTE[number % len(PALETTE)],
        "ls": DASHES[number % len(DASHES)],
        "lw": 1.8,
    }


def _name_ticks(axis, positions, names):
    """As many names as fit, evenly thinned."""
    upright = axis.axis_name == "x"
    box = axis.axes.get_window_extent()
    inches = (box.width if upright else box.height) / axis.axes.figure.dpi
    room = inches * 72 / len(positions)  # points for each name
    font = float(np.clip(room * 0.9, 6, 9))
    step = max(1, int(np.ceil(font * 1.02 / room)))
    axis.set_ticks(positions[::step])
    axis.set_ticklabels(
        [_plain(name, 22) for name in names[::step]],
        fontsize=font,
        rotation=90 if upright else 0,
    )
    if step > 1:
        axis.set_ticks(positions, minor=True)
        axis.set_tick_params(which="minor", length=1.5)


def _equal_h_lines(ax):
    """Thin lines of equal harmonic mean behind the curves, fitted to the axes."""
    for artist in [*ax.lines, *ax.texts]:
        if artist.get_gid() == "equal H":
            artist.remove()
    ends = np.max([line.get_xydata().max(axis=0) for line in ax.lines], axis=0)
    right, top = np.clip(1.04 * ends, 0.05, 1.02)
    ax.set(xlim=(0, right), ylim=(0, top))
    highest = harmonic_mean(min(right, 1), min(top, 1))
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if highest / s < 6)
    for H in np.arange(step, highest, step):
        S = np.linspace(H / (2 - H), min(top, 1), 400)  # from U = 1 on
        U = H * S / (2 * S - H + 1e-12)
        inside = (S > H / 2) & (U <= right)
        S, U = S[inside], U[inside]
        if len(S):
            grey = {"color": "#a0a0a0", "gid": "equal H", "zorder": 0}
            ax.plot(U, S, lw=0.6, ls=":", label="_H", **grey)
            text = f"H {H:.2g} "
            ax.text(U[0], S[0], text, fontsize=6.5, va="bottom", ha="right", **grey)


def _curve_legend(ax):
    from matplotlib.lines import Line2D

    curves = [line for line in ax.lines if line.get_gid() == "seen-unseen curve"]
    kinds = {line.get_label() for line in ax.lines}
    grey = {"color": "#555555", "ls": "none", "ms": 6}
    if "_own" in kinds:
        label = "at the model's seen penalty"
        curves.append(Line2D([], [], marker="o", label=label, **grey))
    if "_oracle" in kinds:
        label = "oracle: best H, chosen on these samples"
        curves.append(Line2D([], [], marker="D", mfc="none", label=label, **grey))
    ax.legend(
        handles=curves,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        fontsize=8,
        frameon=False,
    )


def _right_axis(ax, make=True):
    """The right axis of these axes, a new one where there is none."""
    for other in ax.get_shared_x_axes().get_siblings(ax):
        if other.get_gid() == "held-out accuracy":
            return other
    if not make:
        return None
    right = ax.twinx()
    right.set_gid("held-out accuracy")
    return right


def _label_ends(ax, x, heights, names, colours):
    """Names to the right of lines that end at `heights`, moved apart."""
    bottom, top = ax.get_ylim()
    space = 9 * 1.2 / 72 / (ax.get_window_extent().height / ax.figure.dpi)
    space *= top - bottom
    low = -np.inf
    for j in sorted(heights, key=heights.get):
        low = max(low + space, heights[j])
        ax.annotate(
            _plain(names[j], 22),
            (x, heights[j]),
            xytext=(x + 0.03 * (x - 1 or 1), low),
            color=colours[j],
            fontsize=8,
            va="center",
            annotation_clip=False,
        )


def _label_points(ax, points, names, away, font=7.5):
    """Names beside points, in their order, where they cover no other name.

    away (K, 2): direction in which there is room.
    """
    ax.autoscale_view()
    pixel = ax.figure.dpi / 72
    frame = ax.get_window_extent()
    taken = np.empty((0, 4))
    sides = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    align = ["left", "right", "center", "center"]
    for i, place in enumerate(ax.transData.transform(points)):
        text = _plain(names[i], 22)
        size = np.array([0.62 * len(text), 1.15]) * font * pixel
        for side in np.argsort(-sides @ away[i], kind="stable"):
            shift = sides[side] * (7, 10)
            low = place + shift * pixel - size / 2 + sides[side] * size / 2 * (1, 0)
            high = low + size
            covers = (taken[:, :2] < high).all(1) & (taken[:, 2:] > low).all(1)
            if (
                not covers.any()
                and (low >= frame.p0).all()
                and (high <= frame.p1).all()
            ):
                break
        else:
            continue
        taken = np.vstack([taken, [*low, *high]])
        label = ax.annotate(
            text,
            points[i],
            xytext=shift,
            textcoords="offset points",
            ha=align[side],
            va="center",
            fontsize=font,
            zorder=5,
        )
        label.set_bbox({"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"})
        label.get_bbox_patch().set_alpha(0.7)


def _picture(ax, root, path):
    import matplotlib.pyplot as plt

    file = Path(path) if root is None else Path(root) / str(path)
    try:
        picture = plt.imread(file)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} is no picture that can be read: {error}.") from error
    ax.imshow(picture, cmap="gray")  # for pictures without colours
    ax.set(xticks=[], yticks=[])
    for edge in ax.spines.values():
        edge.set_visible(False)


def _remse_weights(error, class_power, attribute_power, normalize):
    """ReMSE's weights of a class by attribute error (K, a), as the loss has them."""
    import torch

    from .losses import remse_weights

    error = torch.as_tensor(np.asarray(error, dtype=float))
    if class_power == attribute_power == 0:
        return np.ones(tuple(error.shape))
    weight = remse_weights(error, class_power, attribute_power).numpy()
    return weight / weight.mean() if normalize else weight
