"""Folded programs compute what they computed, of fewer operators."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structsam_export.graph.folding import fold

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
Function = Callable[[Tensor, Tensor], Any]


class Computes(nn.Module):
    """A function as a module, with a weight."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.arange(6.0).view(2, 3))

    def forward(self, x: Tensor) -> Any:
        """[B, 3] to what the function makes of it and the weight."""
        return self.function(x, self.weight)


def table(x: Tensor, weight: Tensor) -> Tensor:
    """Indices from constants, and what depends on the weight."""
    rows = torch.arange(4).view(2, 2).transpose(0, 1).flatten() % 2
    return weight[rows].sum(0) * x


def parts(x: Tensor, weight: Tensor) -> Tensor:
    """A constant in several parts, and two users of one of them."""
    one, two = (torch.arange(6.0) + 1).chunk(2)
    return (x + one) * two + one


def by_batch(x: Tensor, weight: Tensor) -> Tensor:
    """Counts images, which are not known, beside a constant."""
    return x + torch.arange(x.shape[0])[:, None] * torch.arange(3).float().sqrt()


def alone(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A constant that is an output too."""
    count = torch.arange(4) * 2
    return count, x * (count[:3] + 1)


def nothing(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def written(x: Tensor, weight: Tensor) -> Tensor:
    """A constant that is read before and after something is written to a part of it."""
    zeros = torch.zeros(3) + 1
    before = zeros * 2
    zeros[1:].add_(x[0, 1:])
    return before + zeros + x


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [table, parts, by_batch, alone, nothing, written])
def test_a_folded_program_computes_the_same(function: Function, dynamic: bool) -> None:
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(1))
    shapes = ({0: torch.export.Dim("batch", min=1, max=9)},) if dynamic else None
    program = torch.export.export(Computes(function), (x,), dynamic_shapes=shapes)
    expected = program.module()(x)
    fold(program)
    program.validate()
    for folded in (program, program.run_decompositions({})):
        for made, own in zip(as_tuple(folded.module()(x)), as_tuple(expected), strict=True):
            assert torch.equal(made, own)


def as_tuple(made: Any) -> tuple[Tensor, ...]:
    """One output or several."""
    return made if isinstance(made, tuple) else (made,)


def operators(function: Function) -> list[str]:
    """Of a folded program, by name."""
    program = torch.export.export(Computes(function), (torch.ones(2, 3),))
    fold(program)
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_what_depends_on_constants_only_is_gone() -> None:
    assert operators(table) == ["aten.index.Tensor", "aten.sum.dim_IntList", "aten.mul.Tensor"]
    assert operators(parts) == ["aten.add.Tensor", "aten.mul.Tensor", "aten.add.Tensor"]


def test_random_numbers_are_drawn_in_the_program() -> None:
    assert operators(lambda x, weight: x + torch.rand(3))[0] == "aten.rand.default"
