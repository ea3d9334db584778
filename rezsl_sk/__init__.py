"""Zero-shot learning from attributes with scikit-learn's habits."""

__version__ = "0.1.0.dev0"
