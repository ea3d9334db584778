"""Who called a fit: what an interrupt ends, and to whom a warning is told."""

import contextlib
import sys
import warnings
from contextvars import ContextVar

_NESTED = ContextVar("nested", default=False)

# These pass a fit on and do nothing else with the estimator.
TRANSPARENT = ("sklearn.base", "sklearn.callback", "sklearn.pipeline", "sklearn.utils")


@contextlib.contextmanager
def nested_fits():
    """Fits within the block serve another one.

    An interrupt ends all of it, and what is to be told about the data is told once.
    """
    token = _NESTED.set(True)
    try:
        yield
    finally:
        _NESTED.reset(token)


def within_nested_fits():
    """Whether this runs in a block of :func:`nested_fits`."""
    return _NESTED.get()


def is_nested():
    """Whether the running fit serves another computation: a search, a meta-estimator.

    Such a computation would take a model that is half trained for a trained one. What
    of this library fits inside a fit says so by :func:`nested_fits`. scikit-learn's
    searches and meta-estimators, and joblib, are found among the callers: they do not
    say so, and an interrupt is rare enough to look.
    """
    if _NESTED.get():
        return True
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module.partition(".")[0] in ("sklearn", "joblib"):
            if not f"{module}.".startswith(tuple(f"{name}." for name in TRANSPARENT)):
                return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def model_kept(n_epochs):
    """End the block at an interrupt, with a warning, unless the fit is nested.

    Parameters
    ----------
    n_epochs : callable
        Gives the number of whole epochs so far.
    """
    try:
        yield
    except KeyboardInterrupt:
        if is_nested():
            raise
        warnings.warn(
            f"Training was interrupted by the user in epoch {n_epochs() + 1}; the "
            "model has the weights reached so far.",
            stacklevel=users_level(),
        )


def users_level():
    """The `stacklevel` of a warning that points to the user's line.

    That is the first caller outside of this library, scikit-learn and joblib. To be
    called where the warning is given.
    """
    level, frame = 1, sys._getframe(1)
    libraries = __name__.partition(".")[0], "sklearn", "joblib", "contextlib"
    while (frame.f_globals.get("__name__") or "").partition(".")[0] in libraries:
        if frame.f_back is None:
            break
        level, frame = level + 1, frame.f_back
    return level
