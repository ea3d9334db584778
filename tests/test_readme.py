"""What README shows is what a user gets."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from rezsl_sk.datasets import load_digits_zero_shot

ROOT = Path(__file__).resolve().parents[1]


def test_readme_code_prints_what_the_readme_says(tmp_path):
    """All Python blocks, one after another, as a reader would paste them."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    printed = re.findall(r"```text\n(.*?)```", readme, re.DOTALL)
    script = tmp_path / "readme.py"
    check = "assert search.best_score_ > 0.5\n"
    script.write_text("\n".join([*blocks, check]))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(printed) == 2
    # One sample more or less on another processor is no other answer.
    number = r"\d\.\d+"
    said, got = "".join(printed), done.stdout
    assert re.sub(number, "", got) == re.sub(number, "", said)
    (said,), (got,) = (re.findall(number, text) for text in (said, got))
    assert abs(float(got) - float(said)) <= 0.02


def test_table_of_the_readme_is_the_data():
    """The rows that the README shows are rows of the digits' table."""
    data = load_digits_zero_shot()
    lines = re.findall(r"^\| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    head, _, *rows = [[cell.strip("* ") for cell in line.split("|")] for line in lines]
    columns = [data.attribute_names.tolist().index(name) for name in head[1:5]]
    shown = [row for row in rows if row[0] in data.class_names]
    assert len(shown) == 4
    for name, *cells, _, count in shown:
        k = data.class_names.tolist().index(name)
        assert [float(cell) for cell in cells] == data.attributes[k, columns].tolist()
        n = np.sum(data.labels[data.trainval] == k)
        assert count == (str(n) if n else "none")
