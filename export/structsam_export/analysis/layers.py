"""Input features of a layer, to measure one layer by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import prepare

from ..encoder.attention import layer_norm
from ..encoder.walk import enter


@torch.no_grad()
def entering(encoder: Any, model: Model, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """The input of the first block's attention, computed from photographs; works with random weights too.

    Args:
        encoder: SAM's ImageEncoderViT, patched or not.
        model: sizes and normalisation of the model.
        pictures: uint8 RGB [h, w, 3] each.

    Returns:
        [B, H, W, C] fp32, the output of the first norm1.
    """
    images = np.concatenate([prepare(picture, model)[0] for picture in pictures])
    return layer_norm(encoder.blocks[0].norm1, enter(encoder, torch.from_numpy(images)).x)
