"""Traced encoders in ONNX Runtime, against PyTorch, on photographs."""

import copy
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from structsam_export.choices import (
    Border,
    Destination,
    Flatness,
    Gradient,
    Place,
    Precision,
    Reduction,
    Scope,
    Selection,
)
from structsam_export.encoder import apply
from structsam_export.encoder.exported import PlannedEncoder, output_names
from structsam_export.graph.lint import lint
from structsam_export.graph.precision import set_precision
from structsam_export.graph.trace import trace
from structsam_export.merging import (
    ALGM,
    Adjacent,
    Bipartite,
    Hybrid,
    MergePlan,
    Method,
    PiToMe,
    StructSAM,
    ToMe,
    ToMeSD,
    VidToMe,
    Windows,
)
from structsam_export.models.checkpoints import randomize

SIDE = 320  # 20 x 20 tokens: four windows, three of them padded
GRID, HEADS, CHANNELS = 28, 6, 96  # of maps on which methods alone are compared: four windows
ERROR = 1e-3  # of embeddings whose deviation is one; what verification asks of an fp32 export

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]


def infer(model: onnx.ModelProto, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Every output of a model on ONNX Runtime's CPU provider, by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {n: v.numpy() for n, v in inputs.items()}), strict=True))


def traced(encoder: Any, batch: int = 1, dynamic: bool = False) -> onnx.ModelProto:
    """The graph of a patched encoder, in fp32."""
    shared = {id(tensor): tensor for tensor in encoder.state_dict(keep_vars=True).values()}
    module = set_precision(PlannedEncoder(copy.deepcopy(encoder, shared)), Precision.FP32)
    image = {"image": torch.zeros(batch, 3, encoder.img_size, encoder.img_size)}
    return trace(module, image, output_names(encoder), {"image": {0: "batch"}} if dynamic else None)


def check_agrees(model: onnx.ModelProto, encoder: Any, image: Tensor) -> None:
    """The same representative for every token of every block, and the same embedding."""
    made = infer(model, {"image": image})
    expected = dict(zip(output_names(encoder), PlannedEncoder(encoder)(image), strict=True))
    assert made.keys() == expected.keys()
    for name in made:
        if name.endswith(".slot"):
            position = name.replace("slot", "position")
            own = expected[position].gather(1, expected[name].long())
            assert np.array_equal(np.take_along_axis(made[position], made[name], 1), own), name
    error = np.abs(made["image_embedding"] - expected["image_embedding"].numpy()).max()
    assert error <= ERROR


@pytest.mark.export
def test_an_encoder_of_four_blocks_agrees(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder = build_encoder(512)  # 32 x 32 tokens: nine windows
    apply(encoder, [structsam] * 4)
    model = traced(encoder)
    for image in photographs(512):
        check_agrees(model, encoder, image[None])


ABLATIONS = {
    "random cells": StructSAM(0.55, selection=Selection.RANDOM),
    "random destination": StructSAM(0.55, destination=Destination.RANDOM),
    "every cell merges": StructSAM(0.75),
    "cosine within a cell": StructSAM(0.55, flatness=Flatness.COSINE),
    "mean place": StructSAM(0.55, place=Place.MEAN),
    "proportional attention": StructSAM(0.55, proportional=True),
    "hybrid": Hybrid(0.55, heads=2),
    "adjacent": Adjacent(0.55, heads=2),
}
"""Those whose plans alone are not compared below, and a few that are."""


@pytest.mark.export
@pytest.mark.parametrize("first", range(0, len(ABLATIONS), 2))
def test_every_ablation_is_exported(build_encoder: Build, photographs: Photographs, first: int) -> None:
    """Two in an encoder: one in a window block, the next in a global one."""
    encoder = build_encoder(SIDE, depth=2, global_attn_indexes=(1,))
    both = [*ABLATIONS.values(), *ABLATIONS.values()][first : first + 2]
    apply(encoder, both)
    model = traced(encoder)
    for image in photographs(SIDE):
        check_agrees(model, encoder, image[None])


@pytest.mark.export
def test_one_file_takes_any_batch(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder, images = build_encoder(SIDE, depth=2, global_attn_indexes=(1,)), photographs(SIDE)
    apply(encoder, [structsam] * 2)
    model = traced(encoder, batch=2, dynamic=True)
    for batch in (images, images[:1], images[1:2]):
        check_agrees(model, encoder, batch)


class PlanOnly(nn.Module):
    """Nothing but a merging method on a feature map, cut as window blocks and as global ones cut it."""

    def __init__(self, method: Method, grid: int) -> None:
        super().__init__()
        self.method = method
        self.windows = [Windows(grid, grid, 14), Windows(grid, grid, grid)]

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        made = []
        for windows in self.windows:
            plan = self.method.plan(features, windows)
            made += [plan.slot, plan.position, plan.merge(windows.cut(features))]
        return tuple(made)


PLANS = [f"{kind}.{what}" for kind in ("window", "global") for what in ("slot", "position", "merged")]


def embedded(photograph: Tensor, channels: int) -> Tensor:
    """[1, H, W, channels]: a photograph as it enters an encoder's first attention, whose weights are random.

    Position embeddings set apart what the photograph holds twice, such as its black patches.
    """
    grid = photograph.shape[2] // 16
    stem = nn.ModuleDict({"patch": nn.Conv2d(3, channels, 16, 16), "norm": nn.LayerNorm(channels, eps=1e-6)})
    stem.pos_embed = nn.Parameter(torch.empty(1, grid, grid, channels))
    randomize(stem)
    with torch.no_grad():
        tokens = stem["patch"](photograph).permute(0, 2, 3, 1) + stem.pos_embed
        return stem["norm"](tokens).contiguous()


@pytest.fixture(scope="module")
def features(photographs: Photographs) -> Tensor:
    """[1, GRID, GRID, CHANNELS], of the first photograph."""
    return embedded(photographs(16 * GRID)[:1], CHANNELS)


METHODS = {
    "structsam": StructSAM(0.55),
    "central difference": StructSAM(0.55, gradient=Gradient.CENTRAL),
    "energy on the mean over heads": StructSAM(0.55, heads=HEADS),
    "mean flatness": StructSAM(0.55, flatness=Flatness.MEAN),
    "no cells": StructSAM(0.55, cells=False),
    "busiest destination": StructSAM(0.55, destination=Destination.MAX),
    "gradient within windows": StructSAM(0.55, scope=Scope.WINDOW, border=Border.ZERO),
    "variance of a cell": StructSAM(0.55, flatness=Flatness.VARIANCE),
}


def some(names: Iterable[str], quick: Container[str]) -> list[Any]:
    """Parameters, of which those that are not `quick` belong to the longer run: each is traced, once."""
    return [
        pytest.param(
            name, marks=[pytest.mark.xdist_group(name), *([] if name in quick else [pytest.mark.export])]
        )
        for name in names
    ]


@pytest.mark.parametrize("what", some(METHODS, quick=("structsam", "energy on the mean over heads")))
def test_plans_are_identical_when_both_get_the_same_features(features: Tensor, what: str) -> None:
    """Slot by slot on whole numbers, whose energy is exact in any order of summation; many are ties. On the
    features themselves the order of near ties is the runtime's, but the same cells merge onto the same
    tokens; without cells, groups are made of that order, so there only exact energies can be compared."""
    module = PlanOnly(METHODS[what], GRID)
    model = trace(module, {"features": features}, PLANS)
    # Times HEADS, so that their mean is whole too; small enough that energies stay below 2^24.
    whole = features.clamp(-2, 2).round() * (HEADS if what == "energy on the mean over heads" else 1)
    check_equal(infer(model, {"features": whole}), module(whole))
    if METHODS[what].cells:
        made, expected = infer(model, {"features": features}), module(features)
        assert agreements(made, expected) == [1.0, 1.0]


def check_equal(made: Mapping[str, NDArray[Any]], expected: tuple[Tensor, ...]) -> None:
    """The same slots in the same order; means of whole numbers up to 24, summed in another order: 1e-5."""
    for name, own in zip(PLANS, expected, strict=True):
        assert made[name].shape == own.shape, name
        tolerance = 1e-5 if own.is_floating_point() else 0
        assert np.abs(made[name] - own.numpy()).max() <= tolerance, name


def agreements(made: Mapping[str, NDArray[Any]], expected: tuple[Tensor, ...]) -> list[float]:
    """Share of tokens with the same representative, for windows and for the whole map."""
    shares = []
    for kind, slot, position in zip(("window", "global"), expected[::3], expected[1::3], strict=True):
        theirs = np.take_along_axis(made[f"{kind}.position"], made[f"{kind}.slot"], 1)
        shares.append(float((theirs == position.gather(1, slot.long()).numpy()).mean()))
    return shares


MATCHING: dict[str, tuple[Method, float]] = {
    "structsam, replace": (StructSAM(0.35, reduction=Reduction.REPLACE, heads=HEADS), 1.0),
    "structsam, cosine": (StructSAM(0.55, flatness=Flatness.COSINE, heads=HEADS), 1.0),
    "bipartite": (Bipartite(0.55, heads=HEADS), 0.995),
    "hybrid": (Hybrid(0.55, heads=HEADS), 0.995),
    "hybrid, mean": (Hybrid(0.35, reduction=Reduction.MEAN, heads=HEADS), 0.995),
    "tome": (ToMe(0.55, heads=HEADS), 0.995),
    "tome, replace": (ToMe(0.35, Reduction.REPLACE, heads=HEADS), 0.995),
    "tomesd": (ToMeSD(0.55, heads=HEADS), 0.995),
    "adjacent": (Adjacent(0.55, heads=HEADS), 0.995),
    "adjacent, replace": (Adjacent(0.35, reduction=Reduction.REPLACE, heads=HEADS), 0.995),
    "pitome": (PiToMe(0.55, heads=HEADS), 0.97),
    "vidtome, mean": (VidToMe(0.55, reduction=Reduction.MEAN, heads=HEADS), 0.995),
    "vidtome": (VidToMe(0.35, heads=HEADS), 0.995),
    "algm": (ALGM(0.55, heads=HEADS), 0.995),
    "algm, cells only": (ALGM(0.55, local=1.0, heads=HEADS), 1.0),
}
"""Methods, and the share of tokens whose representative two runtimes agree on.

Cosines are products whose order of summation is the runtime's, so that they differ in their last bits: where
a token is as much like one as like another to 1e-6, either may be the one. The photograph has black patches,
which only their position embeddings tell apart. In PiToMe, where ranks alternate between source and
destination, one swap of neighbours renames two pairs. Energies, and the likeness within cells, are the same
everywhere. Seen were 99.8 % or more, and 98.7 % with PiToMe.
"""
INEXACT = ("pitome", "algm")


@pytest.fixture(scope="module", params=some(MATCHING, quick=("structsam, cosine", "adjacent", "tome")))
def exported(request: pytest.FixtureRequest, features: Tensor) -> tuple[str, PlanOnly, onnx.ModelProto]:
    """A method, and its graph."""
    module = PlanOnly(MATCHING[request.param][0], GRID)
    return request.param, module, trace(module, {"features": features}, PLANS)


def test_every_method_merges_a_photograph_alike(
    features: Tensor, exported: tuple[str, PlanOnly, onnx.ModelProto]
) -> None:
    """Plans as far as they can agree. Under the export's plans what PyTorch merges, to 1e-5 for features of
    up to 5: some tokens are summed in another order."""
    what, module, model = exported
    made = infer(model, {"features": features})
    assert min(agreements(made, module(features))) >= MATCHING[what][1]
    for kind, windows in zip(("window", "global"), module.windows, strict=True):
        slot, position = (torch.from_numpy(made[f"{kind}.{name}"]) for name in ("slot", "position"))
        plan = MergePlan.recorded(slot, position, module.method.reduction)
        error = np.abs(made[f"{kind}.merged"] - plan.merge(windows.cut(features)).numpy()).max()
        assert error <= (1e-5 if module.method.reduction is Reduction.MEAN else 0.0), kind


def test_every_method_has_the_same_plans_where_cosines_are_exact(
    features: Tensor, exported: tuple[str, PlanOnly, onnx.ModelProto]
) -> None:
    """Slot by slot. The signs of 16 channels in every head: their mean is the signs again, their length 4,
    and every cosine a multiple of 1/8. Ties abound, and the index breaks them; some tokens are zero.

    PiToMe's exponentials and the lengths of ALGM's means round, so that near ties are the runtime's: of them
    only a blank image is exact.
    """
    what, module, model = exported
    signs = features[..., :16].sign().repeat(1, 1, 1, HEADS)
    signs[:, 18:, 22:] = 0
    blank = torch.zeros_like(features)
    for picture in [blank] if what in INEXACT else [blank, signs]:
        check_equal(infer(model, {"features": picture}), module(picture))


def test_tensorrt_takes_every_method(exported: tuple[str, PlanOnly, onnx.ModelProto]) -> None:
    """From version 10.3 on."""
    errors = [str(finding) for finding in lint(exported[2], "10.3") if finding.severity == "error"]
    assert errors == []


@pytest.mark.export
@pytest.mark.parametrize(("method", "share"), [(StructSAM(0.55), 1.0), (Adjacent(0.55, heads=12), 0.995)])
def test_at_full_width_plans_agree_too(photographs: Photographs, method: Method, share: float) -> None:
    """A ViT-B's map at 1024 pixels."""
    features = embedded(photographs(1024)[:1], 768)
    module = PlanOnly(method, 64)
    made = infer(trace(module, {"features": features}, PLANS), {"features": features})
    assert min(agreements(made, module(features))) >= share


class AllSlots(nn.Module):
    """Methods of every kind on one map with padded windows."""

    def forward(self, features: Tensor) -> list[Tensor]:
        windows, merged = Windows(20, 20, 14), []
        for what in ("bipartite", "tome", "tomesd", "pitome", "vidtome", "algm", "hybrid", "adjacent"):
            plan = MATCHING[what][0].plan(features, windows)
            merged.append(plan.merge(windows.cut(features)))
        return merged


@pytest.mark.export
def test_no_method_fixes_the_batch(features: Tensor) -> None:
    """A dimension that a method reads as a number would stay what it was when the model was traced."""
    corners = [features[0, top : top + 20, left : left + 20] for top in (0, 8) for left in (0, 8)]
    module, maps = AllSlots(), torch.stack(corners)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (maps[:2],), dynamic_shapes=({0: batch},)).module()
    for images in (maps, maps[:1]):
        for made, expected in zip(program(images), module(images), strict=True):
            assert torch.equal(made, expected)


def test_equal_scores_are_ordered_alike(structsam: StructSAM) -> None:
    """Flat images: every choice is a tie, in ONNX Runtime as in PyTorch."""
    module = PlanOnly(structsam, 20)
    model = trace(module, {"features": torch.zeros(1, 20, 20, 8)}, PLANS)
    stepped = torch.zeros(1, 20, 20, 8)
    stepped[:, 5:, 7:] = 1  # two flat areas
    for picture in (torch.zeros(1, 20, 20, 8), torch.full((1, 20, 20, 8), -2.5), stepped):
        check_equal(infer(model, {"features": picture}), module(picture))


@pytest.mark.export
@pytest.mark.parametrize("seed", range(3))
def test_equal_similarities_are_ordered_alike(seed: int) -> None:
    """A flat area of features that no cosine is exact of: products differ in their last bit by column."""
    flat = torch.randn(64, generator=torch.Generator().manual_seed(seed)).expand(1, 28, 28, 64)
    module = PlanOnly(Adjacent(0.75, seed=seed), 28)
    model = trace(module, {"features": flat}, PLANS)
    check_equal(infer(model, {"features": flat.contiguous()}), module(flat))


def test_tracing_leaves_the_module_as_it_was(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder, image = build_encoder(64, depth=1, global_attn_indexes=()), photographs(64)
    apply(encoder, [structsam])
    before = encoder(image)
    traced(encoder)
    assert torch.equal(encoder(image), before)
