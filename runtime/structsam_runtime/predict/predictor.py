"""SAM's predictor, on two engines."""

import dataclasses
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread, current_thread
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..contract import DECODER_OUTPUTS, EMBEDDING, ENCODER_OUTPUTS, IMAGE, PRIOR
from ..errors import Caution, UserError
from ..manifest import Manifest, Model
from ..runners import create
from ..runners.base import Array, DeviceArray, Memory, Runner
from . import decoding, prompts
from .answers import Answers, answers
from .embedding import Embedding
from .image import Frame, picture_size, prepare
from .prior import prior, prior_of
from .prompts import BACKGROUND, FOREGROUND, Encoded, Prompt

LOG = logging.getLogger(__name__)
BATCH = 8
"""Pictures in one run of an encoder whose batch is open; its engines are built for as many."""
BOXES_ONLY = (
    "this model, as MedSAM, learned one mask for a box; points, earlier masks and three candidates "
    "(multimask) are untrained: check the masks"
)
"""What is said once of prompts that a model has never seen."""
UNVERIFIED = "the files of {} are not checked; if they were changed, what verification measured is void"


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
        thread: set it, and is the only one that is answered.
    """

    frame: Frame
    features: Array | DeviceArray = field(default_factory=lambda: np.zeros(0, np.float32))
    image: Array | None = None
    prior: Array | None = None
    thread: Thread = field(default_factory=current_thread)


class Predictor:
    """Look at a picture once, then ask for masks as often as wanted.

        with Predictor.load(folder) as predictor:
            predictor.set_image(rgb)
            masks, iou, low_res = predictor.predict(box=[100, 80, 400, 360])

    An export that was made with ``--prompt-aware`` merges less where prompts are. It encodes the picture at
    the first prompt and not in `set_image`, for all prompts of a call together, and again as soon as a call
    asks about other places than the call before: best suited to a box or two whose clicks lie inside.

    A MedSAM learned one mask for a box: what else it is asked it answers, with a warning (`Caution`).

    A predictor holds one picture, and answers the thread that has set it. Threads that each have a picture of
    their own share the model by `session`.

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
            runner: ``cpu`` or ``cuda`` of ONNX Runtime, ``openvino``, or ``tensorrt`` or ``tensorrt-rtx`` for
                the engines.
            threads: of the CPU, for ONNX Runtime and OpenVINO; default as many as there are cores.
            verified: False also loads .onnx files that were changed, as by quantisation, with a warning.
                Otherwise every file must have the sha256 of the manifest; hashes of large files are kept in
                the user's cache.

        Raises:
            UserError: no such runner; the folder is not an export, or its files are not the ones that were
                exported; an engine is of another library, version or GPU.
        """
        folder = Path(folder)
        encoder, decoder = (
            create(folder, part, runner, threads, verified) for part in ("encoder", "decoder")
        )
        if not verified:
            warnings.warn(UNVERIFIED.format(folder), Caution, stacklevel=2)
        manifest = Manifest.read(folder)
        return cls(encoder, decoder, manifest.model, manifest.weights)

    def session(self) -> "Predictor":
        """Another predictor on the same open model, with a picture of its own: one for each thread.

            with predictor.session() as own:
                own.set_image(rgb)
                masks, iou, low_res = own.predict(box=[100, 80, 400, 360])

        Any number may be open at once. They end with the predictor, and cost no more than their picture.
        """
        return _Session(self.encoder, self.decoder, self.model, self.weights)

    def __enter__(self) -> "Predictor":
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

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Run the encoder. The embedding stays where it was computed, which is where the decoder reads it.

        A prompt-aware encoder waits for the first prompt.

        Args:
            image: uint8 [H, W, 3], range 0..255.
            image_format: the order of its channels, ``RGB``, or ``BGR`` as OpenCV reads pictures.

        Raises:
            UserError: another dtype, shape or format; no picture is set afterwards.
        """
        self.reset_image()
        if image_format not in ("RGB", "BGR"):
            raise UserError(f"the image_format is {image_format!r}, expected 'RGB' or 'BGR'")
        picture_size(image)
        tensor, frame = prepare(image if image_format == "RGB" else image[:, :, ::-1], self.model)
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
            UserError: no picture is set, or another thread has set it.
        """
        picture = self._current()
        features = self._features(picture)
        array = features.numpy() if isinstance(features, DeviceArray) else features
        return Embedding(array, picture.frame, self.weights)

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
            UserError: no picture is set, or another thread has set it.
        """
        return self._current().frame

    def get_image_embedding(self) -> NDArray[np.float32]:
        """The picture's embedding, float32 [1, C, h, w]; [1, 256, 64, 64] for SAM.

        Raises:
            UserError: no picture is set, or another thread has set it.
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
        """Masks for one prompt, or for a batch of P prompts of one kind.

        A prompt is any number of points, a box, an earlier mask, or several of these: lists, arrays, or
        tensors of PyTorch. `predict_many` takes prompts of different kinds and lengths. The decoder takes
        `decoding.PROMPTS` prompts in one run, or fewer where they would take more than `decoding.MEMORY`.

        Args:
            point_coords: [N, 2], or [P, N, 2] for a batch: (x, y) in pixels of the picture.
            point_labels: [N] or [P, N]: 1 for foreground, 0 for background.
            box: [4] or [P, 4]: x0, y0, x1, y1 in pixels of the picture. [0, 4], or an empty list, is a batch
                of no boxes and gives no masks.
            mask_input: [1, 256, 256] or [P, 1, 256, 256] logits, as an earlier call returned them.
            multimask_output: three masks for an ambiguous prompt (part, object, whole) instead of one.
            return_logits: masks as float32 logits instead of bool.
            best: of the three masks only the one with the highest predicted IoU.

        Returns:
            Masks bool or float32 [M, H, W] in the picture's size, M = 3 or 1; predicted IoU float32 [M],
            about 0..1; logits float32 [M, 256, 256]. A batch has a leading axis P in all three, of length 0
            for no boxes.

        Raises:
            UserError: no picture is set, or another thread has set it; the prompts are wrong (see `encode`);
                or the model gives NaN or infinity.
        """
        picture = self._current()
        if mask_input is not None and point_coords is None and point_labels is None and box is None:
            encoded = prompts.encode_each(picture.frame, [Prompt(mask_input=mask_input)])
            encoded = dataclasses.replace(encoded, batched=False)
        else:
            encoded = prompts.encode(picture.frame, point_coords, point_labels, box)
        side = self.model.low_res
        previous = None if mask_input is None else prompts.encode_masks(mask_input, encoded, side)
        decoded = self._decoded(picture, encoded, previous, multimask_output)
        settings = (multimask_output, return_logits, best)
        many = answers(decoded, len(encoded), self.model, picture.frame, *settings)
        return many if encoded.batched else (many.masks[0], many.iou[0], many.low_res[0])

    def predict_many(
        self,
        asked: Sequence[Prompt],
        multimask_output: bool = True,
        return_logits: bool = False,
        best: bool = False,
    ) -> Answers:
        """Masks for P prompts of any kinds, mixed.

        The masks of a prompt do not depend on what else is asked in the same call. A prompt that is wrong
        fails alone: its masks are empty, its predicted IoU is NaN, and the reason is in ``errors`` of the
        answers, by the number of the prompt, and logged as a warning.

        Args:
            asked: points, boxes, earlier masks, in any combination and number; none give no masks.
            multimask_output, return_logits, best: see `predict`.

        Returns:
            As `predict`, with a leading axis P.

        Raises:
            UserError: no picture is set, or another thread has set it; every prompt is wrong; or the model
                gives NaN or infinity.
        """
        picture = self._current()
        sound = prompts.encode_sound(picture.frame, self.model.low_res, asked)
        if sound.errors:
            told = "; ".join(sound.errors.values())
            LOG.warning("%d of %d prompts have no answer: %s", len(sound.errors), len(asked), told)
        decoded = self._decoded(picture, sound.encoded, sound.masks, multimask_output)
        settings = (multimask_output, return_logits, best)
        many = answers(decoded, len(sound.encoded), self.model, picture.frame, *settings)
        return many.spread(sound.indices, sound.errors)

    def decode(
        self, encoded: Encoded, mask_input: Sequence[NDArray[np.float32] | None] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The decoder on the picture that is set: all four masks, in the decoder's own size.

        Args:
            encoded: P prompts.
            mask_input: of each prompt, logits [1, 4h, 4w] or None.

        Returns:
            Logits float32 [P, 4, 4h, 4w], the single mask first and then the three of an ambiguous prompt;
            predicted IoU float32 [P, 4].

        Raises:
            UserError: no picture is set, or another thread has set it; the model gives NaN or infinity; or
                more points than an engine was built for.
        """
        side = self.model.low_res
        low_res = np.empty((len(encoded), 4, side, side), np.float32)
        iou = np.empty((len(encoded), 4), np.float32)
        for part, *made in self._decoded(self._current(), encoded, mask_input):
            low_res[part], iou[part] = made
        return low_res, iou

    def memory(self) -> Held:
        """What is held, beside what Python and the libraries take.

        Raises:
            UserError: outside the ``with`` block.
        """
        picture = self._picture
        features = picture.features if picture else np.zeros(0)
        embedding = features.dtype.itemsize * math.prod(features.shape)
        return Held(self.encoder.memory(), self.decoder.memory(), embedding)

    def _current(self) -> _Picture:
        """The picture that is set."""
        picture = self._picture
        if picture is None:
            raise UserError("no picture is set; call set_image first")
        if picture.thread is not current_thread():
            raise UserError(
                "the picture was set by another thread; give each thread a predictor.session() of its own, "
                "and hand pictures over as embeddings"
            )
        return picture

    def _decoded(
        self,
        picture: _Picture,
        encoded: Encoded,
        previous: decoding.Previous | None,
        multimask: bool = False,
    ) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float32]]]:
        """Runs of the decoder; none for no prompts."""
        if not len(encoded):
            return iter(())
        if self.model.boxes_only and (multimask or _beyond_boxes(encoded, previous)):
            warnings.warn(BOXES_ONLY, Caution, stacklevel=3)
        features = self._features(picture, encoded)
        return decoding.runs(self.decoder, self.model, features, encoded, previous)

    def _features(self, picture: _Picture, encoded: Encoded | None = None) -> Array | DeviceArray:
        """The embedding, where it lies: of a prompt-aware encoder one that was made for these prompts."""
        if picture.image is None:
            return picture.features
        where = prior_of(self.model, encoded)
        if picture.prior is None or (where.any() and not np.array_equal(where, picture.prior)):
            feeds = {IMAGE: picture.image, PRIOR: where}
            picture.features = self.encoder.infer_on_device(feeds)[EMBEDDING]
            picture.prior = where
        return picture.features


class _Session(Predictor):
    """A predictor on engines that another one has opened, and closes."""

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reset_image()


def _beyond_boxes(encoded: Encoded, previous: decoding.Previous | None) -> bool:
    """Whether any of the prompts has a point or an earlier mask."""
    pointed = np.isin(encoded.point_labels, (BACKGROUND, FOREGROUND)).any()
    return bool(pointed) or any(mask is not None for mask in previous or ())


def _require(runner: Runner, present: Mapping[str, object], names: Iterable[str]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise UserError(f"{runner.name} has no output {', '.join(missing)}; is it the right file?")
