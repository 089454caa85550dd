"""Segment Anything with StructSAM token merging, without PyTorch: NumPy and an engine."""

from .automatic import AutomaticMaskGenerator
from .embedding import Embedding
from .errors import UserError
from .manifest import Manifest
from .predictor import Predictor
from .prompts import Prompt
from .runners.onnxruntime import OnnxRuntimeRunner
from .runners.tensorrt import TensorRtRunner

__all__ = [
    "AutomaticMaskGenerator",
    "Embedding",
    "Manifest",
    "OnnxRuntimeRunner",
    "Predictor",
    "Prompt",
    "TensorRtRunner",
    "UserError",
]
