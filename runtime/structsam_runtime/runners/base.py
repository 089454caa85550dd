"""What every engine looks like from outside."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Array = NDArray[Any]


class DeviceArray(ABC):
    """An array where an engine left it: in the memory of a GPU, or of the CPU for engines that run there.

    Valid while the runner that made it is open. No later run of any runner writes to it.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @abstractmethod
    def numpy(self) -> Array:
        """The values as a NumPy array, to be read only: it may be the very memory.

        Raises:
            UserError: the runner that made it is closed, and its memory gone.
        """


class HostArray(DeviceArray):
    """What a runner without memory of its own leaves behind: a NumPy array."""

    def __init__(self, values: Array) -> None:
        self.dtype, self.shape = values.dtype, values.shape
        self._values = values

    def numpy(self) -> Array:
        """The array itself."""
        return self._values


@dataclass(frozen=True)
class Memory:
    """What an open engine holds, in bytes; None where nobody knows."""

    weights: int | None
    activations: int | None  # intermediate results, and buffers of inputs and outputs


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an engine."""

    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]  # a name stands for an axis of any length, the same wherever it appears


class Runner(ABC):
    """An engine that lives inside a ``with`` block.

        with OnnxRuntimeRunner(path) as runner:
            outputs = runner.infer({"image": image})

    A subclass says what it is called, builds its engine in ``_open``, which returns the inputs and the
    outputs, runs it in ``_run`` and lets go of it in ``_close``. One whose outputs can stay on a device has
    ``_run_on_device`` too.

    Threads may share a runner: their runs take turns, and closing it waits for the run that is under way.

    Args:
        name: for messages, usually the file.
        concurrent: the engine itself takes several runs at once, and none has to wait.
    """

    _native: type[DeviceArray] | tuple[()] = ()  # the kind of device array that ``_run`` takes as it is
    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def __init__(self, name: str, concurrent: bool = False) -> None:
        self.name = name
        self._turn: AbstractContextManager[object] = nullcontext() if concurrent else Lock()
        self.inputs, self.outputs = {}, {}
        self._is_open = False

    def __enter__(self) -> Self:
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
        """Run once: input name -> array in, output name -> array out.

        A device array of the runner's own kind is read where it lies, any other is copied. The outputs are
        the caller's.

        Raises:
            UserError: outside the ``with`` block; or an input is missing, unknown, or has another dtype or
                shape than the engine's.
        """
        with self._turn:
            return self._run(self._accepted(feeds))

    def infer_on_device(self, feeds: Mapping[str, Array | DeviceArray]) -> dict[str, DeviceArray]:
        """Run once, and leave the outputs where they were computed, for this runner or another to take.

        Every call gives new arrays. Raises as :meth:`infer` does.
        """
        with self._turn:
            return self._run_on_device(self._accepted(feeds))

    def memory(self) -> Memory:
        """What the engine holds.

        Raises:
            UserError: outside the ``with`` block.
        """
        self._require_open()
        return self._memory()

    @abstractmethod
    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        """Build the engine; its inputs and outputs by name."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of the engine."""

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run the engine on inputs that have been checked: arrays, and device arrays of its own kind."""

    def _run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """The same, leaving the outputs where they are."""
        return {name: HostArray(values) for name, values in self._run(feeds).items()}

    def _memory(self) -> Memory:
        """What the open engine holds."""
        return Memory(weights=None, activations=None)

    def _require_open(self) -> None:
        if not self._is_open:
            raise UserError(f"{self.name} is not open; use the runner inside a `with` block")

    def _accepted(self, feeds: Mapping[str, Array | DeviceArray]) -> dict[str, Any]:
        """Checked inputs, those on another kind of device as NumPy arrays."""
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
        lengths: dict[str, int] = {}  # of the named axes
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
    """Whether a shape is the expected one; learns the length of an axis where its name appears first."""
    if len(shape) != len(expected):
        return False
    return all(
        length == (lengths.setdefault(axis, length) if isinstance(axis, str) else axis)
        for length, axis in zip(shape, expected, strict=True)
    )


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"


def as_text(shape: tuple[int | str, ...]) -> str:
    """A shape as messages write it: [1, 3, height]."""
    return f"[{', '.join(str(axis) for axis in shape)}]"
