"""Forgets every installed package that is not whole, so that pip installs it again.

Run by the virtual environment's own Python after an install that may have been broken off: pip takes a
package for installed once its metadata is there, even when some of its files were never written.
"""

import csv
import importlib.metadata
import shutil
import sysconfig
from pathlib import Path


def is_whole(metadata: Path) -> bool:
    """Tell whether every file that the package's RECORD names is there in the size given there."""
    record = metadata / "RECORD"
    if not record.is_file() or not (metadata / "INSTALLER").is_file():
        return False
    with record.open(encoding="utf-8", newline="") as lines:
        for name, _digest, size in csv.reader(lines):
            if not size:  # byte code and RECORD itself
                continue
            file = metadata.parent / name
            if not file.is_file() or file.stat().st_size != int(size):
                return False
    return True


def main() -> None:
    """Check every package of this environment and remove the metadata of the broken ones."""
    site = Path(sysconfig.get_path("purelib"))
    for metadata in sorted(site.glob("*.dist-info")):
        try:
            whole = is_whole(metadata) and bool(importlib.metadata.Distribution.at(metadata).version)
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            print(f"not whole, to be installed again: {metadata.name}")
            shutil.rmtree(metadata)
    for leftover in site.glob("~*"):
        shutil.rmtree(leftover, ignore_errors=True)


if __name__ == "__main__":
    main()
