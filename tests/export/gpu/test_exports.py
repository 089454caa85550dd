"""Whether exports can run in ONNX Runtime here; that they do is tested with the script."""

import sys
from types import SimpleNamespace

import pytest

from structsam_export.gpu.exports import missing


@pytest.mark.parametrize(
    ("device", "providers", "why"),
    [
        ("cpu", ["CPUExecutionProvider"], ""),
        ("cuda", ["CPUExecutionProvider"], "ONNX Runtime here has no CUDAExecutionProvider"),
        ("cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"], ""),
        ("cuda", None, "ONNX Runtime is not installed"),
    ],
)
def test_what_is_missing_is_named(
    device: str, providers: list[str] | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = None if providers is None else SimpleNamespace(get_available_providers=lambda: providers)
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    assert missing(device).startswith(why) if providers is None else missing(device) == why
