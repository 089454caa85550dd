"""SAM's predictor, on two engines."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import masks, prompts
from .errors import UserError
from .image import Frame, prepare
from .manifest import Manifest, Model
from .runners.base import Runner
from .runners.onnxruntime import OnnxRuntimeRunner

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


class Predictor:
    """Look at a picture once, then ask for masks as often as wanted.

        with Predictor.load(folder) as predictor:
            predictor.set_image(rgb)
            masks, iou, low_res = predictor.predict(box=[100, 80, 400, 360])

    Args:
        encoder: input ``image`` float32 [1, 3, S, S], output ``image_embedding`` float32 [1, C, h, w].
        decoder: inputs ``image_embedding``, ``point_coords`` float32 [P, N, 2], ``point_labels`` int32
            [P, N], ``mask_input`` float32 [P, 1, 4h, 4w] and ``has_mask_input`` float32 [P]; outputs
            ``masks`` float32 [P, 4, 4h, 4w] logits and ``iou_predictions`` float32 [P, 4].
        model: sizes and constants from the manifest.
    """

    def __init__(self, encoder: Runner, decoder: Runner, model: Model) -> None:
        self.encoder, self.decoder, self.model = encoder, decoder, model
        self._stack = ExitStack()
        self.reset_image()

    @classmethod
    def load(
        cls, folder: Path | str, provider: str = "cpu", threads: int | None = None, check_hashes: bool = False
    ) -> "Predictor":
        """A predictor of an export folder, run by ONNX Runtime.

        Args:
            folder: holds ``encoder.onnx``, ``decoder.onnx`` and ``manifest.json``.
            provider: ``cpu``, ``cuda`` or ``tensorrt``.
            threads: of the CPU; default as many as there are cores.
            check_hashes: compare the sha256 of both files with the manifest. Their sizes are always compared;
                hashing several hundred megabytes is left to those who ask.

        Raises:
            UserError: the folder is not an export, or its files are not the ones that were exported.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)
        manifest.check_files(folder, (ENCODER, DECODER), hashes=check_hashes)
        encoder, decoder = (
            OnnxRuntimeRunner(folder / name, provider, threads) for name in (ENCODER, DECODER)
        )
        return cls(encoder, decoder, manifest.model)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for runner in (self.encoder, self.decoder):
                stack.enter_context(runner)
            _require(self.encoder, self.encoder.outputs, ("image_embedding",))
            _require(self.decoder, self.decoder.outputs, ("masks", "iou_predictions"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reset_image()
        self._stack.close()

    def reset_image(self) -> None:
        """Forget the picture."""
        self._frame: Frame | None = None
        self._embedding: NDArray[np.float32] | None = None

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Run the encoder.

        Args:
            image: uint8 RGB [H, W, 3], range 0..255.

        Raises:
            UserError: another dtype or shape; no picture is set afterwards.
        """
        self.reset_image()
        tensor, frame = prepare(image, self.model)
        self._embedding = self.encoder.infer({"image": tensor})["image_embedding"]
        self._frame = frame

    def get_image_embedding(self) -> NDArray[np.float32]:
        """The picture's embedding, float32 [1, C, h, w]; [1, 256, 64, 64] for SAM.

        Raises:
            UserError: no picture is set.
        """
        return self._current()[0]

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Masks for one prompt, or for a batch of P prompts in one run of the decoder.

        A prompt is any number of points, a box, or both. ``mask_input`` refines such a prompt; unlike in
        Meta's predictor it is not a prompt of its own.

        Args:
            point_coords: [N, 2], or [P, N, 2] for a batch: (x, y) in pixels of the picture.
            point_labels: [N] or [P, N]: 1 for foreground, 0 for background.
            box: [4] or [P, 4]: x0, y0, x1, y1 in pixels of the picture.
            mask_input: [1, 256, 256] or [P, 1, 256, 256] logits, as an earlier call returned them.
            multimask_output: three masks for an ambiguous prompt (part, object, whole) instead of one.
            return_logits: masks as float32 logits instead of bool.

        Returns:
            Masks bool or float32 [M, H, W] in the picture's size, M = 3 or 1; predicted IoU float32 [M],
            about 0..1; logits float32 [M, 256, 256]. A batch has a leading axis P in all three.

        Raises:
            UserError: no picture is set, or the prompts are wrong (:func:`structsam_runtime.prompts.encode`).
        """
        embedding, frame = self._current()
        encoded = prompts.encode(frame, point_coords, point_labels, box)
        outputs = self.decoder.infer(self._feeds(embedding, encoded, mask_input))
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        low_res, iou = (
            outputs["masks"][:, chosen],
            outputs["iou_predictions"][:, chosen],
        )  # [P, M, 256, 256], [P, M]
        if not encoded.batched:
            low_res, iou = low_res[0], iou[0]
        if return_logits:
            return masks.upscale(low_res, frame), iou, low_res
        return masks.binary(low_res, frame, self.model.mask_threshold), iou, low_res

    def _current(self) -> tuple[NDArray[np.float32], Frame]:
        if self._embedding is None or self._frame is None:
            raise UserError("no picture is set; call set_image first")
        return self._embedding, self._frame

    def _feeds(
        self, embedding: NDArray[np.float32], encoded: prompts.Prompts, mask_input: ArrayLike | None
    ) -> dict[str, NDArray[Any]]:
        count, side = len(encoded.point_coords), self.model.low_res
        previous = np.zeros((count, 1, side, side), np.float32)
        if mask_input is not None:
            previous[:] = self._previous(mask_input, (count, 1, side, side), encoded.batched)
        return {
            "image_embedding": embedding,
            "point_coords": encoded.point_coords,
            "point_labels": encoded.point_labels,
            "mask_input": previous,
            "has_mask_input": np.full(count, mask_input is not None, np.float32),
        }

    def _previous(self, mask_input: ArrayLike, shape: tuple[int, ...], batched: bool) -> NDArray[np.float32]:
        """A checked ``mask_input``: its shape must be exact, or NumPy would give one mask to all prompts."""
        mask = prompts.finite("mask_input", mask_input).astype(np.float32)
        expected = shape if batched else shape[1:]
        if mask.shape != expected:
            raise UserError(f"mask_input has shape {list(mask.shape)}, expected {list(expected)}")
        return mask


def _require(runner: Runner, present: Mapping[str, object], names: Iterable[str]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise UserError(f"{runner.name} has no output {', '.join(missing)}; is it the right file?")
