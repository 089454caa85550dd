"""What a graph is for, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .choices import Attention, Engine, Precision, Target


@dataclass(frozen=True, eq=False)  # each is one object, by which targets are grouped
class Dialect:
    """How a graph is written. Indices are int32 for every target, as TensorRT wants them.

    Attributes:
        opset: of ONNX.
        forms: the form of attention in each precision: the fastest there, as far as is known.
        tensorrt: the oldest TensorRT that must read it.
    """

    opset: int
    forms: Mapping[Precision, Attention]
    tensorrt: str


PORTABLE = Dialect(20, dict.fromkeys(Precision, Attention.WIDENED), "10.3")
"""Opset 20 is the newest that JetPack 6's TensorRT 10.3 reads, and the oldest with Gelu."""
PATTERN = Dialect(20, dict.fromkeys(Precision, Attention.MASK), "10.3")
"""The same in the pattern that TensorRT fuses without an operator, its keys as wide as its values."""
FUSED = Dialect(23, {Precision.FP16: Attention.OPERATOR, Precision.FP32: Attention.MASK}, "10.14")
"""Opset 23 is the oldest with Attention, which TensorRT reads from 10.14 on. It has kernels for it in fp16,
and refuses to build it in fp32."""

DIALECTS = {
    Target.CPU: PORTABLE,
    Target.CUDA: PORTABLE,
    Target.TENSORRT10: PATTERN,
    Target.TENSORRT11: FUSED,
    Target.RTX: FUSED,
}
"""The form for `cpu` was measured (benchmarks/attention-cpu.md). No GPU was at hand: for TensorRT it is what
its documentation says that it fuses, for `cuda` what it is for `cpu`."""


def natural(engine: Engine | None) -> Target:
    """What a graph is for if the user does not say: its engine, if it gets one.

    A library called TensorRT may be of any version; every version reads the older dialect.
    """
    return {None: Target.CPU, Engine.TENSORRT: Target.TENSORRT10, Engine.TENSORRT_RTX: Target.RTX}[engine]
