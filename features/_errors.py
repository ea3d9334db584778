"""The error of an extraction."""

from __future__ import annotations

__all__ = ["ExtractionError"]


class ExtractionError(RuntimeError):
    """An extraction cannot start or go on; what is finished is kept.

    Examples
    --------
    >>> from rezsl_features.extract import ExtractionError, extract_features
    >>> try:
    ...     extract_features("images", "resnet50", "x.h5", engine="steam")
    ... except ExtractionError as error:
    ...     print(error)
    engine='steam' is unknown; give one of torch, channels-last, onnx.
    """
