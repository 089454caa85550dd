"""ONNX Runtime with inner tensors of a graph as further outputs, such as the plans of what merges."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .onnxfile import with_outputs
from .onnxruntime import OnnxRuntimeRunner


class TappedRunner(OnnxRuntimeRunner):
    """ONNX Runtime with inner tensors of the graph as extra outputs.

    Args:
        path, provider, threads: see OnnxRuntimeRunner.
        tensors: names of the inner tensors.
    """

    def __init__(self, path: Path, provider: str, threads: int | None, tensors: Sequence[str]) -> None:
        super().__init__(path, provider, threads)
        self.tensors = tensors

    def _model(self) -> bytes:
        return with_outputs(self.path, self.tensors)

    def _options(self, ort: ModuleType) -> Any:
        options = super()._options(ort)
        key = "session.model_external_initializers_file_folder_path"  # for a model in memory
        options.add_session_config_entry(key, str(self.path.parent))
        return options
