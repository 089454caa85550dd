"""The kernels against the merging that is exported: the same plans, the same slots, the same sums."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from structsam_export.merging import MergePlan, StructSAM, Windows
from structsam_export.merging.cells import cell_tokens, largest_first, member_of
from structsam_export.merging.collapse import collapse, ordered
from structsam_export.merging.energy import gradient_energy
from structsam_export.merging.index import lookup
from structsam_export.merging.kernels import TensorKernels
from structsam_export.merging.metric import head_mean
from structsam_plugins import KernelError, Layer

Features = Callable[..., Tensor]

RATE = 0.55


@dataclass(frozen=True)
class Case:
    """A map of three photographs' features, and how it is merged."""

    height: int
    width: int
    side: int
    cell: int = 2
    heads: int = 1
    rate: float = RATE

    @property
    def windows(self) -> Windows:
        return Windows(self.height, self.width, self.side)

    @property
    def method(self) -> StructSAM:
        return StructSAM(self.rate, self.cell, heads=self.heads)

    def layer(self, x: Tensor) -> Layer:
        merged = self.method.merged(self.windows)
        return Layer(*x.shape, self.side, self.cell, merged, self.heads)

    def crop(self, x: Tensor) -> Tensor:
        return x[:, : self.height, : self.width].contiguous()


CASES = [
    pytest.param(Case(16, 16, 16), id="one window"),
    pytest.param(Case(16, 16, 8, heads=4), id="four windows, head mean"),
    pytest.param(Case(20, 20, 14, heads=2), id="padded windows, head mean"),
    pytest.param(Case(9, 13, 14), id="padded inside a cell"),
    pytest.param(Case(20, 17, 14, cell=7, rate=0.5), id="large cells"),
    pytest.param(Case(20, 20, 14, cell=14, rate=0.9), id="a window is a cell"),
    pytest.param(Case(1, 20, 4), id="a single row"),
    pytest.param(Case(16, 16, 8, rate=0.75), id="every cell merges"),
    pytest.param(Case(18, 18, 6, cell=3, rate=0.3), id="cells of three"),
]


