"""Which images there are, and how one is read: by what it shows, not how it is stored.

Nothing here knows a network. `find_images` makes the list that everything else goes
by; `read_image` turns a file into 8-bit RGB, or says in one sentence why it cannot.
"""

from __future__ import annotations

import csv
import hashlib
import os
import stat
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

__all__ = [
    "ImageError",
    "ImageList",
    "find_images",
    "order_from_xlsa17",
    "order_like",
    "read_image",
]

# Side ratio above which the usual "resize the shorter side, crop the middle" would
# blow a small file up to gigabytes: 1 x 60000 pixels become 256 x 15 million.
MAX_SIDE_RATIO = 50
_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
_JUNK = {"thumbs.db", "desktop.ini"}


if TYPE_CHECKING:
    from PIL import Image


class ImageError(ValueError):
    """An image, or a whole collection of images, cannot be used.

    Examples
    --------
    >>> from rezsl_features.images import ImageError, read_image
    >>> try:
    ...     read_image("/nowhere/cat.jpg")
    ... except ImageError as error:
    ...     print(error)
    No such file or directory
    """


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


def find_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ImageList,
    labels: Sequence[str] | np.ndarray | None = None,
) -> ImageList:
    """List the images of a folder, of a table, or of a plain list of files.

    Parameters
    ----------
    source : str, path-like, sequence of path-like, or ImageList
        A folder of class folders (every file below a class folder is taken to be an
        image of that class), a folder of files (no classes), a CSV or Parquet file
        with a column ``path`` and perhaps ``label`` (relative paths start at the
        file's folder), a sequence of files, or a finished list.
    labels : sequence of str of length n, or None, default=None
        Classes, for a sequence of files.

    Returns
    -------
    ImageList
        In the order of the table or sequence; folders in the order of names. Hidden
        files are left out; a file that is no image is not: it will be listed as
        failed.

    Raises
    ------
    ImageError
        If there is no image, a folder cannot be read, class folders and images lie
        side by side, two class folders have the same name to the eye, or a table
        has not the columns.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from rezsl_features.images import find_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("dog/2.jpg", "cat/1.jpg"):
    ...         path = pathlib.Path(folder, name)
    ...         path.parent.mkdir()
    ...         path.touch()
    ...     images = find_images(folder)
    >>> images.names, images.labels
    (['cat/1.jpg', 'dog/2.jpg'], ['cat', 'dog'])
    """
    if isinstance(source, ImageList):
        return source
    if not isinstance(source, (str, os.PathLike)):
        files = [os.fspath(file) for file in source]
        found = ImageList(list(files), files)
        if labels is not None:
            found.labels = [str(label) for label in labels]
            if len(found.labels) != len(files):
                raise ImageError(
                    f"{len(found.labels)} labels were given for {len(files)} images; "
                    f"give one for each."
                )
    else:
        if labels is not None:
            raise ImageError(
                "labels belong to a sequence of files; those of a folder or a table "
                "are found there. Leave them out."
            )
        root = Path(source)
        if root.is_dir():
            found = _from_folder(root)
        elif not root.exists():
            raise ImageError(f"{root} does not exist; give a folder or a table.")
        elif root.suffix.lower() in (".csv", ".parquet"):
            found = _from_table(root)
        else:
            raise ImageError(
                f"{root} is neither a folder nor a .csv or .parquet file; give one of "
                f"these."
            )
    if len(found) == 0:
        raise ImageError(f"There is no image in {source!s}; nothing can be extracted.")
    return found


def _from_folder(root):
    folders, loose = [], []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if not _is_hidden(entry.name):
                    (folders if entry.is_dir() else loose).append(entry.name)
    except OSError as error:
        raise ImageError(
            f"The folder {root} cannot be read: {error.strerror}."
        ) from error
    inside = {name: _walk(root / name) for name in sorted(folders)}
    inside = {name: files for name, files in inside.items() if files}
    if not inside:
        names = sorted(loose)
        return ImageList(names, [os.path.join(root, name) for name in names])
    beside = sorted(n for n in loose if Path(n).suffix.lower() in _SUFFIXES)
    if beside:
        raise ImageError(
            f"{root} holds class folders and, beside them, {len(beside)} images such "
            f"as {beside[0]!r}; move those into a class folder or elsewhere."
        )
    seen = {}
    for name in inside:
        # An accent is one letter or two by the system the folder was made on.
        key = unicodedata.normalize("NFC", name).strip()
        if key in seen:
            raise ImageError(
                f"The class folders {seen[key]!r} and {name!r} in {root} have the "
                f"same name but for invisible differences; rename or merge them."
            )
        seen[key] = name
    names, labels = [], []
    for label, files in inside.items():
        names += [f"{label}/{file}" for file in files]
        labels += [label] * len(files)
    return ImageList(names, [os.path.join(root, name) for name in names], labels)


def _walk(folder):
    """All files below a folder, relative and sorted; links are followed once."""
    found, seen = [], set()

    def refuse(error):
        raise ImageError(
            f"The folder {error.filename} cannot be read: {error.strerror}. Change "
            f"its permissions, or move it elsewhere."
        ) from error

    for here, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        below = os.path.relpath(here, folder)
        prefix = "" if below == "." else below.replace(os.sep, "/") + "/"
        found += [prefix + name for name in files if not _is_hidden(name)]
    return sorted(found)


def _is_hidden(name):
    return name.startswith(".") or name.lower() in _JUNK


