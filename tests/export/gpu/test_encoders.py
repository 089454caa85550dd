"""Replays of CUDA graphs, with a stand-in for CUDA; the rest of encoders is in test_parts."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from structsam_export.gpu import encoders
from structsam_export.gpu.record import Record

ROW = {"name": "ours", "compiled": False, "precision": "fp16", "batch": 2}
Replay = Callable[[], Any]


@pytest.fixture
def replaying(monkeypatch: pytest.MonkeyPatch) -> Callable[[Replay], None]:
    """`replaying(call)` makes a replay of any graph a call of that function."""

    def stand_in(call: Replay) -> None:
        graph = type("Graph", (), {"replay": lambda self: call()})
        monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)

    monkeypatch.setattr(torch.cuda, "graph", nullcontext)
    for name, result in {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 7,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda result=result: result)
    return stand_in


def test_a_replay_is_a_row(record: Record, replaying: Callable[[Replay], None]) -> None:
    replays: list[int] = []
    replaying(lambda: replays.append(1))
    encoders._replayed(record, ROW, lambda image: (image * 2,), torch.randn(2, 3), 4)
    (row,) = record.content["encoders"]
    assert row["name"] == "ours, CUDA graph"
    assert row["peak_device"] == 7
    assert len(row["seconds"]) == 4
    assert len(replays) == 1 + encoders.WARM_UP + 4


def test_a_replay_of_another_embedding_is_no_row(record: Record, replaying: Callable[[Replay], None]) -> None:
    outputs: list[Tensor] = []

    def encode(image: Tensor) -> tuple[Tensor]:
        outputs.append(image * 2)
        return (outputs[-1],)

    replaying(lambda: outputs[-1].neg_())
    with pytest.raises(ArithmeticError, match=r"the replayed embedding has cosine -1.0000"):
        encoders._replayed(record, ROW, encode, torch.randn(2, 3), 4)
    assert not record.content["encoders"]
