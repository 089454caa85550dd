"""structsam demo as a person calls it; what it serves is tested beside it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection as Connection
from pathlib import Path

import pytest
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime.demo.ending import ENDED

TOKEN = "sixteen+letters!"
RunCommand = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nowhere --port 0", "no folder nowhere; expected the output folder of structsam export"),
        ("PHOTO", "PHOTO is a picture; name the output folder of structsam export before it"),
        (
            "PHOTO OUT",
            "PHOTO is a file, expected the output folder of structsam export; the picture goes last",
        ),
        ("OUT PHOTO PHOTO", "PHOTO is a file, expected the output folder of structsam export; the picture"),
        ("OUT --token 0123456789abcdef --host a..b", "cannot listen at a..b, port 8765: "),
        ("OUT --host 0.0.0.0", "--host 0.0.0.0 lets other machines in; give --token too, 16 letters"),
        ("OUT --runner tpu --port 0", "runner 'tpu' is unknown, expected one of cpu"),
        ("", "Missing argument"),
    ],
)
def test_usage_errors_are_one_line(
    run_command: RunCommand, export_folder: Path, tmp_path: Path, line: str, told: str
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    names = {"OUT": str(export_folder), "PHOTO": str(tmp_path / "photo.jpg")}
    for name, path in names.items():
        line, told = line.replace(name, path), told.replace(name, path)
    code, out, err = run_command("demo", line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def ask(port: str, method: str, path: str, content: bytes = b"", length: int | None = None) -> Connection:
    """A connection with a request that is sent, of which the content may be only a part."""
    connection = Connection("127.0.0.1", int(port), timeout=20)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Length": str(length or len(content))}
    connection.request(method, path, content, headers)
    return connection


def answer(asked: Connection) -> tuple[int, bytes]:
    """Status and body; closes the connection."""
    with closing(asked):
        came = asked.getresponse()
        return came.status, came.read()


def test_help_says_who_is_let_in(run_command: RunCommand) -> None:
    _, out, _ = run_command("demo", "--help")
    assert "Nothing leaves this machine, unless --host lets others in." in " ".join(out.split())


def test_it_serves_until_it_is_interrupted(
    export_folder: Path, tmp_path: Path, photos: dict[str, NDArray]
) -> None:
    Image.fromarray(photos["coffee"]).save(tmp_path / "photo.jpg")
    command = [sys.executable, "-m", "structsam_runtime", "demo", str(export_folder), "photo.jpg"]
    with subprocess.Popen(
        [*command, "--port", "0", "--no-browser"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STRUCTSAM_TOKEN": TOKEN},
    ) as server:
        try:
            address = server.stdout.readline()
            found = re.fullmatch(
                r"http://127\.0\.0\.1:(\d+)/#token=sixteen%2Bletters%21  \(Ctrl-C ends it\)\n", address
            )
            assert found, address
            port, photo = found[1], (tmp_path / "photo.jpg").read_bytes()
            assert answer(ask(port, "GET", "/photo")) == (200, photo)
            _, embedded = answer(ask(port, "POST", "/embed", photo))
            search = json.dumps({"id": json.loads(embedded)["id"], "points_per_side": 64}).encode()
            waiting = [ask(port, "POST", "/everything", search) for _ in range(3)]
            waiting.append(ask(port, "POST", "/embed", b"part", 100))
            assert answer(ask(port, "GET", "/exports"))[0] == 200  # so the others have arrived
        finally:
            server.send_signal(signal.SIGINT)
        for asked in waiting:
            status, content = answer(asked)
            assert (status, json.loads(content)) == (503, {"error": ENDED})
        _, errors = server.communicate(timeout=20)
    assert server.returncode == 0
    assert re.fullmatch(r"✓ open 1 export +[\d.]+ s\n", errors)
