"""Encoders that take a prior: against the plain encoder, and their graphs against PyTorch on photographs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from structsam_export.encoder import apply, merged_blocks
from structsam_export.encoder.exported import PlannedEncoder, output_names, told_plans
from structsam_export.graph.lint import lint
from structsam_export.graph.trace import trace
from structsam_export.merging import Identity, Method, StructSAM
from structsam_export.merging.prompted import PROMPT

SIDE, GRID = 448, 28  # four windows without padding
ERROR = 1e-3  # of embeddings whose deviation is one; what verification asks of an fp32 export

Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]


def methods(rate: float, background: float, windows: int) -> list[Method]:
    """A window block and a global one."""
    return [StructSAM(background, prompt_windows=windows, rate_prompt=rate), StructSAM(background)]


def built(build_encoder: Build, which: list[Method]) -> PlannedEncoder:
    encoder = build_encoder(SIDE, depth=2, global_attn_indexes=(1,))
    apply(encoder, which)
    return PlannedEncoder(encoder)


def boxes(*places: tuple[int, int, int, int]) -> Tensor:
    """A prior [1, 28, 28] that is 1 in boxes of tokens: top, left, bottom, right."""
    prior = torch.zeros(1, GRID, GRID)
    for top, left, bottom, right in places:
        prior[0, top:bottom, left:right] = 1
    return prior


PRIORS = {
    "none": boxes(),
    "a box": boxes((2, 16, 10, 25)),
    "two boxes": boxes((2, 16, 10, 25), (20, 3, 27, 13)),
    "a box over four windows": 0.5 * boxes((9, 9, 19, 19)),
    "all": boxes((0, 0, GRID, GRID)),
}


@pytest.mark.parametrize("windows", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.0, 0.55, 0.75])
def test_with_equal_rates_and_no_prompt_it_is_the_plain_encoder(
    build_encoder: Build, photographs: Photographs, rate: float, windows: int
) -> None:
    """Every token with the same representative. Products of two batches may be summed in another order than
    those of one: 1e-5 of embeddings whose deviation is one."""
    image = photographs(SIDE)
    prompted = built(build_encoder, methods(rate, rate, windows))
    plain = built(build_encoder, [StructSAM(rate), StructSAM(rate)])(image)
    for prior in (torch.zeros(3, GRID, GRID), None):
        made = prompted(image, prior)
        assert (made[0] - plain[0]).abs().max() <= 1e-5
    chosen = merged_blocks(prompted.encoder)[0].windows_of(torch.zeros(3, GRID, GRID)).groups[0].chosen
    assert chosen.tolist() == [list(range(windows))] * 3, "the first ones, where none has more prior"
    if rate:
        assert torch.equal(made[-2], plain[-2])  # slot and position of the global block
        assert torch.equal(made[-1], plain[-1])


def test_a_prior_over_the_whole_picture_changes_no_plan(
    build_encoder: Build, photographs: Photographs
) -> None:
    encoder, image = built(build_encoder, methods(0.35, 0.7, 2)), photographs(SIDE)
    for one, other in zip(
        encoder(image, torch.ones(3, GRID, GRID)), encoder(image, torch.zeros(3, GRID, GRID)), strict=True
    ):
        assert torch.equal(one, other)


def test_the_windows_of_a_box_are_encoded_as_if_all_merged_at_its_rate(
    build_encoder: Build, photographs: Photographs
) -> None:
    """What a window block makes of a window depends on its rate alone; all others keep the background's."""
    image, tolerance = photographs(SIDE)[:1], 1e-5
    prior, outcome = PRIORS["a box"], {}
    for what, which in {
        "prompted": methods(0.35, 0.75, 1),
        "prompt": [StructSAM(0.35)] * 2,
        "background": [StructSAM(0.75)] * 2,
    }.items():
        encoder = built(build_encoder, which).encoder
        x = encoder.patch_embed(image) + encoder.pos_embed
        outcome[what] = merged_blocks(encoder)[0].forward_with_plans(
            x, None if which[0].prompt_windows == 0 else prior
        )[0]
    made, inside, outside = outcome.values()
    assert (made - inside)[:, :14, 14:].abs().max() > 1e-3, "cells of the box are kept"
    assert (made - outside)[:, 14:].abs().max() <= tolerance
    assert (made - outside)[:, :14, :14].abs().max() <= tolerance
    whole = torch.zeros(1, GRID, GRID)
    whole[:, :14, 14:] = 1  # all cells of the window alike: the order of their flatness is left
    encoder = built(build_encoder, methods(0.35, 0.75, 1)).encoder
    made, _ = merged_blocks(encoder)[0].forward_with_plans(x, whole)
    assert (made - inside)[:, :14, 14:].abs().max() <= tolerance


def test_plans_are_output_by_group_and_only_if_tokens_merge(build_encoder: Build) -> None:
    encoder = built(build_encoder, methods(0.0, 0.75, 1)).encoder
    assert output_names(encoder) == [
        "image_embedding",
        *("blocks.0.background.slot", "blocks.0.background.position"),
        *("blocks.1.slot", "blocks.1.position"),
    ]
    apply(encoder, [StructSAM(0.0, prompt_windows=3, rate_prompt=0.3), Identity()])
    (told,) = told_plans(encoder)
    assert (told.index, told.group, told.windows.group, told.windows.per_image) == (0, 0, PROMPT, 3)
    outputs = PlannedEncoder(encoder)(torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2, GRID, GRID))
    assert [tuple(output.shape) for output in outputs[1:]] == [(6, 196), (6, 196 - 3 * 20)]


@pytest.fixture(scope="module")
def module(build_encoder: Build) -> PlannedEncoder:
    return built(build_encoder, methods(0.35, 0.7, 2))


@pytest.fixture(scope="module")
def model(module: PlannedEncoder) -> onnx.ModelProto:
    """The graph, its batch open; traced once for a group of tests."""
    inputs = {"image": torch.zeros(2, 3, SIDE, SIDE), "prior": torch.zeros(2, GRID, GRID)}
    return trace(module, inputs, output_names(module.encoder), {name: {0: "batch"} for name in inputs})


@pytest.mark.export
@pytest.mark.xdist_group("prompt-aware")
def test_the_graph_decides_and_computes_as_pytorch(
    module: PlannedEncoder, model: onnx.ModelProto, photographs: Photographs
) -> None:
    images, priors = photographs(SIDE), list(PRIORS.values())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = output_names(module.encoder)
    batches = [(image[None], prior) for image in images for prior in priors]
    for image, prior in [*batches, (images, torch.cat(priors[:3])), (images, torch.cat(priors[2:]))]:
        made = session.run(names, {"image": image.numpy(), "prior": prior.numpy()})
        expected = module(image, prior)
        assert np.abs(made[0] - expected[0].numpy()).max() <= ERROR
        for name, own, other in zip(names[1:], made[1:], expected[1:], strict=True):
            assert np.array_equal(own, other.numpy()), name


@pytest.mark.export
@pytest.mark.xdist_group("prompt-aware")
def test_tensorrt_takes_the_graph(model: onnx.ModelProto) -> None:
    """From version 10.3 on."""
    assert [str(finding) for finding in lint(model, "10.3") if finding.severity == "error"] == []


@pytest.mark.export
@pytest.mark.xdist_group("prompt-aware")
def test_the_gradient_is_taken_once_for_both_groups(model: onnx.ModelProto) -> None:
    """The exporter computes equal expressions once, on which the cost that is told relies."""
    squares = [node for node in model.graph.node if node.op_type == "Mul" and len(set(node.input)) == 1]
    assert len(squares) == 2, "one for each block"
