"""Boxes of masks: which are duplicates, which are cut off."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def nms(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> list[int]:
    """Non-maximum suppression: the best box stays, those that overlap it too much go; so on with the rest.

    The rules are torchvision's, to the last bit: overlap in float32 from x1 - x0 and y1 - y0, compared with
    the float64 threshold; of equal scores the earlier is the better; boxes without area suppress nothing.

    Args:
        boxes: [N, 4] x0, y0, x1, y1.
        scores: [N].
        threshold: intersection over union above which a box goes.

    Returns:
        What stays, best first.
    """
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[~(_overlap(corners[best], corners[order]) > threshold)]
    return kept


def _overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N] intersection over union of one box [4] with others [N, 4]; nan where both have no area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])  # [N, 2]
    inter = np.maximum(sides, 0).prod(axis=1)
    with np.errstate(invalid="ignore"):
        overlap: NDArray[np.float32] = inter / (_area(box) + _area(others) - inter)
    return overlap.astype(np.float64)  # so that NumPy does not round the threshold to float32


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    return area
