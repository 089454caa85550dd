"""Fused attention beside Meta's."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.models.checkpoints import randomize, sam_modules
from structsam_export.training.attention import FusedAttention


@given(height=st.integers(1, 5), width=st.integers(1, 5), heads=st.integers(1, 3), seed=st.integers(0, 99))
def test_it_is_metas_and_so_are_its_gradients(height: int, width: int, heads: int, seed: int) -> None:
    Attention = sam_modules().image_encoder.Attention
    meta = Attention(8 * heads, heads, use_rel_pos=True, input_size=(height, width))
    randomize(meta, seed)
    tokens = torch.randn(2, height, width, 8 * heads, generator=torch.Generator().manual_seed(seed))
    expected = meta(tokens)
    expected.square().sum().backward()
    wanted = {name: value.grad.clone() for name, value in meta.named_parameters()}
    meta.zero_grad()
    fused = FusedAttention(meta)
    found = fused(tokens)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert fused.state_dict().keys() == meta.state_dict().keys()
    for name, value in fused.named_parameters():
        torch.testing.assert_close(value.grad, wanted[name], rtol=1e-3, atol=1e-3)


def test_no_pairs_of_tokens_are_in_memory() -> None:
    """The fused kernel is what runs: the plain one would keep logits for the backward pass."""
    Attention = sam_modules().image_encoder.Attention
    meta = Attention(16, 2, use_rel_pos=True, input_size=(16, 16))
    sizes: list[int] = []

    def kept(value: torch.Tensor) -> torch.Tensor:
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda value: value):
        FusedAttention(meta)(torch.randn(1, 16, 16, 16))
    assert max(sizes) < 256 * 256
