"""What a graph is for, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass

from .choices import Attention, Engine, Target


@dataclass(frozen=True)
class Dialect:
    """How a graph is written. Indices are int32 for every target: no runtime is faster with int64.

    Attributes:
        opset: of ONNX.
        attention: the form that is fastest there, as far as that is known.
        tensorrt: the oldest TensorRT that must read it; None for the newest only.
    """

    opset: int
    attention: Attention
    tensorrt: str | None


PORTABLE = Dialect(20, Attention.WIDENED, "10.3")
"""Opset 20 is the newest that JetPack 6's TensorRT 10.3 reads, and the oldest with Gelu."""
FUSED = Dialect(23, Attention.OPERATOR, "10.14")
"""Opset 23 is the oldest with Attention, which TensorRT reads from 10.14 on, and fuses."""

DIALECTS = {
    Target.CPU: PORTABLE,
    Target.CUDA: PORTABLE,
    Target.TENSORRT10: PORTABLE,
    Target.TENSORRT11: FUSED,
    Target.RTX: FUSED,
}
"""The form for `cpu` was measured (benchmarks/attention-cpu.md). No GPU was at hand: for the others it is a
fused kernel where there is an operator for it, and elsewhere the least traffic."""


def natural(engine: Engine | None) -> Target:
    """What a graph is for if the user does not say: its engine, if it gets one.

    A library called TensorRT may be of any version; every version reads the older dialect.
    """
    return {None: Target.CPU, Engine.TENSORRT: Target.TENSORRT10, Engine.TENSORRT_RTX: Target.RTX}[engine]
