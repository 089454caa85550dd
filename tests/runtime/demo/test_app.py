"""The HTTP interface, asked as a labelling tool asks it."""

import base64
import http.client
import io
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from structsam_runtime import AutomaticMaskGenerator, Predictor
from structsam_runtime.demo import app, asked
from structsam_runtime.demo.app import KEPT, UPLOAD, Demo, Photo
from structsam_runtime.demo.asked import JSON_BYTES, POINTS

from .conftest import GRID, Site, plan_slots, served

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools
    pytest.mark.xdist_group("demo"),  # one server for all
]


@pytest.fixture(scope="module")
def embedded(site: Site, photo: Path) -> dict[str, Any]:
    """What POST /embed says of the photograph."""
    status, said = site.json("/embed", content=photo.read_bytes())
    assert status == 200
    return said


@pytest.fixture(scope="module")
def predictor(export_folder: Path, photos: dict[str, NDArray[np.uint8]]) -> Iterator[Predictor]:
    with Predictor.load(export_folder, threads=1) as predictor:
        predictor.set_image(photos["chelsea"])
        yield predictor


def decoded(mask: dict[str, Any]) -> NDArray[np.bool_]:
    return pycocotools.mask.decode(mask["rle"]).astype(np.bool_)


def test_it_says_what_there_is(site: Site, photo: Path) -> None:
    status, said = site.json("/exports")
    assert status == 200
    assert [one["name"] for one in said["exports"]] == ["stand-in", "merging"]
    assert [one["blocks"] for one in said["exports"]] == [[], [{"block": 3, "windows": 16}]]
    assert said["photo"] == str(photo)
    assert site.ask("GET", "/photo")[2] == photo.read_bytes()


def test_a_picture_is_encoded_once(site: Site, photo: Path, embedded: dict[str, Any]) -> None:
    assert (embedded["height"], embedded["width"]) == (300, 451)
    assert embedded["encoder_ms"].keys() == {"stand-in", "merging"}
    again = site.json("/embed", content=photo.read_bytes())
    assert again == (200, embedded)  # the times too: nothing ran


def test_what_a_person_should_know_of_a_picture_is_told(site: Site) -> None:
    """As `structsam predict` prints it: here values of 12 bits that are stretched."""
    deep = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    status, said = site.json("/embed?name=deep.png", content=png(deep))
    assert status == 200
    (note,) = said["notes"]
    assert note.startswith("deep.png ")
    assert said == site.json("/embed?name=other.png", content=png(deep))[1]


def test_the_preview_is_the_picture(
    site: Site, embedded: dict[str, Any], photos: dict[str, NDArray[np.uint8]]
) -> None:
    status, headers, content = site.ask("GET", f"/pictures/{embedded['id']}")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    shown = np.asarray(Image.open(io.BytesIO(content)), np.int32)
    assert shown.shape == (300, 451, 3)
    assert np.abs(shown - photos["chelsea"]).mean() < 4


PLACES = st.tuples(st.integers(0, 451), st.integers(0, 300), st.integers(0, 1)).map(list)
BOXES = st.tuples(st.integers(0, 200), st.integers(0, 100), st.integers(210, 451), st.integers(110, 300)).map(
    list
)


@given(points=st.lists(PLACES, max_size=4), box=st.none() | BOXES)
def test_masks_are_those_of_the_predictor(
    site: Site,
    embedded: dict[str, Any],
    predictor: Predictor,
    points: list[list[int]],
    box: list[int] | None,
) -> None:
    asked = {"id": embedded["id"], "points": points, "candidates": [0, 1, 2, 3], "exports": ["stand-in"]}
    status, said = site.json("/predict", asked | ({"box": box} if box else {}))
    if not points and not box:
        assert (status, said["error"][:9]) == (400, "no prompt")
        return
    prompt = {
        "point_coords": [point[:2] for point in points] or None,
        "point_labels": [point[2] for point in points] or None,
        "box": box,
    }
    one, three = (predictor.predict(**prompt, multimask_output=many) for many in (False, True))
    masks, iou = (np.concatenate([a, b]) for a, b in zip(one[:2], three[:2], strict=True))
    (answer,) = said["answers"]
    np.testing.assert_array_equal(np.stack([decoded(mask) for mask in answer["masks"]]), masks)
    np.testing.assert_allclose([mask["predicted_iou"] for mask in answer["masks"]], iou, atol=1e-4)
    assert [mask["area"] for mask in answer["masks"]] == masks.sum((1, 2)).tolist()


