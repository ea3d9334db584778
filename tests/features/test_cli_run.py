"""The command's run: options, what it says of reruns, signals, what is no terminal."""

import errno
import importlib.util
import os
import pty
import re
import signal
import sys
import termios
import time

import numpy as np
import pytest
from PIL import Image
from rezsl_features.cli import main

from rezsl_sk._storage import hdf5
from rezsl_sk.feature_cache import FeatureCache

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="needs the extra [extract]"
)
SMALL = ["--backbone", "test_resnet", "--weights", "random"]


@pytest.fixture
def run(capsys, tmp_path):
    """Extract with a small network; give exit code, stdout and stderr."""

    def call(root, *options, out=tmp_path / "out.h5"):
        capsys.readouterr()
        args = ["extract", root, "--out", out, *SMALL, "--workers", 0, *options]
        code = main([str(arg) for arg in args])
        text, err = capsys.readouterr()
        assert "Traceback" not in text + err and not re.search(r"\bit/s|images/s", err)
        return code, text, err

    return call


def test_a_rerun_says_what_it_does(run, make_images):
    """Nothing; then what changed and what was mended. No bar: this is no terminal."""
    root = make_images(6)
    bad = root / "class0" / "000.png"
    bad.write_bytes(b"")
    code, text, err = run(root, "--max-failed", 0.5)
    assert (code, err) == (0, "") and "features of 5 of 6 images after" in text
    code, text, err = run(root, "--max-failed", 0.5)
    assert code == 0 and "All is there already, and no image has changed." in text
    Image.new("RGB", (9, 9), "red").save(bad)
    Image.new("RGB", (9, 9), "blue").save(root / "class1" / "001.png")
    code, text, err = run(root)
    assert (code, err) == (0, "")
    assert "have changed: 1; that failed before and can be read now: 1." in text
    assert "features of 6 of 6 images after" in text


def test_a_stored_table_stays_until_another_word(run, make_images, tmp_path):
    root, table = make_images(6), tmp_path / "table.csv"
    table.write_text("class,a,b\nclass0,1,2\nclass1,3,4\nclass2,5,6\n")
    assert run(root, "--attributes", table)[0] == 0
    assert run(root)[0] == 0
    with FeatureCache(tmp_path / "out.h5") as cache:
        assert cache.class_attributes.tolist() == [[1, 2], [3, 4], [5, 6]]
    table.write_text("class,a\nclass0,1\nclass1,3\nclass2,5\n")
    code, _, err = run(root, "--attributes", table)
    assert code == 1 and "3 classes, 2 attributes, now 3 classes, 1 attrib" in err
    assert "--stored-attributes replace" in err
    for content, words in (
        ("class,a,c\nclass0,1,2\nclass1,3,4\nclass2,5,6\n", "2 is 'b', now 'c'"),
        ("class,a,b\nclass0,1,2\nclass2,5,6\nclass1,3,4\n", "2 is 'class1', now '"),
        ("class,a,b\nclass0,1,2\nclass1,3,4.5\nclass2,5,6\n", "'class1' is 4, now 4.5"),
    ):
        table.write_text(content)
        code, _, err = run(root, "--attributes", table)
        assert code == 1 and words in err
    table.write_text("class,a\nclass0,1\nclass1,3\nclass2,5\n")
    assert run(root, "--attributes", table, "--stored-attributes", "replace")[0] == 0
    with FeatureCache(tmp_path / "out.h5") as cache:
        assert cache.attribute_names.tolist() == ["a"]
    assert run(root, "--stored-attributes", "remove")[0] == 0
    assert FeatureCache(tmp_path / "out.h5").class_attributes is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threads", 100_000], "threads=100000 cannot be; give an integer from 1"),
        (["--workers", 100_000], "workers=100000 cannot be"),
        (["--batch-size", 10**9], "batch_size=1000000000 cannot be"),
        (["--image-size", 20_000], "image_size=20000 cannot be; give an integer"),
        (["--image-size", 0], "image_size=0 cannot be"),
        (["--image-size", -3], "image_size=-3 cannot be"),
        (["--out", ""], "'' is no name of a file; give the cache"),
        (["--out", "images"], "'images' is no name of a file"),
        (["--out", "notes.txt"], "notes.txt exists and is no feature cache"),
        (["--out", "notes.txt", "--restart"], "move the file away and start again."),
        (["--weights", "images"], "images is a folder; give a .safetensors"),
    ],
)
def test_sentences(run, make_images, tmp_path, monkeypatch, options, words):
    root = make_images(3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    code, text, err = run(root, *options)
    assert (code, text) == (1, "") and words in err
    assert err.startswith("rezsl-features: ") and len(err.splitlines()) == 1
    assert err.rstrip().endswith(".")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob("*.shards"))


