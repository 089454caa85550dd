"""The reference that verification leaves: which pictures, which limits, and nothing that an export misses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.answers import reference
from structsam_export.comparing import TorchRunner
from structsam_export.encoder import apply
from structsam_export.merging import Identity, Method, StructSAM
from structsam_export.merging.methods.pitome import PiToMe
from structsam_export.verify import Answered, Sample, prompts, samples
from structsam_runtime import Predictor
from structsam_runtime.check import check, held
from structsam_runtime.contract import decoder_specs, encoder_specs
from structsam_runtime.manifest import Model
from structsam_runtime.predict.image import Frame
from structsam_runtime.reference import Reference
from structsam_runtime.thresholds import FRAGILE, THRESHOLDS

Build = Callable[..., Any]
SMALL = Model(
    arch="small",
    image_size=64,
    embedding=(2, 4, 4),
    low_res=16,
    mask_threshold=0.0,
    pixel_mean=(120.0, 110.0, 100.0),
    pixel_std=(60.0, 57.0, 55.0),
    precision="fp32",
)


def decode(embedding: Any, coords: Any, labels: Any, previous: Any, given: Any) -> Any:
    """A decoder: the embedding, enlarged, moved by the prompts."""
    moved = coords.mean((1, 2)) / 64 - 0.5
    large = embedding[:, :1].repeat_interleave(4, 2).repeat_interleave(4, 3)
    masks = (large + moved[:, None, None, None]).expand(-1, 4, -1, -1)
    return masks, masks.mean((2, 3))


DECODER = TorchRunner(decode, *decoder_specs(SMALL))


def answered(seed: int, name: str = "a", off: float = 0.0) -> Answered:
    """Of an export whose embedding is off by so much, wherever it is."""
    noise = np.random.default_rng(seed)
    frame = Frame.of(48, 64, 64)
    own = {"image_embedding": noise.normal(size=(1, *SMALL.embedding)).astype(np.float32)}
    theirs = {"image_embedding": own["image_embedding"] + np.float32(off)}
    asked = prompts(frame, 16)
    with DECODER as decoder:
        mine, their_masks = (decoder.infer(made | asked) for made in (own, theirs))
    pixels = noise.integers(0, 256, (48, 64, 3), np.uint8)
    sample = Sample(name, pixels, {"image": np.zeros((1, 3, 64, 64), np.float32)}, frame)
    return Answered(sample, own | asked, mine["masks"], mine["iou_predictions"], theirs | their_masks)


@pytest.fixture(scope="module")
def encoder(build_encoder: Build) -> Any:
    """A patched encoder, which only tells what it merges."""
    return build_encoder(112, depth=1, global_attn_indexes=())


def made(encoder: Any, method: Method, *pictures: Answered, precision: str = "fp32") -> Reference:
    """The reference of an export that merges so."""
    apply(encoder, [method])
    return reference(encoder, DECODER, precision, "0123", pictures)


@given(st.integers(1, 40))
def test_pictures_are_evenly_spaced(encoder: Any, number: int) -> None:
    pictures = [answered(0, str(index)) for index in range(number)]
    kept = [int(one.name) for one in made(encoder, Identity(), *pictures).answers]
    assert len(kept) == min(3, number)
    assert (kept[0], kept[-1]) == (0, number - 1)
    assert kept == sorted(set(kept))
    gaps = np.diff(kept)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_those_of_a_prompt_aware_encoder_differ_in_picture_and_prior(encoder: Any) -> None:
    """Three photographs with three priors each: one of each is kept."""
    model = replace(SMALL, prior=True)
    photographs = {name: np.zeros((48, 64, 3), np.uint8) for name in ("one", "two", "three")}
    every = samples(photographs, model)
    kept = made(encoder, Identity(), *(replace(answered(0), sample=one) for one in every)).answers
    assert [one.name for one in kept] == ["one with no prompt", "two with a box", "three with two boxes"]
    assert [bool(one.prior.any()) for one in kept if one.prior is not None] == [False, True, True]


EVERY = {"fp32": 3e-4, "fp16": 0.05, "bf16": 0.3, "int8": 0.5, "int8-fp16": 0.5, "fp8": 0.8, "fp8-fp16": 0.8}
"""The limit of the error of every picture where nothing merges."""


@pytest.mark.parametrize("precision", THRESHOLDS)
def test_limits_are_those_that_a_check_can_hold(encoder: Any, precision: str) -> None:
    """Without plans the errors of all pictures count where nothing merges, and of the best where it does."""
    row, fragile = THRESHOLDS[precision], FRAGILE[precision]
    hidden = {"cosine": None, "plans": None}
    for method, limits in (
        (Identity(), replace(row, error=EVERY[precision], least_error=None, **hidden)),
        (StructSAM(0.5), replace(row, error=None, **hidden)),
        (PiToMe(0.5), replace(fragile, error=None, **hidden)),
    ):
        assert made(encoder, method, answered(0), precision=precision).limits == limits


def test_what_the_export_itself_misses_is_not_held(encoder: Any) -> None:
    """Rounding changed a plan in its only picture; elsewhere another one does."""
    far, near = answered(0, off=0.01), answered(1, off=1e-5)
    limits = made(encoder, StructSAM(0.5), far).limits
    assert limits.least_error is None
    assert limits.decoder_iou == THRESHOLDS["fp32"].decoder_iou
    assert made(encoder, StructSAM(0.5), far, near).limits.least_error == 3e-4, "one picture is enough"


def test_it_passes_the_check_of_the_runners_that_were_verified(encoder: Any) -> None:
    """Whatever they compute: a limit that they miss is none of the reference's."""
    for off in (0.0, 1e-5, 0.01, 1.0):
        pictures = [answered(seed, str(seed), off) for seed in range(3)]
        told = made(encoder, StructSAM(0.5), *pictures)
        theirs = iter([one.made["image_embedding"] for one in pictures])

        def encode(image: Any, theirs: Any = theirs) -> Any:
            return torch.from_numpy(next(theirs))

        shipped = TorchRunner(encode, *encoder_specs(SMALL))
        with Predictor(shipped, DECODER, SMALL) as predictor:
            measured = list(check(predictor, told))
        assert not [name for name, one in held(measured, told.limits).items() if one.missed]
        assert [one.error for one in measured] == pytest.approx([off] * 3, abs=1e-4)


def test_it_says_what_answered(encoder: Any) -> None:
    told = made(encoder, Identity(), answered(0))
    assert told.export == "0123"
    assert told.made_by.startswith(f"PyTorch {torch.__version__} on ")
