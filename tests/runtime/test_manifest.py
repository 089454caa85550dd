"""Reading and checking the manifest of an export."""

import dataclasses
import json
import math
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime.errors import UserError, printable
from structsam_runtime.manifest import EngineRecord, Manifest, Model, gmac
from structsam_runtime.predict.image import prepare

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
        (lambda data: data["model"].update(pixel_mean=[1, 2]), "expected three numbers"),
        (
            lambda data: data["model"].update(pixel_mean=[1, None, 2]),
            "'model.pixel_mean.1' = None, expected float",
        ),
        (lambda data: data.update(model=[]), r"'model' = \[\], expected dict"),
        (
            lambda data: data["files"]["encoder.onnx"].update(sha256=1),
            "encoder.onnx.sha256' = 1, expected str",
        ),
        (lambda data: data["files"]["encoder.onnx"].pop("bytes"), "lacks 'files.encoder.onnx.bytes'"),
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
        (lambda data: data.update(id=1), "'id' = 1, expected str"),
        (
            lambda data: data.update(name=["x" * 1000]),
            r"'name' = \['x{58}\.\.\., expected str; export again$",
        ),
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


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        10**9,
        10**30,
        10**400,
        -(10**400),
        8193,
        1.5,
        1e300,
        math.nan,
        math.inf,
        "8",
        True,
        None,
        [8],
        {},
    ],
    ids=lambda value: repr(value)[:8],
)
@pytest.mark.parametrize("key", ["image_size", "low_res", "embedding"])
def test_refuses_sizes_that_are_none(folder: Path, key: str, value: Any) -> None:
    _edit(folder, lambda data: data["model"].update({key: [8, 8, value] if key == "embedding" else value}))
    with pytest.raises(UserError, match=rf"'model\.{key}[.2]*' = .*, expected .*; export again$") as error:
        Manifest.read(folder)
    assert len(str(error.value)) < 100 + len(str(folder))


NUMBERS = ["mask_threshold", "pixel_mean", "pixel_std"]


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 1e39, -1e39, 10**400, -(10**400), "1", True, None, [1.0]],
    ids=lambda value: repr(value)[:8],
)
@pytest.mark.parametrize("key", NUMBERS)
def test_refuses_numbers_that_float32_cannot_hold(folder: Path, key: str, value: Any) -> None:
    _edit(folder, lambda data: data["model"].update({key: value if key == NUMBERS[0] else [1, value, 1]}))
    with pytest.raises(UserError, match=rf"'model\.{key}[.1]*' = .*, expected .*; export again$"):
        Manifest.read(folder)


@pytest.mark.parametrize("value", [0, -1, 1e-40])
def test_refuses_deviations_that_pixels_cannot_be_divided_by(folder: Path, value: float) -> None:
    _edit(folder, lambda data: data["model"].update(pixel_std=[1, value, 1]))
    with pytest.raises(
        UserError, match=r"'model\.pixel_std\.1' = .*, expected 1e-06 to 1e\+06; export again$"
    ):
        Manifest.read(folder)


@given(
    mean=st.tuples(*[st.floats(-1e6, 1e6)] * 3),
    std=st.tuples(*[st.floats(1e-6, 1e6)] * 3),
    threshold=st.floats(-1e6, 1e6),
)
def test_pixels_are_finite_with_whatever_is_accepted(
    export_folder: Path, mean: Any, std: Any, threshold: float
) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(shutil.copytree(export_folder, Path(made) / "out"))
        said = {"pixel_mean": mean, "pixel_std": std, "mask_threshold": threshold}
        _edit(folder, lambda data: data["model"].update(said, image_size=8))
        model = Manifest.read(folder).model
    tensor, _ = prepare(np.full((8, 8, 3), 255, np.uint8), model)
    assert np.isfinite(tensor).all()
    assert np.isfinite(np.float32(model.mask_threshold))


