"""Compile a merging encoder with `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ..encoder.exported import PlannedEncoder
from ..encoder.patch import merged_blocks
from ..merging import energy
from ..merging.methods import structsam
from ..merging.plan import MergePlan
from ..merging.windows import Windows

GRIDS: list[tuple[Any, str]] = [
    (structsam, "cell_tokens"),
    (energy, "_places"),
    (energy, "_boxes"),
    (Windows, "rows"),
    (Windows, "token_of_row"),
]
"""Functions and methods that return indices, or a map that is indexed."""


@torch.library.custom_op("structsam::stored", mutates_args=(), schema="(Tensor x) -> Tensor")
def _stored(x: Tensor) -> Tensor:
    """A copy that the compiler keeps in memory, since it does not look into the operator."""
    return x.clone(memory_format=torch.contiguous_format)


@_stored.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _storing(grid: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(grid)
    def made(*arguments: Any) -> Tensor:
        return _stored(grid(*arguments))

    return made


@contextmanager
def compiled(module: nn.Module) -> Iterator[nn.Module]:
    """The module compiled for fixed shapes, in this block.

    Merging blocks and the neck are compiled one by one: blocks that are alike share their code, so that it is
    made three times instead of twelve. Other modules are compiled whole.

    Inductor writes grids of indices as arithmetic, and (in PyTorch 2.13) finds no bound for it where an index
    was itself gathered; so grids are stored.
    """
    torch._dynamo.reset()
    patches = [mock.patch.object(owner, name, _storing(getattr(owner, name))) for owner, name in GRIDS]
    slot_rows = property(_storing(MergePlan.slot_rows.fget))  # type: ignore[attr-defined]
    patches.append(mock.patch.object(MergePlan, "slot_rows", slot_rows))
    for patch in patches:
        patch.start()
    try:
        if isinstance(module, PlannedEncoder):
            _compile_blocks(module)
            yield module
        else:
            yield torch.compile(module, dynamic=False)  # type: ignore[misc]  # a module stays one
    finally:
        for patch in patches:
            patch.stop()
        torch._dynamo.reset()


def _compile_blocks(module: PlannedEncoder) -> None:
    """Compile the blocks and the neck in place; a block that is not one graph raises when it runs."""
    blocks: list[Any] = merged_blocks(module.encoder)
    for block in blocks:
        block.forward_with_plans = torch.compile(block.forward_with_plans, dynamic=False, fullgraph=True)
    module.encoder.neck.compile(dynamic=False)
