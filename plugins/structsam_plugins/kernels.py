"""The C interface of the kernels, `csrc/structsam.h`, which tells what every array is."""

from __future__ import annotations

import ctypes
from pathlib import Path

FLOAT, HALF = 0, 1
"""Types of features."""

_I, _P = ctypes.c_int, ctypes.c_void_p


class KernelError(Exception):
    """A kernel that refused its arguments, or could not be started."""


class Layer(ctypes.Structure):
    """A layer: its map, and how it is merged.

    Args:
        batch, height, width, channels: of the features [B, H, W, C].
        side: rows and columns of a window, in tokens; the map is padded to whole windows.
        cell: s, rows and columns of a cell; divides `side`.
        merged: M, cells of a window that merge.
        heads: the energy is taken on the mean over this many heads; 1 is all channels.
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
        """B': windows of all images."""
        return self.batch * -(-self.height // self.side) * -(-self.width // self.side)

    @property
    def tokens(self) -> int:
        """N: tokens of a window."""
        return self.side**2

    @property
    def cells(self) -> int:
        """G: cells of a window."""
        return (self.side // self.cell) ** 2

    @property
    def slots(self) -> int:
        """K: slots of a window."""
        return self.tokens - self.merged * (self.cell**2 - 1)


class Kernels:
    """The functions of a library that was built from `csrc`: for a GPU, or for the CPU.

    Arrays are addresses of memory on the library's device. Work is queued on `stream`, an address too: 0 is
    CUDA's default stream; on a CPU it is done when a function returns.

    Args:
        path: the library.

    Raises:
        OSError: it is not there, or does not load.
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
        """Those two to the plan: slot and token [B', N] int32, position [B', K] int32."""
        self._call("structsam_select", layer, [], score, member, slot, token, position, stream)

    def merge(self, layer: Layer, kind: int, x: int, token: int, slots: int, stream: int = 0) -> None:
        """Features x [B, H, W, C] and token to slots [B', K, C]."""
        self._call("structsam_merge", layer, [_I(kind)], x, token, slots, stream)

    def unmerge(
        self, layer: Layer, kind: int, slots: int, slot: int, residual: int, total: int, stream: int = 0
    ) -> None:
        """Slots [B', K, C] and slot, added to the residual [B, H, W, C], to total [B, H, W, C]."""
        self._call("structsam_unmerge", layer, [_I(kind)], slots, slot, residual, total, stream)

    def _call(self, function: str, layer: Layer, kind: list[ctypes.c_int], *addresses: int) -> None:
        arguments = [ctypes.byref(layer), *kind, *map(_P, addresses)]
        if code := getattr(self._library, function)(*arguments):
            said = self._library.structsam_error(code).decode()
            sizes = ", ".join(f"{name} {getattr(layer, name)}" for name, _ in Layer._fields_)
            raise KernelError(f"{function}: {said}; the layer is {sizes}")
