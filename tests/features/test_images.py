"""Images of every sort are read rightly, or refused with their reason."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from rezsl_features.images import (
    ImageError,
    ImageList,
    find_images,
    order_like,
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


# -- lists --------------------------------------------------------------------------


def tree(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return root


def test_class_folders(tmp_path):
    root = tree(
        tmp_path, "b/2.jpg", "b/deep/1.jpg", "a/9.jpg", "a/.hidden", "b/Thumbs.db"
    )
    (root / "empty").mkdir()
    (root / "README.txt").touch()
    images = find_images(root)
    assert images.names == ["a/9.jpg", "b/2.jpg", "b/deep/1.jpg"]
    assert images.labels == ["a", "b", "b"]
    assert all(os.path.exists(file) for file in images.files)


def test_flat_folder_has_no_labels(tmp_path):
    images = find_images(tree(tmp_path, "2.jpg", "1.jpg", ".x"))
    assert (images.names, images.labels) == (["1.jpg", "2.jpg"], None)


def test_links_that_go_in_circles(tmp_path):
    root = tree(tmp_path, "a/1.jpg")
    (root / "a" / "loop").symlink_to(root / "a")
    assert find_images(root).names == ["a/1.jpg"]


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    images = find_images(tree(tmp_path, f"a/{name}"))
    assert images.names == [f"a/{name}"] and len(images.sha256()) == 64


def test_tables(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text('\ufeffpath,label\n"a, b.jpg",cat\n/abs/c.jpg,dog\n')
    images = find_images(table)
    assert images.names == ["a, b.jpg", "/abs/c.jpg"]
    assert images.files == [str(tmp_path / "a, b.jpg"), "/abs/c.jpg"]
    assert images.labels == ["cat", "dog"]
    table.write_text("path\na.jpg\n")
    assert find_images(table).labels is None


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"path": ["a.jpg", "b.jpg"], "label": ["x", "y"]})
    parquet.write_table(table, tmp_path / "list.parquet")
    images = find_images(tmp_path / "list.parquet")
    assert (images.names, images.labels) == (["a.jpg", "b.jpg"], ["x", "y"])
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(ImageError, match="no Parquet"):
        find_images(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file,label\na.jpg,cat\n", "needs one named `path`"),
        ("path,label\na.jpg,\n", "row 1"),
        ("path,label\na.jpg,x\nb.jpg\n", "row 2"),
        ("path,label\n", r"needs one named|no image"),
        ("", r"needs one named|no image"),
    ],
)
def test_bad_tables(tmp_path, text, match):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ImageError, match=match):
        find_images(tmp_path / "list.csv")


def test_collections_that_make_no_sense(tmp_path):
    with pytest.raises(ImageError, match="no image"):
        find_images(tmp_path)
    with pytest.raises(ImageError, match="no image"):
        find_images([])
    with pytest.raises(ImageError, match="does not exist"):
        find_images(tmp_path / "none")
    with pytest.raises(ImageError, match="neither"):
        find_images(tree(tmp_path, "z/list.txt") / "z/list.txt")
    with pytest.raises(ImageError, match="beside them, 1 images"):
        find_images(tree(tmp_path / "mixed", "a/1.jpg", "2.jpg"))
    with pytest.raises(ImageError, match="1 labels"):
        find_images(["a.jpg", "b.jpg"], ["x"])
    with pytest.raises(ImageError, match="belong to a sequence"):
        find_images(tmp_path, ["x"])


def test_class_names_that_look_the_same(tmp_path):
    root = tree(tmp_path, "caf\u00e9/1.jpg", "cafe\u0301/1.jpg")
    with pytest.raises(ImageError, match="invisible differences"):
        find_images(root)


def test_unreadable_folder(tmp_path, monkeypatch):
    """As root every folder can be read, so the refusal is simulated."""
    root = tree(tmp_path, "a/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        find_images(root)


def listed(*names):
    return ImageList(list(names), [f"/mine/{name}" for name in names])


def test_order_like_matches_by_the_end_of_the_path():
    here = listed("b/1.jpg", "a/1.jpg", "a/2.jpg")
    found = order_like(here, ["/x//old/a/2.jpg", "C:\\old\\b\\1.jpg", "gone.jpg"], "m")
    assert found.names == ["a/2.jpg", "b/1.jpg", "gone.jpg"]
    assert found.files[0] == "/mine/a/2.jpg"
    with pytest.raises(ImageError, match="could be"):
        order_like(here, ["/elsewhere/1.jpg"], "m")
    with pytest.raises(ImageError, match="None of the 1 images"):
        order_like(here, ["/elsewhere/3.jpg"], "m")
    with pytest.raises(ImageError, match="lists no images"):
        order_like(here, [], "m")
