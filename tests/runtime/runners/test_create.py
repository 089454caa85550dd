"""From an export and the name of a runner to a runner, and what is checked on the way."""

import hashlib
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from structsam_runtime import OnnxRuntimeRunner, OpenVinoRunner, Predictor, TensorRtRunner, UserError
from structsam_runtime.benchmarking.timing import environment
from structsam_runtime.contract import decoder_specs, encoder_specs
from structsam_runtime.errors import Caution
from structsam_runtime.manifest import Manifest, Model
from structsam_runtime.runners import RUNNERS, TABLE, RunnerKind, create, file_of, kind_of
from structsam_runtime.runners.base import Array, Runner, TensorSpec
from structsam_runtime.runners.onnxruntime import PROVIDERS
from structsam_runtime.runners.tensorrt import LIBRARIES, check_engine

PLAIN = "structsam export --arch vit_b --rate 0.35 --fp16"
COMMAND = f"{PLAIN} --engine tensorrt"
HERE = {
    "library": "tensorrt",
    "version": "10.3.0",
    "gpu": "NVIDIA Test",
    "capabilities": ["9.0"],
    "tf32": False,
}
RTX = {
    "library": "tensorrt-rtx",
    "version": "10.3.0",
    "gpu": None,
    "capabilities": ["8.6", "9.0"],
    "tf32": False,
}


@pytest.fixture
def folder(tmp_path: Path, export_folder: Path) -> Path:
    """An export with engines for the stand-in of TensorRT."""
    made = Path(shutil.copytree(export_folder, tmp_path / "my out"))
    for part in ("encoder", "decoder"):
        content = json.dumps({"version": "10.3.0", "broken": None, "part": part}).encode()
        (made / f"{part}.engine").write_bytes(content)
        record = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        said = json.loads((made / "manifest.json").read_text())
        said["files"][f"{part}.engine"] = record
        (made / "manifest.json").write_text(json.dumps(said))
    say(made, engine=HERE, command=COMMAND)
    return made


def say(folder: Path, **changes: Any) -> None:
    """Change what an export says of itself; None takes a key away."""
    path = folder / "manifest.json"
    said = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def refused(folder: Path, runner: str) -> str:
    """What a person reads."""
    with pytest.raises(UserError) as error:
        create(folder, "encoder", runner)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_runner_has_a_name() -> None:
    assert RUNNERS == ("cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx")


def test_a_precision_that_a_runner_lacks_is_refused_before_its_files_are_read(folder: Path) -> None:
    model = json.loads((folder / "manifest.json").read_text())["model"]
    say(folder, model=model | {"precision": "bf16"})
    told = (
        "runner 'cpu' does not run exports in bf16: ONNX Runtime has no matrix multiplication in bf16 on a "
        "CPU; use --runner openvino, or export in another precision"
    )
    (folder / "encoder.onnx").write_bytes(b"damaged")
    assert refused(folder, "cpu") == told
    with pytest.raises(UserError) as error:
        Predictor.load(folder, verified=False)
    assert str(error.value) == told
    assert "encoder.onnx has" in refused(folder, "openvino")


def test_the_table_has_library_file_and_device_of_every_runner() -> None:
    assert {name for name, kind in TABLE.items() if kind.file == "onnx"} == {*PROVIDERS, "openvino"}
    assert {name for name, kind in TABLE.items() if kind.file == "engine"} == set(LIBRARIES)
    assert [name for name, kind in TABLE.items() if kind.device == "cpu"] == ["cpu", "openvino"]


