"""What gradient energy promises by itself; test_structsam holds it against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.choices import Gradient
from structsam_export.merging import gradient_energy


@pytest.mark.parametrize(("gradient", "expected"), [(Gradient.SOBEL, 64.0), (Gradient.CENTRAL, 4.0)])
def test_a_slope_has_the_same_energy_everywhere_but_at_its_ends(gradient: Gradient, expected: float) -> None:
    slope = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 5, 6, 1)
    energy = gradient_energy(slope, gradient)[0]
    assert (energy[:, 1:-1] == expected).all()
    assert (energy[:, [0, -1]] == expected / 4).all(), "replicated: half the difference"


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    gradient=st.sampled_from(Gradient),
    seed=st.integers(0, 99),
)
def test_rows_and_columns_are_alike(shape: tuple[int, int, int], gradient: Gradient, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 10, (2, *shape), generator=generator).float()
    energy = gradient_energy(x, gradient)
    assert energy.shape == x.shape[:3]
    assert (energy >= 0).all()
    assert torch.equal(gradient_energy(x.transpose(1, 2), gradient), energy.transpose(1, 2))
    assert torch.equal(gradient_energy(x.flip(1, 2), gradient), energy.flip(1, 2))


def test_energy_does_not_see_a_constant_that_is_added() -> None:
    x = torch.randint(-9, 10, (1, 7, 7, 4)).float()
    assert torch.equal(gradient_energy(x + 100), gradient_energy(x))
