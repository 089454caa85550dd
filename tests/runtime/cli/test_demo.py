"""structsam demo as a person calls it; what it serves is tested beside it."""

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from numpy.typing import NDArray
from PIL import Image

RunCommand = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nowhere --port 0", "no folder nowhere; expected the output folder of structsam export"),
        ("PHOTO", "PHOTO is a picture; name the output folder of structsam export before it"),
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
        env={**os.environ, "STRUCTSAM_TOKEN": "sixteen letters!"},
    ) as server:
        try:
            address = server.stdout.readline()
            found = re.fullmatch(
                r"http://127\.0\.0\.1:(\d+)/#token=sixteen letters!  \(Ctrl-C ends it\)\n", address
            )
            assert found, address
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
            connection.request("GET", "/photo", headers={"Authorization": "Bearer sixteen letters!"})
            assert connection.getresponse().read() == (tmp_path / "photo.jpg").read_bytes()
            connection.close()
        finally:
            server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=20)
    assert server.returncode == 0
    assert re.fullmatch(r"✓ open 1 export +[\d.]+ s\n", errors)
