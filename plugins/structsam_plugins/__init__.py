"""Optional CUDA kernels for the merging of a layer, and their Python interface. Needs no PyTorch."""

from .kernels import FLOAT, HALF, KernelError, Kernels, Layer

__all__ = ["FLOAT", "HALF", "KernelError", "Kernels", "Layer"]
