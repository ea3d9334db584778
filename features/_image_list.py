"""The list of images that everything else goes by."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np

from .reading import PLUGINS

__all__ = ["ImageList"]

_ARCHIVES = {".tar", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}


@dataclass
class ImageList:
    """Images in their order, and what is known about them.

    Parameters
    ----------
    names : list of str of length n
        What is stored as the path of a row; relative to the collection where it has
        one root.
    files : list of str of length n
        Where to read each image.
    labels : list of str of length n, or None
        The class of each image.
    splits : dict of str to ndarray of int, default={}
        Named subsets as positions in this list.
    class_attributes : (list of str, ndarray of shape (C, a)) or None, default=None
        A table of attributes that came with the list.
    notes : list of str, default=[]
        Sentences on how the images were found, for whoever asked for them.
    left_out : dict of str to (int, str), default={}
        Files that are no images: by suffix, how many, and the first of them.

    Examples
    --------
    >>> from rezsl_features.images import ImageList
    >>> images = ImageList(["a.jpg"], ["/data/a.jpg"], ["cat"])
    >>> len(images), images.sha256()[:8]
    (1, 'dce07360')
    """

    names: list[str]
    files: list[str]
    labels: list[str] | None = None
    splits: dict[str, np.ndarray] = field(default_factory=dict)
    class_attributes: tuple[list[str], np.ndarray] | None = None
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def sha256(self) -> str:
        """Hash of names and labels in their order.

        Examples
        --------
        >>> from rezsl_features.images import ImageList
        >>> one = ImageList(["a", "b"], ["a", "b"]).sha256()
        >>> one == ImageList(["b", "a"], ["b", "a"]).sha256()
        False
        """
        digest = hashlib.sha256()
        for texts in (self.names, self.labels or []):
            for text in texts:
                digest.update(os.fsencode(text) + b"\0")
            digest.update(b"\n")
        return digest.hexdigest()

    def remarks(self) -> list[str]:
        """All there is to say of how the images were found: notes and what is left out.

        Returns
        -------
        list of str
            Sentences.

        Examples
        --------
        >>> from rezsl_features.images import ImageList
        >>> ImageList([], [], left_out={".txt": (2, "a.txt")}).remarks()
        ["Left out: 2 x .txt (such as 'a.txt')."]
        """
        left_out = self.left_out_summary()
        return [*self.notes, *([f"Left out: {left_out}."] if left_out else [])]

    def left_out_summary(self) -> str:
        """Files that were left out, by suffix, with what would help.

        Returns
        -------
        str
            Empty if there are none.

        Examples
        --------
        >>> from rezsl_features.images import ImageList
        >>> images = ImageList([], [], left_out={".txt": (2, "cat/readme.txt")})
        >>> images.left_out_summary()
        "2 x .txt (such as 'cat/readme.txt')"
        """
        parts = []
        for suffix, (count, example) in sorted(self.left_out.items()):
            hint = ""
            if suffix in PLUGINS:
                hint = f"; `pip install {PLUGINS[suffix]}` to read them"
            elif suffix in _ARCHIVES:
                hint = "; unpack them if they hold images"
            parts.append(f"{count} x {suffix} (such as {example!r}{hint})")
        return ", ".join(parts)
