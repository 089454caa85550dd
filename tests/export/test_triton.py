"""The Triton model repository: read back with the published schema, and run as the server would."""

import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from structsam_export import pipeline, triton
from structsam_export.choices import Engine
from structsam_export.config import ExportConfig
from structsam_export.description import graph_tensors
from structsam_runtime import OnnxRuntimeRunner, UserError, commit
from structsam_runtime.progress import Progress

SIZE = 224
GRID = SIZE // 16

Export = Callable[..., Path]
Read = Callable[[Path], Any]


@pytest.fixture(scope="session")
def schema() -> ModuleType:
    """The published classes. Their package would import a network client, so the file is taken alone."""
    files = importlib.metadata.files("tritonclient") or []
    (path,) = [file.locate() for file in files if str(file) == "tritonclient/grpc/model_config_pb2.py"]
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def read(schema: ModuleType) -> Read:
    """The configuration of the model in a folder."""

    def parse(folder: Path) -> Any:
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
        return text_format.Parse(text, schema.ModelConfig())

    return parse


def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    """One input or output as the manifest tells it."""
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def encoder_contract(batch: int | str) -> dict[str, list[dict[str, Any]]]:
    return {
        "inputs": [tensor("image", "float32", batch, 3, SIZE, SIZE)],
        "outputs": [tensor("image_embedding", "float32", batch, 256, GRID, GRID)],
    }


DECODER = {
    "inputs": [
        tensor("image_embedding", "float32", 1, 256, GRID, GRID),
        tensor("point_coords", "float32", "prompts", "points", 2),
        tensor("point_labels", "int32", "prompts", "points"),
        tensor("mask_input", "float32", "prompts", 1, 4 * GRID, 4 * GRID),
        tensor("has_mask_input", "float32", "prompts"),
    ],
    "outputs": [
        tensor("masks", "float32", "prompts", 4, 4 * GRID, 4 * GRID),
        tensor("iou_predictions", "float32", "prompts", 4),
    ],
}


@pytest.fixture
def an_export(tmp_path: Path) -> Export:
    """What an export folder looks like from outside, with files that say only what they are."""

    def make(batch: int | str = 1, engine: bool = False, name: str = "vit_b-r55") -> Path:
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True)
        said = {
            "id": "0123",
            "engine": {"library": "tensorrt", "version": "10.3.0"} if engine else None,
            "encoder": encoder_contract(batch),
            "decoder": DECODER,
        }
        (folder / "manifest.json").write_text(json.dumps(said))
        for part in ("encoder", "decoder"):
            (folder / f"{part}.onnx").write_text(f"{part} onnx")
            if engine:
                (folder / f"{part}.engine").write_text(f"{part} engine")
        return folder

    return make


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with what is in it, and every empty folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())]
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in paths}


def tensors(side: Any, schema: ModuleType) -> dict[str, tuple[str, list[int]]]:
    """Name, type and dims of a configuration's inputs or outputs."""
    return {t.name: (schema.DataType.Name(t.data_type), list(t.dims)) for t in side}


PROMPTS = {
    "point_coords": ("TYPE_FP32", [-1, -1, 2]),
    "point_labels": ("TYPE_INT32", [-1, -1]),
    "mask_input": ("TYPE_FP32", [-1, 1, 56, 56]),
    "has_mask_input": ("TYPE_FP32", [-1]),
}
MASKS = {"masks": ("TYPE_FP32", [-1, 4, 56, 56]), "iou_predictions": ("TYPE_FP32", [-1, 4])}


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_every_field_is_what_the_export_says(
    an_export: Export, tmp_path: Path, read: Read, schema: ModuleType, batch: int | str, engine: bool
) -> None:
    triton.write_repository(tmp_path / "models", an_export(batch, engine))
    encoder, decoder, both = (
        read(tmp_path / "models" / f"vit_b-r55{part}") for part in ("_encoder", "_decoder", "")
    )
    group = schema.ModelInstanceGroup
    for config, name in ((encoder, "vit_b-r55_encoder"), (decoder, "vit_b-r55_decoder")):
        assert config.name == name
        assert config.backend == ("tensorrt" if engine else "onnxruntime")
        assert config.platform == ""
        assert [(one.count, one.kind) for one in config.instance_group] == [
            (1, group.KIND_GPU if engine else group.KIND_AUTO)
        ]
    open_batch = batch == "batch"
    one = [] if open_batch else [1]  # the server adds the axis of a batch itself
    assert encoder.max_batch_size == (8 if open_batch else 0)
    assert encoder.HasField("dynamic_batching") == open_batch
    assert tensors(encoder.input, schema) == {"image": ("TYPE_FP32", [*one, 3, 224, 224])}
    assert tensors(encoder.output, schema) == {"image_embedding": ("TYPE_FP32", [*one, 256, 14, 14])}
    assert decoder.max_batch_size == 0
    assert not decoder.HasField("dynamic_batching")
    embedding = {"image_embedding": ("TYPE_FP32", [1, 256, 14, 14])}
    assert tensors(decoder.input, schema) == embedding | PROMPTS
    assert tensors(decoder.output, schema) == MASKS
    assert (both.name, both.platform, both.backend) == ("vit_b-r55", "ensemble", "")
    assert both.max_batch_size == 0
    assert tensors(both.input, schema) == {"image": ("TYPE_FP32", [1, 3, 224, 224])} | PROMPTS
    assert tensors(both.output, schema) == MASKS
    assert list(both.instance_group) == []
    for config in (encoder, decoder, both):  # so that models of two exports can be told apart
        assert config.parameters["structsam_export"].string_value == "0123"


