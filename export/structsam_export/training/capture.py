"""Steps of training as CUDA graphs: one launch in place of some four thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

WARM_UP = 2
"""Calls of a kind before it is captured; in them libraries and optimizers allocate what they keep."""


class Captured:
    """A function of tensors on a GPU that changes others in place, such as a step of training.

    What it does must depend on the kind of the call alone, not on values: shapes, branches, Python's numbers.

    Args:
        function: kind and inputs to results, all on the GPU.
    """

    def __init__(self, function: Callable[[Any, Tensors], Tensors]) -> None:
        self.function = function
        self.pool = torch.cuda.graph_pool_handle()
        self.inputs: Tensors = {}
        self.calls: dict[Any, int] = {}
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Tensors]] = {}

    def __call__(self, kind: Any, inputs: Tensors) -> Tensors:
        """Call, or replay.

        Args:
            kind: hashable; every kind is captured by itself.
            inputs: of the same shapes in every call, on any device.

        Returns:
            The function's results.
        """
        for name, value in inputs.items():
            if name not in self.inputs:
                self.inputs[name] = torch.empty_like(value, device="cuda")
            self.inputs[name].copy_(value, non_blocking=True)
        self.calls[kind] = self.calls.get(kind, 0) + 1
        if self.calls[kind] <= WARM_UP:
            return self._beside(kind)
        if kind not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                results = self.function(kind, self.inputs)
            self.graphs[kind] = graph, results
        graph, results = self.graphs[kind]
        graph.replay()
        return {name: value.clone() for name, value in results.items()}

    def _beside(self, kind: Any) -> Tensors:
        """Call on another stream, as capturing will."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results = self.function(kind, self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return results
