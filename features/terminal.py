"""How the command prints: what a name contains never acts on the terminal."""

from __future__ import annotations

import os
import sys
from typing import TextIO

__all__ = ["printable", "say"]


def printable(text: str) -> str:
    """A text with all that is no visible character escaped.

    Names of files and classes come from anywhere. Printed as they are, escape
    sequences in them would colour, clear or retitle a terminal, an override of the
    direction would show another name, and bytes that are no UTF-8 would be an error.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    str
        In one line.

    Examples
    --------
    >>> from rezsl_features.terminal import printable
    >>> printable("caf\\N{LATIN SMALL LETTER E WITH ACUTE} \\x1b[31m\\ud800")
    'café \\\\x1b[31m\\\\ud800'
    """
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def say(text: str = "", file: TextIO | None = None) -> None:
    """Print one line, escaped as `printable` does.

    Parameters
    ----------
    text : str, default=""
        The line.
    file : text file or None, default=None
        Where to; standard output by default. What its encoding lacks is escaped.

    Examples
    --------
    >>> from rezsl_features.terminal import say
    >>> say("skipped a\\nb.jpg")
    skipped a\\nb.jpg
    """
    file = sys.stdout if file is None else file
    line = printable(text)
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        # Whoever reads a pipe or a log of a long run reads it now.
        print(
            line.encode(encoding, "backslashreplace").decode(encoding),
            file=file,
            flush=True,
        )
    except BrokenPipeError:
        # Who read the lines, such as `head`, has gone; the work goes on without.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), file.fileno())
