"""What the tracer must not do in silence."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError

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
    with pytest.raises(UserError, match=r"violated \(batch\)"):
        trace(Stacks(by_length=True), {"x": torch.zeros(2, 3)}, ["y"], DYNAMIC)


def test_a_dynamic_dimension_keeps_its_name() -> None:
    model = trace(Stacks(by_length=False), {"x": torch.zeros(2, 3)}, ["y"], DYNAMIC)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


class Tables(nn.Module):
    """Tables of which two are equal, larger than those that the exporter compares by itself."""

    def __init__(self) -> None:
        super().__init__()
        equal, zeros = torch.arange(3000.0), torch.zeros(3000)
        last = zeros.clone()
        last[-1] = 1
        for name, table in {
            "first": equal,
            "second": equal.clone(),
            "zeros": zeros,
            "minus": -zeros,
            "last": last,
            "shaped": zeros[None].clone(),
            "whole": zeros.int(),
        }.items():
            self.register_buffer(name, table)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[3000] to a product with the first table and sums with the others."""
        first, *others = self.buffers()
        return x * first, *(x.to(table.dtype) + table for table in others)


def test_equal_constants_are_one_and_those_that_differ_in_anything_stay() -> None:
    """In a value behind many equal ones, in the sign of a zero, in shape, in type."""
    outputs = [f"y{number}" for number in range(7)]
    model = trace(Tables(), {"x": torch.ones(3000)}, outputs)
    tables = [tensor.name for tensor in model.graph.initializer if 3000 in tensor.dims]
    assert sorted(tables) == ["first", "last", "minus", "shaped", "whole", "zeros"]
    assert [node.input[1] for node in model.graph.node if "y1" in node.output] == ["first"]
