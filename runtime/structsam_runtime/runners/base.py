"""What every engine looks like from outside."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Array = NDArray[Any]


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
    outputs, runs it in ``_run`` and lets go of it in ``_close``.
    """

    name: str  # for messages: usually the file
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def __init__(self, name: str) -> None:
        self.name = name
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
        self._close()

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once: input name -> array in, output name -> array out.

        Raises:
            UserError: outside the ``with`` block; or an input is missing, unknown, or has another dtype or
                shape than the engine's.
        """
        if not self._is_open:
            raise UserError(f"{self.name} is not open; use the runner inside a `with` block")
        self._check(feeds)
        return self._run(feeds)

    @abstractmethod
    def _open(self) -> tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]:
        """Build the engine; its inputs and outputs by name."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of the engine."""

    @abstractmethod
    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the engine on inputs that have been checked."""

    def _check(self, feeds: Mapping[str, Array]) -> None:
        if feeds.keys() != self.inputs.keys():
            raise UserError(f"{self.name} got the inputs {_names(feeds)}, expected {_names(self.inputs)}")
        lengths: dict[str, int] = {}  # of the named axes
        for name, spec in self.inputs.items():
            array = feeds[name]
            if not isinstance(array, np.ndarray):
                raise UserError(
                    f"{self.name}: input '{name}' is {type(array).__name__}, expected a NumPy array"
                )
            if array.dtype != spec.dtype:
                raise UserError(f"{self.name}: input '{name}' is {array.dtype}, expected {spec.dtype}")
            if not _fits(array.shape, spec.shape, lengths):
                where = "".join(f", {axis} = {length}" for axis, length in lengths.items())
                raise UserError(
                    f"{self.name}: input '{name}' has shape {_shape(array.shape)}, "
                    f"expected {_shape(spec.shape)}{where}"
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


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(str(axis) for axis in shape)}]"
