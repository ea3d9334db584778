"""The table of attributes as a user keeps it: a text file with a row for each class.

Nothing is guessed in silence: a cell that cannot be read is an error that names it, and
whatever is read in another way than a plain number, or is left out, gets a line.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, field

import numpy as np

from .delimited import CLASS_HEADERS, read_rows

__all__ = ["AttributeTable", "read_attributes"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
_TRUTH = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
# What pandas, R and spreadsheets write for a value that is not there.
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"}
_CLASS_HEADERS = CLASS_HEADERS | {"name", "category"}
_INDEX_HEADERS = {"", "unnamed: 0", "index", "id"}


@dataclass
class AttributeTable:
    """Classes described by attributes, and what is to be said of their file.

    Parameters
    ----------
    classes : list of str of length C
        Names of the classes.
    matrix : ndarray of float64 of shape (C, a)
        The attributes; NaN where a value is missing.
    attribute_names : list of str of length a
        Names of the columns; ``"0"``, ``"1"``, ... where the file has no header.
    left_out : list of str, default=[]
        Names of the columns that are no numbers.
    notes : list of str, default=[]
        Sentences on what was read in another way than a plain table.

    Examples
    --------
    >>> import numpy as np
    >>> from rezsl_features.attributes import AttributeTable
    >>> table = AttributeTable(["cat"], np.array([[1.0]]), ["furry"], ["split"])
    >>> table.summary()
    '1 attribute of 1 class: furry; left out: split'
    """

    classes: list[str]
    matrix: np.ndarray
    attribute_names: list[str]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Which columns were taken, and which were not, in one line.

        Returns
        -------
        str
            With all names; of more than 40 columns, with the first and last 15.

        Examples
        --------
        >>> import numpy as np
        >>> from rezsl_features.attributes import AttributeTable
        >>> names = ["furry", "n_images"]
        >>> AttributeTable(["cat"], np.ones((1, 2)), names).summary()
        '2 attributes of 1 class: furry, n_images'
        """
        n_classes, n_attributes = self.matrix.shape
        text = (
            f"{n_attributes} attribute{'s' * (n_attributes != 1)} of {n_classes} "
            f"class{'es' * (n_classes != 1)}: {_some(self.attribute_names)}"
        )
        if self.left_out:
            text += f"; left out: {_some(self.left_out)}"
        return text


def _some(names):
    if len(names) <= 40:
        return ", ".join(names)
    return ", ".join([*names[:15], f"... {len(names) - 30} more ...", *names[-15:]])


