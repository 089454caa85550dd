"""One model for many threads: each has its own picture's masks, or a refusal, and never another's."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from structsam_runtime import AutomaticMaskGenerator, Predictor, UserError
from structsam_runtime.runners.base import Array, Runner, TensorSpec

THREADS, ROUNDS = 4, 2
BOX = [20, 30, 200, 190]
EVERYTHING: dict[str, Any] = {"points_per_side": 2, "pred_iou_thresh": 0.2, "stability_score_thresh": 0.5}

Look = Callable[[Predictor, NDArray[np.uint8]], Any]


@pytest.fixture(scope="module")
def predictor(export_folder: Path) -> Iterator[Predictor]:
    """Without a picture."""
    with Predictor.load(export_folder, threads=1) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def pictures(photos: dict[str, NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """One for each thread."""
    return list(photos.values())


def own_session(predictor: Predictor, picture: NDArray[np.uint8]) -> Any:
    with predictor.session() as own:
        own.set_image(picture)
        return own.predict(box=BOX)


def kept_embedding(predictor: Predictor, picture: NDArray[np.uint8]) -> Any:
    (embedding,) = predictor.encode([picture])
    with predictor.session() as own:
        own.set_embedding(embedding)
        return own.predict(box=BOX)


def everything(predictor: Predictor, picture: NDArray[np.uint8]) -> Any:
    found = AutomaticMaskGenerator(predictor, **EVERYTHING).generate(picture)
    assert found
    return [np.array([*one["bbox"], one["predicted_iou"], one["area"]]) for one in found]


def at_once(look: Look, predictor: Predictor, pictures: list[NDArray[np.uint8]]) -> list[list[Any]]:
    """What every thread gets for its picture, round by round; errors of a person as they are."""
    start = threading.Barrier(len(pictures))

    def work(picture: NDArray[np.uint8]) -> list[Any]:
        start.wait()
        return [_tried(look, predictor, picture) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(len(pictures)) as pool:
        return list(pool.map(work, pictures))


def _tried(look: Look, predictor: Predictor, picture: NDArray[np.uint8]) -> Any:
    try:
        return look(predictor, picture)
    except UserError as error:
        return error


def same(came: Any, expected: Any) -> bool:
    return len(came) == len(expected) and all(map(np.array_equal, came, expected))


@pytest.mark.parametrize("look", [own_session, kept_embedding, everything])
def test_every_thread_gets_its_own_masks(
    look: Look, predictor: Predictor, pictures: list[NDArray[np.uint8]]
) -> None:
    assert len(pictures) == THREADS
    expected = [look(predictor, picture) for picture in pictures]
    assert not any(same(expected[0], other) for other in expected[1:])
    for told, rounds in zip(expected, at_once(look, predictor, pictures), strict=True):
        assert all(same(came, told) for came in rounds)


def test_a_shared_picture_is_never_mistaken_for_another(
    predictor: Predictor, pictures: list[NDArray[np.uint8]]
) -> None:
    all_set = threading.Barrier(len(pictures))

    def shared(predictor: Predictor, picture: NDArray[np.uint8]) -> Any:
        predictor.set_image(picture)
        all_set.wait()
        return predictor.predict(box=BOX)

    expected = [own_session(predictor, picture) for picture in pictures]
    for told, rounds in zip(expected, at_once(shared, predictor, pictures), strict=True):
        for came in rounds:
            assert isinstance(came, UserError) or same(came, told)


def test_only_the_thread_that_sets_a_picture_is_answered(
    predictor: Predictor, pictures: list[NDArray[np.uint8]]
) -> None:
    predictor.set_image(pictures[0])
    expected = predictor.predict(box=BOX)
    ask: list[Callable[[], object]] = [
        lambda: predictor.predict(box=BOX),
        lambda: predictor.predict_many([]),
        lambda: predictor.embedding,
        lambda: predictor.frame,
        predictor.get_image_embedding,
    ]
    with ThreadPoolExecutor(1) as pool:
        for one in ask:
            with pytest.raises(UserError, match=r"set by another thread; .* predictor\.session\(\)"):
                pool.submit(one).result()
        assert same(predictor.predict(box=BOX), expected)
        pool.submit(predictor.set_image, pictures[1]).result()
    with pytest.raises(UserError, match="set by another thread"):
        predictor.predict(box=BOX)
    predictor.reset_image()
    with pytest.raises(UserError, match="no picture is set"):
        predictor.predict(box=BOX)


def test_a_thread_that_follows_another_does_not_inherit_its_picture(
    predictor: Predictor, pictures: list[NDArray[np.uint8]]
) -> None:
    """Though the system may give it the same number."""
    told: list[Any] = []
    for work in (
        lambda: predictor.set_image(pictures[0]),
        lambda: told.append(_tried(lambda one, _: one.predict(box=BOX), predictor, pictures[0])),
    ):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert isinstance(told[0], UserError)


def test_sessions_leave_each_other_alone(predictor: Predictor, pictures: list[NDArray[np.uint8]]) -> None:
    predictor.reset_image()
    with predictor.session() as one, predictor.session() as other:
        one.set_image(pictures[0])
        with pytest.raises(UserError, match="no picture is set"):
            other.predict(box=BOX)
        other.set_image(pictures[1])
        before = one.predict(box=BOX)
    with pytest.raises(UserError, match="no picture is set"):
        one.predict(box=BOX)
    assert same(own_session(predictor, pictures[0]), before)  # the engines are still open


def test_a_session_ends_with_its_predictor(export_folder: Path, pictures: list[NDArray[np.uint8]]) -> None:
    with Predictor.load(export_folder, threads=1) as predictor:
        own = predictor.session()
        own.set_image(pictures[0])
    with pytest.raises(UserError, match="is not open"):
        own.predict(box=BOX)


class Sleepy(Runner):
    """Takes a moment, and counts how many runs there are at the same time; it is closed only between them."""

    def __init__(self, concurrent: bool) -> None:
        super().__init__("sleepy", concurrent)
        self.now, self.most, self.closed_in_a_run = 0, 0, False

    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        one = {"x": TensorSpec(np.dtype(np.float32), (1,))}
        return one, one

    def _close(self) -> None:
        self.closed_in_a_run = self.now > 0

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        return dict(feeds)


@pytest.mark.parametrize("concurrent", [False, True])
def test_runs_of_an_engine_take_turns_unless_it_takes_them_together(concurrent: bool) -> None:
    start = threading.Barrier(THREADS)
    feeds = {"x": np.zeros(1, np.float32)}
    with Sleepy(concurrent) as runner, ThreadPoolExecutor(THREADS) as pool:

        def work(index: int) -> None:
            start.wait()
            (runner.infer_on_device if index % 2 else runner.infer)(feeds)

        list(pool.map(work, range(THREADS)))
    assert (runner.most > 1) == concurrent


@pytest.mark.parametrize("engine", ["turns", "onnxruntime"])
def test_an_engine_may_be_closed_while_others_use_it(engine: str, export_folder: Path, sam: Any) -> None:
    runner = (
        Sleepy(concurrent=False) if engine == "turns" else Predictor.load(export_folder, threads=1).decoder
    )
    feeds: dict[str, Any] = {"x": np.zeros(1, np.float32)}
    if engine != "turns":
        feeds = {
            "image_embedding": np.zeros((1, *sam.embedding), np.float32),
            "point_coords": np.zeros((1, 2, 2), np.float32),
            "point_labels": np.ones((1, 2), np.int32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
        }
    running = threading.Event()

    def work(_: int) -> UserError:
        while True:
            try:
                runner.infer(feeds)
            except UserError as error:
                return error
            running.set()

    with ThreadPoolExecutor(THREADS) as pool:
        with runner:
            ended = pool.map(work, range(THREADS))
            running.wait()
        assert all("is not open" in str(error) for error in ended)
    assert not getattr(runner, "closed_in_a_run", False)
    with suppress(UserError):
        runner.infer(feeds)
