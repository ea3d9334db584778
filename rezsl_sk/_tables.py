"""Attribute tables: which rows are one class, which table is usable."""

import numpy as np
from sklearn.utils import check_array


def distinct_rows(S):
    """Distinct rows of S and the number of each row's one.

    Parameters
    ----------
    S : array of shape (n, a) or (n,)

    Returns
    -------
    rows : ndarray of shape (K, a)
        In lexicographic order.

    index : ndarray of int, shape (n,)
        ``rows[index]`` equals S.
    """
    S = np.asarray(S)
    S = S.reshape(len(S), -1)
    first, index = _distinct(S)
    rows = S[first] + S.dtype.type(0)
    order = np.lexsort(rows.T[::-1])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rows[order], rank[index]


def repeated_rows(S):
    """Numbers of the rows of S (n, a) that equal an earlier one, and that one's."""
    first, index = _distinct(S)
    first = first[index]
    later = np.flatnonzero(first < np.arange(len(S)))
    return later, first[later]


def _distinct(S):
    """Where each distinct row of S (n, a) comes first; which of these each row is."""
    # Adding 0 turns -0.0, which equals 0.0 but has other bits, into 0.0. Rows
    # are compared as bytes: five times faster than np.unique(axis=0).
    S = np.ascontiguousarray(S + S.dtype.type(0))
    as_bytes = S.view(np.dtype((np.void, S.dtype.itemsize * S.shape[1]))).ravel()
    _, first, index = np.unique(as_bytes, return_index=True, return_inverse=True)
    return first, index.reshape(-1)


def check_table(table, *, what, names=None, attribute_names=None, n_attributes=None):
    """Names and attributes of classes, or a sentence that says what is wrong.

    Parameters
    ----------
    table : DataFrame indexed by class, or array-like of shape (k, a)

    what : str
        What the caller calls it, for messages.

    names : array-like of shape (k,) or None
        Names of the rows of an array.

    attribute_names : array of str or None
        Names of the attributes a DataFrame must have, and their order.

    n_attributes : int or None
        Number of attributes it must have.

    Returns
    -------
    names : ndarray of shape (k,) or None

    matrix : ndarray of shape (k, a), float64

    attribute_names : ndarray of str, shape (a,), or None
    """
    columns = column_names(table)
    if hasattr(table, "iloc") and hasattr(table, "index"):
        if names is None:
            names = list(table.index)
        if columns is not None and attribute_names is not None:
            given = set(columns.tolist())
            wanted = set(np.asarray(attribute_names).tolist())
            if given != wanted or len(columns) != len(attribute_names):
                raise ValueError(
                    f"{what} has other attributes than those of fit; missing: "
                    f"{sorted(wanted - given)[:5]}, unknown: "
                    f"{sorted(given - wanted)[:5]}. Give one column for each."
                )
            place = {name: i for i, name in enumerate(columns.tolist())}
            table = table.iloc[:, [place[name] for name in attribute_names]]
            columns = np.asarray(attribute_names)
        elif columns is not None and _is_disorder(columns):
            raise ValueError(
                f"{what} has columns numbered {columns[:5].tolist()}... and the model "
                "knows no names of attributes, so they go by position. Sort the "
                "columns, or name the attributes, here and in fit."
            )
    matrix = check_array(
        table, dtype=np.float64, input_name=what, ensure_all_finite=False
    )
    if n_attributes is not None and matrix.shape[1] != n_attributes:
        raise ValueError(
            f"{what} has {matrix.shape[1]} attributes, but the model was fitted with "
            f"{n_attributes}; each class needs a value for each of them."
        )
    if names is not None:
        names = check_names(names, len(matrix), what)
    for bad, fault in [
        (~np.isfinite(matrix).all(axis=1), "missing or infinite attributes"),
        (~matrix.any(axis=1), "no attributes (a row of zeros)"),
    ]:
        if bad.any():
            which = np.flatnonzero(bad) if names is None else names[bad]
            raise ValueError(
                f"{what} has classes with {fault}: {which[:5].tolist()}"
                f"{' and more' if len(which) > 5 else ''}. Describe them, or leave "
                "them out."
            )
    return names, matrix, columns


def column_names(table):
    """Names of a DataFrame's columns as strings; None if they are 0, 1, 2, ..."""
    columns = getattr(table, "columns", None)
    if columns is None or list(columns) == list(range(len(columns))):
        return None
    return np.asarray([str(name) for name in columns])


def _is_disorder(columns):
    """Whether columns are numbered 0, 1, 2, ..., in another order."""
    return set(columns.tolist()) == {str(i) for i in range(len(columns))}


def check_names(names, n, what):
    """Class names as an array of shape (n,), each once."""
    names = list(names)
    kinds = {isinstance(name, str) for name in names}
    if len(kinds) > 1:
        raise ValueError(
            f"{what} mixes strings and other names of classes; use one kind, the one "
            "of y."
        )
    array = np.asarray(names)
    if array.shape != (n,):
        raise ValueError(
            f"{what} needs a name for each of its {n} classes, got "
            f"{len(names)} names (shape {array.shape})."
        )
    unique, count = np.unique(array, return_counts=True)
    if (count > 1).any():
        raise ValueError(
            f"{what} names these classes more than once: "
            f"{unique[count > 1][:5].tolist()}. Each class must have one row."
        )
    return array
