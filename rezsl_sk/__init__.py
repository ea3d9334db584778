"""Zero-shot learning from attributes with scikit-learn's habits."""

from . import plotting
from ._attention import AttentionRegressor
from ._classifier import ZeroShotClassifier
from ._regressor import ReZSLRegressor
from ._report import report
from ._search import ReZSLSearchCV

__version__ = "0.1.0.dev0"
__all__ = [
    "AttentionRegressor",
    "ReZSLRegressor",
    "ReZSLSearchCV",
    "ZeroShotClassifier",
    "plotting",
    "report",
]
