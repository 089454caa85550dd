"""What the encoder made of a picture, to be kept in a file and decoded elsewhere."""

import zipfile
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import whole_file
from .image import Frame


@dataclass(frozen=True)
class Embedding:
    """A picture as the decoder sees it, and where the picture lies in the model's square.

    Any export of the same weights decodes it: at another rate, precision or engine.

    Attributes:
        features: float32 [1, C, h, w]; [1, 256, 64, 64] for SAM.
        frame: of the picture.
        weights: which weights made it, as the manifest names them.
    """

    features: NDArray[np.float32]
    frame: Frame
    weights: str

    def save(self, path: Path | str) -> None:
        """Write an .npz file, whole or not at all; 4 MB for SAM.

        Raises:
            UserError: it cannot be written there.
        """
        frame = np.array(astuple(self.frame))
        with whole_file(Path(path)) as part, part.open("wb") as file:
            np.savez(file, features=self.features, frame=frame, weights=np.array(self.weights))

    @classmethod
    def load(cls, path: Path | str) -> "Embedding":
        """Read what `save` wrote.

        Raises:
            UserError: no such file, or it is not an embedding.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no file {path}; expected an embedding that Embedding.save wrote")
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                features, frame, weights = (content[name] for name in ("features", "frame", "weights"))
                return cls(features, Frame(*(int(value) for value in frame)), str(weights))
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not an embedding that Embedding.save wrote: {error}") from error
