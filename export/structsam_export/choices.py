"""What options take. Imports nothing heavy: the help of commands reads it."""

from __future__ import annotations

from enum import Enum


class StrEnum(str, Enum):
    """Strings with names, as Python has them from 3.11 on: `str()` and formatting give the value."""

    __str__ = str.__str__


class Precision(StrEnum):
    """`--precision`: the arithmetic inside the graphs, whose inputs and outputs stay float32."""

    FP32 = "fp32"
    FP16 = "fp16"  # with fp32 islands; see `graph/precision.py`


class Gradient(StrEnum):
    """First-order operator of the energy (Table 4, Central-Diff)."""

    SOBEL = "sobel"
    CENTRAL = "central"


class Channels(StrEnum):
    """What tokens are judged by: all channels, or the mean over heads, 12 times fewer on ViT-B.

    For StructSAM it is what the gradient is taken on: the paper's formula says all channels, its Table 5
    prices the mean. The other methods compare tokens by it; the authors' code takes the mean.
    """

    FULL = "full"
    HEADS = "heads"


class Reduction(StrEnum):
    """What a slot holds: the mean of its tokens, or the destination alone, which needs no sum at all."""

    MEAN = "mean"
    REPLACE = "replace"


class Scope(StrEnum):
    """What the energy is taken over: the whole map before windows are cut, or each window, padding included.

    The paper does not say; the authors' public code takes it within a window.
    """

    MAP = "map"
    WINDOW = "window"


class Border(StrEnum):
    """What lies around it: the outermost tokens again, or zeros, as in the authors' public code."""

    REPLICATE = "replicate"
    ZERO = "zero"


class Flatness(StrEnum):
    """A cell's flatness: minus its largest energy, or minus its mean (Table 4, Mean-Flatness).

    Ours: minus the variance of its tokens, which is what their mean destroys, or their mean cosine, by which
    ALGM ranks cells. Both see nothing of a cell's neighbours, which a gradient does.
    """

    MAX = "max"
    MEAN = "mean"
    VARIANCE = "variance"
    COSINE = "cosine"


class Place(StrEnum):
    """Where the relative position sees a merged cell: at its destination, or at its members' mean (ours)."""

    DESTINATION = "destination"
    MEAN = "mean"


class Selection(StrEnum):
    """Which cells merge: the flattest, or random ones (Table 4, Rand-Cell)."""

    FLATNESS = "flatness"
    RANDOM = "random"


class Destination(StrEnum):
    """Which token of a cell others merge into, and whose place the slot takes.

    The calmest, the busiest (Table 4, Max-Dst), a random one (Rand-Dst), the first, or one at the same place
    in every cell (`lattice`). StructSAM copies a cell's mean back to the whole cell, so that there it decides
    only the row and column that the relative position sees. For VidToMe `random` drops the cells.
    """

    MIN = "min"
    MAX = "max"
    RANDOM = "random"
    FIRST = "first"
    LATTICE = "lattice"


class Engine(StrEnum):
    """`--engine`: the library that builds, and later runs, the engines."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class Target(StrEnum):
    """`--target`: what the graph is for, which decides its operators and the form of attention."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT10 = "tensorrt10"
    TENSORRT11 = "tensorrt11"
    RTX = "rtx"


class Attention(StrEnum):
    """`--attention`: how the graph computes attention with relative position. They differ by rounding."""

    WIDENED = "widened"  # wider queries and keys carry the bias
    MASK = "mask"  # the bias is added before the softmax
    OPERATOR = "operator"  # ONNX's own with that mask, from opset 23 on
    GATHER = "gather"  # the bias is gathered for every pair


class DecoderLayout(StrEnum):
    """`--decoder-layout`: a second decoder with the names and types that Meta publishes, and its masks."""

    META = "meta"  # all four
    META_SINGLE = "meta-single"  # the best one, as Meta's --return-single-mask
