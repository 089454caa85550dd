"""Compile an encoder with `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..encoder.exported import PlannedEncoder
from ..encoder.patch import merged_blocks


@contextmanager
def compiled(module: nn.Module) -> Iterator[nn.Module]:
    """The module compiled for fixed shapes; its code is dropped at the end of the block.

    Merging blocks and the neck are compiled one by one: blocks that are alike share their code, so that it is
    made three times instead of twelve. A block that is not one graph raises when it runs. Other modules are
    compiled whole.
    """
    torch._dynamo.reset()
    try:
        if isinstance(module, PlannedEncoder):
            blocks: list[Any] = merged_blocks(module.encoder)
            for block in blocks:
                block.forward_with_plans = torch.compile(
                    block.forward_with_plans, dynamic=False, fullgraph=True
                )
            module.encoder.neck.compile(dynamic=False)
            yield module
        else:
            yield torch.compile(module, dynamic=False)  # type: ignore[misc]  # a module stays one
    finally:
        torch._dynamo.reset()
