"""Class tables: which classes there are, and the attributes that describe them.

The one place that reads what a user passes as a table of classes, checks it, and
says in a sentence what is wrong with it. Needs NumPy alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import unwrapped
from ._grouping import distinct_rows

__all__ = ["ClassTable"]


class ClassTable:
    """Names of classes and the attributes that describe each of them.

    Row i of `attributes` describes the class ``names[i]``: "zebra: stripes 1,
    hooves 1, fins 0". Every parameter ``class_attributes`` and ``prototypes`` of
    this library takes such a table, and also what :meth:`of` makes one from. A
    table is never changed: its arrays are copies and cannot be written to.

    Parameters
    ----------
    names : array-like of shape (C,)
        Names of the classes, text or numbers as in y, each once.

    attributes : array-like of shape (C, a)
        A finite number for each class and attribute, in any units.

    attribute_names : array-like of str of shape (a,) or None, default=None
        Names of the attributes, each once and none blank. None: the attributes
        are told apart by their position.

    Attributes
    ----------
    names : ndarray of shape (C,)
        As given.

    attributes : ndarray of shape (C, a), float64
        As given.

    attribute_names : ndarray of str, shape (a,), or None
        As given. Names 0, 1, 2, ... in this order are positions: such columns are
        not matched by name.

    precision : dtype
        float32 where all attributes were given in that or less, else float64:
        differences at the level of its rounding are none.

    numbered : bool
        Whether `names` are only the numbers of the rows, from 0, because the
        table was made from an array or a DataFrame that names no classes.

    Raises
    ------
    ValueError
        If the shapes do not agree, a class or an attribute is named twice or has
        a blank name, or a value is missing, infinite, or no number.

    Examples
    --------
    >>> from rezsl_sk.tables import ClassTable
    >>> table = ClassTable(
    ...     ["zebra", "whale"], [[1, 1, 0], [0, 0, 1]], ["stripes", "hooves", "fins"]
    ... )
    >>> table
    ClassTable(2 classes, 3 attributes)
    >>> table.attributes[table.rows(["whale"])]
    array([[0., 0., 1.]])
    >>> table.extended({"horse": [0, 1, 0]}).names.tolist()
    ['zebra', 'whale', 'horse']
    """

    def __init__(
        self,
        names: ArrayLike,
        attributes: ArrayLike,
        attribute_names: ArrayLike | None = None,
    ) -> None:
        self._set("ClassTable", names, attributes, attribute_names)

    @classmethod
    def of(
        cls,
        table: Any,
        *,
        names: ArrayLike | None = None,
        attribute_names: ArrayLike | None = None,
        what: str = "the class table",
        allow_missing: bool = False,
    ) -> Self:
        """A table of anything that describes classes.

        Parameters
        ----------
        table : ClassTable, DataFrame, pair, dict or array-like
            A DataFrame with a row for each class, indexed by class, and a column
            for each attribute; a pair ``(names, matrix)`` or ``(names,
            DataFrame)``; a dict from each name to its vector of attributes; or a
            matrix (C, a), whose classes are then numbered from 0.

        names : array-like of shape (C,) or None, default=None
            Names of the classes in the order of the rows. A table that names its
            classes itself must have the same names; its rows are then put into
            this order.

        attribute_names : array-like of str of shape (a,) or None, default=None
            Names of the columns, instead of those of a DataFrame.

        what : str, default="the class table"
            How messages call the table: the parameter that it was given as.

        allow_missing : bool, default=False
            Whether NaN may stand for a value that is missing. No estimator takes
            such a table; a feature cache can keep it.

        Returns
        -------
        table : ClassTable

        Raises
        ------
        ValueError
            If the table is unusable; the message says what to do.

        Warns
        -----
        UserWarning
            If the columns of a DataFrame are named by decimal numbers, as though
            its first row had been read as its header.
        """
        pair = _pair(table, what)
        if pair is not None:
            own, matrix = pair
            table = cls.of(matrix, names=own, what=what, allow_missing=allow_missing)
        if isinstance(table, ClassTable):
            if names is None and attribute_names is None and allow_missing:
                return table
            own = None if table.numbered else table.names
            matrix = table.attributes.astype(table.precision)
            columns = table.attribute_names
        elif _is_frame(table):
            own = None if _is_default_index(table.index) else list(table.index)
            matrix, columns = table, _columns(table, what)
            _warn_of_lost_header(table, columns, what)
        elif isinstance(table, Mapping):
            own = list(table)
            matrix, columns = _vectors(table, what)
        elif table is None or isinstance(table, str | bytes | set):
            raise ValueError(
                f"{what} must be a DataFrame indexed by class, or a pair (classes, "
                "matrix), a dict from class to attributes, or a ClassTable; got "
                f"{type(table).__name__}."
            )
        else:
            own, matrix, columns = None, table, None
        if attribute_names is None:
            attribute_names = columns
        new = cls.__new__(cls)
        first = names if own is None else own
        new._set(what, first, matrix, attribute_names, allow_missing)
        if own is not None and names is not None:
            new = new._in_order_of(check_names(names, None, what), what)
        return new

    def _set(self, what, names, attributes, attribute_names, allow_missing=False):
        matrix = _matrix(attributes, names, what)
        self.numbered = names is None
        if names is None:
            names = np.arange(len(matrix))
        else:
            names = _names(names)
            if len(names) != len(matrix) and len(names) == matrix.shape[1]:
                raise ValueError(
                    f"{what} has {len(names)} names of classes for a matrix of shape "
                    f"{matrix.shape}: it looks transposed. It needs a row for each "
                    "class; give matrix.T."
                )
            names = check_names(names, len(matrix), what)
        if attribute_names is not None:
            attribute_names = check_attribute_names(
                attribute_names, matrix.shape[1], what
            )
        bad = np.isinf(matrix) if allow_missing else ~np.isfinite(matrix)
        if bad.any():
            rows = np.flatnonzero(bad.any(axis=1))
            row, column = np.argwhere(bad)[0]
            attribute = column if attribute_names is None else attribute_names[column]
            raise ValueError(
                f"{what} has missing or infinite values: {matrix[row, column]} for "
                f"attribute {_shown(attribute)} of class {_shown(names[row])} is the "
                f"first of {bad.sum()}. Fill them in, or leave these classes out: "
                f"{_some(names[rows])}."
            )
        self.names, self.attributes = names.copy(), matrix
        self.attribute_names = attribute_names
        self.precision = _precision(attributes)
        self._freeze()

    def _freeze(self):
        for array in (self.names, self.attributes, self.attribute_names):
            if array is not None:
                array.setflags(write=False)

    def _in_order_of(self, names, what):
        """The same classes in the order of `names`, which must be just these."""
        if len(names) != len(self) or not np.isin(names, self.names).all():
            raise ValueError(
                f"{what} comes with two sets of names of classes: {_some(names)} and, "
                f"in the table itself, {_some(self.names)}. Give the table alone, or "
                "without its own names (DataFrame.to_numpy()) if its rows are in the "
                "order of the names."
            )
        return self._with(names, self.attributes[self.rows(names)])

    def _with(self, names, attributes, attribute_names=None, precision=None):
        """A table of parts that have been checked."""
        new = type(self).__new__(type(self))
        if attribute_names is None:
            attribute_names = self.attribute_names
        new.numbered = False
        new.names, new.attributes = np.array(names), np.array(attributes)
        new.attribute_names = attribute_names
        new.precision = precision or self.precision
        new._freeze()
        return new

    def rows(self, names: ArrayLike) -> np.ndarray:
        """Numbers of the rows of some classes.

        Parameters
        ----------
        names : array-like of shape (k,)
            Names of classes, any number of times each.

        Returns
        -------
        rows : ndarray of int, shape (k,)
            ``table.names[rows]`` equals `names`.

        Raises
        ------
        ValueError
            If the table has no class of that name.
        """
        names = np.asarray(names)
        order = np.argsort(self.names, kind="stable")
        place = np.searchsorted(self.names, names, sorter=order)
        found = order[np.minimum(place, len(order) - 1)]
        unknown = np.unique(names[self.names[found] != names])
        if len(unknown):
            raise ValueError(
                f"classes {_some(unknown)} are not in class_attributes; add their "
                "attributes (with_classes) or leave their samples out."
            )
        return found

    def extended(self, other: Any, *, what: str = "the new table") -> Self:
        """A table of these classes and, after them, others.

        Parameters
        ----------
        other : ClassTable or what :meth:`of` takes
            Classes that this table lacks, described by the same attributes:
            matched by name where both tables name them, else by position.

        what : str, default="the new table"
            How messages call `other`.

        Returns
        -------
        table : ClassTable

        Raises
        ------
        ValueError
            If a class is in both tables or the attributes differ.
        """
        other = type(self).of(other, what=what)
        if other.attributes.shape[1] != self.attributes.shape[1]:
            raise ValueError(
                f"{what} has {other.attributes.shape[1]} attributes, those of fit "
                f"{self.attributes.shape[1]}; describe all classes by the same."
                f"{other.turned(self.attributes.shape[1])}"
            )
        other = other.with_columns_of(self.attribute_names, what=what)
        known = np.intersect1d(other.names, self.names)
        if len(known):
            raise ValueError(
                f"{what} has classes that are known already: {_some(known)}. Leave "
                "them out; to change a class's attributes fit again."
            )
        names = [*self.names.tolist(), *other.names.tolist()]
        return self._with(
            check_names(names, len(names), what),
            np.concatenate([self.attributes, other.attributes]),
            precision=min(self.precision, other.precision, key=lambda d: d.itemsize),
        )

    def with_columns_of(
        self, attribute_names: ArrayLike | None, *, what: str = "the class table"
    ) -> Self:
        """The same table with its columns in a given order.

        Parameters
        ----------
        attribute_names : array-like of str of shape (a,) or None
            Names of the attributes in the order wanted; None: they have none.

        what : str, default="the class table"
            How messages call this table.

        Returns
        -------
        table : ClassTable
            With these names, also where its columns had none and so go by
            position.

        Raises
        ------
        ValueError
            If the attributes have other names, or numbers out of order where the
            attributes wanted have no names.
        """
        order = _order_of_columns(self.attribute_names, attribute_names, what)
        if names_or_none(attribute_names) is None:
            return self
        attributes = self.attributes if order is None else self.attributes[:, order]
        new = self._with(self.names, attributes, np.array(attribute_names, dtype=str))
        new.numbered = self.numbered
        return new

    def turned(self, n_attributes: int) -> str:
        """A sentence for messages, if the table seems to have its axes exchanged."""
        if len(self) != n_attributes:
            return ""
        return " It looks transposed: it has a row for each of them. Give table.T."

    def equal_classes(self) -> list[np.ndarray]:
        """Sets of classes that no attribute tells apart.

        Returns
        -------
        sets : list of ndarray
            Names of the classes of each set, two or more.
        """
        row = distinct_rows(self.attributes)[1]
        return [
            self.names[row == which] for which in np.flatnonzero(np.bincount(row) > 1)
        ]

    def check_describes(
        self, labels: np.ndarray, *, what: str = "class_attributes"
    ) -> None:
        """Refuse labels that no row describes; warn of rows that are not theirs.

        Parameters
        ----------
        labels : ndarray of shape (K,)
            The distinct labels of y.

        what : str, default="class_attributes"
            How messages call the table.

        Raises
        ------
        ValueError
            If a label has no row; the message says what the reason seems to be.

        Warns
        -----
        UserWarning
            If the table only numbers its rows, and the labels seem to count from
            1, or the columns seem to be the classes.
        """
        kinds_differ = _is_text(labels) != _is_text(self.names)
        missing = labels if kinds_differ else labels[~np.isin(labels, self.names)]
        if kinds_differ:
            raise ValueError(
                f"y has labels such as {_shown(labels[0])} and {what} has classes such "
                f"as {_shown(self.names[0])}; name classes in both alike."
                f"{self._reason(labels, missing)}"
            )
        if len(missing):
            raise ValueError(
                f"{what} has no row for these classes of y: {_some(missing)}. Describe "
                f"every class.{self._reason(labels, missing)}"
            )
        if not self.numbered or labels.dtype.kind not in "iu":
            return
        n_rows, n_columns = self.attributes.shape
        # Where all classes but the first are there, it was probably held out.
        if labels[0] > 0 and labels[-1] == len(labels) < n_rows - 1:
            warnings.warn(
                f"y has the labels {labels[0]} to {labels[-1]}, and {what} names no "
                "classes, so that its rows count from 0: the labels seem to count from "
                "1. Index the table by class, or give (classes, matrix).",
                stacklevel=5,
            )
        elif (
            names_or_none(self.attribute_names) is None
            and n_columns < n_rows
            and n_columns in (len(labels), labels[-1] + 1)
        ):
            warnings.warn(
                f"{what} names no classes and has as many columns as y has classes, "
                f"{n_columns}, and {n_rows} rows. If its columns are the classes, give "
                "the table's transpose; else index it by class, or give (classes, "
                "matrix).",
                stacklevel=5,
            )

    def _reason(self, labels, missing):
        """Why rows may be missing, as a sentence, or nothing."""
        n_rows, n_columns = self.attributes.shape
        columns = names_or_none(self.attribute_names)
        whole = labels.dtype.kind in "iu"
        if self.numbered and whole and labels[0] > 0 and labels[-1] == n_rows:
            return (
                " The labels seem to count from 1, and the rows of the table count "
                "from 0: index the table by class."
            )
        if columns is None and whole and self.numbered:
            columns = np.arange(n_columns).astype(str)
        if columns is not None and np.isin(labels.astype(str), columns).all():
            return " It looks transposed: its columns are these classes. Give table.T."
        numbers = {_as_whole(name): name for name in self.names.tolist()}
        for label in missing.tolist():
            number = _as_whole(label)
            if number is not None and number in numbers:
                return (
                    f" {label!r} and {numbers[number]!r} are not the same name: names "
                    "such as '001' become numbers unless a table is read with "
                    "dtype=str."
                )
        if self.numbered and not whole:
            if n_columns == len(labels) != n_rows:
                return (
                    " It has as many columns as y has classes: if these are the "
                    "classes, give the table's transpose with its columns' names."
                )
            return (
                " The table names no classes: index it by class (set_index), or give "
                "(classes, matrix)."
            )
        return ""

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        C, a = self.attributes.shape
        return f"ClassTable({C} classes, {a} attributes)"

    def __deepcopy__(self, memo):
        return self  # nothing of it can change

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._freeze()  # pickle does not keep the flag


# ---- columns ---------------------------------------------------------------------


def column_names(table, what="the table"):
    """Names of a DataFrame's columns as strings; None if they are 0, 1, 2, ...

    Raises
    ------
    ValueError
        If a name is blank or stands twice.
    """
    return names_or_none(_columns(table, what))


def names_or_none(names):
    """Names of attributes (a,), or None where they only count: 0, 1, 2, ..."""
    return None if names is None or _counts_up(names) else names


def _columns(table, what):
    """Names of a DataFrame's columns as strings; of anything else None."""
    columns = getattr(table, "columns", None)
    return None if columns is None else check_attribute_names(columns, None, what)


