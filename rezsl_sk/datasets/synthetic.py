"""A generator of zero-shot problems whose imbalance is known."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ._bunch import checked_bunch
from .splits import seen_unseen_rows

__all__ = ["make_zero_shot"]


def _check_number(value, name, low, high=None, *, integer=False, hint=""):
    kind = Integral if integer else Real
    good = isinstance(value, kind) and not isinstance(value, bool)
    if not (good and low <= value < np.inf and (high is None or value <= high)):
        allowed = "a whole number" if integer else "a finite number"
        allowed += f" of at least {low}" if high is None else f" from {low} to {high}"
        raise ValueError(f"{name} must be {allowed}, got {value!r}.{hint}")


def _numbered(prefix, n):
    width = len(str(n))
    return [f"{prefix}{i + 1:0{width}}" for i in range(n)]


def make_zero_shot(
    n_seen: int = 40,
    n_unseen: int = 10,
    *,
    samples_per_class: int = 30,
    n_features: int = 64,
    n_attributes: int = 20,
    class_imbalance: float = 0.0,
    attribute_imbalance: float = 0.0,
    noise: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make a zero-shot problem whose imbalance is known.

    Each class has some of the attributes, at strengths between 0.5 and 1. The
    i-th of them is had by a share :math:`0.5 \\, i^{-t}` of the classes, where t
    is `attribute_imbalance`: at 0 every attribute is had by half of the classes,
    at 1 the shares follow Zipf's law, and the last attributes are 0 for nearly all
    classes. A class left with none gets one, by the same odds. Rare attributes are
    learned worse, which is the imbalance that rebalancing is about. With the
    attribute row s of a class, its samples are

    .. math:: x = z + \\tfrac12 \\tanh(W_2^\\top s) + \\text{noise} \\cdot \\epsilon,
              \\quad z = W_1^\\top s,

    with :math:`W_1, W_2` of variance 1 / `n_attributes` and :math:`\\epsilon` of
    variance 1, all normal: linear in the attributes up to a mild bend.

    Parameters
    ----------
    n_seen : int, default=40
        Classes that have training samples, at least 2.
    n_unseen : int, default=10
        Classes that have none, at least 1.
    samples_per_class : int, default=30
        Samples of the largest class, at least 2.
    n_features : int, default=64
        Length of a sample.
    n_attributes : int, default=20
        Length of a class description.
    class_imbalance : float, default=0.0
        From 0 (all classes have equally many samples) to 1 (the i-th seen and
        the i-th unseen class have 1/i of `samples_per_class`, never under 2).
    attribute_imbalance : float, default=0.0
        From 0 (all attributes equally frequent) to 1 (a long tail).
    noise : float, default=1.0
        Standard deviation of what is added to every feature.
    random_state : int, RandomState instance or None, default=None
        An int gives the same bits again.

    Returns
    -------
    data : :class:`sklearn.utils.Bunch`
        The fields of :func:`load_xlsa17`. X (n, n_features) is float64 with rows
        in random order; attributes is (n_seen + n_unseen, n_attributes), seen
        classes first, its rows distinct and none zero; no attribute is
        constant over the seen classes. test_seen has a fifth of the rows of
        every seen class, at least one. train, val, original_attributes and
        image_files are None, fingerprint is empty.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    Examples
    --------
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(6, 2, samples_per_class=10, random_state=0)
    >>> data.X.shape, data.attributes.shape
    ((80, 64), (8, 20))
    >>> len(data.trainval), len(data.test_seen), len(data.test_unseen)
    (48, 12, 20)
    >>> tail = make_zero_shot(attribute_imbalance=1.0, random_state=0)
    >>> (tail.attributes[:40] > 0).sum(axis=0)[[0, 1, 9, 19]]
    array([21, 10,  3,  1])
    """
    _check_number(
        n_seen,
        "n_seen",
        2,
        integer=True,
        hint=" One class alone does not tell attributes apart.",
    )
    _check_number(n_unseen, "n_unseen", 1, integer=True)
    _check_number(
        samples_per_class,
        "samples_per_class",
        2,
        integer=True,
        hint=" Each seen class gives a row to trainval and one to test_seen.",
    )
    _check_number(n_features, "n_features", 1, integer=True)
    _check_number(n_attributes, "n_attributes", 1, integer=True)
    _check_number(class_imbalance, "class_imbalance", 0, 1)
    _check_number(attribute_imbalance, "attribute_imbalance", 0, 1)
    _check_number(noise, "noise", 0)
    rng = check_random_state(random_state)

    share = 0.5 * np.arange(1, n_attributes + 1) ** -float(attribute_imbalance)
    attributes = np.vstack(
        [
            _attribute_rows(n_seen, share, 1, rng),
            _attribute_rows(n_unseen, share, 0, rng),
        ]
    )
    sizes = np.concatenate(
        [
            samples_per_class * np.arange(1, n + 1) ** -float(class_imbalance)
            for n in (n_seen, n_unseen)
        ]
    )
    sizes = np.maximum(2, np.round(sizes)).astype(np.int64)
    labels = rng.permutation(np.repeat(np.arange(n_seen + n_unseen), sizes))

    scale = 1 / np.sqrt(n_attributes)
    linear, bend = rng.normal(scale=scale, size=(2, n_attributes, n_features))
    means = attributes @ linear + 0.5 * np.tanh(attributes @ bend)
    X = means[labels] + noise * rng.normal(size=(len(labels), n_features))

    return checked_bunch(
        "make_zero_shot",
        X=X,
        labels=labels,
        attributes=attributes,
        class_names=np.array(
            _numbered("seen", n_seen) + _numbered("unseen", n_unseen), dtype=np.str_
        ),
        attribute_names=np.array(_numbered("attribute", n_attributes), dtype=np.str_),
        **seen_unseen_rows(labels, np.arange(n_seen), rng),
    )


def _attribute_rows(n_classes, share, fewest, rng):
    """Draw attribute rows of which attribute j is had by `share[j]` of classes.

    The number of classes is exact rather than left to chance: so a rare
    attribute is still had by `fewest` classes, and by never all.
    """
    counts = np.maximum(fewest, np.round(share * n_classes)).astype(np.int64)
    has = np.column_stack(
        [rng.permutation(np.arange(n_classes) < count) for count in counts]
    )
    for k in np.flatnonzero(~has.any(axis=1)):
        has[k, rng.choice(len(share), p=share / share.sum())] = True
    # Strengths are continuous draws: two rows are equal with probability zero.
    return has * rng.uniform(0.5, 1.0, size=has.shape)
