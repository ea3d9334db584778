"""The command: what it prints, what it returns, sentences instead of tracebacks."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import rezsl_features
from PIL import Image
from rezsl_features import extract_features
from rezsl_features.cli import main
from tiny import Small, tiny_network

from rezsl_sk.datasets import load_xlsa17, save_xlsa17
from rezsl_sk.feature_cache import FeatureCache

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="needs the extra [extract]"
)
SMALL = ["--backbone", "test_resnet", "--weights", "random"]


@pytest.fixture
def tiny_cache(make_images, tmp_path):
    """A cache of 22 images, without timm."""
    root = make_images()
    path = tmp_path / "tiny.h5"
    table = ([f"class{i}" for i in range(3)], np.eye(3))
    extract_features(
        root,
        tiny_network(),
        path,
        transform=Small(),
        workers=0,
        class_attributes=table,
    ).close()
    return path


# -- extract --------------------------------------------------------------------------


@needs_timm
def test_extract_inspect_verify(run, make_images, tmp_path):
    root, out = make_images(9), tmp_path / "out.h5"
    (root / "class1" / "note.png").write_text("not an image")
    (root / "class1" / "note.txt").write_text("about the images")
    table = tmp_path / "classes.csv"
    table.write_text(
        "class,split,furry,legs\nclass2,seen,1,4\nclass0,seen,0,2\n"
        "class1,unseen,1,2.5\nclass9,unseen,0,0\n"
    )
    options = ["--attributes", table, "--workers", 0, "--max-failed", 0.1]
    code, text, err = run("extract", root, "--out", out, *SMALL, *options)
    assert (code, err) == (0, "")
    assert "Left out: 1 x .txt (such as 'class1/note.txt').\n" in text
    assert (
        f"{table}: 2 attributes of 4 classes: furry, legs; left out: split.\n" in text
    )
    assert "skipped class1/note.png: no image format that is read here" in text
    last = text.splitlines()[-1]
    assert re.fullmatch(
        rf"{out}: features of 9 of 10 images after \d+ s, 1 skipped "
        r"\(1 x no image format that is read here\); left out: 1 x \.txt\.",
        last,
    )
    with FeatureCache(out) as cache:
        assert cache.classes.tolist() == ["class2", "class0", "class1", "class9"]
        assert cache.attribute_names.tolist() == ["furry", "legs"]
        assert cache.class_attributes.tolist() == [[1, 4], [0, 2], [1, 2.5], [0, 0]]

    code, text, err = run("inspect", out)
    assert (code, err) == (0, "")
    for words in (
        r"features +9 x \d+, float32",
        "classes +4, 3 of them with rows",
        "attributes +2\n  furry, legs\n",
        "backbone +test_resnet",
        "weights +random",
        "weights_sha256 +[0-9a-f]{64}",
        "failed +1\n  class1/note.png: no image format",
    ):
        assert re.search(words, text), words

    assert run("verify", out)[:2] == (
        0,
        f"{out}: all hashes hold, all values are finite.\n",
    )
    code, text, _ = run("verify", out, "--against", root, "--sample", 4)
    assert code == 0 and "4 rows were computed again and differ by at most" in text
    Image.new("RGB", (9, 9), "red").save(root / "class0" / "000.png")
    code, _, err = run("verify", out, "--against", root)
    assert code == 1 and re.search(r"Row 0 .*class0/000.png.* differs", err)


@needs_timm
def test_too_many_failures_have_an_exit_code(run, make_images, tmp_path):
    root, out = make_images(6), tmp_path / "out.h5"
    (root / "class0" / "000.png").write_bytes(b"")
    command = ["extract", root, "--out", out, *SMALL, "--workers", 0]
    code, text, err = run(*command)
    assert code == 3
    assert "16.7% of the images failed, more than --max-failed 0.05 allows." in err
    assert "5 of 6 images" in text and len(FeatureCache(out)) == 5
    assert run(*command, "--max-failed", 0.2)[0] == 0
    code, _, err = run(*command, "--on-error", "stop", "--restart")
    assert code == 1 and "000.png: the file is empty. Mend or remove it" in err


@needs_timm
def test_only_twenty_skipped_images_are_listed(run, make_images, tmp_path):
    root = make_images(30)
    for path in sorted(root.rglob("*.png"))[:25]:
        path.write_bytes(b"")
    command = ["extract", root, "--out", tmp_path / "out.h5", *SMALL, "--workers", 0]
    code, text, _ = run(*command)
    assert code == 3 and text.count("\nskipped") == 19
    assert "... and 5 more; see `rezsl-features inspect`" in text
    assert "25 skipped (25 x the file is empty)" in text


@needs_timm
def test_order_from_xlsa17(run, make_images, tmp_path):
    """Official splits fall on the right rows, though one image is gone."""
    root = make_images(6, classes=2)
    old = [f"/old/disk/class{i % 2}/{i:03d}.png" for i in (5, 2, 4, 1, 3, 0)]
    folder = save_xlsa17(
        tmp_path,
        "PETS",
        X=np.eye(6),
        labels=[1, 0, 0, 1, 1, 0],
        attributes=np.eye(2),
        class_names=["class0", "class1"],
        trainval=[1, 2],
        test_seen=[5],
        test_unseen=[0, 3, 4],
        image_files=old,
    )
    (root / "class0" / "004.png").unlink()
    command = ["extract", root, "--out", tmp_path / "out.h5", *SMALL, "--workers", 0]
    options = ["--order-from", folder / "res101.mat", "--max-failed", 0.2]
    code, text, err = run(*command, *options)
    assert (code, err) == (0, "")
    assert "skipped /old/disk/class0/004.png: No such file or directory" in text
    with FeatureCache(tmp_path / "out.h5") as cache:
        names = [f"class{i % 2}/{i:03d}.png" for i in (5, 2, 1, 3, 0)]
        assert cache.paths.tolist() == names
        assert cache.y.tolist() == [name[:6] for name in names]
        assert {k: v.tolist() for k, v in cache.splits.items()} == {
            "trainval": [1],
            "test_seen": [4],
            "test_unseen": [0, 2, 3],
        }


@needs_timm
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backbone", "vgg99"], "no model 'vgg99'"),
        (["--weights", "none.pth"], "none.pth does not exist"),
        (["--pool", "cls"], "no class token"),
        (["--device", "abacus"], "device='abacus' is unknown"),
        (["--engine", "onnx", "--amp", "bf16"], "runs on the CPU in full precision"),
        (["--attributes", "none.csv"], "none.csv: No such file"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--out", "no/such/folder/x.h5"], "Create the folder"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    run, make_images, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    code, text, err = run(
        *("extract", make_images(3), "--out", "out.h5", *SMALL, "--workers", 0),
        *options,
    )
    assert (code, text) == (1, "")
    assert err.startswith("rezsl-features: ") and words in err
    assert len(err.splitlines()) == 1


def test_images_that_are_not_there(run, tmp_path):
    for images, words in (("none", "does not exist"), (".", "no image")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        where = tmp_path / "empty" / images
        code, _, err = run("extract", where, "--out", tmp_path / "x.h5", *SMALL)
        assert code == 1 and words in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class,furry\n", "no line under its header"),
        ("class,furry\ncat,1,2\n", "3 fields in line 2 and 2 fields in its first line"),
        ("class,split\ncat,seen\n", "no column of numbers"),
        (
            "class,furry\nclass0,1\nClass1,2\n",
            "classes.csv has no row for classes of the images: class1, class2. Its "
            "classes are class0, Class1. Add the rows",
        ),
        ("class,furry\nclass0,1\nclass0,0\nclass1,0\nclass2,0\n", "class0"),
    ],
)
def test_bad_attribute_tables(run, make_images, tmp_path, text, words):
    table = tmp_path / "classes.csv"
    table.write_text(text)
    command = ["extract", make_images(3), "--out", tmp_path / "x.h5", *SMALL]
    code, _, err = run(*command, "--attributes", table)
    assert code == 1 and words in err


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["extract"],
        ["extract", "x", "--out", "y"],  # no backbone
        ["extract", "x", "--out", "y", *SMALL, "--max-failed", "2"],
        ["extract", "x", "--out", "y", *SMALL, "--batch-size", "many"],
        ["extract", "x", "--out", "y", *SMALL, "--resume", "--restart"],
        ["export", "x"],
        ["dance"],
    ],
)
def test_commands_that_are_not_understood(args, capsys):
    with pytest.raises(SystemExit) as info:
        main(args)
    assert info.value.code == 2 and "usage:" in capsys.readouterr().err


def test_help_of_every_command(capsys):
    for args in ([], *([name] for name in ("extract", "verify", "import", "export"))):
        with pytest.raises(SystemExit) as info:
            main([*args, "--help"])
        assert info.value.code == 0 and "usage:" in capsys.readouterr().out


# -- the other commands -------------------------------------------------------------


def test_verify_finds_a_flipped_bit(run, tiny_cache):
    with FeatureCache(tiny_cache) as cache:
        row = cache.X[7].tobytes()
    content = bytearray(tiny_cache.read_bytes())
    content[content.index(row) + 2] ^= 4
    tiny_cache.write_bytes(content)
    code, _, err = run("verify", tiny_cache)
    assert code == 1 and "features" in err


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_foreign_files_are_looked_at_in_another_process(
    run, tiny_cache, tmp_path, monkeypatch, command
):
    """And do not show what lies elsewhere."""
    (tmp_path / "secret").write_bytes(b"password")
    with h5py.File(tiny_cache, "r+") as file:
        del file["class_name"]
        file.create_dataset("class_name", 1, "S8", external=str(tmp_path / "secret"))

    def refuse(*_):
        raise AssertionError("opened in this process")

    monkeypatch.setattr(h5py, "File", refuse)
    code, out, err = run(command, tiny_cache)
    assert code == 1 and "lie in other files" in err and "password" not in out + err


def test_verify_against_needs_a_backbone_by_name(run, make_images, tiny_cache):
    code, _, err = run("verify", tiny_cache, "--against", make_images())
    assert code == 1 and "timm" in err


def test_files_that_are_no_caches(run, tmp_path):
    (tmp_path / "notes.h5").write_text("notes")
    for command in ("inspect", "verify"):
        for name in ("notes.h5", "none.h5"):
            code, _, err = run(command, tmp_path / name)
            assert code == 1 and name in err and len(err.splitlines()) == 1
            assert "elete" not in err  # whatever it is, it is the user's


def test_export_and_import(run, tiny_cache, tmp_path):
    """Cache to xlsa17 and back: the same rows, labels, table, splits."""
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("class1\n\n")
    folder = tmp_path / "xlsa17" / "TINY"
    folder.parent.mkdir()
    code, _, err = run("export", tiny_cache, "--xlsa17", folder)
    assert code == 1 and "no splits; name the test classes (--unseen FILE)" in err
    code, text, err = run("export", tiny_cache, "--xlsa17", folder, "--unseen", unseen)
    assert (code, err) == (0, "")
    assert text.splitlines() == [
        f"Wrote res101.mat and att_splits.mat to {folder}.",
        "trainval     12 images of 2 classes",
        "train        6 images of 1 classes",
        "val          6 images of 1 classes",
        "test_seen    3 images of 2 classes",
        "test_unseen  7 images of 1 classes",
        "Made test_seen of a share of 0.2 of the images of each seen class "
        "(--test-seen), seed 0.",
        "Made train and val, without a common class, of trainval (--val-classes 0.2), "
        "seed 0.",
    ]
    data = load_xlsa17(folder.parent, "TINY")
    with FeatureCache(tiny_cache) as cache:
        assert np.array_equal(data.X, cache.X)
        assert data.y.tolist() == cache.y.tolist()
        is_unseen = cache.y == "class1"
        assert np.array_equal(data.test_unseen, np.flatnonzero(is_unseen))
        seen = np.sort(np.concatenate([data.trainval, data.test_seen]))
        assert np.array_equal(seen, np.flatnonzero(~is_unseen))
        back = tmp_path / "back.h5"
        code, text, _ = run("import", folder / "res101.mat", "--out", back)
        assert code == 0 and "back.h5" in text
        with FeatureCache(back) as again:
            assert np.array_equal(again.X, cache.X)
            assert again.paths.tolist() == cache.paths.tolist()
            assert again.y.tolist() == cache.y.tolist()
            assert np.array_equal(again.class_attributes, cache.class_attributes)
            assert np.array_equal(again.splits["test_unseen"], data.test_unseen)
    # With its splits the cache goes back without being told of them.
    assert run("export", back, "--xlsa17", folder.parent / "AGAIN")[0] == 0
    again = load_xlsa17(folder.parent, "AGAIN")
    for split in ("trainval", "train", "val", "test_seen", "test_unseen"):
        assert np.array_equal(again[split], data[split]), split
    code, _, err = run("export", back, "--xlsa17", folder.parent / "AGAIN")
    assert code == 1 and "res101.mat exists. Give another name" in err
    code, _, err = run("import", folder / "res101.mat", "--out", back)
    assert code == 1 and f"{back} exists. Give another name, or delete" in err


def test_export_that_cannot_be(run, tiny_cache, tmp_path):
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("dragon\n")
    command = ["--xlsa17", tmp_path / "OUT", "--unseen", unseen]
    code, _, err = run("export", tiny_cache, *command)
    assert code == 1 and "'dragon', which is no class of" in err
    bare = tmp_path / "bare.h5"
    FeatureCache.from_arrays(bare, np.eye(3)).close()
    code, _, err = run("export", bare, *command)
    assert code == 1 and "no labels, which xlsa17 files need" in err
    FeatureCache.from_arrays(
        bare,
        np.ones((3, 2, 4)),
        ["a", "a", "b"],
        class_attributes=(["a", "b"], np.eye(2)),
        overwrite=True,
    ).close()
    code, _, err = run("export", bare, *command)
    assert code == 1 and "2 regions per image" in err


def test_export_says_what_public_code_may_trip_over(run, tmp_path):
    cache, folder, unseen = (tmp_path / name for name in ("a.h5", "OUT", "unseen.txt"))
    names = ["cat", "dog", "emu", *(f"ghost{i}" for i in range(6))]
    FeatureCache.from_arrays(
        cache,
        np.arange(10.0).reshape(5, 2),
        ["cat", "cat", "cat", "dog", "emu"],
        class_attributes=(names, np.arange(18.0).reshape(9, 2)),
    ).close()
    unseen.write_bytes("\ufeffemu\nghost0\n".encode())
    options = ["--xlsa17", folder, "--unseen", unseen]
    code, text, _ = run("export", cache, *options)
    assert code == 0
    left_out = "ghost0, ghost1, ghost2, ghost3, ghost4, ... (6)"
    assert f"Left out, for lack of images: {left_out}." in text
    assert text.splitlines()[-2].startswith("Made train and val")
    assert text.splitlines()[-1].endswith("trip over: dog.")
    assert load_xlsa17(tmp_path, "OUT").class_names.tolist() == ["cat", "dog", "emu"]

    # One seen class cannot be divided.
    unseen.write_text("emu\ndog\n")
    options = ["--xlsa17", tmp_path / "ONE", "--unseen", unseen]
    code, text, _ = run("export", cache, *options, "--test-seen", 0)
    assert code == 0 and "No train and val, for trainval has a single class." in text
    assert "\ntest_seen    0 images of 0 classes\n" in text

    unseen.write_bytes("emü".encode("latin-1"))
    options = ["--xlsa17", tmp_path / "BAD", "--unseen", unseen]
    code, _, err = run("export", cache, *options)
    assert code == 1 and "unseen.txt is no text in UTF-8" in err
    for wrong, sentence in (
        (["--test-seen", 1], "test_seen must be a share from 0 to below 1, got 1.0"),
        (["--val-classes", 2], "val_classes must be a number of classes from 1 to 1"),
    ):
        unseen.write_text("emu\n")
        code, _, err = run("export", cache, *options, *wrong)
        assert code == 1 and sentence in err
    assert not (tmp_path / "BAD").exists()


def test_import_of_nothing(run, tmp_path):
    missing = tmp_path / "x" / "res101.mat"
    for command in (
        ["import", missing, "--out", "y.h5"],
        ["extract", tmp_path, "--order-from", missing, "--out", "y.h5", *SMALL],
    ):
        Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
        code, _, err = run(*command)
        assert code == 1 and f"{missing} is no file" in err
        assert len(err.splitlines()) == 1
    missing.parent.mkdir()
    missing.write_text("empty")
    code, _, err = run("import", missing, "--out", "y.h5")
    assert code == 1 and f".mat files in {missing.parent}: res101.mat. Copy it" in err


def test_doctor(run, monkeypatch):
    code, text, err = run("doctor")
    assert err == "" and "torch" in text and "Pillow" in text
    assert ("is ready." in text) == (code == 0)
    monkeypatch.setitem(sys.modules, "timm", None)
    code, text, _ = run("doctor")
    assert code == 1
    assert "`pip install rezsl-sk[extract]`" in text.splitlines()[-1]


def test_an_error_without_a_sentence_is_not_hidden(monkeypatch):
    """A mistake of ours shall show where it is."""
    monkeypatch.setattr("rezsl_features._commands.find_images", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["extract", "x", "--out", "y", *SMALL])


# -- as a process -------------------------------------------------------------------


def command(root, out, *options):
    return [
        *(sys.executable, "-m", "rezsl_features", "extract", str(root)),
        *("--out", str(out), *SMALL, "--threads", "1", "--batch-size", "4"),
        *("--shard-size", "8", "--workers", "1", *options),
    ]


def stoppable():
    """Before a process starts that the test will stop."""
    # Background jobs of a shell, such as a CI, have one signal ignored, nohup another.
    for end in (signal.SIGINT, signal.SIGHUP):
        signal.signal(end, signal.SIG_DFL)


@needs_timm
def test_ctrl_c_and_kill_in_the_shell(run, make_images, tmp_path):
    root, out = make_images(120), tmp_path / "out.h5"
    shards = tmp_path / "out.h5.shards"
    # Only what is stopped must be another process.
    assert run(*command(root, tmp_path / "calm.h5")[3:])[0] == 0
    for end in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGKILL):
        before = len(list(shards.glob("*[0-9].shard")))
        process = subprocess.Popen(
            command(root, out),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            preexec_fn=stoppable,
        )
        patience = time.monotonic() + 60
        while len(list(shards.glob("*[0-9].shard"))) <= before:
            assert time.monotonic() < patience and process.poll() is None
            time.sleep(0.01)
        if end == signal.SIGKILL:
            process.kill()
        else:  # as terminals and schedulers do: workers get it, too
            os.killpg(process.pid, end)
        text = process.communicate()[0]
        if end != signal.SIGKILL:
            assert process.returncode == 128 + end
            assert not (tmp_path / "out.h5.lock").exists()
            assert "Finished shards are kept; the same command goes on." in text
            assert "Traceback" not in text
    assert not out.exists()
    # At once: the lock of the killed is free though its worker may still live.
    code, _, err = run(*command(root, out)[3:])
    assert code == 0, err
    with FeatureCache(out) as cache, FeatureCache(tmp_path / "calm.h5") as wanted:
        cache.verify()
        assert cache.X[:].tobytes() == wanted.X[:].tobytes()
    code, _, err = run(*command(root, out, "--dtype", "float16")[3:])
    assert code == 1 and "dtype 'float32', now 'float16'" in err


def test_ctrl_c_while_torch_is_imported(tmp_path):
    """Importing takes seconds, and whoever has mistyped stops the command then."""
    (tmp_path / "torch.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
            "from rezsl_features.cli import main; sys.exit(main())",
            *("extract", str(tmp_path), "--out", "x.h5", *SMALL),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert "Stopped." in text and "Traceback" not in text


def test_a_look_into_a_cache_does_not_wait_for_torch(tiny_cache):
    code = (
        "import sys, rezsl_features\n"
        "from rezsl_features.cli import main\n"
        "codes = [main([what, sys.argv[1]]) for what in ('inspect', 'verify')]\n"
        "assert codes == [0, 0] and 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_cache)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_names_of_the_package_are_imported_when_asked_for():
    assert set(rezsl_features.__all__) <= set(dir(rezsl_features))
    for name in rezsl_features.__all__:
        assert getattr(rezsl_features, name).__name__ == name
    assert rezsl_features.images.find_images is rezsl_features.find_images
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rezsl_features.nothing


@needs_timm
def test_two_ranks_by_the_command(make_images, tmp_path):
    """torchrun starts two; one of them reports; the cache is that of one."""
    root, one = make_images(40), tmp_path / "one.h5"
    main(command(root, one)[3:])
    ranks = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", "2", "-m", "rezsl_features"),
    ]
    run = subprocess.run(
        [*ranks, *command(root, tmp_path / "two.h5")[3:]],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("40 of 40 images after") == 1
    with FeatureCache(tmp_path / "two.h5") as two, FeatureCache(one) as cache:
        two.verify()
        assert two.X[:].tobytes() == cache.X[:].tobytes()
        assert two.metadata == cache.metadata