def in_column_order(S, attribute_names, what="S"):
    """S with the columns of a DataFrame put into the order of `attribute_names`.

    Parameters
    ----------
    S : DataFrame or array-like of shape (n, a) or (n,)
        The attributes of samples.

    attribute_names : ndarray of str of shape (a,) or None
        The names in fit.

    what : str
        How messages call S.

    Returns
    -------
    S : as given, or DataFrame of the same columns
    """
    order = _order_of_columns(_columns(S, what), attribute_names, what)
    if order is None:
        return S
    return S.iloc[:, order] if _is_frame(S) else np.asarray(S)[:, order]


def check_attribute_names(names, n, what):
    """Names of attributes as an array of str of shape (n,): none blank, each once.

    n None: any number.
    """
    names = np.asarray([str(name) for name in names], dtype=np.str_)
    n = len(names) if n is None else n
    if len(names) != n:
        raise ValueError(
            f"{what} has {n} attributes, but {len(names)} attribute names were given; "
            "give one for each."
        )
    blank = [i for i, name in enumerate(names.tolist()) if _is_blank(name)]
    if blank:
        raise ValueError(
            f"{what} has attributes without a name, in columns {blank[:5]} (from 0) of "
            f"{n}. Name them; a first column that holds the classes is read with "
            "pandas.read_csv(..., index_col=0)."
        )
    unique, count = np.unique(names, return_counts=True)
    if (count > 1).any():
        raise ValueError(
            f"{what} names these attributes more than once: "
            f"{_some(unique[count > 1])}. Each must have a name of its own."
        )
    return names


