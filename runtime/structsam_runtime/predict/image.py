"""Photographs in, encoder input out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..manifest import Fit, Model, Resampling
from ..pictures import read_image
from . import spline

__all__ = ["Frame", "picture_size", "prepare", "read_image"]


@dataclass(frozen=True)
class Frame:
    """Where a picture lies in the model's square input: it begins at the top left, and its longest side, or
    both sides where it is stretched, fill the square.

    All sizes in pixels.
    """

    height: int
    width: int
    resized_height: int
    resized_width: int
    image_size: int

    @classmethod
    def of(cls, height: int, width: int, image_size: int, fit: Fit = "pad") -> "Frame":
        """The frame of a picture of ``height`` x ``width`` in a model of side ``image_size``.

        Args:
            height, width: of the picture.
            image_size: side of the square.
            fit: ``pad`` keeps the proportions, SAM's rule; ``stretch`` scales each axis to the whole side.

        Raises:
            UserError: the picture is empty, or so thin that its short side would vanish.
        """
        if height < 1 or width < 1:
            raise UserError(f"a picture of {width} x {height} pixels is empty")
        if fit == "stretch":
            return cls(height, width, image_size, image_size, image_size)
        # One factor and then rounding, in this order: another order differs by a pixel for some sizes.
        scale = image_size / max(height, width)
        resized_height, resized_width = int(height * scale + 0.5), int(width * scale + 0.5)
        if resized_height < 1 or resized_width < 1:
            raise UserError(
                f"a picture of {width} x {height} pixels is too thin to be scaled to {image_size}; crop it"
            )
        return cls(height, width, resized_height, resized_width, image_size)

    def to_model(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """[..., 2] (x, y) in pixels of the picture -> the same places in pixels of the model's input."""
        return points * self._scale

    def to_image(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """[..., 2] (x, y) in pixels of the model's input -> the same places in pixels of the picture."""
        return points / self._scale

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.resized_width / self.width, self.resized_height / self.height])


def prepare(image: NDArray[np.uint8], model: Model) -> tuple[NDArray[np.float32], Frame]:
    """The encoder's input: resize as the model fits pictures, scale, pad with zeros to the right and below.

    The resize gives bytes, and what follows is float32 arithmetic: for SAM the same numbers, bit for bit, as
    the preprocessing that its checkpoints were trained with.

    Args:
        image: uint8 RGB [H, W, 3], range 0..255.
        model: gives the side S, how pictures are fitted and resized, and how their pixels are scaled.

    Returns:
        float32 [1, 3, S, S], and the frame that maps places between picture and input.

    Raises:
        UserError: the picture has another dtype or shape, or cannot be scaled.
    """
    frame = Frame.of(*picture_size(image), model.image_size, model.fit)
    return placed(resized(image, frame, model.resampling), model), frame


def placed(pixels: NDArray[np.uint8], model: Model) -> NDArray[np.float32]:
    """What `prepare` makes of a picture that is resized already, uint8 [h, w, 3]: float32 [1, 3, S, S].

    Only float32 arithmetic on single pixels, so that every machine gives the same numbers.
    """
    height, width, _ = pixels.shape
    tensor = np.zeros((1, 3, model.image_size, model.image_size), np.float32)
    tensor[0, :, :height, :width] = _scaled(pixels.astype(np.float32), model).transpose(2, 0, 1)
    return tensor


def resized(image: NDArray[np.uint8], frame: Frame, resampling: Resampling) -> NDArray[np.uint8]:
    """A picture [H, W, 3] as large as it is in the model's square: uint8 [h, w, 3]."""
    size = (frame.resized_height, frame.resized_width)
    if resampling == "spline":
        return spline.resize(image, size)
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def _scaled(pixels: NDArray[np.float32], model: Model) -> NDArray[np.float32]:
    """[h, w, 3] from 0..255 to what the encoder was trained on."""
    if model.scaling == "min-max":
        low, high = pixels.min(), pixels.max()  # over all channels, as in MedSAM
        scaled: NDArray[np.float32] = (pixels - low) / max(high - low, np.float32(1e-8))
        return scaled
    return (pixels - _row(model.pixel_mean)) / _row(model.pixel_std)


def picture_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """H and W of a picture, uint8 RGB [H, W, 3].

    Raises:
        UserError: another dtype or shape.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"the picture is {_describe(image)}, expected uint8 RGB [H, W, 3]")
    return image.shape[0], image.shape[1]


def _row(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
