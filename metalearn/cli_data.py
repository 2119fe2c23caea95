"""The commands ``metalearn data ...``. Imports nothing heavy by itself."""

from pathlib import Path

import typer

from metalearn.arguments import PLAIN, DataRoot, Dataset, Debug, Options, Quiet
from metalearn.given import find_data_root
from metalearn.mistakes import explained
from metalearn.processes import require_one

data = typer.Typer(no_args_is_help=True, help="Datasets: what there is, fetch and pack, verify.", **PLAIN)


@data.command("list")
def data_list(data_root: DataRoot = None, debug: Debug = False) -> None:
    """List the datasets and which are ready under the data root."""
    with explained(debug):
        require_one("data list")
        from metalearn.data import overview

        print(overview(find_data_root(data_root)))


@data.command("prepare")
def data_prepare(
    name: Dataset, set: Options = None, data_root: DataRoot = None, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Fetch a dataset if need be, verify it and pack it."""
    _with_dataset("prepare", name, set, data_root, quiet, debug)


@data.command("check")
def data_check(
    name: Dataset, set: Options = None, data_root: DataRoot = None, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Look at every image of a dataset: counts, sizes, greys, duplicates across parts, what cannot be read."""
    _with_dataset("check", name, set, data_root, quiet, debug)


def _with_dataset(
    job: str, name: str, assignments: list[str] | None, data_root: Path | None, quiet: bool, debug: bool
) -> None:
    with explained(debug):
        require_one(f"data {job}")
        from metalearn import data as work
        from metalearn.config import override
        from metalearn.progress import make_progress

        root = find_data_root(data_root, create=job == "prepare")
        progress = make_progress(quiet)
        try:
            said = getattr(work, job)(name, root, progress.report, override({}, assignments or []))
        finally:
            progress.close()
        print(said)
