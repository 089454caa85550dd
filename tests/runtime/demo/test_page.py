"""The page in a real browser: what a person does, and what is then on the screen."""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime.demo.app import Demo

from .conftest import Site, served

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools
]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
expect = sync_api.expect


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, site: Site) -> Iterator[Any]:
    """The page with the photograph that the server begins with, 451 x 300; no error in its console."""
    context = chromium.new_context(viewport={"width": 1100, "height": 720}, accept_downloads=True)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://127.0.0.1:{site.port}/")
    expect(page.locator("#title")).to_contain_text("451 × 300")
    yield page
    context.close()
    assert errors == []


def place(page: Any, x: float, y: float, pane: int = 0) -> tuple[float, float]:
    """Where a place of the picture, in its pixels, is on the screen."""
    box = page.locator(".frame").nth(pane).bounding_box()
    return box["x"] + x * box["width"] / 451, box["y"] + y * box["height"] / 300


def click(page: Any, x: float, y: float) -> None:
    page.mouse.click(*place(page, x, y))


def colour(page: Any, x: float, y: float, pane: int = 0) -> list[int]:
    """Red, green, blue and alpha of what is drawn over a place of the picture."""
    read = """(canvas, [x, y]) => {
        const at = [Math.floor(x * canvas.width / 451), Math.floor(y * canvas.height / 300)];
        return [...canvas.getContext("2d").getImageData(...at, 1, 1).data];
    }"""
    return page.locator(".frame canvas:nth-child(2)").nth(pane).evaluate(read, [x, y])


def until(page: Any, x: float, y: float, drawn: bool, pane: int = 0) -> None:
    """Wait until something, or nothing, is drawn over a place."""
    for _ in range(100):
        if bool(colour(page, x, y, pane)[3]) == drawn:
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"({x}, {y}) is {colour(page, x, y, pane)} after three seconds")


def words(page: Any) -> str:
    return page.locator("#command").text_content()


def asked(page: Any, option: str, count: int) -> list[float]:
    """The numbers behind an option of the command; waits until it is there."""
    expect(page.locator("#command")).to_contain_text(option)
    found = words(page).partition(f"{option} ")[2].split()
    return [float(word) for word in found[:count]]


def test_hover_click_take_away_and_undo(page: Any) -> None:
    page.mouse.move(*place(page, 200, 150))
    until(page, 210, 150, drawn=True)
    assert colour(page, 200, 150, pane=1)[3] == 0  # each export for itself
    page.mouse.move(5, 400)
    until(page, 210, 150, drawn=False)
    click(page, 200, 150)
    until(page, 210, 150, drawn=True)
    np.testing.assert_allclose(asked(page, "--point", 2), [200, 150], atol=0.6)  # a pixel of the screen
    expect(page.locator("#command")).to_contain_text("--multimask -o overlay.png")  # the best of three
    expect(page.locator("#live")).to_contain_text("predicted IoU")
    page.keyboard.down("Shift")
    click(page, 300, 100)
    page.keyboard.up("Shift")
    np.testing.assert_allclose(asked(page, "--negative", 2), [300, 100], atol=0.6)
    page.keyboard.press("z")
    expect(page.locator("#command")).not_to_contain_text("--negative")
    page.keyboard.press("Escape")
    until(page, 210, 150, drawn=False)
    assert words(page) == ""
    page.keyboard.press("z")  # clearing is undone too
    until(page, 210, 150, drawn=True)


def test_a_box_gives_the_mask_that_is_downloaded_and_the_command_that_repeats_it(
    page: Any,
    site: Site,
    export_folder: Path,
    photo: Path,
    photos: dict[str, NDArray[np.uint8]],
    tmp_path: Path,
) -> None:
    page.mouse.move(*place(page, 100, 80))
    page.mouse.down()
    page.mouse.move(*place(page, 300, 200))
    page.mouse.move(*place(page, 400, 260))
    page.mouse.up()
    until(page, 250, 170, drawn=True)
    box = asked(page, "--box", 4)
    np.testing.assert_allclose(box, [100, 80, 400, 260], atol=0.6)
    assert words(page).endswith(" --mask mask.png -o overlay.png")
    assert shlex.split(words(page))[:4] == ["structsam", "predict", str(export_folder), str(photo)]
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "mask.png")
    assert download.value.suggested_filename == "it's chelsea-mask.png"
    with site.demo.exports["stand-in"].predictor.session() as own:
        own.set_image(photos["chelsea"])
        (mask,), _, _ = own.predict(box=box, multimask_output=False)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), mask * np.uint8(255))


def test_candidates_are_chosen_by_key_and_by_mouse(page: Any) -> None:
    click(page, 200, 150)
    chosen = page.locator("#candidates input:checked")
    expect(chosen).to_have_value("2")  # the best predicted IoU of the three
    page.keyboard.press("1")
    expect(chosen).to_have_value("0")
    assert "--multimask" not in words(page)
    page.locator("#candidates label").nth(3).click()
    expect(chosen).to_have_value("3")


