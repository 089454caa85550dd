"""Shape inference for the rules."""

import numpy as np
import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from .rewire import Dim, dims

# Inference reads the values of shapes, axes and bounds only. Longer constants are weights or index tables:
# their shape is enough, and without weights a graph stays far below protobuf's limit of 2 GB.
MAX_VALUES = 64


def infer_shapes(graph: gs.Graph) -> None:
    """Fill in the inferred shape and type of every tensor between the graph's inputs and outputs.

    Known dimensions are kept: a number or a name replaces an unknown dimension, a number replaces a name, and
    nothing else changes. Names that inference generates ("unk__3") are ignored, since they differ between
    runs.
    """
    model = gs.export_onnx(_without_weights(graph), do_type_check=False)
    inferred = gs.import_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True)).tensors()
    interface = {tensor.name for tensor in [*graph.inputs, *graph.outputs]}
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Constant) or name in interface or name not in inferred:
            continue
        tensor.dtype = inferred[name].dtype if tensor.dtype is None else tensor.dtype
        tensor.shape = _merge(dims(tensor), dims(inferred[name]))


def _without_weights(graph: gs.Graph) -> gs.Graph:
    """A copy in which every long constant is replaced by an input of the same type and shape."""
    light = graph.copy()
    for tensor in light.tensors().values():
        if isinstance(tensor, gs.Constant) and int(np.prod(tensor.shape)) > MAX_VALUES:
            tensor.to_variable(dtype=tensor.dtype, shape=list(tensor.shape))
            tensor.type = "tensor_type"  # which to_variable leaves unset
            light.inputs.append(tensor)
    return light


def _merge(known: list[Dim] | None, inferred: list[Dim] | None) -> list[Dim] | None:
    found = inferred and [None if isinstance(d, str) and d.startswith("unk__") else d for d in inferred]
    if known is None or found is None or len(known) != len(found):
        return known if known is not None else found
    return [_better(old, new) for old, new in zip(known, found, strict=True)]


def _better(old: Dim, new: Dim) -> Dim:
    if old is None or (isinstance(old, str) and isinstance(new, int)):
        return new
    return old