@pytest.mark.parametrize(
    "text",
    [
        b'{"format": 1, "name',
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": ' + b'{"a":' * 100 + b"1" + b"}" * 101,
        b'{"format": 1, "format": 2}',
    ],
    ids=["cut", "empty", "bytes", "deep", "deeper", "twice"],
)
def test_refuses_what_is_no_json_of_ours(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(UserError, match=r"manifest\.json cannot be read as JSON: .*; export again") as error:
        Manifest.read(folder)
    assert "\n" not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value of a manifest."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _places(one, (*path, key))


def _model_or_error(folder: Path) -> Model | str:
    try:
        return Manifest.read(folder).model
    except UserError as error:
        return str(error)


@given(data=st.data(), value=json_values)
def test_any_value_anywhere_is_accepted_or_one_line(
    export_folder: Path, data: st.DataObject, value: Any
) -> None:
    said = json.loads((export_folder / "manifest.json").read_text())
    said |= {"engine": dict(ENGINE, gpu="H100", capabilities=["9.0"]), "command": "structsam export"}
    *outer, last = data.draw(st.sampled_from([path for path in _places(said) if path]))
    inner = said
    for key in outer:
        inner = inner[key]
    inner[last] = value
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_text(json.dumps(said))
        read = _model_or_error(Path(folder))
    if isinstance(read, str):
        assert read == printable(read), "and so one line"
    else:
        assert np.isfinite([read.mask_threshold, *read.pixel_mean, *read.pixel_std]).all()


def test_a_manifest_that_does_not_say_hashes_is_read(folder: Path) -> None:
    _edit(folder, lambda data: [file.pop("sha256") for file in data["files"].values()])
    manifest = Manifest.read(folder)
    manifest.check_files(folder, FILES)
    (folder / "encoder.onnx").write_bytes(b"short")
    with pytest.raises(UserError, match="has 5 bytes, its manifest says"):
        manifest.check_files(folder, FILES)


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
    manifest.check_files(folder, FILES, verified=False)
    with pytest.raises(
        UserError, match=r"has sha256 \w{12}\.\.\., its manifest says \w{12}\.\.\.; copy it again"
    ):
        manifest.check_files(folder, FILES)

    encoder.write_bytes(data[:-1])
    with pytest.raises(UserError, match=f"has {len(data) - 1} bytes, its manifest says {len(data)}"):
        manifest.check_files(folder, FILES)
    manifest.check_files(folder, FILES, verified=False)

    encoder.unlink()
    for verified in (True, False):
        with pytest.raises(UserError, match=r"no encoder\.onnx in .*, though its manifest lists it"):
            manifest.check_files(folder, FILES, verified)


@given(data=st.data())
def test_one_flipped_bit_is_refused(export_folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    content = bytearray((export_folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(shutil.copytree(export_folder, Path(made) / "out"))
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} has sha256"):
            Manifest.read(folder).check_files(folder, FILES)


def test_planning_counts_among_the_multiply_accumulates() -> None:
    assert gmac({"macs": {"unmerged": 7e9, "merged": 4e9, "planning": 250e6}}) == 4.25


@pytest.mark.parametrize("said", [{}, {"macs": 1}, {"macs": {"merged": 1}}, {"macs": {"merged": math.nan}}])
def test_a_manifest_without_multiply_accumulates_is_one_line(said: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^manifest\.json .*'macs.*; export again$"):
        gmac(said)


SAFE = "structsam export --arch vit_b --checkpoint 'my files/$(sam).pth' --rate 0.5"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (SAFE, f"export again: {SAFE} --force -o 'my out'"),
        (f"{SAFE} --engine tensorrt-rtx", f"export again: {SAFE} --force -o 'my out'"),
        ("structsam   export", "export again: structsam export --force -o 'my out'"),
        ("structsam export; rm ~", "export again"),
        ("structsam export --rate $(x)", "export again: structsam export --rate '$(x)' --force -o 'my out'"),
        ("structsam export | sh", "export again: structsam export '|' sh --force -o 'my out'"),
        ("rm -rf ~", "export again"),
        ("structsam exports", "export again"),
        ("sudo structsam export", "export again"),
        ("structsam export 'unmatched", "export again"),
        ("structsam export -o /home", "export again"),
        ("structsam export -o/home", "export again"),
        ("structsam export --output=/home", "export again"),
        ("structsam export --plugins /tmp/x.so", "export again"),
        ("structsam export --triton-repository x", "export again"),
        ("structsam export '\x1b[2J'", "export again"),
        ("structsam export 'a\nerror: forged'", "export again"),
        ("", "export again"),
        (None, "export again"),
    ],
)
def test_a_command_of_a_manifest_is_told_only_if_it_can_but_export(
    export_folder: Path, command: str | None, told: str
) -> None:
    manifest = dataclasses.replace(Manifest.read(export_folder), command=command)
    assert manifest.remedy(Path("my out")) == told


SHELL = """ab;|&$`'"\\ \n<>(){}!*?~#\x1b\u202e"""


@given(words=st.lists(st.text(SHELL), max_size=4), text=st.text(SHELL))
def test_a_shell_takes_whatever_a_manifest_says_for_words(
    export_folder: Path, words: list[str], text: str
) -> None:
    for command in (shlex.join(["structsam", "export", *words]), f"structsam export {text}", text):
        manifest = dataclasses.replace(Manifest.read(export_folder), command=command)
        built = EngineRecord("tensorrt; reboot", "10.3.0", None, ())
        manifest = dataclasses.replace(manifest, engine=built)
        told = str(UserError(manifest.remedy(Path("out"))))
        assert told == printable(told)
        _, _, typed = told.partition("export again: ")
        assert only_words(typed)
        assert not typed or typed.endswith(" --engine 'tensorrt; reboot' --force -o out")
        _, _, typed = str(UserError(manifest.rebuild(Path(text), built.library))).partition("build them: ")
        assert only_words(typed)
        assert typed.endswith(" --engine 'tensorrt; reboot'")


def only_words(typed: str) -> bool:
    """Whether a shell takes a line for one command."""
    split = list(shlex.shlex(typed, posix=False, punctuation_chars=True))  # ; is a word, ';' is none
    return not {";", "|", "&", "(", ")", "<", ">"} & set(split)
