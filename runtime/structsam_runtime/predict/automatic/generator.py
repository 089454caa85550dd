"""Everything mode: all masks of a picture, without a prompt of a person."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import UserError
from .. import masks, prompts
from ..decoding import PROMPTS
from ..embedding import Embedding
from ..image import picture_size
from ..predictor import Predictor
from .boxes import nms
from .crops import Crop, checked_grids, crops, regular_grids
from .regions import remove_small
from .runs import Runs

SETTINGS = ("points_per_side", "pred_iou_thresh", "stability_score_thresh")
"""Those that commands and the page offer."""
OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
COUNTS = {  # whole numbers, and the least and the most that make sense
    "points_per_batch": (1, 10**9),
    "crop_n_layers": (0, 6),  # 4096 crops in the last
    "crop_n_points_downscale_factor": (1, 10**9),
    "min_mask_region_area": (0, 10**9),
}
SIDE = (1, 1000)  # points along each side of a grid: at most about one for each pixel of SAM's input
RANGES = {
    "pred_iou_thresh": (-math.inf, math.inf),
    "stability_score_thresh": (-math.inf, math.inf),
    "stability_score_offset": (0, math.inf),
    "box_nms_thresh": (0, 1),
    "crop_nms_thresh": (0, 1),
    "crop_overlap_ratio": (0, 1),
}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that has passed the filters so far. Everything is in pixels of the whole picture."""

    mask: Runs
    box: tuple[int, int, int, int]  # x0, y0, x1, y1: first and last columns and rows
    predicted_iou: np.float32
    stability_score: np.float32
    point: tuple[float, float]  # x, y of its prompt
    crop: Crop


