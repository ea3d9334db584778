"""Zero-shot learning from attributes with scikit-learn's habits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import plotting
    from ._attention import AttentionRegressor
    from ._classifier import ZeroShotClassifier
    from ._regressor import ReZSLRegressor
    from ._report import report
    from ._search import ReZSLSearchCV
    from ._stacking import ZeroShotStackingClassifier

__version__ = "0.1.0.dev0"
__all__ = [
    "AttentionRegressor",
    "ReZSLRegressor",
    "ReZSLSearchCV",
    "ZeroShotClassifier",
    "ZeroShotStackingClassifier",
    "plotting",
    "report",
]

# Imported when they are first asked for (PEP 562): who reads a feature cache does not
# wait for torch and scikit-learn.
_HOMES = {
    "AttentionRegressor": "._attention",
    "ReZSLRegressor": "._regressor",
    "ReZSLSearchCV": "._search",
    "ZeroShotClassifier": "._classifier",
    "ZeroShotStackingClassifier": "._stacking",
    "report": "._report",
}
_MODULES = {
    "baselines",
    "datasets",
    "decoding",
    "feature_cache",
    "losses",
    "metrics",
    "model_selection",
    "plotting",
    "streaming",
    "tables",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name], __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