def _is_blank(name):
    # pandas writes "Unnamed: 0" and nan where a header has nothing.
    return not name.strip() or name == "nan" or re.fullmatch(r"Unnamed: \d+", name)


def _counts_up(columns):
    """Whether names are 0, 1, 2, ... in this order: positions, not names."""
    return np.array_equal(columns, np.arange(len(columns)).astype(str))


def _order_of_columns(columns, wanted, what):
    """Which column each wanted attribute is, or None where they go by position."""
    wanted = names_or_none(wanted)
    if columns is None:
        return None
    if wanted is None:
        if _counts_up(columns):
            return None
        if set(columns.tolist()) == {str(i) for i in range(len(columns))}:
            raise ValueError(
                f"{what} has columns numbered {columns[:5].tolist()}... and the model "
                "has no names of attributes, so columns go by position. Sort the "
                "columns, or name the attributes, here and in fit."
            )
        return None
    given, needed = set(columns.tolist()), set(np.asarray(wanted).tolist())
    if given != needed:
        if _counts_up(columns) and len(columns) == len(wanted):
            return None
        raise ValueError(
            f"{what} has other attributes than those of fit; missing: "
            f"{sorted(needed - given)[:5]}, unknown: {sorted(given - needed)[:5]}. "
            "Give one column for each."
        )
    place = {name: i for i, name in enumerate(columns.tolist())}
    return [place[name] for name in np.asarray(wanted).tolist()]


