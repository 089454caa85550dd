"""Engines of an export: their shapes, what the manifest says of them, and that nothing is ever half done."""

import json
import math
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime import UserError
from structsam_runtime.build import TENSORRT, TENSORRT_RTX, BuildError, EngineBuilder
from structsam_runtime.commit import names_in
from structsam_runtime.engines import PLUGIN_GRAPH, add_engines, parts_of
from structsam_runtime.manifest import EngineRecord, Manifest
from structsam_runtime.predict.decoding import PROMPTS
from structsam_runtime.predict.predictor import BATCH
from structsam_runtime.progress import Progress
from structsam_runtime.runners.tensorrt import check_engine

ENGINES = ("encoder.engine", "decoder.engine")


def say(folder: Path, **changes: Any) -> None:
    """Change what an export says of itself."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_manifest_lists_both_engines_and_what_they_are_for(
    library: Any, folder: Path, quiet: Progress
) -> None:
    before = json.loads((folder / "manifest.json").read_text())
    record = add_engines(folder, EngineBuilder(TENSORRT), quiet, max_prompts=8)
    said = json.loads((folder / "manifest.json").read_text())
    assert json.loads(json.dumps(record)) == said["engine"]
    seconds = said["engine"].pop("seconds")
    assert set(seconds) == {"encoder", "decoder"}
    assert said["engine"] == {
        "library": "tensorrt",
        "version": "10.3.0",
        "gpu": "NVIDIA Test",
        "capabilities": ["9.0"],
        "precision": "fp32",
        "tf32": False,
        "verified": True,
        "profiles": {
            "encoder": {},
            "decoder": {
                "point_coords": [[1, 1, 2], [1, 2, 2], [8, 16, 2]],
                "point_labels": [[1, 1], [1, 2], [8, 16]],
                "mask_input": [[1, 1, 256, 256], [1, 1, 256, 256], [8, 1, 256, 256]],
                "has_mask_input": [[1], [1], [8]],
            },
        },
    }
    manifest = Manifest.read(folder)
    assert manifest.engine == EngineRecord("tensorrt", "10.3.0", "NVIDIA Test", ("9.0",), tf32=False)
    manifest.check_files(folder, [*ENGINES, "encoder.onnx", "decoder.onnx"])
    check_engine(folder, manifest, TENSORRT)
    rest = {key: value for key, value in said.items() if key not in ("engine", "files")}
    assert rest == {key: value for key, value in before.items() if key != "files"}
    assert rest["seed"] == 2**70, "numbers of other keys are what they were"
    for name in ENGINES:
        made = json.loads((folder / name).read_bytes())
        graph = name.replace(".engine", ".onnx")
        assert (made["graph"], made["bytes"]) == (graph, (folder / graph).stat().st_size)
        assert made["profiles"] in ([], [said["engine"]["profiles"]["decoder"]])


def test_engines_of_floats_of_8_bits_are_for_gpus_that_have_them(
    library: Any, folder: Path, quiet: Progress
) -> None:
    model = json.loads((folder / "manifest.json").read_text())["model"]
    say(folder, model=model | {"precision": "fp8-fp16"})
    record = add_engines(folder, EngineBuilder(TENSORRT_RTX), quiet)
    assert (record["precision"], record["capabilities"]) == ("fp8-fp16", ("8.9", "12.0"))
    for name in ENGINES:
        assert json.loads((folder / name).read_bytes())["capabilities"] == [89, 120]


def test_engines_of_another_library_take_the_place_of_the_first(
    library: Any, folder: Path, quiet: Progress, tmp_path: Path
) -> None:
    plugins = tmp_path / "library.so"
    plugins.write_text("plugins")
    shutil.copyfile(folder / "encoder.onnx", folder / PLUGIN_GRAPH)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    say(folder, files=files | {PLUGIN_GRAPH: files["encoder.onnx"]})
    add_engines(folder, EngineBuilder(TENSORRT, plugins), quiet)
    assert json.loads((folder / "encoder.engine").read_bytes())["graph"] == PLUGIN_GRAPH
    assert json.loads((folder / "decoder.engine").read_bytes())["graph"] == "decoder.onnx"
    assert (folder / "plugins.so").read_text() == "plugins"
    Manifest.read(folder).check_files(folder, [*ENGINES, "plugins.so"])
    add_engines(folder, EngineBuilder(TENSORRT_RTX), quiet)
    manifest = Manifest.read(folder)
    assert manifest.engine == EngineRecord(
        "tensorrt-rtx", "10.3.0", None, ("8.0", "8.6", "8.9", "12.0"), tf32=False
    )
    assert json.loads((folder / "encoder.engine").read_bytes())["graph"] == "encoder.onnx"
    assert "plugins.so" not in manifest.files, "or a runner would load it"
    assert not (folder / "plugins.so").exists()


def test_an_export_without_the_graph_says_how_to_have_it(
    library: Any, folder: Path, quiet: Progress, tmp_path: Path
) -> None:
    plugins = tmp_path / "library.so"
    plugins.write_text("plugins")
    with pytest.raises(UserError, match=rf"has no {PLUGIN_GRAPH}; export it with --plugin-graph$"):
        add_engines(folder, EngineBuilder(TENSORRT, plugins), quiet)


axes = st.one_of(st.integers(1, 9), st.sampled_from(["batch", "prompts", "points"]))


@given(
    shapes=st.dictionaries(st.text(max_size=3), st.lists(axes, max_size=4), max_size=4),
    most=st.integers(1, 200),
)
def test_a_profile_has_the_shapes_of_every_input_that_is_open(
    export_folder: Path, tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[Any]], most: int
) -> None:
    folder = tmp_path_factory.mktemp("out")
    shutil.copyfile(export_folder / "manifest.json", folder / "manifest.json")
    inputs = [{"name": name, "dtype": "float32", "shape": shape} for name, shape in shapes.items()]
    say(folder, encoder={"inputs": inputs}, decoder={"inputs": []})
    profile = parts_of(folder, most)["encoder"].profile
    assert set(profile) == {
        name for name, shape in shapes.items() if {"batch", "prompts", "points"} & set(shape)
    }
    for name, ends in profile.items():
        for place, axis in enumerate(shapes[name]):
            smallest, usual, largest = (end[place] for end in ends)
            if isinstance(axis, int):
                assert smallest == usual == largest == axis
            else:
                assert 1 == smallest <= usual <= largest
                assert largest == {"batch": BATCH, "prompts": most, "points": 16}[axis]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"decoder": {}}, "lacks 'decoder.inputs'; export again"),
        (
            {"decoder": {"inputs": [{"name": "x", "shape": ["hue"]}]}},
            "in 'decoder.inputs', expected a name, and",
        ),
        ({"decoder": {"inputs": [{"shape": [1]}]}}, "in 'decoder.inputs', expected a name, and"),
        ({"decoder": {"inputs": ["x"]}}, "in 'decoder.inputs', expected a name, and"),
        (
            {"decoder": {"inputs": [{"name": "x", "shape": None}]}},
            "in 'decoder.inputs', expected a name, and",
        ),
        (
            {"decoder": {"inputs": [{"name": "x", "shape": [[]]}]}},
            "in 'decoder.inputs', expected a name, and",
        ),
        ({"graph": {"tensorrt": "10.14"}}, "needs TensorRT 10.14, installed is 10.3.0"),
        ({"graph": {"tensorrt": 10}}, "'graph.tensorrt' = 10, expected str; export again"),
        ({"graph": 5}, "'graph' = 5, expected dict; export again"),
        ({"format": 1}, "has format 1"),
    ],
)
def test_a_manifest_that_does_not_say_what_is_needed_is_one_line(
    library: Any, folder: Path, quiet: Progress, changes: dict[str, Any], told: str
) -> None:
    say(folder, **changes)
    before = contents(folder)
    with pytest.raises(UserError) as error:
        add_engines(folder, EngineBuilder(TENSORRT), quiet)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(folder) == before


def break_graph(folder: Path) -> None:
    data = bytearray((folder / "decoder.onnx").read_bytes())
    data[99] ^= 1
    (folder / "decoder.onnx").write_bytes(data)


def cut_graph(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes(b"")


def lose_graph(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()


@pytest.mark.parametrize("harm", [break_graph, cut_graph, lose_graph])
def test_a_damaged_graph_is_not_built(
    library: Any, folder: Path, quiet: Progress, harm: Callable[[Path], None]
) -> None:
    harm(folder)
    before = contents(folder)
    with pytest.raises(UserError, match=r"(encoder|decoder)\.onnx"):
        add_engines(folder, EngineBuilder(TENSORRT), quiet)
    assert contents(folder) == before
    if harm is not lose_graph:
        assert not add_engines(folder, EngineBuilder(TENSORRT), quiet, verified=False)["verified"]


def fail(library: Any) -> None:
    library.builder_errors["decoder.onnx"] = "no kernel"


def refuse(library: Any) -> None:
    library.parser_errors["decoder.onnx"] = [("/x", "Det", "UNSUPPORTED_NODE", "false")]


def interrupt(library: Any) -> None:
    def during(graph: str, _: int) -> None:
        if graph == "decoder.onnx":
            raise KeyboardInterrupt

    library.during = during


def fill_the_disk(library: Any) -> None:
    def during(graph: str, _: int) -> None:
        if graph == "decoder.onnx":
            raise OSError(28, "No space left on device")

    library.during = during


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (fail, BuildError),
        (refuse, BuildError),
        (interrupt, KeyboardInterrupt),
        (fill_the_disk, OSError),
    ],
)
def test_a_build_that_fails_leaves_the_export_as_it_was(
    library: Any,
    folder: Path,
    quiet: Progress,
    again: bool,
    harm: Callable[[Any], None],
    error: type[BaseException],
) -> None:
    """Also where it has engines: those of the encoder are not replaced alone."""
    if again:
        add_engines(folder, EngineBuilder(TENSORRT), quiet)
    before = contents(folder)
    harm(library)
    with pytest.raises(error):
        add_engines(folder, EngineBuilder(TENSORRT), quiet, max_prompts=2)
    assert contents(folder) == before
    if again:
        check_engine(folder, Manifest.read(folder), TENSORRT)


def test_what_changes_meanwhile_stays(library: Any, folder: Path, quiet: Progress) -> None:
    def edit(graph: str, step: int) -> None:
        if graph == "decoder.onnx" and step == 0:
            say(folder, name="mine")

    library.during = edit
    with pytest.raises(UserError, match=r"changed while its engines were built; build again$"):
        add_engines(folder, EngineBuilder(TENSORRT), quiet)
    assert Manifest.read(folder).name == "mine"
    assert not (folder / "encoder.engine").exists()


def test_a_folder_that_is_none_is_one_line(library: Any, tmp_path: Path, quiet: Progress) -> None:
    with pytest.raises(UserError, match=r"no folder .*none; expected the output folder of structsam export"):
        add_engines(tmp_path / "none", EngineBuilder(TENSORRT), quiet)


def test_what_a_killed_build_left_goes_with_the_next(library: Any, folder: Path, quiet: Progress) -> None:
    box = folder / ".engines.abcdefgh.partial"
    (box / "new").mkdir(parents=True)
    (box / ".structsam").touch()
    (box / "new" / "encoder.engine").write_bytes(b"half of it")
    assert sorted(names_in(folder)) == ["decoder.onnx", "encoder.onnx", "manifest.json"]
    add_engines(folder, EngineBuilder(TENSORRT), quiet)
    assert sorted(contents(folder)) == sorted([*ENGINES, "decoder.onnx", "encoder.onnx", "manifest.json"])


def test_progress_is_a_line_for_each_engine(
    library: Any, folder: Path, quiet: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    add_engines(folder, EngineBuilder(TENSORRT), quiet)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[:5] for line in err.splitlines()] == [
        ["✓", "build", part, "with", "tensorrt"] for part in ("encoder", "decoder")
    ]


def test_engines_take_as_many_prompts_as_predict_gives(folder: Path) -> None:
    profile = parts_of(folder)["decoder"].profile
    assert {ends[2][0] for ends in profile.values()} == {PROMPTS}
    assert all(math.prod(ends[2]) < 2**31 for ends in profile.values())


def test_building_needs_nothing_of_the_export_side() -> None:
    program = """
        import sys
        from structsam_runtime.cli import build
        heavy = ("torch", "onnx", "onnxruntime", "onnx_graphsurgeon", "polygraphy", "structsam_export")
        print(*(name for name in heavy if name in sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
