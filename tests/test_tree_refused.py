"""Archives made to do harm, and damaged ones: refused when they are opened, or when the damaged file is read."""

import gzip
import random
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import member, tarred, zipped

from tasks import tree_base
from tasks.errors import DataError
from tasks.tree import open_tree
from tasks.tree_base import Tree

GOOD = {"a/1.png": b"one" * 100, "b/2.png": b"two"}
OUTSIDE = {  # a member's name: what is said of it
    "/etc/passwd": "an absolute name, which points outside of the archive",
    "//server/x.png": "an absolute name, which points outside of the archive",
    "../x.png": "'..' in its name, which points outside of the archive",
    "a/../../x.png": "'..' in its name, which points outside of the archive",
    "a/..": "'..' in its name, which points outside of the archive",
    "a\\..\\x.png": "a backslash in its name, which some systems take for a separator",
    "C:/x.png": "a drive letter, which points outside of the archive",
    "c:x.png": "a drive letter, which points outside of the archive",
}


def refused(path: Path, words: str, act: Callable[[Tree], object] = lambda tree: None) -> None:
    """Opening the archive, or what is done then, raises a DataError that names it and says these words."""
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        act(open_tree(path))
    assert str(caught.value).startswith(str(path))


def info(name: str, mode: int = 0, **more) -> zipfile.ZipInfo:
    """A member of a zip, with its fields set as given."""
    made = zipfile.ZipInfo("placeholder")
    made.filename = name  # ZipInfo cuts names at zero bytes
    made.external_attr = mode << 16
    for field, value in more.items():
        setattr(made, field, value)
    return made


def patch(path: Path, *pairs: tuple[bytes, bytes]) -> Path:
    """Replace bytes in a file, all of which must be there."""
    data = path.read_bytes()
    for old, new in pairs:
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", OUTSIDE)
class TestNamesThatPointOutside:
    def test_in_a_zip(self, name, tmp_path):
        path = zipped(tmp_path / "x.zip", [(info("a/1.png"), b"one"), (info(name), b"evil")])
        refused(path, f"{path}: member {name!r} has {OUTSIDE[name]}; refused: fetch it from its source, or repack it")

    @pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
    def test_in_a_tar(self, name, suffix, tmp_path):
        path = tarred(tmp_path / f"x.{suffix}", [member("a/1.png", b"one"), member(name, b"evil")])
        refused(path, f"{path}: member {name!r} has {OUTSIDE[name]}; refused: fetch it from its source, or repack it")

    def test_as_a_folder_or_hidden(self, name, tmp_path):
        path = tarred(tmp_path / "x.tar", [member(name, type=tarfile.DIRTYPE)])
        refused(path, OUTSIDE[name])
        path = zipped(tmp_path / "x.zip", [(info(name + "/.hidden"), b"")])
        refused(path, OUTSIDE[name])