def full(config: Any, side: Any, schema: ModuleType) -> dict[str, tuple[str, list[int]]]:
    """Shapes with the axis of a batch, as the server sees them."""
    batch = [-1] if config.max_batch_size else []
    return {name: (kind, batch + dims) for name, (kind, dims) in tensors(side, schema).items()}


def fits(a: tuple[str, list[int]], b: tuple[str, list[int]]) -> bool:
    """Whether two tensors can be one, by the server's rule."""
    same = all(-1 in pair or pair[0] == pair[1] for pair in zip(a[1], b[1], strict=False))
    return a[0] == b[0] and len(a[1]) == len(b[1]) and same


@pytest.mark.parametrize("batch", [1, "batch"])
def test_the_ensemble_connects_what_is_there(
    an_export: Export, tmp_path: Path, read: Read, schema: ModuleType, batch: int | str
) -> None:
    triton.write_repository(tmp_path, an_export(batch))
    both = read(tmp_path / "vit_b-r55")
    known = full(both, both.input, schema)
    for step in both.ensemble_scheduling.step:
        inner = read(tmp_path / step.model_name)
        assert step.model_version == -1
        takes, gives = (full(inner, side, schema) for side in (inner.input, inner.output))
        assert step.input_map.keys() == takes.keys()
        assert step.output_map.keys() == gives.keys()
        for name, shared in step.input_map.items():
            assert fits(known[shared], takes[name]), name
        known |= {shared: gives[name] for name, shared in step.output_map.items()}
    for name, promised in full(both, both.output, schema).items():
        assert fits(known[name], promised)


@pytest.mark.parametrize(("engine", "kind", "file"), [(False, "onnx", "onnx"), (True, "engine", "plan")])
def test_the_files_are_those_of_the_export(
    an_export: Export, tmp_path: Path, engine: bool, kind: str, file: str
) -> None:
    export = an_export(engine=engine)
    before = contents(export)
    triton.write_repository(tmp_path / "models", export)
    made = contents(tmp_path / "models")
    assert {name: said for name, said in made.items() if not name.endswith("config.pbtxt")} == {
        f"vit_b-r55_encoder/1/model.{file}": f"encoder {kind}",
        f"vit_b-r55_decoder/1/model.{file}": f"decoder {kind}",
        "vit_b-r55/1": "",
    }
    assert contents(export) == before
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "vit_b-r55",
        "vit_b-r55_decoder",
        "vit_b-r55_encoder",
    ]


