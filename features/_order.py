"""Images in the order of another list, so that its splits apply."""

from __future__ import annotations

import bisect
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ._image_list import ImageList
from .reading import ImageError

__all__ = ["order_from_xlsa17", "order_like"]


def order_like(
    images: ImageList, image_files: Sequence[str] | np.ndarray, source: str
) -> ImageList:
    """Bring images into the order of another list, matched by the end of the path.

    Lists such as ``image_files`` of the xlsa17 benchmark hold absolute paths of a
    machine long gone. An entry and an image belong together if the longest end that
    their paths share is the end of no other entry and of no other image.

    Parameters
    ----------
    images : ImageList
        The images there are.
    image_files : sequence of str of length m
        The paths that give the order.
    source : str
        Where that order comes from, for messages.

    Returns
    -------
    ImageList
        Of length m. An image that is not there keeps its place, under a file name
        that cannot be read, so that it will be listed as failed and no other row
        moves. Folders that both lists name are the same folder: of ``cat/1.jpg`` and
        ``dog/1.jpg`` neither stands for the other where both lists have a ``cat``.

    Raises
    ------
    ImageError
        If not one image is found, an entry stands in the list twice, or an entry or
        an image may belong to several.

    Examples
    --------
    >>> from rezsl_features.images import ImageList, order_like
    >>> here = ImageList(["cat/1.jpg", "dog/1.jpg"], ["cat/1.jpg", "dog/1.jpg"])
    >>> order_like(here, ["/old/disk/dog/1.jpg", "/old/disk/cat/1.jpg"], "x").names
    ['dog/1.jpg', 'cat/1.jpg']
    """
    wanted = [str(entry) for entry in image_files]
    if not wanted:
        raise ImageError(f"{source} lists no images.")
    # Folders above those that hold all the images say nothing of a single one.
    own = [_from_the_end(name) for name in images.names]
    entries, there = _Ends(wanted), _Ends(images.files, own)
    shared = [there.longest(parts) for parts in entries.parts]
    chosen, by_name_alone = [None] * len(wanted), []
    for i, (parts, length) in enumerate(zip(entries.parts, shared, strict=True)):
        end = parts[:length]
        candidates = there.with_end(end) if length else []
        if len(candidates) != 1 or len(entries.with_end(end)) != 1:
            continue
        at = candidates[0]
        if there.are_at_odds(entries, own[at], parts, length):
            continue
        chosen[i] = at
        if length == 1 and images.names[at].count("/"):
            by_name_alone.append((i, at))
    taken = {at for at in chosen if at is not None}
    for i, (parts, length) in enumerate(zip(entries.parts, shared, strict=True)):
        if chosen[i] is not None or not length:
            continue
        twins = entries.with_end(parts)
        if len(twins) > 1 and entries.parts[twins[0]] == entries.parts[twins[1]]:
            raise ImageError(
                f"{source} lists {wanted[i]!r} twice, in its rows {twins[0] + 1} and "
                f"{twins[1] + 1}; one picture cannot serve two rows."
            )
        candidates = [
            at
            for at in there.with_end(parts[:length])
            if at not in taken
            and not there.are_at_odds(entries, own[at], parts, length)
        ]
        rivals = [
            wanted[j]
            for j in entries.with_end(parts[:length])
            if j != i and chosen[j] is None
        ]
        if len(candidates) > 1 or (candidates and rivals):
            raise ImageError(
                f"{wanted[i]!r} of {source} could be "
                f"{_either([images.files[at] for at in candidates])}"
                + (f", and so could {_either(rivals)}" if rivals else "")
                + "; give a folder in which each path has an end of its own."
            )
    missing = chosen.count(None)
    if missing == len(chosen):
        raise ImageError(
            f"None of the {missing} images of {source} is among the {len(images)} "
            f"given, the first being {wanted[0]!r}; give the folder that holds them."
        )
    ordered = ImageList(
        [
            e if i is None else images.names[i]
            for i, e in zip(chosen, wanted, strict=True)
        ],
        [
            e if i is None else images.files[i]
            for i, e in zip(chosen, wanted, strict=True)
        ],
        # A class folder's name stands for images that are there only.
        None
        if images.labels is None or missing
        else [images.labels[i] for i in chosen],
        notes=list(images.notes),
        left_out=dict(images.left_out),
    )
    if by_name_alone:
        i, at = by_name_alone[0]
        ordered.notes.append(
            f"Images that were matched by their file name alone: {len(by_name_alone)}, "
            f"such as {images.names[at]!r} for {wanted[i]!r}."
        )
    unused = len(images) - len(taken)
    if missing or unused:
        ordered.notes.append(
            f"Of the {len(wanted)} images of {source} {missing} are not there; of the "
            f"{len(images)} there {unused} are not in it."
        )
    return ordered


