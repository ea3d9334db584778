"""Which files are images, and how one is read: by what it shows, not how it is stored.

`read_image` turns a file into 8-bit RGB, or says in one sentence why it cannot.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import stat
import warnings
from typing import TYPE_CHECKING

import numpy as np

__all__ = [
    "PLUGINS",
    "ImageError",
    "has_image_suffix",
    "image_formats",
    "is_image_file",
    "read_image",
]

# Side ratio above which the usual "resize the shorter side, crop the middle" would
# blow a small file up to gigabytes: 1 x 60000 pixels become 256 x 15 million.
MAX_SIDE_RATIO = 50

# Left to itself, Pillow tries every format: PostScript, which it hands to the program
# Ghostscript, and containers whose pixels it cannot read. These are formats of pixels
# that the process reads by itself.
_FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "HEIF", "JXL", "JPEG2000"),
    *("PPM", "PSD", "QOI", "DIB", "DDS", "ICO", "CUR", "ICNS", "PCX", "DCX", "SGI"),
    *("SUN", "FITS", "FLI", "XBM", "XPM", "MSP", "PIXAR"),
    *("PCD", "IM", "TGA"),  # known by no first bytes, so tried last
)
# Formats whose first bytes leave no doubt. TIFF is not among them: a camera's raw file
# is a TIFF whose first image is a thumbnail.
_UNMISTAKABLE = (
    *("JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF", "HEIF", "JXL", "JPEG2000", "PSD"),
    "QOI",
)
# Formats that Pillow reads with the help of another package, by suffix.
PLUGINS = {
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".hif": "pillow-heif",
    ".avif": "pillow-avif-plugin",
    ".jxl": "pillow-jxl-plugin",
}


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


@functools.cache
def image_formats() -> dict[str, tuple[str, ...]]:
    """Formats that can be read here, with the suffixes of their files.

    Returns
    -------
    dict of str to tuple of str
        Pillow's name of each format; its suffixes with their dot, in lower case.
        Formats of pillow-heif, pillow-avif-plugin and pillow-jxl-plugin are among
        them where these packages are installed.

    Raises
    ------
    ImageError
        If Pillow is not installed.

    Examples
    --------
    >>> from rezsl_features.reading import image_formats
    >>> ".jfif" in image_formats()["JPEG"], "EPS" in image_formats()
    (True, False)
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImageError(
            "Reading images needs Pillow; `pip install rezsl-sk[extract]`."
        ) from error
    for module in ("pillow_heif", "pillow_avif", "pillow_jxl"):
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            if module == "pillow_heif":
                plugin.register_heif_opener()
    suffixes = {}
    for suffix, name in Image.registered_extensions().items():
        name = "JPEG" if name == "MPO" else name  # several JPEGs, opened as one
        suffixes.setdefault(name, []).append(suffix)
    return {
        name: tuple(sorted(suffixes.get(name, ())))
        for name in _FORMATS
        if name in Image.OPEN
    }


@functools.cache
def _suffixes():
    return frozenset().union(*image_formats().values())


def has_image_suffix(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name has the suffix of a format that can be read.

    Parameters
    ----------
    path : str or path-like
        The file; it is not looked at.

    Returns
    -------
    bool
        Whether it has.

    Examples
    --------
    >>> from rezsl_features.reading import has_image_suffix
    >>> has_image_suffix("cat.JPE"), has_image_suffix("cat")
    (True, False)
    """
    return os.path.splitext(os.fspath(path))[1].lower() in _suffixes()


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is meant to be an image: by its suffix, else by its first bytes.

    Parameters
    ----------
    path : str or path-like
        The file. It is opened only where its suffix is not an image's.

    Returns
    -------
    bool
        True does not promise that the image is sound.

    Examples
    --------
    >>> from rezsl_features.reading import is_image_file
    >>> is_image_file("cat.JPE"), is_image_file("notes.txt")
    (True, False)
    """
    if has_image_suffix(path):
        return True
    from PIL import Image

    formats = [name for name in _UNMISTAKABLE if name in image_formats()]
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False  # a pipe would wait for ever
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats):
                return True
    except Image.DecompressionBombError:
        return True
    except Exception:
        # Whatever a decoder says of bytes that are not its own.
        return False


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
        If the file cannot be read or decoded, is cut short, is of a format that is
        not read (such as PostScript, for which Pillow starts a program), has more than
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
    formats = list(image_formats())
    from PIL import Image, UnidentifiedImageError

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError("no regular file")  # a pipe would wait for ever
        with warnings.catch_warnings():
            # Broken EXIF blocks and the like; what matters is refused below.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats) as image:
                _check_size(image.size, Image.MAX_IMAGE_PIXELS)
                return _to_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if os.path.getsize(path) == 0:
            raise ImageError("the file is empty") from error
        raise ImageError("no image format that is read here") from error
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
