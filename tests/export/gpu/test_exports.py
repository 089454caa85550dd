"""Whether exports can run in ONNX Runtime here; that they do is tested with the script."""

import sys
from types import SimpleNamespace

import pytest

from structsam_export.gpu import exports


@pytest.mark.parametrize(
    ("device", "providers", "why"),
    [
        ("cpu", ["CPUExecutionProvider"], ""),
        ("cuda", ["CPUExecutionProvider"], "ONNX Runtime here has no CUDAExecutionProvider"),
        ("cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"], ""),
    ],
)
def test_a_missing_provider_is_named(
    device: str, providers: list[str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        exports, "library", lambda: SimpleNamespace(get_available_providers=lambda: providers)
    )
    assert exports.missing(device) == why


@pytest.mark.parametrize("name", ["onnxruntime", "polygraphy"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert exports.missing("cuda").startswith(f"{name} is not installed")
