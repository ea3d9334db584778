"""Fixtures shared by all tests: the real data, where there is any."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """Folder of real data and golden numbers; its tests skip where it is absent."""
    root = Path(os.environ.get("REZSL_SHARED", SHARED))
    if not root.is_dir():
        pytest.skip("no ../shared here: real data and golden numbers are not tested")
    return root


@pytest.fixture(scope="session")
def xlsa17(shared):
    """Root of the real data sets in xlsa17 layout."""
    return shared / "data" / "xlsa17"