class TestZip:
    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            (stat.S_IFLNK | 0o777, "is a symbolic link, which is refused; unpack the archive by hand, or repack it"),
            (stat.S_IFCHR, "is a device or another special file, which is refused; unpack the archive by hand"),
            (stat.S_IFIFO, "is a device or another special file, which is refused; unpack the archive by hand"),
            (stat.S_IFSOCK, "is a device or another special file, which is refused; unpack the archive by hand"),
        ],
    )
    def test_links_and_devices(self, mode, words, tmp_path):
        refused(zipped(tmp_path / "x.zip", [(info("a/link", mode), b"/etc/passwd")]), f"member 'a/link' {words}")

    def test_encrypted_members(self, tmp_path):
        path = zipped(tmp_path / "x.zip", GOOD)
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4) + 8] |= 1
        path.write_bytes(data)
        refused(path, "member 'a/1.png' is encrypted; unpack the archive by hand, or repack it")

    @pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_LZMA, "lzma"), (zipfile.ZIP_BZIP2, "bzip2")])
    def test_methods_that_are_not_read(self, method, name, tmp_path):
        path = zipped(tmp_path / "x.zip", GOOD, method)
        refused(path, f"'a/1.png' is compressed by the method {name}; supported are stored and deflated files; unpack")
        old, new = struct.pack("<H", method), struct.pack("<H", 77)
        at = path.read_bytes().rindex(b"PK\x01\x02") + 10
        data = path.read_bytes()
        assert data[at : at + 2] == old
        path.write_bytes(data[:at] + new + data[at + 2 :])
        refused(path, "is compressed by the method" if method == zipfile.ZIP_LZMA else "method")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize("again", ["a/1.png", "a//1.png", "./a/1.png", "a/./1.png"])
    def test_the_same_name_twice(self, again, tmp_path):
        path = zipped(tmp_path / "x.zip", [(info("a/1.png"), b"one"), (info(again), b"two")])
        refused(path, "member 'a/1.png' is there twice; fetch the archive again, or repack it")

    def test_names_that_are_no_text(self, tmp_path):
        path = zipped(tmp_path / "x.zip", {"aé.png": b"one"})
        refused(patch(path, ("é".encode(), b"\xff\xff")), r"member b'a\xff\xff.png' has a name that is no UTF-8 text")
        path = zipped(tmp_path / "y.zip", {"aXb.png": b"one"})
        refused(patch(path, (b"aXb", b"a\0b")), r"member 'a\x00b.png' has a name that is no UTF-8 text; refused: fetch")

    def test_old_names_are_read_as_code_page_437(self, tmp_path):
        path = patch(zipped(tmp_path / "x.zip", {"aX.png": b"one"}), (b"aX.png", b"a\x82.png"))
        assert open_tree(path).read("aé.png") == b"one"

    def test_sizes_that_lie(self, tmp_path):
        sizes = struct.pack("<LL", 300, 300)
        small = patch(zipped(tmp_path / "x.zip", GOOD), (sizes, struct.pack("<LL", 200, 200)))
        refused(small, "x.zip: a/1.png cannot be read (Bad CRC-32", lambda tree: tree.read("a/1.png"))
        refused(small, "x.zip: a/1.png cannot be read (Bad CRC-32", lambda tree: tree.open("a/1.png").read())
        large = patch(
            zipped(tmp_path / "y.zip", GOOD, zipfile.ZIP_DEFLATED), (struct.pack("<L", 300), struct.pack("<L", 999))
        )
        refused(large, "y.zip: a/1.png cannot be read (300 of 999 bytes are there)", lambda tree: tree.read("a/1.png"))
        refused(
            large, "a/1.png cannot be read (it ends after 300 of 999 bytes)", lambda tree: tree.open("a/1.png").read()
        )

    def test_a_directory_that_claims_too_many_members(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tree_base, "MOST_MEMBERS", 100)
        path = zipped(tmp_path / "x.zip", GOOD)
        end = path.read_bytes()[-22:]
        lie = end[:10] + struct.pack("<HL", 3, 100 * 256 + 1) + end[16:]
        refused(
            patch(path, (end, lie)), "claims 3 members in a directory of 25,601 bytes; at most 100 members are read"
        )
        large = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**40, 2**40, 2**50, 0)
        path.write_bytes(large + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1) + end)
        data = bytes(4) + path.read_bytes()
        path.write_bytes(b"PK\x03\x04" + data)
        refused(path, f"claims {2**40:,} members in a directory of {2**50:,} bytes; at most 100 members are read")


class TestTar:
    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link (to '/etc/passwd'), which is refused"),
            ({"type": tarfile.SYMTYPE, "linkname": "1.png"}, "is a link (to '1.png'), which is refused; repack it"),
            ({"type": tarfile.LNKTYPE, "linkname": "a/1.png"}, "is a link (to 'a/1.png'), which is refused"),
            ({"type": tarfile.CHRTYPE}, "is a device or another special file, which is refused; repack it without"),
            ({"type": tarfile.BLKTYPE}, "is a device or another special file, which is refused; repack it without"),
            ({"type": tarfile.FIFOTYPE}, "is a device or another special file, which is refused; repack it without"),
            ({"type": tarfile.GNUTYPE_SPARSE}, "is a sparse file, which is not supported; repack it without"),
            ({"pax_headers": {"GNU.sparse.size": "9", "GNU.sparse.map": "0,1"}}, "is a sparse file, which is not"),
        ],
    )
    def test_links_devices_and_sparse_files(self, fields, words, tmp_path):
        path = tarred(tmp_path / "x.tar", [member("a/1.png", b"one"), member("a/odd", **fields)])
        refused(path, f"{path}: member 'a/odd' {words}")

    @pytest.mark.parametrize("again", ["a/1.png", "a//1.png", "./a/1.png"])
    def test_the_same_name_twice(self, again, tmp_path):
        path = tarred(tmp_path / "x.tar", [member("a/1.png", b"one"), member(again, b"two")])
        refused(path, "member 'a/1.png' is there twice; repack it")

    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    def test_names_that_are_no_text(self, form, tmp_path):
        path = tarred(tmp_path / "x.tar", {"a\udcff.png": b"one"}, format=form, errors="surrogateescape")
        refused(path, r"member 'a\udcff.png' has a name that is no UTF-8 text; refused: fetch it from its source")

    def test_headers_that_lead_astray(self, tmp_path):
        path = tmp_path / "x.tar"
        lies = {
            "is not a complete tar archive (a header claims 2,147,483,648 bytes": member(
                "././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=2**31
            ),
            "member 'a/1.png' has a size of -5000 bytes, so the archive is damaged": member("a/1.png", size=-5000),
            "is not a complete tar archive (unexpected end of data": member("a/1.png", size=100_000),
            "a header holds a number of more than 256 digits": member(
                "x", b"999 path=" + b"1" * 990, type=tarfile.XHDTYPE
            ),
        }
        for words, (header, data) in lies.items():
            form = tarfile.GNU_FORMAT
            padded = data + bytes(-len(data) % 512)
            path.write_bytes(header.tobuf(form) + padded + bytes(5000))
            refused(path, words)

    def test_what_follows_the_end_mark(self, tmp_path):
        path = tarred(tmp_path / "x.tar", GOOD)
        path.write_bytes(path.read_bytes() * 2)
        refused(path, "something follows its end mark, as in archives put behind each other; unpack by hand")

    def test_what_is_compressed_and_no_tar(self, tmp_path):
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(b"<html>Sign in</html>"))
        refused(path, "is not a complete tar archive (inside it is an HTML page that a download link returned in place")
        path.write_bytes(gzip.compress(b"\x80\x04N."))
        refused(path, "is not a complete tar archive (inside it is a pickle); fetch it again")


