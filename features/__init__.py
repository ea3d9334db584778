"""The offline extractor: folders of images to a feature cache."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones import Backbone, BackboneError, load_backbone
    from .extract import ExtractionError, extract_features, verify_features
    from .images import ImageError, ImageList, find_images, read_image

__all__ = [
    "Backbone",
    "BackboneError",
    "ExtractionError",
    "ImageError",
    "ImageList",
    "extract_features",
    "find_images",
    "load_backbone",
    "read_image",
    "verify_features",
]

# Imported when they are first asked for (PEP 562): who lists images does not wait for
# torch.
_HOMES = {
    "Backbone": "backbones",
    "BackboneError": "backbones",
    "ExtractionError": "extract",
    "ImageError": "images",
    "ImageList": "images",
    "extract_features": "extract",
    "find_images": "images",
    "load_backbone": "backbones",
    "read_image": "images",
    "verify_features": "extract",
}
_MODULES = {"attributes", "backbones", "delimited", "extract", "images", "reading"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
