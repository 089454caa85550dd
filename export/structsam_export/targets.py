"""The ONNX dialect of each target: opset and form of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .choices import Attention, Engine, Precision, Target


@dataclass(frozen=True, eq=False)  # each is one object, by which targets are grouped
class Dialect:
    """The form of a graph. Indices are int32 for every target, the fastest type for TensorRT.

    Attributes:
        opset: ONNX opset version.
        forms: the form of attention in each precision; the fastest as far as known.
        tensorrt: the oldest TensorRT version that must read the graph.
    """

    opset: int
    forms: Mapping[Precision, Attention]
    tensorrt: str


PORTABLE = Dialect(20, dict.fromkeys(Precision, Attention.WIDENED), "10.3")
"""Opset 20 is the newest that JetPack 6's TensorRT 10.3 reads, and the oldest with Gelu."""
PATTERN = Dialect(20, dict.fromkeys(Precision, Attention.MASK), "10.3")
"""Opset 20 with attention in the pattern that TensorRT fuses: keys and values have the same head size."""
FUSED = Dialect(
    23,
    {one: Attention.MASK if one.around is Precision.FP32 else Attention.OPERATOR for one in Precision},
    "10.14",
)
"""Opset 23 is the oldest with Attention, which TensorRT reads from 10.14 on. TensorRT has kernels for it in
fp16 and bf16, and does not build it in fp32."""

BFLOAT16 = Dialect(FUSED.opset, PORTABLE.forms, FUSED.tensorrt)
"""bf16 on every runtime but those before TensorRT 10.14: Conv takes it from opset 22 on."""

DIALECTS = {
    Target.CPU: PORTABLE,
    Target.CUDA: PORTABLE,
    Target.TENSORRT10: PATTERN,
    Target.TENSORRT11: FUSED,
    Target.RTX: FUSED,
}
"""The form for `cpu` is measured (benchmarks/attention-cpu.md). The others are not measured on a GPU: for
TensorRT it is the form that its documentation says it fuses, for `cuda` the form for `cpu`."""


def dialect(target: Target, precision: Precision) -> Dialect:
    """The dialect of a target in a precision, if it supports it."""
    own = DIALECTS[target]
    return BFLOAT16 if precision is Precision.BF16 and own is PORTABLE else own


def supports(target: Target, precision: Precision) -> bool:
    """Whether the opset of a target has the types of a precision."""
    return precision is not Precision.BF16 or dialect(target, precision).opset >= BFLOAT16.opset


def natural(engine: Engine | None, precision: Precision) -> Target:
    """The default target of a graph: that of its engine, or the CPU without an engine.

    For TensorRT it is `tensorrt10`, which every supported version reads, if its opset has the precision.
    """
    if engine is Engine.TENSORRT:
        return Target.TENSORRT10 if supports(Target.TENSORRT10, precision) else Target.TENSORRT11
    return Target.CPU if engine is None else Target.RTX
