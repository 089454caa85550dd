"""Segment Anything with StructSAM token merging, without PyTorch: NumPy and an engine."""

from .errors import UserError
from .manifest import Manifest
from .predict.automatic.generator import AutomaticMaskGenerator
from .predict.embedding import Embedding
from .predict.predictor import Predictor
from .predict.prompts import Prompt
from .runners.onnxruntime import OnnxRuntimeRunner
from .runners.openvino import OpenVinoRunner
from .runners.tensorrt import TensorRtRunner

__all__ = [
    "AutomaticMaskGenerator",
    "Embedding",
    "Manifest",
    "OnnxRuntimeRunner",
    "OpenVinoRunner",
    "Predictor",
    "Prompt",
    "TensorRtRunner",
    "UserError",
]
__version__ = "0.1.0"