def _warn_of_lost_header(table, columns, what):
    """Warn of columns named by numbers as data has them."""
    if columns is None or not all(isinstance(name, str) for name in table.columns):
        return
    # pandas makes "0", "0.1", "0.2" of a value that stands in the header thrice.
    number = re.compile(r"\s*[-+]?\d+(\.\d+)*(e[-+]?\d+)?(\.\d+)?\s*", re.IGNORECASE)
    names = columns.tolist()
    if all(number.fullmatch(name) for name in names) and "." in "".join(names):
        warnings.warn(
            f"{what} names its attributes by numbers as data has them: {names[:5]}. Is "
            "the header missing, so that the first class was read as the header? Then "
            "read the table with header=None; if not, name the attributes otherwise.",
            stacklevel=3,
        )


# ---- names of classes ------------------------------------------------------------


def check_names(names, n, what):
    """Class names as an array of shape (n,), each once; n None: any number."""
    names = _names(names)
    n = len(names) if n is None else n
    kinds = {isinstance(name, str) for name in names}
    if len(kinds) > 1:
        raise ValueError(
            f"{what} mixes strings and other names of classes; use one kind, the one "
            "of y."
        )
    if any(_is_missing(name) for name in names):
        raise ValueError(
            f"{what} has a class without a name (None or NaN); name it, or leave it "
            "out."
        )
    array = np.asarray(names)
    if array.shape != (n,):
        raise ValueError(
            f"{what} needs a name for each of its {n} classes, got "
            f"{len(names)} names (shape {array.shape})."
        )
    if array.dtype.kind == "U" and array.tolist() != names:
        raise ValueError(f"{what} has names of classes that end in a NUL character.")
    unique, count = np.unique(array, return_counts=True)
    if (count > 1).any():
        raise ValueError(
            f"{what} names these classes more than once: {_some(unique[count > 1])}. "
            "Each class must have one row."
        )
    return array


