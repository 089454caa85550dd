"""Segment Anything with StructSAM token merging: from a PyTorch checkpoint to verified ONNX and TensorRT.

Everything here happens before an engine exists and may use PyTorch; `structsam_runtime` runs the result
without it.
"""

from structsam_runtime import __version__

__all__ = ["__version__"]
