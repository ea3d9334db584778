"""What an import brings, and what it does not."""

import subprocess
import sys

import pytest

import rezsl_sk


def _run(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["rezsl_sk", "rezsl_sk.feature_cache"])
def test_a_cache_needs_neither_torch_nor_sklearn(module):
    heavy = {"torch", "sklearn", "scipy", "pandas", "matplotlib", "joblib"}
    code = f"import sys, {module}; print(*sorted({heavy} & sys.modules.keys()))"
    assert _run(code).split() == []


def test_public_names_are_found_and_listed():
    out = _run(
        "import rezsl_sk\n"
        "assert set(rezsl_sk.__all__) <= set(dir(rezsl_sk))\n"
        "print(rezsl_sk.metrics.__name__, rezsl_sk.ReZSLRegressor.__name__)\n"
        "print(callable(rezsl_sk.report), rezsl_sk.plotting.__name__)\n"
        "from rezsl_sk import *\n"
        "print(ZeroShotClassifier.__name__)"
    )
    assert out.split() == [
        "rezsl_sk.metrics",
        "ReZSLRegressor",
        "True",
        "rezsl_sk.plotting",
        "ZeroShotClassifier",
    ]


def test_importing_everything_leaves_torch_and_warnings_alone():
    """And without figures there is no matplotlib, without pictures no timm."""
    out = _run(
        "import sys, warnings, sklearn, torch\n"
        "before = torch.get_num_threads(), warnings.filters[:]\n"
        "import rezsl_sk\n"
        "everything = [getattr(rezsl_sk, name) for name in rezsl_sk.__all__]\n"
        "assert (torch.get_num_threads(), warnings.filters[:]) == before\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'matplotlib', 'timm'})"
    )
    assert out.split() == []


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="'rezsl_sk' has no attribute 'nothing'"):
        rezsl_sk.nothing  # noqa: B018
