"""The offline extractor: folders of images to a feature cache."""

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
