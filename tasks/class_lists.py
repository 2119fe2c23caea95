"""Splits that are published as lists of classes: that of Vinyals et al. 2016, and lists that come with data."""

from collections.abc import Container, Iterable
from pathlib import Path

from tasks.class_names import MIRRORED, base_class, orientation
from tasks.errors import DataError
from tasks.folders import walk
from tasks.splits import PARTS


def vinyals(root: Path, known: Iterable[str]) -> dict[str, list[str]]:
    """Split of Vinyals et al. 2016, read from ``vinyals/{train,val,test}.txt`` anywhere under root.

    ``known``: the base classes there are. Raises DataError when the files are absent, and with file and line
    number for a malformed line, one that is listed twice and one that names a class that there is not.
    """
    folder = vinyals_folder(root)
    if folder is None:
        raise DataError(
            f"split 'vinyals' needs its class lists and {root} holds none; put train.txt, val.txt and "
            f"test.txt (one Alphabet/characterNN/rotDDD a line) in {root / 'splits' / 'vinyals'}, "
            "or choose split lake or random"
        )
    allowed = frozenset(known)
    return {
        part: read_class_list(path.read_bytes(), str(path), allowed, turned=True)
        for part, path in ((part, folder / f"{part}.txt") for part in PARTS)
    }


def vinyals_folder(root: Path) -> Path | None:
    """Where the class lists of the split lie below root, None where they do not."""
    lists = {f"{part}.txt" for part in PARTS}
    found = [at for at, _, files in walk(root) if at.name == "vinyals" and lists <= set(files)]
    return min(found, default=None)


def read_class_list(data: bytes, where: str, known: Container[str], *, turned: bool = False) -> list[str]:
    """Read names of classes, one a line; with ``turned``, each is ``Alphabet/characterNN/rotDDD``.

    Raises DataError, naming ``where`` and the line, for a name listed twice and for one that is not ``known``.
    """
    form = "Alphabet/characterNN/rotDDD" if turned else "class"
    first: dict[str, int] = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        here = f"{where}, line {number}"
        if turned and (name.count("/") != 2 or orientation(name) not in range(MIRRORED)):
            raise DataError(f"{here}: {name[:80]!r} is not {form} with DDD 000, 090, 180 or 270")
        if name in first:
            raise DataError(f"{here}: {name!r} is already on line {first[name]}; list each class once")
        if (base_class(name) if turned else name) not in known:
            raise DataError(f"{here}: {name[:80]!r} is no class of this dataset; correct or remove the line")
        first[name] = number
    if not first:
        raise DataError(f"{where} lists no class; it needs one {form} a line")
    return list(first)
