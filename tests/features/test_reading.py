"""Images of every sort are read rightly, or refused with their reason."""

import os
import shutil
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from rezsl_features import find_images, reading
from rezsl_features.reading import (
    ImageError,
    image_formats,
    is_image_file,
    read_image,
)


@pytest.fixture
def saved(tmp_path):
    def save(image, name, **options):
        path = tmp_path / name
        image.save(path, **options)
        return path

    return save


def corners(image):
    """Left top and right bottom pixel, as lists, for images of flat halves."""
    return list(image.getpixel((0, 0))), list(
        image.getpixel((image.width - 1, image.height - 1))
    )


def halves(mode="RGB", colors=("red", "blue"), size=(16, 8)):
    image = Image.new(mode, size, colors[0])
    image.paste(colors[1], (size[0] // 2, 0, *size))
    return image


def test_grey_palette_and_plain(saved):
    for mode in ("1", "L", "P", "RGB"):
        image = read_image(saved(halves().convert(mode), f"{mode}.png"))
        assert image.mode == "RGB" and image.size == (16, 8)
    assert corners(read_image(saved(halves().convert("P"), "p.png"))) == (
        [255, 0, 0],
        [0, 0, 255],
    )


def test_cmyk_jpeg(saved):
    image = read_image(saved(halves().convert("CMYK"), "cmyk.jpg", quality=95))
    left, right = corners(image)
    assert np.abs(np.subtract(left, [255, 0, 0])).max() < 20
    assert np.abs(np.subtract(right, [0, 0, 255])).max() < 20


def test_sixteen_bits_are_scaled_not_clipped(saved):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    for name in ("grey.png", "grey.tif"):
        image = read_image(saved(Image.fromarray(values), name))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 100, 255]


def test_transparent_parts_are_white(saved):
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    palette = clear.convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    grey = clear.convert("LA")
    for i, image in enumerate((clear, palette, grey)):
        path = saved(image, f"{i}.png")
        assert read_image(path).getpixel((1, 1)) == (255, 255, 255)


def test_animation_gives_its_first_frame(saved):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green")]
    for name in ("a.gif", "a.webp", "a.png"):
        path = saved(
            frames[0], name, save_all=True, append_images=frames[1:], duration=50
        )
        assert read_image(path).getpixel((1, 1))[0] > 240


def test_exif_rotation_is_applied(saved):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    path = saved(halves(), "turned.png", exif=exif)
    assert corners(read_image(path)) == ([0, 0, 255], [255, 0, 0])


def test_broken_exif_costs_nothing(saved):
    path = saved(halves(), "odd.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert read_image(path).size == (16, 8)


def png_header(width, height, body=b""):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"hello, I am text\n" * 9, "no image format"),
        (png_header(60000, 60000), "too many pixels"),
        (png_header(10000, 10000), "100000000|10000 x 10000 pixels are more"),
        (png_header(60000, 1), "ratio above 50"),
        (png_header(8, 8, b"short"), "truncated|broken|not enough"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 50, "."),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "."),
    ],
)
def test_files_that_are_no_images(tmp_path, content, match):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=match):
        read_image(path)


def test_truncated_at_any_length(saved, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), "whole.jpg").read_bytes()
    path = tmp_path / "cut.jpg"
    for length in range(0, len(whole) - 20, 101):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read_image(path)


def test_flipped_bits_never_crash(saved, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "a.png", "a.gif", "a.webp", "a.tif", "a.bmp"):
        whole = saved(halves(), name).read_bytes()
        path = tmp_path / f"broken{name}"
        for _ in range(60):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 4):
                damaged[at] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                assert read_image(path).mode == "RGB"
            except ImageError as error:
                assert str(error)


def test_pixels_of_unknown_range(saved):
    path = saved(Image.new("F", (4, 4), 0.5), "float.tif")
    with pytest.raises(ImageError, match="mode F"):
        read_image(path)