def test_exports_answer_side_by_side_with_their_agreement(site: Site, embedded: dict[str, Any]) -> None:
    _, said = site.json("/predict", {"id": embedded["id"], "points": [[200, 150, 1]]})
    first, second = (answer["masks"][0] for answer in said["answers"])
    one, other = decoded(first), decoded(second)
    assert first["agreement"] == 1
    assert second["agreement"] == round(float((one & other).sum() / (one | other).sum()), 4) < 0.6
    assert all(answer["ms"] > 0 for answer in said["answers"])


def test_what_is_asked_twice_is_answered_once(site: Site, embedded: dict[str, Any]) -> None:
    twice = {"exports": ["merging", "stand-in"] * 9, "candidates": [2, 0, 2]}
    _, said = site.json("/predict", {"id": embedded["id"], "points": [[200, 150, 1]]} | twice)
    assert [answer["export"] for answer in said["answers"]] == ["merging", "stand-in"]
    for answer in said["answers"]:
        assert [mask["candidate"] for mask in answer["masks"]] == [2, 0]


def test_masks_come_smaller_and_as_png(site: Site, embedded: dict[str, Any]) -> None:
    asked = {"id": embedded["id"], "box": [100, 80, 400, 260], "exports": ["stand-in"]}
    _, whole = site.json("/predict", asked)
    _, small = site.json("/predict", asked | {"side": 200, "format": "png"})
    (large,), (png,) = (said["answers"][0]["masks"] for said in (whole, small))
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(png["png"]))))
    assert (small["height"], small["width"]) == mask.shape == (133, 200)
    assert set(np.unique(mask)) == {0, 255}
    enlarged = np.asarray(Image.fromarray(mask).resize((451, 300))) > 127
    expected = decoded(large)
    assert (enlarged & expected).sum() / (enlarged | expected).sum() > 0.97


def test_everything_is_the_generators(
    site: Site, embedded: dict[str, Any], predictor: Predictor, photos: dict[str, NDArray[np.uint8]]
) -> None:
    settings = {"points_per_side": 3, "pred_iou_thresh": 0.2, "stability_score_thresh": 0.5}
    _, said = site.json("/everything", {"id": embedded["id"], **settings})
    generator = AutomaticMaskGenerator(predictor, output_mode="coco_rle", **settings)
    assert said["export"] == "stand-in"
    assert said["masks"] == generator.generate(photos["chelsea"])
    _, small = site.json("/everything", {"id": embedded["id"], "side": 100, **settings})
    assert [one["segmentation"]["size"] for one in small["masks"]] == [[67, 100]] * len(said["masks"])


def test_all_masks_of_one_row_of_pixels_are_refused(site: Site) -> None:
    """Their boxes have no area: nothing would be found to be a duplicate."""
    _, thin = site.json("/embed", content=png(np.full((5, 1000, 3), 128, np.uint8)))
    asked = {"id": thin["id"], "points_per_side": 4, "pred_iou_thresh": 0, "stability_score_thresh": 0}
    counts = {}
    for side in (100, 299, 300, 1000):
        status, said = site.json("/everything", asked | {"side": side})
        counts[side] = len(said["masks"]) if status == 200 else (status, said["error"])
    told = "masks of {} x 1 pixels are too thin for a picture of 1000 x 5; give a larger one"
    assert counts.pop(100) == (400, f"'side' is 100: {told.format(100)}")
    assert counts.pop(299) == (400, f"'side' is 299: {told.format(299)}")
    assert max(counts.values()) <= 12  # of 48
    _, line = site.json("/embed", content=png(np.full((1, 9, 3), 128, np.uint8)))
    assert site.json("/everything", asked | {"id": line["id"]})[0] == 200  # in its own size


