"""Few-shot image datasets of a few pixels, written in each format that is about, for tests of their readers."""

import csv
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.mini_imagenet import MINI_IMAGENET

SIDE, EACH = 4, 3
_TRAIN = [
    f"n9{number:07d}" for number in range(64)
]  # no class of mini-ImageNet: its validation and test classes are known
CLASSES: dict[str, list[str]] = {
    "train": _TRAIN,
    **{part: sorted(names) for part, names in MINI_IMAGENET.known.items()},
}
Data = dict[str, dict[str, np.ndarray]]


def colours(seed: int, images: int = EACH) -> np.ndarray:
    """Images (n, 4, 4, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (images, SIDE, SIDE, 3)).astype(np.uint8)


def data(classes: Mapping[str, list[str]] = CLASSES, images: int = EACH) -> Data:
    """Part -> class -> images, all different."""
    found: Data = {part: {} for part in classes}
    for seed, (part, kind) in enumerate((name, kind) for name in classes for kind in classes[name]):
        found[part][kind] = colours(seed, images)
    return found


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def cache(given: dict[str, np.ndarray], keys: Callable[[str], object] = str) -> dict:
    """Content of a mini-imagenet-cache-PART.pkl."""
    images = np.concatenate(list(given.values()))
    rows, begin = {}, 0
    for kind, one in given.items():
        rows[keys(kind)] = list(range(begin, begin + len(one)))
        begin += len(one)
    return {keys("image_data"): images, keys("class_dict"): rows}


def write_caches(root: Path, given: Data, val: str = "val", keys: Callable[[str], object] = str) -> None:
    for part, classes in given.items():
        name = f"mini-imagenet-cache-{val if part == 'val' else part}.pkl"
        (root / name).write_bytes(pickle.dumps(cache(classes, keys), protocol=2))


def write_labelled(root: Path, given: Data, names: Mapping[str, str], first: Mapping[str, int]) -> None:
    """Pickles with data and labels, numbered from ``first`` of the part."""
    for part, classes in given.items():
        images = np.concatenate(list(classes.values()))
        labels = [first[part] + k for k, one in enumerate(classes.values()) for _ in one]
        (root / names[part]).write_bytes(pickle.dumps({"data": images, "labels": labels}, protocol=4))


def write_hdf5(root: Path, given: Data) -> None:
    import h5py

    for part, classes in given.items():
        with h5py.File(root / f"{part}_data.hdf5", "w") as file:
            for kind, images in classes.items():
                file.create_dataset(f"datasets/{kind}", data=images)
        (root / f"{part}_labels.json").write_text(json.dumps(sorted(classes)))


def write_csv(root: Path, given: Data, header: tuple[str, str], folder: str = "images/{name}", lists: str = "") -> None:
    """Lists a part, images as ``folder`` says; the header's first column is the file unless it is called class_name."""
    (root / lists).mkdir(parents=True, exist_ok=True)
    for part, classes in given.items():
        with (root / lists / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for kind, images in classes.items():
                for number, image in enumerate(images):
                    name = f"{kind}_{number}.png"
                    path = root / folder.format(name=name, kind=kind)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(png(image))
                    writer.writerow((kind, name) if header[0] == "class_name" else (name, kind))


def write_folders(root: Path, given: Data, val: str = "val") -> None:
    for part, classes in given.items():
        for kind, images in classes.items():
            folder = root / (val if part == "val" else part) / kind
            folder.mkdir(parents=True)
            for number, image in enumerate(images):
                (folder / f"{number}.png").write_bytes(png(image))


def write_parquet(root: Path, given: Data, names: list[str] | None) -> None:
    """Files as on Hugging Face; labels number the names of all classes, which the file says where names are given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = sorted(kind for classes in given.values() for kind in classes) if names is None else names
    for part, classes in given.items():
        rows = [(png(image), known.index(kind)) for kind, images in classes.items() for image in images]
        images = pa.array([{"bytes": data, "path": None} for data, _ in rows])
        table = pa.table({"image": images, "label": pa.array([label for _, label in rows])})
        if names is not None:
            said = {"info": {"features": {"label": {"names": names}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(said)})
        word = "validation" if part == "val" else part
        half = len(table) // 2
        pq.write_table(table[:half], root / f"{word}-00000-of-00002.parquet")
        pq.write_table(table[half:], root / f"{word}-00001-of-00002.parquet")


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    """Zip a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, top + str(file.relative_to(folder)))
    return path
