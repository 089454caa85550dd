"""Find how each linear layer of a merging encoder goes into 8 bits, from pictures.

Block by block on features in floating point, with merging active: what the four layers of a block are given
is sampled, and the range of each is the one whose codes change the layer's output least. (The output and not
the input, because channels count by their weights; and not the extremes, which a few outliers set.) Then each
layer alone is quantised, and the error of the block's output is what it costs.

nncf and neural-compressor would do this too, with 0.6 to 1 GB of packages for four inputs a block.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from structsam_runtime.contract import IMAGE, PRIOR
from structsam_runtime.errors import UserError
from structsam_runtime.progress import Phases
from structsam_runtime.runners.base import Array

from .choices import AUTO, Linear
from .comparing import Arrays, digest
from .encoder.attention import MergedBlock
from .encoder.patch import merged_blocks, shared_copy
from .encoder.walk import Stage, enter, walk
from .graph.quantize import (
    FLOAT8,
    Quantization,
    Rows,
    linear,
    made_of,
    migrate,
    put,
)

PICTURES = 8
"""Pictures to calibrate on at most; 80 give no better masks than 8."""
PROBES = 2
"""Pictures that errors are measured on."""
ROWS = 1024
"""Rows of a layer's input that its range is chosen by, over all pictures: half of them those with the largest
values, which are cut off first, and half random ones, which count for all others."""
CLIPS = {
    torch.int8: tuple(0.9**step for step in range(20)),
    FLOAT8: tuple(1.1**step for step in range(8)),
}
"""Ends of the range that are tried for each type of codes, as multiples of the largest input. A longer range
costs floats nothing: twice the range has the same steps, but for the smallest values."""
MARGIN = 1.5
"""How much further the range of `proj` reaches than calibration asks for. Sharp attention on few tokens gives
larger values on some pictures than on those that calibrate, and cutting them off costs more than coarser
codes: with `proj` alone in 8 bits masks of vit_nano agree by 98.2 % without this, 99.6 % with 1.5 and 99.5 %
with 2, on six held-out pictures."""
MIGRATION = 0.8
"""Power of the inputs in the factors of channels, SmoothQuant's alpha."""


BUDGET = {torch.int8: 2.5e-4, FLOAT8: 2.5e-3}
"""Sum of the errors of layers in 8 bits that `auto` allows, by the type of codes."""


@dataclass(frozen=True)
class Layer:
    """What calibration found of a layer.

    Attributes:
        how: how it goes into 8 bits.
        error: relative squared error of the output of its block, as deviations from the mean token, with this
            layer alone in 8 bits.
    """

    how: Quantization
    error: float


@dataclass(frozen=True)
class Calibration:
    """What calibration found of an encoder.

    Attributes:
        pictures: sha256 of the pixels of each picture, by its name.
        layers: every linear layer, by name.
        skipped: names of those that stay in floating point.
    """

    pictures: Mapping[str, str]
    layers: Mapping[str, Layer]
    skipped: tuple[str, ...]

    @property
    def codes(self) -> str:
        """The type of the 8 bits."""
        return str(next(iter(self.layers.values())).how.codes).removeprefix("torch.")

    @property
    def chosen(self) -> dict[str, Quantization]:
        """How the layers that go into 8 bits do so, by name."""
        return {name: one.how for name, one in self.layers.items() if name not in self.skipped}

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "weights": f"{self.codes}, symmetric, by output channel",
            "activations": f"{self.codes}, symmetric, by tensor",
            "ranges": "least error of the layer's output",
            "pictures": dict(self.pictures),
            "float": list(self.skipped),
            "error": sum(one.error for name, one in self.layers.items() if name not in self.skipped),
            "layers": {
                name: {
                    "low": one.how.low,
                    "high": one.how.high,
                    "migrated": one.how.factors is not None,
                    "error": one.error,
                }
                for name, one in self.layers.items()
            },
        }

    def table(self) -> str:
        """A line for each kind of layer: the sum of its errors over blocks, and the worst block."""
        lines = [f"{'8 bits':<8}{'layers':>7}{'error, sum':>12}  worst"]
        for kind in Linear:
            mine = {name: one.error for name, one in self.layers.items() if name.endswith(f".{kind}")}
            left = {name: error for name, error in mine.items() if name not in self.skipped}
            worst = max(mine, key=mine.__getitem__)
            told = "" if worst in left else ", in floating point"
            lines.append(
                f"{kind:<8}{len(left):>7}{sum(left.values()):>12.1e}  {worst} {mine[worst]:.1e}{told}"
            )
        return "\n".join(lines)