def test_exports_are_compared(page: Any) -> None:
    click(page, 200, 150)
    page.keyboard.press("1")
    expect(page.locator(".agreement")).to_have_count(1)
    assert 0.3 < float(page.locator(".agreement").text_content().split()[1]) < 0.6
    expect(page.locator("figcaption").nth(1)).to_contain_text("encoder")
    until(page, 200, 170, drawn=True, pane=1)  # in the wider mask of the second export alone
    blue = colour(page, 222, 150, pane=1)
    page.keyboard.press("d")
    page.wait_for_timeout(100)
    assert colour(page, 222, 150, pane=1)[:3] == [0, 158, 115] != blue[:3]
    page.locator("#exports input").first.uncheck()
    expect(page.locator("figure")).to_have_count(1)
    expect(page.locator("figcaption b")).to_have_text("merging")


def test_merging_is_drawn(page: Any) -> None:
    base = page.locator(".frame canvas:first-child").nth(1)
    before = base.evaluate("canvas => canvas.toDataURL()")
    page.keyboard.press("m")
    expect(page.locator("#merged")).to_contain_text("3,328 of 4,096 tokens attend")
    expect(page.locator("#merged")).to_contain_text("stand-in: it is older than plans in manifests")
    cells = base.evaluate("canvas => canvas.toDataURL()")
    page.locator("#layer").select_option("energy")
    energy = base.evaluate("canvas => canvas.toDataURL()")
    assert len({before, cells, energy}) == 3
    page.keyboard.press("m")
    assert base.evaluate("canvas => canvas.toDataURL()") == before


def test_everything_mode(page: Any) -> None:
    page.locator("summary").click()
    for name, value in (("side", "3"), ("iou", "0.2"), ("stability", "0.5")):
        page.locator(f"#{name}").fill(value)
    page.locator("#everything").click()
    expect(page.locator("#found")).to_contain_text("masks")
    assert "--everything --points-per-side 3 --pred-iou-thresh 0.2" in words(page)
    assert colour(page, 225, 150)[3] > 0
    page.keyboard.press("Escape")
    until(page, 225, 150, drawn=False)


