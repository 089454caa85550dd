"""Write ONNX models to disk."""

from __future__ import annotations

from pathlib import Path

import onnx

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes of weights above which a model is split: one protobuf message holds at most 2 GiB in total."""


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights go to `<path>.data` beside it only if one file cannot hold them.

    Args:
        model: if its weights go to a second file, they are removed from this object.
        path: the .onnx file.
    """
    if sum(len(weight.raw_data) for weight in model.graph.initializer) < PROTOBUF_LIMIT:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
