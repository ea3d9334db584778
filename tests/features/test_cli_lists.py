"""What the command says of folders, tables and names, from listing to inspecting."""

import importlib.util
import os
import shutil

import numpy as np
import pytest
from rezsl_features import _commands, cli
from rezsl_features.images import ImageList

from rezsl_sk.feature_cache import FeatureCache

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="needs the extra [extract]"
)


@pytest.fixture
def extract(run, tmp_path):
    """Extract with timm's smallest network; give exit code, stdout, stderr."""

    def call(source, *options, out=tmp_path / "out.h5"):
        return run(
            *("extract", source, "--out", out, "--workers", 0, "--device", "cpu"),
            *("--backbone", "test_resnet", "--weights", "random", *options),
        )

    return call


def test_sidecars_are_no_failures(extract, make_images):
    """Two files of three are no images: 67 % used to be failed, exit code 3."""
    root = make_images(6)
    for image in root.rglob("*.png"):
        image.with_suffix(".json").write_text("{}")
        image.with_suffix(".txt").write_text("a picture of noise")
    code, text, err = extract(root)
    assert (code, err) == (0, "")
    assert "6 of 6 images" in text and "0 skipped" in text
    assert "Left out: 6 x .json (such as 'class0/000.json'), 6 x .txt" in text
    assert text.endswith("left out: 6 x .json, 6 x .txt.\n")


def test_a_cache_written_into_the_folder_is_no_data(extract, make_images):
    root = make_images(4)
    out = root / "out.h5"
    assert extract(root, out=out)[0] == 0
    before = out.read_bytes()
    code, text, err = extract(root, out=out)
    assert (code, err) == (0, "") and "Left out: 1 x .h5" in text
    assert "4 of 4 images" in text and out.read_bytes() == before


def test_splits_are_kept(extract, make_images, tmp_path):
    make_images(6, root=tmp_path / "all" / "train")
    make_images(3, root=tmp_path / "all" / "val")
    # The images of val are the first of train.
    (tmp_path / "all" / "val" / "class0" / "000.png").write_bytes(b"")
    code, text, _ = extract(tmp_path / "all", "--max-failed", 0.2)
    assert code == 0
    assert "train (6 images), val (3 images) were taken for splits" in text
    assert (
        "Images that are there more than once: 2, 0 of them under several labels"
        in text
    )
    with FeatureCache(tmp_path / "out.h5") as cache:
        assert cache.classes.tolist() == ["class0", "class1", "class2"]
        assert cache.splits["train"].tolist() == list(range(6))
        assert cache.splits["val"].tolist() == [6, 7]


def test_one_image_under_two_labels(extract, make_images):
    root = make_images(6)
    shutil.copy(root / "class0" / "000.png", root / "class2" / "again.png")
    shutil.copy(root / "class1" / "001.png", root / "class1" / "again.png")
    code, text, _ = extract(root)
    assert code == 0
    assert (
        "Images that are there more than once: 2, 1 of them under several labels: "
        "'class0/000.png' and 'class2/again.png'.\n" in text
    )


def test_a_table_with_a_root(extract, run, make_images, tmp_path):
    root, table = make_images(3), tmp_path / "lists" / "all.csv"
    table.parent.mkdir()
    table.write_text("path,class\nclass0/000.png,cat\nclass1/001.png,dog\n")
    code, _, err = extract(table)
    assert code == 1 and "None of the 2 images gave features" in err
    assert "where its relative paths start (root, --root)." in err
    code, text, err = extract(table, "--root", root)
    assert (code, err) == (0, "")
    assert "The classes were read from the column 'class'." in text
    with FeatureCache(tmp_path / "out.h5") as cache:
        assert cache.paths.tolist() == ["class0/000.png", "class1/001.png"]
        assert cache.y.tolist() == ["cat", "dog"]
    against = ["--against", table, "--root", root]
    code, text, _ = run("verify", tmp_path / "out.h5", *against)
    assert code == 0 and "2 rows were computed again" in text


def test_names_that_are_hostile_or_no_utf8(extract, run, make_images, tmp_path):
    root = make_images(3)
    hostile = "\x1b[2J\x1b[31m.png"
    foreign = os.fsdecode(b"caf\xe9.png")
    for name in (hostile, foreign):
        (root / "class0" / name).write_bytes(b"broken")
    shutil.copy(root / "class0" / "000.png", root / "class0" / f"good {hostile}")
    code, text, err = extract(root, "--max-failed", 0.5)
    assert code == 0
    for out in (text, err, run("inspect", tmp_path / "out.h5")[1]):
        assert "\x1b" not in out
    for shown in (r"\x1b[2J\x1b[31m.png: no image", r"caf\udce9.png: no image"):
        assert f"skipped class0/{shown}" in text
    with FeatureCache(tmp_path / "out.h5") as cache:
        assert [path for path, _ in cache.failed] == [
            f"class0/{hostile}",
            f"class0/{foreign}",
        ]
        assert f"class0/good {hostile}" in cache.paths.tolist()


