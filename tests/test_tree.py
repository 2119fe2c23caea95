"""Folders, zips and tars are the same tree: names, bytes, order and stamps, and a clear word on what is none."""

import io
import os
import random
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from archives import FILES, HIDDEN, KINDS, build, folder, member, tarred, zipped

from tasks import tree_base
from tasks.errors import DataError
from tasks.tree import Folder, Tar, TreeSource, Zip, open_tree

ARCHIVES = [kind for kind in KINDS if kind != "folder"]
LONG = list(FILES)[-1]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryTree:
    def test_names_are_those_of_the_regular_files_sorted(self, kind, tmp_path):
        tree = open_tree(build(kind, tmp_path, {**HIDDEN, **FILES}))
        assert tree.names == tuple(sorted(FILES))
        assert type(tree) is {"folder": Folder, "zip": Zip, "tar": Tar}[kind.replace("deflated.", "").split(".")[0]]

    def test_bytes_in_any_order_and_after_closing(self, kind, tmp_path):
        tree = open_tree(build(kind, tmp_path, FILES))
        for name in random.Random(0).choices(list(FILES), k=30):
            assert tree.read(name) == FILES[name]
            if name == LONG:
                tree.close()

    def test_in_order_of_rank_archives_are_read_forwards(self, kind, tmp_path):
        tree = open_tree(build(kind, tmp_path, FILES))
        ranks = [tree.rank(name) for name in FILES]
        assert ranks == ([0] * len(FILES) if kind == "folder" else sorted(set(ranks)))
        assert [tree.read(name) for name in sorted(tree.names, key=tree.rank)] == [
            FILES[name] for name in (sorted(FILES) if kind == "folder" else FILES)
        ]

    def test_an_open_file_can_be_read_and_moved_in(self, kind, tmp_path):
        tree = open_tree(build(kind, tmp_path, FILES))
        data, chance = FILES[LONG], random.Random(0)
        with tree.open(LONG) as file, tree.open("b/2.png") as other:
            assert file.seekable() and file.readable() and file.seek(0, os.SEEK_END) == len(data) == file.tell()
            assert file.read() == b"" and other.read() == b"two"
            for _ in range(20):
                start, count = chance.randrange(len(data)), chance.randrange(1, 100_000)
                assert file.seek(start) == start
                assert file.read(count) == data[start : start + count]
            assert file.seek(-5, os.SEEK_END) == len(data) - 5 and file.read() == data[-5:]
            tree.close()
            assert file.seek(10) == 10 and file.readline() == data[10 : data.index(b"\n", 10) + 1]
            with pytest.raises((ValueError, OSError)):
                file.seek(-1)

    def test_a_file_too_large_is_not_read(self, kind, tmp_path):
        path = build(kind, tmp_path, FILES)
        words = f"{path}: a/1.png has 3,000 bytes, allowed are 2,999; it is no file of this kind: remove it"
        with pytest.raises(DataError, match=re.escape(words)):
            open_tree(path).read("a/1.png", largest=2999)
        assert open_tree(path).read("a/1.png", largest=3000) == FILES["a/1.png"]

    @pytest.mark.parametrize("name", ["a", "a/2.png", "../data", "", "a//1.png", "/etc/passwd", "a/1.png\0"])
    def test_files_that_are_not_there_are_named(self, kind, name, tmp_path):
        tree = open_tree(build(kind, tmp_path, FILES))
        for read in (tree.read, tree.open, lambda name: tree.stamp([name])):
            with pytest.raises(DataError, match=re.escape(str(tree.path)) + ": .*" + re.escape(name.strip("\0"))):
                read(name)

    def test_a_source_reads_images_by_their_name(self, kind, tmp_path):
        source = TreeSource(open_tree(build(kind, tmp_path, FILES)), largest=100)
        assert source.read("b/2.png") == b"two" and source.path == source.tree.path
        assert source.rank("a/1.png") == source.tree.rank("a/1.png")
        with pytest.raises(DataError, match="a/1.png has 3,000 bytes, allowed are 100"):
            source.read("a/1.png")
        source.close()
        assert source.read("b/2.png") == b"two"

    def test_a_stamp_is_the_same_for_the_same_files_in_any_order(self, kind, tmp_path):
        path = build(kind, tmp_path, FILES)
        assert open_tree(path).stamp(FILES) == open_tree(path).stamp(list(FILES)[::-1])
        assert re.fullmatch("[0-9a-f]{64}", open_tree(path).stamp([]))
        assert open_tree(path).stamp(["a/1.png"]) != open_tree(path).stamp(["b/2.png"])

    def test_a_stamp_changes_with_what_it_is_of(self, kind, tmp_path):
        before = open_tree(build(kind, tmp_path / "one", FILES) if (tmp_path / "one").mkdir() is None else Path())
        for number, data in enumerate((b"tw0", b"three")):
            at = tmp_path / f"other{number}"
            at.mkdir()
            after = open_tree(build(kind, at, {**FILES, "b/2.png": data}))
            if kind == "folder":
                os.utime(after.path / "b/2.png", ns=(1, 1))
                os.utime(after.path / "a/1.png", ns=(2, 2))
                os.utime(before.path / "a/1.png", ns=(2, 2))
            if kind.startswith("tar"):
                os.utime(after.path, ns=(1, 1))
            else:
                assert after.stamp(["a/1.png"]) == before.stamp(["a/1.png"])
            assert after.stamp(["b/2.png"]) != before.stamp(["b/2.png"])

    def test_too_many_files_are_refused(self, kind, tmp_path, monkeypatch):
        monkeypatch.setattr(tree_base, "MOST_MEMBERS", 4)
        path = build(kind, tmp_path, FILES)
        with pytest.raises(
            DataError, match=re.escape(str(path)) + " (holds more than 4 files|has more than 4|claims 6)"
        ):
            open_tree(path)


