"""The decoder's runs: many prompts in parts that fit a stated memory, and answers that are numbers."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..contract import EMBEDDING, HAS_MASK_INPUT, IOU, MASK_INPUT, MASKS, POINT_COORDS, POINT_LABELS
from ..errors import NotFiniteError, UserError
from ..manifest import Model
from ..runners.base import Array, DeviceArray, Runner
from .prompts import Encoded

PROMPTS = 64
"""Prompts of one run; engines are built for as many unless `structsam build` is told another number."""
MEMORY = 2**31
"""Bytes that one run of the decoder takes at most on the CPU: for SAM, those of 64 boxes."""
PIXEL_BYTES, PLACE_BYTES = 450, 110
"""Bytes of a run for each pixel of a prompt's small mask, and for each pair of a place and an image token.
Measured: 28 MB for a box and 0.43 MB for each further point, with SAM's 256 x 256 pixels and 4096 tokens."""

Previous = Sequence[NDArray[np.float32] | None]


def run_bytes(model: Model, places: int) -> int:
    """What one prompt takes in a run of the decoder.

    Args:
        model: gives the sizes.
        places: of the prompt, corners and padding among them.
    """
    _, height, width = model.embedding
    return PIXEL_BYTES * model.low_res**2 + PLACE_BYTES * places * height * width


def runs(
    decoder: Runner,
    model: Model,
    features: Array | DeviceArray,
    encoded: Encoded,
    previous: Previous | None = None,
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float32]]]:
    """Run the decoder on PROMPTS prompts at a time, or fewer: no more than MEMORY and its engine take.

    Args:
        decoder: open.
        model: gives the sizes.
        features: the picture's embedding, float32 [1, C, h, w].
        encoded: P prompts, of which there may be none.
        previous: of each prompt, logits [1, 4h, 4w] or None.

    Yields:
        Which prompts; of these all four masks, logits float32 [p, 4, 4h, 4w], and their predicted IoU float32
        [p, 4].

    Raises:
        NotFiniteError: the decoder gives NaN or infinity.
        UserError: one prompt alone takes more than MEMORY; also more points than an engine was built for.
    """
    places = encoded.point_labels.shape[1]
    each = run_bytes(model, places)
    if each > MEMORY:
        raise UserError(
            f"a prompt of {places} points takes {each / 2**30:.0f} GiB in the decoder, expected "
            f"{MEMORY / 2**30:.0f} GiB at most; give fewer points"
        )
    step = min(PROMPTS, MEMORY // each, decoder.longest(POINT_COORDS) or PROMPTS)
    for start in range(0, len(encoded), step):
        part = slice(start, min(start + step, len(encoded)))
        low_res, iou = _run(decoder, model, features, encoded, previous, part)
        if not (_finite(low_res) and _finite(iou)):
            raise NotFiniteError(
                f"{decoder.name} gives NaN or infinity; run `structsam check`, or export again"
            )
        yield part, low_res, iou


def _run(
    decoder: Runner,
    model: Model,
    features: Array | DeviceArray,
    encoded: Encoded,
    previous: Previous | None,
    part: slice,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    given: Previous = [None] * (part.stop - part.start) if previous is None else previous[part]
    earlier = np.zeros((len(given), 1, model.low_res, model.low_res), np.float32)
    for index, mask in enumerate(given):
        if mask is not None:
            earlier[index] = mask
    outputs = decoder.infer(
        {
            EMBEDDING: features,
            POINT_COORDS: encoded.point_coords[part],
            POINT_LABELS: encoded.point_labels[part],
            MASK_INPUT: earlier,
            HAS_MASK_INPUT: np.array([mask is not None for mask in given], np.float32),
        }
    )
    return outputs[MASKS], outputs[IOU]


def _finite(values: NDArray[np.float32]) -> bool:
    """Whether all are finite. NaN and infinity outlast a sum, which takes a tenth of the time of a mask."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())
