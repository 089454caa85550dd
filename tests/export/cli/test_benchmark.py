"""structsam benchmark as a person calls it, on a small SAM: what it tells, not how long anything takes."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from structsam_export import rivals

Ended = tuple[int | str | None, str, str]
Benchmark = Callable[[str], Ended]
RunCommand = Callable[[str, str], Ended]

pytestmark = [pytest.mark.export, pytest.mark.xdist_group("benchmark")]  # one export for all


@pytest.fixture(scope="module")
def desk(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export, twice, of an architecture that other processes know too."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("one", "two"):
        shutil.copytree(exported(arch="vit_nano", image_size=256, random_weights=False), folder / name)
    return folder


@pytest.fixture
def benchmark(desk: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """Runs the command in that folder: exit code, stdout, stderr."""
    monkeypatch.chdir(desk)

    def call(line: str) -> Ended:
        return run_command("benchmark", line)

    return call


def test_one_run_reports_times_memory_and_operators_of_all(benchmark: Benchmark, desk: Path) -> None:
    """Every file runs on every runner once, however often that is named, and PyTorch once."""
    rivals = "--rival meta-fused --rival eager --rival sdpa"  # the documents run `--rival meta`
    runners = "--runner cpu --runner openvino --runner cpu"
    code, out, err = benchmark(f"one two {rivals} {runners} --repeat 2 -o result.json --plot times.png")
    assert code == 0, err
    assert (desk / "result.md").read_text() in out
    result = json.loads((desk / "result.json").read_text())
    files = ["Meta's, exported with fused attention", "one", "two"]
    pytorch = ["Meta's, PyTorch eager", "Meta's, PyTorch with fused attention"]
    ran = [(row["name"], row["runner"]) for row in result["encoders"]]
    on_both = [(name, runner) for name in files for runner in ("cpu", "openvino")]
    assert ran == [*on_both[:2], *((name, "pytorch") for name in pytorch), *on_both[2:]]
    for row in result["encoders"]:
        assert len(row["seconds"]) == 2
        assert row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row["gmac"] > 0
        assert row["peak_device"] is None
        assert row["peak_host"] is None or row["peak_host"] > 1e7
        assert row["name"] in out
    assert result["encoders"][0]["ratio_median"] == 1
    assert list(result["operators"]) == files
    assert "Attention" in result["operators"][files[0]]
    assert all(sum(seconds.values()) > 0 for seconds in result["operators"].values())
    assert [many["runner"] for many in result["decoders"]] == ["cpu", "openvino"]
    machine = result["machine"]
    assert machine["runner"] == "cpu, openvino"
    assert machine["versions"].keys() >= {"numpy", "onnxruntime", "torch"}
    assert machine["library"].startswith("ONNX Runtime ")
    assert ", OpenVINO " in machine["library"]
    assert f"{machine['library']} (cpu, openvino), " in out
    assert "| one | openvino |" in out
    with Image.open(desk / "times.png") as drawn:
        assert drawn.size[0] > 600


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "one earlier.json -o result.json",
            "earlier.json is a result file, and times of different runs are not comparable",
        ),
        ("one one -o result.json", "two of the exports have the same folder name"),
        (
            "one --rival mine -o result.json",
            "--rival mine is unknown; expected one of meta, meta-fused, meta-int8, eager",
        ),
        ("one --rival meta --runner tensorrt -o result.json", "--rival meta is an ONNX file, which tensorrt"),
        ("one --rival sdpa --runner tensorrt -o result.json", "PyTorch finds none: leave it out"),
        ("one --runner openvino --runner npu -o result.json", "runner 'npu' is unknown"),
        ("one --rival meta-int8 -o result.json", "meta-int8 runs in OpenVINO alone; add --runner openvino"),
        ("one -o result.md", "does not end in .json"),
        ("one -o result.json --plot no/times.png", "no/times.png"),
    ],
)
def test_usage_errors_print_one_line(benchmark: Benchmark, line: str, said: str) -> None:
    code, out, err = benchmark(line)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


def test_all_rivals_are_checked_before_the_first_is_written(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "write_plain_export", None)
    monkeypatch.setitem(sys.modules, "nncf", None)
    line = "one --rival meta --rival meta-int8 -o result.json"
    assert "meta-int8 runs in OpenVINO alone" in benchmark(line)[2]
    assert benchmark(f"{line} --runner openvino")[::2] == (
        2,
        "error: --rival meta-int8 needs nncf; pip install nncf\n",
    )


@pytest.mark.parametrize(
    ("option", "module", "package", "extra"),
    [
        ("--rival sdpa", "structsam_export.rivals", "torch", "export,cpu"),
        ("--plot times.png", "structsam_runtime.benchmarking.bars", "matplotlib.figure", "evaluate"),
    ],
)
def test_missing_requirements_are_reported_before_anything_is_timed(
    benchmark: Benchmark,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    module: str,
    package: str,
    extra: str,
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("structsam_runtime.benchmarking.race.interleaved", None)
    told = f'error: structsam benchmark needs {package.split(".")[0]}; pip install "structsam[{extra}]"\n'
    assert benchmark(f"one {option} -o result.json") == (2, "", told)
