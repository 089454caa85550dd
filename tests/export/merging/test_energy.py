"""What gradient energy promises by itself; test_structsam holds it against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.choices import Border, Gradient, Scope
from structsam_export.merging import Windows, gradient_energy
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
    wider = torch.nn.functional.pad(x, (0, 0, 2, 2, 2, 2))
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
