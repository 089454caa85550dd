"""Photographs in, encoder input out."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from ..manifest import Fit, Model, Resampling
from . import spline

PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Suffixes of files that are taken for pictures where a folder is named."""


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Read a picture as it is meant to be looked at.

    The EXIF orientation is applied; of an animation the first picture is taken. Grey, palette and CMYK become
    RGB; alpha is dropped, leaving the colours that were stored under it. 16-bit grey is scaled by 1/257, so
    that 0xffff is 255 (Pillow itself reduces 16-bit RGB, by dropping the low byte).

    Returns:
        uint8 RGB [H, W, 3], range 0..255.

    Raises:
        UserError: the file is missing, is not a picture, is cut short, or has pixels without a defined range
            (32-bit integers beyond 65535, floating point).
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            return _rgb(ImageOps.exif_transpose(image), path)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}; expected a picture") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not a picture that Pillow can read; expected PNG, JPEG, TIFF ..."
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large: {error}") from error
    # Pillow's decoders report damage in all of these ways.
    except (OSError, EOFError, SyntaxError, ValueError, struct.error) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error


def _rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey16(image, path)
    if image.mode in (
        "P",
        "PA",
        "RGBa",
    ):  # straight to RGB, a transparent palette or premultiplied alpha would blend
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"), dtype=np.uint8)  # [H, W, 3]


def _grey16(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Wide grey values; some versions of Pillow open 16-bit files with 32-bit pixels."""
    grey = np.asarray(image)  # [H, W]
    if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 0xFFFF:
        raise UserError(
            f"{path} has {grey.dtype} pixels beyond 16 bits, whose range is not defined; convert it to 8 bits"
        )
    rounded = (grey.astype(np.uint32) + 128) // 257
    return np.repeat(rounded.astype(np.uint8)[:, :, None], 3, axis=2)


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
    pixels = resized(image, frame, model.resampling)
    normal = _scaled(pixels.astype(np.float32), model)
    tensor = np.zeros((1, 3, model.image_size, model.image_size), np.float32)
    tensor[0, :, : frame.resized_height, : frame.resized_width] = normal.transpose(2, 0, 1)
    return tensor, frame


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
