"""A fit succeeds, or has not happened."""

import functools


def all_or_nothing(method):
    """For methods that fit: what they raise leaves the estimator as it was.

    A model half old, half new answers as if nothing were wrong. Attributes must be
    replaced, not changed in place.
    """

    @functools.wraps(method)
    def fit(self, *args, **kwargs):
        before = self.__dict__.copy()
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    return fit