class TestWhatAFileIs:
    def test_told_by_content_not_by_name(self, tmp_path):
        assert open_tree(zipped(tmp_path / "data.tar", FILES)).read("b/2.png") == b"two"
        assert open_tree(tarred(tmp_path / "tar.gz", FILES).rename(tmp_path / "data.zip")).read("b/2.png") == b"two"

    def test_a_zip_behind_a_program_and_an_empty_one(self, tmp_path):
        inner = zipped(tmp_path / "data.zip", FILES).read_bytes()
        (tmp_path / "self.exe").write_bytes(b"MZ\x90\x00" * 300 + inner)
        assert open_tree(tmp_path / "self.exe").read(LONG) == FILES[LONG]
        with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
            pass
        assert open_tree(tmp_path / "empty.zip").names == ()

    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_tars_of_every_form(self, form, tmp_path):
        assert open_tree(tarred(tmp_path / "data.tar", FILES, format=form)).read(LONG) == FILES[LONG]

    def test_a_tar_from_before_posix(self, tmp_path):
        header = bytearray(member("a/1.png", b"one")[0].tobuf(tarfile.USTAR_FORMAT))
        header[257:512] = bytes(255)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        (tmp_path / "old").write_bytes(bytes(header) + b"one".ljust(512, b"\0") + bytes(1024))
        assert open_tree(tmp_path / "old").read("a/1.png") == b"one"

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"<html>Sign in</html>", "is an HTML page that a download link returned in place of the file; allowed"),
            (b"", "is empty; allowed: a folder, a zip or a tar: fetch it again"),
            (b"\x80\x04]\x94.", "is a pickle; allowed: a folder, a zip or a tar: rename it to .pkl"),
            (b"Rar!\x1a\x07", "is a rar archive; allowed: a folder, a zip or a tar: unpack it"),
            (b"\x01\x02\x03", r"is of an unknown kind .*; allowed: a folder, a zip or a tar: fetch it again"),
            (b"PK\x03\x04" + bytes(100), r"is not a complete zip file \(File is not a zip file\); fetch it again"),
            (b"\x1f\x8b" + bytes(100), r"is not a complete tar archive \(.*\); fetch it again"),
        ],
    )
    def test_others_are_named(self, data, words, tmp_path):
        (tmp_path / "data").write_bytes(data)
        with pytest.raises(DataError, match=re.escape(str(tmp_path / "data")) + " " + words):
            open_tree(tmp_path / "data")

    def test_what_is_not_there_and_what_is_no_file(self, tmp_path):
        with pytest.raises(
            DataError, match="cannot be opened .No such file or directory.; give a folder, a zip or a tar"
        ):
            open_tree(tmp_path / "nothing")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(DataError, match="pipe is a device or another special file; give a folder, a zip or a tar"):
            open_tree(tmp_path / "pipe")


