"""What a family of models is: all that its members share, whatever their size.

Patch size and window belong to an architecture, whose `family` is a name in FAMILIES. The weights of a
fine-tune do not tell its family: MedSAM's have SAM's names and shapes, and other pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from structsam_runtime.contract import DECODER_INPUTS, DECODER_OUTPUTS, ENCODER_INPUTS, ENCODER_OUTPUTS
from structsam_runtime.manifest import Fit, Resampling, Scaling, Upscaling


@dataclass(frozen=True)
class Pixels:
    """What pictures a model was trained on; the manifest tells the runtime.

    Attributes:
        scaling: by mean and standard deviation, or min-max, which ignores both.
        fit: how a picture is fitted into the square input.
        resampling: how it is resized.
        mean, std: RGB, on the 0..255 scale.
    """

    scaling: Scaling = "deviation"
    fit: Fit = "pad"
    resampling: Resampling = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Family:
    """Models that differ in nothing but their size and weights.

    Attributes:
        name: of it.
        pixels: see Pixels.
        upscaling: what of a mask is interpolated to the picture's size.
        boxes_only: whether it learned one mask for a box and nothing else.
        encoder_inputs, encoder_outputs: what the encoder takes and gives.
        decoder_inputs, decoder_outputs: the same for the decoder, in the order of its arguments.
    """

    name: str
    pixels: Pixels
    upscaling: Upscaling = "logits"
    boxes_only: bool = False
    encoder_inputs: tuple[str, ...] = ENCODER_INPUTS
    encoder_outputs: tuple[str, ...] = ENCODER_OUTPUTS
    decoder_inputs: tuple[str, ...] = DECODER_INPUTS
    decoder_outputs: tuple[str, ...] = DECODER_OUTPUTS


FAMILIES = {
    family.name: family
    for family in (
        Family("sam", Pixels(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))),
        Family(
            "medsam",
            Pixels(scaling="min-max", fit="stretch", resampling="spline"),
            upscaling="probabilities",
            boxes_only=True,
        ),
    )
}
"""What `--family` takes."""
