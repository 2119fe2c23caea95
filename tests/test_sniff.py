"""What a file is by its first bytes: each kind in words that say what to do."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from tasks.sniff import HEAD, kind


def written(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def a_zip(file: io.BytesIO, names: tuple[str, ...] = ("a",)) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"data")


def a_tar(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))


KINDS = {  # as the libraries write them
    "a zip archive": (written(a_zip), "unpack it"),
    "an empty zip archive": (written(lambda file: a_zip(file, ())), "fetch it again"),
    "a tar archive": (written(a_tar), "unpack it"),
    "gzip-compressed": (gzip.compress(b"data"), "decompress it by gunzip"),
    "bzip2-compressed": (bz2.compress(b"data"), "decompress it by bunzip2"),
    "xz-compressed": (lzma.compress(b"data"), "decompress it by unxz"),
    "a numpy .npy file": (written(lambda file: np.save(file, np.ones(3))), "give it in one of the forms that are read"),
    "a PNG image": (written(lambda file: Image.new("L", (2, 2)).save(file, "png")), "give the folder or archive that"),
    "a JPEG image": (written(lambda file: Image.new("L", (2, 2)).save(file, "jpeg")), "give the folder or archive"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n\x00", "rename it to .hdf5"),
    "a parquet file": (b"PAR1\x15", "rename it to .parquet"),
    "a Git LFS pointer, which stands for the file": (b"version https://git-lfs", "fetch the file itself by `git lfs"),
    "a JSON text, perhaps a server's error message": (json.dumps({"error": 404}).encode(), "download it again by hand"),
    "empty": (b"", "fetch it again"),
    "a file of zero bytes, as a broken transfer leaves it": (bytes(HEAD), "fetch it again"),
    "a text that begins with 'filename,label\\n'": (b"filename,label\n", "fetch it again"),
}


@pytest.mark.parametrize("what", KINDS)
def test_each_kind_is_known(what):
    head, fix = KINDS[what]
    found = kind(head[:HEAD])
    assert found.what == what and found.fix.startswith(fix) and found.known


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_known_from_protocol_2_on(protocol):
    assert kind(pickle.dumps([1], protocol)).what == "a pickle"


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html>",
        b"\xef\xbb\xbf\n  <!doctype HTML>",
        b"<HTML lang='en'>",
        b"<head><title>Google Drive</title>",
        b"<script>location='x'</script>",
        b"<!-- a comment --><html>",
        b"<?xml version='1.0'?><html xmlns='x'>",
    ],
)
def test_pages_in_place_of_a_file_are_html(page):
    found = kind(page)
    assert found.what == "an HTML page that a download link returned in place of the file" and found.known
    assert found.fix == "download it again by hand"


def test_other_markup_is_xml_or_html():
    found = kind(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>")
    assert found.what == "an XML or HTML page in place of the file" and found.fix == "download it again by hand"


@pytest.mark.parametrize("head", [b"\x01\x02\x03", b"(\x80abc", b"{\x00", b"\x80", b"\x80\x06", bytes(10) + b"\x01"])
def test_what_is_not_known_is_said_with_its_first_bytes(head):
    found = kind(head)
    assert found.what == f"of an unknown kind (it begins with {head[:8]!r})" and not found.known