def read_attributes(
    path: str | os.PathLike[str], *, allow_missing: bool = False
) -> AttributeTable:
    """Read a table of attributes: a row for each class, a column for each attribute.

    Parameters
    ----------
    path : str or path-like
        A text file in UTF-8, separated by commas, tabs, semicolons or vertical bars.
        The first column names the classes; where that holds the row numbers of pandas
        or other numbers, a later column headed ``class``, ``label`` or ``name`` does.
        The first row names the attributes; if it holds numbers it is taken for a class.
    allow_missing : bool, default=False
        Whether an empty cell, or one such as NA or NaN, is a missing value.

    Returns
    -------
    AttributeTable
        Columns of plain numbers as they are; of decimal commas as numbers; of
        percentages as shares (50% is 0.5); of true, yes, false and no as 1 and 0.
        Columns of text, and those without any value, are left out and listed.

    Raises
    ------
    ValueError
        If a cell in a column of numbers is of another kind than its column's others,
        or is empty without `allow_missing`; if the table has no rows or no column of
        numbers, a class or an attribute without a name, or two of one name; if
        the file is no table in UTF-8.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from rezsl_features.attributes import read_attributes
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "classes.csv")
    ...     _ = path.write_text("class,set,furry,legs\\ncat,a,yes,4\\nhen,b,no,2\\n")
    ...     table = read_attributes(path)
    >>> table.classes, table.matrix.tolist(), table.attribute_names
    (['cat', 'hen'], [[1.0, 4.0], [0.0, 2.0]], ['furry', 'legs'])
    >>> table.left_out, table.notes
    (['set'], ['Read as yes = 1 and no = 0: furry.'])
    """
    rows = read_rows(path)
    cells = [[cell.strip() for cell in row] for row in rows.cells]
    if len(cells[0]) == 1:
        raise ValueError(
            f"{path} has one column, headed {cells[0][0]!r}: no comma, tab, semicolon "
            f"or vertical bar separates a class from its attributes."
        )
    notes = []
    if rows.separator != "commas":
        notes.append(f"The columns are separated by {rows.separator}.")
    has_header = _has_header(path, cells)
    lines = rows.lines
    if has_header:
        header, cells, lines = cells[0], cells[1:], lines[1:]
        if not cells:
            raise ValueError(f"{path} has no line under its header.")
    else:
        header = ["", *(str(i) for i in range(len(cells[0]) - 1))]
        notes.append(
            f"There is no header, for the first row holds numbers: it is the class "
            f"{cells[0][0]!r}, and the attributes are numbered from 0."
        )
    columns = [list(column) for column in zip(*cells, strict=True)]
    at = _class_column(header, columns) if has_header else 0
    if at:
        notes.append(
            f"The classes are in column {at + 1}, {header[at]!r}; those before it were "
            f"left out."
        )
    classes = columns[at]
    _check_classes(path, classes, lines, header[at])
    taken, left_out, manners = {}, [], {}
    for number in range(at + 1, len(header)):
        column = _Column(path, number, header[number], columns[number])
        values = column.read(classes, lines, allow_missing)
        if values is not None:
            taken[number] = values
            manners.setdefault(column.manner, []).append(header[number])
        elif header[number] or not column.is_blank():
            left_out.append(header[number] or f"column {number + 1}")
    if not taken:
        raise ValueError(
            f"{path} has no column of numbers beside its classes; seen were "
            f"{len(header)} columns separated by {rows.separator}: {_some(header)}."
        )
    notes += [
        f"Read {_NOTES[manner]}: {_some(names)}."
        for manner, names in manners.items()
        if manner in _NOTES
    ]
    names = [header[number] for number in taken]
    _check_names(path, names, list(taken))
    matrix = np.array(list(taken.values())).T
    n_missing = int(np.isnan(matrix).sum())
    if n_missing:
        notes.append(f"{n_missing} of {matrix.size} values are missing.")
    return AttributeTable(classes, matrix, names, left_out, notes)


def _has_header(path, cells):
    """Whether the first row names the columns, rather than being a class."""
    head, *first = cells[0]
    if head.lower() in _CLASS_HEADERS | _INDEX_HEADERS:
        return True
    some = cells[1:51]
    # A text says nothing where the column's other cells are text as well.
    of_values = [
        cell
        for i, cell in enumerate(first, 1)
        if not some or sum(_kind(row[i]) is None for row in some) * 2 < len(some)
    ]
    kinds = [_kind(cell) for cell in of_values]
    texts = [c for c, kind in zip(of_values, kinds, strict=True) if kind is None]
    values = [
        c
        for c, kind in zip(of_values, kinds, strict=True)
        if kind not in (None, "missing")
    ]
    if texts and values:
        raise ValueError(
            f"{path} may have a header or not: in its first row {texts[0]!r} is text "
            f"and {values[0]!r} a value. Head the first column `class` if the row is a "
            f"header; write the odd cell like its column if the row is a class."
        )
    return not values


def _class_column(header, columns):
    """The column with the names of classes: the first, unless that counts rows."""
    first, head = columns[0], header[0].lower()
    if head in _CLASS_HEADERS or any(_kind(cell) != "number" for cell in first):
        return 0
    names_later = [
        i
        for i in range(1, len(header))
        if header[i].lower() in _CLASS_HEADERS
        and any(_kind(cell) is None for cell in columns[i])
    ]
    if names_later:
        return names_later[0]
    counted = [[str(i + start) for i in range(len(first))] for start in (0, 1)]
    if head in _INDEX_HEADERS and first in counted:
        second = columns[1]
        if all(_kind(cell) is None for cell in second) and _is_distinct(second):
            return 1
    return 0


def _is_distinct(names):
    return len(set(names)) == len(names)


def _check_classes(path, classes, lines, head):
    seen = {}
    for name, line in zip(classes, lines, strict=True):
        if not name:
            raise ValueError(f"{path} has no class in line {line}; name it.")
        # An accent is one letter or two by the system it was written on.
        key = unicodedata.normalize("NFC", name)
        if key in seen:
            raise ValueError(
                f"{path} has the class {name!r} in lines {seen[key]} and {line}; each "
                f"class has one row, and its name stands in the first column (here "
                f"{head!r})."
            )
        seen[key] = line


