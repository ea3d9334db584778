"""Scikit-learn's digits as a zero-shot problem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from ._bunch import checked_bunch
from .splits import seen_unseen_rows

__all__ = ["load_digits_zero_shot"]

_DIGIT_NAMES = np.array(
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
)

# Written down from how the digits are drawn by hand: 1 always, 0.5 by some
# writers or in part, 0 not at all. The columns are the digits 0 to 9.
_DIGIT_SHAPES = {
    "line at the top": (1, 0, 1, 1, 0, 1, 0.5, 1, 1, 1),
    "line at the upper left": (1, 0, 0, 0, 1, 1, 1, 0, 1, 1),
    "line at the upper right": (1, 0, 1, 1, 0.5, 0, 0, 1, 1, 1),
    "line across the middle": (0, 0, 0, 1, 1, 1, 1, 0.5, 1, 1),
    "line at the lower left": (1, 0, 0.5, 0, 0, 0, 1, 0, 1, 0),
    "line at the lower right": (1, 0, 0, 1, 1, 1, 1, 0, 1, 1),
    "line at the bottom": (1, 0, 1, 1, 0, 1, 1, 0, 1, 0.5),
    "closed loop above": (0, 0, 0, 0, 0, 0, 0, 0, 1, 1),
    "closed loop below": (0, 0, 0, 0, 0, 0, 1, 0, 1, 0),
    "upright stroke in the middle": (0, 1, 0, 0, 0.5, 0, 0, 0.5, 0, 0),
    "diagonal stroke": (0, 0, 1, 0, 0.5, 0, 0, 1, 0, 0),
    "straight lines": (0, 1, 0.5, 0, 1, 0.5, 0, 1, 0, 0),
    "bay on the left above": (0, 0, 1, 1, 0, 0, 0, 0, 0, 0),
    "bay on the left below": (0, 0, 0, 1, 0, 1, 0, 0, 0, 1),
}


def load_digits_zero_shot(*, unseen: Sequence[str] = ("two", "four", "eight")) -> Bunch:
    """Load scikit-learn's digits as a zero-shot problem.

    A demonstration that needs no download: 1797 handwritten digits of 8 x 8
    pixels, described by the strokes they are drawn with. ::

                                       0   1   2   3   4   5   6   7   8   9
        line at the top                1   .   1   1   .   1   ½   1   1   1
        line at the upper left         1   .   .   .   1   1   1   .   1   1
        line at the upper right        1   .   1   1   ½   .   .   1   1   1
        line across the middle         .   .   .   1   1   1   1   ½   1   1
        line at the lower left         1   .   ½   .   .   .   1   .   1   .
        line at the lower right        1   .   .   1   1   1   1   .   1   1
        line at the bottom             1   .   1   1   .   1   1   .   1   ½
        closed loop above              .   .   .   .   .   .   .   .   1   1
        closed loop below              .   .   .   .   .   .   1   .   1   .
        upright stroke in the middle   .   1   .   .   ½   .   .   ½   .   .
        diagonal stroke                .   .   1   .   ½   .   .   1   .   .
        straight lines                 .   1   ½   .   1   ½   .   1   .   .
        bay on the left above          .   .   1   1   .   .   .   .   .   .
        bay on the left below          .   .   .   1   .   1   .   .   .   1

    1 is always, ½ is by some writers or in part. The table says how digits are
    drawn; neither it nor the choice of unseen digits was fitted to any accuracy.
    The default unseen digits follow from the table alone: of all triples whose
    every attribute occurs, as strongly, among the other seven digits, and for which
    no two attributes coincide over those seven, it is the one whose rows are
    farthest apart. So an eight is the loop of a nine above the loop of a six.

    Parameters
    ----------
    unseen : sequence of str, default=("two", "four", "eight")
        Digits, as words, that get no training row; at least one, and at least
        two of the ten must remain.

    Returns
    -------
    data : :class:`sklearn.utils.Bunch`
        The fields of :func:`load_xlsa17`: X (1797, 64) float32 from 0 to 1, y and
        class_names as words ("zero" to "nine", in this order), attributes
        (10, 14) from 0 to 1, attribute_names (14,). test_seen has a fifth of
        the rows of every seen digit, always the same ones for the same `unseen`.
        train, val, original_attributes and image_files are None, fingerprint is
        empty.

    Raises
    ------
    ValueError
        If `unseen` holds anything but distinct words from "zero" to "nine", is
        empty, or leaves fewer than two digits.

    Examples
    --------
    >>> from rezsl_sk.datasets import load_digits_zero_shot
    >>> data = load_digits_zero_shot()
    >>> data.X.shape, data.attributes.shape
    ((1797, 64), (10, 14))
    >>> print(data.class_names[data.unseen_classes])
    ['two' 'four' 'eight']
    >>> six = data.attributes[list(data.class_names).index("six")]
    >>> print(data.attribute_names[six == 1][-2:])
    ['line at the bottom' 'closed loop below']
    """
    names = _DIGIT_NAMES.tolist()
    unseen = [unseen] if isinstance(unseen, str) else list(unseen)
    if (
        not 1 <= len(unseen) <= 8
        or len(set(unseen)) < len(unseen)
        or not set(unseen) <= set(names)
    ):
        raise ValueError(
            f"unseen must be one to eight distinct words of {', '.join(names)}, got "
            f"{unseen!r}."
        )
    X, labels = load_digits(return_X_y=True)
    labels = labels.astype(np.int64)
    seen = [k for k, digit in enumerate(names) if digit not in unseen]
    return checked_bunch(
        "load_digits_zero_shot",
        X=(X / 16).astype(np.float32),
        labels=labels,
        attributes=np.array(list(_DIGIT_SHAPES.values()), dtype=np.float64).T.copy(),
        class_names=_DIGIT_NAMES.copy(),
        attribute_names=np.array(list(_DIGIT_SHAPES)),
        **seen_unseen_rows(labels, seen, np.random.RandomState(0)),
    )
