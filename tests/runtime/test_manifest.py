"""Reading and checking the manifest of an export."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Manifest, Model, gmac

FILES = ("encoder.onnx", "decoder.onnx")
ENGINE = {"library": "tensorrt", "version": "10.3.0"}


@pytest.fixture
def folder(tmp_path: Path, export_folder: Path) -> Path:
    return Path(shutil.copytree(export_folder, tmp_path / "out"))


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_reads_what_was_written_and_leaves_unknown_keys(folder: Path, sam: Model) -> None:
    manifest = Manifest.read(folder)
    assert manifest.name == "stand-in"
    assert manifest.model == sam
    assert set(manifest.files) == set(FILES)
    manifest.check_files(folder, FILES)


def test_an_encoder_takes_a_prior_if_its_manifest_says_so(folder: Path) -> None:
    _edit(folder, lambda data: data["model"].pop("prior"))
    assert Manifest.read(folder).model.prior is False
    _edit(folder, lambda data: data["model"].update(prior=True))
    assert Manifest.read(folder).model.prior is True


def test_manifests_from_before_families_are_those_of_sam(folder: Path) -> None:
    _edit(folder, lambda data: [data["model"].pop(key) for key in ("scaling", "fit")])
    model = Manifest.read(folder).model
    assert (model.scaling, model.fit) == ("deviation", "pad")
    _edit(folder, lambda data: data["model"].update(scaling="min-max", fit="stretch"))
    model = Manifest.read(folder).model
    assert (model.scaling, model.fit) == ("min-max", "stretch")
    _edit(folder, lambda data: [data["model"].pop(key) for key in ("resampling", "upscaling", "boxes_only")])
    model = Manifest.read(folder).model
    assert (model.resampling, model.upscaling, model.boxes_only) == ("bilinear", "logits", False)
    changes = {"resampling": "spline", "upscaling": "probabilities", "boxes_only": True}
    _edit(folder, lambda data: data["model"].update(changes))
    model = Manifest.read(folder).model
    assert (model.resampling, model.upscaling, model.boxes_only) == ("spline", "probabilities", True)


def test_an_integer_passes_for_a_float(folder: Path) -> None:
    _edit(folder, lambda data: data["model"].update(mask_threshold=0))
    threshold = Manifest.read(folder).model.mask_threshold
    assert threshold == 0
    assert isinstance(threshold, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format=1), "has format 1, this version reads format 2; export again"),
        (lambda data: data.pop("format"), "lacks 'format'; export again"),
        (lambda data: data.pop("name"), "lacks 'name'"),
        (lambda data: data["model"].pop("low_res"), "lacks 'model.low_res'"),
        (lambda data: data["model"].update(image_size="1024"), "'model.image_size' = '1024', expected int"),
        (lambda data: data["model"].update(image_size=True), "'model.image_size' = True, expected int"),
        (lambda data: data["model"].update(prior=1), "'model.prior' = 1, expected bool"),
        (lambda data: data["model"].update(fit=None), "'model.fit' = None, expected str"),
        (lambda data: data["model"].update(fit="crop"), "'model.fit' = 'crop', expected pad or stretch"),
        (
            lambda data: data["model"].update(scaling="mean"),
            "'model.scaling' = 'mean', expected deviation or min-max",
        ),
        (
            lambda data: data["model"].update(resampling="cubic"),
            "'model.resampling' = 'cubic', expected bilinear or spline",
        ),
        (
            lambda data: data["model"].update(upscaling="masks"),
            "'model.upscaling' = 'masks', expected logits or probabilities",
        ),
        (lambda data: data["model"].update(boxes_only="yes"), "'model.boxes_only' = 'yes', expected bool"),
        (lambda data: data["model"].update(image_size=0), "a size or a pixel_std that is not positive"),
        (
            lambda data: data["model"].update(pixel_std=[1, 0, 1]),
            "a size or a pixel_std that is not positive",
        ),
        (lambda data: data["model"].update(pixel_mean=[1, 2]), "expected three numbers"),
        (
            lambda data: data["model"].update(pixel_mean=[1, None, 2]),
            "'model.pixel_mean.1' = None, expected float",
        ),
        (lambda data: data.update(model=[]), r"'model' = \[\], expected dict"),
        (lambda data: data["files"]["encoder.onnx"].pop("sha256"), "lacks 'files.encoder.onnx.sha256'"),
        (lambda data: data.update(engine="yes"), "'engine' = 'yes', expected dict"),
        (lambda data: data.update(engine={"library": "tensorrt"}), "lacks 'engine.version'"),
        (lambda data: data.update(engine=ENGINE | {"gpu": 1}), "'engine.gpu' = 1, expected str"),
        (
            lambda data: data.update(engine=ENGINE | {"capabilities": [9.0]}),
            "'engine.capabilities.0' = 9.0, expected str",
        ),
        (
            lambda data: data.update(engine=ENGINE | {"capabilities": 9}),
            "'engine.capabilities' = 9, expected l",
        ),
        (lambda data: data.update(command=["python"]), "'command' = .*, expected str"),
    ],
)
def test_refuses_a_manifest_in_one_line(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _edit(folder, change)
    with pytest.raises(UserError, match=message) as error:
        Manifest.read(folder)
    assert "\n" not in str(error.value)


def test_refuses_a_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*out; expected the output folder of structsam export"):
        Manifest.read(tmp_path / "out")
    with pytest.raises(UserError, match=r"no manifest\.json in"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", [b'{"format": 1, "name', b"", b"\xff\xfe"])
def test_refuses_json_cut_short(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(UserError, match=r"manifest\.json cannot be read: .*; export again"):
        Manifest.read(folder)


def test_refuses_json_of_another_kind(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="holds list, expected a JSON object"):
        Manifest.read(folder)


def test_refuses_files_that_are_not_the_exported_ones(folder: Path) -> None:
    manifest = Manifest.read(folder)
    with pytest.raises(UserError, match=r"manifest\.json does not list other\.onnx"):
        manifest.check_files(folder, ["other.onnx"])

    encoder = folder / "encoder.onnx"
    data = encoder.read_bytes()
    encoder.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    manifest.check_files(folder, FILES, hashes=False)
    with pytest.raises(
        UserError, match=r"has sha256 \w{12}\.\.\., its manifest says \w{12}\.\.\.; copy it again"
    ):
        manifest.check_files(folder, FILES)

    encoder.write_bytes(data[:-1])
    with pytest.raises(UserError, match=f"has {len(data) - 1} bytes, its manifest says {len(data)}"):
        manifest.check_files(folder, FILES, hashes=False)

    encoder.unlink()
    with pytest.raises(UserError, match=r"no encoder\.onnx in .*, though its manifest lists it"):
        manifest.check_files(folder, FILES)


def test_planning_counts_among_the_multiply_accumulates() -> None:
    assert gmac({"macs": {"unmerged": 7e9, "merged": 4e9, "planning": 250e6}}) == 4.25
