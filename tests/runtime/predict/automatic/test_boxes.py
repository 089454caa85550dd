"""Non-maximum suppression against a plain version, pair by pair."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.predict.automatic.boxes import nms

SIDE = st.integers(0, 6)
BOX = st.builds(lambda x, y, width, height: (x, y, x + width, y + height), SIDE, SIDE, SIDE, SIDE)
SCORE = st.sampled_from([0.1, 0.5, 0.5000001, 0.9])  # few, so that there are ties
Box = tuple[int, int, int, int]


def overlap(box: Box, other: Box) -> np.float32:
    width = max(0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0, min(box[3], other[3]) - max(box[1], other[1]))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (box, other)]
    either = sum(areas) - width * height
    return np.float32(width * height) / np.float32(either) if either else np.float32(0)


def plain(boxes: Sequence[Box], scores: Sequence[float], threshold: float) -> list[int]:
    left = sorted(range(len(boxes)), key=lambda index: -np.float32(scores[index]))  # stable
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [index for index in left if float(overlap(boxes[best], boxes[index])) <= threshold]
    return kept


@given(st.lists(st.tuples(BOX, SCORE), max_size=25), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_equals_the_plain_version(found: list[tuple[Box, float]], threshold: float) -> None:
    boxes, scores = [box for box, _ in found], [score for _, score in found]
    assert nms(boxes, scores, threshold) == plain(boxes, scores, threshold)


def test_equal_scores_keep_their_order_and_boxes_without_area_all_stay() -> None:
    assert nms([(0, 0, 4, 4), (0, 0, 4, 4), (9, 9, 12, 12)], [0.5, 0.5, 0.5], 0.7) == [0, 2]
    assert nms([(3, 3, 3, 3)] * 3, [0.1, 0.2, 0.3], 0.7) == [2, 1, 0]


def test_the_threshold_itself_is_no_duplicate() -> None:
    half = [(0, 0, 4, 4), (0, 0, 4, 2)]
    assert nms(half, [1, 0], 0.5) == [0, 1]
    assert nms(half, [1, 0], 0.499) == [0]
    # 3 / 10 in float32 is a little above the number 0.3, and is compared as it is.
    assert nms([(0, 0, 10, 1), (0, 0, 3, 1)], [1, 0], 0.3) == [0]
