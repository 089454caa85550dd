"""Optional device code: CUDA kernels for a layer's merging, and how to call them. Needs no PyTorch."""

from .kernels import FLOAT, HALF, KernelError, Kernels, Layer

__all__ = ["FLOAT", "HALF", "KernelError", "Kernels", "Layer"]
