"""What runs a model while it is being verified: PyTorch and ONNX Runtime, as Polygraphy's runners."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator
from polygraphy.logger import G_LOGGER

from structsam_runtime.errors import UserError

Arrays = dict[str, NDArray[Any]]


class TorchRunner(BaseRunner):  # type: ignore[misc]
    """Polygraphy's view of a PyTorch module on the CPU.

    Args:
        module: called with the inputs in the order of `example`.
        example: inputs of the kind that will come, by name.
        outputs: names of the outputs.
    """

    def __init__(self, module: Callable[..., Any], example: Arrays, outputs: Sequence[str]) -> None:
        super().__init__(prefix="torch")
        self.module = module
        self.example = example
        self.output_names = list(outputs)

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Types and ranks of the example, every dimension open."""
        metadata = TensorMetadata()
        for name, value in self.example.items():
            metadata.add(name, dtype=value.dtype, shape=(-1,) * value.ndim)
        return metadata

    def activate_impl(self) -> None:
        """Nothing to make."""

    def deactivate_impl(self) -> None:
        """Nothing to let go."""

    def infer_impl(self, feed_dict: Mapping[str, NDArray[Any]]) -> OrderedDict[str, NDArray[Any]]:
        """One forward pass."""
        with torch.no_grad():
            outputs = self.module(*(torch.from_numpy(feed_dict[name]) for name in self.example))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        self.inference_time = 0.0
        return OrderedDict((n, o.numpy()) for n, o in zip(self.output_names, outputs, strict=True))


def onnx_runner(
    path: Path, plans: Sequence[str] = (), provider: str = "CPUExecutionProvider"
) -> OnnxrtRunner:
    """An ONNX file in ONNX Runtime, telling intermediate results too.

    Args:
        path: with its external data beside it, if it has any.
        plans: names of int32 tensors inside the graph.
        provider: in ONNX Runtime's spelling; must be available.

    Raises:
        UserError: ONNX Runtime is missing, or does not have the provider.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError('verification needs ONNX Runtime; pip install "structsam[cpu]"') from error
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UserError(f"ONNX Runtime has no {provider} here, only {', '.join(available)}")

    def session() -> Any:
        model = onnx.load(path, load_external_data=False)
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, None) for name in plans
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.parent)
        )
        made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
        if made.get_providers()[0] != provider:
            raise UserError(
                f"ONNX Runtime could not start {provider}; it would run on {made.get_providers()[0]}"
            )
        return made

    return OnnxrtRunner(session)


def run_all(runner: BaseRunner, feeds: Sequence[Arrays]) -> list[Arrays]:
    """Outputs for every feed, none of which may hold a NaN or an infinity."""
    with _quiet():
        results = Comparator.run([runner], data_loader=list(feeds))
        finite = Comparator.validate(results, check_inf=True, check_nan=True)
    outputs = [{name: np.asarray(value) for name, value in made.items()} for made in results[0][1]]
    if not finite:
        bad = sorted({n for made in outputs for n, v in made.items() if not np.isfinite(v).all()})
        raise NotFiniteError(f"{runner.name} gave NaN or infinity in {', '.join(bad)}")
    return outputs


class NotFiniteError(Exception):
    """An export, or its reference, overflowed."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Polygraphy's log of every step off the user's terminal."""
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
