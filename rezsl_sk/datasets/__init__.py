"""Data sets for zero-shot learning: xlsa17 files, splits, a generator, a small demo.

Every loader here gives a :class:`sklearn.utils.Bunch` with the same fields, so
that code written for one runs on all of them. They are listed under
:func:`load_xlsa17`.
"""

from .digits import load_digits_zero_shot
from .splits import zero_shot_split
from .synthetic import make_zero_shot
from .xlsa17 import load_xlsa17, save_xlsa17

__all__ = [
    "load_digits_zero_shot",
    "load_xlsa17",
    "make_zero_shot",
    "save_xlsa17",
    "zero_shot_split",
]
