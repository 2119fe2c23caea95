"""Omniglot's files: found anywhere, verified, packed; fetched when absent; each mistake named."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from tiny_omniglot import BACKGROUND, EVALUATION, PARTS, part, png, write_folder, write_zip

from tasks import download as download_module
from tasks.datasets import omniglot
from tasks.download import download
from tasks.errors import DataError
from tasks.omniglot import omniglot_store
from tasks.store import open_store


def pack(root: Path, **more):
    return omniglot_store(root, parts=PARTS, **more)


@pytest.fixture
def zips(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    write_zip(root / "images_background.zip", BACKGROUND)
    write_zip(root / "images_evaluation.zip", EVALUATION)
    return root


def test_packed_once_sorted_with_ink_bright(zips: Path) -> None:
    seen = []
    store = pack(zips, report=lambda what, done, total: seen.append((done, total)))
    assert store.images.shape == (18, 1, 28, 28)
    assert store.class_names[0] == "Greek/character01" and len(store.class_names) == 6
    assert store.offsets.tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert store.image_names[0] == "images_background/Greek/character01/0000_00.png"
    assert store.image_names[-1].startswith("images_evaluation/Tifinagh/character02/")
    assert store.images.max() == 255 and np.median(store.images) == 0
    assert seen[-1] == (18, 18)
    packed = store.images.filename
    seen.clear()
    again = pack(zips, report=lambda *all: seen.append(all))
    assert again.images.filename == packed and not seen
    assert Path(packed).parts[-3] == "stores"


@pytest.mark.parametrize("place", ["", "omniglot-py", "some/where/else"])
def test_folders_and_zips_anywhere_pack_alike(zips: Path, tmp_path: Path, place: str) -> None:
    root = tmp_path / "other"
    write_folder(root / place, BACKGROUND | {"images_background/Greek/.DS_Store": b"x"})
    write_zip(root / "deep" / place / "images_evaluation.zip", {f"omniglot/{k}": v for k, v in EVALUATION.items()})
    assert pack(root).fingerprint == pack(zips).fingerprint


def test_a_linked_folder_is_found_and_a_loop_ends(zips: Path, tmp_path: Path) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    (root / "data").symlink_to(zips)
    (root / "loop").symlink_to(root)
    assert len(pack(root).images) == 18


def test_other_content_or_size_is_another_store(zips: Path) -> None:
    first, other_size = pack(zips), pack(zips, image_size=20)
    assert other_size.images.shape[-1] == 20
    write_zip(zips / "images_background.zip", BACKGROUND | {next(iter(BACKGROUND)): png(33)})
    changed = pack(zips)
    assert len({s.images.filename for s in (first, other_size, changed)}) == 3
    assert len({s.fingerprint for s in (first, other_size, changed)}) == 3


def test_a_read_only_root_packs_into_the_cache(zips: Path, tmp_path: Path) -> None:
    zips.chmod(0o555)
    try:
        store = pack(zips, cache=tmp_path / "cache")
        assert Path(store.images.filename).is_relative_to(tmp_path / "cache" / "stores")
        assert sorted(os.listdir(zips)) == ["images_background.zip", "images_evaluation.zip"]
    finally:
        zips.chmod(0o755)


def test_the_store_serves_when_the_sources_are_gone(zips: Path) -> None:
    store = pack(zips)
    (zips / "images_background.zip").unlink()
    (zips / "images_evaluation.zip").unlink()
    assert pack(zips).fingerprint == store.fingerprint


# what can be wrong with the files


def change(root: Path, name: str, data: bytes | None) -> None:
    files = dict(BACKGROUND)
    if data is None:
        del files[name]
    else:
        files[name] = data
    write_zip(root / "images_background.zip", files)


FIRST = "images_background/Greek/character01/0000_00.png"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (FIRST, png(0)[:60], f"images_background.zip: {FIRST} is not a readable image"),
        (FIRST, b"<html>", "0000_00.png is not a readable image .it is an HTML or XML page"),
        (FIRST, png(0, size=(104, 105)), "0000_00.png is 104x105 pixels, expected 105x105"),
        (FIRST, b"x" * (2 << 20), "0000_00.png is not a readable image .it begins with b'xxxxxxxx'"),
        (FIRST, None, "images_background.zip: Greek/character01 has 2 images, expected 3; fetch it again"),
        (
            "images_background/New/character01/1.png",
            png(1),
            "images_background.zip holds 5 characters, expected 4",
        ),
        ("../evil.png", png(1), "member '../evil.png' has '..' in its name, .* outside of the archive; refused"),
        ("/evil.png", png(1), "member '/evil.png' has an absolute name, .* outside of the archive; refused"),
        ("a\\..\\evil.png", png(1), "evil.png' has a backslash in its name, .*; refused"),
        ("C:\\evil.png", png(1), "evil.png' has a backslash in its name, .*; refused"),
        ("images_background/Tifinagh/character01/1.png", png(1), "holds 5 characters, expected 4"),
    ],
)
def test_wrong_contents(zips: Path, name: str, data: bytes | None, words: str) -> None:
    change(zips, name, data)
    with pytest.raises(DataError, match=words.replace("\\", "\\\\")):
        pack(zips)
    assert not list(zips.glob("stores/omniglot*"))


def test_a_zip_of_nothing_known(zips: Path) -> None:
    write_zip(zips / "images_background.zip", {"a/b/c.png": png(0)})
    with pytest.raises(DataError, match="images_background.zip holds 0 characters, expected 4; fetch it again"):
        pack(zips)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98])
def test_truncated_zip(zips: Path, keep: float) -> None:
    path = zips / "images_background.zip"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match="images_background.zip is (not a complete zip file|empty).*fetch it again"):
        pack(zips)


def test_flipped_bits_in_a_zip_and_in_a_folder(zips: Path, tmp_path: Path) -> None:
    data = bytearray((zips / "images_background.zip").read_bytes())
    data[data.index(FIRST.encode()) + len(FIRST) + 60] ^= 1
    (zips / "images_background.zip").write_bytes(bytes(data))
    with pytest.raises(DataError, match="Greek/character01/0000_00.png cannot be read .*: fetch it again"):
        pack(zips)
    flipped = bytearray(png(0))
    flipped[-20] ^= 1  # inside the last data chunk: Pillow alone would decode it
    write_folder(tmp_path / "folder", BACKGROUND | EVALUATION | {FIRST: bytes(flipped)})
    with pytest.raises(DataError, match="images_background: .*Greek/character01/0000_00.png is not a readable image"):
        pack(tmp_path / "folder")


def test_a_character_in_both_parts(zips: Path) -> None:
    names = {name.replace("Tifinagh", "Greek"): data for name, data in EVALUATION.items()}
    write_zip(zips / "images_evaluation.zip", names)
    with pytest.raises(DataError, match="Greek/character0[12] is in .*background.zip and in .*evaluation.zip"):
        pack(zips)


def test_data_root_absent(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="data root .*nowhere is not a folder; create it, or give another by --data-root"
    ):
        omniglot(tmp_path / "nowhere")


@pytest.mark.parametrize("size", [0, 106])
def test_image_size_out_of_range(zips: Path, size: int) -> None:
    with pytest.raises(DataError, match=f"image_size={size}: the drawings have 105 pixels a side; give 1 to 105"):
        pack(zips, image_size=size)


# download, from a server on this machine


class Server(ThreadingHTTPServer):
    """Serves one file with Range; cuts each of the first ``cuts`` answers after ``piece`` bytes."""

    data, cuts, piece, ranges, status = b"", 0, 1000, True, 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        body = server.data[start:]
        if server.status:
            self.send_error(server.status)
            return
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts > 0
        server.cuts -= cut
        self.wfile.write(body[: server.piece] if cut else body)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.data = os.urandom(5000)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def md5(data: bytes) -> str:
    return part("", 0, data).md5


def fetch(server: Server, path: Path, **more) -> None:
    download(server.url, path, **({"md5": md5(server.data), "pause": 0.0} | more))


def test_download_reports_and_leaves_one_file(server: Server, tmp_path: Path) -> None:
    seen = []
    fetch(server, tmp_path / "new" / "x.zip", report=lambda what, done, total: seen.append((done, total)))
    assert (tmp_path / "new" / "x.zip").read_bytes() == server.data
    assert os.listdir(tmp_path / "new") == ["x.zip"] and seen[-1] == (5000, 5000)


def test_download_resumes_after_cuts(server: Server, tmp_path: Path) -> None:
    server.cuts = 3
    fetch(server, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == server.data
    assert server.asked == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]


def test_a_later_call_resumes_where_an_earlier_gave_up(server: Server, tmp_path: Path) -> None:
    server.cuts = 4
    with pytest.raises(DataError, match="the connection broke after 4000 of 5000 bytes; run again to continue"):
        fetch(server, tmp_path / "x.zip")
    assert (tmp_path / "x.zip.part").stat().st_size == 4000 and not (tmp_path / "x.zip").exists()
    fetch(server, tmp_path / "x.zip")
    assert server.asked[-1] == "bytes=4000-" and (tmp_path / "x.zip").read_bytes() == server.data


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = 1, False
    fetch(server, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == server.data


def test_a_complete_partial_file_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.zip.part").write_bytes(server.data)
    fetch(server, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == server.data


def test_wrong_checksum_is_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"arrived with md5 {md5(server.data)}, expected 0000; it was removed"):
        fetch(server, tmp_path / "x.zip", md5="0000")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, 4)])
def test_a_refusal_is_final_and_a_busy_server_is_asked_again(
    server: Server, tmp_path: Path, status: int, asked: int
) -> None:
    server.status = status
    with pytest.raises(DataError, match=f"cannot download .*file.zip: the server answered {status}"):
        fetch(server, tmp_path / "x.zip")
    assert len(server.asked) == asked


def test_a_full_disk_says_so(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.zip.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="cannot write .*x.zip.part: No space left on device; free space or choose"):
        fetch(server, tmp_path / "x.zip")


def test_what_is_absent_is_fetched_and_packed(server: Server, zips: Path) -> None:
    server.data = (zips / "images_background.zip").read_bytes()
    expected = pack(zips).fingerprint
    (zips / "images_background.zip").unlink()
    fetched = part("images_background", 4, server.data, server.url)
    store = omniglot_store(zips, parts=(fetched, PARTS[1]), image_size=28)
    assert store.fingerprint == expected and len(server.asked) == 1
    assert (zips / "omniglot-py" / "images_background.zip").read_bytes() == server.data


def test_offline_says_where_to_put_the_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))  # a user's may hold Omniglot
    monkeypatch.setattr(download_module, "_ATTEMPTS", 1)
    with pytest.raises(DataError) as caught:
        pack(tmp_path)
    assert "no images_background.zip and no folder images_background under" in str(caught.value)
    assert "no connection (" in str(caught.value)
    assert f"put images_background.zip or its unpacked folder anywhere under {tmp_path}" in str(caught.value)


def test_a_damaged_store_is_not_used(zips: Path) -> None:
    path = Path(pack(zips).images.filename)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged: .*; delete the folder"):
        pack(zips)
    with pytest.raises(DataError, match="is damaged"):
        open_store(path.parent)


def test_the_official_parts() -> None:
    from tasks import omniglot as module

    assert (module.BACKGROUND.characters, module.EVALUATION.characters) == (964, 659)
    assert replace(module.BACKGROUND).url.endswith("/omniglot/master/python/images_background.zip")