def _either(names):
    return " or ".join(map(repr, names[:5])) + (" or others" if len(names) > 5 else "")


class _Ends:
    """Paths as their parts from the end, sorted, so that those of one end adjoin.

    `own` are the parts below the folder of the collection, where there is one.
    """

    def __init__(self, paths, own=None):
        self.parts = [_from_the_end(path) for path in paths]
        self.order = sorted(range(len(paths)), key=self.parts.__getitem__)
        self.sorted = [self.parts[i] for i in self.order]
        self.folders = {}
        for parts in self.parts if own is None else own:
            for depth, folder in enumerate(parts[1:], 1):
                self.folders.setdefault(depth, set()).add(folder)

    def longest(self, parts):
        """Number of parts in the longest end of `parts` that is also an end here."""
        at = bisect.bisect_left(self.sorted, parts)
        return max(
            (_common(parts, near) for near in self.sorted[max(0, at - 1) : at + 1]),
            default=0,
        )

    def with_end(self, end):
        """Positions of the paths that end so."""
        length = len(end)
        first = bisect.bisect_left(self.sorted, end)
        last = bisect.bisect_right(self.sorted, end, key=lambda parts: parts[:length])
        return self.order[first:last]

    def are_at_odds(self, entries, here, wanted, length):
        """Whether the folders before a common end contradict each other."""
        if len(here) <= length or len(wanted) <= length:
            return False
        return (
            here[length] in entries.folders[length]
            or wanted[length] in self.folders[length]
        )


def _from_the_end(path):
    # An accent is one letter or two by the system a path was written on.
    path = unicodedata.normalize("NFC", path.replace("\\", "/"))
    return tuple(part for part in reversed(PurePosixPath(path).parts) if part != "/")


def _common(a, b):
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def order_from_xlsa17(images: ImageList, mat: str | os.PathLike[str]) -> ImageList:
    """Bring images into the order of a ``res101.mat``, so that its splits apply.

    Parameters
    ----------
    images : ImageList
        The images there are.
    mat : str or path-like
        A file of features in the layout of the xlsa17 benchmark, with its
        ``att_splits.mat`` beside it.

    Returns
    -------
    ImageList
        With the labels, splits and class table of the benchmark.

    Raises
    ------
    ImageError
        If there is no such file, it lists no images, or none of them is found; see
        `order_like`.
    ValueError
        If the files are broken, in the words of `rezsl_sk.datasets.load_xlsa17`.

    Examples
    --------
    >>> import tempfile
    >>> from rezsl_sk.datasets import save_xlsa17
    >>> from rezsl_features.images import ImageList, order_from_xlsa17
    >>> here = ImageList(["1.jpg", "2.jpg"], ["/mine/1.jpg", "/mine/2.jpg"])
    >>> with tempfile.TemporaryDirectory() as root:
    ...     folder = save_xlsa17(
    ...         root, "PETS", X=[[1.0], [0.0]], labels=[0, 1],
    ...         attributes=[[1.0], [0.0]], class_names=["cat", "dog"],
    ...         trainval=[0], test_seen=[], test_unseen=[1],
    ...         image_files=["/old/2.jpg", "/old/1.jpg"],
    ...     )
    ...     there = order_from_xlsa17(here, folder / "res101.mat")
    >>> there.names, there.labels, there.splits["test_unseen"]
    (['2.jpg', '1.jpg'], ['cat', 'dog'], array([1]))
    """
    from rezsl_sk.datasets import load_xlsa17

    mat = Path(mat)
    if not mat.is_file():
        raise ImageError(f"{mat} is no file; give the path of a res101.mat.")
    folder = mat.resolve().parent
    data = load_xlsa17(folder.parent, folder.name, features=mat.stem)
    if data.image_files is None:
        raise ImageError(f"{mat} has no `image_files`; it gives no order.")
    ordered = order_like(images, data.image_files, str(mat))
    ordered.labels = data.y.tolist()
    ordered.splits = {
        name: data[name]
        for name in ("trainval", "train", "val", "test_seen", "test_unseen")
        if data[name] is not None
    }
    ordered.class_attributes = (data.class_names, data.attributes)
    return ordered
