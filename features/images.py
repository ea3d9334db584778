"""Which images there are: in folders, in tables, in the order of another list.

Nothing here knows a network. `find_images` makes the list that everything else goes
by. It leaves out what is no image, and says so; nothing goes in silence.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ._image_list import ImageList
from ._order import order_from_xlsa17, order_like
from .delimited import CLASS_HEADERS, is_utf8, read_rows
from .reading import (
    ImageError,
    has_image_suffix,
    is_image_file,
    read_image,
)

__all__ = [
    "ImageError",
    "ImageList",
    "find_images",
    "find_repeated",
    "order_from_xlsa17",
    "order_like",
    "read_image",
]

# What systems and programs leave behind, beside names that start with a dot. The last
# two hold thumbnails, which would be images.
_JUNK = {"thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"}
_JUNK |= {"__macosx", "@eadir"}
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_SPLITS |= {"trainval", "test_seen", "test_unseen"}


def find_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ImageList,
    labels: Sequence[str] | np.ndarray | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
) -> ImageList:
    """List the images of a folder, of a table, or of a plain list of files.

    Parameters
    ----------
    source : str, path-like, sequence of path-like, or ImageList
        A folder, a table, a sequence of files, or a finished list.

        A folder may hold class folders (every image below a class folder is of that
        class); folders of splits, such as ``train`` and ``val``, with class folders
        in them; the numbered folders of img2dataset (no classes); or files (no
        classes).

        A table is a CSV, TSV or Parquet file with a column ``path`` and perhaps
        ``label`` (or ``class``); relative paths start at the table's folder.
    labels : sequence of str of length n, or None, default=None
        Classes, for a sequence of files.
    root : str, path-like or None, default=None
        The folder where relative paths of a table or a sequence start instead.

    Returns
    -------
    ImageList
        In the order of the table or sequence; folders in the order of names. A file of
        a folder is an image if it has the suffix of a format that can be read (see
        `rezsl_features.reading.image_formats`) or begins like one; others are
        counted in ``left_out``. Hidden files and those of the system are skipped. A
        broken image is listed; it will fail.

    Raises
    ------
    ImageError
        If there is no image, a folder cannot be read, class folders and images lie
        side by side, two classes have the same name to the eye, folders of splits
        do not all hold class folders, or a table has not the columns, or a row
        of another length.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from rezsl_features.images import find_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("dog/2.jpg", "cat/1.jpg", "cat/notes.txt"):
    ...         path = pathlib.Path(folder, name)
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     images = find_images(folder)
    >>> images.names, images.labels
    (['cat/1.jpg', 'dog/2.jpg'], ['cat', 'dog'])
    >>> images.left_out_summary()
    "1 x .txt (such as 'cat/notes.txt')"
    """
    if isinstance(source, ImageList):
        if labels is not None or root is not None:
            raise ImageError(
                "A finished list has its labels and files; leave out labels and root."
            )
        found = source
    elif not isinstance(source, (str, os.PathLike)):
        names = [os.fspath(file) for file in source]
        found = ImageList(names, [os.path.join(root or "", name) for name in names])
        if labels is not None:
            found.labels = [str(label) for label in labels]
            if len(found.labels) != len(names):
                raise ImageError(
                    f"{len(found.labels)} labels were given for {len(names)} images; "
                    f"give one for each."
                )
    else:
        if labels is not None:
            raise ImageError(
                "labels belong to a sequence of files; those of a folder or a table "
                "are found there. Leave them out."
            )
        path = Path(source)
        if path.is_dir():
            if root is not None:
                raise ImageError(
                    f"{path} is a folder, and root ({root}) is where the paths of a "
                    f"table start; give a table, or leave out root."
                )
            found = _from_folder(path)
        elif not path.exists():
            raise ImageError(f"{path} does not exist; give a folder or a table.")
        elif path.suffix.lower() in (".csv", ".tsv", ".parquet"):
            found = _from_table(path, path.parent if root is None else root)
        else:
            raise ImageError(
                f"{path} is neither a folder nor a .csv, .tsv or .parquet file; give "
                f"one of these."
            )
    if len(found) == 0:
        left_out = found.left_out_summary()
        raise ImageError(
            f"There is no image in {source!s}; nothing can be extracted."
            + (f" Left out were {left_out}." if left_out else "")
        )
    return found


# -- folders ------------------------------------------------------------------------


def _from_folder(root):
    found = ImageList([], [])
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
    by_content = []
    inside = {
        name: _images_among(_walk(root / name), root, f"{name}/", found, by_content)
        for name in sorted(folders)
    }
    inside = {name: files for name, files in inside.items() if files}
    loose = _images_among(sorted(loose), root, "", found, by_content)
    if by_content:
        found.notes.append(
            f"Files without the suffix of an image that were taken for images by their "
            f"first bytes: {len(by_content)}, such as {by_content[0]!r}."
        )
    if inside and loose:
        raise ImageError(
            f"{root} holds class folders and, beside them, {len(loose)} images such "
            f"as {loose[0]!r}; move those into a class folder or elsewhere."
        )
    splits = _splits_of(root, inside)
    if not inside:
        found.names = loose
    elif splits is not None:
        _take_splits(root, inside, splits, found)
    elif _is_img2dataset(inside):
        found.names = [f"{name}/{file}" for name in inside for file in inside[name]]
        found.notes.append(
            f"The folders of {root}, such as {next(iter(inside))!r}, are numbered as "
            f"img2dataset does; they are no classes. To give classes, make a table "
            f"with the columns path and label."
        )
    else:
        _take_classes(root, inside, found)
    found.files = [os.path.join(root, name) for name in found.names]
    return found


def _images_among(files, root, prefix, found, by_content):
    """Those of the files that are images; the others are counted as left out."""
    images = []
    for file in files:
        name = prefix + file
        if not is_image_file(os.path.join(root, name)):
            suffix = os.path.splitext(file)[1].lower() or "no suffix"
            count, first = found.left_out.get(suffix, (0, name))
            found.left_out[suffix] = (count + 1, first)
            continue
        images.append(file)
        if not has_image_suffix(file):
            by_content.append(name)
    return images


def _take_classes(root, inside, found):
    _check_names_of_classes(inside, f"The class folders {{}} and {{}} in {root}")
    found.labels = []
    for name, files in inside.items():
        found.names += [f"{name}/{file}" for file in files]
        found.labels += [name.strip()] * len(files)
    deep = [name for name in found.names if name.count("/") > 1]
    if not deep:
        return
    first, below, *_ = deep[0].split("/")
    if len(inside) == 1:
        found.notes.append(
            f"All images lie in the one folder {first!r}, which is therefore their "
            f"class. If the folders in it, such as {below!r}, are the classes, give "
            f"{root / first} instead."
        )
    else:
        found.notes.append(
            f"Images in folders below their class folder, which count for that class: "
            f"{len(deep)}, such as {deep[0]!r}."
        )


def _splits_of(root, inside):
    """Names of folders that are splits rather than classes, or None."""
    splits = [name for name in inside if name.lower() in _SPLITS]
    others = [name for name in inside if name.lower() not in _SPLITS]
    if not splits or (others and len(splits) == 1):
        return None  # a train is something to see, too
    if others:
        raise ImageError(
            f"{root} holds {splits[0]!r} and {splits[1]!r}, which are names of splits, "
            f"and {others[0]!r}, which is none. Move either elsewhere; if all are "
            f"classes, give a table with the columns path and label."
        )
    return splits


def _take_splits(root, inside, splits, found):
    """Images of folders such as train and val: classes one floor below, if any."""
    nested = {name: [f for f in inside[name] if "/" in f] for name in splits}
    some = [name for name in splits if nested[name]]
    for name in splits if some else ():
        flat = [file for file in inside[name] if "/" not in file]
        if flat:
            raise ImageError(
                f"{root} holds the splits {', '.join(map(repr, splits))}. Images of "
                f"{some[0]!r} lie in class folders such as "
                f"{nested[some[0]][0].split('/')[0]!r}, but {len(flat)} images such as "
                f"{f'{name}/{flat[0]}'!r} do not, so their class is unknown. Move them "
                f"into class folders, give {root / some[0]} alone, or give a table "
                f"with the columns path and label."
            )
    labels = []
    for name in splits:
        start = len(found.names)
        found.names += [f"{name}/{file}" for file in inside[name]]
        labels += [file.split("/")[0] for file in inside[name]]
        found.splits[name] = np.arange(start, len(found.names))
    what = ", ".join(f"{name} ({len(inside[name])} images)" for name in splits)
    if some:
        _check_names_of_classes(
            dict.fromkeys(labels), f"The class folders {{}} and {{}} in {root}"
        )
        found.labels = [label.strip() for label in labels]
        found.notes.append(
            f"The folders {what} were taken for splits, and the folders in them for "
            f"{len(set(labels))} classes; the splits are kept."
        )
    else:
        found.notes.append(
            f"The folders {what} were taken for splits of images without classes. If "
            f"they are classes, give a table with the columns path and label."
        )


def _is_img2dataset(inside):
    """Whether folders are 00000, 00001, ... and files 000000012.jpg and so on."""
    return all(
        len(name) >= 5
        and name.isdecimal()
        and all(
            (stem := file.rsplit(".", 1)[0]).isdecimal() and stem.startswith(name)
            for file in files
        )
        for name, files in inside.items()
    )


def _check_names_of_classes(names, what):
    """Refuse classes that are two to the computer and one to the eye."""
    seen = {}
    for name in names:
        # An accent is one letter or two by the system the name was written on.
        key = unicodedata.normalize("NFC", name).strip()
        if key in seen:
            raise ImageError(
                f"{what.format(repr(seen[key]), repr(name))} have the same name but "
                f"for invisible differences; rename or merge them."
            )
        seen[key] = name


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


# -- tables -------------------------------------------------------------------------


def _from_table(path, root):
    if path.suffix.lower() == ".parquet":
        header, columns = _read_parquet(path)
        places = [f"row {i + 1}" for i in range(len(columns[0]) if columns else 0)]
    else:
        try:
            rows = read_rows(path, foreign_bytes=True)
        except ValueError as error:
            raise ImageError(str(error)) from error
        header, cells = rows.cells[0], rows.cells[1:]
        columns = list(zip(*cells, strict=True)) if cells else [()] * len(header)
        places = [f"line {line}" for line in rows.lines[1:]]
    found = ImageList([], [])
    keys = [name.strip().lower() for name in header]
    if keys.count("path") != 1:
        raise ImageError(
            f"{path} has the columns {header}; it needs one named `path`, and may have "
            f"one named `label`."
        )
    names = columns[keys.index("path")]
    label_columns = [i for i, key in enumerate(keys) if key in CLASS_HEADERS]
    if len(label_columns) > 1:
        heads = ", ".join(repr(header[i]) for i in label_columns)
        raise ImageError(
            f"{path} has the columns {heads}, each of which may hold the classes; "
            f"leave one."
        )
    labels = columns[label_columns[0]] if label_columns else None
    for column in (names, labels or []):
        for place, text in zip(places, column, strict=False):
            if text is None or not str(text).strip():
                raise ImageError(
                    f"{path} has an empty entry in {place}; every image needs its "
                    f"path, and a label if others have one."
                )
    found.names = [str(name) for name in names]
    found.files = [os.path.join(root, name) for name in found.names]
    for place, name, file in zip(places, found.names, found.files, strict=True):
        # Names of files may be any bytes; a table in Latin-1 may not.
        if not is_utf8(name) and not os.path.lexists(file):
            raise _no_utf8(path, place)
    if labels is not None:
        found.labels = [str(label).strip() for label in labels]
        for place, label in zip(places, found.labels, strict=True):
            if not is_utf8(label):
                raise _no_utf8(path, place)
        _check_names_of_classes(
            dict.fromkeys(found.labels), f"The classes {{}} and {{}} of {path}"
        )
        if header[label_columns[0]] != "label":
            found.notes.append(
                f"The classes were read from the column {header[label_columns[0]]!r}."
            )
        blanks = sum(str(a) != b for a, b in zip(labels, found.labels, strict=True))
        if blanks:
            found.notes.append(
                f"Labels with blanks around them, which were cut off: {blanks}."
            )
    others = [
        name
        for i, name in enumerate(header)
        if keys[i] != "path" and i not in label_columns
    ]
    if others:
        found.notes.append(
            f"Columns that were not used: {', '.join(map(repr, others))}."
        )
    return found


def _no_utf8(path, place):
    return ImageError(
        f"{path} is no text in UTF-8 ({place} is not); save it in the encoding UTF-8."
    )


def _read_parquet(path):
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImageError(
            f"Reading {path} needs pyarrow; `pip install pyarrow`, or give the "
            f"list as CSV."
        ) from error
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ImageError(f"{path} is no Parquet file: {error}.") from error
    return table.column_names, [column.to_pylist() for column in table.columns]


def find_repeated(images: ImageList) -> list[list[int]]:
    """Find images that are there more than once, by their content.

    Parameters
    ----------
    images : ImageList
        The images. Files of one size are compared by their ends, and read in full
        where these agree.

    Returns
    -------
    list of list of int
        The positions of each image that is there more than once.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from rezsl_features.images import find_images, find_repeated
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, content in (("a.jpg", "x"), ("b.jpg", "y"), ("c.jpg", "x")):
    ...         _ = pathlib.Path(folder, name).write_text(content)
    ...     find_repeated(find_images(folder))
    [[0, 2]]
    """
    groups = [range(len(images))]
    for key in (_size_of, _ends_of, _hash_of):
        finer = []
        for group in groups:
            parts = {}
            for i in group:
                try:
                    parts.setdefault(key(images.files[i]), []).append(i)
                except OSError:
                    continue  # it will fail, with its reason
            finer += [part for part in parts.values() if len(part) > 1]
        groups = finer
    return sorted(groups)


def _size_of(file):
    # Empty files are all alike and no images.
    return os.stat(file).st_size or file


def _ends_of(file):
    with open(file, "rb") as opened:
        start = opened.read(4096)
        opened.seek(-min(4096, opened.seek(0, os.SEEK_END)), os.SEEK_END)
        return hashlib.blake2b(start + opened.read()).digest()


def _hash_of(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "blake2b").digest()
