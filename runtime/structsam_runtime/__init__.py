"""Segment Anything with StructSAM token merging, without PyTorch: NumPy and an engine."""

from .errors import UserError
from .manifest import Manifest
from .predictor import Predictor
from .runners.onnxruntime import OnnxRuntimeRunner

__all__ = ["Manifest", "OnnxRuntimeRunner", "Predictor", "UserError"]
