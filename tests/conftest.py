"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for tiny nets; threads that wait for a busy core cost 7 times as much


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