def _names(names):
    try:
        return list(names)
    except TypeError:
        return [names]  # one name instead of a list of them: the count will not fit


def check_labels(y, what="y"):
    """Labels as an array, or a sentence about missing and mixed ones.

    Parameters
    ----------
    y : array-like of shape (n,), or DataFrame with one column
        Names or numbers of classes.

    what : str
        How messages call y.

    Returns
    -------
    y : ndarray
        Whole numbers in an object array as an array of integers.
    """
    if _is_frame(y) and y.shape[1] == 1:
        y = y.iloc[:, 0]
    y = np.asarray(y)
    if y.dtype.kind != "O" or y.ndim != 1:
        return y
    labels = y.tolist()
    missing = [i for i, label in enumerate(labels) if _is_missing(label)]
    if missing:
        raise ValueError(
            f"{what} has no label (None or NaN) in the rows {_some(missing)}; label "
            "them, or leave these rows out."
        )
    if len({isinstance(label, str) for label in labels}) > 1:
        text = next(label for label in labels if isinstance(label, str))
        other = next(label for label in labels if not isinstance(label, str))
        raise ValueError(
            f"{what} mixes text, such as {text!r}, and other labels, such as "
            f"{other!r}; use one kind, the one of the table."
        )
    whole = (int, np.integer)
    if all(isinstance(i, whole) and not isinstance(i, bool) for i in labels):
        return np.array(labels)
    return y