def test_the_keyboard_alone_is_enough(page: Any) -> None:
    page.locator("#panes").focus()
    for key in ("ArrowLeft", "Shift+ArrowUp", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#command")).to_contain_text("--point 217 96 ")  # steps of 9 from 226, 150
    for key in ("Escape", "b", "Shift+ArrowRight", "Shift+ArrowDown", "b"):
        page.keyboard.press(key)
    expect(page.locator("#command")).to_contain_text("--box 217 96 262 141 ")
    page.keyboard.press("-")
    expect(page.locator("#command")).to_contain_text("--negative 262 141 ")
    expect(page.locator("#live")).to_contain_text("Mask covers")


def test_a_bad_upload_is_one_line_and_the_picture_stays(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("this is no picture")
    page.locator("#file").set_input_files(tmp_path / "notes.jpg")
    expect(page.locator("#wrong")).to_have_text(
        "notes.jpg is not a picture that Pillow can read; expected PNG, JPEG, TIFF ..."
    )
    expect(page.locator("#title")).to_contain_text("451 × 300")
    (tmp_path / "large.jpg").write_bytes(bytes(50 * 10**6))
    page.locator("#file").set_input_files(tmp_path / "large.jpg")
    expect(page.locator("#wrong")).to_have_text(
        "large.jpg has 48 MiB, expected 32 MiB at most; make it smaller."
    )
    click(page, 200, 150)
    until(page, 210, 150, drawn=True)
    expect(page.locator("#error")).to_be_hidden()


def test_two_tabs_at_once(page: Any, site: Site, tmp_path: Path) -> None:
    other = page.context.new_page()
    other.goto(f"http://127.0.0.1:{site.port}/")
    expect(other.locator("#title")).to_contain_text("451 × 300")
    Image.new("RGB", (451, 300), "teal").save(tmp_path / "teal.png")
    other.locator("#file").set_input_files(tmp_path / "teal.png")
    expect(other.locator("#title")).to_contain_text("teal.png")
    click(page, 100, 150)
    click(other, 350, 150)
    for tab, on, off in ((page, 100, 350), (other, 350, 100)):
        until(tab, on + 10, 150, drawn=True)
        assert colour(tab, off, 150)[3] == 0
        np.testing.assert_allclose(asked(tab, "--point", 2), [on, 150], atol=0.6)


def test_a_picture_that_the_server_has_dropped_is_sent_again(page: Any, site: Site) -> None:
    site.demo.store._pictures.clear()
    click(page, 200, 150)
    until(page, 210, 150, drawn=True)


def held(page: Any, path: str) -> list[Any]:
    """The requests for a path from now on, which wait until a test answers them."""
    requests: list[Any] = []
    page.route(path, lambda route: requests.append(route))
    return requests


def until_held(page: Any, requests: list[Any], count: int) -> None:
    for _ in range(100):
        if len(requests) == count:
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"{len(requests)} requests after three seconds, expected {count}")


def choose(page: Any, path: Path, colour: str) -> None:
    """Show another picture."""
    Image.new("RGB", (451, 300), colour).save(path)
    page.locator("#file").set_input_files(path)
    expect(page.locator("#title")).to_contain_text(path.name)


def test_an_answer_about_another_picture_is_dropped(page: Any, tmp_path: Path) -> None:
    plans = held(page, "**/plans/**")
    page.keyboard.press("m")
    until_held(page, plans, 1)
    choose(page, tmp_path / "teal.png", "teal")
    until_held(page, plans, 2)
    first, second = plans
    second.continue_()
    expect(page.locator("#merged")).to_contain_text("3,328 of 4,096 tokens attend")
    first.fulfill(json=first.fetch().json() | {"slots": 7})
    page.wait_for_timeout(100)
    page.locator("#layer").select_option("energy")  # tells again what is kept
    expect(page.locator("#merged")).to_contain_text("3,328 of 4,096 tokens attend")
    choose(page, tmp_path / "navy.png", "navy")
    until_held(page, plans, 3)
    choose(page, tmp_path / "plum.png", "plum")
    until_held(page, plans, 4)
    plans[3].continue_()
    plans[2].fulfill(status=400, json={"error": "about navy.png"})  # no error of the picture that is shown
    page.wait_for_timeout(100)
    expect(page.locator("#error")).to_be_hidden()


def test_an_answer_of_exports_that_are_no_longer_shown_is_dropped(page: Any) -> None:
    boxes = page.locator("#exports input")
    boxes.last.uncheck()
    page.mouse.move(*place(page, 200, 150))
    until(page, 210, 150, drawn=True)
    masks = held(page, "**/predict")
    click(page, 200, 150)
    until_held(page, masks, 1)  # of the first export
    boxes.last.check()
    boxes.first.uncheck()
    masks[0].continue_()
    until_held(page, masks, 2)  # of the second
    expect(page.locator("figcaption")).not_to_contain_text("mask")
    masks[1].continue_()
    expect(page.locator("figcaption")).to_contain_text("mask")
    searches = held(page, "**/everything")
    page.keyboard.press("e")
    until_held(page, searches, 1)
    boxes.first.check()
    searches[0].fulfill(json={"masks": [], "width": 451, "height": 300, "ms": 1})
    page.wait_for_timeout(100)
    expect(page.locator("#found")).to_be_empty()


def test_a_picture_that_is_chosen_stays_when_the_one_to_begin_with_comes(
    page: Any, site: Site, tmp_path: Path
) -> None:
    other = page.context.new_page()
    photo = held(other, "**/photo")
    other.goto(f"http://127.0.0.1:{site.port}/")
    until_held(other, photo, 1)
    choose(other, tmp_path / "teal.png", "teal")
    with other.expect_response("**/photo"):
        photo[0].continue_()
    other.wait_for_timeout(200)
    expect(other.locator("#title")).to_contain_text("teal.png")


def test_a_phone_with_touch(chromium: Any, site: Site) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{site.port}/")
    expect(page.locator("#title")).to_contain_text("451")
    page.locator("#modes label").nth(1).click()
    page.locator(".frame").first.scroll_into_view_if_needed()
    page.touchscreen.tap(*place(page, 200, 150))
    expect(page.locator("#command")).to_contain_text("--negative")
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing hangs out at the side
    context.close()


def test_run_lengths_are_decoded_as_pycocotools_encodes_them(page: Any) -> None:
    rng = np.random.default_rng(0)
    masks = [
        rng.random((rows, columns)) < share
        for rows, columns, share in [(7, 5, 0.5), (40, 300, 0.9), (1, 1, 1)]
    ]
    masks += [np.zeros((3, 4), bool), np.pad(np.ones((700, 900), bool), 40)]
    for mask in masks:
        made = pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
        rle = {"size": list(mask.shape), "counts": made["counts"].decode()}
        decode = "async rle => (await import('/static/rle.js')).decode(rle).mask.join('')"
        came = page.evaluate(decode, rle)
        assert came == "".join(map(str, mask.astype(int).ravel()))


def test_a_server_that_stops_is_one_line(chromium: Any, site: Site) -> None:
    context = chromium.new_context()
    page = context.new_page()
    token = "a+token/of=many%letters#"  # all of which the address has to carry
    with served(Demo(list(site.demo.exports.values()), site.demo.photo, 10**6), token) as own:
        page.goto(own.address)
        expect(page.locator("#title")).to_contain_text("451 × 300")
        assert page.url == f"http://127.0.0.1:{own.port}/"  # the token is not left in the address
    click(page, 200, 150)
    expect(page.locator("#wrong")).to_contain_text("The server does not answer. Start structsam demo again")
    expect(page.locator("#title")).to_contain_text("451 × 300")
    context.close()
