"""Constants that are there more than once."""

import math

import numpy as np
import onnx_graphsurgeon as gs

from .rewire import Tensor, redirect

MAX_BYTES = 4 * 2**20
"""Weights beyond this are never equal, and would all have to be read."""


def share_constants(graph: gs.Graph) -> int:
    """Let readers of equal constants read one of them: same type, same shape, same bytes.

    Blocks that cut the map alike count alike: for ViT-B at 1024 pixels this takes 14 MB of index tables out
    of a file of 359 MB of weights. Leaves constants that differ in a bit, -0 and 0 among them, those beyond
    `MAX_BYTES` unless they are whole numbers, and types that numpy has not.
    """
    first: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}
    shared = 0
    for tensor in graph.tensors().values():
        if not isinstance(tensor, gs.Constant) or not tensor.outputs or not _is_small(tensor):
            continue
        kept = first.setdefault((str(tensor.dtype), tuple(tensor.shape), tensor.values.tobytes()), tensor)
        if kept is not tensor:
            redirect(tensor, kept)
            shared += 1
    return shared


def _is_small(tensor: Tensor) -> bool:
    if not isinstance(tensor.dtype, np.dtype):
        return False
    return tensor.dtype.kind in "iub" or math.prod(tensor.shape) * tensor.dtype.itemsize <= MAX_BYTES