def _check_names(path, names, numbers):
    seen = {}
    for name, number in zip(names, numbers, strict=True):
        if not name:
            raise ValueError(
                f"{path} has no name for the attribute in column {number + 1}; name "
                f"it in the first line."
            )
        key = unicodedata.normalize("NFC", name)
        if key in seen:
            raise ValueError(
                f"{path} has two attributes named {name!r}, in columns {seen[key] + 1} "
                f"and {number + 1}; give each a name of its own."
            )
        seen[key] = number


def _kind(cell):
    """What a cell is written as; None for text."""
    lower = cell.lower()
    if lower in _MISSING:
        return "missing"
    if lower in _TRUTH:
        return "truth"
    number, kind = cell, ""
    if cell.endswith("%"):
        number, kind = cell[:-1].rstrip(), "percent"
    if _NUMBER.fullmatch(number):
        # 1e999 is no number of float64.
        return (kind or "number") if np.isfinite(float(number)) else None
    if _DECIMAL_COMMA.fullmatch(number):
        return kind or "comma"
    return "thousands" if _THOUSANDS.fullmatch(number) else None


class _Column:
    """One column below the header: read as a whole, in the manner of its cells."""

    def __init__(self, path, number, name, cells):
        self.path, self.number, self.name, self.cells = path, number, name, cells
        self.kinds = [_kind(cell) for cell in cells]

    def is_blank(self):
        return not any(self.cells)

    def read(self, classes, lines, allow_missing):
        """Values of the column, NaN where missing; None if it is text."""
        there = [kind for kind in self.kinds if kind != "missing"]
        n_text = there.count(None)
        if not there or n_text * 2 > len(there):
            return None

        def refuse(i, remedy):
            cell = repr(self.cells[i]) if self.cells[i] else "empty"
            raise ValueError(
                f"{self.path}: in line {lines[i]} ({classes[i]!r}), column "
                f"{self.number + 1} ({self.name!r}), the cell is {cell}; {remedy}"
            )

        # A whole number may stand among decimal commas as well.
        main = max(
            ("comma", "percent", "truth", "number"),
            key=lambda kind: there.count(kind),
        )
        if main == "number" and "comma" in there and not self._has_points():
            main = "comma"
        allowed = {main, "missing"} | ({"number"} if main == "comma" else set())
        odd = [i for i, kind in enumerate(self.kinds) if kind not in allowed]
        if odd:
            refuse(
                odd[0],
                f"the column holds {_WORDS[main]} elsewhere. Write it like the "
                f"others, or leave out the column."
                + (f" {len(odd) - 1} more cells are odd." if len(odd) > 1 else ""),
            )
        with_comma = [i for i, cell in enumerate(self.cells) if "," in cell]
        if with_comma and main in ("comma", "percent"):
            pointed = [i for i, cell in enumerate(self.cells) if "." in cell]
            if pointed:
                refuse(pointed[0], "other cells of the column have a decimal comma.")
            groups = [i for i in with_comma if _in_groups(self.cells[i])]
            if len(groups) == len(with_comma):
                refuse(
                    groups[0],
                    "its comma may part the thousands or be a decimal comma. Write "
                    "the column without commas.",
                )
        gaps = [i for i, kind in enumerate(self.kinds) if kind == "missing"]
        if gaps and not allow_missing:
            refuse(
                gaps[0],
                "fill it in, or allow missing values (--allow-missing)."
                + (f" {len(gaps) - 1} more are missing." if len(gaps) > 1 else ""),
            )
        self.manner = main
        return [_value(c, k) for c, k in zip(self.cells, self.kinds, strict=True)]

    def _has_points(self):
        return any(
            kind == "number" and "." in cell
            for cell, kind in zip(self.cells, self.kinds, strict=True)
        )


_WORDS = {
    "number": "plain numbers",
    "comma": "numbers with decimal commas",
    "percent": "percentages",
    "truth": "yes and no",
}
_NOTES = {
    "comma": "with decimal commas (0,5 is 0.5)",
    "percent": "as percentages (50% is 0.5)",
    "truth": "as yes = 1 and no = 0",
}


def _in_groups(cell):
    return _THOUSANDS.fullmatch(cell.rstrip("% ")) is not None


def _value(cell, kind):
    if kind == "missing":
        return np.nan
    if kind == "truth":
        return _TRUTH[cell.lower()]
    number = float(cell.rstrip("%").rstrip().replace(",", "."))
    return number / 100 if kind == "percent" else number