def attribute_rows(S, what="S"):
    """The attributes of samples as an array of numbers, whatever holds them.

    Parameters
    ----------
    S : DataFrame or array-like of shape (n, a) or (n,)

    what : str
        How messages call S.

    Returns
    -------
    S : ndarray of shape (n, a) or (n,)
        float64 where the columns of a DataFrame are nullable, objects, or of
        several types, else of the type of S.
    """
    if _is_frame(S):
        _refuse_text_columns(S, (), what)
    values = np.asarray(S)
    return values if values.dtype.kind in "biuf" else _numbers(values, what)


def _is_text(labels):
    return labels.dtype.kind in "US" or isinstance(labels[0], str)


def _as_whole(name):
    """The whole number that a name stands for, or None."""
    try:
        number = int(name)
    except (TypeError, ValueError):
        return None
    return number if isinstance(name, str) or number == name else None


# ---- reading ---------------------------------------------------------------------


def _is_frame(table):
    return hasattr(table, "iloc") and hasattr(table, "columns")


def _is_default_index(index):
    """Whether an index just counts the rows: pandas makes it where there is none."""
    return (
        getattr(index, "start", None) == 0
        and getattr(index, "step", None) == 1
        and index.name is None
    )


def _pair(table, what):
    """The parts of (names, matrix); None where the table is no pair."""
    if not isinstance(table, tuple | list) or len(table) != 2:
        return None
    first, second = table
    n_dims = _n_dims(first), _n_dims(second)
    if n_dims == (2, 1):
        raise ValueError(
            f"{what} is a pair (matrix, names); give them the other way round: (names, "
            "matrix)."
        )
    if n_dims[0] < 2 and (n_dims[1] > 1 or isinstance(second, ClassTable)):
        return first, second
    if n_dims == (1, 1) and any(isinstance(name, str) for name in first):
        return first, second  # a column instead of a matrix: refused by its shape
    return None


def _n_dims(part):
    if not hasattr(part, "ndim") and not isinstance(part, str | bytes):
        try:
            part = list(part)
        except TypeError:
            return 0
    try:
        return np.ndim(part)
    except ValueError:  # rows of unequal length
        return 2


def _vectors(table, what):
    """Matrix and attribute names of a dict from class to vector."""
    if not table:
        raise ValueError(f"{what} is an empty dict; it needs a vector for each class.")
    vectors = list(table.values())
    if not all(hasattr(vector, "items") for vector in vectors):
        lengths = {np.shape(vector) for vector in vectors}
        if len(lengths) > 1:
            raise ValueError(
                f"{what} has vectors of different shapes: {sorted(lengths)[:5]}; each "
                "class needs a value for each attribute."
            )
        return np.array(vectors), None
    # Series and dicts name their values, maybe in different orders.
    first, *others = vectors = [dict(vector.items()) for vector in vectors]
    for name, vector in zip(list(table)[1:], others, strict=True):
        if vector.keys() != first.keys():
            raise ValueError(
                f"{what} describes class {_shown(name)} by other attributes than the "
                f"first class; they differ in "
                f"{_some(sorted(map(str, vector.keys() ^ first.keys())))}."
            )
    return [[vector[key] for key in first] for vector in vectors], list(first)