def _from_table(path):
    if path.suffix.lower() == ".csv":
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ImageError(f"{path} is no CSV file in UTF-8: {error}.") from error
        columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else {})}
    else:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise ImageError(
                f"Reading {path} needs pyarrow; `pip install pyarrow`, or give the "
                f"list as CSV."
            ) from error
        try:
            columns = parquet.read_table(path).to_pydict()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ImageError(f"{path} is no Parquet file: {error}.") from error
    if "path" not in columns:
        raise ImageError(
            f"{path} has the columns {list(columns)}; it needs one named `path`, and "
            f"may have one named `label`."
        )
    names, labels = columns["path"], columns.get("label")
    for column in (names, labels or []):
        for row, text in enumerate(column):
            if text is None or str(text) == "":
                raise ImageError(
                    f"{path} has an empty entry in its row {row + 1}; every image "
                    f"needs its path, and a label if others have one."
                )
    names = [str(name) for name in names]
    return ImageList(
        names,
        [os.path.join(path.parent, name) for name in names],
        None if labels is None else [str(label) for label in labels],
    )


def order_like(
    images: ImageList, image_files: Sequence[str] | np.ndarray, source: str
) -> ImageList:
    """Bring images into the order of another list, matched by the end of the path.

    Lists such as ``image_files`` of the xlsa17 benchmark hold absolute paths of a
    machine long gone. What agrees with a file here in its last parts, and with no
    other file in as many, is that file.

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
        moves.

    Raises
    ------
    ImageError
        If not one image is found, or one matches several files equally well.

    Examples
    --------
    >>> from rezsl_features.images import ImageList, order_like
    >>> here = ImageList(["cat/1.jpg", "dog/1.jpg"], ["cat/1.jpg", "dog/1.jpg"])
    >>> order_like(here, ["/old/disk/dog/1.jpg", "/old/disk/cat/1.jpg"], "x").names
    ['dog/1.jpg', 'cat/1.jpg']
    """
    by_name = {}
    for i, name in enumerate(images.files):
        parts = PurePosixPath(name.replace(os.sep, "/")).parts
        by_name.setdefault(parts[-1], []).append((i, parts))
    chosen, missing = [], 0
    for wanted in image_files:
        parts = PurePosixPath(str(wanted).replace("\\", "/")).parts
        scores = [
            (_common_end(parts, candidate), i)
            for i, candidate in by_name.get(parts[-1] if parts else "", [])
        ]
        best = max(scores, default=(0, None))
        rivals = [i for score, i in scores if score == best[0]]
        if len(rivals) > 1:
            raise ImageError(
                f"{wanted!r} of {source} could be {images.files[rivals[0]]!r} or "
                f"{images.files[rivals[1]]!r}; give a folder that holds only one."
            )
        missing += best[1] is None
        chosen.append(best[1])
    if missing == len(chosen):
        raise ImageError(
            f"None of the {missing} images of {source} is among the {len(images)} "
            f"given, the first being {str(image_files[0])!r}; give the folder that "
            f"holds them."
            if chosen
            else f"{source} lists no images."
        )
    return ImageList(
        [
            str(wanted) if i is None else images.names[i]
            for i, wanted in zip(chosen, image_files, strict=True)
        ],
        [
            str(wanted) if i is None else images.files[i]
            for i, wanted in zip(chosen, image_files, strict=True)
        ],
        # A class folder's name stands for images that are there only.
        None
        if images.labels is None or missing
        else [images.labels[i] for i in chosen],
    )


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
        If the file lists no images, or none of them is found; see `order_like`.
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


def _common_end(a, b):
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read one image as 8-bit RGB, upright, whatever way it is stored.

    Transparent parts become white, 16-bit grey is scaled to 8 bits, an animation
    gives its first frame, and the orientation in the EXIF data is applied.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    PIL.Image.Image
        In mode RGB.

    Raises
    ------
    ImageError
        If the file cannot be read or decoded, is cut short, has more than
        ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, sides in a ratio above 50, or pixels
        whose range is unknown (32-bit integers, floats).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from rezsl_features.images import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "clear.png")
    ...     Image.new("RGBA", (8, 4)).save(path)
    ...     image = read_image(path)
    >>> image.mode, image.size, image.getpixel((0, 0))
    ('RGB', (8, 4), (255, 255, 255))
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError("no regular file")  # a pipe would wait for ever
        with warnings.catch_warnings():
            # Broken EXIF blocks and the like; what matters is refused below.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                _check_size(image.size, Image.MAX_IMAGE_PIXELS)
                return _to_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if os.path.getsize(path) == 0:
            raise ImageError("the file is empty") from error
        raise ImageError("no image format that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels: {error}") from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except Exception as error:
        # Decoders meet broken files with whatever comes: SyntaxError, struct.error,
        # IndexError, MemoryError. Each costs this one image.
        raise ImageError(f"{type(error).__name__}: {error}") from error


def _check_size(size, limit):
    width, height = size
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{width} x {height} pixels are more than the {limit} that are read "
            f"(PIL.Image.MAX_IMAGE_PIXELS)"
        )
    if max(size) > MAX_SIDE_RATIO * min(size):
        raise ImageError(
            f"{width} x {height} pixels have sides in a ratio above {MAX_SIDE_RATIO}"
        )


def _to_rgb(image):
    from PIL import Image, ImageOps

    stored_as = image.format  # a turned copy no longer knows
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:
        # A broken EXIF block says nothing about orientation; the pixels are sound.
        pass
    if image.mode.startswith("I;16") or (image.mode == "I" and stored_as == "PNG"):
        # Pillow's own conversion clips at 255, which makes such images white.
        grey = np.asarray(image).astype(np.uint32) // 257
        return Image.fromarray(grey.astype(np.uint8), "L").convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode {image.mode} have no known range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