def test_an_image_size_that_the_network_cannot_take(run, make_images):
    code, _, err = run(make_images(3), "--backbone", "test_vit", "--image-size", 3)
    assert code == 1 and re.search(r"image size", err) and err.count("\n") == 1


def test_import_checks_its_output(capsys, tmp_path):
    assert main(["import", str(tmp_path / "X" / "res101.mat"), "--out", ""]) == 1
    assert "no name of a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "Gone", "x"), "x: Gone. Check the name."),
        (PermissionError(errno.EACCES, "No", "x"), "x: No. Change the permissions"),
        (OSError(errno.EIO, "Broken", "x"), "x: Broken. Mend that"),
        (ValueError("All is said."), ": All is said.\n"),
    ],
)
def test_every_error_ends_with_what_to_do(capsys, monkeypatch, error, words):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("rezsl_features._commands.find_images", fail)
    assert main(["extract", "x", "--out", "y.h5", *SMALL]) == 1
    assert words in capsys.readouterr().err


def test_a_rank_alone_is_no_rank(run, make_images, monkeypatch):
    """Of RANK without WORLD_SIZE nothing follows; both without the rest are refused."""
    monkeypatch.setenv("RANK", "3")
    code, text, err = run(make_images(3))
    assert (code, err) == (0, "") and "features of 3 of 3 images" in text
    monkeypatch.setenv("WORLD_SIZE", "4")
    code, _, err = run(make_images(3))
    assert code == 1 and "Start them by torchrun, or unset RANK and WORLD_SIZE" in err
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert "do not fit together (RANK='3', WORLD_SIZE='many'" in run(make_images(3))[2]


def test_without_flock_the_run_goes_on_and_says_so(run, make_images, monkeypatch):
    def refuse(fd, flags):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(hdf5.fcntl, "flock", refuse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [("always", None, RuntimeWarning, None, 0)])
        code, text, err = run(make_images(3))
    assert code == 0 and "3 of 3 images" in text
    assert err.startswith("rezsl-features: The file system of ")
    assert "the existence of that file is the lock" in err


def test_ctrl_c_in_a_terminal(make_images, tmp_path):
    """Two of them, as the impatient press: no traceback, and the same command goes on.

    A terminal shows the bar.
    """
    root, out = make_images(90), tmp_path / "out.h5"
    args = ["-m", "rezsl_features", "extract", str(root), "--out", str(out), *SMALL]
    args += ["--threads", "1", "--batch-size", "2", "--shard-size", "2"]
    args += ["--workers", "2"]
    pid, terminal = pty.fork()
    if pid == 0:
        # Background jobs of a shell, such as a CI, have the signal ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        termios.tcsetwinsize(0, (24, 80))
        os.execv(sys.executable, [sys.executable, *args])
    shown, pressed, status = b"", 0, None
    patience = time.monotonic() + 90
    while status is None:
        assert time.monotonic() < patience, shown
        if pressed < 2 and len(list(tmp_path.glob("out.h5.shards/*.shard"))) > pressed:
            os.write(terminal, b"\x03")
            pressed += 1
        os.set_blocking(terminal, False)
        try:
            shown += os.read(terminal, 4096)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:  # the other end is closed
            pass
        done, code = os.waitpid(pid, os.WNOHANG)
        status = code if done else None
    os.close(terminal)
    text = shown.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) == 130, text
    assert "the same command goes on" in text and "Traceback" not in text
    assert "images/s" in text
    assert not (tmp_path / "out.h5.lock").exists()
    assert main(args[2:]) == 0
    with FeatureCache(out) as cache:
        cache.verify()
        assert len(cache) == 90 and np.isfinite(cache.X[:]).all()
