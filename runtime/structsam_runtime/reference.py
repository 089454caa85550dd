"""What PyTorch answered when an export was made; it travels with the export as ``reference.npz``."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .archives import read_array
from .contract import IMAGE, PRIOR
from .errors import UserError
from .manifest import Manifest, Model
from .predict.image import Frame, placed
from .predict.prompts import ABSENT, BOTTOM_RIGHT, Encoded
from .runners.base import Array
from .thresholds import Thresholds

FILE = "reference.npz"
"""Its name in the folder of an export, and in the manifest."""
PICTURES = 3
"""The most pictures that a reference holds: some megabytes, and seconds on a CPU."""
BYTES = 2**28
"""The largest array that is read."""
FORMAT = 1
_MOST = np.iinfo(np.int16).max


@dataclass(frozen=True)
class Rounded:
    """An embedding in 16 bits a value, with a scale for each channel.

    At the same size float16 rounds up to 20 times as far, by as much as fp32 exports may differ: it spends
    its bits on small values, while what counts here is the absolute difference.

    Attributes:
        values: int16 [1, C, h, w].
        scale: float32 [C], above 0.
    """

    values: NDArray[np.int16]
    scale: NDArray[np.float32]

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> "Rounded":
        """An embedding [1, C, h, w] of finite values, rounded to the nearest."""
        largest = np.abs(features).max(axis=(0, 2, 3))
        scale = np.maximum(largest / _MOST, np.finfo(np.float32).tiny).astype(np.float32)
        values = np.rint(features / scale[:, None, None]).clip(-_MOST, _MOST).astype(np.int16)
        return cls(values, scale)

    @property
    def features(self) -> NDArray[np.float32]:
        """The embedding as it is kept, float32 [1, C, h, w]."""
        features: NDArray[np.float32] = self.values * self.scale[:, None, None]
        return features

    @property
    def rounding(self) -> NDArray[np.float32]:
        """How far each channel's values are from what they were at most, float32 [C]."""
        return self.scale * np.float32(0.5)


@dataclass(frozen=True)
class Answer:
    """A picture, P prompts, and what PyTorch made of them.

    Attributes:
        name: of the picture.
        frame: where it lies in the model's square.
        pixels: uint8 RGB [h, w, 3], as it was resized for the model.
        prior: second input of a prompt-aware encoder, float32 [1, H, W]; None for other encoders.
        prompts: in the model's frame.
        embedding: of the picture.
        masks: bool [P, 4, y, x]: logits above 0, without the padding; see `within`.
        iou: predicted IoU, float32 [P, 4].
    """

    name: str
    frame: Frame
    pixels: NDArray[np.uint8]
    prior: NDArray[np.float32] | None
    prompts: Encoded
    embedding: Rounded
    masks: NDArray[np.bool_]
    iou: NDArray[np.float32]

    def feed(self, model: Model) -> dict[str, Array]:
        """The encoder's inputs by name, as PyTorch had them to the bit."""
        image: dict[str, Array] = {IMAGE: placed(self.pixels, model)}
        return image if self.prior is None else image | {PRIOR: self.prior}


@dataclass(frozen=True)
class Reference:
    """The answers of PyTorch that an export is checked against.

    Attributes:
        export: id of the export.
        limits: what is held; see `Thresholds`.
        made_by: what answered, such as PyTorch 2.9.0 on x86_64.
        answers: one for each picture.
    """

    export: str
    limits: Thresholds
    made_by: str
    answers: Sequence[Answer]

    def save(self, path: Path) -> None:
        """Write an .npz file. Pictures are PNG, masks are packed bits.

        Raises:
            OSError: it cannot be written.
        """
        told = [{"name": one.name, "frame": astuple(one.frame)} for one in self.answers]
        about = {
            "format": FORMAT,
            "export": self.export,
            "limits": asdict(self.limits),
            "made_by": self.made_by,
            "pictures": told,
        }
        arrays = [_arrays(f"{number}.", one) for number, one in enumerate(self.answers)]
        everything = {name: array for made in arrays for name, array in made.items()}
        with path.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **everything)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> "Reference":
        """The reference of an export, after checking it against the manifest.

        Raises:
            UserError: the export has none, or the file is not the one that was written, is damaged, or of
                another export.
        """
        path, remedy = folder / FILE, manifest.remedy(folder)
        if FILE not in manifest.files:
            raise UserError(
                f"{folder} has no {FILE}: an older version made it; compare it with PyTorch, by "
                f"--against pytorch, or {remedy}"
            )
        manifest.check_files(folder, [FILE])
        try:
            reference = _read(path, manifest.model)
        except Exception as error:  # a damaged archive fails in a dozen ways, from zlib's to the tokenizer's
            raise UserError(
                f"{path} is not a reference that this version reads: {error}; {remedy}"
            ) from error
        if reference.export != manifest.id:
            raise UserError(f"{path} is of another export than its manifest; copy them again together")
        return reference


