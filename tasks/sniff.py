"""What a file is by its first bytes, whatever its name says."""

from typing import NamedTuple

HEAD = 512  # bytes that are enough to tell
HDF5 = b"\x89HDF\r\n\x1a\n"


class Kind(NamedTuple):
    """``what`` the file is, in words that follow "is"; ``fix``: what to do when another kind was expected.

    ``known``: whether the first bytes tell.
    """

    what: str
    fix: str
    known: bool = True


_AGAIN = "fetch it again"
_MAGIC = {
    b"PK\x03\x04": Kind("a zip archive", "unpack it"),
    b"PK\x05\x06": Kind("an empty zip archive", _AGAIN),
    b"\x1f\x8b": Kind("gzip-compressed", "decompress it by gunzip"),
    b"BZh": Kind("bzip2-compressed", "decompress it by bunzip2"),
    b"\xfd7zXZ\x00": Kind("xz-compressed", "decompress it by unxz"),
    b"\x28\xb5\x2f\xfd": Kind("zstd-compressed", "decompress it by unzstd"),
    b"7z\xbc\xaf\x27\x1c": Kind("a 7z archive", "unpack it"),
    b"Rar!": Kind("a rar archive", "unpack it"),
    HDF5: Kind("an HDF5 file", "rename it to .hdf5"),
    b"\x93NUMPY": Kind("a numpy .npy file", "give it in one of the forms that are read here"),
    b"PAR1": Kind("a parquet file", "rename it to .parquet"),
    b"\x89PNG": Kind("a PNG image", "give the folder or archive that holds it"),
    b"\xff\xd8\xff": Kind("a JPEG image", "give the folder or archive that holds it"),
    b"%PDF": Kind("a PDF document", _AGAIN),
    b"version https://git-lfs": Kind(
        "a Git LFS pointer, which stands for the file", "fetch the file itself by `git lfs pull`"
    ),
}
_HTML = Kind("an HTML page that a download link returned in place of the file", "download it again by hand")


def kind(head: bytes) -> Kind:
    """Say what a file is that begins with ``head`` (the first HEAD bytes, or all)."""
    if not head:
        return Kind("empty", _AGAIN)
    for magic, found in _MAGIC.items():
        if head.startswith(magic):
            return found
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:HEAD].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        return _HTML
    if start.startswith((b"<?xml", b"<")):
        return _HTML if b"<html" in start else Kind("an XML or HTML page in place of the file", _HTML.fix)
    if start.startswith((b"{", b"[")) and _is_text(head):
        return Kind("a JSON text, perhaps a server's error message", "download it again by hand")
    if head[257:262] == b"ustar":
        return Kind("a tar archive", "unpack it")
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return Kind("a pickle", "rename it to .pkl")
    if not head.strip(b"\x00"):
        return Kind("a file of zero bytes, as a broken transfer leaves it", _AGAIN)
    if _is_text(head):
        return Kind(f"a text that begins with {head[:40].decode(errors='replace')!r}", _AGAIN)
    return Kind(f"of an unknown kind (it begins with {head[:8]!r})", _AGAIN, known=False)


def _is_text(head: bytes) -> bool:
    return not set(head) - set(range(32, 127)) - set(b"\t\r\n")