class TestBombs:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(tree_base, "BOMB_BYTES", 100_000)

    def test_a_zip(self, tmp_path):
        path = zipped(tmp_path / "x.zip", {"0": bytes(5_000_000)}, zipfile.ZIP_DEFLATED)
        words = (
            "to 5,000,000 or more, over 200 times as many: refused as a decompression bomb; fetch it from its source"
        )
        refused(path, f"member '0' unpacks {path.stat().st_size:,} bytes {words}")
        path = zipped(tmp_path / "y.zip", {str(i): bytes(99_000) for i in range(3000)}, zipfile.ZIP_DEFLATED)
        refused(path, f"y.zip unpacks {path.stat().st_size:,} bytes to 297,000,000 or more, over 200 times as many")

    @pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
    @pytest.mark.parametrize("files", [{"0": bytes(9_000_000)}, {str(i): bytes(90_000) for i in range(100)}])
    def test_a_tar(self, files, suffix, tmp_path):
        path = tarred(tmp_path / f"x.tar.{suffix}", files)
        refused(path, "or more, over 200 times as many: refused as a decompression bomb; fetch it from its source, or")

    def test_what_follows_the_end_mark_of_a_tar(self, tmp_path):
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(tarred(tmp_path / "x.tar", GOOD).read_bytes() + bytes(50_000_000)))
        refused(path, "over 200 times as many: refused as a decompression bomb")

    def test_drawings_are_no_bomb(self, tmp_path):
        drawings = {f"a/{i}.png": bytes(i) + random.Random(i).randbytes(300) + bytes(9_000) for i in range(50)}
        for path in (
            zipped(tmp_path / "x.zip", drawings, zipfile.ZIP_DEFLATED),
            tarred(tmp_path / "x.tar.gz", drawings),
        ):
            assert open_tree(path).read("a/7.png") == drawings["a/7.png"]


def contents(path: Path) -> dict[str, bytes] | None:
    """What an archive holds, read both ways; None when that raises a DataError which names the archive."""
    try:
        tree = open_tree(path)
        found = {name: tree.read(name) for name in tree.names}
        assert found == {name: tree.open(name).read() for name in tree.names}
        return found
    except DataError as error:
        assert str(error).startswith(str(path))
        return None


@pytest.mark.parametrize("kind", ["zip", "deflated.zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
class TestDamage:
    def made(self, kind: str, at: Path) -> Path:
        method = zipfile.ZIP_DEFLATED if kind.startswith("deflated") else zipfile.ZIP_STORED
        return zipped(at / kind, GOOD, method) if kind.endswith("zip") else tarred(at / f"x.{kind}", GOOD)

    def test_cut_anywhere_nothing_is_missing_or_it_is_said(self, kind, tmp_path):
        path = self.made(kind, tmp_path)
        data = path.read_bytes()
        assert contents(path) == GOOD
        for length in sorted({*range(0, len(data), 61), *range(len(data) - 30, len(data))}):
            path.write_bytes(data[:length])
            assert contents(path) in ((GOOD, None) if kind == "tar" else (None,)), length
        if kind == "tar":
            path.write_bytes(data[: 6 * 512])
            assert contents(path) is None

    def test_a_changed_byte_changes_no_file_or_it_is_said(self, kind, tmp_path):
        path = self.made(kind, tmp_path)
        data = path.read_bytes()
        first = 0 if kind != "tar" else data.index(b"a/1.png")
        places = range(first, first + 512 if kind == "tar" else len(data))
        for place in places:
            for bit in (1, 0x20):
                path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
                assert contents(path) in (GOOD, None), (place, bit)
