"""What may go into a cache: labels, table of classes, splits and metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..tables import ClassTable

if TYPE_CHECKING:
    import pandas

__all__ = ["RESERVED", "check_classes", "check_metadata", "check_splits"]

# Attributes of the file that are not metadata.
RESERVED = ("format", "schema_version", "complete", "json_keys", "manifest_sha256")


def _names(values, what):
    """Class labels as a list of text; refuses what no name can be."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"{what} has the shape {values.shape}; it must be 1-D.")
    if values.dtype.kind not in "iubUOT":
        raise ValueError(
            f"{what} has the type {values.dtype}; classes are text or integers."
        )
    names = values.tolist()
    for name in names:
        if not isinstance(name, (str, int)):
            raise ValueError(
                f"{what} contains {name!r}; classes are text or integers, and none "
                f"may be missing."
            )
    return [str(name) for name in names]


def check_classes(
    n: int,
    y: ArrayLike | None,
    class_attributes: pandas.DataFrame | tuple[ArrayLike, ArrayLike] | None,
    attribute_names: ArrayLike | None,
    *,
    allow_missing: bool = False,
) -> tuple[np.ndarray | None, list[str] | None, np.ndarray | None, list[str] | None]:
    """Bring labels and table of classes together.

    Parameters
    ----------
    n : int
        Number of rows.
    y, class_attributes, attribute_names, allow_missing
        As for `write_cache`.

    Returns
    -------
    labels : ndarray of int of shape (n,) or None
        Indices into `classes`.
    classes : list of str of length C, or None
        In the order of the table; sorted where there is none.
    table : ndarray of float64 of shape (C, a) or None
        The attributes.
    attribute_names : list of str of length a, or None
        Names of the columns.

    Raises
    ------
    ValueError
        If they do not fit together, saying where.
    """
    names = None if y is None else _names(y, "y")
    if names is not None and len(names) != n:
        raise ValueError(f"y has {len(names)} entries for {n} rows; give one each.")
    table = None
    if class_attributes is None:
        if attribute_names is not None:
            raise ValueError(
                "attribute_names were given without class_attributes; give the table "
                "they belong to, or neither."
            )
        classes = None if names is None else sorted(set(names))
    else:
        classes, table, attribute_names = _checked_table(
            class_attributes, attribute_names, allow_missing
        )
    if names is None:
        return None, classes, table, attribute_names
    position = {name: i for i, name in enumerate(classes)}
    missing = sorted(set(names) - position.keys())
    if missing:
        raise ValueError(
            f"class_attributes has no row for {len(missing)} of the classes in y, the "
            f"first being {missing[0]!r}; add the rows, or leave their samples out."
        )
    labels = np.array([position[name] for name in names], dtype=np.int64)
    return labels, classes, table, attribute_names


def _checked_table(class_attributes, attribute_names, allow_missing):
    table = ClassTable.of(
        class_attributes,
        attribute_names=attribute_names,
        what="class_attributes",
        allow_missing=True,
    )
    classes = _names(table.names, "the list of classes")
    missing = np.argwhere(np.isnan(table.attributes))
    if len(missing) and not allow_missing:
        row, column = missing[0]
        raise ValueError(
            f"class_attributes of {classes[row]!r} are not finite: nan in column "
            f"{column + 1}. Fill it in, or allow missing values (allow_missing=True, "
            "--allow-missing)."
        )
    columns = table.attribute_names
    return classes, table.attributes, None if columns is None else columns.tolist()


def check_splits(
    splits: Mapping[str, ArrayLike] | None, n: int
) -> dict[str, np.ndarray]:
    """Give splits as arrays of int64; refuse what are no rows, and odd names.

    Parameters
    ----------
    splits : dict of str to array-like of int, or None
        As for `write_cache`.
    n : int
        Number of rows.

    Returns
    -------
    dict of str to ndarray of int64
        The row numbers.

    Raises
    ------
    ValueError
        If a split is no 1-D list of row numbers from 0 to n - 1, or its name cannot
        be stored.
    """
    checked = {}
    for name, rows in (splits or {}).items():
        rows = np.asarray(rows)
        if rows.size == 0:
            rows = np.zeros(0, dtype=np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError(
                f"The split {name!r} has the shape {rows.shape} and the type "
                f"{rows.dtype}; a split is a 1-D list of row numbers."
            )
        if rows.size and (rows.min() < 0 or rows.max() >= n):
            raise ValueError(
                f"The split {name!r} names rows {rows.min()} to {rows.max()}; there "
                f"are {n} rows, numbered from 0."
            )
        if not name or "/" in name or "\0" in name or name == ".":
            raise ValueError(f"{name!r} cannot be the name of a split.")
        checked[name] = rows.astype(np.int64)
    return checked


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Refuse metadata that a cache cannot hold.

    Parameters
    ----------
    metadata : dict or None
        As for `write_cache`.

    Returns
    -------
    dict
        A copy.

    Raises
    ------
    ValueError
        If a key is no printable text or is reserved, or a value is nothing for JSON.
    """
    metadata = dict(metadata or {})
    for key, value in metadata.items():
        if (
            not isinstance(key, str)
            or not key.isprintable()
            or not key
            or key in RESERVED
        ):
            raise ValueError(
                f"{key!r} cannot be a key of metadata; keys are text other than "
                f"{', '.join(RESERVED)}."
            )
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"metadata[{key!r}] cannot be written as JSON: {error}."
            ) from error
    return metadata