class TestFolder:
    def refused(self, path: Path, words: str) -> None:
        with pytest.raises(DataError, match=f"{re.escape(str(path))}: {words}"):
            open_tree(path)

    def test_links_are_followed_and_each_folder_is_visited_once(self, tmp_path):
        folder(tmp_path / "far", {"x/1.png": b"far"})
        path = folder(tmp_path / "here", FILES)
        (path / "linked").symlink_to(tmp_path / "far")
        (path / "one.png").symlink_to(tmp_path / "far/x/1.png")
        (path / "a/up").symlink_to(path)
        (path / "0").symlink_to(path / "b")
        (tmp_path / "far/back").symlink_to(path / "c")
        tree = open_tree(path)
        assert tree.names == tuple(sorted([*FILES, "linked/x/1.png", "one.png"]))
        assert tree.read("linked/x/1.png") == tree.read("one.png") == tree.open("one.png").read() == b"far"

    @pytest.mark.parametrize(
        ("target", "reason"), [("nowhere", "No such file or directory"), ("bad", "Too many levels of symbolic links")]
    )
    def test_links_that_lead_nowhere_are_named(self, target, reason, tmp_path):
        folder(tmp_path, FILES)
        (tmp_path / "a/bad").symlink_to(target)
        words = f"a/bad is a link to '{target}', which cannot be followed .{reason}.; restore what it leads to, or"
        self.refused(tmp_path, words)
        (tmp_path / "a/bad").rename(tmp_path / "a/.bad")
        assert len(open_tree(tmp_path).names) == len(FILES)

    def test_names_that_are_no_text_are_refused(self, tmp_path):
        folder(tmp_path, FILES)
        with open(os.fsencode(tmp_path) + b"/a/\xff.png", "wb"):
            pass
        self.refused(tmp_path, r"'a/\\udcff.png' is no UTF-8 text; rename the file")

    def test_pipes_are_no_files_and_are_not_waited_for(self, tmp_path):
        folder(tmp_path, FILES)
        os.mkfifo(tmp_path / "pipe.png")
        tree = open_tree(tmp_path)
        assert "pipe.png" not in tree.names
        for read in (tree.read, tree.open):
            with pytest.raises(DataError, match="pipe.png cannot be read .it is no regular file.; restore the file"):
                read("pipe.png")

    def test_files_gone_since_are_named(self, tmp_path):
        tree = open_tree(folder(tmp_path, FILES))
        (tmp_path / "b/2.png").unlink()
        for read in (tree.read, tree.open, lambda name: tree.stamp([name])):
            with pytest.raises(
                DataError, match="b/2.png cannot be read .No such file or directory.; restore the file or"
            ):
                read("b/2.png")

    @pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that can be opened and not read, on Linux")
    def test_files_that_fail_while_they_are_read_are_named(self, tmp_path):
        (tmp_path / "bad.png").symlink_to("/proc/self/mem")
        file = open_tree(tmp_path).open("bad.png")
        assert isinstance(file, io.BufferedReader)
        for read in (file.read, lambda: file.read(10), file.readline):
            with pytest.raises(DataError, match="bad.png cannot be read .Input/output error.; restore the file or its"):
                read()
