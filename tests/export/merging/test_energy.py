"""What gradient energy promises by itself; test_structsam holds it against plain loops."""

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from structsam_export.choices import Border, Gradient, Scope
from structsam_export.merging import StructSAM, Windows, gradient_energy
from structsam_export.merging.energy import token_energy


@pytest.mark.parametrize(("gradient", "expected"), [(Gradient.SOBEL, 64.0), (Gradient.CENTRAL, 4.0)])
def test_a_slope_has_the_same_energy_everywhere_but_at_its_ends(gradient: Gradient, expected: float) -> None:
    slope = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 5, 6, 1)
    energy = gradient_energy(slope, gradient)[0]
    assert (energy[:, 1:-1] == expected).all()
    assert (energy[:, [0, -1]] == expected / 4).all(), "replicated: half the difference"


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    gradient=st.sampled_from(Gradient),
    border=st.sampled_from(Border),
    seed=st.integers(0, 99),
)
def test_energy_is_symmetric_in_rows_and_columns(
    shape: tuple[int, int, int], gradient: Gradient, border: Border, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 10, (2, *shape), generator=generator).float()
    energy = gradient_energy(x, gradient, border)
    assert energy.shape == x.shape[:3]
    assert (energy >= 0).all()
    assert torch.equal(gradient_energy(x.transpose(1, 2), gradient, border), energy.transpose(1, 2))
    assert torch.equal(gradient_energy(x.flip(1, 2), gradient, border), energy.flip(1, 2))


def test_energy_ignores_an_added_constant() -> None:
    x = torch.randint(-9, 10, (1, 7, 7, 4)).float()
    assert torch.equal(gradient_energy(x + 100), gradient_energy(x))


@given(shape=st.tuples(*[st.integers(1, 6)] * 3), gradient=st.sampled_from(Gradient), seed=st.integers(0, 99))
def test_a_zero_border_equals_a_map_padded_with_zeros(
    shape: tuple[int, int, int], gradient: Gradient, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 10, (2, *shape), generator=generator).float()
    wider = F.pad(x, (0, 0, 2, 2, 2, 2))
    inside = gradient_energy(wider, gradient)[:, 2:-2, 2:-2]
    assert torch.equal(gradient_energy(x, gradient, Border.ZERO), inside)


@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize("gradient", Gradient)
def test_scopes_agree_if_one_window_covers_the_map(gradient: Gradient, border: Border) -> None:
    x = torch.randint(-9, 10, (2, 6, 6, 3), generator=torch.Generator().manual_seed(0)).float()
    per_scope = [token_energy(x, Windows(6, 6, 6), gradient, scope, border) for scope in Scope]
    assert torch.equal(*per_scope)


def test_window_scope_ignores_other_windows() -> None:
    """An edge between two windows has energy over the map, and none in either window."""
    x, windows = torch.zeros(1, 4, 8, 1), Windows(4, 8, 4)
    x[:, :, 4:] = 1
    over_map, within = (token_energy(x, windows, Gradient.SOBEL, scope, Border.REPLICATE) for scope in Scope)
    assert over_map.sum() > 0
    assert (within == 0).all()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to compile with")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_inductor_compiles_it_behind_a_normalisation() -> None:
    """It refuses clamped indices there (PyTorch 2.13)."""

    def energy(rows: Tensor) -> Tensor:
        return gradient_energy(F.layer_norm(rows, (8,)).view(1, 6, 6, 8))

    rows = torch.randn(36, 8)
    torch._dynamo.reset()
    compiled = torch.compile(energy, dynamic=False, fullgraph=True)
    torch.testing.assert_close(compiled(rows), energy(rows))


class Calls(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.name())
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("gradient", Gradient)
@pytest.mark.parametrize("side", [3, 4])
def test_a_plan_copies_nothing_from_the_host(gradient: Gradient, side: int) -> None:
    """A GPU would wait for it in every layer."""
    windows, x = Windows(9, 9, 3 * side), torch.randn(1, 9, 9, 8)
    copy = "aten::lift_fresh"  # how a Python number becomes a tensor
    with Calls() as calls:
        torch.tensor([0])
    assert copy in calls.names
    with Calls() as calls:
        plan = StructSAM(0.5, cell=side, gradient=gradient).plan(x, windows)
        plan.merge_rows(windows.source(x.flatten(0, 2)), windows.rows(1, x.device))
    assert "aten::arange" in calls.names
    assert copy not in calls.names
