"""The values of options, as enumerations. Imports nothing heavy, since `--help` needs it."""

from __future__ import annotations

from enum import Enum


class StrEnum(str, Enum):
    """Strings with names, as Python has them from 3.11 on: `str()` and formatting give the value."""

    __str__ = str.__str__


class Precision(StrEnum):
    """`--precision`: the arithmetic inside the graphs; inputs and outputs are always float32."""

    FP32 = "fp32"
    FP16 = "fp16"  # with fp32 islands; see `graph/precision.py`
    BF16 = "bf16"  # the same islands; the range of fp32, and 8 bits of mantissa
    INT8 = "int8"  # the encoder's linear layers in 8 bits, all else in fp32; see `graph/quantize.py`
    INT8_FP16 = "int8-fp16"  # the same, all else in fp16
    FP8 = "fp8"  # the same layers in floating point of 8 bits, e4m3
    FP8_FP16 = "fp8-fp16"

    @property
    def parts(self) -> tuple[Precision, ...]:
        """The precisions that it is made of: int8 and fp16 of int8-fp16, and otherwise itself."""
        return tuple(Precision(part) for part in self.split("-"))

    @property
    def quantized(self) -> bool:
        """Whether linear layers are in 8 bits."""
        return self.parts[0] in (Precision.INT8, Precision.FP8)

    @property
    def around(self) -> Precision:
        """The precision of all that is not in 8 bits."""
        last = self.parts[-1]
        return Precision.FP32 if last.quantized else last

    @property
    def decoder(self) -> Precision:
        """The precision of the decoder. In bf16 it alone would cost 1 % of the masks' IoU."""
        return Precision.FP32 if self is Precision.BF16 else self.around


class Linear(StrEnum):
    """A linear layer of a block, in `--int8-skip`."""

    QKV = "qkv"
    PROJ = "proj"
    FC1 = "fc1"
    FC2 = "fc2"

    def of(self, block: int) -> str:
        """The name of this layer of a block, by the block's index."""
        return f"blocks.{block}.{self}"


AUTO = "auto"
"""In `--int8-skip`: the layers with the largest errors, until the others keep to a budget."""


class Gradient(StrEnum):
    """Gradient operator of the energy: Sobel, or central differences (Table 4, Central-Diff)."""

    SOBEL = "sobel"
    CENTRAL = "central"


class Channels(StrEnum):
    """Features that tokens are scored or compared by: all channels, or their mean over attention heads.

    The mean has 12 times fewer channels on ViT-B. StructSAM computes its gradient on them: all channels in
    the paper's formula, the mean in its Table 5. The other methods compare tokens by them; the authors' code
    uses the mean.
    """

    FULL = "full"
    HEADS = "heads"


class Reduction(StrEnum):
    """Content of a slot: the mean of its tokens, or only the destination token, which needs no sum."""

    MEAN = "mean"
    REPLACE = "replace"


class Scope(StrEnum):
    """Region of the gradient: the whole map before the window partition, or each window with its padding.

    The paper does not say; the authors' public code computes it within each window.
    """

    MAP = "map"
    WINDOW = "window"


class Border(StrEnum):
    """Padding around that region: replicated outermost tokens, or zeros as in the authors' public code."""

    REPLICATE = "replicate"
    ZERO = "zero"


class Flatness(StrEnum):
    """Score that ranks cells: minus the largest energy, or minus the mean energy (Table 4, Mean-Flatness).

    Ours: minus the variance of a cell's tokens, which is the error of replacing them by their mean, or their
    mean cosine similarity, as ALGM does. Unlike a gradient, both depend on the cell's own tokens only.
    """

    MAX = "max"
    MEAN = "mean"
    VARIANCE = "variance"
    COSINE = "cosine"


class Place(StrEnum):
    """Relative position of a merged cell: that of its destination, or the mean of its tokens (ours)."""

    DESTINATION = "destination"
    MEAN = "mean"


class Selection(StrEnum):
    """Which cells merge: the flattest, or random ones (Table 4, Rand-Cell)."""

    FLATNESS = "flatness"
    RANDOM = "random"


class Destination(StrEnum):
    """The token of a cell that the others merge into; the slot takes its position.

    The one of lowest energy, of highest energy (Table 4, Max-Dst), a random one (Rand-Dst), the first, or the
    same place in every cell (`lattice`). In StructSAM a slot is the mean of its cell, so the destination only
    sets the relative position. In VidToMe `random` draws tokens without cells.
    """

    MIN = "min"
    MAX = "max"
    RANDOM = "random"
    FIRST = "first"
    LATTICE = "lattice"


class Engine(StrEnum):
    """`--engine`: the library that builds and runs the engines."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class Target(StrEnum):
    """`--target`: the runtime of the graph; it decides the operators and the form of attention."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT10 = "tensorrt10"
    TENSORRT11 = "tensorrt11"
    RTX = "rtx"


class Attention(StrEnum):
    """`--attention`: the form of attention with relative position. Results differ by rounding only."""

    WIDENED = "widened"  # extra channels of queries and keys compute the bias
    MASK = "mask"  # the bias is added before the softmax
    OPERATOR = "operator"  # ONNX's Attention with that mask, from opset 23 on
    GATHER = "gather"  # the bias is gathered for every pair


class DecoderLayout(StrEnum):
    """`--decoder-layout`: a second decoder with the names and types that Meta publishes, and its masks."""

    META = "meta"  # all four
    META_SINGLE = "meta-single"  # the best one, as Meta's --return-single-mask
