"""An export that is open, and what it says of a picture: masks for a prompt, all masks, plans of blocks."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import manifest
from ..contract import EMBEDDING, IMAGE, PRIOR
from ..errors import UserError, printable
from ..predict import masks
from ..predict.automatic.generator import AutomaticMaskGenerator
from ..predict.embedding import Embedding
from ..predict.image import Frame, picture_size, placed, resized
from ..predict.predictor import Predictor
from ..predict.prior import prior_of
from ..predict.prompts import Encoded, Prompt, encode
from ..runners.onnxruntime import OnnxRuntimeRunner
from ..runners.tapped import TappedRunner
from .taps import Plan, Tap, plan_of, taps


class _Smaller(Embedding):
    """An embedding that is asked for masks smaller than its picture, where it lies in the model's square.

    Its frame is not checked: scaled by itself, a picture of the smaller size becomes a few pixels higher or
    wider than the one that was encoded, and a thin one twice as high.
    """

    def __post_init__(self) -> None:
        """The embedding that it is made from was checked."""


@dataclass
class Look:
    """What an export keeps of a picture.

    Attributes:
        pixels: uint8 RGB [h, w, 3], resized for the model.
        embedding: of the picture; of a prompt-aware encoder the one without prompts.
        ms: what encoding took, from the picture's pixels on.
        plans: by block; empty until they are asked for.
    """

    pixels: NDArray[np.uint8]
    embedding: Embedding
    ms: float
    plans: dict[int, Plan] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """Masks for one prompt.

    Attributes:
        masks: bool [K, H, W].
        iou: predicted, float32 [K].
        ms: what they took.
    """

    masks: NDArray[np.bool_]
    iou: NDArray[np.float32]
    ms: float


class Export:
    """An export that is open while :func:`opened` is.

    `look`, `plan` and `everything` take seconds; those who share an export call them one after another.
    `answer` may run beside them.

    Args:
        name: what it is called.
        folder: where it is, as the person gave it.
        predictor: open.
        said: all of its manifest.
        stack: closes what is opened later.
    """

    def __init__(
        self, name: str, folder: Path, predictor: Predictor, said: Mapping[str, Any], stack: ExitStack
    ) -> None:
        self.name, self.folder, self.predictor, self.model = name, folder, predictor, predictor.model
        self._said, self._stack = said, stack
        encoder = predictor.encoder
        self._in_onnx = isinstance(encoder, OnnxRuntimeRunner)
        self.taps: list[Tap] = []
        if isinstance(encoder, OnnxRuntimeRunner) and not self.model.prior:
            self.taps = taps(encoder.path, said)
            inner = [name for tap in self.taps for name in tap.names]
            self._tapped = TappedRunner(encoder.path, encoder.provider, encoder.threads, inner)
        self._tapped_is_open = False
        blank = np.zeros((self.model.image_size, self.model.image_size, 3), np.uint8)
        self.look(blank)  # the first run of a session takes longer than those after it
        self.encoder_ms = self.look(blank).ms

    def about(self) -> dict[str, Any]:
        """What the page says of the export."""
        return {
            "name": self.name,
            "folder": printable(str(self.folder)),
            "encoder_ms": round(self.encoder_ms, 1),
            "gmac": round(manifest.gmac(self._said), 2) if "macs" in self._said else None,
            "boxes_only": self.model.boxes_only,
            "blocks": [{"block": tap.block, "windows": tap.windows} for tap in self.taps],
            "no_blocks": None if self.taps else self._no_blocks(),
        }

    def look(self, rgb: NDArray[np.uint8]) -> Look:
        """Encode a picture, uint8 [H, W, 3].

        Raises:
            UserError: it is too thin to be scaled, or the encoder gives NaN or infinity.
        """
        start = time.perf_counter()
        frame = Frame.of(*picture_size(rgb), self.model.image_size, self.model.fit)
        pixels = resized(rgb, frame, self.model.resampling)
        embedding = Embedding(self._features(pixels, None), frame, self.predictor.weights)
        return Look(pixels, embedding, 1e3 * (time.perf_counter() - start))

    def answer(
        self, look: Look, prompt: Prompt, candidates: Sequence[int], height: int, width: int
    ) -> Answer:
        """Masks for a prompt.

        Args:
            look: at the picture.
            prompt: in pixels of the picture.
            candidates: which of the decoder's masks: 0 is the one for a clear prompt, 1 to 3 are those for an
                ambiguous one.
            height, width: of the masks; the picture's, or less in the same proportions.

        Raises:
            UserError: the prompt is wrong, or the decoder gives NaN or infinity.
        """
        start = time.perf_counter()
        frame = look.embedding.frame
        encoded = encode(frame, prompt.point_coords, prompt.point_labels, prompt.box)
        with self.predictor.session() as own:
            own.set_embedding(self._embedding(look, encoded))
            low_res, iou = own.decode(encoded)
        chosen = list(candidates)
        at = replace(frame, height=height, width=width)
        made = masks.binary(low_res[0, chosen], at, self.model.mask_threshold, self.model.upscaling)
        return Answer(made, iou[0, chosen], 1e3 * (time.perf_counter() - start))

    def everything(
        self, look: Look, settings: Mapping[str, Any], height: int, width: int
    ) -> tuple[list[dict[str, Any]], float]:
        """All masks of a picture, as `AutomaticMaskGenerator.generate` gives them, and the milliseconds they
        took.

        Args:
            look: at the picture.
            settings: of the generator.
            height, width: of the masks; the picture's, or less in the same proportions.

        Raises:
            UserError: a setting is out of its range, or the decoder gives NaN or infinity.
        """
        start = time.perf_counter()
        generator = AutomaticMaskGenerator(self.predictor, output_mode="coco_rle", **settings)
        frame = replace(look.embedding.frame, height=height, width=width)
        embedding = _Smaller(look.embedding.features, frame, look.embedding.weights)
        # The generator takes only the size from a picture whose embedding it has: one pixel serves for all.
        found = generator.generate(np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3)), embedding)
        return found, 1e3 * (time.perf_counter() - start)

    def plan(self, look: Look, block: int) -> Plan:
        """What a block merges in a picture. The first call runs the encoder again, with its plans as outputs.

        Raises:
            UserError: the block is none of `taps`.
        """
        if block not in [tap.block for tap in self.taps]:
            told = self._no_blocks() or f"expected one of {', '.join(str(tap.block) for tap in self.taps)}"
            raise UserError(f"block {block} of {self.name} tells no plan; {told}")
        if not self._tapped_is_open:
            self._stack.enter_context(self._tapped)
            self._tapped_is_open = True
        if not look.plans:
            made = self._tapped.infer({IMAGE: placed(look.pixels, self.model)})
            _, height, width = self.model.embedding
            look.plans = {tap.block: plan_of(tap, made, height, width) for tap in self.taps}
        return look.plans[block]

    def _no_blocks(self) -> str | None:
        """Why there are no taps."""
        if self.taps:
            return None
        if self.model.prior:
            return "a prompt-aware encoder plans anew for every prompt"
        if not self._in_onnx:
            return "only ONNX Runtime shows plans: --runner cpu or cuda"
        return "no block merges" if "plans" in self._said else "it is older than plans in manifests"

    def _features(self, pixels: NDArray[np.uint8], encoded: Encoded | None) -> NDArray[np.float32]:
        feeds = {IMAGE: placed(pixels, self.model)}
        if self.model.prior:
            feeds[PRIOR] = prior_of(self.model, encoded)
        features: NDArray[np.float32] = self.predictor.encoder.infer(feeds)[EMBEDDING]
        return features

    def _embedding(self, look: Look, encoded: Encoded) -> Embedding:
        """The embedding for a prompt; a prompt-aware encoder makes it anew."""
        if not self.model.prior:
            return look.embedding
        return replace(look.embedding, features=self._features(look.pixels, encoded))


@contextmanager
def opened(folders: Sequence[Path], runner: str) -> Iterator[list[Export]]:
    """Exports, ready for pictures.

    Args:
        folders: at least one; of equal names the later ones get a number.
        runner: one of RUNNERS.

    Raises:
        UserError: as `Predictor.load`.
    """
    with ExitStack() as stack:
        exports: list[Export] = []
        for folder in folders:
            predictor = stack.enter_context(Predictor.load(folder, runner))
            said = manifest.content(folder)
            name = printable(manifest.Manifest.read(folder).name)
            same = sum(other.name == name or other.name.startswith(f"{name} (") for other in exports)
            exports.append(Export(f"{name} ({same + 1})" if same else name, folder, predictor, said, stack))
        yield exports
