"""Traced encoders in ONNX Runtime, against PyTorch, on photographs."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from structsam_export.checkpoints import randomize
from structsam_export.choices import Destination, Flatness, Gradient, Selection
from structsam_export.encoder import apply
from structsam_export.encoder.exported import PlannedEncoder, output_names
from structsam_export.graph.precision import prepare
from structsam_export.graph.trace import trace
from structsam_export.merging import StructSAM, Windows

SIDE = 320  # 20 x 20 tokens: four windows, three of them padded
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
    module = prepare(PlannedEncoder(copy.deepcopy(encoder, shared)), half=False)
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


@pytest.mark.slow
def test_an_encoder_of_four_blocks_agrees(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder = build_encoder(512)  # 32 x 32 tokens: nine windows
    apply(encoder, [structsam] * 4)
    model = traced(encoder)
    for image in photographs(512):
        check_agrees(model, encoder, image[None])


ABLATIONS = {
    "central difference": StructSAM(0.55, gradient=Gradient.CENTRAL),
    "energy on the mean over heads": StructSAM(0.55, heads=2),
    "mean flatness": StructSAM(0.55, flatness=Flatness.MEAN),
    "random cells": StructSAM(0.55, selection=Selection.RANDOM),
    "no cells": StructSAM(0.55, cells=False),
    "busiest destination": StructSAM(0.55, destination=Destination.MAX),
    "random destination": StructSAM(0.55, destination=Destination.RANDOM),
    "every cell merges": StructSAM(0.75),
}


@pytest.mark.parametrize("what", ABLATIONS)
def test_every_ablation_is_exported(build_encoder: Build, photographs: Photographs, what: str) -> None:
    encoder = build_encoder(SIDE, depth=2, global_attn_indexes=(1,))
    apply(encoder, [ABLATIONS[what]] * 2)
    model = traced(encoder)
    for image in photographs(SIDE):
        check_agrees(model, encoder, image[None])


@pytest.mark.slow
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

    def __init__(self, method: StructSAM, grid: int) -> None:
        super().__init__()
        self.method = method
        self.windows = [Windows(grid, grid, 14), Windows(grid, grid, grid)]

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        plans = [self.method.plan(features, windows) for windows in self.windows]
        return tuple(tensor for plan in plans for tensor in (plan.slot, plan.position))


PLANS = ["window.slot", "window.position", "global.slot", "global.position"]


@pytest.fixture(scope="module")
def features(photographs: Photographs) -> Tensor:
    """[1, 64, 64, 768]: a photograph at 1024 pixels behind a ViT-B's patch embedding and first norm."""
    stem = nn.Sequential(nn.Conv2d(3, 768, 16, 16), nn.LayerNorm(768, eps=1e-6))
    randomize(stem)
    with torch.no_grad():
        return stem[1](stem[0](photographs(1024)[:1]).permute(0, 2, 3, 1)).contiguous()


METHODS = {
    "structsam": StructSAM(0.55),
    "central difference": StructSAM(0.55, gradient=Gradient.CENTRAL),
    "energy on the mean over heads": StructSAM(0.55, heads=12),
    "mean flatness": StructSAM(0.55, flatness=Flatness.MEAN),
    "no cells": StructSAM(0.55, cells=False),
    "busiest destination": StructSAM(0.55, destination=Destination.MAX),
}


@pytest.mark.parametrize("what", METHODS)
def test_plans_are_identical_when_both_get_the_same_features(features: Tensor, what: str) -> None:
    """Slot by slot on whole numbers, whose energy is exact in any order of summation; many are ties. On the
    features themselves the order of near ties is the runtime's, but the same cells merge onto the same
    tokens; without cells, groups are made of that order, so there only exact energies can be compared."""
    module = PlanOnly(METHODS[what], 64)
    model = trace(module, {"features": features}, PLANS)
    # Times 12, so that the mean over 12 heads is whole too; small enough that energies stay below 2^24.
    whole = features.clamp(-2, 2).round() * (12 if what == "energy on the mean over heads" else 1)
    made, expected = infer(model, {"features": whole}), module(whole)
    for name, own in zip(PLANS, expected, strict=True):
        assert np.array_equal(made[name], own), name
    if not METHODS[what].cells:
        return
    made, expected = infer(model, {"features": features}), module(features)
    for index in (0, 2):
        theirs = np.take_along_axis(made[PLANS[index + 1]], made[PLANS[index]], 1)
        own = expected[index + 1].gather(1, expected[index].long())
        assert np.array_equal(theirs, own), PLANS[index]


def test_equal_scores_are_ordered_alike(structsam: StructSAM) -> None:
    """Flat images: every choice is a tie, in ONNX Runtime as in PyTorch."""
    module = PlanOnly(structsam, 20)
    model = trace(module, {"features": torch.zeros(1, 20, 20, 8)}, PLANS)
    stepped = torch.zeros(1, 20, 20, 8)
    stepped[:, 5:, 7:] = 1  # two flat areas
    for picture in (torch.zeros(1, 20, 20, 8), torch.full((1, 20, 20, 8), -2.5), stepped):
        made = infer(model, {"features": picture})
        for name, own in zip(PLANS, module(picture), strict=True):
            assert np.array_equal(made[name], own), name


def test_tracing_leaves_the_module_as_it_was(
    build_encoder: Build, photographs: Photographs, structsam: StructSAM
) -> None:
    encoder, image = build_encoder(64, depth=1, global_attn_indexes=()), photographs(64)
    apply(encoder, [structsam])
    before = encoder(image)
    traced(encoder)
    assert torch.equal(encoder(image), before)
