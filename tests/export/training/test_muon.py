"""Muon in single precision, beside PyTorch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from structsam_export.training.muon import Muon, orthogonal

SHAPES = [(24, 24), (16, 48), (48, 16)]


def matrix(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 10**6), shape=st.sampled_from(SHAPES), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_a_matrix_becomes_nearly_orthogonal(seed: int, shape: tuple[int, int], scale: float) -> None:
    left, values, right = torch.linalg.svd(matrix(seed, *shape), full_matrices=False)
    values = values.clamp(min=0.1 * float(values.max()))  # the smallest need more than five rounds
    given = scale * left @ torch.diag(values) @ right
    found = orthogonal(torch.stack([matrix(seed + 1, *shape), given]))[1]  # whatever is beside it
    turned = left.T @ found @ right.T
    assert (turned - torch.diag(turned.diag())).abs().max() < 1e-3  # singular vectors stay
    assert 0.6 < float(turned.diag().min()) <= float(turned.diag().max()) < 1.3


def test_no_gradient_is_no_step() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 3, 5)), torch.zeros(1, 3, 5))
    untouched = nn.Parameter(matrix(0, 3, 5))
    Muon([untouched], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(untouched, matrix(0, 3, 5))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has its own since 2.9")
@pytest.mark.parametrize("shape", SHAPES)
def test_it_steps_as_pytorchs_and_takes_over_from_it(shape: tuple[int, int]) -> None:
    ours, theirs = nn.Parameter(matrix(1, *shape)), nn.Parameter(matrix(1, *shape))
    options = {"lr": 0.02, "weight_decay": 0.05}
    reference = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **options)
    resumed = torch.optim.Muon([ours], adjust_lr_fn="match_rms_adamw", **options)
    for parameter, optimizer in ((ours, resumed), (theirs, reference)):
        parameter.grad = matrix(2, *shape)
        optimizer.step()
    muon = Muon([ours], **options)
    muon.load_state_dict(resumed.state_dict())
    before = ours.detach().clone()
    for seed in range(3, 8):
        ours.grad, theirs.grad = matrix(seed, *shape), matrix(seed, *shape)
        muon.step()
        reference.step()
    moved = float((ours.detach() - before).norm())
    assert float((ours.detach() - theirs.detach()).norm()) < 0.02 * moved  # bfloat16 has three digits