@dataclass(frozen=True, eq=False)
class AutomaticMaskGenerator:
    """Ask for masks at a grid of points, keep the good ones, and of those that are alike the best.

        with Predictor.load(folder) as predictor:
            masks = AutomaticMaskGenerator(predictor).generate(rgb)

    Arguments and rules are those of Meta's SamAutomaticMaskGenerator, on any engine. Only the part of a mask
    where its logits matter is scaled up, one mask at a time, and between the steps masks are runs of pixels:
    beside the small logits of one batch, memory holds one mask of the picture's size at a time.

    Args:
        predictor: open. Pictures are looked at in a session of their own: its picture stays, and threads may
            share it.
        points_per_side: points along each side of the grid; None where ``point_grids`` are given.
        points_per_batch: points in one run of the decoder, of which `decoding.PROMPTS` are the most.
        pred_iou_thresh: masks whose predicted IoU is not above it go; 0 or less lets all pass.
        stability_score_thresh: masks whose :func:`stability_score` is below it go; 0 or less lets all pass.
        stability_score_offset: from the threshold of masks to each of those two, in logits.
        box_nms_thresh: IoU of boxes above which the mask of lower predicted IoU is a duplicate.
        crop_n_layers: 0 looks at the whole picture only, 1 also at 2 x 2 crops of it, 2 also at 4 x 4 ...
        crop_nms_thresh: as ``box_nms_thresh``, between crops; there masks of smaller crops are preferred.
        crop_overlap_ratio: how far the 2 x 2 crops overlap, as a share of the picture's short side.
        crop_n_points_downscale_factor: crops of layer n get ``points_per_side`` / factor**n points a side.
        point_grids: [N, 2] (x, y) in 0..1 for each layer, in place of ``points_per_side``.
        min_mask_region_area: holes and islands of fewer pixels are removed; 0 leaves all.
        output_mode: ``binary_mask`` gives arrays bool [H, W], large ones for a large photograph;
            ``uncompressed_rle`` gives COCO's run lengths as numbers, ``coco_rle`` as pycocotools compresses
            them.

    Raises:
        UserError: an argument out of its range, or both or neither of ``points_per_side`` and
            ``point_grids``.
    """

    predictor: Predictor
    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[ArrayLike] | None = None
    min_mask_region_area: int = 0
    output_mode: str = "binary_mask"

    def __post_init__(self) -> None:
        for name, limits in COUNTS.items():
            _check_count(name, getattr(self, name), *limits)
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, float | int | np.number) or not low <= value <= high:
                raise UserError(f"{name} is {value!r}, expected a number from {low} to {high}")
            finite = value not in (-math.inf, math.inf)
            if finite and not -prompts.LARGEST <= value <= prompts.LARGEST:  # may be infinity in float32
                raise UserError(f"{name} is beyond {prompts.LARGEST:g}, expected a smaller number")
        if self.output_mode not in OUTPUT_MODES:
            raise UserError(f"output_mode is {self.output_mode!r}, expected one of {', '.join(OUTPUT_MODES)}")
        self._grids()

    def generate(self, image: NDArray[np.uint8], embedding: Embedding | None = None) -> list[dict[str, Any]]:
        """All masks of a picture.

        Args:
            image: uint8 RGB [H, W, 3], range 0..255.
            embedding: of the whole picture, if it has been encoded already.

        Returns:
            One dictionary for each mask, by predicted IoU; with crops, first those of the smallest crops; and
            where small regions were removed, these masks last:

            - ``segmentation``: the mask, as ``output_mode`` says;
            - ``area``: its pixels;
            - ``bbox``: x, y, width, height around it; as Meta counts them, a mask of one pixel has width 0;
            - ``predicted_iou``: the decoder's guess of its quality;
            - ``point_coords``: [[x, y]] of its prompt;
            - ``stability_score``: how little it depends on the threshold, 0..1;
            - ``crop_box``: x, y, width, height of the crop in which it was found.

        Raises:
            UserError: the picture has another dtype or shape, or it or a crop of it is too thin to be scaled;
                or the model gives NaN or infinity.
        """
        with self.predictor.session() as own:
            return replace(self, predictor=own)._generate(image, embedding)

    def _generate(self, image: NDArray[np.uint8], embedding: Embedding | None) -> list[dict[str, Any]]:
        height, width = picture_size(image)
        views = crops(height, width, self.crop_n_layers, self.crop_overlap_ratio)
        grids = self._grids()
        found: list[Candidate] = []
        for crop in views:
            self._set(image[crop.y0 : crop.y1, crop.x0 : crop.x1], None if crop.layer else embedding)
            found += self._look(crop, grids[crop.layer], (height, width))
        if len(views) > 1:
            sizes = np.array([one.crop.width * one.crop.height for one in found], np.float32)
            found = _distinct(found, 1 / sizes, self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            found = self._tidied(found)
        return [self._record(one) for one in found]

    def _grids(self) -> list[NDArray[np.float64]]:
        """[N, 2] points in 0..1 for every layer."""
        if self.points_per_side is not None and self.point_grids is None:
            check_side(self.points_per_side)
            return regular_grids(
                self.points_per_side, self.crop_n_layers, self.crop_n_points_downscale_factor
            )
        if self.points_per_side is None and self.point_grids is not None:
            return checked_grids(self.point_grids, self.crop_n_layers)
        given = "both" if self.point_grids is not None else "neither"
        raise UserError(f"{given} of points_per_side and point_grids came; give one, and None for the other")

    def _set(self, view: NDArray[np.uint8], embedding: Embedding | None) -> None:
        """Encode a crop, once: prompts that are everywhere are no reason to look closer anywhere."""
        if embedding is None and self.predictor.model.prior:
            (embedding,) = self.predictor.encode([view])
        if embedding is None:
            self.predictor.set_image(view)
        else:
            self.predictor.set_embedding(embedding)

    def _look(self, crop: Crop, grid: NDArray[np.float64], size: tuple[int, int]) -> list[Candidate]:
        """The distinct masks of the crop that is set, at the points of a grid [N, 2] in 0..1."""
        points = grid * (crop.width, crop.height)
        found: list[Candidate] = []
        step = min(self.points_per_batch, PROMPTS)
        for first in range(0, len(points), step):
            found += self._ask(points[first : first + step], crop, size)
        return _distinct(found, [one.predicted_iou for one in found], self.box_nms_thresh)

    def _ask(self, points: NDArray[np.float64], crop: Crop, size: tuple[int, int]) -> list[Candidate]:
        """The good ones of three masks at each point [P, 2] of a crop, in one run of the decoder."""
        labels = np.ones((len(points), 1))
        encoded = prompts.encode(self.predictor.frame, point_coords=points[:, None], point_labels=labels)
        low_res, iou = (output[:, 1:] for output in self.predictor.decode(encoded))  # [P, 3, h, w], [P, 3]
        good = (iou > np.float32(self.pred_iou_thresh)) | (self.pred_iou_thresh <= 0)
        found = (
            self._judge(low_res[prompt, choice], iou[prompt, choice], points[prompt], crop, size)
            for prompt, choice in np.argwhere(good)
        )
        return [one for one in found if one is not None]

    def _judge(
        self,
        low_res: NDArray[np.float32],
        iou: np.float32,
        point: NDArray[np.float64],
        crop: Crop,
        size: tuple[int, int],
    ) -> Candidate | None:
        """A mask [h, w] in its place, unless it is unstable or cut off by its crop."""
        threshold, offset = self.predictor.model.mask_threshold, self.stability_score_offset
        frame, upscaling = self.predictor.frame, self.predictor.model.upscaling
        logits, top, left = masks.upscale_above(low_res, frame, threshold - offset, upscaling)
        stability = stability_score(logits, threshold, offset)
        if self.stability_score_thresh > 0 and stability < np.float32(self.stability_score_thresh):
            return None
        mask = Runs.of(logits > threshold).placed(top, left, (crop.height, crop.width))
        x0, y0, x1, y1 = mask.box()
        box = (x0 + crop.x0, y0 + crop.y0, x1 + crop.x0, y1 + crop.y0)
        if crop.cuts(box, size):
            return None
        place = (float(point[0]) + crop.x0, float(point[1]) + crop.y0)
        return Candidate(mask.placed(crop.y0, crop.x0, size), box, iou, stability, place, crop)

    def _tidied(self, found: list[Candidate]) -> list[Candidate]:
        """Without small holes and islands, and without those that are duplicates for lack of them."""
        untouched = []
        tidied = []
        for one in found:
            mask, changed = remove_small(one.mask, self.min_mask_region_area)
            untouched.append(not changed)
            tidied.append(replace(one, mask=mask, box=mask.box()) if changed else one)
        # Masks that were tidy from the start are preferred, whatever their quality.
        return _distinct(tidied, untouched, max(self.box_nms_thresh, self.crop_nms_thresh))

    def _record(self, one: Candidate) -> dict[str, Any]:
        return {
            "segmentation": self._segmentation(one.mask),
            "area": one.mask.area(),
            "bbox": _corner_and_sides(one.box),
            "predicted_iou": float(one.predicted_iou),
            "point_coords": [list(one.point)],
            "stability_score": float(one.stability_score),
            "crop_box": _corner_and_sides(one.crop.box),
        }

    def _segmentation(self, mask: Runs) -> NDArray[np.bool_] | dict[str, Any]:
        if self.output_mode == "binary_mask":
            return mask.decode()
        if self.output_mode == "uncompressed_rle":
            return mask.rle()
        from pycocotools.mask import frPyObjects

        counts: bytes = frPyObjects(mask.rle(), *mask.size)["counts"]
        return {"size": list(mask.size), "counts": counts.decode()}  # JSON takes no bytes


def stability_score(logits: NDArray[np.float32], threshold: float, offset: float) -> np.float32:
    """IoU of the masks above ``threshold + offset`` and above ``threshold - offset``: 0..1.

    The first lies within the second, so it is a ratio of two counts. 0 where both are empty.

    Args:
        logits: float32 [H, W]; more below ``threshold - offset`` around them change nothing.
        threshold: of a mask.
        offset: 0 or more.
    """
    inner, outer = (int(np.count_nonzero(logits > threshold + shift)) for shift in (offset, -offset))
    return np.float32(inner) / np.float32(max(outer, 1))


def _distinct(found: list[Candidate], scores: ArrayLike, threshold: float) -> list[Candidate]:
    """Without those whose box a better one has; best first."""
    return [found[index] for index in nms([one.box for one in found], scores, threshold)]


def _corner_and_sides(box: tuple[int, int, int, int]) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def check_side(points_per_side: object) -> None:
    """Refuse a grid that nobody has the memory or the time for.

    Raises:
        UserError: no whole number, or one that is not in SIDE.
    """
    _check_count("points_per_side", points_per_side, *SIDE)


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name} is {value!r}, expected a whole number, {least} or more")
    if value > most:
        raise UserError(f"{name} is larger than {most}, expected a whole number from {least} to {most}")