def _matrix(table, names, what):
    """A matrix of float64, a copy; NaN for what is missing."""
    table = unwrapped(table)
    if hasattr(table, "toarray"):
        table = table.toarray()
    if _is_frame(table):
        _refuse_text_columns(table, names, what)
        columns = [_numbers(table.iloc[:, i], what) for i in range(table.shape[1])]
        matrix = np.array(columns, dtype=np.float64).reshape(table.shape[::-1]).T
    else:
        try:
            matrix = _numbers(table, what)
        except ValueError as error:
            if "inhomogeneous" not in str(error):
                raise
            raise ValueError(
                f"{what} has rows of different lengths; each class needs a value for "
                "each attribute."
            ) from None
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{what} must be a matrix with a row for each class and a column for each "
            f"attribute, got shape {matrix.shape}."
        )
    return np.array(matrix, dtype=np.float64, order="C")


def _precision(attributes):
    """float32 for attributes in that or less, else float64."""
    attributes = unwrapped(attributes)
    if _is_frame(attributes):
        dtypes = attributes.dtypes.tolist()
    else:
        dtypes = [getattr(attributes, "dtype", np.dtype(np.float64))]
    narrow = all(
        getattr(dtype, "kind", "O") == "f" and dtype.itemsize < 8 for dtype in dtypes
    )
    return np.dtype(np.float32 if narrow else np.float64)


def _numbers(values, what):
    """Values as an array of float64."""
    kind = getattr(getattr(values, "dtype", None), "kind", "")
    if hasattr(values, "iloc") and kind in "biuf":  # nullable columns, too
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.ma.isMaskedArray(values):
        values = values.astype(np.float64).filled(np.nan)
    values = np.asarray(values)
    if values.dtype.kind == "O":
        flat = [_number(value) for value in values.ravel().tolist()]
        text = next((value for value in flat if isinstance(value, str)), None)
        if text is None:
            return np.array(flat, dtype=np.float64).reshape(values.shape)
        values = np.array([text])
    if values.dtype.kind not in "biuf":
        example = f" such as {values.flat[0].item()!r}" if values.size else ""
        raise ValueError(
            f"{what} must hold real numbers, got values of type {values.dtype}"
            f"{example}. Attributes are numbers; turn others into 0 and 1, or leave "
            "them out."
        )
    return values.astype(np.float64)


def _number(value):
    """An entry of an object array as a float, or as text where it is none."""
    if _is_missing(value):
        return np.nan
    try:
        return value if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return str(value)


def _is_missing(value):
    """None, NaN, NaT and pandas.NA: what is not even equal to itself."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):
        return str(value) == "<NA>"


def _refuse_text_columns(table, names, what):
    """Name the columns that hold no numbers, and say what they probably are."""
    text = {}
    for i in range(table.shape[1]):
        values = table.iloc[:, i]
        if getattr(values.dtype, "kind", "O") in "biuf":
            continue
        found = next((v for v in values.tolist() if isinstance(_number(v), str)), None)
        if found is not None:
            text[i] = found
    if not text:
        return
    shown = [str(table.columns[i]) for i in text]
    first = next(iter(text))
    example = f"{_some(shown)} (such as {text[first]!r})"
    if all(_is_number_as_text(value) for value in text.values()):
        advice = "They seem to be numbers written as text: use table.astype(float)."
    elif names is None and len(text) < table.shape[1]:
        how = "index_col=0" if _is_blank(shown[0]) else f"index_col={shown[0]!r}"
        advice = (
            f"If {shown[0]!r} names the classes, use table.set_index({shown[0]!r}), or "
            f"pandas.read_csv(..., {how}); leave other columns of text out."
        )
    else:
        advice = "Leave them out, or turn them into 0 and 1 (pandas.get_dummies)."
    raise ValueError(f"{what} has columns that hold no numbers: {example}. {advice}")


def _is_number_as_text(value):
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _some(values):
    """At most five values for a message."""
    values = [v.item() if isinstance(v, np.generic) else v for v in values]
    return f"{values[:5]}{' and more' if len(values) > 5 else ''}"


def _shown(name):
    return repr(name.item() if isinstance(name, np.generic) else name)
