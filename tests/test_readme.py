"""What README shows is what a user gets."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_readme_code_runs(tmp_path):
    """All Python blocks, one after another, as a reader would paste them."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    script = tmp_path / "readme.py"
    check = "assert search.best_score_ > 0.5 and 'zebra' in more.candidates_\n"
    script.write_text("\n".join([*blocks, check]))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "unseen" in done.stdout
