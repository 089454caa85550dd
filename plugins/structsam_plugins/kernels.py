"""The C interface of the kernels in Python; `csrc/structsam.h` describes every array."""

from __future__ import annotations

import ctypes
from pathlib import Path

FLOAT, HALF = 0, 1
"""Types of features."""

_I, _P = ctypes.c_int, ctypes.c_void_p


class KernelError(Exception):
    """A kernel did not accept its arguments or could not be launched, or the kernels cannot be compiled."""


class Layer(ctypes.Structure):
    """The sizes of a layer and of its merging.

    Args:
        batch, height, width, channels: shape of the features [B, H, W, C].
        side: rows and columns of a window, in tokens; the map is padded to whole windows.
        cell: s, rows and columns of a cell, in tokens; divides `side`.
        merged: M, number of cells of a window that merge.
        heads: the energy is computed on the mean over this many heads; 1 uses all channels.
    """

    _fields_ = (
        ("batch", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("side", ctypes.c_int32),
        ("cell", ctypes.c_int32),
        ("merged", ctypes.c_int32),
        ("heads", ctypes.c_int32),
    )
    batch: int
    height: int
    width: int
    channels: int
    side: int
    cell: int
    merged: int
    heads: int

    @property
    def windows(self) -> int:
        """B', the number of windows of all images."""
        return self.batch * -(-self.height // self.side) * -(-self.width // self.side)

    @property
    def tokens(self) -> int:
        """N, the number of tokens of a window."""
        return self.side**2

    @property
    def cells(self) -> int:
        """G, the number of cells of a window."""
        return (self.side // self.cell) ** 2

    @property
    def slots(self) -> int:
        """K, the number of slots of a window."""
        return self.tokens - self.merged * (self.cell**2 - 1)


class Kernels:
    """The functions of a library built from `csrc`, for a GPU or for the CPU.

    Arrays are addresses in the memory of the library's device. Work is queued on `stream`, the address of a
    CUDA stream (0 is the default stream); on the CPU it is done when a function returns. Every function
    raises KernelError if it does not accept its arguments or a launch fails.

    Args:
        path: the library.

    Raises:
        OSError: the library does not exist, or cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.structsam_error.argtypes, self._library.structsam_error.restype = [_I], ctypes.c_char_p

    def score(self, layer: Layer, kind: int, x: int, score: int, member: int, stream: int = 0) -> None:
        """Features x [B, H, W, C] to score [B', G] fp32 and member [B', G] int32."""
        self._call("structsam_score", layer, [_I(kind)], x, score, member, stream)

    def select(
        self, layer: Layer, score: int, member: int, slot: int, token: int, position: int, stream: int = 0
    ) -> None:
        """Score and member [B', G] to the plan: slot and token [B', N] int32, position [B', K] int32."""
        self._call("structsam_select", layer, [], score, member, slot, token, position, stream)

    def merge(self, layer: Layer, kind: int, x: int, token: int, slots: int, stream: int = 0) -> None:
        """Features x [B, H, W, C] and token [B', N] to slots [B', K, C]; `kind` is FLOAT or HALF."""
        self._call("structsam_merge", layer, [_I(kind)], x, token, slots, stream)

    def unmerge(
        self, layer: Layer, kind: int, slots: int, slot: int, residual: int, total: int, stream: int = 0
    ) -> None:
        """Unmerge slots [B', K, C] by slot [B', N] and add the residual [B, H, W, C]: total [B, H, W, C]."""
        self._call("structsam_unmerge", layer, [_I(kind)], slots, slot, residual, total, stream)

    def _call(self, function: str, layer: Layer, kind: list[ctypes.c_int], *addresses: int) -> None:
        arguments = [ctypes.byref(layer), *kind, *map(_P, addresses)]
        if code := getattr(self._library, function)(*arguments):
            said = self._library.structsam_error(code).decode()
            sizes = ", ".join(f"{name} {getattr(layer, name)}" for name, _ in Layer._fields_)
            raise KernelError(f"{function}: {said}; the layer is {sizes}")