def test_a_hostile_name_in_an_error(run, tmp_path):
    code, _, err = run("inspect", tmp_path / "\x1b[31mnone.h5")
    assert code == 1 and r"\x1b[31mnone.h5" in err and "\x1b" not in err


def test_inspect_lists_the_attributes(run, tmp_path):
    names = [f"a rather long attribute {i}" for i in range(9)]
    FeatureCache.from_arrays(
        tmp_path / "x.h5",
        np.eye(2),
        ["cat", "dog"],
        class_attributes=(["cat", "dog"], np.ones((2, 9))),
        attribute_names=names,
    ).close()
    _, text, _ = run("inspect", tmp_path / "x.h5")
    start = text.index("attributes        9\n")
    assert all(text.index(name) > start for name in names)


def test_a_byte_order_mark_before_the_unseen_classes(run, tmp_path):
    FeatureCache.from_arrays(
        tmp_path / "x.h5",
        np.eye(6),
        ["cat", "cat", "dog", "dog", "hen", "hen"],
        class_attributes=(["cat", "dog", "hen"], np.eye(3)),
    ).close()
    (tmp_path / "unseen.txt").write_bytes("\ufeffcat\n".encode())
    options = ["--xlsa17", tmp_path / "X", "--unseen", tmp_path / "unseen.txt"]
    assert run("export", tmp_path / "x.h5", *options)[0] == 0


def test_doctor_says_what_a_folder_holds(run, make_images):
    root = make_images(5)
    (root / "class0" / "scan.heiq").write_text("?")
    code, text, err = run("doctor", root)
    assert (code, err) == (0, "")
    assert " .jfif " in text
    assert f"{root}: 5 images, 3 classes.\n" in text
    assert "Left out: 1 x .heiq (such as 'class0/scan.heiq')." in text
    code, _, err = run("doctor", root / "none")
    assert code == 1 and "does not exist" in err


def test_doctor_names_what_a_plugin_would_read(run, monkeypatch):
    monkeypatch.setattr(_commands, "image_formats", lambda: {"JPEG": (".jpg",)})
    _, text, _ = run("doctor")
    assert ".heic          not read: `pip install pillow-heif`" in text


def test_only_rank_0_speaks_of_the_list(capsys, monkeypatch, tmp_path):
    """Each of the processes of torchrun lists the images; one says so."""
    images = ImageList(["a"], ["a"], notes=["A note."])
    monkeypatch.setattr(_commands, "find_images", lambda *_, **__: images)
    monkeypatch.setattr(
        "rezsl_features.extract.extract_features", lambda *_, **__: 1 / 0
    )
    command = ["extract", "x", "--out", str(tmp_path / "y"), "--backbone", "z"]
    for rank, said in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", "1")
        with pytest.raises(ZeroDivisionError):
            cli.main(command)
        assert ("A note." in capsys.readouterr().out) == said


def test_missing_attributes_are_kept_over_a_rerun(extract, run, make_images, tmp_path):
    root, table = make_images(3), tmp_path / "classes.csv"
    table.write_text("class,furry,legs\nclass0,1,NA\nclass1,,2\nclass2,0,4\n")
    code, _, err = extract(root, "--attributes", table)
    assert code == 1
    assert "line 3 ('class1'), column 2 ('furry'), the cell is empty" in err
    for options in (["--attributes", table, "--allow-missing"], []):
        code, _, err = extract(root, *options)
        assert (code, err) == (0, "")
        with FeatureCache(tmp_path / "out.h5") as cache:
            np.testing.assert_array_equal(
                cache.class_attributes, [[1, np.nan], [np.nan, 2], [0, 4]]
            )
    _, text, _ = run("inspect", tmp_path / "out.h5")
    assert "attributes        2, 2 values missing\n  furry, legs\n" in text
    assert run("verify", tmp_path / "out.h5")[0] == 0


def test_verify_takes_the_settings_of_the_cache(run, make_images, extract, tmp_path):
    root, out = make_images(3), tmp_path / "out.h5"
    assert extract(root, "--image-size", 64)[0] == 0
    assert "kB)\n" in run("inspect", out)[1]
    code, text, err = run("verify", out, "--against", root)
    assert (code, err) == (0, "") and "3 rows were computed again" in text
    code, _, err = run("verify", out, "--against", root, "--image-size", 32)
    assert code == 1
    assert "was made with transform 'Compose( Resize(size=" in err


def test_names_in_messages_are_plain_text(run, make_images, extract, tmp_path):
    root = make_images(3)
    assert extract(root)[0] == 0
    os.rename(root / "class0" / "000.png", root / "class0" / "other.png")
    code, _, err = run("verify", tmp_path / "out.h5", "--against", root)
    assert code == 1 and "'class0/000.png' of" in err and "np.str_" not in err