def test_things_that_are_no_files(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, match in (
        ("link.jpg", "No such file"),
        ("pipe.jpg", "no regular file"),
        (".", "no regular file"),
        ("none.jpg", "No such file"),
    ):
        with pytest.raises(ImageError, match=match):
            read_image(tmp_path / name)


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
showpage
%%EOF
"""


def test_postscript_reaches_no_other_program(tmp_path, monkeypatch):
    """Whatever its suffix; Pillow would start the Ghostscript it finds."""
    called = tmp_path / "called"
    for program in ("gs", "gswin32c", "gswin64c"):
        script = tmp_path / program
        script.write_text(f"#!/bin/sh\ntouch {called}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for name in ("a.jpg", "a.eps", "a"):
        path = tmp_path / name
        path.write_bytes(POSTSCRIPT)
        with pytest.raises(ImageError, match="no image format that is read here"):
            read_image(path)
        assert is_image_file(path) == (name == "a.jpg")
    assert shutil.which("gs") and not called.exists()


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *(("JPEG", s) for s in (".jpg", ".jpeg", ".jfif", ".jpe", ".mpo")),
        *(("PNG", s) for s in (".png", ".apng")),
        *(("JPEG2000", s) for s in (".jp2", ".j2k")),
        *(("TIFF", s) for s in (".tif", ".tiff")),
        *(("GIF", ".gif"), ("BMP", ".bmp"), ("WEBP", ".webp"), ("PPM", ".ppm")),
        *(("TGA", ".tga"), ("ICO", ".ico"), ("SGI", ".sgi"), ("AVIF", ".avif")),
        ("QOI", ".qoi"),
    ],
)
def test_suffixes_that_are_read(tmp_path, kind, suffix):
    if kind not in image_formats():
        pytest.skip(f"this Pillow has no {kind}")
    path = tmp_path / f"a{suffix.upper()}"
    Image.new("RGB", (16, 16), "red").save(path, format=kind)
    assert is_image_file(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.getpixel((8, 8))[0] > 240


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "JPEG2000"])
def test_an_image_without_its_suffix_is_known_by_its_first_bytes(tmp_path, kind):
    for name in ("n01440764_10026", "photo.jpg_large", "a.txt"):
        path = tmp_path / name
        Image.new("RGB", (16, 16)).save(path, format=kind)
        assert is_image_file(path)
        path.write_bytes(path.read_bytes()[:9])
        assert not is_image_file(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("readme", b"BM, said the owl.\nP3 is next.\n" * 9),
        ("a.json", b'{"label": "cat"}'),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 99),
        ("empty", b""),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_sidecars_are_no_images(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert not is_image_file(tmp_path / name)


def test_a_raw_file_of_a_camera_is_no_image(tmp_path):
    """It is a TIFF, whose first image may be a thumbnail."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.dng", format="TIFF")
    assert not is_image_file(tmp_path / "a.dng")


def test_things_that_are_no_files_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("pipe", "link", "none", "."):
        assert not is_image_file(tmp_path / name)


def test_heic_is_read_where_its_plugin_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    assert {".heic", ".heif"} <= set(image_formats()["HEIF"])
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(path)
    assert read_image(path).getpixel((32, 32))[0] > 200
    path.rename(tmp_path / "a")
    assert is_image_file(tmp_path / "a")


def test_without_the_plugin_heic_is_no_format(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name, suffix in (("OPEN", "HEIF"), ("EXTENSION", ".heic")):
        monkeypatch.delitem(getattr(Image, name), suffix, raising=False)
    reading.image_formats.cache_clear()
    try:
        assert "HEIF" not in image_formats() and "JPEG" in image_formats()
    finally:
        reading.image_formats.cache_clear()


def test_several_jpegs_in_one_file(tmp_path):
    views = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    path = tmp_path / "a.mpo"
    views[0].save(path, format="MPO", save_all=True, append_images=views[1:])
    assert is_image_file(path) and read_image(path).getpixel((8, 8))[0] > 240


def test_without_pillow_there_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    for cached in (reading.image_formats, reading._suffixes):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImageError, match="needs Pillow; `pip install"):
        find_images(tmp_path)
    with pytest.raises(ImageError, match="needs Pillow; `pip install"):
        read_image(tmp_path / "a.jpg")
