"""Tables as people save them: any usual separator, a byte order mark, stray blanks.

Nothing here knows what a table is about; `images` and `attributes` ask it for rows.
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLASS_HEADERS", "Rows", "is_utf8", "read_lines", "read_rows"]

# What people head a column of classes.
CLASS_HEADERS = {"label", "labels", "class", "classes", "class_name", "classname"}

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


@dataclass
class Rows:
    """Rows of a text table.

    Parameters
    ----------
    cells : list of list of str
        The cells of each row, all rows of one length; empty rows are left out.
    lines : list of int
        The line of the file in which each row ends, from 1.
    separator : str
        What stands between cells, in words.

    Examples
    --------
    >>> from rezsl_features.delimited import Rows
    >>> Rows([["path"], ["a.jpg"]], [1, 2], "commas").lines
    [1, 2]
    """

    cells: list[list[str]]
    lines: list[int]
    separator: str


def is_utf8(text: str) -> bool:
    """Whether a text was valid UTF-8; see `foreign_bytes` of `read_rows`.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    bool
        False if a byte of it stands as a lone surrogate.

    Examples
    --------
    >>> import os
    >>> from rezsl_features.delimited import is_utf8
    >>> is_utf8("café"), is_utf8(os.fsdecode(b"caf\\xe9"))
    (True, False)
    """
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _read_text(path, foreign_bytes=False):
    """The text of a file in UTF-8, or UTF-16 with a mark; line ends as they are."""
    content = Path(path).read_bytes()
    if content.startswith(b"PK\x03\x04"):
        raise ValueError(
            f"{path} is a workbook or an archive, not a text; save the table as CSV."
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(
            encoding, "surrogateescape" if foreign_bytes else "strict"
        )
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is no text in UTF-8 (line {line} is not); save it in the "
            f"encoding UTF-8."
        ) from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file that are not blank, without blanks around them.

    Parameters
    ----------
    path : str or path-like
        The file, in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Returns
    -------
    list of str
        In the order of the file.

    Raises
    ------
    ValueError
        If the file is no such text.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from rezsl_features.delimited import read_lines
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "unseen.txt")
    ...     _ = path.write_text("\\ufeffcat\\n\\n dog \\n", encoding="utf-8")
    ...     read_lines(path)
    ['cat', 'dog']
    """
    lines = (line.strip() for line in _read_text(path).splitlines())
    return [line for line in lines if line]


def read_rows(path: str | os.PathLike[str], *, foreign_bytes: bool = False) -> Rows:
    """Read a table separated by commas, tabs, semicolons or vertical bars.

    Parameters
    ----------
    path : str or path-like
        The file, in UTF-8, with or without a byte order mark, or in UTF-16 with one.
    foreign_bytes : bool, default=False
        Whether bytes that are no UTF-8 are kept, as file names on Linux may hold
        them (as lone surrogates; see `os.fsdecode`).

    Returns
    -------
    Rows
        The separator is the one that cuts all rows into equally many cells; of
        several, the one that gives most.

    Raises
    ------
    ValueError
        If the file is no such text, is empty, or has a row of another length than
        its first.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from rezsl_features.delimited import read_rows
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "classes.csv")
    ...     _ = path.write_text("class;furry\\ncat;0,5\\n")
    ...     rows = read_rows(path)
    >>> rows.cells, rows.separator
    ([['class', 'furry'], ['cat', '0,5']], 'semicolons')
    """
    text = _read_text(path, foreign_bytes)
    first = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
    best, fault = None, None
    for delimiter in sorted(_DELIMITERS, key=first.count, reverse=True):
        # What the header lacks is no separator; commas stand for a single column.
        if delimiter not in first and (delimiter != "," or best or fault):
            continue
        try:
            cells, lines = _parse(text, delimiter)
        except csv.Error as error:
            fault = fault or f"{path} is no table: {error}."
            continue
        if not cells:
            fault = f"{path} is empty; it needs a header and a row for each entry."
            continue
        width = len(cells[0])
        odd = next((i for i, row in enumerate(cells) if len(row) != width), None)
        if odd is None:
            if best is None or width > len(best.cells[0]):
                best = Rows(cells, lines, _DELIMITERS[delimiter])
        elif fault is None:
            fault = (
                f"{path} has {_fields(len(cells[odd]))} in line {lines[odd]} and "
                f"{_fields(width)} in its first line, separated by "
                f"{_DELIMITERS[delimiter]}. Every row needs as many; put quotes around "
                f"a field that has the separator in it."
            )
    if best is None:
        raise ValueError(fault)
    return best


def _fields(count):
    return f"{count} field{'s' * (count != 1)}"


def _parse(text, delimiter):
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    cells, lines = [], []
    for row in reader:
        if any(cell.strip() for cell in row):
            cells.append(row)
            lines.append(reader.line_num)
    return cells, lines
