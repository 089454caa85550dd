"""ONNX models on disk."""

from __future__ import annotations

from pathlib import Path

import onnx

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes of weights beyond which a model cannot be one protobuf message (the limit is 2 GiB, all told)."""


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights go to `<path>.data` beside it only where one file cannot hold them.

    Args:
        model: is left without its weights in the second case.
        path: the .onnx file.
    """
    if sum(len(weight.raw_data) for weight in model.graph.initializer) < PROTOBUF_LIMIT:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
