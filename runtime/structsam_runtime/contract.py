"""What the two graphs of an export take and give: names, types and shapes.

The only file that spells these names; every other one takes them from here.
"""

import numpy as np

from .manifest import Model
from .runners.base import TensorSpec

IMAGE, PRIOR, EMBEDDING = "image", "prior", "image_embedding"
POINT_COORDS, POINT_LABELS = "point_coords", "point_labels"
MASK_INPUT, HAS_MASK_INPUT = "mask_input", "has_mask_input"
MASKS, IOU = "masks", "iou_predictions"

ENCODER_INPUTS = (IMAGE, PRIOR)
"""Only a prompt-aware encoder takes a prior."""
ENCODER_OUTPUTS = (EMBEDDING,)
DECODER_INPUTS = (EMBEDDING, POINT_COORDS, POINT_LABELS, MASK_INPUT, HAS_MASK_INPUT)
DECODER_OUTPUTS = (MASKS, IOU)

Specs = dict[str, TensorSpec]


def encoder_specs(model: Model) -> tuple[Specs, Specs]:
    """Inputs and outputs of the encoder, for one picture."""
    side, single = model.image_size, np.dtype(np.float32)
    inputs = {IMAGE: TensorSpec(single, (1, 3, side, side))}
    if model.prior:
        inputs[PRIOR] = TensorSpec(single, (1, *model.embedding[1:]))
    return inputs, {EMBEDDING: TensorSpec(single, (1, *model.embedding))}


def decoder_specs(model: Model) -> tuple[Specs, Specs]:
    """Inputs and outputs of the decoder, for any number of prompts of one picture."""
    side, single = model.low_res, np.dtype(np.float32)
    inputs = {
        EMBEDDING: TensorSpec(single, (1, *model.embedding)),
        POINT_COORDS: TensorSpec(single, ("prompts", "points", 2)),
        POINT_LABELS: TensorSpec(np.dtype(np.int32), ("prompts", "points")),
        MASK_INPUT: TensorSpec(single, ("prompts", 1, side, side)),
        HAS_MASK_INPUT: TensorSpec(single, ("prompts",)),
    }
    outputs = {
        MASKS: TensorSpec(single, ("prompts", 4, side, side)),
        IOU: TensorSpec(single, ("prompts", 4)),
    }
    return inputs, outputs
