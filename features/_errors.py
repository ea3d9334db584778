"""The errors of the extractor."""

from __future__ import annotations

import re

__all__ = ["BackboneError", "ExtractionError", "quoted"]


def quoted(value: object) -> str:
    """A value as it stands in a message: text in one line, a hash by its start."""
    if not isinstance(value, str):
        return repr(value)
    if re.fullmatch("[0-9a-f]{64}", value):
        return f"{value[:8]}..."
    return repr(" ".join(value.split()))


class BackboneError(RuntimeError):
    """A network or its weights cannot be had; the message says what to give instead.

    Examples
    --------
    >>> from rezsl_features.backbones import BackboneError, load_backbone
    >>> try:
    ...     load_backbone("resnet50", pool="sum")
    ... except BackboneError as error:
    ...     print(error)
    pool='sum' is unknown; give one of auto, avg, cls, none.
    """


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
