"""Open a page that answers clicks, and shows what merging does.

structsam demo OUT [OUT ...] [PHOTO]
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ..demo.app import UPLOAD, Demo, Photo
from ..demo.exports import opened
from ..demo.server import LOOPBACK, check_access, listen, serve
from ..errors import UserError
from ..pictures import MAX_PIXELS
from ..progress import Progress
from ..runners import RUNNERS

PORT = 8765


def main(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="OUT... [PHOTO]",
            help="Output folders of structsam export, the first to compare the others with; and a picture.",
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Where to listen; other machines than this one need --token.")
    ] = LOOPBACK,
    token: Annotated[
        str | None, typer.Option(envvar="STRUCTSAM_TOKEN", help="A secret that every request has to give.")
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open nothing.")
    ] = False,
    runner: Annotated[str, typer.Option(help=f"One of {', '.join(RUNNERS)}.")] = "cpu",
    max_pixels: Annotated[
        int, typer.Option(min=1, help="A larger picture is refused before it is decoded.")
    ] = MAX_PIXELS,
) -> None:
    """Open a page to click on: masks in an instant, several exports side by side, what merging does.

    Ends with Ctrl-C. Nothing leaves this machine, unless --host lets others in.
    """
    *folders, last = paths
    photo = _photo(last) if last.is_file() else None
    if photo is None:
        folders = paths
    if not folders:
        raise UserError(f"{last} is a picture; name the output folder of structsam export before it")
    for folder in folders:
        if folder.is_file():
            raise UserError(
                f"{folder} is a file, expected the output folder of structsam export; the picture goes last"
            )
    check_access(host, token)
    with listen(host, port) as listening, ExitStack() as stack:
        with Progress().step(f"open {len(folders)} export{'s' * (len(folders) > 1)}"):
            exports = stack.enter_context(opened(folders, runner))
        serve(Demo(exports, photo, max_pixels), listening, token, not no_browser)


def _photo(path: Path) -> Photo:
    """The picture that the page begins with; its pixels are looked at as those of any other."""
    try:
        if path.stat().st_size > UPLOAD:
            raise UserError(f"{path} has more than {UPLOAD >> 20} MiB; make it smaller")
        return Photo(str(path), path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