def test_a_plan_says_which_tokens_share_a_slot(site: Site, embedded: dict[str, Any]) -> None:
    status, said = site.json(f"/plans/{embedded['id']}?export=merging&block=3")
    assert (status, said["windows"], said["tokens"], said["slots"]) == (200, 16, GRID**2, 16 * 208)
    # The picture of 451 x 300 takes 64 x 43 tokens of 16 pixels in a square of 1024.
    assert (said["rows"], said["columns"]) == (43, 64)
    np.testing.assert_allclose(said["token"], np.array([451, 300]) / [1024, 681] * 16)
    alone = np.array(said["alone"]).reshape(43, 64)
    assert alone[:, 0].tolist() == [row % 16 >= 4 for row in range(43)]
    slot = np.array(said["slot"]).reshape(43, 64)
    assert slot[0, 0] == slot[1, 1] != slot[0, 2]
    assert len(np.unique(slot[:16, :16])) == plan_slots()[0].max() + 1
    assert len(np.unique(slot[:16])) == 4 * (plan_slots()[0].max() + 1)  # windows share no slot
    energy = np.array(said["energy"])
    assert energy.shape == (43 * 64,)
    assert (energy.min(), energy.max()) == (0, 255)


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG whose header says side x side pixels, and which has a few bytes of them."""
    head = (side).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )


NOISE = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (bytes(50 * 10**6), 413, f"the picture's file is larger than {UPLOAD} bytes; send less"),
        (b"just text", 415, "notes.jpg is not a picture that Pillow can read; expected PNG, JPEG, TIFF ..."),
        (
            b"",
            415,
            "notes.jpg is not a picture that Pillow can read (it is empty); expected PNG, JPEG, TIFF ...",
        ),
        (bomb(20_000), 413, "notes.jpg is too large: 20000 x 20000 pixels, more than 1000000; make it"),
        (png(np.zeros((1, 4000, 3), np.uint8)), 400, "a picture of 4000 x 1 pixels is too thin"),
        (png(NOISE)[:5000], 415, "notes.jpg cannot be read as a picture: "),
    ],
    ids=["50 MB", "text", "nothing", "20,000 pixels", "thin", "cut short"],
)
def test_a_bad_picture_is_one_line_and_the_server_goes_on(
    site: Site, embedded: dict[str, Any], content: bytes, status: int, told: str
) -> None:
    came, said = site.json("/embed?name=notes.jpg", content=content)
    assert (came, said["error"][: len(told)], list(said)) == (status, told, ["error"])
    assert "\n" not in said["error"]
    assert site.json("/predict", {"id": embedded["id"], "points": [[1, 1, 1]]})[0] == 200


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        ([], 400, "the request is a JSON list, expected an object"),
        ({}, 400, "'id' is missing"),
        ({"id": 5}, 400, "'id' is missing"),
        ({"id": "ID", "point": []}, 400, "'point' is unknown, expected some of id, points, box"),
        ({"id": "ID", "points": [[1, 2]]}, 400, "'points' is not a list of [x, y, label]"),
        ({"id": "ID", "points": 3}, 400, "'points' is no list"),
        ({"id": "ID", "points": [[1, 1, 1]] * (POINTS + 1)}, 400, "'points' has 257 points"),
        ({"id": "ID", "points": [["a", 2, 1]]}, 400, "'points' is not a list of [x, y, label] in numbers"),
        ({"id": "ID", "points": [[[1, 2], 2, 1]]}, 400, "'points' is not a list of [x, y, label] in numbers"),
        ({"id": "ID", "points": [[True, 2, 1]]}, 400, "'points' is not a list of [x, y, label] in numbers"),
        ({"id": "ID", "points": [[1, 2, True]]}, 400, "'points' is not a list of [x, y, label] in numbers"),
        ({"id": "ID", "points": [[1, 2, None]]}, 400, "'points' is not a list of [x, y, label] in numbers"),
        ({"id": "ID", "points": [[float("nan"), 2, 1]]}, 400, "'points' is not a list of [x, y, label]"),
        ({"id": "ID", "points": [[1, 2, float("inf")]]}, 400, "'points' is not a list of [x, y, label]"),
        ({"id": "ID", "points": [[10**400, 2, 1]]}, 400, "point_coords is not an array of numbers"),
        (
            {"id": "ID", "points": [[[10, 10], [20, 20], [1, 1]]]},
            400,
            "'points' is not a list of [x, y, label] in numbers",
        ),
        ({"id": "ID", "points": [[1, 2, 7]]}, 400, "point_labels holds 7, expected 1"),
        ({"id": "ID", "points": [[900, 2, 1]]}, 400, "the point (900, 2) lies outside the picture"),
        ({"id": "ID", "box": [[1, 2, 3, 4], [1, 2, 3, 4]]}, 400, "'box' is not [x0, y0, x1, y1]"),
        ({"id": "ID", "box": [[1, 2, 3, 4]] * 4}, 400, "'box' is not [x0, y0, x1, y1]"),
        ({"id": "ID", "box": [1, 2, True, 4]}, 400, "'box' is not [x0, y0, x1, y1]"),
        ({"id": "ID", "box": [1, 2, float("inf"), 4]}, 400, "'box' is not [x0, y0, x1, y1]"),
        ({"id": "ID", "box": [9, 9, 1, 1]}, 400, "the box (9, 9, 1, 1) is turned around"),
        ({"id": "ID", "points": [[1, 1, 1]], "candidates": [4]}, 400, "'candidates' is [4], expected"),
        ({"id": "ID", "points": [[1, 1, 1]], "candidates": []}, 400, "'candidates' is [], expected"),
        ({"id": "ID", "points": [[1, 1, 1]], "candidates": [{}]}, 400, "'candidates' is [{}], expected"),
        ({"id": "ID", "points": [[1, 1, 1]], "side": True}, 400, "'side' is no whole number"),
        ({"id": "ID", "points": [[1, 1, 1]], "side": 0}, 400, "'side' is no whole number"),
        ({"id": "ID", "points": [[1, 1, 1]], "format": "gif"}, 400, "'format' is none of rle, png"),
        ({"id": "ID", "points": [[1, 1, 1]], "exports": ["other"]}, 404, "no export 'other'; expected one"),
        (
            {"id": "ID", "points": [[1, 1, 1]], "exports": [["merging"]]},
            400,
            "'exports' is [['merging']], exp",
        ),
        ({"id": "ID", "points": [[1, 1, 1]], "exports": [1]}, 400, "'exports' is [1], expected names"),
        ({"id": "ID", "points": [[1, 1, 1]], "exports": []}, 400, "'exports' is [], expected names"),
        ({"id": "0" * 32, "points": [[1, 1, 1]]}, 404, f"no picture '{'0' * 32}'; the newest {KEPT}"),
        ({"id": "ID"}, 400, "no prompt: give points with labels, or a box"),
    ],
)
def test_a_wrong_question_is_one_line(
    site: Site, embedded: dict[str, Any], said: Any, status: int, told: str
) -> None:
    if isinstance(said, dict) and said.get("id") == "ID":
        said = said | {"id": embedded["id"]}
    came, error = site.json("/predict", said)
    assert (came, error["error"][: len(told)], list(error)) == (status, told, ["error"])


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"{", 400, "the request is not JSON: "),
        (b"\xff\xfe\xff", 400, "the request is not JSON: "),
        (b"[" * 60_000, 400, "the request is not JSON: "),
        (b" " * (JSON_BYTES + 1), 413, "the JSON of the request is larger than 65536 bytes"),
    ],
    ids=["cut short", "no text", "deep", "long"],
)
def test_what_is_no_json_is_one_line(site: Site, content: bytes, status: int, told: str) -> None:
    for path in ("/predict", "/everything"):
        came, error = site.json(path, content=content)
        assert (came, error["error"][: len(told)]) == (status, told)


def test_settings_of_everything_are_checked(site: Site, embedded: dict[str, Any]) -> None:
    for wrong, told in [
        ({"points_per_side": 65}, "'points_per_side' is 65, expected a whole number up to 64"),
        ({"points_per_side": None}, "'points_per_side' is None, expected a whole number up to 64"),
        ({"points_per_side": -1}, "points_per_side is -1, expected a whole number"),
        ({"pred_iou_thresh": "0.5"}, "pred_iou_thresh is '0.5', expected a number"),
        ({"pred_iou_thresh": True}, "pred_iou_thresh is True, expected a number"),
        ({"stability_score_thresh": [0.5]}, "stability_score_thresh is [0.5], expected a number"),
        ({"stability_score_thresh": float("inf")}, "stability_score_thresh is inf, expected a number"),
        ({"export": ["merging"]}, "'export' is ['merging'], expected the name of an export"),
        ({"export": 1}, "'export' is 1, expected the name of an export"),
    ]:
        status, said = site.json("/everything", {"id": embedded["id"], **wrong})
        assert (status, said["error"][: len(told)]) == (400, told)


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("export=stand-in&block=3", 400, "block 3 of stand-in tells no plan; it is older than plans"),
        ("export=merging&block=4", 400, "block 4 of merging tells no plan; expected one of 3"),
        ("export=merging&block=-1", 400, "the block is '-1', expected a number"),
        ("export=merging", 400, "the block is '', expected a number"),
        ("export=none&block=3", 404, "no export 'none'"),
    ],
)
def test_a_plan_that_is_not_there_is_one_line(
    site: Site, embedded: dict[str, Any], query: str, status: int, told: str
) -> None:
    came, said = site.json(f"/plans/{embedded['id']}?{query}")
    assert (came, said["error"][: len(told)]) == (status, told)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2f..%2f..%2fetc/passwd",
        "/static//etc/passwd",
        "/static/",
        "/pictures/..%2f..%2fetc%2fpasswd",
        "/pictures/../app.py",
        "/nothing",
    ],
)
def test_no_path_of_the_server_is_read(site: Site, path: str) -> None:
    status, _, content = site.ask("GET", path)
    assert status == 404
    assert list(json.loads(content)) == ["error"]


def test_the_page_and_its_parts_are_served(site: Site) -> None:
    for path, kind in [
        ("/", "text/html"),
        ("/static/main.js", "javascript"),
        ("/static/style.css", "text/css"),
    ]:
        status, headers, _ = site.ask("GET", path)
        assert status == 200
        assert kind in headers["content-type"]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for path in app.STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http:" not in text, path
        assert "https:" not in text, path


def test_the_guide_names_every_request_and_limit(site: Site) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guide" / "demo.md").read_text()
    guard = app.application(site.demo, None, None)
    for route in guard.app.routes:
        if route.path not in ("/", "/static"):
            method = "POST" if "POST" in route.methods else "GET"
            assert f"`{method} {route.path}" in guide
    for said in (f"the newest {KEPT} are kept", f"more than {UPLOAD >> 20} MiB", f"{POINTS} at most"):
        assert said in guide
    assert f"{app.WAITING} requests are waiting already" in guide
    assert f"{asked.STALLED:g} seconds" in guide
    assert f"{asked.SLOWEST / 60:g} minutes" in guide


def test_the_newest_pictures_are_kept(
    site: Site, embedded: dict[str, Any], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.demo.store, "_most", 2)
    for shade in range(2):
        status, _ = site.json("/embed", content=png(np.full((8, 8, 3), shade, np.uint8)))
        assert status == 200
    asked = {"id": embedded["id"], "points": [[200, 150, 1]]}
    assert site.json("/predict", asked)[0] == 404
    assert site.json("/embed", content=photo.read_bytes())[1]["id"] == embedded["id"]
    assert site.json("/predict", asked)[0] == 200


def test_many_clients_get_the_masks_of_their_own_pictures(site: Site) -> None:
    """8 clients at once, each with a picture of another size and prompts of its own."""

    def client(number: int) -> None:
        height, width = 40 + 8 * number, 160 - 8 * number
        rgb = np.full((height, width, 3), 20 * number, np.uint8)
        _, picture = site.json("/embed", content=png(rgb))
        with site.demo.exports["stand-in"].predictor.session() as own:
            own.set_image(rgb)
            for place in range(5):
                point = [width // 2 - place, height // 2, 1]
                said = {"id": picture["id"], "points": [point], "exports": ["stand-in"]}
                status, answer = site.json("/predict", said)
                assert status == 200
                (mask,), (iou,), _ = own.predict([point[:2]], [1], multimask_output=False)
                (made,) = answer["answers"][0]["masks"]
                np.testing.assert_array_equal(decoded(made), mask)
                assert abs(made["predicted_iou"] - iou) < 1e-4

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))


def test_a_client_that_goes_away_is_no_defect(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    for path in ("/embed", "/predict"):
        with socket.create_connection(("127.0.0.1", site.port)) as leaving:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: 1000\r\n\r\n"
            leaving.sendall(head.encode() + b"part")
    until(lambda: site.demo._waiting == 0)
    assert site.json("/exports")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_too_many_waiting_requests_are_turned_away(
    site: Site, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, embedded = site.json("/embed", content=photo.read_bytes())  # others may have taken its place
    monkeypatch.setattr(app, "WAITING", 0)
    for came in (
        site.json("/embed", content=b"x"),
        site.json("/everything", {"id": embedded["id"]}),
        site.json(f"/plans/{embedded['id']}?export=merging&block=3"),
    ):
        assert came == (503, {"error": "0 requests are waiting already; send it again later"})
    assert site.json("/predict", {"id": embedded["id"], "points": [[1, 1, 1]]})[0] == 200


class Busy(Executor):
    """A thread that has something else to do, and what waits for it."""

    def __init__(self) -> None:
        self.waiting: list[Future[Any]] = []

    def submit(self, *work: Any) -> Future[Any]:
        self.waiting.append(Future())
        return self.waiting[-1]


def test_work_whose_client_has_gone_is_not_begun(
    site: Site, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, embedded = site.json("/embed", content=photo.read_bytes())  # others may have taken its place
    busy = Busy()
    monkeypatch.setattr(site.demo, "_long", busy)
    monkeypatch.setattr(site.demo, "_short", busy)
    picture = png(np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8))  # more than one part
    requests = [
        ("POST", "/everything", json.dumps({"id": embedded["id"]}).encode()),
        ("POST", "/predict", json.dumps({"id": embedded["id"], "points": [[1, 1, 1]]}).encode()),
        ("GET", f"/plans/{embedded['id']}?export=merging&block=3", b""),
        ("POST", "/embed", picture),
    ]
    with ExitStack() as stack:
        for method, path, content in requests:
            leaving = stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
            headers = f"Host: 127.0.0.1:{site.port}\r\nContent-Length: {len(content)}"
            leaving.sendall(f"{method} {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + content)
        until(lambda: len(busy.waiting) == len(requests))
        assert site.demo._waiting == 3
    until(lambda: all(one.cancelled() for one in busy.waiting))
    until(lambda: site.demo._waiting == 0)


@pytest.mark.parametrize("path", ["/embed", "/predict", "/everything"])
@pytest.mark.parametrize("limit", ["STALLED", "SLOWEST"])
def test_a_body_that_does_not_arrive_is_one_line(
    site: Site, monkeypatch: pytest.MonkeyPatch, path: str, limit: str
) -> None:
    monkeypatch.setattr(asked, limit, 0.05)
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as stalled:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: 1000\r\n\r\n"
        stalled.sendall(head.encode() + b"part")
        answer = http.client.HTTPResponse(stalled)
        answer.begin()
        assert answer.status == 408
        assert json.loads(answer.read())["error"].endswith(" does not arrive; send it again")
    until(lambda: site.demo._waiting == 0)


def until(what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_names_that_are_no_utf_8_are_written_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    export = site.demo.exports["merging"]
    monkeypatch.setattr(export, "folder", Path("caf\udce9"))
    with served(Demo([export], Photo("caf\udce9\n.jpg", b"x"), 10**6)) as own:
        status, said = own.json("/exports")
        assert (status, said["photo"]) == (200, "caf\\udce9\\n.jpg")
        assert said["exports"][0]["folder"] == "caf\\udce9"
        status, said = own.json("/a%0Ab%1b[2J")
        assert (status, said["error"][:23]) == (404, "GET /a\\nb\\x1b[2J is not")
