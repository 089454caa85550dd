"""What the encoder made of a picture, to be kept in a file and decoded elsewhere."""

import zipfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ..archives import read_array
from ..errors import UserError
from ..files import whole_file
from ..manifest import Fit
from ..pictures import MAX_PIXELS
from ..runners.base import Array
from .image import Frame

BYTES = 2**28
"""The largest part of a file that is read; SAM's features have 4 MB."""
WEIGHTS = 1000
"""Letters that the name of the weights may have."""


@dataclass(frozen=True)
class Embedding:
    """A picture as the decoder sees it, and where the picture lies in the model's square.

    Any export of the same weights decodes it: at another rate, precision or engine. It cannot be changed: the
    features are a read-only copy of what it is made with.

    Attributes:
        features: float32 [1, C, h, w]; [1, 256, 64, 64] for SAM.
        frame: of the picture.
        weights: which weights made it, as the manifest names them.

    Raises:
        UserError: the features have another type or number of axes, or hold NaN or infinity; or no picture
            has such a frame.
    """

    features: NDArray[np.float32]
    frame: Frame
    weights: str

    def __post_init__(self) -> None:
        features = np.array(self.features)
        if features.dtype != np.float32 or features.ndim != 4 or len(features) != 1:
            raise UserError(
                f"the embedding is {features.dtype} {list(features.shape)}, expected float32 [1, C, h, w]"
            )
        if not np.isfinite(features).all():
            raise UserError("the embedding holds NaN or infinity; encode the picture again")
        frame = self.frame
        if frame.image_size < 1 or not any(_fits(frame, fit) for fit in get_args(Fit)):
            raise UserError(
                f"no picture of {frame.width} x {frame.height} pixels becomes {frame.resized_width} x "
                f"{frame.resized_height} in a square of {frame.image_size}; encode it again"
            )
        features.flags.writeable = False
        object.__setattr__(self, "features", features)

    def save(self, path: Path | str) -> None:
        """Write an .npz file, whole or not at all; 4 MB for SAM.

        Raises:
            UserError: it cannot be written there.
        """
        frame = np.array(astuple(self.frame))
        with whole_file(Path(path)) as part, part.open("wb") as file:
            np.savez(file, features=self.features, frame=frame, weights=np.array(self.weights))

    @classmethod
    def load(cls, path: Path | str, max_pixels: int = MAX_PIXELS) -> "Embedding":
        """Read what `save` wrote.

        Args:
            path: of the .npz file.
            max_pixels: of the picture. A damaged frame would ask for masks that fill the memory.

        Raises:
            UserError: no such file, it is not an embedding, or of a larger picture.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no file {path}; expected an embedding that Embedding.save wrote")
        try:
            with zipfile.ZipFile(path) as archive:
                features, frame, weights = (
                    read_array(archive, part, BYTES) for part in ("features", "frame", "weights")
                )
            embedding = cls(features, _frame(frame), _weights(weights))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except Exception as error:  # a damaged archive fails in a dozen ways, from zlib's to the tokenizer's
            raise UserError(f"{path} is not an embedding that Embedding.save wrote: {error}") from error
        height, width = embedding.frame.height, embedding.frame.width
        if height * width > max_pixels:
            raise UserError(
                f"{path} is of a picture of {width} x {height} pixels, expected {max_pixels} pixels at most; "
                "raise max_pixels if it is"
            )
        return embedding


def _fits(frame: Frame, fit: Fit) -> bool:
    """Whether a picture of the frame's size has this frame; one that is too thin for a fit has none of it."""
    try:
        return frame == Frame.of(frame.height, frame.width, frame.image_size, fit)
    except UserError:
        return False


def _frame(values: Array) -> Frame:
    if values.shape != (5,) or values.dtype.kind != "i":
        raise ValueError(f"its frame is {values.dtype} {list(values.shape)}, expected five integers")
    return Frame(*(int(value) for value in values))


def _weights(value: Array) -> str:
    if value.shape != () or value.dtype.kind != "U":
        raise ValueError(f"its weights are {value.dtype} {list(value.shape)}, expected a text")
    if len(str(value)) > WEIGHTS:
        raise ValueError(f"the name of its weights has more than {WEIGHTS} letters")
    return str(value)
