"""Compare an export on this machine with the answers of PyTorch that travel with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .contract import EMBEDDING
from .errors import NotFiniteError, UserError
from .predict.decoding import runs
from .predict.predictor import Predictor
from .reference import Answer, Reference, Rounded, within
from .runners.base import Array, DeviceArray
from .thresholds import Held, Thresholds

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """One picture, or the worst of several.

    Attributes:
        name: of the picture.
        error: largest absolute difference of the embedding from PyTorch's, beyond the rounding of the
            reference.
        cosine: of the two embeddings.
        mask_iou, mask_iou_min: IoU of masks with PyTorch's, end to end: mean over prompts, and lowest.
        decoder_iou: mean mask IoU of the decoder alone, with PyTorch's embedding.
        predicted_iou: largest absolute difference of a predicted IoU, in the same runs.
    """

    name: str
    error: float
    cosine: float
    mask_iou: float
    mask_iou_min: float
    decoder_iou: float
    predicted_iou: float


def check(predictor: Predictor, reference: Reference) -> Iterator[Measured]:
    """Run the runners of a predictor on every picture of a reference, as prediction does.

    Args:
        predictor: open, of the export that the reference is of.
        reference: the answers of PyTorch.

    Yields:
        What was measured, picture by picture.

    Raises:
        NotFiniteError: an output contains NaN or infinity.
        UserError: a run failed.
    """
    for answer in reference.answers:
        yield _measured(predictor, answer)


def _measured(predictor: Predictor, answer: Answer) -> Measured:
    encoder, own = predictor.encoder, answer.embedding
    made = encoder.infer_on_device(answer.feed(predictor.model))[EMBEDDING]
    embedding: FloatArray = made.numpy()
    if embedding.shape != own.values.shape:
        raise UserError(
            f"{encoder.name} gives an embedding {list(embedding.shape)}, the reference has "
            f"{list(own.values.shape)}; export again"
        )
    if not np.isfinite(embedding).all():
        raise NotFiniteError(f"{encoder.name} returned NaN or infinity in {EMBEDDING} of {answer.name}")
    masks, _ = _decoded(predictor, answer, made)
    return compare(answer, embedding, masks, *_decoded(predictor, answer, own.features))


def compare(
    answer: Answer,
    embedding: FloatArray,
    masks: NDArray[np.bool_],
    alone: NDArray[np.bool_],
    predicted: FloatArray,
) -> Measured:
    """Hold what a runner computed against an answer of PyTorch.

    Args:
        answer: the answer.
        embedding: of its picture, [1, C, h, w].
        masks: bool [P, 4, y, x] of that embedding.
        alone, predicted: masks and predicted IoU [P, 4] of the answer's own embedding.
    """
    own, ious = answer.embedding, mask_ious(masks, answer.masks)
    return Measured(
        name=answer.name,
        error=error(embedding, own),
        cosine=cosine(embedding, own.features),
        mask_iou=float(ious.mean()),
        mask_iou_min=float(ious.min()),
        decoder_iou=float(mask_ious(alone, answer.masks).mean()),
        predicted_iou=float(np.abs(predicted - answer.iou).max()),
    )


def _decoded(
    predictor: Predictor, answer: Answer, features: Array | DeviceArray
) -> tuple[NDArray[np.bool_], FloatArray]:
    """Masks of an answer's prompts, as `Answer.masks`, and their predicted IoU."""
    masks, predicted = [], []
    try:
        for _, logits, iou in runs(predictor.decoder, predictor.model, features, answer.prompts):
            masks.append(within(logits, answer.frame))
            predicted.append(iou)
    except NotFiniteError as broken:
        raise NotFiniteError(
            f"{predictor.decoder.name} returned NaN or infinity for {answer.name}"
        ) from broken
    return np.concatenate(masks), np.concatenate(predicted)


def error(features: FloatArray, own: Rounded) -> float:
    """Largest absolute difference of two embeddings [1, C, h, w], beyond the rounding of the second."""
    beyond = np.abs(features.astype(np.float64) - own.features) - own.rounding[:, None, None]
    return float(beyond.max().clip(0))


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Cosine of two arrays of one shape, as vectors, in float64; NaN if one is zero."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    with np.errstate(invalid="ignore"):
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def mask_ious(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of masks [..., y, x] with others: [...]; 1 for two empty masks."""
    union = (one | other).sum((-2, -1))
    return np.where(union == 0, 1.0, (one & other).sum((-2, -1)) / np.maximum(union, 1))


def worst(measured: Sequence[Measured]) -> Measured:
    """The worst value of each kind over pictures; NaN is worse than any."""
    lowest = {
        name: float(np.min([getattr(one, name) for one in measured]))
        for name in ("cosine", "mask_iou", "mask_iou_min", "decoder_iou")
    }
    largest = {
        name: float(np.max([getattr(one, name) for one in measured])) for name in ("error", "predicted_iou")
    }
    return Measured(name="worst", **lowest, **largest)


def held(measured: Sequence[Measured], limits: Thresholds) -> dict[str, Held]:
    """What measured pictures are held to, by the names of the limits; see `Thresholds`."""
    bad = worst(measured)
    iou, decoder_iou = (
        float(np.mean([getattr(one, name) for one in measured])) for name in ("mask_iou", "decoder_iou")
    )
    least = min(one.error for one in measured)
    return {
        "error": Held("largest embedding error", bad.error, limits.error, False),
        "least_error": Held("least embedding error", least, limits.least_error, False),
        "cosine_end_to_end": Held("embedding cosine", bad.cosine, limits.cosine_end_to_end, True),
        "mask_iou": Held("mask IoU", iou, limits.mask_iou, True),
        "decoder_iou": Held("mask IoU of the decoder", decoder_iou, limits.decoder_iou, True),
        "predicted_iou": Held("predicted IoU error", bad.predicted_iou, limits.predicted_iou, False),
    }
