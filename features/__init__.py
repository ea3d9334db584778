"""The offline extractor: folders of images to a feature cache."""