def plan_of(kernels: TensorKernels, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return kernels.select(layer, *kernels.score(layer, x))


def tokens_of(plan: MergePlan) -> Tensor:
    """Every token in the order of the plan's cells."""
    rule = plan.rule
    return torch.cat([rule.pooled.flatten(1), rule.kept], 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", CASES)
def test_plans_are_identical(case: Case, kernels: TensorKernels, features: Features, device: str) -> None:
    """With features whose sums are exact, whatever their order; cells beside the photograph tie."""
    x = case.crop(features(20, exact=True)).to(device)
    expected = case.method.plan(x, case.windows)
    slot, token, position = plan_of(kernels, case.layer(x), x)
    assert torch.equal(slot, expected.slot)
    assert torch.equal(position, expected.position)
    assert torch.equal(token, tokens_of(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_scores_are_the_energies(
    case: Case, dtype: torch.dtype, kernels: TensorKernels, features: Features, device: str
) -> None:
    x = case.crop(features(20)).to(device, dtype)
    score, member = kernels.score(case.layer(x), x)
    exact = case.windows.cut(gradient_energy(head_mean(x.double(), case.heads)))
    cells = cell_tokens(case.side, case.cell, exact.device).expand(exact.shape[0], -1, -1)
    energy = lookup(exact, cells)
    torch.testing.assert_close(score.double(), -energy.amax(-1), rtol=2e-6, atol=0)
    chosen = energy.gather(-1, member[..., None].long())[..., 0]
    torch.testing.assert_close(chosen, energy.amin(-1), rtol=2e-6, atol=0)


def test_scores_of_photographs_lead_to_the_plan_of_those_scores(
    kernels: TensorKernels, features: Features, device: str
) -> None:
    """And nearly always to the plan that PyTorch makes, whose sums have another order."""
    x = features(20).to(device)
    case = Case(20, 20, 14)
    layer = case.layer(x)
    score, member = kernels.score(layer, x)
    slot, _, position = kernels.select(layer, score, member)
    cells = cell_tokens(case.side, case.cell, x.device)
    order = largest_first(score)
    chosen = member_of(cells.expand(layer.windows, -1, -1), member[..., None].long())
    expected = collapse(ordered(cells, order), place=lookup(chosen, order)[:, : layer.merged])
    assert torch.equal(slot, expected.slot)
    assert torch.equal(position, expected.position)
    theirs = case.method.plan(x, case.windows)
    assert (slot == theirs.slot).float().mean() > 0.999


def test_equal_scores_merge_by_index(kernels: TensorKernels, device: str) -> None:
    """Plus and minus zero are equal; a score that is no number has a place all the same."""
    layer = Layer(1, 6, 6, 8, 6, 2, 4, 1)
    nan, inf = float("nan"), float("inf")
    score = torch.tensor([[-1.0, 0.0, -0.0, 0.0, -inf, -1.0, 2.0, 0.0, -1.0]], device=device)
    member = torch.zeros(1, 9, dtype=torch.int32, device=device)
    _, token, _ = kernels.select(layer, score, member)
    cells = cell_tokens(6, 2, score.device)
    assert torch.equal(token[0].view(9, 4), cells[[6, 1, 2, 3, 7, 0, 5, 8, 4]])
    score[0, ::2] = nan
    slot, token, position = kernels.select(layer, score, member)
    assert torch.equal(token.sort(1).values[0], torch.arange(36, device=device, dtype=torch.int32))
    assert torch.equal(slot.unique(), torch.arange(layer.slots, device=device, dtype=torch.int32))
    assert position.unique().numel() == layer.slots


@pytest.mark.parametrize("case", CASES)
def test_merged_slots_are_means_and_copies(
    case: Case, kernels: TensorKernels, features: Features, device: str
) -> None:
    x = case.crop(features(20)).to(device)
    layer = case.layer(x)
    plan = case.method.plan(x, case.windows)
    token = tokens_of(plan)
    source, rows = case.windows.source(x.flatten(0, 2)), case.windows.rows(len(x), x.device)
    expected = plan.merge_rows(source, rows)
    slots = kernels.merge(layer, x, token)
    assert torch.equal(slots[:, layer.merged :], expected[:, layer.merged :])
    torch.testing.assert_close(slots, expected, rtol=1e-5, atol=1e-6)
    halves = kernels.merge(layer, x.half(), token)
    in_fp32 = plan.merge_rows(source.half().float(), rows)
    assert torch.equal(halves[:, layer.merged :], in_fp32[:, layer.merged :].half())
    torch.testing.assert_close(halves.float(), in_fp32, rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_unmerging_onto_the_residual_is_exact(
    case: Case, dtype: torch.dtype, kernels: TensorKernels, features: Features, device: str
) -> None:
    x = case.crop(features(20)).to(device, dtype)
    layer = case.layer(x)
    plan = case.method.plan(x.float(), case.windows)
    slots = torch.randn(layer.windows, layer.slots, 64, generator=torch.Generator().manual_seed(0))
    slots = slots.to(device, dtype)
    added = plan.unmerge_rows(slots, case.windows.token_of_row(len(x), x.device)).view(x.shape)
    assert torch.equal(kernels.unmerge(layer, slots, plan.slot, x), x + added)


def test_unmerging_may_write_over_the_residual(
    kernels: TensorKernels, features: Features, device: str
) -> None:
    x = features(8).to(device)
    layer = Layer(*x.shape, 8, 2, 5, 1)
    slot, token, _ = plan_of(kernels, layer, x)
    slots = kernels.merge(layer, x, token)
    expected = kernels.unmerge(layer, slots, slot, x)
    arrays = [tensor.data_ptr() for tensor in (slots, slot, x, x)]
    kernels.kernels.unmerge(layer, 0, *arrays, torch.cuda.current_stream().cuda_stream if x.is_cuda else 0)
    assert torch.equal(x, expected)


def test_every_half_is_read_and_written_as_it_is(kernels: TensorKernels, device: str) -> None:
    """Sums of all 65536 with others, against PyTorch's: subnormal, overflowing, infinite, NaN."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    slots = every.view(1, 1024, 64)
    other = every[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))].view(1, 32, 32, 64)
    layer = Layer(1, 32, 32, 64, 32, 1, 1, 1)  # cells of one token: nothing merges
    slot = torch.arange(1024, dtype=torch.int32).view(1, -1)
    for residual in (other, torch.zeros_like(other)):
        total = kernels.unmerge(layer, slots.to(device), slot.to(device), residual.to(device))
        expected = residual + slots.view(residual.shape)
        torch.testing.assert_close(total.cpu(), expected, rtol=0, atol=0, equal_nan=True)


def test_nothing_is_written_beside_the_outputs(
    kernels: TensorKernels, features: Features, device: str
) -> None:
    x = features(20).to(device)
    layer = Layer(*x.shape, 14, 2, 36, 1)
    sizes = [layer.windows * count for count in (layer.cells, layer.cells, *[layer.tokens] * 2, layer.slots)]
    around = [torch.full((size + 64,), -7, dtype=torch.int32, device=device) for size in sizes]
    score, member, slot, token, position = (tensor[32:].data_ptr() for tensor in around)
    stream = torch.cuda.current_stream().cuda_stream if x.is_cuda else 0
    kernels.kernels.score(layer, 0, x.data_ptr(), score, member, stream)
    kernels.kernels.select(layer, score, member, slot, token, position, stream)
    for tensor in around:
        assert (tensor[:32] == -7).all()
        assert (tensor[-32:] == -7).all()
        assert (tensor[32:-32] != -7).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cell": 3}, "are inconsistent"),
        ({"merged": 0}, "are inconsistent"),
        ({"merged": 17}, "are inconsistent"),
        ({"heads": 3}, "are inconsistent"),
        ({"batch": -1}, "are inconsistent"),
        ({"side": 65536}, "are inconsistent"),
        ({"batch": 2**30}, "are inconsistent"),
        ({"side": 64, "cell": 64, "merged": 1}, "cells are too large"),
    ],
)
def test_an_invalid_layer_is_refused(
    change: dict[str, int], said: str, kernels: TensorKernels, features: Features, device: str
) -> None:
    x = features(8).to(device)
    layer = Layer(*x.shape, 8, 2, 5, 1)
    for name, value in change.items():
        setattr(layer, name, value)
    with pytest.raises(KernelError, match=said):
        kernels.kernels.score(layer, 0, x.data_ptr(), 0, 0)


def test_features_that_cannot_be_moved_in_packs_are_refused(kernels: TensorKernels, device: str) -> None:
    x = torch.zeros(1, 8, 8, 12, device=device)
    layer = Layer(*x.shape, 8, 2, 5, 1)
    start = x.data_ptr()
    with pytest.raises(KernelError, match="16 bytes; the layer is batch 1, height 8"):
        kernels.kernels.merge(layer, 1, start, 0, start)  # 12 halves are 24 bytes
    with pytest.raises(KernelError, match="the address of features"):
        kernels.kernels.unmerge(layer, 0, start, 0, start + 4, start)
    with pytest.raises(KernelError, match="neither fp32 nor fp16"):
        kernels.kernels.merge(layer, 2, start, 0, start)