def test_weights_kept_apart_are_found_by_onnx_runtime(an_export: Export, tmp_path: Path) -> None:
    export = an_export()
    weight = np.arange(4096, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = export / "encoder.onnx"
    onnx.save(model, path, save_as_external_data=True, location="encoder.onnx.data")
    triton.write_repository(tmp_path / "models", export)
    shutil.rmtree(export)
    with OnnxRuntimeRunner(tmp_path / "models" / "vit_b-r55_encoder" / "1" / "model.onnx") as runner:
        np.testing.assert_array_equal(runner.infer({"x": weight})["y"], 2 * weight)


@pytest.mark.parametrize("name", ['a "b" \\ c', "größe", "x{y}#z"])
def test_any_name_of_a_folder_survives_the_text_format(
    an_export: Export, tmp_path: Path, read: Read, name: str
) -> None:
    triton.write_repository(tmp_path, an_export(name=name))
    both = read(tmp_path / name)
    assert both.name == name
    assert [step.model_name for step in both.ensemble_scheduling.step] == [
        f"{name}_encoder",
        f"{name}_decoder",
    ]


def test_a_repository_may_hold_other_models(an_export: Export, tmp_path: Path) -> None:
    (tmp_path / "models" / "other").mkdir(parents=True)
    export = an_export()
    triton.check_repository(tmp_path / "models", export, None, force=False)
    triton.write_repository(tmp_path / "models", export)
    assert (tmp_path / "models" / "other").is_dir()


def test_a_model_is_replaced_only_by_force(an_export: Export, tmp_path: Path) -> None:
    export, models = an_export(engine=True), tmp_path / "models"
    triton.write_repository(models, export)
    with pytest.raises(UserError, match=r"holds vit_b-r55_encoder already; .* or add --force$"):
        triton.check_repository(models, export, None, force=False)
    triton.check_repository(models, export, None, force=True)
    shutil.rmtree(export)
    triton.write_repository(models, an_export())
    assert not list(models.rglob("*.plan"))
    assert len(list(models.rglob("*.onnx"))) == 2


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_model_of_ours_is_never_replaced(an_export: Export, tmp_path: Path, force: bool) -> None:
    export, models = an_export(), tmp_path / "models"
    triton.write_repository(models, export)
    (models / "vit_b-r55_decoder" / "2").mkdir()  # a version that someone added
    with pytest.raises(UserError, match="vit_b-r55_decoder holds files that are not a model of an export"):
        triton.check_repository(models, export, None, force)


@pytest.mark.parametrize("repository", ["out", "out/made", "out/made/triton", "out/other/.."])
def test_an_export_and_a_repository_are_not_inside_one_another(tmp_path: Path, repository: str) -> None:
    (tmp_path / "out" / "other").mkdir(parents=True)
    with pytest.raises(UserError, match="would hold one another"):
        triton.check_repository(tmp_path / repository, tmp_path / "out" / "made", None, force=True)


def test_engines_that_the_server_cannot_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--engine tensorrt-rtx, for which Triton has no backend"):
        triton.check_repository(tmp_path / "models", tmp_path / "out", Engine.TENSORRT_RTX, force=False)
    triton.check_repository(tmp_path / "models", tmp_path / "out", Engine.TENSORRT, force=False)


def test_a_file_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("precious")
    with pytest.raises(UserError, match=r"--triton-repository .* cannot be written: File exists; choose"):
        triton.check_repository(tmp_path / "models", tmp_path / "made", None, force=True)


@pytest.mark.parametrize("existing", [False, True])
def test_a_copy_that_fails_leaves_every_model_as_it_was(
    an_export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    export, models = an_export(), tmp_path / "models"
    models.mkdir()
    if existing:
        triton.write_repository(models, export)
    before = contents(models)

    def full_disk(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton.shutil, "copyfile", full_disk)
    with pytest.raises(UserError, match="No space left on device; the export is in"):
        triton.write_repository(models, export)
    assert contents(models) == before


def test_the_ensemble_appears_last(
    an_export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that looks in between finds no ensemble whose parts are missing."""
    appeared: list[str] = []
    rename = Path.rename

    def noted(self: Path, target: Path) -> Path:
        if target.parent == tmp_path / "models":
            appeared.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(commit.Path, "rename", noted)
    triton.write_repository(tmp_path / "models", an_export())
    assert appeared == ["vit_b-r55_decoder", "vit_b-r55_encoder", "vit_b-r55"]


def serve(repository: Path, name: str, feeds: dict[str, NDArray[Any]], read: Read) -> dict[str, NDArray[Any]]:
    """What the server answers: the steps of an ensemble in their order, each run by ONNX Runtime."""
    known = dict(feeds)
    both = read(repository / name)
    for step in both.ensemble_scheduling.step:
        with OnnxRuntimeRunner(repository / step.model_name / "1" / "model.onnx") as runner:
            made = runner.infer({inner: known[shared] for inner, shared in step.input_map.items()})
        known |= {shared: made[inner] for inner, shared in step.output_map.items()}
    return {output.name: known[output.name] for output in both.output}


@pytest.mark.export
@pytest.mark.usefixtures("tiny")
def test_an_exported_sam_is_served(
    tmp_path: Path,
    read: Read,
    schema: ModuleType,
    photographs: Callable[[int], Any],
    quiet: Progress,
) -> None:
    config = ExportConfig(arch="two", random_weights=True, image_size=SIZE, dynamic_batch=True)
    made = pipeline.export(config, tmp_path / "made", None, False, quiet, tmp_path / "models")
    for part in ("encoder", "decoder"):
        said = graph_tensors(made.folder / f"{part}.onnx")
        config = read(tmp_path / "models" / f"made_{part}")
        for side, promised in (("inputs", config.input), ("outputs", config.output)):
            shapes = {t["name"]: [-1 if isinstance(n, str) else n for n in t["shape"]] for t in said[side]}
            assert {n: dims for n, (_, dims) in full(config, promised, schema).items()} == shapes
    image = photographs(SIZE)[:1].numpy()
    prompts = {
        "point_coords": np.array([[[20, 30], [200, 180]]] * 3, np.float32),
        "point_labels": np.array([[2, 3]] * 3, np.int32),
        "mask_input": np.zeros((3, 1, 56, 56), np.float32),
        "has_mask_input": np.zeros(3, np.float32),
    }
    answer = serve(tmp_path / "models", "made", {"image": image} | prompts, read)
    with (
        OnnxRuntimeRunner(made.folder / "encoder.onnx") as encoder,
        OnnxRuntimeRunner(made.folder / "decoder.onnx") as decoder,
    ):
        expected = decoder.infer(encoder.infer({"image": image}) | prompts)
    assert answer.keys() == expected.keys() == MASKS.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(answer[name], value)
