"""What options take. Imports nothing heavy: the command's help reads it."""

from __future__ import annotations

from enum import StrEnum


class MethodName(StrEnum):
    """`--method`."""

    STRUCTSAM = "structsam"


class Gradient(StrEnum):
    """First-order operator of the energy (Table 4, Central-Diff)."""

    SOBEL = "sobel"
    CENTRAL = "central"


class Channels(StrEnum):
    """What the gradient is taken on: all channels, as in the paper's formula, or the mean over heads.

    The mean is what the paper's Table 5 prices, and 12 times cheaper on ViT-B.
    """

    FULL = "full"
    HEADS = "heads"


class Flatness(StrEnum):
    """A cell's flatness: minus its largest energy, or minus its mean (Table 4, Mean-Flatness)."""

    MAX = "max"
    MEAN = "mean"


class Selection(StrEnum):
    """Which cells merge: the flattest, or random ones (Table 4, Rand-Cell)."""

    FLATNESS = "flatness"
    RANDOM = "random"


class Destination(StrEnum):
    """Which token stands for a merged cell: the calmest, the busiest (Max-Dst), or a random one (Rand-Dst).

    The cell's mean is copied back to the whole cell, so this decides only the row and column that the
    relative position sees.
    """

    MIN = "min"
    MAX = "max"
    RANDOM = "random"


class Engine(StrEnum):
    """`--engine`: the library that builds, and later runs, the engines."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
