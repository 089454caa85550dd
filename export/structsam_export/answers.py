"""What PyTorch answered during verification, as it travels with an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from structsam_runtime.check import Measured, compare, held
from structsam_runtime.contract import EMBEDDING, IOU, MASKS, POINT_COORDS, POINT_LABELS, PRIOR
from structsam_runtime.predict.prompts import Encoded
from structsam_runtime.reference import PICTURES, Answer, Reference, Rounded, within
from structsam_runtime.runners.base import Runner
from structsam_runtime.thresholds import FRAGILE, THRESHOLDS, Thresholds

from .comparing import run_all
from .description import versions
from .encoder.exported import told_plans
from .verify import Answered


def reference(
    encoder: Any, export_decoder: Runner, precision: str, export: str, answered: Sequence[Answered]
) -> Reference:
    """The reference of an export.

    Of many pictures it keeps PICTURES, evenly spaced, so that those of a prompt-aware encoder have different
    priors. A limit that the export itself misses on these pictures is left out: rounding may change a plan of
    each of them, and other runtimes round no better.

    Args:
        encoder: the patched encoder in PyTorch.
        export_decoder: runner of the export's decoder, opened and closed here.
        precision: of the export.
        export: its id.
        answered: what `verify` returned, at least one.
    """
    chosen = np.linspace(0, len(answered) - 1, min(PICTURES, len(answered))).round().astype(int)
    kept = [answered[index] for index in chosen]
    answers = [_answer(one) for one in kept]
    limits = _limits(encoder, precision)
    own = held(_measured(kept, answers, export_decoder), limits)
    known = versions()
    return Reference(
        export=export,
        limits=replace(limits, **{name: None for name, one in own.items() if one.missed}),
        made_by=f"PyTorch {known['torch']} on {known['machine']}",
        answers=answers,
    )


def _limits(encoder: Any, precision: str) -> Thresholds:
    """What a check holds, which does not know the plans of a runner: see `Thresholds`."""
    told = told_plans(encoder)
    row = (FRAGILE if any(one.block.method.fragile for one in told) else THRESHOLDS)[precision]
    row = replace(row, cosine=None, plans=None)
    if told:
        return replace(row, error=None)
    # All pictures are as good as the best.
    every = min(limit for limit in (row.error, row.least_error) if limit is not None)
    return replace(row, error=every, least_error=None)


def _answer(one: Answered) -> Answer:
    sample, asked = one.sample, one.asked
    return Answer(
        name=sample.name,
        frame=sample.frame,
        pixels=sample.pixels,
        prior=sample.feed.get(PRIOR),
        prompts=Encoded(asked[POINT_COORDS], asked[POINT_LABELS], batched=True),
        embedding=Rounded.of(asked[EMBEDDING]),
        masks=within(one.masks, sample.frame),
        iou=one.iou,
    )


def _measured(kept: Sequence[Answered], answers: Sequence[Answer], export_decoder: Runner) -> list[Measured]:
    """What a check measures of the runners that were verified; only the decoder has to run once more."""
    feeds = [
        one.asked | {EMBEDDING: answer.embedding.features} for one, answer in zip(kept, answers, strict=True)
    ]
    return [
        compare(
            answer,
            one.made[EMBEDDING],
            within(one.made[MASKS], answer.frame),
            within(alone[MASKS], answer.frame),
            alone[IOU],
        )
        for one, answer, alone in zip(kept, answers, run_all(export_decoder, feeds), strict=True)
    ]
