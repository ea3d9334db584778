"""Folders and tables of images: each image once, where it belongs, none in silence."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rezsl_features.images import (
    ImageError,
    ImageList,
    find_images,
    find_repeated,
    order_like,
)


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
        ("path,label\na.jpg,\n", "empty entry in line 2"),
        ("path,label\na.jpg,x\nb.jpg\n", "1 field in line 3 and 2 fields in its first"),
        ("path,label\n", "no image"),
        ("", "is empty"),
        # Surplus fields were cut; a first row too long was `KeyError: None`.
        ("path,label\na.jpg,cat\nb,c.jpg,dog\n", "3 fields in line 3 and 2 field"),
        ("path\na,b.jpg\n", "2 fields in line 2 and 1 field"),
        ("path,label,class\na.jpg,cat,dog\n", "'label', 'class', each of which may"),
        ("path,label\na.jpg,caf\u00e9\nb.jpg,cafe\u0301\n", "invisible differences"),
        ('path,label\n"a.jpg,cat\n', "is no table"),
        ("path,Path\na,b\n", "needs one named `path`"),
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
    for more in ({"labels": ["x"]}, {"root": tmp_path}):
        with pytest.raises(ImageError, match="has its labels and files"):
            find_images(ImageList(["a.jpg"], ["a.jpg"]), **more)


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


@pytest.mark.parametrize(
    ("header", "note"),
    [
        ("path,label", None),
        ("path, label", "' label'"),
        ("Path,Label", "'Label'"),
        ("path,labels", "'labels'"),
        ("path,class", "'class'"),
        ("\ufeffpath;label", None),
        ("path\tclass_name", "'class_name'"),
    ],
)
def test_the_column_of_labels_is_found(tmp_path, header, note):
    separator = next(s for s in ",;\t" if s in header)
    table = tmp_path / "list.csv"
    rows = [
        header,
        *(separator.join(row) for row in (("a.jpg", "cat"), ("b.jpg", "dog"))),
    ]
    table.write_text("\n".join(rows), encoding="utf-8")
    images = find_images(table)
    assert (images.names, images.labels) == (["a.jpg", "b.jpg"], ["cat", "dog"])
    if note is None:
        assert images.notes == []
    else:
        assert images.notes == [f"The classes were read from the column {note}."]


def test_blanks_make_no_second_class(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("path,label,note\na.jpg,cat\u00a0,x\nb.jpg, cat,y\nc.jpg,cat,z\n")
    images = find_images(table)
    assert images.labels == ["cat"] * 3
    assert images.notes == [
        "Labels with blanks around them, which were cut off: 2.",
        "Columns that were not used: 'note'.",
    ]


def test_tables_of_other_encodings(tmp_path):
    table = tmp_path / "list.csv"
    table.write_bytes("path,label\na.jpg,caf\u00e9\n".encode("utf-16"))
    assert find_images(table).labels == ["caf\u00e9"]
    table.write_bytes(b"path,label\na.jpg,caf\xe9\n")
    with pytest.raises(ImageError, match=r"no text in UTF-8 \(line 2 is not\)"):
        find_images(table)
    table.write_bytes(b"path,label\ncaf\xe9.jpg,cat\n")
    with pytest.raises(ImageError, match=r"no text in UTF-8 \(line 2 is not\)"):
        find_images(table)
    # A name of a file may be any bytes.
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    images = find_images(table)
    assert images.names == [os.fsdecode(b"caf\xe9.jpg")]
    assert os.path.exists(images.files[0])
    table.write_bytes(b"PK\x03\x04")
    with pytest.raises(ImageError, match="workbook"):
        find_images(table)


def test_a_table_with_its_images_elsewhere(tmp_path):
    table = tree(tmp_path, "lists/all.tsv", "pictures/a.jpg") / "lists" / "all.tsv"
    table.write_text("path\tlabel\na.jpg\tcat\n/abs/b.jpg\tcat\n")
    images = find_images(table, root=tmp_path / "pictures")
    assert images.names == ["a.jpg", "/abs/b.jpg"]
    assert images.files == [str(tmp_path / "pictures" / "a.jpg"), "/abs/b.jpg"]
    images = find_images(["a.jpg"], root=tmp_path)
    assert (images.names, images.files) == (["a.jpg"], [str(tmp_path / "a.jpg")])
    with pytest.raises(ImageError, match="give a table, or leave out root"):
        find_images(tmp_path, root=tmp_path)


def test_what_is_no_image_is_counted(tmp_path):
    """Sidecars, a cache written into the folder, what no plugin reads."""
    root = tree(
        tmp_path,
        *("cat/1.jpg", "cat/1.json", "cat/2.JPE", "cat/readme", "cat/3.heiq"),
        *("dog/1.jpg", "dog/1.json", "notes/a.txt", "list.csv", "out.h5"),
        *("out.h5.shards/000000000000.h5", "dog/deep/old.tar"),
    )
    images = find_images(root)
    assert images.names == ["cat/1.jpg", "cat/2.JPE", "dog/1.jpg"]
    assert images.labels == ["cat", "cat", "dog"]
    assert images.left_out == {
        ".json": (2, "cat/1.json"),
        "no suffix": (1, "cat/readme"),
        ".heiq": (1, "cat/3.heiq"),
        ".txt": (1, "notes/a.txt"),
        ".tar": (1, "dog/deep/old.tar"),
        ".csv": (1, "list.csv"),
        ".h5": (2, "out.h5.shards/000000000000.h5"),
    }
    assert "1 x .tar (such as 'dog/deep/old.tar'; unpack" in images.left_out_summary()
    # The list, and with it an unfinished run, does not depend on them.
    before = images.sha256()
    tree(root, "cat/2.json")
    assert find_images(root).sha256() == before


def test_what_could_be_read_with_a_plugin():
    images = ImageList([], [], left_out={".heic": (3, "cat/1.heic")})
    assert "`pip install pillow-heif` to read them" in images.left_out_summary()


def test_nothing_but_archives(tmp_path):
    with pytest.raises(ImageError, match=r"Left out were 2 x \.tar .*unpack them"):
        find_images(tree(tmp_path, "00000.tar", "00001.tar"))


def test_what_systems_leave_behind(tmp_path):
    root = tree(
        tmp_path,
        *("$RECYCLE.BIN/x.jpg", "__MACOSX/cat/._1.jpg", "cat/.DS_Store"),
        *("cat/Thumbs.db", "cat/@eaDir/1.jpg", "cat/1.jpg", ".Trash/2.jpg"),
        "System Volume Information/3.jpg",
    )
    images = find_images(root)
    assert images.names == ["cat/1.jpg"] and images.left_out == {}


def jpeg(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, format="JPEG")


def test_images_without_a_suffix_beside_class_folders(tmp_path):
    jpeg(tmp_path / "cat" / "n01440764_1")
    images = find_images(tmp_path)
    assert images.names == ["cat/n01440764_1"] and images.left_out == {}
    assert images.notes == [
        "Files without the suffix of an image that were taken for images by their "
        "first bytes: 1, such as 'cat/n01440764_1'."
    ]
    for name in ("x.avif", "x.jfif", "x.jpe", "x.jp2"):
        (tmp_path / name).touch()
        with pytest.raises(ImageError, match="beside them, 1 images"):
            find_images(tmp_path)
        (tmp_path / name).unlink()
    jpeg(tmp_path / "loose")
    with pytest.raises(ImageError, match="beside them, 1 images such as 'loose'"):
        find_images(tmp_path)


def test_folders_of_splits(tmp_path):
    """train/CLASS and val/CLASS, as of ImageNet: classes below, splits kept."""
    root = tree(
        tmp_path,
        *("train/cat/1.jpg", "train/cat/deep/2.jpg", "train/dog /1.jpg"),
        *("val/dog /1.jpg", "Test/cat/9.jpg", "train/LICENSE"),
    )
    images = find_images(root)
    assert dict(zip(images.names, images.labels, strict=True)) == {
        "Test/cat/9.jpg": "cat",
        "train/cat/1.jpg": "cat",
        "train/cat/deep/2.jpg": "cat",
        "train/dog /1.jpg": "dog",
        "val/dog /1.jpg": "dog",
    }
    assert {k: v.tolist() for k, v in images.splits.items()} == {
        "Test": [0],
        "train": [1, 2, 3],
        "val": [4],
    }
    assert images.notes == [
        "The folders Test (1 images), train (3 images), val (1 images) were taken for "
        "splits, and the folders in them for 2 classes; the splits are kept."
    ]
    tree(root, "extra/1.jpg")
    with pytest.raises(ImageError, match="'Test' and 'train', which are names of spl"):
        find_images(root)


def test_splits_of_which_one_has_no_class_folders(tmp_path):
    root = tree(tmp_path, "train/cat/1.jpg", "val/1.jpg", "val/2.jpg")
    with pytest.raises(ImageError, match=r"2 images such as 'val/1\.jpg' do not"):
        find_images(root)


def test_splits_of_images_without_classes(tmp_path):
    images = find_images(tree(tmp_path, "train/1.jpg", "test/2.jpg"))
    assert images.labels is None
    assert {k: v.tolist() for k, v in images.splits.items()} == {
        "test": [0],
        "train": [1],
    }
    assert "splits of images without classes" in images.notes[0]


def test_a_class_may_be_named_train(tmp_path):
    images = find_images(tree(tmp_path, "train/1.jpg", "bus/1.jpg"))
    assert images.labels == ["bus", "train"] and images.splits == {}


def test_the_same_class_spelled_otherwise_in_another_split(tmp_path):
    root = tree(tmp_path, "train/caf\u00e9/1.jpg", "val/cafe\u0301/1.jpg")
    with pytest.raises(ImageError, match="invisible differences"):
        find_images(root)


def test_one_floor_too_high(tmp_path):
    root = tree(tmp_path, "images/cat/1.jpg", "images/dog/1.jpg", "parts/parts.txt")
    images = find_images(root)
    assert images.labels == ["images"] * 2
    assert f"'cat', are the classes, give {root / 'images'} instead" in images.notes[0]
    images = find_images(tree(root, "more/1.jpg"))
    assert "count for that class: 2, such as 'images/cat/1.jpg'" in images.notes[0]


def test_folders_of_img2dataset(tmp_path):
    root = tree(
        tmp_path,
        *("00000/000000000.jpg", "00000/000000000.txt", "00000/000000000.json"),
        *("00001/000010003.jpg", "00001/000010003.txt", "00000_stats.json"),
        "00000.parquet",
    )
    images = find_images(root)
    assert images.names == ["00000/000000000.jpg", "00001/000010003.jpg"]
    assert images.labels is None
    assert "numbered as img2dataset does; they are no classes" in images.notes[0]
    assert set(images.left_out) == {".txt", ".json", ".parquet"}
    # Numbers alone make no such folder: digits are classes, and so are codes.
    images = find_images(tree(tmp_path / "codes", "10001/a.jpg", "10002/5.jpg"))
    assert images.labels == ["10001", "10002"]


def test_repeated_images_are_found_by_content(tmp_path):
    contents = {
        "a.jpg": b"x" * 9000 + b"1" + b"x" * 9000,
        "b.jpg": b"x" * 9000 + b"2" + b"x" * 9000,  # differs in its middle alone
        "c.jpg": b"x" * 9000 + b"1" + b"x" * 9000,
        "d.jpg": b"",
        "e.jpg": b"",
        "f.jpg": b"short",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "g.jpg").symlink_to(tmp_path / "f.jpg")
    (tmp_path / "h.jpg").symlink_to(tmp_path / "gone.jpg")
    assert find_repeated(find_images(tmp_path)) == [[0, 2], [5, 6]]
    twice = ImageList(["f.jpg", "f.jpg"], [str(tmp_path / "f.jpg")] * 2, ["x", "y"])
    assert find_repeated(twice) == [[0, 1]]


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


def found(here, wanted):
    """Which image each entry got; None for an image that is not there."""
    ordered = order_like(listed(*here), wanted, "m")
    there = {f"/mine/{name}": name for name in here}
    return [there.get(file) for file in ordered.files]


def test_no_image_serves_two_rows():
    """Where dog/1.jpg is missing, cat/1.jpg is not it."""
    wanted = ["/old/cat/1.jpg", "/old/dog/1.jpg", "/old/dog/2.jpg"]
    assert found(["cat/1.jpg", "dog/2.jpg"], wanted) == ["cat/1.jpg", None, "dog/2.jpg"]
    with pytest.raises(
        ImageError,
        match="'/old/cat/1.jpg' of m could be '/mine/1.jpg', "
        "and so could '/old/dog/1.jpg'",
    ):
        found(["1.jpg", "2.jpg"], wanted)
    with pytest.raises(
        ImageError, match="lists 'cat/1.jpg' twice, in its rows 1 and 3"
    ):
        found(["cat/1.jpg"], ["cat/1.jpg", "cat/2.jpg", "cat/1.jpg"])


def test_a_folder_of_both_lists_is_the_same_folder():
    """cat/7.jpg is the only 7.jpg, and no dog for all that."""
    here = ["cat/1.jpg", "cat/7.jpg"]
    assert found(here, ["/old/cat/1.jpg", "/old/dog/7.jpg"]) == ["cat/1.jpg", None]


def test_the_folder_of_all_images_is_no_class():
    """Even if it is called like one."""
    here = ImageList(["c1.jpg", "d7.jpg"], ["/x/cat/c1.jpg", "/x/cat/d7.jpg"])
    ordered = order_like(here, ["/old/dog/d7.jpg", "/old/cat/c1.jpg"], "m")
    assert ordered.names == ["d7.jpg", "c1.jpg"] and ordered.notes == []


def test_ambiguity_names_the_candidates():
    with pytest.raises(ImageError) as info:
        found(["a/1.jpg", "b/1.jpg", "c/2.jpg"], ["/old/1.jpg"])
    assert "'/mine/a/1.jpg' or '/mine/b/1.jpg'" in str(info.value)
    # Not where each candidate is another row's.
    assert found(["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg", "c/1.jpg"])[2] is None


def test_renamed_folders_match_by_the_file_name_alone_and_say_so():
    ordered = order_like(listed("katze/c7.jpg"), ["/old/cat/c7.jpg"], "m")
    assert ordered.names == ["katze/c7.jpg"]
    assert ordered.notes == [
        "Images that were matched by their file name alone: 1, such as 'katze/c7.jpg' "
        "for '/old/cat/c7.jpg'."
    ]


def test_what_is_missing_and_what_is_not_used_is_said():
    ordered = order_like(listed("a/1.jpg", "a/2.jpg"), ["a/1.jpg", "a/3.jpg"], "m")
    assert ordered.notes == [
        "Of the 2 images of m 1 are not there; of the 2 there 1 are not in it."
    ]


def test_accents_of_another_system():
    here = ["caf\u00e9/1.jpg", "tea/1.jpg"]
    assert found(here, ["cafe\u0301/1.jpg", "tea/1.jpg"]) == here


def test_messages_hold_plain_text():
    """Not np.str_('...'), as an array of names gives."""
    with pytest.raises(ImageError) as info:
        order_like(listed("b/3.jpg", "c/3.jpg"), np.array(["a/3.jpg"]), "m")
    assert "'a/3.jpg' of m" in str(info.value) and "np.str_" not in str(info.value)
    ordered = order_like(listed("3.jpg"), np.array(["a/3.jpg", "b/4.jpg"]), "m")
    assert all(type(name) is str for name in ordered.names + ordered.files)


part = st.sampled_from(["a", "b", "c"])
path = st.builds(
    lambda folders, name: "/".join([*folders, f"{name}.jpg"]),
    st.lists(part, max_size=3),
    st.sampled_from("12"),
)


@given(st.lists(path, max_size=6, unique=True), st.lists(path, min_size=1, max_size=6))
def test_order_like_against_its_rule_by_brute_force(here, wanted):
    """Each match is the one image and the one entry with their longest common end."""

    def ends(paths):
        return [p.split("/")[::-1] for p in paths]

    def common(a, b):
        n = 0
        while n < min(len(a), len(b)) and a[n] == b[n]:
            n += 1
        return n

    try:
        got = found(here, wanted)
    except ImageError:
        return
    images = ends([f"mine/{name}" for name in here])
    entries = ends(wanted)
    used = [name for name in got if name is not None]
    assert len(used) == len(set(used))
    for entry, name in zip(entries, got, strict=True):
        lengths = [common(entry, image) for image in images]
        longest = max(lengths, default=0)
        if name is None:
            continue
        assert lengths[here.index(name)] == longest > 0
        assert lengths.count(longest) == 1
        end = entry[:longest]
        assert sum(other[:longest] == end for other in entries) == 1
