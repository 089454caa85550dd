"""What the tracer must not do in silence."""

import pytest
import torch
from torch import Tensor, nn

from structsam_export.graph.trace import trace

DYNAMIC = {"x": {0: "batch"}}


class Stacks(nn.Module):
    """Adds a row for every image, counted as a tensor's length or as its shape."""

    def __init__(self, by_length: bool) -> None:
        super().__init__()
        self.by_length = by_length

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3] to [B, 3]."""
        return x + torch.arange(len(x) if self.by_length else x.shape[0])[:, None]


def test_a_dimension_that_comes_back_fixed_is_refused() -> None:
    with pytest.raises(RuntimeError, match="tracing fixed batch of x"):
        trace(Stacks(by_length=True), {"x": torch.zeros(2, 3)}, ["y"], DYNAMIC)


def test_a_dynamic_dimension_keeps_its_name() -> None:
    model = trace(Stacks(by_length=False), {"x": torch.zeros(2, 3)}, ["y"], DYNAMIC)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