class Constant(Runner):
    """A runner of another library, which a test brings along."""

    def __init__(self, path: Path, name: str, threads: int | None) -> None:
        super().__init__(f"{name}: {path.name}")

    def _open(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        pixels = TensorSpec(np.dtype(np.float32), (1,))
        return {"image": pixels}, {"image_embedding": pixels}

    def _close(self) -> None:
        """Nothing to let go."""

    def _run(self, feeds: Any) -> dict[str, Array]:
        return {"image_embedding": feeds["image"]}


def test_a_row_of_the_table_is_all_that_a_runner_needs(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = RunnerKind("onnx", "constant", "cpu", Constant, lambda name: f"{name} 1.0")
    monkeypatch.setitem(TABLE, "constant", row)
    assert file_of("encoder", "constant") == "encoder.onnx"
    assert environment("constant")["library"] == "constant 1.0"
    with create(export_folder, "encoder", "constant") as runner:
        assert runner.name == "constant: encoder.onnx"
        assert runner.infer({"image": np.ones(1, np.float32)})["image_embedding"] == 1


def test_a_missing_library_is_reported_with_the_command_that_installs_it(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider"])
    for module in ("openvino", *LIBRARIES.values()):
        monkeypatch.setitem(sys.modules, module, None)  # what import finds for a blocked module
    for name in RUNNERS:
        with pytest.raises(UserError) as error:
            kind_of(name).library(name)
        assert str(error.value).endswith(f"pip install {TABLE[name].install}")
    with pytest.raises(UserError, match="provider 'cuda' is not in this ONNX Runtime"):
        create(export_folder, "encoder", "cuda")


@pytest.mark.parametrize("name", PROVIDERS)
def test_providers_run_the_onnx_file(export_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    runner = create(export_folder, "decoder", name, threads=2)
    assert isinstance(runner, OnnxRuntimeRunner)
    assert (runner.path, runner.provider, runner.threads) == (export_folder / "decoder.onnx", name, 2)


def test_openvino_runs_the_onnx_file(export_folder: Path) -> None:
    runner = create(export_folder, "decoder", "openvino", threads=2)
    assert isinstance(runner, OpenVinoRunner)
    assert (runner.path, runner.threads) == (export_folder / "decoder.onnx", 2)


def test_plugins_of_an_export_come_with_it_and_are_checked(folder: Path, library: Any) -> None:
    assert create(folder, "encoder", "tensorrt").plugins is None
    (folder / "plugins.so").write_bytes(b"plugins")
    assert create(folder, "encoder", "tensorrt").plugins is None  # not the export's
    files = json.loads((folder / "manifest.json").read_text())["files"]
    record = {"bytes": 7, "sha256": hashlib.sha256(b"plugins").hexdigest()}
    say(folder, files=files | {"plugins.so": record})
    assert create(folder, "encoder", "tensorrt").plugins == folder / "plugins.so"
    (folder / "plugins.so").write_bytes(b"pIugins")  # code that somebody exchanged
    assert "plugins.so" in refused(folder, "tensorrt")


@pytest.mark.parametrize(("name", "record"), [("tensorrt", HERE), ("tensorrt-rtx", RTX)])
def test_libraries_run_the_engine(folder: Path, library: Any, name: str, record: dict[str, Any]) -> None:
    say(folder, engine=record)
    runner = create(folder, "decoder", name)
    assert isinstance(runner, TensorRtRunner)
    assert (runner.path, runner.library) == (folder / "decoder.engine", name)
    assert isinstance(Predictor.load(folder, name).encoder, TensorRtRunner)
    with pytest.raises(UserError, match=f"threads is 2, but {name} runs on the GPU; leave it out"):
        create(folder, "decoder", name, threads=2)


@pytest.mark.parametrize(("name", "heir"), [("trt-ep", "tensorrt"), ("rtx-ep", "tensorrt-rtx")])
def test_a_runner_that_was_removed_names_what_does_its_work(tmp_path: Path, name: str, heir: str) -> None:
    build = f"build engines with structsam build OUT --engine {heir} and use --runner {heir}"
    for ask in (partial(create, tmp_path, "encoder"), kind_of, partial(file_of, "encoder")):
        with pytest.raises(UserError) as error:
            ask(name)
        assert str(error.value) == f"runner '{name}' was removed: {build}"


def test_an_unknown_runner_is_reported_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"runner 'npu' is unknown, expected one of {', '.join(RUNNERS)}"):
        create(tmp_path / "none", "encoder", "npu")


def test_files_are_checked(folder: Path, library: Any) -> None:
    for name in ("encoder.onnx", "encoder.engine"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + b"?")
    say(folder, id="mine")
    changed = create(folder, "encoder", "cpu", verified=False)
    assert isinstance(changed, OnnxRuntimeRunner)
    assert changed.export == "mine", "what is not hashed must not say that it is of another export"
    with pytest.raises(UserError, match=r"encoder\.onnx has sha256"):
        create(folder, "encoder", "cpu")
    again = f"; copy it again or build them: structsam build '{folder}' --engine tensorrt"
    told = refused(folder, "tensorrt")  # an engine is code
    assert "encoder.engine has sha256 " in told
    assert told.endswith(again)
    (folder / "encoder.engine").write_bytes(b"{}")
    assert refused(folder, "tensorrt").endswith(f" has 2 bytes, its manifest says {len(data)}{again}")
    (folder / "encoder.engine").unlink()
    told = refused(folder, "tensorrt")
    assert told.startswith("no encoder.engine in ")
    assert told.endswith(f"; build them: structsam build '{folder}' --engine tensorrt")


@pytest.mark.parametrize(
    ("record", "runner", "message", "engine"),
    [
        (None, "tensorrt-rtx", "FOLDER has no engines", "tensorrt-rtx"),
        (
            HERE,
            "tensorrt-rtx",
            "FOLDER has engines of tensorrt, none of tensorrt-rtx",
            "tensorrt-rtx",
        ),
        (
            HERE | {"version": "11.1.0"},
            "tensorrt",
            "the engines of FOLDER need tensorrt 11.1.0, which built them; installed is 10.3.0",
            "tensorrt",
        ),
        (
            HERE | {"gpu": "NVIDIA Other"},
            "tensorrt",
            "the engines of FOLDER are for NVIDIA Other; this GPU is NVIDIA Test, 9.0",
            "tensorrt",
        ),
        (
            HERE | {"gpu": "NVIDIA Other", "capabilities": ["8.9"]},
            "tensorrt",
            "the engines of FOLDER are for NVIDIA Other; this GPU is NVIDIA Test, 9.0",
            "tensorrt",
        ),
        (
            RTX | {"capabilities": ["8.6", "8.9"]},
            "tensorrt-rtx",
            "the engines of FOLDER are for compute capability 8.6 or 8.9; this GPU is NVIDIA Test, 9.0",
            "tensorrt",
        ),
    ],
)
def test_engines_that_do_not_fit_are_one_line_that_ends_with_the_command(
    folder: Path, library: Any, record: dict[str, Any] | None, runner: str, message: str, engine: str
) -> None:
    say(folder, engine=record)
    command = f"structsam build '{folder}' --engine {engine}"
    assert refused(folder, runner) == f"{message.replace('FOLDER', str(folder))}; build them: {command}"
    assert library.engine is None


def test_engines_are_checked_as_far_as_their_manifest_goes(folder: Path, library: Any) -> None:
    older = {key: HERE[key] for key in ("library", "version", "tf32")}
    say(folder, engine=older, command=None)
    create(folder, "encoder", "tensorrt")
    say(folder, engine=older | {"version": "9"})
    assert refused(folder, "tensorrt").endswith(f"; build them: structsam build '{folder}' --engine tensorrt")
    say(folder, engine=None)
    assert " has no engines; build them: " in refused(folder, "tensorrt")


def test_engines_that_may_use_tf32_are_told_and_those_that_do_refused(folder: Path, library: Any) -> None:
    create(folder, "encoder", "tensorrt")
    rounded = "built with TF32, which rounds the inputs of fp32 products to 10 bits of mantissa; "
    say(folder, engine=HERE | {"tf32": True})
    assert rounded in refused(folder, "tensorrt")
    say(folder, engine={key: value for key, value in HERE.items() if key != "tf32"})
    with pytest.warns(Caution) as told:
        create(folder, "encoder", "tensorrt")
    (message,) = (str(one.message) for one in told)
    assert rounded.replace("with", "without") in message
    assert message.startswith(f"the manifest of {folder} does not say that its engines were ")
    say(folder, engine=HERE | {"tf32": "no"})
    assert "'engine.tf32' = 'no', expected bool" in refused(folder, "tensorrt")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_engines_have_the_contract_of_their_part(folder: Path, library: Any, sam: Model, part: str) -> None:
    inputs, _ = (encoder_specs if part == "encoder" else decoder_specs)(sam)
    runner = create(folder, part, "tensorrt")
    assert isinstance(runner, TensorRtRunner)
    assert runner.contract == inputs


def test_missing_libraries_are_reported_before_the_engine_is_loaded(
    folder: Path, cuda: Any, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.read(folder)
    cuda.failures["cudaGetDeviceProperties"] = (1, cuda.cudaError_t.cudaErrorNoDevice)
    with pytest.raises(UserError, match="this needs a machine with an NVIDIA GPU"):
        check_engine(folder, manifest, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UserError, match=r'pip install "structsam\[tensorrt\]"'):
        check_engine(folder, manifest, "tensorrt")
