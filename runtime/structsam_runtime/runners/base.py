"""The interface of all runners."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Array = NDArray[Any]


Opened = TypeVar("Opened", bound="Runner")


class DeviceArray(ABC):
    """An output that stays on the device of its runner: in GPU memory, or in CPU memory.

    Valid while the runner that made it is open. Later runs do not overwrite it.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @abstractmethod
    def numpy(self) -> Array:
        """The values as a NumPy array; do not write to it, since it may share the memory.

        Raises:
            UserError: the runner that made it is closed.
        """


class HostArray(DeviceArray):
    """The device array of a runner on the CPU: a NumPy array."""

    def __init__(self, values: Array) -> None:
        self.dtype, self.shape = values.dtype, values.shape
        self._values = values

    def numpy(self) -> Array:
        """The array itself."""
        return self._values


@dataclass(frozen=True)
class Memory:
    """Memory of an open engine in bytes; None if unknown."""

    weights: int | None
    activations: int | None  # intermediate results, and buffers of inputs and outputs


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an engine."""

    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]  # a name is a dynamic axis; equal names have equal lengths


class Runner(ABC):
    """An engine that is open inside a ``with`` block.

        with OnnxRuntimeRunner(path) as runner:
            outputs = runner.infer({"image": image})

    A subclass passes its name, loads its engine in ``_open``, which returns the inputs and outputs, runs it
    in ``_run``, and releases it in ``_close``. If outputs can stay on a device it also overrides
    ``_run_on_device``.

    Threads may share a runner: their runs take turns, and closing it waits for the run that is under way.

    Args:
        name: for messages, usually the file.
        concurrent: the engine itself takes several runs at once, and none has to wait.
    """

    _native: type[DeviceArray] | tuple[()] = ()  # the type of device array that ``_run`` takes without a copy
    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def __init__(self, name: str, concurrent: bool = False) -> None:
        self.name = name
        self._turn: AbstractContextManager[object] = nullcontext() if concurrent else Lock()
        self.inputs, self.outputs = {}, {}
        self._is_open = False

    def __enter__(self: Opened) -> Opened:
        self.inputs, self.outputs = self._open()
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        with self._turn:
            self._close()

    def infer(self, feeds: Mapping[str, Array | DeviceArray]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: arrays by input name. A device array of the runner's own type is not copied.

        Returns:
            New arrays by output name.

        Raises:
            UserError: the runner is not open; or an input is missing, unknown, or has another dtype or shape
                than the engine's.
        """
        with self._turn:
            return self._run(self._accepted(feeds))

    def infer_on_device(self, feeds: Mapping[str, Array | DeviceArray]) -> dict[str, DeviceArray]:
        """Run once, and keep the outputs on the device, as inputs of this runner or another.

        Every call returns new arrays. Raises as :meth:`infer`.
        """
        with self._turn:
            return self._run_on_device(self._accepted(feeds))

    def longest(self, name: str) -> int | None:
        """The longest first axis of an input that one run takes; None for any."""
        return None

    def memory(self) -> Memory:
        """Memory of the engine.

        Raises:
            UserError: the runner is not open.
        """
        self._require_open()
        return self._memory()

    @abstractmethod
    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        """Load the engine; returns its inputs and outputs by name."""

    @abstractmethod
    def _close(self) -> None:
        """Release the engine."""

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run the engine on checked inputs: NumPy arrays, and device arrays of its own type."""

    def _run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """`_run` with outputs that stay on the device."""
        return {name: HostArray(values) for name, values in self._run(feeds).items()}

    def _memory(self) -> Memory:
        """Memory of the open engine."""
        return Memory(weights=None, activations=None)

    def _require_open(self) -> None:
        if not self._is_open:
            raise UserError(f"{self.name} is not open; use the runner inside a `with` block")

    def _accepted(self, feeds: Mapping[str, Array | DeviceArray]) -> dict[str, Any]:
        """Check the inputs, and convert device arrays of other types to NumPy arrays."""
        self._require_open()
        self._check(feeds)
        foreign = {
            name: feed.numpy()
            for name, feed in feeds.items()
            if isinstance(feed, DeviceArray) and not isinstance(feed, self._native)
        }
        return {**feeds, **foreign}

    def _check(self, feeds: Mapping[str, Array | DeviceArray]) -> None:
        if feeds.keys() != self.inputs.keys():
            raise UserError(f"{self.name} got the inputs {_names(feeds)}, expected {_names(self.inputs)}")
        lengths: dict[str, int] = {}  # of the dynamic axes
        for name, spec in self.inputs.items():
            array = feeds[name]
            if not isinstance(array, np.ndarray | DeviceArray):
                raise UserError(
                    f"{self.name}: input '{name}' is {type(array).__name__}, expected a NumPy array"
                )
            if array.dtype != spec.dtype:
                raise UserError(f"{self.name}: input '{name}' is {array.dtype}, expected {spec.dtype}")
            if not _fits(array.shape, spec.shape, lengths):
                where = "".join(f", {axis} = {length}" for axis, length in lengths.items())
                raise UserError(
                    f"{self.name}: input '{name}' has shape {as_text(array.shape)}, "
                    f"expected {as_text(spec.shape)}{where}"
                )


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...], lengths: dict[str, int]) -> bool:
    """Whether a shape is the expected one; stores the length of a dynamic axis in `lengths`."""
    if len(shape) != len(expected):
        return False
    return all(
        length == (lengths.setdefault(axis, length) if isinstance(axis, str) else axis)
        for length, axis in zip(shape, expected, strict=True)
    )


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"


def as_text(shape: tuple[int | str, ...]) -> str:
    """A shape as text for messages: [1, 3, height]."""
    return f"[{', '.join(str(axis) for axis in shape)}]"