def within(logits: NDArray[Any], frame: Frame) -> NDArray[np.bool_]:
    """The masks of logits [..., s, s], inside the picture alone: bool [..., y, x]."""
    height, width = _extent(frame, logits.shape[-1])
    masks: NDArray[np.bool_] = logits[..., :height, :width] > 0
    return masks


def _extent(frame: Frame, side: int) -> tuple[int, int]:
    """Rows and columns of a mask [side, side] that see the picture."""
    height, width = (
        -(-length * side // frame.image_size) for length in (frame.resized_height, frame.resized_width)
    )
    return height, width


def _arrays(prefix: str, answer: Answer) -> dict[str, Array]:
    """What is stored of an answer."""
    png = io.BytesIO()
    Image.fromarray(answer.pixels).save(png, "PNG")
    arrays: dict[str, Array] = {
        "png": np.frombuffer(png.getvalue(), np.uint8),
        "point_coords": answer.prompts.point_coords,
        "point_labels": answer.prompts.point_labels,
        "embedding": answer.embedding.values,
        "scale": answer.embedding.scale,
        "masks": np.packbits(answer.masks),
        "iou": answer.iou,
    }
    if answer.prior is not None:
        arrays["prior"] = answer.prior
    return {prefix + name: array for name, array in arrays.items()}


def _read(path: Path, model: Model) -> Reference:
    """The content of a file, if it is one for the model; raises whatever is wrong with it."""
    with zipfile.ZipFile(path) as archive:
        about = json.loads(str(read_array(archive, "about", BYTES)))
        if about["format"] != FORMAT:
            raise ValueError(f"it has format {about['format']}, expected {FORMAT}")
        if not 1 <= len(about["pictures"]) <= PICTURES:
            raise ValueError(f"it has {len(about['pictures'])} pictures, expected 1 to {PICTURES}")
        answers = [
            _answer(archive, f"{number}.", told, model) for number, told in enumerate(about["pictures"])
        ]
    return Reference(str(about["export"]), _limits(about["limits"]), str(about["made_by"]), answers)


def _limits(told: Mapping[str, Any]) -> Thresholds:
    for name, value in told.items():
        if not (value is None or (isinstance(value, int | float) and np.isfinite(value))):
            raise ValueError(f"its limit '{name}' is {value!r:.60}, expected a number")
    return Thresholds(**told)


def _answer(archive: zipfile.ZipFile, prefix: str, told: Mapping[str, Any], model: Model) -> Answer:
    """One answer, every array of which has the type and shape that the model gives it."""

    def array(name: str, kind: type[np.generic], *shape: int | None) -> Array:
        values = read_array(archive, prefix + name, BYTES)
        fits = len(values.shape) == len(shape) and all(
            expected in (None, length) for length, expected in zip(values.shape, shape, strict=True)
        )
        if values.dtype != kind or not fits:
            came, expected = list(values.shape), ["any" if length is None else length for length in shape]
            raise ValueError(
                f"its {prefix}{name} is {values.dtype} {came}, expected {kind.__name__} {expected}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"its {prefix}{name} holds NaN or infinity")
        return values

    frame = Frame(*(int(length) for length in told["frame"]))
    if frame != Frame.of(frame.height, frame.width, model.image_size, model.fit):
        raise ValueError(f"its {prefix}frame {list(astuple(frame))} is of no picture")
    labels = array("point_labels", np.int32, None, None)
    if not len(labels) or not np.isin(labels, range(ABSENT, BOTTOM_RIGHT + 1)).all():
        raise ValueError(f"its {prefix}point_labels are none of prompts")
    scale = array("scale", np.float32, model.embedding[0])
    if not (scale > 0).all():
        raise ValueError(f"its {prefix}scale is not above 0")
    shape = (len(labels), 4, *_extent(frame, model.low_res))
    count = int(np.prod(shape))
    bits = np.unpackbits(array("masks", np.uint8, -(-count // 8)), count=count)
    return Answer(
        name=str(told["name"]),
        frame=frame,
        pixels=_pixels(array("png", np.uint8, None), frame),
        prior=array("prior", np.float32, 1, *model.embedding[1:]) if model.prior else None,
        prompts=Encoded(array("point_coords", np.float32, *labels.shape, 2), labels, batched=True),
        embedding=Rounded(array("embedding", np.int16, 1, *model.embedding), scale),
        masks=bits.reshape(shape).astype(np.bool_),
        iou=array("iou", np.float32, len(labels), 4),
    )


def _pixels(png: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """The picture of a PNG, whose size is checked before it is decoded."""
    expected = (frame.resized_width, frame.resized_height)
    with Image.open(io.BytesIO(png.tobytes()), formats=["PNG"]) as picture:
        if picture.size != expected or picture.mode != "RGB":
            raise ValueError(f"its picture is {picture.mode} {picture.size}, expected RGB {expected}")
        return np.asarray(picture)
