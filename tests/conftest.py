"""Fixtures shared by all tests."""

import os
import shutil
import signal
from pathlib import Path

import pytest

import metalearn  # noqa: F401  (before torch: it says how torch's threads wait)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' networks are too small for two
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as `make test &` has it, and what tests start and interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def omniglot_root(data_root: Path, tmp_path_factory) -> Path:
    """A data root of its own with links to the real Omniglot, so that nothing is written beside it; packed once."""
    from tasks.omniglot import BACKGROUND, EVALUATION, find

    root = tmp_path_factory.mktemp("omniglot")
    for part in (BACKGROUND, EVALUATION):
        found = find(data_root, (part,))
        assert found, f"{part.folder} is not under {data_root}"
        (root / found[0][0].name).symlink_to(found[0][0].resolve())
    shutil.copytree(data_root / "splits", root / "splits")
    return root


@pytest.fixture(scope="session")
def l2l():
    """learn2learn, imported where the package does it: that hushes gym's banner."""
    import metalearn.learn2learn_loop  # noqa: F401, I001
    import learn2learn

    return learn2learn
