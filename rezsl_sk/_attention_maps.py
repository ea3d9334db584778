"""The figure of what :class:`AttentionRegressor` looks at; part of ``plotting``."""

from __future__ import annotations

import math
import os
from numbers import Integral
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from ._views import regressor_of
from .model_selection import _through_pipelines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class AttentionMapDisplay:
    """Pictures, and where in them attributes look.

    A row for each picture: the picture, then a map for each of its attributes, bright
    where the attribute looks.

    Parameters
    ----------
    maps : array-like of shape (n, k, r)
        Attention of k attributes for each picture, over r regions row by row.

    names : array-like of shape (n, k)
        Names of these attributes.

    paths : array-like of str, shape (n,)
        The pictures' files.

    root : path-like or None, default=None
        Folder that `paths` are relative to.

    grid : (int, int) or None, default=None
        Rows and columns of the grid of regions. None: as many of each.

    crop : float, default=1.0
        Share of the shorter side that the network was shown, around the middle:
        0.875 where pictures were resized to 256 and cropped to 224.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n, 1 + k)

    ax_, figure_ : matplotlib Axes and Figure
        `ax_` bounds the rows.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np, matplotlib.pyplot as plt
    >>> from rezsl_sk.plotting import AttentionMapDisplay
    >>> folder = tempfile.TemporaryDirectory()
    >>> plt.imsave(pathlib.Path(folder.name, "seal.png"), np.zeros((8, 8, 3)))
    >>> display = AttentionMapDisplay.from_predictions(
    ...     [[[0.7, 0.1, 0.1, 0.1]]], names=[["whiskers"]],
    ...     paths=["seal.png"], root=folder.name,
    ... )
    >>> display.axes_[0, 1].get_title()
    'whiskers'
    >>> folder.cleanup()
    """

    def __init__(
        self,
        *,
        maps: ArrayLike,
        names: ArrayLike,
        paths: ArrayLike,
        root: str | os.PathLike[str] | None = None,
        grid: tuple[int, int] | None = None,
        crop: float = 1.0,
    ) -> None:
        self.maps = maps
        self.names = names
        self.paths = paths
        self.root = root
        self.grid = grid
        self.crop = crop

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        *,
        paths: ArrayLike,
        root: str | os.PathLike[str] | None = None,
        attributes: int | ArrayLike = 4,
        attribute_names: ArrayLike | None = None,
        grid: tuple[int, int] | None = None,
        crop: float = 1.0,
        ax: Axes | None = None,
    ) -> Self:
        """Draw where a fitted model looks.

        Parameters
        ----------
        estimator : AttentionRegressor, classifier with one, Pipeline or search
            Fitted.

        X : array-like of shape (n, r, d)
            Features of the regions.

        paths : array-like of str, shape (n,)
            The pictures' files, for instance ``paths`` of a feature cache.

        root : path-like or None, default=None
            Folder that `paths` are relative to.

        attributes : int or array-like of shape (k,), default=4
            How many attributes to show for each picture: those it predicts to stand
            out most from the training classes. Or the attributes themselves, by name
            or column of S: the same for all pictures.

        attribute_names : array-like of shape (a,) or None, default=None
            Names of the attributes; None: those of fit, or column numbers.

        grid, crop
            See the parameters of the class.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        Returns
        -------
        display : AttentionMapDisplay

        Raises
        ------
        ValueError
            If the model has no attention, an attribute is unknown or constant, or the
            regions make no grid.

        FileNotFoundError
            If a picture is not there.

        ImportError
            If matplotlib is not installed.
        """
        from .plotting import _names

        X, _ = _through_pipelines(estimator, X)
        regressor = regressor_of(estimator, cls.__name__)
        if not hasattr(regressor, "attention"):
            raise ValueError(
                f"{cls.__name__} needs a model that attends to regions, and "
                f"{type(regressor).__name__} does not. Give a fitted "
                "AttentionRegressor, or a classifier with one."
            )
        maps = regressor.attention(X)
        n, a, _ = maps.shape
        if attribute_names is None:
            attribute_names = regressor.attribute_names_
        named = _names(attribute_names, a)
        if isinstance(attributes, str):
            attributes = [attributes]
        if np.ndim(attributes) == 0:
            if not isinstance(attributes, Integral) or attributes < 1:
                raise ValueError(
                    "attributes must be how many to show, at least 1, or which; got "
                    f"{attributes!r}."
                )
            height = regressor.predict(X).reshape(n, a) - regressor.attribute_offset_
            height = height / regressor.attribute_scale_
            height[:, regressor.constant_attributes_] = -np.inf
            chosen = np.argsort(-height, axis=1, kind="stable")[:, :attributes]
        else:
            columns = [_column(named, attribute) for attribute in attributes]
            constant = np.intersect1d(columns, regressor.constant_attributes_)
            if len(constant):
                raise ValueError(
                    f"attributes {named[constant].tolist()} have one value over all "
                    "training classes and look nowhere; leave them out."
                )
            chosen = np.tile(np.array(columns, dtype=np.intp), (n, 1))
        return cls.from_predictions(
            np.take_along_axis(maps, chosen[:, :, np.newaxis], axis=1),
            names=named[chosen],
            paths=paths,
            root=root,
            grid=grid,
            crop=crop,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        maps: ArrayLike,
        *,
        names: ArrayLike,
        paths: ArrayLike,
        root: str | os.PathLike[str] | None = None,
        grid: tuple[int, int] | None = None,
        crop: float = 1.0,
        ax: Axes | None = None,
    ) -> Self:
        """Draw given maps.

        Parameters
        ----------
        maps, names, paths, root, grid, crop
            See the parameters of the class.

        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        Returns
        -------
        display : AttentionMapDisplay

        Raises
        ------
        ValueError, FileNotFoundError, ImportError
            As :meth:`from_estimator`.
        """
        display = cls(
            maps=maps, names=names, paths=paths, root=root, grid=grid, crop=crop
        )
        return display.plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        Returns
        -------
        display : AttentionMapDisplay
        """
        from .plotting import _axes, _drawn, _lines, _picture

        maps, names = np.asarray(self.maps), np.asarray(self.names)
        paths = np.asarray(self.paths)
        if maps.ndim != 3:
            raise ValueError(
                f"maps have the shape {maps.shape}; give (n, k, r): pictures, "
                "attributes, regions."
            )
        n, k, r = maps.shape
        if names.shape != (n, k) or paths.shape != (n,):
            raise ValueError(
                f"{n} pictures with {k} maps each need names of shape ({n}, {k}) and "
                f"paths of shape ({n},), got {names.shape} and {paths.shape}."
            )
        grid = (math.isqrt(r),) * 2 if self.grid is None else np.ravel(self.grid)
        if len(grid) != 2 or min(grid) < 1 or math.prod(grid) != r:
            raise ValueError(
                f"{r} regions make no grid of {' x '.join(map(str, grid))}; say by "
                "grid=(rows, columns) how they lie."
            )
        if ax is None:
            size = (1.3 * (k + 1), 1.5 * n)
            ax = _axes(None, self, layout=None, figsize=size)
            ax.set_position([0.01, 0.01, 0.98, 0.98])
        ax.set_axis_off()
        self.axes_ = np.empty((n, k + 1), dtype=object)
        for i, j in np.ndindex(n, k + 1):
            box = [(j + 0.04) / (k + 1), (n - i - 0.96) / n, 0.92 / (k + 1), 0.78 / n]
            self.axes_[i, j] = one = ax.inset_axes(box)
            _picture(one, self.root, paths[i])
            if j == 0:
                continue
            height, width = one.images[0].get_array().shape[:2]
            side = self.crop * min(height, width)
            left, top = (width - side) / 2 - 0.5, (height - side) / 2 - 0.5
            frame = one.axis()
            # What nobody looks at is dark, the rest is the picture itself.
            shade = np.zeros((*grid, 4))
            brightest = maps[i, j - 1].max()
            share = maps[i, j - 1].reshape(grid) / (brightest if brightest > 0 else 1)
            shade[..., 3] = 0.9 * (1 - share)
            one.imshow(
                shade,
                extent=(left, left + side, top + side, top),
                interpolation="bilinear",
            )
            one.axis(frame)
            one.set_title(_lines(names[i, j - 1]), fontsize=7.5, pad=2)
        return _drawn(self, ax)


def _column(names, attribute):
    """The column of an attribute given by name or number."""
    found = np.flatnonzero(names == attribute)
    if len(found) == 1:
        return found[0]
    if not isinstance(attribute, str) and 0 <= attribute < len(names):
        return int(attribute)
    raise ValueError(
        f"no attribute is named {attribute!r}; there are {len(names)}, such as "
        f"{names[:5].tolist()}."
    )
