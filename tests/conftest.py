"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

import metalearn  # noqa: F401  (before torch: it says how torch's threads wait)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' networks are too small for two


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the real data (METALEARN_DATA). Skips without it on a desk; under CI its absence fails."""
    given = os.environ.get("METALEARN_DATA")
    if given and Path(given).is_dir():
        return Path(given)
    message = f"METALEARN_DATA={given!r} is not a folder with the real data"
    if os.environ.get("CI"):
        pytest.fail(message + "; under CI tests on real data must run")
    pytest.skip(message)
