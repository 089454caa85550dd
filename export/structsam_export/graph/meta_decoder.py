"""A decoder as tools for SAM's ONNX files take it: with the names, ranks and types that Meta publishes.

It is made from the decoder that is traced already. What differs is what stands before and behind it: labels
are floats, there is one prompt in a call, and masks come in the picture's size beside the small ones.
"""

from __future__ import annotations

import onnx
from onnx import compose, parser

from structsam_runtime.manifest import Model

from ..choices import DecoderLayout

INNER = "inner_"
"""Before every name of the traced decoder."""
FRONT = """
    inner_image_embedding = Identity (image_embeddings)
    inner_point_coords = Identity (point_coords)
    inner_point_labels = Cast <to = 6> (point_labels)
    inner_mask_input = Identity (mask_input)
    inner_has_mask_input = Identity (has_mask_input)
"""
"""A line for every input of the traced decoder; 6 is int32."""
ALL = """
    low_res_masks = Identity (inner_masks)
    iou_predictions = Identity (inner_iou_predictions)
"""
BEST = """
    count = Shape <start = 1, end = 2> (point_coords)
    points = Cast <to = 1> (count)
    beyond = Sub (points, usual)
    weight = Mul (beyond, first)
    score = Add (inner_iou_predictions, weight)
    best = ArgMax <axis = 1, keepdims = 0> (score)
    low_res_masks = Gather <axis = 1> (inner_masks, best)
    iou_predictions = Gather <axis = 1> (inner_iou_predictions, best)
"""
"""For three places or more the mask that the decoder gives for a clear prompt, otherwise the best of the
others: what Meta's `--return-single-mask` does."""
GROW = """
    square = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (
        low_res_masks, , , whole
    )
    longest = ReduceMax <keepdims = 0> (orig_im_size)
    scale = Div (side, longest)
    exact = Mul (scale, orig_im_size)
    nearest = Add (exact, half)
    rounded = Floor (nearest)
    kept = Cast <to = 7> (rounded)
    picture = Slice (square, corner, kept, axes)
    sides = Cast <to = 7> (orig_im_size)
    full = Concat <axis = 0> (stack, sides)
    masks = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (
        picture, , , full
    )
"""
"""SAM's rule: up to the model's square, padding cut off, then to the picture, whose size is an input. 1 is
float32, 7 is int64."""


def meta_decoder(decoder: onnx.ModelProto, model: Model, layout: DecoderLayout) -> onnx.ModelProto:
    """Another face for a decoder.

    Args:
        decoder: as `contract.decoder_specs` says; stays as it is.
        model: its sizes.
        layout: how many masks come out.

    Returns:
        A model whose inputs and outputs are float32. Inputs: `image_embeddings` [1, C, h, w]; `point_coords`
        [1, N, 2], x and y in pixels of the model's square; `point_labels` [1, N], 1 foreground, 0 background,
        2 and 3 a box's corners, -1 padding; `mask_input` [1, 1, 4h, 4w]; `has_mask_input` [1]; `orig_im_size`
        [2], height and width of the picture. Outputs: logits `masks` [1, M, height, width] and
        `low_res_masks` [1, M, 4h, 4w]; `iou_predictions` [1, M]. M is 4, the mask for a clear prompt first,
        or 1.
    """
    inner = compose.add_prefix(decoder, INNER)
    made = parser.parse_model(_shell(model, layout))
    shell, entries = made.graph, len(FRONT.strip().splitlines())
    nodes = [*shell.node[:entries], *inner.graph.node, *shell.node[entries:]]
    del shell.node[:], made.opset_import[:]
    shell.node.extend(nodes)
    shell.initializer.extend(inner.graph.initializer)
    made.opset_import.extend(inner.opset_import)
    made.ir_version = inner.ir_version
    onnx.checker.check_model(made)
    return made


def _shell(model: Model, layout: DecoderLayout) -> str:
    """All but the traced decoder, in ONNX's own text."""
    single = layout is DecoderLayout.META_SINGLE
    masks, low, side = 1 if single else 4, model.low_res, model.image_size
    embedding = ", ".join(map(str, model.embedding))
    return f"""
<ir_version: 10, opset_import: ["" : 20]>
decoder (
    float[1, {embedding}] image_embeddings, float[1, num_points, 2] point_coords,
    float[1, num_points] point_labels, float[1, 1, {low}, {low}] mask_input, float[1] has_mask_input,
    float[2] orig_im_size
) => (
    float[1, {masks}, height, width] masks, float[1, {masks}] iou_predictions,
    float[1, {masks}, {low}, {low}] low_res_masks
) <
    int64[4] whole = {{1, {masks}, {side}, {side}}}, int64[2] stack = {{1, {masks}}},
    int64[2] corner = {{0, 0}}, int64[2] axes = {{2, 3}}, float side = {{{side}}}, float half = {{0.5}},
    float usual = {{2.5}}, float[1, 4] first = {{1000, 0, 0, 0}}
> {{{FRONT}{BEST if single else ALL}{GROW}}}
"""
