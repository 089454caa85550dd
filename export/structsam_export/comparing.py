"""Runners for verification: PyTorch modules, runners with plans as outputs, and Polygraphy."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structsam_runtime.errors import NotFiniteError
from structsam_runtime.runners.base import Array, DeviceArray, Runner, TensorSpec
from structsam_runtime.runners.onnxfile import with_outputs
from structsam_runtime.runners.onnxruntime import OnnxRuntimeRunner
from structsam_runtime.runners.openvino import OpenVinoRunner, stable
from structsam_runtime.runners.tapped import TappedRunner

Arrays = dict[str, NDArray[Any]]
Specs = Mapping[str, TensorSpec]


class TorchArray(DeviceArray):
    """An output of PyTorch that stays on its device.

    Args:
        tensor: the values, in any precision.
        dtype: type of the NumPy array.
    """

    def __init__(self, tensor: Tensor, dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = tuple(tensor.shape), dtype
        self._tensor = tensor

    def numpy(self) -> Array:
        """The values as a NumPy array; without a copy on the CPU if the type is the same."""
        tensor = self._tensor.cpu()
        tensor = tensor.float() if tensor.dtype is torch.bfloat16 else tensor  # NumPy has no bf16
        return tensor.numpy().astype(self.dtype, copy=False)


class TorchRunner(Runner):
    """A PyTorch module as a `Runner`.

    Args:
        module: takes CPU tensors in the order of `inputs` and returns tensors in the order of `outputs`, on
            any device.
        inputs, outputs: specifications by name.
        name: name in messages.
    """

    def __init__(
        self, module: Callable[..., Any], inputs: Specs, outputs: Specs, name: str = "PyTorch"
    ) -> None:
        super().__init__(name)
        self.module, self._specs = module, (inputs, outputs)

    def _open(self) -> tuple[Specs, Specs]:
        return self._specs

    def _close(self) -> None:
        """Nothing to release."""

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        return {name: array.numpy() for name, array in self._run_on_device(feeds).items()}

    @torch.no_grad()
    def _run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        made = self.module(*(torch.from_numpy(feeds[name]) for name in self.inputs))
        tensors = made if isinstance(made, tuple) else (made,)
        return {
            name: TorchArray(tensor, spec.dtype)
            for (name, spec), tensor in zip(self.outputs.items(), tensors, strict=True)
        }


class TappedOpenVino(OpenVinoRunner):
    """OpenVINO with inner tensors of the graph as extra outputs.

    Args:
        path, threads: see OpenVinoRunner.
        tensors: names of the inner tensors, int32.
    """

    def __init__(self, path: Path, threads: int | None, tensors: Sequence[str]) -> None:
        super().__init__(path, threads=threads)
        self.tensors = tensors

    def _model(self) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.path.name
            path.write_bytes(with_outputs(self.path, self.tensors))
            weights = self.path.with_name(f"{self.path.name}.data")
            if weights.is_file():  # OpenVINO follows no link out of the folder
                shutil.copyfile(weights, path.parent / weights.name)
            return stable(self._core.read_model(path))


def tapped(runner: Runner, tensors: Sequence[str]) -> Runner | None:
    """A second runner of the same file and library with inner tensors of the graph as extra outputs.

    Args:
        runner: the first runner.
        tensors: names of the inner tensors, int32.

    Returns:
        None if there are no tensors, or if the runner is an engine, which has no inner outputs.
    """
    if tensors and isinstance(runner, OnnxRuntimeRunner):
        return TappedRunner(runner.path, runner.provider, runner.threads, tensors)
    if tensors and isinstance(runner, OpenVinoRunner):
        return TappedOpenVino(runner.path, runner.threads, tensors)
    return None


def digest(*arrays: Array) -> str:
    """sha256 of the shapes and values of arrays, such as the pixels of a picture."""
    made = hashlib.sha256()
    for array in arrays:
        made.update(repr(array.shape).encode() + array.tobytes())
    return made.hexdigest()


def run_all(runner: Runner, feeds: Sequence[Arrays]) -> list[Arrays]:
    """Run a runner on every feed.

    Args:
        runner: opened and closed here.
        feeds: the inputs by name, for every run.

    Returns:
        The outputs by name, for every run.

    Raises:
        NotFiniteError: an output contains NaN or infinity.
    """
    from .polygraphs import results  # here, because what needs no comparison works without Polygraphy

    outputs, finite = results(runner, feeds)
    if not finite:
        bad = sorted({n for made in outputs for n, v in made.items() if not np.isfinite(v).all()})
        raise NotFiniteError(f"{runner.name} returned NaN or infinity in {', '.join(bad)}")
    return outputs
