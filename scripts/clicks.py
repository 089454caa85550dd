"""Measure structsam demo: from click to mask in a browser, and many requests at once.

python scripts/clicks.py OUT -o benchmarks/demo-cpu.json
"""

import http.client
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime import Predictor, UserError
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.benchmarking.timing import environment
from structsam_runtime.cli.console import missing, run

try:
    import skimage.data
    from playwright.sync_api import Page, sync_playwright
except ModuleNotFoundError as error:
    missing(error)

SIDE = 2400
"""Width of the photograph that is clicked on, in pixels; its masks are computed for the screen."""
PHOTOS = ("coffee", "chelsea", "astronaut")
VIEWPORT = (1280, 800)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
RUNNER = "cpu"


@dataclass(frozen=True)
class Server:
    """A running structsam demo."""

    port: int
    process: int

    def ask(self, method: str, path: str, content: bytes | None = None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, content)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def megabytes(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of structsam export.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; its table goes beside it.")
    ],
    clicks: Annotated[int, typer.Option(min=1, help="Clicks in the browser.")] = 50,
    requests: Annotated[int, typer.Option(min=1, help="Requests for masks.")] = 200,
    clients: Annotated[
        int, typer.Option(min=1, help="How many ask at once, each about its own picture.")
    ] = 8,
) -> None:
    """Click in Chromium, ask from many clients, and write the result."""
    check_result(output)
    with served(out) as server:
        in_browser = click_many(server, clicks)
        at_once = ask_many(server, out, requests, clients)
    result = {
        "machine": environment(RUNNER),
        "command": f"python scripts/clicks.py OUT -o {output.name} --clicks {clicks}",
        "export": out.name,
        "browser": in_browser,
        "clients": at_once,
    }
    text = table(result)
    write_result(output, result, text)
    typer.echo(text)