def left_out(layers: Mapping[str, Layer], patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the layers that stay in floating point.

    Args:
        layers: all, by name.
        patterns: names, with * for any text, and AUTO.
    """
    skipped = {name for pattern in patterns for name in fnmatch.filter(layers, pattern)}
    if AUTO in patterns:
        budget = BUDGET[next(iter(layers.values())).how.codes]
        left = sorted(layers.keys() - skipped, key=lambda name: layers[name].error)
        sums = itertools.accumulate(layers[name].error for name in left)
        skipped |= {name for name, total in zip(left, sums, strict=True) if total > budget}
    return tuple(name for name in layers if name in skipped)


def bundled() -> Arrays:
    """Pictures of scikit-image, others than `verify.read_pictures` has: uint8 RGB [H, W, 3] by name."""
    from skimage import data

    names = ("rocket", "camera", "coins", "immunohistochemistry", "retina", "hubble_deep_field")
    pictures = {name: getattr(data, name)() for name in names}
    # The first of two pictures; scikit-image has no types for it.
    pictures["stereo_motorcycle"] = data.stereo_motorcycle()[0]  # type: ignore[no-untyped-call]
    return {
        f"skimage.{name}": picture if picture.ndim == 3 else np.stack([picture] * 3, -1)
        for name, picture in pictures.items()
    }


def parted(calibrating: Iterable[tuple[str, Array]], verifying: Arrays) -> tuple[Arrays, Arrays]:
    """Pictures to calibrate on, at most PICTURES, and others to verify on.

    Args:
        calibrating: names and pictures, uint8 RGB [H, W, 3]; no more are read than needed. Those that are not
            among `verifying` come first, then every second one of the others.
        verifying: pictures by name.

    Raises:
        UserError: there is only one picture.
    """
    asked = {name: digest(picture) for name, picture in verifying.items()}
    own: Arrays = {}
    shared: Arrays = {}
    known: dict[str, str] = {}
    for name, picture in calibrating:
        code = digest(picture)
        if code not in known.values():
            known[name] = code
            (shared if code in asked.values() else own)[name] = picture
        if len(own) == PICTURES:
            break
    own |= dict(list(shared.items())[bool(own) :: 2][: PICTURES - len(own)])
    taken = {known[name] for name in own}
    left = {name: picture for name, picture in verifying.items() if asked[name] not in taken}
    if not left:
        raise UserError(
            "8 bits are verified on other pictures than they are calibrated on, and there is only one; "
            "give another folder with --calibrate"
        )
    return own, left


class Tap(nn.Module):
    """A layer that remembers what it is given.

    Args:
        layer: the layer.
        rows: number of rows to keep of every call: half of them the largest, half random others.
        seed: of the random choice.
    """

    def __init__(self, layer: Rows, rows: int, seed: int) -> None:
        super().__init__()
        self.layer, self.rows = layer, rows
        self.generator = torch.Generator().manual_seed(seed)
        self.kept: list[Tensor] = []  # [n, I] each
        self.counts: list[Tensor] = []  # [n] each: how many rows a row stands for
        self.least: list[Tensor] = []
        self.most: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """[N, I] to [N, O]."""
        half = self.rows // 2
        order = x.abs().amax(1).argsort(descending=True)
        others = order[half:][torch.randperm(max(len(x) - half, 0), generator=self.generator)[:half]]
        self.kept += [x[order[:half]], x[others]]
        share = (len(x) - half) / max(len(others), 1)
        self.counts += [x.new_ones(len(self.kept[-2])), x.new_full((len(others),), share)]
        self.least.append(x.amin(0))
        self.most.append(x.amax(0))
        made: Tensor = self.layer(x)
        return made


@torch.no_grad()
def calibrate(
    encoder: Any,
    feeds: Sequence[Arrays],
    phases: Phases | None = None,
    codes: torch.dtype = torch.int8,
) -> dict[str, Layer]:
    """Find how every linear layer goes into 8 bits.

    Args:
        encoder: patched ImageEncoderViT in fp32; not changed.
        feeds: the encoder's inputs for each picture, at least one.
        phases: are told how far it is.
        codes: type of the 8 bits; see `quantize.LARGEST`.

    Returns:
        By name, as `blocks.0.fc2`.
    """
    made = shared_copy(encoder)
    blocks = merged_blocks(made)
    priors = [torch.from_numpy(feed[PRIOR]) if PRIOR in feed else None for feed in feeds]
    stages = [enter(made, torch.from_numpy(feed[IMAGE])) for feed in feeds]
    found: dict[str, Layer] = {}
    if phases:
        phases.start("blocks", None, len(blocks))
    for index, block in enumerate(blocks):
        taps = {kind: Tap(linear(block, kind), -(-ROWS // len(feeds)), index) for kind in Linear}
        for kind, tap in taps.items():
            put(block, kind, tap)
        after = [next(walk(made.blocks, stage, prior)) for stage, prior in zip(stages, priors, strict=True)]
        for kind, tap in taps.items():
            put(block, kind, tap.layer)
        probes = list(zip(stages, after, priors, strict=True))[:PROBES]
        for kind, tap in taps.items():
            how = _choice(kind, tap, codes)
            found[kind.of(index)] = Layer(how, _error(block, kind, how, probes))
        stages = after
        if phases:
            phases.advance("blocks", index + 1)
    if phases:
        phases.finish("blocks")
    return found


def _choice(kind: Linear, tap: Tap, codes: torch.dtype) -> Quantization:
    """The best way into 8 bits for a layer, by the error of its output on the rows that were kept."""
    rows, counts = torch.cat(tap.kept), torch.cat(tap.counts)
    least, most = torch.stack(tap.least).amin(0), torch.stack(tap.most).amax(0)  # [I]
    weight = tap.layer.weight
    if kind is Linear.FC2 and codes is torch.int8:
        return _ranged(rows, counts, weight, float(least.min()), float(most.max()), shifted=True)[0]
    largest = torch.maximum(-least, most)
    plain = _ranged(rows, counts, weight, 0.0, float(largest.max()), codes=codes)
    if kind in (Linear.QKV, Linear.FC2):
        return plain[0]
    factors = smoothing(largest, weight)
    smooth, loss = _ranged(
        rows / factors, counts, weight * factors, 0.0, float((largest / factors).max()), codes=codes
    )
    how = replace(smooth, factors=factors) if loss < plain[1] else plain[0]
    margin = MARGIN if kind is Linear.PROJ and codes is torch.int8 else 1
    return replace(how, low=margin * how.low, high=margin * how.high)


def smoothing(largest: Tensor, weight: Tensor) -> Tensor:
    """Factors [I] by which inputs are divided and weights multiplied, of geometric mean 1.

    Args:
        largest: [I] largest absolute input of each channel.
        weight: [O, I].
    """
    inputs, weights = (
        one.clamp_min(1e-5 * float(one.max()) + 1e-30) for one in (largest, weight.abs().amax(0))
    )
    factors = inputs**MIGRATION / weights ** (1 - MIGRATION)
    return factors / factors.log().mean().exp()


def _ranged(
    rows: Tensor,
    counts: Tensor,
    weight: Tensor,
    low: float,
    high: float,
    shifted: bool = False,
    codes: torch.dtype = torch.int8,
) -> tuple[Quantization, float]:
    """The range with the least squared error of the output, weight in 8 bits included, and that error.

    Args:
        rows, counts: [N, I] inputs, and [N] how often each of them counts.
        weight: [O, I].
        low, high: extremes of all inputs; `low` stays as it is with `shifted`, and is -`high` without.
        codes: type of the 8 bits.
    """
    exact, zeros = rows @ weight.T, weight.new_zeros(len(weight))
    best: tuple[float, Quantization] | None = None
    for clip in CLIPS[codes]:
        end = max(high * clip, 1e-12)
        how = Quantization(low if shifted else -end, end, codes=codes)
        made = made_of(how, Rows(weight, zeros))(rows)
        loss = float((made - exact).square().sum(1) @ counts)
        if best is None or loss < best[0]:
            best = loss, how
    if best is None:
        raise ValueError("no range to try")
    return best[1], best[0]


def _error(
    block: MergedBlock,
    kind: Linear,
    how: Quantization,
    probes: Sequence[tuple[Stage, Stage, Tensor | None]],
) -> float:
    """`Layer.error`; `block` is in floating point and stays so, and its plans are those of the probes."""
    alone = shared_copy(block)
    migrate(alone, {} if how.factors is None else {kind: how.factors})
    put(alone, kind, made_of(how, linear(alone, kind)))
    wrong = signal = 0.0
    for before, after, prior in probes:
        x, _ = alone.forward_with_plans(before.x, prior, after.plans[-1])
        wrong += float((x - after.x).square().sum())
        signal += float((after.x - after.x.mean((1, 2), keepdim=True)).square().sum())
    return wrong / signal
