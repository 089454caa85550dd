"""From a PyTorch module to an ONNX model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass
from onnxscript import opset20 as op
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn

from ..targets import PORTABLE
from .quantize import TRANSLATIONS

MAX_SHARED = 2**20
"""Elements of the largest constant that is compared with others. Index tables are smaller; most weights,
which are never equal, are larger."""


def _sort(x: Any, *, stable: bool, dim: int, descending: bool) -> Any:
    """Translate a stable descending sort to TopK over the whole axis: ONNX breaks ties by the lower index.

    An ascending sort has no exact translation: ONNX defines no tie rule for the reversed order.

    Raises:
        NotImplementedError: the sort is ascending or not stable.
    """
    if not (stable and descending):
        raise NotImplementedError("only stable descending sorts are exported")
    length: Any = op.Constant(value_ints=[x.shape[dim]])
    return op.TopK(x, length, axis=dim, largest=1, sorted=1)


def _divide(x: Any, y: Any) -> Any:
    """Translate integer division to Div; only grid positions are divided, which are never negative.

    ONNX's Div rounds towards zero; the exporter's own translation adds five nodes for negative numbers.
    """
    constant: Any = op.Constant(value_int=y) if isinstance(y, int) else y
    return op.Div(x, op.CastLike(constant, x))


def _take(x: Any, index: Any) -> Any:
    """Translate `take` from a vector to Gather; the exporter's own translation is GatherND."""
    flat: Any = op.Constant(value_ints=[-1])
    return op.Gather(op.Reshape(x, flat), index)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log messages and warnings of PyTorch's exporter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    opset: int = PORTABLE.opset,
) -> onnx.ModelProto:
    """Export a module to ONNX.

    Args:
        module: a module in eval mode.
        inputs: example inputs by their name in the graph, in the order of `forward`. A dynamic dimension must
            be 2 or more here.
        outputs: names of the outputs of `forward`, in order.
        dynamic: for an input, its dynamic dimensions (axis to name).
        opset: ONNX opset version.

    Returns:
        The model with its weights in memory. Equal constants are shared: blocks with the same windows have
        the same index tables, which saves 15 MB beside 359 MB of weights for ViT-B at 1024 pixels.

    Raises:
        RuntimeError: the tracer returned nothing, or a dimension in `dynamic` came back fixed.
    """
    names = {name for dims in (dynamic or {}).values() for name in dims.values()}
    dims = {name: torch.export.Dim(name, min=1, max=4096) for name in sorted(names)}
    shapes = {
        name: {axis: dims[dim] for axis, dim in (dynamic or {}).get(name, {}).items()} for name in inputs
    }
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(shapes.values()) if dynamic else None,
            opset_version=opset,
            dynamo=True,
            verbose=False,
            optimize=False,
            custom_translation_table={
                torch.ops.aten.sort.stable: _sort,
                torch.ops.aten.floor_divide.default: _divide,
                torch.ops.aten.take.default: _take,
                **TRANSLATIONS,
            },
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned nothing")
        _optimize(program)
    DeduplicateInitializersPass(MAX_SHARED)(program.model)
    model = program.model_proto
    _check_dynamic(model, dynamic or {})
    return model


def _optimize(program: torch.onnx.ONNXProgram) -> None:
    """The exporter's own optimisation, on what is left when constants are folded.

    It tries its rules on every node, and nine of ten nodes of a merged encoder compute indices from constants
    only. Folded first, the same graph comes out in two thirds of the time.
    """
    fold_constants(program.model)
    RemoveUnusedNodesPass()(program.model)
    program.optimize()


def _check_dynamic(model: onnx.ModelProto, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Raise RuntimeError if a dynamic dimension came back fixed.

    The tracer fixes a dimension that the module reads as a Python number, as `len(tensor)` does, silently.
    """
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        fixed = [name for axis, name in dynamic.get(value.name, {}).items() if not dims[axis].dim_param]
        if fixed:
            raise RuntimeError(
                f"tracing fixed {', '.join(fixed)} of {value.name}; the module reads this size as a number"
            )
