"""SAM's predictor, on two engines."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..contract import (
    DECODER_OUTPUTS,
    EMBEDDING,
    ENCODER_OUTPUTS,
    HAS_MASK_INPUT,
    IMAGE,
    IOU,
    MASK_INPUT,
    MASKS,
    POINT_COORDS,
    POINT_LABELS,
    PRIOR,
)
from ..errors import UserError
from ..manifest import Manifest, Model
from ..runners import create
from ..runners.base import Array, DeviceArray, Memory, Runner
from . import masks, prompts
from .embedding import Embedding
from .image import Frame, prepare
from .prior import prior
from .prompts import BOTTOM_RIGHT, FOREGROUND, TOP_LEFT, Encoded, Prompt

BATCH = 8
"""Pictures in one run of an encoder whose batch is open; its engines are built for as many."""


@dataclass(frozen=True)
class Held:
    """What a predictor holds in memory.

    Attributes:
        encoder, decoder: of the two engines.
        embedding: bytes of the picture that is set; 0 if none is.
    """

    encoder: Memory
    decoder: Memory
    embedding: int


@dataclass
class _Picture:
    """The picture that is set.

    Attributes:
        frame: where it lies in the model's square.
        features: its embedding; empty while a prompt-aware encoder waits for the first prompt.
        image: what such an encoder takes; None for others, which have done their work.
        prior: float32 [1, h, w], what the features were made for.
    """

    frame: Frame
    features: Array | DeviceArray = field(default_factory=lambda: np.zeros(0, np.float32))
    image: Array | None = None
    prior: Array | None = None


class Predictor:
    """Look at a picture once, then ask for masks as often as wanted.

        with Predictor.load(folder) as predictor:
            predictor.set_image(rgb)
            masks, iou, low_res = predictor.predict(box=[100, 80, 400, 360])

    An export that was made with ``--prompt-aware`` merges less where prompts are. It encodes the picture at
    the first prompt and not in `set_image`, for all prompts of a call together, and again as soon as a call
    asks about other places than the call before: best suited to a box or two whose clicks lie inside.

    Args:
        encoder: input ``image`` float32 [B, 3, S, S], for a prompt-aware one also ``prior`` float32
            [B, h, w]; output ``image_embedding`` float32 [B, C, h, w].
        decoder: inputs ``image_embedding`` float32 [1, C, h, w], ``point_coords`` float32 [P, N, 2],
            ``point_labels`` int32 [P, N], ``mask_input`` float32 [P, 1, 4h, 4w] and ``has_mask_input``
            float32 [P]; outputs ``masks`` float32 [P, 4, 4h, 4w] logits and ``iou_predictions`` float32
            [P, 4].
        model: sizes and constants from the manifest.
        weights: which weights both were made from, as the manifest names them; embeddings of others are
            refused.
    """

    def __init__(self, encoder: Runner, decoder: Runner, model: Model, weights: str = "") -> None:
        self.encoder, self.decoder, self.model, self.weights = encoder, decoder, model, weights
        self._stack = ExitStack()
        self.reset_image()

    @classmethod
    def load(
        cls, folder: Path | str, runner: str = "cpu", threads: int | None = None, verified: bool = True
    ) -> "Predictor":
        """A predictor of an export folder.

        Args:
            folder: holds ``manifest.json`` and the encoder and decoder, ``.onnx`` or ``.engine``.
            runner: ``cpu``, ``cuda``, ``trt-ep`` or ``rtx-ep`` of ONNX Runtime, or ``tensorrt`` or
                ``tensorrt-rtx`` for the engines.
            threads: of the CPU, for ONNX Runtime; default as many as there are cores.
            verified: False takes .onnx files that their owner changed, as by quantisation. Otherwise every
                file has the sha256 of the manifest; that of a large one is kept in the user's cache.

        Raises:
            UserError: no such runner; the folder is not an export, or its files are not the ones that were
                exported; an engine is of another library, version or GPU.
        """
        folder = Path(folder)
        encoder, decoder = (
            create(folder, part, runner, threads, verified) for part in ("encoder", "decoder")
        )
        manifest = Manifest.read(folder)
        return cls(encoder, decoder, manifest.model, manifest.weights)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for runner in (self.encoder, self.decoder):
                stack.enter_context(runner)
            _require(self.encoder, self.encoder.outputs, ENCODER_OUTPUTS)
            _require(self.decoder, self.decoder.outputs, DECODER_OUTPUTS)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reset_image()
        self._stack.close()

    def reset_image(self) -> None:
        """Forget the picture."""
        self._picture: _Picture | None = None

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Run the encoder. The embedding stays where it was computed, which is where the decoder reads it.

        A prompt-aware encoder waits for the first prompt.

        Args:
            image: uint8 RGB [H, W, 3], range 0..255.

        Raises:
            UserError: another dtype or shape; no picture is set afterwards.
        """
        self.reset_image()
        tensor, frame = prepare(image, self.model)
        if self.model.prior:
            self._picture = _Picture(frame, image=tensor)
        else:
            outputs = self.encoder.infer_on_device({IMAGE: tensor})
            self._picture = _Picture(frame, outputs[EMBEDDING])

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Run the encoder on several pictures, of any sizes, and keep none of them.

        An encoder that was exported with a dynamic batch takes them in runs of BATCH, another one takes one
        at a time; a prompt-aware one is told of no prompt. Hand an embedding to `set_embedding` to ask for
        masks.

        Args:
            images: uint8 RGB [H, W, 3] each, range 0..255.

        Raises:
            UserError: another dtype or shape.
        """
        step = BATCH if isinstance(self.encoder.inputs[IMAGE].shape[0], str) else 1
        embeddings = []
        for start in range(0, len(images), step):
            made = [prepare(image, self.model) for image in images[start : start + step]]
            feeds = {IMAGE: np.concatenate([tensor for tensor, _ in made])}
            if self.model.prior:
                feeds[PRIOR] = np.repeat(prior(self.model), len(made), axis=0)
            features = self.encoder.infer(feeds)[EMBEDDING]
            embeddings += [
                Embedding(one[None], frame, self.weights)
                for one, (_, frame) in zip(features, made, strict=True)
            ]
        return embeddings

    @property
    def embedding(self) -> Embedding:
        """Of the picture that is set, to be kept for `set_embedding`, here or in another process.

        Raises:
            UserError: no picture is set.
        """
        features = self._features()
        array = features.numpy() if isinstance(features, DeviceArray) else features
        return Embedding(array, self.frame, self.weights)

    def set_embedding(self, embedding: Embedding) -> None:
        """Ask about a picture that was encoded before.

        Raises:
            UserError: it was made by other weights, or for another size.
        """
        expected, came = (1, *self.model.embedding), embedding.features.shape
        if embedding.weights != self.weights:
            raise UserError(
                f"the embedding was made by the weights '{embedding.weights}', this decoder has "
                f"'{self.weights}'; encode the picture again"
            )
        if came != expected or embedding.frame.image_size != self.model.image_size:
            raise UserError(
                f"the embedding has shape {list(came)} for pictures of {embedding.frame.image_size} pixels, "
                f"expected {list(expected)} for {self.model.image_size}; encode the picture again"
            )
        self._picture = _Picture(embedding.frame, embedding.features)

    @property
    def frame(self) -> Frame:
        """Of the picture that is set.

        Raises:
            UserError: no picture is set.
        """
        return self._current().frame

    def get_image_embedding(self) -> NDArray[np.float32]:
        """The picture's embedding, float32 [1, C, h, w]; [1, 256, 64, 64] for SAM.

        Raises:
            UserError: no picture is set.
        """
        return self.embedding.features

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        best: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Masks for one prompt, or for a batch of P prompts of one kind, in one run of the decoder.

        A prompt is any number of points, a box, an earlier mask, or several of these. `predict_many` takes
        prompts of different kinds and lengths.

        Args:
            point_coords: [N, 2], or [P, N, 2] for a batch: (x, y) in pixels of the picture.
            point_labels: [N] or [P, N]: 1 for foreground, 0 for background.
            box: [4] or [P, 4]: x0, y0, x1, y1 in pixels of the picture.
            mask_input: [1, 256, 256] or [P, 1, 256, 256] logits, as an earlier call returned them.
            multimask_output: three masks for an ambiguous prompt (part, object, whole) instead of one.
            return_logits: masks as float32 logits instead of bool.
            best: of the three masks only the one with the highest predicted IoU.

        Returns:
            Masks bool or float32 [M, H, W] in the picture's size, M = 3 or 1; predicted IoU float32 [M],
            about 0..1; logits float32 [M, 256, 256]. A batch has a leading axis P in all three.

        Raises:
            UserError: no picture is set, or the prompts are wrong (see `encode`).
        """
        frame = self.frame
        if mask_input is not None and point_coords is None and point_labels is None and box is None:
            encoded = prompts.encode_each(frame, [prompts.Prompt(mask_input=mask_input)])
            encoded = dataclasses.replace(encoded, batched=False)
        else:
            encoded = prompts.encode(frame, point_coords, point_labels, box)
        previous = None if mask_input is None else self._previous(mask_input, encoded)
        masks, iou, low_res = self._answer(encoded, previous, multimask_output, return_logits, best)
        return (masks, iou, low_res) if encoded.batched else (masks[0], iou[0], low_res[0])

    def predict_many(
        self,
        asked: Sequence[Prompt],
        multimask_output: bool = True,
        return_logits: bool = False,
        best: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Masks for P prompts of any kinds, mixed, in one run of the decoder.

        The masks of a prompt do not depend on what else is asked in the same call.

        Args:
            asked: points, boxes, earlier masks, in any combination and number.
            multimask_output, return_logits, best: see `predict`.

        Returns:
            As `predict`, with a leading axis P.

        Raises:
            UserError: no picture is set, or a prompt is wrong; its number is told.
        """
        encoded = prompts.encode_each(self.frame, asked)
        previous = [self._one_previous(prompt, number) for number, prompt in enumerate(asked, start=1)]
        return self._answer(encoded, previous, multimask_output, return_logits, best)

    def decode(
        self, encoded: Encoded, mask_input: Sequence[NDArray[np.float32] | None] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One run of the decoder on the picture that is set: all four masks, in the decoder's own size.

        Args:
            encoded: P prompts.
            mask_input: of each prompt, logits [1, 4h, 4w] or None.

        Returns:
            Logits float32 [P, 4, 4h, 4w], the single mask first and then the three of an ambiguous prompt;
            predicted IoU float32 [P, 4].

        Raises:
            UserError: no picture is set, or more prompts or points than an engine was built for.
        """
        side, given = self.model.low_res, mask_input or [None] * len(encoded)
        previous = np.zeros((len(encoded), 1, side, side), np.float32)
        for index, mask in enumerate(given):
            if mask is not None:
                previous[index] = mask
        outputs = self.decoder.infer(
            {
                EMBEDDING: self._features(encoded),
                POINT_COORDS: encoded.point_coords,
                POINT_LABELS: encoded.point_labels,
                MASK_INPUT: previous,
                HAS_MASK_INPUT: np.array([mask is not None for mask in given], np.float32),
            }
        )
        return outputs[MASKS], outputs[IOU]

    def memory(self) -> Held:
        """What is held, beside what Python and the libraries take.

        Raises:
            UserError: outside the ``with`` block.
        """
        features = self._picture.features if self._picture else np.zeros(0)
        embedding = features.dtype.itemsize * math.prod(features.shape)
        return Held(self.encoder.memory(), self.decoder.memory(), embedding)

    def _current(self) -> "_Picture":
        """The picture that is set."""
        if self._picture is None:
            raise UserError("no picture is set; call set_image first")
        return self._picture

    def _features(self, encoded: Encoded | None = None) -> Array | DeviceArray:
        """The embedding, where it lies: of a prompt-aware encoder one that was made for these prompts."""
        picture = self._current()
        if picture.image is None:
            return picture.features
        where = _prior(self.model, encoded)
        if picture.prior is None or (where.any() and not np.array_equal(where, picture.prior)):
            feeds = {IMAGE: picture.image, PRIOR: where}
            picture.features = self.encoder.infer_on_device(feeds)[EMBEDDING]
            picture.prior = where
        return picture.features

    def _answer(
        self,
        encoded: Encoded,
        previous: Sequence[NDArray[np.float32] | None] | None,
        multimask: bool,
        as_logits: bool,
        best: bool,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Masks [P, M, H, W], predicted IoU [P, M] and logits [P, M, 256, 256]."""
        low_res, iou = self.decode(encoded, previous)
        chosen = slice(1, None) if multimask else slice(0, 1)
        low_res, iou = low_res[:, chosen], iou[:, chosen]
        if best:
            first = iou.argmax(axis=1)[:, None]
            iou = np.take_along_axis(iou, first, axis=1)
            low_res = np.take_along_axis(low_res, first[:, :, None, None], axis=1)
        if as_logits:
            return masks.upscale(low_res, self.frame), iou, low_res
        return masks.binary(low_res, self.frame, self.model.mask_threshold), iou, low_res

    def _previous(self, mask_input: ArrayLike, encoded: Encoded) -> list[NDArray[np.float32]]:
        """A checked ``mask_input``: its shape must be exact, or NumPy would give one mask to all prompts."""
        mask, side = prompts.finite("mask_input", mask_input).astype(np.float32), self.model.low_res
        expected = (len(encoded), 1, side, side) if encoded.batched else (1, side, side)
        if mask.shape != expected:
            raise UserError(f"mask_input has shape {list(mask.shape)}, expected {list(expected)}")
        return list(mask.reshape(-1, 1, side, side))

    def _one_previous(self, prompt: Prompt, number: int) -> NDArray[np.float32] | None:
        """The checked ``mask_input`` of one of many prompts, [1, 256, 256]."""
        if prompt.mask_input is None:
            return None
        mask = prompts.finite(f"prompt {number}: mask_input", prompt.mask_input).astype(np.float32)
        side = self.model.low_res
        if mask.shape not in ((side, side), (1, side, side)):
            raise UserError(
                f"prompt {number}: mask_input has shape {list(mask.shape)}, expected {[1, side, side]}"
            )
        return mask.reshape(1, side, side)


def _prior(model: Model, encoded: Encoded | None) -> NDArray[np.float32]:
    """The prior of the boxes and of the foreground points of prompts; empty without any."""
    if encoded is None:
        return prior(model)
    corners = (encoded.point_coords[encoded.point_labels == label] for label in (TOP_LEFT, BOTTOM_RIGHT))
    boxes = np.concatenate(list(corners), axis=1)  # [K, 4]; the corners of a box stand in the same order
    return prior(model, boxes, encoded.point_coords[encoded.point_labels == FOREGROUND])


def _require(runner: Runner, present: Mapping[str, object], names: Iterable[str]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise UserError(f"{runner.name} has no output {', '.join(missing)}; is it the right file?")
