"""How estimators show themselves: a class table by its size, not by its numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from sklearn.utils._pprint import _EstimatorPrettyPrinter


class TableSummary:
    """Stands for a class table in a repr; shows how large it is."""

    def __init__(self, n_classes, n_attributes):
        self.n_classes, self.n_attributes = n_classes, n_attributes

    def __repr__(self):
        return f"<{self.n_classes} classes, {self.n_attributes} attributes>"


def summary(table):
    """The summary of a class table; what is no table stays as it is."""
    if hasattr(table, "iloc"):
        return TableSummary(*table.shape)
    if isinstance(table, Mapping):
        table = list(table), list(table.values())
    if isinstance(table, tuple | list) and len(table) == 2:
        matrix = table[1]
        try:
            return TableSummary(len(matrix), len(matrix[0]))
        except (TypeError, IndexError, KeyError):
            pass  # not a matrix: fit says so
    return table


class TableReprMixin:
    """For estimators with a parameter `class_attributes`.

    A repr with thousands of numbers hides the other parameters, in a notebook too,
    and takes a second where the table is made of lists.
    """

    def _summarised(self):
        view = copy.copy(self)
        view.class_attributes = summary(self.class_attributes)
        return view

    def __repr__(self, N_CHAR_MAX=700):
        return super(TableReprMixin, self._summarised()).__repr__(N_CHAR_MAX)

    def _get_params_html(self, *args, **kwargs):
        view = super(TableReprMixin, self._summarised())
        return view._get_params_html(*args, **kwargs)


def _pprint(printer, estimator, *args):
    printer._pprint_estimator(estimator._summarised(), *args)


# scikit-learn breaks the lines of a repr, also of an estimator in a pipeline, by what
# is registered for its type's __repr__.
_EstimatorPrettyPrinter._dispatch[TableReprMixin.__repr__] = _pprint