@contextmanager
def served(out: Path) -> Iterator[Server]:
    """structsam demo in a process of its own."""
    command = [sys.executable, "-m", "structsam_runtime", "demo", str(out), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            port = re.match(r"http://127\.0\.0\.1:(\d+)/", line)
            if port is None:
                raise UserError(f"structsam demo {out} does not start")
            yield Server(int(port[1]), process.pid)
        finally:
            process.terminate()


def click_many(server: Server, clicks: int) -> dict[str, Any]:
    """Clicks at places all over a photograph, each after the last one is answered and cleared.

    Returns:
        Milliseconds from the release of the button until the mask is drawn: the frame of the screen in which
        it is shown has begun.
    """
    places = np.random.default_rng(0).uniform(0.05, 0.95, (clicks + 5, 2))
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        page = browser.new_page(viewport={"width": VIEWPORT[0], "height": VIEWPORT[1]})
        page.goto(f"http://127.0.0.1:{server.port}/")
        photo = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": jpeg(enlarged())}
        page.locator("#file").set_input_files(photo)  # type: ignore[arg-type]
        page.locator("#panes").wait_for()
        page.locator("#title", has_text="photo.jpg").wait_for()
        times = [click(page, x, y) for x, y in places][5:]
        browser.close()
    return {
        "clicks": clicks,
        "picture": [SIDE, SIDE * 2 // 3],
        "window": list(VIEWPORT),
        "median_ms": round(statistics.median(times), 1),
        "p90_ms": round(sorted(times)[int(0.9 * len(times))], 1),
        "min_ms": round(min(times), 1),
    }


def click(page: Page, x: float, y: float) -> float:
    """Milliseconds from a click at a place, as shares of the picture, to its mask."""
    box = page.locator(".frame").bounding_box()
    if box is None:
        raise UserError("the page shows no picture")
    # The pointer goes there first, and what it hovers over is answered before the click.
    place = box["x"] + x * box["width"], box["y"] + y * box["height"]
    page.mouse.move(*place)
    page.wait_for_timeout(400)
    page.mouse.click(*place)
    last = "performance.getEntriesByName('prompt to mask').at(-1)?.duration"
    deadline = time.monotonic() + 30
    while (took := page.evaluate(last)) is None:
        if time.monotonic() > deadline:
            raise UserError("a click is not answered in 30 s")
        page.wait_for_timeout(20)
    page.evaluate("performance.clearMeasures()")
    page.keyboard.press("Escape")
    return float(took)


def ask_many(server: Server, out: Path, requests: int, clients: int) -> dict[str, Any]:
    """Requests of several clients at once, each with its own picture; their masks beside the predictor's."""
    pictures = [turned(number) for number in range(clients)]

    def embed(picture: NDArray[np.uint8]) -> str:
        status, said = server.ask("POST", "/embed", png(picture))
        if status != 200:
            raise UserError(said["error"])
        return str(said["id"])

    def ask(number: int) -> tuple[int, list[int], Any, float]:
        client = number % clients
        height, width = pictures[client].shape[:2]
        place = np.random.default_rng(number).uniform(0, 1, 2) * (width, height)
        point = [int(value) for value in place]
        start = time.perf_counter()
        content = json.dumps({"id": names[client], "points": [[*point, 1]]}).encode()
        status, said = server.ask("POST", "/predict", content)
        took = 1e3 * (time.perf_counter() - start)
        if status != 200:
            raise UserError(said["error"])
        return client, point, said["answers"][0]["masks"][0]["rle"], took

    with ThreadPoolExecutor(clients) as pool:
        names = list(pool.map(embed, pictures))
        list(pool.map(ask, range(clients)))
        before = server.megabytes()
        start = time.perf_counter()
        answers = list(pool.map(ask, range(requests)))
        seconds = time.perf_counter() - start
        after = server.megabytes()
    return {
        "requests": requests,
        "clients": clients,
        "equal": sum(compare(out, pictures, answers)),
        "requests_per_s": round(requests / seconds, 1),
        "median_ms": round(statistics.median(took for *_, took in answers), 1),
        "memory_before_mb": round(before),
        "memory_after_mb": round(after),
        "refused": refusals(server),
    }


def compare(
    out: Path, pictures: list[NDArray[np.uint8]], answers: list[tuple[int, list[int], Any, float]]
) -> Iterator[bool]:
    """Whether each answer is the predictor's mask, pixel for pixel."""
    from pycocotools.mask import encode

    with Predictor.load(out, RUNNER) as predictor:
        for number, picture in enumerate(pictures):
            predictor.set_image(picture)
            for client, point, rle, _ in answers:
                if client == number:
                    (mask,), _, _ = predictor.predict([point], [1], multimask_output=False)
                    yield encode(np.asfortranarray(mask, np.uint8))["counts"].decode() == rle["counts"]


def refusals(server: Server) -> dict[str, Any]:
    """What three bad uploads get, and whether the server answers after each."""
    wrong = {
        "50 MB": bytes(50_000_000),
        "text named .jpg": b"this is no picture",
        "20,000 pixels a side": png(np.zeros((20_000, 20_000), np.uint8)),
    }
    told = {}
    for name, content in wrong.items():
        status, said = server.ask("POST", "/embed?name=photo.jpg", content)
        alive, _ = server.ask("GET", "/exports")
        told[name] = {"status": status, "error": said.get("error"), "alive": alive == 200}
    return told


def enlarged() -> NDArray[np.uint8]:
    """A photograph as large as a camera's, uint8 RGB."""
    return np.asarray(Image.fromarray(getattr(skimage.data, PHOTOS[0])()).resize((SIDE, SIDE * 2 // 3)))


def turned(number: int) -> NDArray[np.uint8]:
    """One of many different pictures, of different sizes, uint8 RGB."""
    photo = getattr(skimage.data, PHOTOS[number % len(PHOTOS)])()
    return np.ascontiguousarray(np.rot90(photo, number // 3)[: -10 - number])


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine, browser, clients = result["machine"], result["browser"], result["clients"]
    head = (
        f"structsam demo with {result['export']}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['library']}, {machine['date']}."
    )
    rows = [
        ["what", "value"],
        [f"click to mask in Chromium, median of {browser['clicks']}", f"{browser['median_ms']} ms"],
        ["the same, 90th percentile", f"{browser['p90_ms']} ms"],
        [
            f"{clients['requests']} requests by {clients['clients']} clients: masks equal to the predictor's",
            f"{clients['equal']}",
        ],
        ["requests a second", f"{clients['requests_per_s']}"],
        ["memory before and after", f"{clients['memory_before_mb']} MB, {clients['memory_after_mb']} MB"],
        *(
            [f"upload of {name}", f"{one['status']}: {one['error']}"]
            for name, one in clients["refused"].items()
        ),
    ]
    return f"{head}\n\n{markdown(rows)}\n"


if __name__ == "__main__":
    run(main)
