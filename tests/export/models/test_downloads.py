"""Downloads that stall or break off, and files in the cache that changed since they came."""

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from structsam_export.models import downloads
from structsam_export.models.architectures import ARCHITECTURES, Architecture
from structsam_export.models.downloads import download
from structsam_runtime.errors import UserError

CONTENT = bytes(range(256)) * 40
ARCH = Architecture(64, 4, 2, (1, 3), "sam.pth", hashlib.sha256(CONTENT).hexdigest())


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT, but often less of it than it says.

    Attributes:
        gives: bytes that each connection gets; the last number is for all further ones.
        ranges: whether it goes on where it is asked to.
        stalls: whether it keeps a connection open when it has given what it gives.
        asked: the Range of every request.
    """

    ranges, stalls = True, False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.gives = [len(CONTENT)]
        self.asked: list[str | None] = []
        self.done = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        gives = self.server.gives.pop(0) if len(self.server.gives) > 1 else self.server.gives[0]
        self.wfile.write(CONTENT[start : start + gives])
        self.wfile.flush()
        if self.server.stalls:
            self.server.done.wait(10)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setitem(ARCHITECTURES, "tiny", ARCH)
        monkeypatch.setattr(downloads, "META", f"http://127.0.0.1:{made.server_port}/")
        monkeypatch.setattr(downloads, "PATIENCE", 0.1)
        monkeypatch.setenv("STRUCTSAM_CACHE", str(tmp_path))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield made
        made.done.set()
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("stalls", [False, True])
def test_a_download_that_breaks_off_goes_on_where_it_did(
    server: Server, tmp_path: Path, stalls: bool
) -> None:
    server.gives, server.stalls = [4000], stalls
    assert download("tiny").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=4000-", "bytes=8000-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sam.pth", "sam.pth.checked"]
    assert (tmp_path / "sam.pth").stat().st_mode & 0o044 == 0o044, "others may read it"


def test_a_server_that_cannot_go_on_begins_again(server: Server) -> None:
    server.gives, server.ranges = [4000, len(CONTENT)], False
    assert download("tiny").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=4000-"]


@pytest.mark.parametrize("gives", [0, 100])
def test_a_server_that_falls_silent_is_one_line_and_leaves_nothing(
    server: Server, tmp_path: Path, gives: int
) -> None:
    server.gives, server.stalls = [gives], True
    with pytest.raises(
        UserError, match=r"cannot download http.*sam.pth \(timed out\); use --checkpoint PATH"
    ):
        download("tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_always_ends_early_is_one_line(server: Server, tmp_path: Path) -> None:
    server.gives = [100]
    with pytest.raises(UserError, match=r"\(ended after 300 of 10240 bytes\)"):
        download("tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changed_in_the_cache_is_not_used(server: Server) -> None:
    path = download("tiny")
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(
        UserError, match=r"sam.pth has sha256 .*, expected .*; delete it to download it again"
    ):
        download("tiny")
    path.unlink()
    assert download("tiny").read_bytes() == CONTENT


def test_the_hash_is_computed_once_for_a_size_and_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sam.pth").write_bytes(CONTENT)  # as an older version left it
    hashed: list[Path] = []
    monkeypatch.setattr(downloads, "sha256", lambda path: hashed.append(path) or ARCH.sha256)
    for _ in range(3):
        download("tiny")
    assert len(hashed) == 1
    os.utime(tmp_path / "sam.pth", ns=(1, 1))
    download("tiny")
    assert len(hashed) == 2
    (tmp_path / "sam.pth.checked").write_text("damaged")
    download("tiny")
    assert len(hashed) == 3
    assert server.asked == []


def test_a_cache_that_cannot_be_written_is_read_all_the_same(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sam.pth").write_bytes(CONTENT)
    (tmp_path / "sam.pth.checked").mkdir()  # no record can take its place
    assert download("tiny") == tmp_path / "sam.pth"
