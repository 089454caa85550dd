"""Polygraphy over the runners of this project: its comparator runs them and checks their outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator
from polygraphy.logger import G_LOGGER

from structsam_runtime.runners.base import Runner

Arrays = dict[str, NDArray[Any]]


def results(runner: Runner, feeds: Sequence[Arrays]) -> tuple[list[Arrays], bool]:
    """Run a runner, opened and closed here, on every feed.

    Args:
        runner: the runner.
        feeds: the inputs by name, for every run.

    Returns:
        The outputs by name for every run, and whether all of them are finite.
    """
    with _quiet():
        made = Comparator.run([_Compared(runner)], data_loader=list(feeds))
        finite = bool(Comparator.validate(made, check_inf=True, check_nan=True))
    return [{name: np.asarray(value) for name, value in outputs.items()} for outputs in made[0][1]], finite


class _Compared(BaseRunner):  # type: ignore[misc]
    """A runner behind Polygraphy's interface."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(name=runner.name)
        self.runner = runner

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Types and shapes, -1 for an axis of any length."""
        metadata = TensorMetadata()
        for name, spec in self.runner.inputs.items():
            shape = tuple(-1 if isinstance(axis, str) else axis for axis in spec.shape)
            metadata.add(name, dtype=spec.dtype, shape=shape)
        return metadata

    def activate_impl(self) -> None:
        """Open the runner."""
        self.runner.__enter__()

    def deactivate_impl(self) -> None:
        """Close the runner."""
        self.runner.__exit__(None, None, None)

    def infer_impl(self, feed_dict: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run once."""
        self.inference_time = 0.0
        return self.runner.infer(feed_dict)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Polygraphy's log."""
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
