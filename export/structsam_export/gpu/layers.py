"""Merging layers by themselves: the kernels against PyTorch on the CPU, and the times of both.

python -m structsam_export.gpu.layers LIBRARY DEVICE

checks small layers, for compute-sanitizer, which is slow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from structsam_plugins import Kernels, Layer
from structsam_runtime.benchmarking.timing import interleaved, spread

from ..merging import StructSAM, Windows
from ..merging.kernels import TensorKernels, layer_of

AGREEMENT = 0.999
"""Least share of tokens with the same slot: energies differ by rounding, and so do a few slots."""
CALLS = 20
"""Calls of a step in one timing; a single call is shorter than its launch."""


@dataclass(frozen=True)
class Merged:
    """A merging layer, and its input.

    Attributes:
        what: name in tables.
        method, windows: its merging method and attention windows.
        x: [B, H, W, C] fp32 on the CPU, the input.
    """

    what: str
    method: StructSAM
    windows: Windows
    x: Tensor

    @property
    def layer(self) -> Layer:
        """The layer for the kernels."""
        return layer_of(self.method, self.windows, self.x.shape)


@torch.no_grad()
def checked(kernels: TensorKernels, merged: Merged, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Compare the kernels with PyTorch on the CPU: plans, means, and unmerged sums.

    Args:
        kernels: built for the device.
        merged: the layer.
        dtype: fp32 or fp16, of the features.
        device: cuda or cpu.

    Returns:
        A row of the checks.
    """
    layer, windows, x = merged.layer, merged.windows, merged.x.to(dtype)
    there = x.to(device)
    slot_there, token_there, _ = kernels.select(layer, *kernels.score(layer, there))
    slots_there = kernels.merge(layer, there, token_there)
    total = kernels.unmerge(layer, slots_there, slot_there, there).cpu()
    slot, token, slots = slot_there.cpu(), token_there.cpu(), slots_there.cpu()

    plan = merged.method.plan(x.float(), windows)
    agreement = (slot == plan.slot).float().mean().item()
    # With the kernels' own plan, so that every step is checked separately.
    tokens = windows.cut(x.float())
    pooled_tokens = layer.merged * layer.cell**2
    pooled = tokens.gather(1, token[:, :pooled_tokens, None].long().expand(-1, -1, layer.channels))
    means = pooled.view(len(token), layer.merged, -1, layer.channels).mean(2)
    largest = means.abs().max().clamp(min=torch.finfo(torch.float32).tiny)  # zero if only padding merges
    error = ((slots[:, : layer.merged].float() - means).abs().max() / largest).item()
    flat = slot + torch.arange(len(slot))[:, None] * layer.slots
    copies = slots.flatten(0, 1)[flat.flatten().long()]
    back = copies[windows.token_of_row(len(x), x.device).long()].view(x.shape)
    limit = 2.0 ** (-10 if dtype == torch.float16 else -20)
    misses = [
        *([f"plans agree for {agreement:.4%} of the tokens"] if not agreement >= AGREEMENT else []),
        *([f"means differ by {error:.1e}"] if not error <= limit else []),
        *([] if torch.equal(total, x + back) else ["the unmerged sum differs from PyTorch's"]),
    ]
    what = f"kernels, {merged.what}, {'fp16' if dtype == torch.float16 else 'fp32'}"
    return {"what": what, "plans": agreement, "error": error, "mask_iou": None, "misses": misses}


@torch.no_grad()
def steps(
    kernels: TensorKernels | None, merged: Merged, batch: int, device: str, repeat: int
) -> Iterator[dict[str, Any]]:
    """Time every step of a layer, with PyTorch's operators and, if they are there, with the kernels.

    Plans are made in fp32, merging and unmerging is in fp16.

    Args:
        kernels: built for the device.
        merged: the layer; its pictures repeat to fill the batch.
        batch: B, images of the timed layer.
        device: cuda or cpu.
        repeat: timings of every step.
    """
    pictures = [index % len(merged.x) for index in range(batch)]
    merged = Merged(merged.what, merged.method, merged.windows, merged.x[pictures].contiguous())
    layer, windows, x = merged.layer, merged.windows, merged.x.to(device)
    features = x.half()
    plan = merged.method.plan(x, windows)
    rows, source = windows.rows(batch, x.device), windows.source(features.flatten(0, 2))
    back = windows.token_of_row(batch, x.device)
    slots = plan.merge_rows(source, rows)
    calls: dict[str, dict[str, Callable[[], object]]] = {
        "plan": {"PyTorch": lambda: merged.method.plan(x, windows)},
        "merge": {"PyTorch": lambda: plan.merge_rows(source, rows)},
        "unmerge": {"PyTorch": lambda: features + plan.unmerge_rows(slots, back).view(x.shape)},
    }
    if kernels is not None:
        slot, token, _ = kernels.select(layer, *kernels.score(layer, x))
        calls["plan"]["kernels"] = lambda: kernels.select(layer, *kernels.score(layer, x))
        calls["merge"]["kernels"] = lambda: kernels.merge(layer, features, token)
        calls["unmerge"]["kernels"] = lambda: kernels.unmerge(layer, slots, slot, features)
    for step, each in calls.items():
        many = {name: partial(_many, call, device) for name, call in each.items()}
        seconds = interleaved(many, repeat, f"timing {step}")
        single = {name: [value / CALLS for value in times] for name, times in seconds.items()}
        for name, times in single.items():
            row = {"layer": merged.what, "batch": batch, "step": step, "by": name}
            yield row | spread(times, single["PyTorch"])


def _many(call: Callable[[], object], device: str) -> None:
    for _ in range(CALLS):
        call()
    if device == "cuda":
        torch.cuda.synchronize()


def small() -> Iterator[Merged]:
    """Layers of a few windows: padded and not, with and without the mean over heads, all cells merged."""
    generator = torch.Generator().manual_seed(0)
    for height, width, side, cell, heads, rate in (
        (20, 20, 12, 2, 2, 0.55),
        (16, 16, 16, 2, 1, 0.35),
        (18, 13, 6, 3, 4, 0.5),
        (16, 16, 8, 2, 1, 0.75),
    ):
        x = torch.randn(2, height, width, 64, generator=generator)
        what = f"{height} x {width} map, windows of {side}, cells of {cell}, rate {rate:g}"
        yield Merged(what, StructSAM(rate, cell, heads=heads), Windows(height, width, side), x)


def main(library: str, device: str) -> int:
    """Check the small layers; prints one line for every miss, and returns 1 if there is any."""
    kernels = TensorKernels(Kernels(Path(library)))
    types = (torch.float32, torch.float16)
    rows = [checked(kernels, merged, dtype, device) for merged in small() for dtype in types]
    for row in rows:
        for miss in row["misses"]:
            print(f"{row['what']}: {miss}")
    return int(any(row["misses"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
